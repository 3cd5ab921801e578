//! numeric and money: `numeric_send`, `cash_send`.
//!
//! The wire form is sign, weight, display scale and digits of base 10,000 without leading or trailing zero groups
//! (`numeric.c`). A constrained column always has the display scale of its type, so DECIMAL holds it exactly; NaN,
//! infinities and anything else escape as text. Without a precision, or above 38 digits, the column is STRING.

use std::sync::Arc;

use arrow_array::builder::Decimal128Builder;
use arrow_array::{Array as _, ArrayRef, Decimal128Array};
use arrow_schema::DataType;

use super::text::{strings_builder, strings_values};
use super::{ColumnBuilder, Family, Result, Values, WireError, bad, downcast, exactly};

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const PLUS_INFINITY: u16 = 0xd000;
const MINUS_INFINITY: u16 = 0xf000;
/// The display scale that the server stores with an infinity (`const_pinf`, `const_ninf`).
const INFINITY_SCALE: u16 = 0x0020;

struct Parts<'a> {
    weight: i16,
    sign: u16,
    dscale: u16,
    digits: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(wire: &'a [u8]) -> Result<Self> {
        let Some((head, digits)) = wire.split_at_checked(8) else { return bad("a numeric of less than 8 bytes") };
        let word = |i: usize| u16::from_be_bytes([head[i], head[i + 1]]);
        let parts = Self { weight: word(2).cast_signed(), sign: word(4), dscale: word(6), digits };
        if digits.len() != 2 * usize::from(word(0)) {
            return bad("a numeric whose length does not match its digits");
        }
        match parts.sign {
            POSITIVE | NEGATIVE | NAN | PLUS_INFINITY | MINUS_INFINITY => Ok(parts),
            sign => bad(format!("a numeric with sign word {sign:#x}")),
        }
    }

    fn finite(&self) -> bool {
        matches!(self.sign, POSITIVE | NEGATIVE)
    }

    fn groups(&self) -> impl DoubleEndedIterator<Item = u16> + ExactSizeIterator + '_ {
        self.digits.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }

    /// Returns the value times 10^`scale`, where that is an integer of 128 bits.
    fn scaled(&self, scale: u8) -> Option<i128> {
        let mut exponent = 4 * i32::from(self.weight) + i32::from(scale);
        let mut sum: i128 = 0;
        for group in self.groups() {
            let digit = i128::from(group);
            let term = if exponent >= 0 {
                digit.checked_mul(POW10.get(usize::try_from(exponent).ok()?).copied()?)?
            } else {
                let divisor = *POW10.get(usize::try_from(-exponent).ok()?)?;
                if digit % divisor != 0 {
                    return None;
                }
                digit / divisor
            };
            sum = sum.checked_add(term)?;
            exponent -= 4;
        }
        Some(if self.sign == NEGATIVE { -sum } else { sum })
    }

    fn text(&self) -> String {
        match self.sign {
            NAN => return "NaN".into(),
            PLUS_INFINITY => return "Infinity".into(),
            MINUS_INFINITY => return "-Infinity".into(),
            _ => {}
        }
        let groups: Vec<u16> = self.groups().collect();
        // Group `i` stands for 10000^(weight - i).
        let group =
            |power: i32| usize::try_from(i32::from(self.weight) - power).ok().and_then(|i| groups.get(i)).copied().unwrap_or(0);
        let mut text = String::new();
        if self.sign == NEGATIVE {
            text.push('-');
        }
        if self.weight < 0 || groups.is_empty() {
            text.push('0');
        } else {
            for power in (0..=i32::from(self.weight)).rev() {
                if power == i32::from(self.weight) {
                    text.push_str(&group(power).to_string());
                } else {
                    text.push_str(&format!("{:04}", group(power)));
                }
            }
        }
        if self.dscale > 0 {
            text.push('.');
            let start = text.len();
            let mut power = -1;
            while text.len() - start < usize::from(self.dscale) {
                text.push_str(&format!("{:04}", group(power)));
                power -= 1;
            }
            text.truncate(start + usize::from(self.dscale));
        }
        text
    }
}

const POW10_SMALL: [i64; 15] = {
    let mut table = [1i64; 15];
    let mut i = 1;
    while i < 15 {
        table[i] = table[i - 1] * 10;
        i += 1;
    }
    table
};

const POW10: [i128; 39] = {
    let mut table = [1i128; 39];
    let mut i = 1;
    while i < 39 {
        table[i] = table[i - 1] * 10;
        i += 1;
    }
    table
};

fn put(weight: i16, sign: u16, dscale: u16, groups: &[u16], out: &mut Vec<u8>) -> Result<()> {
    let ndigits = u16::try_from(groups.len()).map_err(|_| WireError("a numeric of too many digits".into()))?;
    for word in [ndigits, weight.cast_unsigned(), sign, dscale] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    for group in groups {
        out.extend_from_slice(&group.to_be_bytes());
    }
    Ok(())
}

/// Strips zero groups at both ends, as the server stores it, and writes the value. The first group of `groups` stands
/// for 10000^`weight`.
fn put_stripped(mut weight: i32, negative: bool, dscale: u16, groups: &[u16], out: &mut Vec<u8>) -> Result<()> {
    let Some(first) = groups.iter().position(|g| *g != 0) else {
        return put(0, POSITIVE, dscale, &[], out);
    };
    let last = groups.iter().rposition(|g| *g != 0).unwrap_or(first);
    weight -= i32::try_from(first).map_err(|_| WireError("a numeric of too many digits".into()))?;
    let weight = i16::try_from(weight).map_err(|_| WireError("a numeric out of range".into()))?;
    put(weight, if negative { NEGATIVE } else { POSITIVE }, dscale, &groups[first..=last], out)
}

/// Writes `value` / 10^`scale` with display scale `scale`.
fn put_decimal(value: i128, scale: u8, out: &mut Vec<u8>) -> Result<()> {
    let magnitude = value.unsigned_abs();
    let fraction_groups = usize::from(scale).div_ceil(4);
    let pad = 4 * fraction_groups - usize::from(scale);
    let Some(aligned) = magnitude.checked_mul(POW10[pad].unsigned_abs()) else {
        return put_text(&decimal_text(value, scale), out);
    };
    let mut groups = [0u16; 12];
    let mut at = groups.len();
    let mut rest = aligned;
    while rest > 0 || at > groups.len() - fraction_groups {
        at -= 1;
        // 64-bit division is several times faster than 128-bit.
        if let Ok(small) = u64::try_from(rest) {
            groups[at] = u16::try_from(small % 10_000).expect("below 10,000");
            rest = u128::from(small / 10_000);
        } else {
            groups[at] = u16::try_from(rest % 10_000).expect("below 10,000");
            rest /= 10_000;
        }
    }
    let digits = &groups[at..];
    let weight = i32::try_from(digits.len()).expect("at most 12") - i32::try_from(fraction_groups).expect("at most 10") - 1;
    put_stripped(weight, value < 0, u16::from(scale), digits, out)
}

fn decimal_text(value: i128, scale: u8) -> String {
    let digits = value.unsigned_abs().to_string();
    let scale = usize::from(scale);
    let sign = if value < 0 { "-" } else { "" };
    if scale == 0 {
        return format!("{sign}{digits}");
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    format!("{sign}{whole}.{fraction}")
}

fn put_text(text: &str, out: &mut Vec<u8>) -> Result<()> {
    match text {
        "NaN" => return put(0, NAN, 0, &[], out),
        "Infinity" => return put(0, PLUS_INFINITY, INFINITY_SCALE, &[], out),
        "-Infinity" => return put(0, MINUS_INFINITY, INFINITY_SCALE, &[], out),
        _ => {}
    }
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|c| c.is_ascii_digit()) {
        return bad(format!("`{text}` is not a numeric"));
    }
    let dscale = u16::try_from(fraction.len()).map_err(|_| WireError(format!("`{text}` is not a numeric")))?;
    let whole_groups = whole.len().div_ceil(4);
    let mut aligned = "0".repeat(4 * whole_groups - whole.len());
    aligned.push_str(whole);
    aligned.push_str(fraction);
    aligned.push_str(&"0".repeat(4 * fraction.len().div_ceil(4) - fraction.len()));
    let groups: Vec<u16> =
        aligned.as_bytes().chunks_exact(4).map(|c| c.iter().fold(0, |n, d| 10 * n + u16::from(d - b'0'))).collect();
    let weight = i32::try_from(whole_groups).map_err(|_| WireError("a numeric out of range".into()))? - 1;
    put_stripped(weight, negative, dscale, &groups, out)
}

/// The common case of [`Decimal::readable`] without 128-bit division: a finite value of at most four groups whose display scale
/// is the column's. `None` says nothing about any other value.
fn small(wire: &[u8], scale: u8, limit: i128) -> Option<i128> {
    let (head, digits) = wire.split_first_chunk::<8>()?;
    let head = u64::from_be_bytes(*head);
    #[expect(clippy::cast_possible_truncation, reason = "four words are taken apart")]
    let (count, weight, sign, dscale) =
        ((head >> 48) as u16, ((head >> 32) as u16).cast_signed(), (head >> 16) as u16, head as u16);
    let mut exponent = 4 * i32::from(weight) + i32::from(scale);
    let known = matches!(sign, POSITIVE | NEGATIVE) && dscale == u16::from(scale);
    // Four groups from 10^14 down stay below 2^63.
    if !known || count > 4 || digits.len() != 2 * usize::from(count) || exponent > 14 {
        return None;
    }
    let mut sum: i64 = 0;
    for pair in digits.chunks_exact(2) {
        let digit = u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        sum += match exponent {
            0.. => i64::from(digit) * POW10_SMALL[usize::try_from(exponent).ok()?],
            -1 if digit % 10 == 0 => i64::from(digit / 10),
            -2 if digit % 100 == 0 => i64::from(digit / 100),
            -3 if digit % 1000 == 0 => i64::from(digit / 1000),
            _ => return None,
        };
        exponent -= 4;
    }
    let value = i128::from(if sign == NEGATIVE { -sum } else { sum });
    (-limit < value && value < limit).then_some(value)
}

/// `numeric(p,s)` of at most 38 digits as DECIMAL.
pub(crate) struct Decimal {
    pub(crate) precision: u8,
    pub(crate) scale: i8,
}

impl Decimal {
    /// Returns the unscaled value, if DECIMAL holds this value with its display scale.
    fn readable(precision: u8, scale: i8, wire: &[u8]) -> Result<Option<i128>> {
        let parts = Parts::read(wire)?;
        let scale = scale.unsigned_abs();
        let exact = parts.finite() && parts.dscale == u16::from(scale);
        let value = exact.then(|| parts.scaled(scale)).flatten();
        let limit = POW10[usize::from(precision.min(38))];
        Ok(value.filter(|v| -limit < *v && *v < limit))
    }
}

impl Family for Decimal {
    fn arrow(&self) -> DataType {
        DataType::Decimal128(self.precision, self.scale)
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Self::readable(self.precision, self.scale, wire).map(|v| v.is_some())
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        let (precision, scale) = (self.precision, self.scale);
        Box::new(DecimalBuilder {
            builder: Decimal128Builder::new().with_data_type(self.arrow()),
            read: move |wire: &[u8]| match small(wire, scale.unsigned_abs(), POW10[usize::from(precision.min(38))]) {
                Some(value) => Ok(Some(value)),
                None => Self::readable(precision, scale, wire),
            },
        })
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        let scale = self.scale.unsigned_abs();
        decimal_values(array, move |value, out| put_decimal(value, scale, out))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        NumericText.to_text(wire)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        put_text(text, out)
    }
}

struct DecimalBuilder<R> {
    builder: Decimal128Builder,
    read: R,
}

impl<R: Fn(&[u8]) -> Result<Option<i128>> + Send> ColumnBuilder for DecimalBuilder<R> {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        match wire.map(&self.read).transpose()? {
            Some(Some(value)) => self.builder.append_value(value),
            Some(None) => {
                self.builder.append_null();
                return Ok(false);
            }
            None => self.builder.append_null(),
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.builder.finish()))
    }
}

struct DecimalValues<W> {
    array: Decimal128Array,
    write: W,
}

impl<W: Fn(i128, &mut Vec<u8>) -> Result<()>> Values for DecimalValues<W> {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        (self.write)(self.array.value(row), out)
    }
}

fn decimal_values(array: &ArrayRef, write: impl Fn(i128, &mut Vec<u8>) -> Result<()> + 'static) -> Result<Box<dyn Values>> {
    Ok(Box::new(DecimalValues { array: downcast(array)?, write }))
}

/// `numeric` without a precision, or of more than 38 digits, as STRING.
pub(crate) struct NumericText;

impl Family for NumericText {
    fn arrow(&self) -> DataType {
        DataType::Utf8
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Parts::read(wire).map(|_| true)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        strings_builder(|wire| Parts::read(wire).map(|p| Some(p.text())))
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        strings_values(array, put_text)
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Parts::read(wire).map(|p| p.text())
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        put_text(text, out)
    }
}

/// `money` as DECIMAL(19,d): the wire carries minor units.
pub(crate) struct Money {
    pub(crate) scale: u8,
}

impl Family for Money {
    fn arrow(&self) -> DataType {
        DataType::Decimal128(19, self.scale.cast_signed())
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        exactly::<8>(wire).map(|_| true)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(DecimalBuilder {
            builder: Decimal128Builder::new().with_data_type(self.arrow()),
            read: |wire: &[u8]| Ok(Some(i128::from(i64::from_be_bytes(exactly(wire)?)))),
        })
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        decimal_values(array, |value, out| {
            let units = i64::try_from(value).map_err(|_| WireError(format!("money {value} is out of range")))?;
            out.extend_from_slice(&units.to_be_bytes());
            Ok(())
        })
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Ok(decimal_text(i128::from(i64::from_be_bytes(exactly(wire)?)), self.scale))
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let fraction = text.split_once('.').map_or(0, |(_, f)| f.len());
        let digits: String = text.chars().filter(|c| *c != '.').collect();
        match digits.parse::<i64>() {
            Ok(units) if fraction == usize::from(self.scale) => out.extend_from_slice(&units.to_be_bytes()),
            _ => return bad(format!("`{text}` is not money with {} decimals", self.scale)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Where the short way gives a value, it is that of the long way.
        #[test]
        fn the_short_way_agrees(value in any::<i64>(), shift in 0u32..60, scale in 0u8..9, other in 0u8..9, precision in 1u8..39) {
            let value = i128::from(value >> shift);
            let mut wire = Vec::new();
            put_decimal(value, scale, &mut wire).unwrap();
            let long = Decimal::readable(precision, other.cast_signed(), &wire).unwrap();
            if let Some(short) = small(&wire, other, POW10[usize::from(precision)]) {
                prop_assert_eq!(Some(short), long);
            }
            if scale == other && value.unsigned_abs() < 10_u128.pow(12) {
                prop_assert_eq!(small(&wire, other, POW10[usize::from(precision)]), long);
            }
        }
    }
}
