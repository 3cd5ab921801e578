//! Bounds of partitions, and the folders of the archive that they belong into.
//!
//! Bounds are read as `pg_get_expr` prints them with the time zone UTC and DateStyle ISO. *Invariant*: a unit lies in one folder whole,
//! or it is refused: whoever reads the folder of a month finds the rows of that month, by the calendar of the job.

use dozo_model::{Timestamp, quote_literal};
use dozo_postgres::KeyKind;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{ToSpan, Unit};

use super::job::Granularity;

/// One end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// An instant.
    Instant(Timestamp),
    /// A time on a clock of nobody knows where.
    Civil(DateTime),
}

impl Edge {
    /// Returns what a calendar says.
    pub(crate) fn civil(self, zone: &TimeZone) -> DateTime {
        match self {
            Self::Instant(instant) => instant.to_zoned(zone.clone()).datetime(),
            Self::Civil(civil) => civil,
        }
    }

    /// Returns the instant by the calendar of a zone.
    pub(crate) fn instant(self, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Instant(instant) => Some(instant),
            Self::Civil(civil) => Some(civil.to_zoned(zone.clone()).ok()?.timestamp()),
        }
    }
}

/// Reads `FOR VALUES FROM ('…') TO ('…')` of a key of one column.
///
/// # Errors
/// Why it is no range with two ends.
pub(crate) fn range(bound: &str, kind: KeyKind) -> Result<(Edge, Edge), String> {
    let unknown = || format!("its bound `{bound}` is not understood");
    if bound == "DEFAULT" {
        return Err("it is the DEFAULT partition, which has no range".into());
    }
    let inner = bound.strip_prefix("FOR VALUES FROM (").and_then(|b| b.strip_suffix(')')).ok_or_else(unknown)?;
    let (from, to) = inner.split_once(") TO (").ok_or_else(unknown)?;
    Ok((edge(from, "MINVALUE", kind)?, edge(to, "MAXVALUE", kind)?))
}

fn edge(text: &str, open: &str, kind: KeyKind) -> Result<Edge, String> {
    let text = text.trim();
    if ["MINVALUE", "MAXVALUE"].contains(&text) {
        return Err(format!("its bound has no end ({open})"));
    }
    let value = text.trim_matches('\'');
    if value.contains("infinity") {
        return Err(format!("its bound is {value}"));
    }
    let unknown = |e: jiff::Error| format!("its bound {text} is not understood: {e}");
    match kind {
        KeyKind::Date => {
            let day: jiff::civil::Date = value.parse().map_err(unknown)?;
            Ok(Edge::Civil(day.to_datetime(jiff::civil::Time::midnight())))
        }
        KeyKind::Timestamp => Ok(Edge::Civil(value.parse().map_err(unknown)?)),
        KeyKind::Timestamptz => Ok(Edge::Instant(value.parse().map_err(unknown)?)),
    }
}

/// Returns the name of the folder of a moment.
pub(crate) fn name(at: DateTime, granularity: Granularity) -> String {
    match granularity {
        Granularity::Year => format!("{:04}", at.year()),
        Granularity::Month => format!("{:04}-{:02}", at.year(), at.month()),
        Granularity::Day => format!("{:04}-{:02}-{:02}", at.year(), at.month(), at.day()),
        Granularity::Week => {
            let week = at.date().iso_week_date();
            format!("{:04}-W{:02}", week.year(), week.week())
        }
    }
}

/// Returns the one folder that a range lies in.
///
/// # Errors
/// Why there is none.
pub(crate) fn label((from, to): (Edge, Edge), granularity: Granularity, zone: &TimeZone) -> Result<String, String> {
    let (first, end) = (from.civil(zone), to.civil(zone));
    let last = end.checked_sub(1.nanosecond()).map_err(|e| e.to_string())?;
    let (a, b) = (name(first, granularity), name(last, granularity));
    if a == b {
        return Ok(a);
    }
    let zone = zone.iana_name().unwrap_or("UTC");
    Err(format!(
        "it straddles two folders, {a} and {b}, by the calendar of {zone}: set time-zone to that of the bounds, or granularity"
    ))
}

/// The width of a range, as partitions are usually cut.
pub(crate) fn width((from, to): (Edge, Edge), zone: &TimeZone) -> Option<Granularity> {
    let (from, to) = (from.civil(zone), to.civil(zone));
    let is = |span: jiff::Span| from.checked_add(span).is_ok_and(|end| end == to);
    let whole_days = from.round(Unit::Day).is_ok_and(|day| day == from);
    match () {
        () if is(1.month()) => Some(Granularity::Month),
        () if is(1.week()) => Some(Granularity::Week),
        () if whole_days && is(1.day()) => Some(Granularity::Day),
        () if is(1.year()) => Some(Granularity::Year),
        () => None,
    }
}

/// Writes a value as Postgres reads it, whatever the session's settings are.
fn literal(edge: Edge) -> String {
    let text = match edge {
        Edge::Instant(instant) => instant.strftime("%Y-%m-%d %H:%M:%S%.f+00").to_string(),
        Edge::Civil(civil) => civil.strftime("%Y-%m-%d %H:%M:%S%.f").to_string(),
    };
    quote_literal(&text)
}

/// Writes a range as a bound.
pub(crate) fn bound_sql((from, to): (Edge, Edge)) -> String {
    format!("FOR VALUES FROM ({}) TO ({})", literal(from), literal(to))
}

/// Writes a range as a condition on a column, quoted already.
pub(crate) fn filter_sql(column: &str, (from, to): (Edge, Edge)) -> String {
    format!("{column} >= {} AND {column} < {}", literal(from), literal(to))
}

/// Returns the end of the range of that width that begins at a moment.
pub(crate) fn next(at: DateTime, width: Granularity) -> Option<DateTime> {
    let span = match width {
        Granularity::Month => 1.month(),
        Granularity::Week => 1.week(),
        Granularity::Day => 1.day(),
        Granularity::Year => 1.year(),
    };
    at.checked_add(span).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn utc(from: &str, to: &str) -> (Edge, Edge) {
        range(&format!("FOR VALUES FROM ('{from}') TO ('{to}')"), KeyKind::Timestamptz).unwrap()
    }

    #[test]
    fn bounds_are_read_and_open_ones_refused() {
        assert!(range("DEFAULT", KeyKind::Date).unwrap_err().contains("DEFAULT"));
        assert!(range("FOR VALUES FROM ('2025-01-01') TO (MAXVALUE)", KeyKind::Date).unwrap_err().contains("MAXVALUE"));
        assert!(range("FOR VALUES FROM (MINVALUE) TO ('2025-01-01')", KeyKind::Date).unwrap_err().contains("MINVALUE"));
        assert!(range("FOR VALUES FROM ('-infinity') TO ('2025-01-01')", KeyKind::Date).unwrap_err().contains("infinity"));
        assert!(range("FOR VALUES IN ('x')", KeyKind::Date).is_err());
        assert!(range("FOR VALUES FROM ('0044-03-15 BC') TO ('0001-01-01')", KeyKind::Date).is_err());
        let range = range("FOR VALUES FROM ('2023-01-01 00:00:00') TO ('2023-02-01 00:00:00')", KeyKind::Timestamp).unwrap();
        assert_eq!(label(range, Granularity::Month, &TimeZone::UTC).unwrap(), "2023-01");
    }

    #[test]
    fn folders_follow_the_calendar_of_the_job() {
        let japan = utc("2022-12-31 15:00:00+00", "2023-01-31 15:00:00+00");
        assert_eq!(label(japan, Granularity::Month, &zone("Asia/Tokyo")).unwrap(), "2023-01");
        assert!(label(japan, Granularity::Month, &TimeZone::UTC).unwrap_err().contains("2022-12 and 2023-01"));
        let week = utc("2020-12-28 00:00:00+00", "2021-01-04 00:00:00+00");
        assert_eq!(label(week, Granularity::Week, &TimeZone::UTC).unwrap(), "2020-W53");
        assert!(label(week, Granularity::Month, &TimeZone::UTC).is_err());
        let day = utc("2023-01-31 00:00:00+00", "2023-02-01 00:00:00+00");
        assert_eq!(label(day, Granularity::Month, &TimeZone::UTC).unwrap(), "2023-01");
        assert_eq!(label(day, Granularity::Day, &TimeZone::UTC).unwrap(), "2023-01-31");
    }

    #[test]
    fn bounds_are_written_as_they_were_read() {
        let text = "FOR VALUES FROM ('2023-01-01 00:00:00+00') TO ('2023-02-01 12:30:00.5+00')";
        assert_eq!(bound_sql(range(text, KeyKind::Timestamptz).unwrap()), text);
        let day = range("FOR VALUES FROM ('2023-01-01') TO ('2023-02-01')", KeyKind::Date).unwrap();
        assert_eq!(filter_sql("d", day), "d >= '2023-01-01 00:00:00' AND d < '2023-02-01 00:00:00'");
    }

    #[test]
    fn widths_are_recognized() {
        let utc_zone = TimeZone::UTC;
        assert_eq!(width(utc("2024-02-01 00:00:00+00", "2024-03-01 00:00:00+00"), &utc_zone), Some(Granularity::Month));
        assert_eq!(width(utc("2024-01-01 00:00:00+00", "2025-01-01 00:00:00+00"), &utc_zone), Some(Granularity::Year));
        assert_eq!(width(utc("2024-01-01 00:00:00+00", "2024-01-08 00:00:00+00"), &utc_zone), Some(Granularity::Week));
        assert_eq!(width(utc("2024-01-01 00:00:00+00", "2024-01-02 00:00:00+00"), &utc_zone), Some(Granularity::Day));
        assert_eq!(width(utc("2024-01-01 00:00:00+00", "2024-01-03 00:00:00+00"), &utc_zone), None);
        // By the calendar of Japan these are months, also over the end of a shorter one.
        let japan = utc("2023-01-31 15:00:00+00", "2023-02-28 15:00:00+00");
        assert_eq!(width(japan, &zone("Asia/Tokyo")), Some(Granularity::Month));
        assert_eq!(next("2024-01-31T00:00".parse().unwrap(), Granularity::Day).unwrap(), "2024-02-01T00:00".parse().unwrap());
    }
}
