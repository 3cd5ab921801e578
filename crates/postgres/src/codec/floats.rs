//! real and double precision: `float4send`, `float8send`. Bits are kept: -0, and the payload of a NaN.

use std::sync::Arc;

use arrow_array::builder::PrimitiveBuilder;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array as _, ArrayRef, PrimitiveArray};
use arrow_schema::DataType;

use super::{ColumnBuilder, Family, Result, Values, WireError, downcast, exactly};

/// Writes the shortest digits that read back as the same number where `float8out` puts them (`d2s.c`): with an exponent below
/// -4 and from `fixed` on.
fn server_text(scientific: &str, fixed: i32) -> String {
    let (sign, rest) = scientific.strip_prefix('-').map_or(("", scientific), |rest| ("-", rest));
    let (mantissa, exponent) = rest.split_once('e').unwrap_or((rest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..fixed).contains(&exponent) {
        let (mark, size) = if exponent < 0 { ('-', -exponent) } else { ('+', exponent) };
        return format!("{sign}{mantissa}e{mark}{size:02}");
    }
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let Ok(point) = usize::try_from(exponent + 1) else {
        return format!("{sign}0.{}{digits}", "0".repeat(usize::try_from(-exponent - 1).unwrap_or(0)));
    };
    if point == 0 {
        format!("{sign}0.{digits}")
    } else if digits.len() <= point {
        format!("{sign}{digits:0<point$}")
    } else {
        format!("{sign}{}.{}", &digits[..point], &digits[point..])
    }
}

/// Writes a `real` as the server does.
pub(crate) fn float4_text(value: f32) -> String {
    match value {
        v if v.is_nan() => "NaN".into(),
        f32::INFINITY => "Infinity".into(),
        f32::NEG_INFINITY => "-Infinity".into(),
        v => server_text(&format!("{v:e}"), 6),
    }
}

/// Writes a `double precision` as the server does.
pub(crate) fn float8_text(value: f64) -> String {
    match value {
        v if v.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        v => server_text(&format!("{v:e}"), 15),
    }
}

macro_rules! float {
    ($(#[$doc:meta])* $name:ident, $arrow:ty, $data_type:ident, $float:ty, $width:literal, $text:ident) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl Family for $name {
            fn arrow(&self) -> DataType {
                DataType::$data_type
            }

            fn fits(&self, wire: &[u8]) -> Result<bool> {
                exactly::<$width>(wire).map(|_| true)
            }

            fn builder(&self) -> Box<dyn ColumnBuilder> {
                struct Builder(PrimitiveBuilder<$arrow>);
                impl ColumnBuilder for Builder {
                    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
                        match wire {
                            Some(wire) => self.0.append_value(<$float>::from_be_bytes(exactly(wire)?)),
                            None => self.0.append_null(),
                        }
                        Ok(true)
                    }

                    fn finish(&mut self) -> Result<ArrayRef> {
                        Ok(Arc::new(self.0.finish()))
                    }
                }
                Box::new(Builder(PrimitiveBuilder::new()))
            }

            fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
                struct Column(PrimitiveArray<$arrow>);
                impl Values for Column {
                    fn is_null(&self, row: usize) -> bool {
                        self.0.is_null(row)
                    }

                    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
                        out.extend_from_slice(&self.0.value(row).to_be_bytes());
                        Ok(())
                    }
                }
                Ok(Box::new(Column(downcast(array)?)))
            }

            /// A NaN with a payload does not read back: the caller's check finds that.
            fn to_text(&self, wire: &[u8]) -> Result<String> {
                Ok($text(<$float>::from_be_bytes(exactly(wire)?)))
            }

            fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
                let value: $float = text.parse().map_err(|_| WireError(format!("`{text}` is not a number")))?;
                out.extend_from_slice(&value.to_be_bytes());
                Ok(())
            }
        }
    };
}

float!(/// `real` as FLOAT.
    Float4, Float32Type, Float32, f32, 4, float4_text);
float!(/// `double precision` as DOUBLE.
    Float8, Float64Type, Float64, f64, 8, float8_text);

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts taken from a server.
    #[test]
    fn as_the_server_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (0.1, "0.1"),
            (123.456, "123.456"),
            (-1e-4, "-0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (100_000_000_000_000.0, "100000000000000"),
            (1e15, "1e+15"),
            (1e22, "1e+22"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
        ] {
            assert_eq!(float8_text(value), text);
        }
        for (value, text) in [(123_456.0, "123456"), (1_234_567.0, "1.234567e+06"), (0.1, "0.1"), (1e-45, "1e-45")] {
            assert_eq!(float4_text(value), text);
        }
    }
}
