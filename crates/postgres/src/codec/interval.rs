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
            (micros, days, months) => format!("{months} mons {days} days {micros} microseconds"),
        })
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let value = match text {
            "infinity" => PLUS_INFINITY,
            "-infinity" => MINUS_INFINITY,
            _ => match text.split(' ').collect::<Vec<_>>()[..] {
                [months, "mons", days, "days", micros, "microseconds"] => {
                    let bad = |_| WireError(format!("`{text}` is not an interval"));
                    (micros.parse().map_err(bad)?, days.parse().map_err(bad)?, months.parse().map_err(bad)?)
                }
                _ => return bad(format!("`{text}` is not an interval")),
            },
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
