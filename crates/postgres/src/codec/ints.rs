//! boolean, smallint, integer, bigint, oid: `boolsend`, `int2send`, `int4send`, `int8send`, `oidsend`.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, PrimitiveBuilder};
use arrow_array::types::{Int16Type, Int32Type, Int64Type};
use arrow_array::{Array as _, ArrayRef, BooleanArray, PrimitiveArray};
use arrow_schema::DataType;

use super::{ColumnBuilder, Family, Result, Values, WireError, bad, downcast, exactly};

macro_rules! integer {
    ($(#[$doc:meta])* $name:ident, $arrow:ty, $data_type:ident, $wire:ty, $width:literal) => {
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
                            Some(wire) => self.0.append_value(<$wire>::from_be_bytes(exactly(wire)?).into()),
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
                        let value = <$wire>::try_from(self.0.value(row))
                            .map_err(|_| WireError(format!("{} is out of range", self.0.value(row))))?;
                        out.extend_from_slice(&value.to_be_bytes());
                        Ok(())
                    }
                }
                Ok(Box::new(Column(downcast(array)?)))
            }

            fn to_text(&self, wire: &[u8]) -> Result<String> {
                Ok(<$wire>::from_be_bytes(exactly(wire)?).to_string())
            }

            fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
                let value: $wire = text.parse().map_err(|_| WireError(format!("`{text}` is not an integer")))?;
                out.extend_from_slice(&value.to_be_bytes());
                Ok(())
            }
        }
    };
}

integer!(/// `smallint` as INT32 (INT16).
    Int2, Int16Type, Int16, i16, 2);
integer!(/// `integer` as INT32.
    Int4, Int32Type, Int32, i32, 4);
integer!(/// `bigint` as INT64.
    Int8, Int64Type, Int64, i64, 8);
integer!(/// `oid` as INT64: no engine is asked to read an unsigned type.
    Oid, Int64Type, Int64, u32, 4);

/// `boolean` as BOOLEAN.
pub(crate) struct Bool;

impl Family for Bool {
    fn arrow(&self) -> DataType {
        DataType::Boolean
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        exactly::<1>(wire).map(|_| true)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(BooleanBuilder::new())
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        Ok(Box::new(downcast::<BooleanArray>(array)?))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Ok(if exactly::<1>(wire)? == [0] { "f" } else { "t" }.to_owned())
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        match text {
            "t" => out.push(1),
            "f" => out.push(0),
            _ => return bad(format!("`{text}` is not a boolean")),
        }
        Ok(())
    }
}

impl ColumnBuilder for BooleanBuilder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        match wire {
            Some(wire) => self.append_value(exactly::<1>(wire)? != [0]),
            None => self.append_null(),
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(Self::finish(self)))
    }
}

impl Values for BooleanArray {
    fn is_null(&self, row: usize) -> bool {
        arrow_array::Array::is_null(self, row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        out.push(u8::from(self.value(row)));
        Ok(())
    }
}
