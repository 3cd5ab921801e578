//! interval: `interval_send`, as STRUCT of months, days and microseconds. Parquet's own INTERVAL has milliseconds.
//!
//! Since version 17 all fields at their maximum or minimum mean an infinity; these escape.

use std::sync::Arc;

use arrow_array::builder::{Int32Builder, Int64Builder};
use arrow_array::{Array as _, ArrayRef, Int32Array, Int64Array, StructArray};
use arrow_buffer::NullBufferBuilder;
use arrow_schema::{DataType, Field, Fields};

use super::{ColumnBuilder, Family, Result, Values, WireError, bad, downcast, exactly};

/// `interval`.
pub(crate) struct Interval;

fn fields() -> Fields {
    Fields::from(vec![
        Field::new("months", DataType::Int32, true),
        Field::new("days", DataType::Int32, true),
        Field::new("micros", DataType::Int64, true),
    ])
}

fn parts(wire: &[u8]) -> Result<(i64, i32, i32)> {
    let bytes = exactly::<16>(wire)?;
    let (micros, rest) = bytes.split_at(8);
    let (days, months) = rest.split_at(4);
    Ok((i64::from_be_bytes(exactly(micros)?), i32::from_be_bytes(exactly(days)?), i32::from_be_bytes(exactly(months)?)))
}

const PLUS_INFINITY: (i64, i32, i32) = (i64::MAX, i32::MAX, i32::MAX);
const MINUS_INFINITY: (i64, i32, i32) = (i64::MIN, i32::MIN, i32::MIN);

/// Writes an interval as `EncodeInterval` does in the style `postgres`: `1 year 2 mons -3 days +04:05:06.7`.
fn server_text((micros, days, months): (i64, i32, i32)) -> String {
    let (mut words, mut before): (Vec<String>, bool) = (Vec::new(), false);
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value != 0 {
            let plus = if before && value > 0 { "+" } else { "" };
            words.push(format!("{plus}{value} {unit}{}", if value == 1 { "" } else { "s" }));
            before = value < 0;
        }
    }
    if micros != 0 || words.is_empty() {
        let sign = match micros < 0 {
            true => "-",
            false if before => "+",
            false => "",
        };
        let size = micros.unsigned_abs();
        let (seconds, fraction) = (size / 1_000_000, size % 1_000_000);
        let mut time = format!("{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        if fraction != 0 {
            time.push_str(format!(".{fraction:06}").trim_end_matches('0'));
        }
        words.push(time);
    }
    words.join(" ")
}

/// Reads what [`server_text`] wrote, and a number of microseconds.
fn parse(text: &str) -> Option<(i64, i32, i32)> {
    let (mut micros, mut days, mut months) = (0i64, 0i32, 0i32);
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        if word.contains(':') {
            let (negative, clock) = match word.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, word.strip_prefix('+').unwrap_or(word)),
            };
            let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
            let parts: Vec<i128> = clock.split(':').map(|p| p.parse().ok()).collect::<Option<_>>()?;
            let [h, m, s] = parts[..] else { return None };
            let fraction: i128 = if fraction.is_empty() { 0 } else { format!("{fraction:0<6}").parse().ok()? };
            let size = ((h * 60 + m) * 60 + s) * 1_000_000 + fraction;
            micros = micros.checked_add(i64::try_from(if negative { -size } else { size }).ok()?)?;
            continue;
        }
        match words.next()? {
            "year" | "years" => months = months.checked_add(word.parse::<i32>().ok()?.checked_mul(12)?)?,
            "mon" | "mons" => months = months.checked_add(word.parse().ok()?)?,
            "day" | "days" => days = days.checked_add(word.parse().ok()?)?,
            "microseconds" => micros = micros.checked_add(word.parse().ok()?)?,
            _ => return None,
        }
    }
    Some((micros, days, months))
}

fn put((micros, days, months): (i64, i32, i32), out: &mut Vec<u8>) {
    out.extend_from_slice(&micros.to_be_bytes());
    out.extend_from_slice(&days.to_be_bytes());
    out.extend_from_slice(&months.to_be_bytes());
}

impl Family for Interval {
    fn arrow(&self) -> DataType {
        DataType::Struct(fields())
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        parts(wire).map(|p| p != PLUS_INFINITY && p != MINUS_INFINITY)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(Builder {
            months: Int32Builder::new(),
            days: Int32Builder::new(),
            micros: Int64Builder::new(),
            nulls: NullBufferBuilder::new(0),
        })
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        let array: StructArray = downcast(array)?;
        if array.num_columns() != 3 {
            return bad("an interval column without its three fields");
        }
        Ok(Box::new(Column {
            months: downcast(array.column(0))?,
            days: downcast(array.column(1))?,
            micros: downcast(array.column(2))?,
            array,
        }))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Ok(match parts(wire)? {
            PLUS_INFINITY => "infinity".into(),
            MINUS_INFINITY => "-infinity".into(),
            value => server_text(value),
        })
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let value = match text {
            "infinity" => PLUS_INFINITY,
            "-infinity" => MINUS_INFINITY,
            _ => parse(text).ok_or_else(|| WireError(format!("`{text}` is not an interval")))?,
        };
        put(value, out);
        Ok(())
    }
}

struct Builder {
    months: Int32Builder,
    days: Int32Builder,
    micros: Int64Builder,
    nulls: NullBufferBuilder,
}

impl ColumnBuilder for Builder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        let value = wire.map(parts).transpose()?;
        let fits = value.filter(|v| *v != PLUS_INFINITY && *v != MINUS_INFINITY);
        let (micros, days, months) = fits.unwrap_or_default();
        self.months.append_value(months);
        self.days.append_value(days);
        self.micros.append_value(micros);
        self.nulls.append(fits.is_some());
        Ok(fits.is_some() == value.is_some())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let columns: Vec<ArrayRef> =
            vec![Arc::new(self.months.finish()), Arc::new(self.days.finish()), Arc::new(self.micros.finish())];
        Ok(Arc::new(StructArray::new(fields(), columns, self.nulls.finish())))
    }
}

struct Column {
    array: StructArray,
    months: Int32Array,
    days: Int32Array,
    micros: Int64Array,
}

impl Values for Column {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        put((self.micros.value(row), self.days.value(row), self.months.value(row)), out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts taken from a server.
    #[test]
    fn as_the_server_writes_them() {
        for (value, text) in [
            ((0, 0, 0), "00:00:00"),
            ((14_706_700_000, -3, 14), "1 year 2 mons -3 days +04:05:06.7"),
            ((-3_000_001, 2, -1), "-1 mons +2 days -00:00:03.000001"),
            ((0, 1, 0), "1 day"),
            ((i64::MIN, 0, 0), "-2562047788:00:54.775808"),
            ((0, 0, 2_136_000_000), "178000000 years"),
            ((5, 0, -13), "-1 years -1 mons +00:00:00.000005"),
        ] {
            assert_eq!(server_text(value), text);
            assert_eq!(parse(text), Some(value), "{text}");
        }
        assert_eq!(parse("1 mons -2 days 3500001 microseconds"), Some((3_500_001, -2, 1)));
        for bad in ["", "1", "1 fortnight", "1:2", "x days"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
