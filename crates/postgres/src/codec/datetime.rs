//! date, time, timetz, timestamp, timestamptz: `date_send`, `time_send`, `timetz_send`, `timestamp_send`.
//!
//! Dates and timestamps move by a constant, in integers: no zone, no calendar. Infinities and timestamps beyond
//! 294247-01-10 (which do not fit microseconds since 1970) escape. Times are STRING in the `lake` profile, because
//! `24:00:00` is no Parquet TIME and several engines read none.

use std::sync::Arc;

use arrow_array::builder::{Date32Builder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder};
use arrow_array::{ArrayRef, Date32Array, Time64MicrosecondArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, TimeUnit};

use super::calendar::{
    DAY_MICROS, EPOCH_DAYS, EPOCH_MICROS, date_text, parse_date, parse_time, parse_timestamp, time_text, timestamp_text,
};
use super::text::{strings_builder, strings_values};
use super::{ColumnBuilder, Family, Result, Values, WireError, bad, downcast, exactly};

/// `date` as DATE.
pub(crate) struct Date;

impl Date {
    fn readable(wire: &[u8]) -> Result<Option<i32>> {
        Ok(match i32::from_be_bytes(exactly(wire)?) {
            i32::MAX | i32::MIN => None,
            days => days.checked_add(EPOCH_DAYS),
        })
    }
}

impl Family for Date {
    fn arrow(&self) -> DataType {
        DataType::Date32
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Self::readable(wire).map(|v| v.is_some())
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(Date32Builder::new())
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        Ok(Box::new(downcast::<Date32Array>(array)?))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Ok(match i32::from_be_bytes(exactly(wire)?) {
            i32::MAX => "infinity".into(),
            i32::MIN => "-infinity".into(),
            days => date_text(i64::from(days) + i64::from(EPOCH_DAYS)),
        })
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let days = match text {
            "infinity" => i32::MAX,
            "-infinity" => i32::MIN,
            _ => i32::try_from(parse_date(text)? - i64::from(EPOCH_DAYS))
                .map_err(|_| WireError(format!("`{text}` is out of range")))?,
        };
        out.extend_from_slice(&days.to_be_bytes());
        Ok(())
    }
}

impl ColumnBuilder for Date32Builder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        let Some(wire) = wire else {
            self.append_null();
            return Ok(true);
        };
        let value = Date::readable(wire)?;
        self.append_option(value);
        Ok(value.is_some())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(Self::finish(self)))
    }
}

impl Values for Date32Array {
    fn is_null(&self, row: usize) -> bool {
        arrow_array::Array::is_null(self, row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let days = self.value(row).checked_sub(EPOCH_DAYS);
        let days = days.ok_or_else(|| WireError(format!("day {} is out of range", self.value(row))))?;
        out.extend_from_slice(&days.to_be_bytes());
        Ok(())
    }
}

/// `timestamp` and `timestamptz` as TIMESTAMP(MICROS).
pub(crate) struct Timestamp {
    pub(crate) utc: bool,
}

impl Timestamp {
    fn readable(wire: &[u8]) -> Result<Option<i64>> {
        Ok(match i64::from_be_bytes(exactly(wire)?) {
            i64::MAX | i64::MIN => None,
            // The greatest integer is infinity to some engines.
            micros => micros.checked_add(EPOCH_MICROS).filter(|unix| *unix != i64::MAX),
        })
    }
}

impl Family for Timestamp {
    fn arrow(&self) -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, self.utc.then(|| "UTC".into()))
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Self::readable(wire).map(|v| v.is_some())
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(TimestampMicrosecondBuilder::new().with_data_type(self.arrow()))
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        Ok(Box::new(downcast::<TimestampMicrosecondArray>(array)?))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Ok(match i64::from_be_bytes(exactly(wire)?) {
            i64::MAX => "infinity".into(),
            i64::MIN => "-infinity".into(),
            micros => timestamp_text(micros, self.utc),
        })
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let micros = match text {
            "infinity" => i64::MAX,
            "-infinity" => i64::MIN,
            _ => parse_timestamp(text, self.utc)?,
        };
        out.extend_from_slice(&micros.to_be_bytes());
        Ok(())
    }
}

impl ColumnBuilder for TimestampMicrosecondBuilder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        let Some(wire) = wire else {
            self.append_null();
            return Ok(true);
        };
        let value = Timestamp::readable(wire)?;
        self.append_option(value);
        Ok(value.is_some())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(Self::finish(self)))
    }
}

impl Values for TimestampMicrosecondArray {
    fn is_null(&self, row: usize) -> bool {
        arrow_array::Array::is_null(self, row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let micros = self.value(row).checked_sub(EPOCH_MICROS);
        let micros = micros.ok_or_else(|| WireError(format!("timestamp {} is out of range", self.value(row))))?;
        out.extend_from_slice(&micros.to_be_bytes());
        Ok(())
    }
}

/// `time` as STRING.
pub(crate) struct Time;

impl Family for Time {
    fn arrow(&self) -> DataType {
        DataType::Utf8
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        self.to_text(wire).map(|_| true)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        strings_builder(|wire| Self.to_text(wire).map(Some))
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        strings_values(array, |text, out| Self.parse_text(text, out))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Ok(time_text(i64::from_be_bytes(exactly(wire)?)))
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&parse_time(text)?.to_be_bytes());
        Ok(())
    }
}

/// `time` with the logical type TIME; `24:00:00`, which that type does not have, escapes.
pub(crate) struct NativeTime;

impl NativeTime {
    fn readable(wire: &[u8]) -> Result<Option<i64>> {
        let micros = i64::from_be_bytes(exactly(wire)?);
        Ok((0..DAY_MICROS).contains(&micros).then_some(micros))
    }
}

impl Family for NativeTime {
    fn arrow(&self) -> DataType {
        DataType::Time64(TimeUnit::Microsecond)
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Self::readable(wire).map(|v| v.is_some())
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(Time64MicrosecondBuilder::new())
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        Ok(Box::new(downcast::<Time64MicrosecondArray>(array)?))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Time.to_text(wire)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        Time.parse_text(text, out)
    }
}

impl ColumnBuilder for Time64MicrosecondBuilder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        let Some(wire) = wire else {
            self.append_null();
            return Ok(true);
        };
        let value = NativeTime::readable(wire)?;
        self.append_option(value);
        Ok(value.is_some())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(Self::finish(self)))
    }
}

impl Values for Time64MicrosecondArray {
    fn is_null(&self, row: usize) -> bool {
        arrow_array::Array::is_null(self, row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.value(row).to_be_bytes());
        Ok(())
    }
}

/// `timetz` as STRING with its own offset. The wire counts seconds *west* of UTC.
pub(crate) struct Timetz;

impl Family for Timetz {
    fn arrow(&self) -> DataType {
        DataType::Utf8
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        exactly::<12>(wire).map(|_| true)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        strings_builder(|wire| Self.to_text(wire).map(Some))
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        strings_values(array, |text, out| Self.parse_text(text, out))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        let bytes = exactly::<12>(wire)?;
        let (micros, west) = bytes.split_at(8);
        let west = i32::from_be_bytes(exactly(west)?);
        let (sign, offset) = (if west > 0 { '-' } else { '+' }, west.unsigned_abs());
        let mut text = time_text(i64::from_be_bytes(exactly(micros)?));
        text.push_str(&format!("{sign}{:02}", offset / 3600));
        if offset % 3600 != 0 {
            text.push_str(&format!(":{:02}", offset / 60 % 60));
        }
        if offset % 60 != 0 {
            text.push_str(&format!(":{:02}", offset % 60));
        }
        Ok(text)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let Some(at) = text.find(['+', '-']) else { return bad(format!("`{text}` is not a timetz")) };
        let (time, zone) = text.split_at(at);
        let mut offset = 0;
        for (part, unit) in zone[1..].split(':').zip([3600, 60, 1]) {
            let n: i32 = part.parse().map_err(|_| WireError(format!("`{text}` is not a timetz")))?;
            offset += n * unit;
        }
        let west = if zone.starts_with('-') { offset } else { -offset };
        out.extend_from_slice(&parse_time(time)?.to_be_bytes());
        out.extend_from_slice(&west.to_be_bytes());
        Ok(())
    }
}
