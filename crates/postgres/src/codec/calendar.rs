//! Days and microseconds to ISO text and back, over the whole range of Postgres' types.
//!
//! Date libraries stop at year 9999; Postgres goes from 4713 BC to 5874897 AD. The day arithmetic is Howard Hinnant's
//! `civil_from_days` and `days_from_civil` (<https://howardhinnant.github.io/date_algorithms.html>), in 64 bits.

use super::{Result, WireError};
use dozo_model::civil;

/// Days from 1970-01-01 to 2000-01-01, Postgres' epoch.
pub(crate) const EPOCH_DAYS: i32 = 10_957;
/// Microseconds from 1970-01-01 to 2000-01-01.
pub(crate) const EPOCH_MICROS: i64 = 946_684_800_000_000;
pub(crate) const DAY_MICROS: i64 = 86_400_000_000;

fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = year - i64::from(month <= 2);
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// Writes a day (from 1970-01-01) as `YYYY-MM-DD`, and whether it is BC.
fn date_parts(day: i64) -> (String, bool) {
    let (year, month, day) = civil(day);
    let (shown, bc) = if year > 0 { (year, false) } else { (1 - year, true) };
    (format!("{shown:04}-{month:02}-{day:02}"), bc)
}

/// Writes a day counted from 1970-01-01 as Postgres does.
pub(crate) fn date_text(day: i64) -> String {
    let (text, bc) = date_parts(day);
    if bc { text + " BC" } else { text }
}

/// Reads what [`date_text`] wrote.
pub(crate) fn parse_date(text: &str) -> Result<i64> {
    let (date, bc) = text.strip_suffix(" BC").map_or((text, false), |d| (d, true));
    parse_parts(date, bc).ok_or_else(|| WireError(format!("`{text}` is not a date")))
}

fn parse_parts(date: &str, bc: bool) -> Option<i64> {
    let mut parts = date.split('-');
    let year: i64 = parts.next()?.parse().ok()?;
    let month: i64 = parts.next()?.parse().ok()?;
    let day: i64 = parts.next()?.parse().ok()?;
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1 {
        return None;
    }
    Some(days(if bc { 1 - year } else { year }, month, day))
}

/// Writes a time of day as `HH:MM:SS[.ffffff]` without trailing zeros; `24:00:00` is legal.
pub(crate) fn time_text(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction != 0 {
        text.push_str(format!(".{fraction:06}").trim_end_matches('0'));
    }
    text
}

/// Reads what [`time_text`] wrote.
pub(crate) fn parse_time(text: &str) -> Result<i64> {
    fn parse(text: &str) -> Option<i64> {
        let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
        let mut parts = clock.split(':').map(|p| (p.len() == 2).then(|| p.parse::<i64>().ok()).flatten());
        let (h, m, s) = (parts.next()??, parts.next()??, parts.next()??);
        if parts.next().is_some() || fraction.len() > 6 || !(0..=59).contains(&m) || !(0..=60).contains(&s) {
            return None;
        }
        let micros: i64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<6}").parse().ok()? };
        Some(((h * 60 + m) * 60 + s) * 1_000_000 + micros)
    }
    parse(text).ok_or_else(|| WireError(format!("`{text}` is not a time")))
}

/// Writes microseconds since 2000-01-01 as `YYYY-MM-DD HH:MM:SS[.ffffff][+00][ BC]`.
pub(crate) fn timestamp_text(micros: i64, utc: bool) -> String {
    let day = micros.div_euclid(DAY_MICROS) + i64::from(EPOCH_DAYS);
    let (date, bc) = date_parts(day);
    let zone = if utc { "+00" } else { "" };
    format!("{date} {}{zone}{}", time_text(micros.rem_euclid(DAY_MICROS)), if bc { " BC" } else { "" })
}

/// Reads what [`timestamp_text`] wrote.
pub(crate) fn parse_timestamp(text: &str, utc: bool) -> Result<i64> {
    let parse = || {
        let (rest, bc) = text.strip_suffix(" BC").map_or((text, false), |r| (r, true));
        let rest = if utc { rest.strip_suffix("+00")? } else { rest };
        let (date, time) = rest.split_once(' ')?;
        let day = parse_parts(date, bc)? - i64::from(EPOCH_DAYS);
        day.checked_mul(DAY_MICROS)?.checked_add(parse_time(time).ok()?)
    };
    parse().ok_or_else(|| WireError(format!("`{text}` is not a timestamp")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_range_round_trips() {
        for (day, text) in [
            (0, "1970-01-01"),
            (-719_162, "0001-01-01"),
            (-719_163, "0001-12-31 BC"),
            (2_145_042_905, "5874897-12-31"),
            (-2_440_588 + 10_957 - 10_957, "4714-11-24 BC"),
            (19_782, "2024-02-29"),
        ] {
            assert_eq!(date_text(day), text);
            assert_eq!(parse_date(text), Ok(day));
        }
        for bad in ["", "2024", "2024-13-01", "0000-01-01", "2024-01-01 AD", "x-1-1"] {
            assert!(parse_date(bad).is_err(), "{bad}");
        }
        assert_eq!(time_text(86_400_000_000), "24:00:00");
        assert_eq!(time_text(1), "00:00:00.000001");
        assert_eq!(parse_time("12:34:56.5"), Ok(45_296_500_000));
        assert!(parse_time("1:2:3").is_err());
        assert_eq!(timestamp_text(-1, true), "1999-12-31 23:59:59.999999+00");
        assert_eq!(parse_timestamp("294276-12-31 23:59:59.999999", false), Ok(9_223_371_331_199_999_999));
    }
}
