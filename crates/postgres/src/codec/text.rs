//! text, varchar, bpchar (blanks kept), name, "char", json (to the letter), jsonb, citext, enums, and whatever travels as text.
//!
//! `textsend`, `bpcharsend`, `namesend`, `charsend`, `json_send`, `jsonb_send` (a version byte in front), `enum_send`.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, StringArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::DataType;

use super::{ColumnBuilder, Family, Result, Values, WireError, bad, downcast, exactly, text_wire, utf8};

/// Text as it is.
pub(crate) struct Text;

impl Family for Text {
    fn arrow(&self) -> DataType {
        DataType::Utf8
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        utf8(wire).map(|_| true)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(TextBuilder { bytes: Vec::new(), ends: vec![0], nulls: NullBufferBuilder::new(0) })
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        Ok(Box::new(downcast::<StringArray>(array)?))
    }

    text_wire!();
}

/// Collects texts; whether they are UTF-8 is looked at once for the whole column.
struct TextBuilder {
    bytes: Vec<u8>,
    ends: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl ColumnBuilder for TextBuilder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        match wire {
            Some(wire) => {
                self.bytes.extend_from_slice(wire);
                self.nulls.append_non_null();
            }
            None => self.nulls.append_null(),
        }
        self.ends.push(i32::try_from(self.bytes.len()).map_err(|_| WireError("more than 2 GB of text in a block".into()))?);
        Ok(true)
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let ends = std::mem::replace(&mut self.ends, vec![0]);
        let capacity = self.bytes.len();
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
        let array = StringArray::try_new(offsets, bytes.into(), self.nulls.finish());
        Ok(Arc::new(array.map_err(|e| WireError(format!("text that is not UTF-8: {e}")))?))
    }
}

impl Values for StringArray {
    fn is_null(&self, row: usize) -> bool {
        arrow_array::Array::is_null(self, row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(self.value(row).as_bytes());
        Ok(())
    }
}

/// A STRING column whose wire form is not its text.
pub(crate) struct Strings<W> {
    array: StringArray,
    write: W,
}

impl<W: Fn(&str, &mut Vec<u8>) -> Result<()>> Values for Strings<W> {
    fn is_null(&self, row: usize) -> bool {
        arrow_array::Array::is_null(&self.array, row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        (self.write)(self.array.value(row), out)
    }
}

struct StringsBuilder<R> {
    builder: StringBuilder,
    read: R,
}

impl<R: Fn(&[u8]) -> Result<Option<String>> + Send> ColumnBuilder for StringsBuilder<R> {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        match wire.map(&self.read).transpose()? {
            Some(Some(text)) => self.builder.append_value(text),
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

/// Collects a STRING column; `read` returns `None` for a value that does not fit.
pub(crate) fn strings_builder(read: impl Fn(&[u8]) -> Result<Option<String>> + Send + 'static) -> Box<dyn ColumnBuilder> {
    Box::new(StringsBuilder { builder: StringBuilder::new(), read })
}

/// Reads a STRING column.
pub(crate) fn strings_values(
    array: &ArrayRef,
    write: impl Fn(&str, &mut Vec<u8>) -> Result<()> + 'static,
) -> Result<Box<dyn Values>> {
    Ok(Box::new(Strings { array: downcast(array)?, write }))
}

/// `jsonb`: its text, which the server writes with keys in order.
pub(crate) struct Jsonb;

impl Jsonb {
    fn text(wire: &[u8]) -> Result<&str> {
        match wire.split_first() {
            Some((1, text)) => utf8(text),
            _ => bad("jsonb of a version other than 1"),
        }
    }

    fn write(text: &str, out: &mut Vec<u8>) {
        out.push(1);
        out.extend_from_slice(text.as_bytes());
    }
}

impl Family for Jsonb {
    fn arrow(&self) -> DataType {
        DataType::Utf8
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Self::text(wire).map(|_| true)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        struct Builder(StringBuilder);
        impl ColumnBuilder for Builder {
            fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
                match wire {
                    Some(wire) => self.0.append_value(Jsonb::text(wire)?),
                    None => self.0.append_null(),
                }
                Ok(true)
            }

            fn finish(&mut self) -> Result<ArrayRef> {
                Ok(Arc::new(self.0.finish()))
            }
        }
        Box::new(Builder(StringBuilder::new()))
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        strings_values(array, |text, out| {
            Self::write(text, out);
            Ok(())
        })
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Self::text(wire).map(str::to_owned)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        Self::write(text, out);
        Ok(())
    }
}

/// `"char"`: one byte. ASCII is readable (the zero byte as the empty string), other bytes escape as `\ooo`, the form
/// that `charin` reads since version 16.
pub(crate) struct Char;

impl Char {
    fn readable(wire: &[u8]) -> Result<Option<String>> {
        Ok(match exactly::<1>(wire)?[0] {
            0 => Some(String::new()),
            c @ 1..=127 => Some(char::from(c).to_string()),
            _ => None,
        })
    }
}

impl Family for Char {
    fn arrow(&self) -> DataType {
        DataType::Utf8
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Self::readable(wire).map(|v| v.is_some())
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        strings_builder(Self::readable)
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        strings_values(array, |text, out| Self.parse_text(text, out))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Ok(Self::readable(wire)?.unwrap_or_else(|| format!("\\{:03o}", wire[0])))
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let byte = match text.as_bytes() {
            [] => 0,
            [c] => *c,
            [b'\\', octal @ ..] if octal.len() == 3 => {
                u8::from_str_radix(&text[1..], 8).map_err(|_| WireError(format!("`{text}` is not a \"char\"")))?
            }
            _ => return bad(format!("`{text}` is not a \"char\"")),
        };
        out.push(byte);
        Ok(())
    }
}
