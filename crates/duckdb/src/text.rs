//! The text of values, as DuckDB casts them to VARCHAR, made from Arrow arrays: the common types of wide tables cost DuckDB's cast more
//! than everything else about them.
//!
//! Tests compare each with DuckDB's own cast. Source of the forms: `src/common/types/{cast_helpers,date,timestamp}.cpp`.

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BooleanArray, PrimitiveArray, StringArray};
use arrow_schema::{DataType, TimeUnit};
use dozo_model::{Algorithm, Fingerprint, RowDigester, civil};

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
    fn frame(&self, row: usize, out: &mut Frames) {
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
            out.null();
            return;
        }
        match self {
            Self::Bool(a) => out.text(if a.value(row) { b"true" } else { b"false" }),
            Self::Int8(a) => out.short(|s| s.integer(i64::from(a.value(row)))),
            Self::Int16(a) => out.short(|s| s.integer(i64::from(a.value(row)))),
            Self::Int32(a) => out.short(|s| s.integer(i64::from(a.value(row)))),
            Self::Int64(a) => out.short(|s| s.integer(a.value(row))),
            Self::Decimal(a, width, scale) => match u64::try_from(a.value(row).unsigned_abs()) {
                Ok(magnitude) if *scale < 20 => out.short(|s| s.decimal(a.value(row) < 0, magnitude, *width, *scale)),
                _ => out.text(wide_decimal(a.value(row), *width, *scale).as_bytes()),
            },
            Self::Date(a) => out.date(a.value(row)),
            Self::Timestamp(a, zone) => out.short(|s| s.timestamp(a.value(row), *zone)),
            Self::Text(a) => out.text(a.value(row).as_bytes()),
        }
    }
}

/// Framed values, one after the other. The buffer is longer than what is in it, so that short texts are copied at a fixed size.
#[derive(Debug)]
struct Frames {
    bytes: Vec<u8>,
    at: usize,
    short: Short,
    /// Dates that were written before, by the lowest bits of their day: columns hold few, many times.
    dates: Vec<(i32, [u8; DATE])>,
}

/// Bytes of a date of the years 1 to 9999.
const DATE: usize = 10;
/// How many dates are remembered, a power of two.
const DATES: usize = 4096;

impl Default for Frames {
    fn default() -> Self {
        // A day that is not in those years.
        Self { bytes: Vec::new(), at: 0, short: Short::new(), dates: vec![(i32::MIN, [0; DATE]); DATES] }
    }
}

impl Frames {
    fn room(&mut self, bytes: usize) {
        if self.at + bytes > self.bytes.len() {
            self.bytes.resize((self.at + bytes).max(2 * self.bytes.len()).max(1 << 16), 0);
        }
    }

    fn null(&mut self) {
        self.room(4);
        self.bytes[self.at..self.at + 4].copy_from_slice(&NULL);
        self.at += 4;
    }

    fn length(&mut self, length: usize) {
        // A value of 4 GiB does not fit into an array of texts.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.bytes[self.at..self.at + 4].copy_from_slice(&length.to_be_bytes());
        self.at += 4;
    }

    fn text(&mut self, text: &[u8]) {
        self.room(4 + text.len());
        self.length(text.len());
        self.bytes[self.at..self.at + text.len()].copy_from_slice(text);
        self.at += text.len();
    }

    fn short(&mut self, write: impl FnOnce(&mut Short)) {
        self.short.from = Short::ROOM;
        write(&mut self.short);
        self.room(4 + Short::ROOM);
        let length = Short::ROOM - self.short.from;
        self.length(length);
        // What stands behind the text is covered by the next value.
        if length <= Short::ROOM / 2 {
            self.bytes[self.at..self.at + Short::ROOM / 2].copy_from_slice(self.short.chunk::<{ Short::ROOM / 2 }>());
        } else {
            self.bytes[self.at..self.at + Short::ROOM].copy_from_slice(self.short.chunk::<{ Short::ROOM }>());
        }
        self.at += length;
    }

    fn date(&mut self, days: i32) {
        let slot = days.unsigned_abs() as usize % DATES;
        if self.dates[slot].0 != days {
            self.short.from = Short::ROOM;
            self.short.add_date(i64::from(days));
            let length = Short::ROOM - self.short.from;
            if length != DATE {
                self.short(|s| s.add_date(i64::from(days)));
                return;
            }
            self.dates[slot] = (days, *self.short.chunk());
        }
        self.room(4 + DATE);
        self.length(DATE);
        self.bytes[self.at..self.at + DATE].copy_from_slice(&self.dates[slot].1);
        self.at += DATE;
    }
}

/// A short text, written from its end to its beginning.
#[derive(Debug)]
struct Short {
    buffer: [u8; 2 * Short::ROOM],
    /// Where it begins; it ends at `ROOM`.
    from: usize,
}

impl Short {
    /// The longest: `290309-12-22 (BC) 00:00:00.123456+00`, or a decimal of 19 digits.
    const ROOM: usize = 48;

    fn new() -> Self {
        Self { buffer: [0; 2 * Self::ROOM], from: Self::ROOM }
    }

    /// Returns the bytes from its beginning on.
    fn chunk<const N: usize>(&self) -> &[u8; N] {
        self.buffer[self.from..].first_chunk().unwrap_or(&[0; N])
    }

    fn byte(&mut self, byte: u8) {
        self.from -= 1;
        self.buffer[self.from] = byte;
    }

    fn pair(&mut self, value: u64) {
        let pair = usize::try_from(value % 100).unwrap_or(0) * 2;
        self.from -= 2;
        self.buffer[self.from] = DIGITS[pair];
        self.buffer[self.from + 1] = DIGITS[pair + 1];
    }

    fn bytes(&mut self, text: &[u8]) {
        text.iter().rev().for_each(|b| self.byte(*b));
    }

    /// Writes decimal digits.
    fn digits(&mut self, mut value: u64) {
        while value >= 100 {
            self.pair(value);
            value /= 100;
        }
        if value >= 10 {
            self.pair(value);
        } else {
            self.byte(b'0' + u8::try_from(value).unwrap_or(0));
        }
    }

    /// Writes so many digits, with zeros in front.
    fn padded(&mut self, mut value: u64, mut width: usize) {
        while width >= 2 {
            self.pair(value);
            value /= 100;
            width -= 2;
        }
        if width == 1 {
            self.byte(b'0' + u8::try_from(value % 10).unwrap_or(0));
        }
    }

    fn integer(&mut self, value: i64) {
        self.digits(value.unsigned_abs());
        if value < 0 {
            self.byte(b'-');
        }
    }

    /// A decimal of up to 64 bits; where all its digits stand behind the point, nothing stands before it.
    fn decimal(&mut self, negative: bool, magnitude: u64, width: u8, scale: u8) {
        let whole = match scale {
            0 => magnitude,
            2 => {
                self.pair(magnitude);
                self.byte(b'.');
                magnitude / 100
            }
            _ => {
                let unit = 10u64.pow(u32::from(scale));
                self.padded(magnitude % unit, usize::from(scale));
                self.byte(b'.');
                magnitude / unit
            }
        };
        if width > scale {
            self.digits(whole);
        }
        if negative {
            self.byte(b'-');
        }
    }

    /// Writes a date: days since 1970-01-01.
    fn add_date(&mut self, days: i64) {
        let (year, month, day) = civil(days);
        let shown = if year > 0 { year } else { 1 - year }.unsigned_abs();
        if year <= 0 {
            self.bytes(b" (BC)");
        }
        self.pair(day.unsigned_abs());
        self.byte(b'-');
        self.pair(month.unsigned_abs());
        self.byte(b'-');
        if shown < 10_000 { self.padded(shown, 4) } else { self.digits(shown) }
    }

    /// Microseconds since 1970-01-01; zeros at the end of the fraction are left out.
    fn timestamp(&mut self, micros: i64, zone: bool) {
        const DAY: i64 = 86_400_000_000;
        if zone {
            self.bytes(b"+00");
        }
        let time = micros.rem_euclid(DAY).unsigned_abs();
        let (seconds, mut fraction) = (time / 1_000_000, time % 1_000_000);
        if fraction > 0 {
            let mut width = 6;
            while fraction % 10 == 0 {
                fraction /= 10;
                width -= 1;
            }
            self.padded(fraction, width);
            self.byte(b'.');
        }
        self.pair(seconds % 60);
        self.byte(b':');
        self.pair(seconds / 60 % 60);
        self.byte(b':');
        self.pair(seconds / 3600);
        self.byte(b' ');
        self.add_date(micros.div_euclid(DAY));
    }
}

/// A decimal of more than 64 bits.
fn wide_decimal(value: i128, width: u8, scale: u8) -> String {
    let digits = value.unsigned_abs().to_string();
    let scale = usize::from(scale);
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(scale));
    let sign = if value < 0 { "-" } else { "" };
    let zero = if whole.is_empty() && usize::from(width) > scale { "0" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{zero}{whole}.{fraction:0>scale$}") }
}

/// Digests rows.
#[derive(Debug)]
pub(crate) struct TextDigester {
    digester: RowDigester,
    frames: Frames,
    ends: Vec<usize>,
}

/// Rows that are framed and digested at a time: their bytes stay in the cache.
const ROWS: usize = 512;

impl Default for TextDigester {
    fn default() -> Self {
        Self { digester: RowDigester::new(Algorithm::T1), frames: Frames::default(), ends: Vec::new() }
    }
}

impl TextDigester {
    /// Adds rows, given by their columns; returns their bytes.
    pub(crate) fn add(&mut self, columns: &[Texts<'_>], rows: usize) -> u64 {
        let mut total = 0;
        for from in (0..rows).step_by(ROWS) {
            self.frames.at = 0;
            self.ends.clear();
            for row in from..rows.min(from + ROWS) {
                columns.iter().for_each(|c| c.frame(row, &mut self.frames));
                self.ends.push(self.frames.at);
            }
            let mut start = 0;
            let slice = |end: &usize| {
                let slice = &self.frames.bytes[start..*end];
                start = *end;
                slice
            };
            let slices: Vec<&[u8]> = self.ends.iter().map(slice).collect();
            self.digester.add(&slices);
            total += self.frames.at as u64;
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
