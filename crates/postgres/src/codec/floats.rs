//! real and double precision: `float4send`, `float8send`. Bits are kept: -0, and the payload of a NaN.

use std::sync::Arc;

use arrow_array::builder::PrimitiveBuilder;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array as _, ArrayRef, PrimitiveArray};
use arrow_schema::DataType;

use super::{ColumnBuilder, Family, Result, Values, WireError, downcast, exactly};

macro_rules! float {
    ($(#[$doc:meta])* $name:ident, $arrow:ty, $data_type:ident, $float:ty, $width:literal) => {
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

            /// Shortest text that reads back as the same number. A NaN with a payload does not: the caller's check
            /// finds that.
            fn to_text(&self, wire: &[u8]) -> Result<String> {
                let value = <$float>::from_be_bytes(exactly(wire)?);
                Ok(match value {
                    v if v.is_nan() => "NaN".into(),
                    <$float>::INFINITY => "Infinity".into(),
                    <$float>::NEG_INFINITY => "-Infinity".into(),
                    v => format!("{v:e}"),
                })
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
    Float4, Float32Type, Float32, f32, 4);
float!(/// `double precision` as DOUBLE.
    Float8, Float64Type, Float64, f64, 8);
