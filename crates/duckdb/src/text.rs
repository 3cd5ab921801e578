//! The text of values, as DuckDB casts them to VARCHAR, made from Arrow arrays: the common types of wide tables cost DuckDB's cast more
//! than everything else about them.
//!
//! Tests compare each with DuckDB's own cast. Source of the forms: `src/common/types/{cast_helpers,date,timestamp}.cpp`.

use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BooleanArray, PrimitiveArray, StringArray};
use arrow_schema::{DataType, TimeUnit};
use dozo_model::{Fingerprint, RowDigester};

/// A NULL in the framing of a row.
const NULL: [u8; 4] = [0xff; 4];

/// An array whose values have a text.
pub(crate) enum Texts<'a> {
    Bool(&'a BooleanArray),
    Int8(&'a PrimitiveArray<Int8Type>),
    Int16(&'a PrimitiveArray<Int16Type>),
    Int32(&'a PrimitiveArray<Int32Type>),
    Int64(&'a PrimitiveArray<Int64Type>),
    /// With width and scale.
    Decimal(&'a PrimitiveArray<Decimal128Type>, u8, u8),
    Date(&'a PrimitiveArray<Date32Type>),
    Timestamp(&'a PrimitiveArray<TimestampMicrosecondType>, bool),
    Text(&'a StringArray),
}

impl<'a> Texts<'a> {
    /// Takes an array of a type that has a form here.
    pub(crate) fn of(array: &'a ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Boolean => Self::Bool(array.as_boolean()),
            DataType::Int8 => Self::Int8(array.as_primitive()),
            DataType::Int16 => Self::Int16(array.as_primitive()),
            DataType::Int32 => Self::Int32(array.as_primitive()),
            DataType::Int64 => Self::Int64(array.as_primitive()),
            DataType::Decimal128(width, scale) => Self::Decimal(array.as_primitive(), *width, u8::try_from(*scale).ok()?),
            DataType::Date32 => Self::Date(array.as_primitive()),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => Self::Timestamp(array.as_primitive(), zone.is_some()),
            DataType::Utf8 => Self::Text(array.as_string()),
            _ => return None,
        })
    }

    /// Appends a value in the framing of a row.
    fn frame(&self, row: usize, out: &mut Vec<u8>) {
        let null = match self {
            Self::Bool(a) => a.is_null(row),
            Self::Int8(a) => a.is_null(row),
            Self::Int16(a) => a.is_null(row),
            Self::Int32(a) => a.is_null(row),
            Self::Int64(a) => a.is_null(row),
            Self::Decimal(a, ..) => a.is_null(row),
            Self::Date(a) => a.is_null(row),
            Self::Timestamp(a, _) => a.is_null(row),
            Self::Text(a) => a.is_null(row),
        };
        if null {
            out.extend_from_slice(&NULL);
            return;
        }
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        match self {
            Self::Bool(a) => out.extend_from_slice(if a.value(row) { b"true" } else { b"false" }),
            Self::Int8(a) => integer(i64::from(a.value(row)), out),
            Self::Int16(a) => integer(i64::from(a.value(row)), out),
            Self::Int32(a) => integer(i64::from(a.value(row)), out),
            Self::Int64(a) => integer(a.value(row), out),
            Self::Decimal(a, width, scale) => decimal(a.value(row), *width, *scale, out),
            Self::Date(a) => {
                if let Some(before) = date(i64::from(a.value(row)), out) {
                    out.extend_from_slice(before);
                }
            }
            Self::Timestamp(a, zone) => {
                timestamp(a.value(row), out);
                if *zone {
                    out.extend_from_slice(b"+00");
                }
            }
            Self::Text(a) => out.extend_from_slice(a.value(row).as_bytes()),
        }
        // A value of 4 GiB does not fit into an array of texts.
        let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Digests rows.
#[derive(Debug, Default)]
pub(crate) struct TextDigester {
    digester: RowDigester,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// Rows that are framed and digested at a time: their bytes stay in the cache.
const ROWS: usize = 512;

impl TextDigester {
    /// Adds rows, given by their columns; returns their bytes.
    pub(crate) fn add(&mut self, columns: &[Texts<'_>], rows: usize) -> u64 {
        let mut total = 0;
        for from in (0..rows).step_by(ROWS) {
            self.bytes.clear();
            self.ends.clear();
            for row in from..rows.min(from + ROWS) {
                columns.iter().for_each(|c| c.frame(row, &mut self.bytes));
                self.ends.push(self.bytes.len());
            }
            let mut start = 0;
            let slices: Vec<&[u8]> = self
                .ends
                .iter()
                .map(|end| {
                    let slice = &self.bytes[start..*end];
                    start = *end;
                    slice
                })
                .collect();
            self.digester.add(&slices);
            total += self.bytes.len() as u64;
        }
        total
    }

    /// Returns the sums and begins anew.
    pub(crate) fn take(&mut self) -> Fingerprint {
        self.digester.take()
    }
}

const DIGITS: &[u8; 200] =
    b"0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849\
5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

/// Appends decimal digits.
fn digits(mut value: u64, out: &mut Vec<u8>) {
    let mut buffer = [0; 20];
    let mut at = buffer.len();
    while value >= 100 {
        let pair = usize::try_from(value % 100).unwrap_or(0) * 2;
        value /= 100;
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&DIGITS[pair..pair + 2]);
    }
    if value >= 10 {
        let pair = usize::try_from(value).unwrap_or(0) * 2;
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&DIGITS[pair..pair + 2]);
    } else {
        at -= 1;
        buffer[at] = b'0' + u8::try_from(value).unwrap_or(0);
    }
    out.extend_from_slice(&buffer[at..]);
}

fn integer(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    digits(value.unsigned_abs(), out);
}

/// Appends a decimal; where all digits stand behind the point, nothing stands before it.
fn decimal(value: i128, width: u8, scale: u8, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let magnitude = value.unsigned_abs();
    let whole_digits = width > scale;
    if let (Ok(small), true) = (u64::try_from(magnitude), scale <= 19) {
        let unit = 10u64.pow(u32::from(scale.min(19)));
        if whole_digits {
            digits(small / unit, out);
        }
        if scale > 0 {
            out.push(b'.');
            padded(small % unit, usize::from(scale), out);
        }
        return;
    }
    let text = magnitude.to_string();
    let scale = usize::from(scale);
    let whole = text.len().saturating_sub(scale);
    if whole > 0 {
        out.extend_from_slice(&text.as_bytes()[..whole]);
    } else if whole_digits {
        out.push(b'0');
    }
    if scale > 0 {
        out.push(b'.');
        out.resize(out.len() + scale.saturating_sub(text.len()), b'0');
        out.extend_from_slice(&text.as_bytes()[whole..]);
    }
}

/// Appends digits with leading zeros.
fn padded(value: u64, width: usize, out: &mut Vec<u8>) {
    let at = out.len();
    digits(value, out);
    let missing = width.saturating_sub(out.len() - at);
    if missing > 0 {
        out.splice(at..at, std::iter::repeat_n(b'0', missing));
    }
}

/// Appends a date; returns what follows it for years before 1. Days since 1970-01-01; proleptic Gregorian (H. Hinnant,
/// `civil_from_days`).
fn date(days: i64, out: &mut Vec<u8>) -> Option<&'static [u8]> {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (shown, before) = if year > 0 { (year, None) } else { (1 - year, Some(&b" (BC)"[..])) };
    padded(shown.unsigned_abs(), 4, out);
    out.push(b'-');
    padded(month.unsigned_abs(), 2, out);
    out.push(b'-');
    padded(day.unsigned_abs(), 2, out);
    before
}

/// Appends a timestamp; microseconds since 1970-01-01.
fn timestamp(micros: i64, out: &mut Vec<u8>) {
    const DAY: i64 = 86_400_000_000;
    if let Some(before) = date(micros.div_euclid(DAY), out) {
        out.extend_from_slice(before);
    }
    let time = micros.rem_euclid(DAY);
    let (seconds, fraction) = (time / 1_000_000, time % 1_000_000);
    // Writing to a Vec cannot fail.
    let _ = write!(out, " {:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction > 0 {
        let _ = write!(out, ".{fraction:06}");
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}
