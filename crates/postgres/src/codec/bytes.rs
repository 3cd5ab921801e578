//! bytea, uuid, and texts of a database without an encoding: `byteasend`, `uuid_send`, `textsend`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, FixedSizeBinaryBuilder};
use arrow_array::{ArrayRef, BinaryArray, FixedSizeBinaryArray};
use arrow_schema::{DataType, Field};

use super::text::{strings_builder, strings_values};
use super::{ColumnBuilder, Family, Result, Values, WireError, bad, downcast, exactly, text_wire};

const HEX: &[u8; 16] = b"0123456789abcdef";

pub(crate) fn push_hex(bytes: &[u8], out: &mut String) {
    for b in bytes {
        out.push(char::from(HEX[usize::from(b >> 4)]));
        out.push(char::from(HEX[usize::from(b & 15)]));
    }
}

pub(crate) fn nibble(c: u8) -> Result<u8> {
    match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        b'A'..=b'F' => Ok(c - b'A' + 10),
        _ => Err(WireError(format!("`{}` is not a hex digit", char::from(c)))),
    }
}

/// `bytea` as BINARY.
pub(crate) struct Bytea;

impl Family for Bytea {
    fn arrow(&self) -> DataType {
        DataType::Binary
    }

    fn fits(&self, _: &[u8]) -> Result<bool> {
        Ok(true)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(BinaryBuilder::new())
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        Ok(Box::new(downcast::<BinaryArray>(array)?))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        let mut text = String::with_capacity(2 + 2 * wire.len());
        text.push_str("\\x");
        push_hex(wire, &mut text);
        Ok(text)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let Some(hex) = text.strip_prefix("\\x") else { return bad(format!("`{text}` is not a bytea")) };
        let pairs = hex.as_bytes().chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return bad("a bytea of half a byte");
        }
        for pair in pairs {
            out.push(nibble(pair[0])? << 4 | nibble(pair[1])?);
        }
        Ok(())
    }
}

impl ColumnBuilder for BinaryBuilder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        match wire {
            Some(wire) => self.append_value(wire),
            None => self.append_null(),
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(Self::finish(self)))
    }
}

impl Values for BinaryArray {
    fn is_null(&self, row: usize) -> bool {
        arrow_array::Array::is_null(self, row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(self.value(row));
        Ok(())
    }
}

/// `uuid` as STRING of 36 characters.
pub(crate) struct Uuid;

impl Uuid {
    fn text(wire: &[u8]) -> Result<String> {
        let bytes = exactly::<16>(wire)?;
        let mut text = String::with_capacity(36);
        for (i, run) in [0..4, 4..6, 6..8, 8..10, 10..16].into_iter().enumerate() {
            if i > 0 {
                text.push('-');
            }
            push_hex(&bytes[run], &mut text);
        }
        Ok(text)
    }

    fn parse(text: &str, out: &mut Vec<u8>) -> Result<()> {
        let raw = text.as_bytes();
        if raw.len() != 36 {
            return bad(format!("`{text}` is not a uuid"));
        }
        let mut at = 0;
        while at < 36 {
            if matches!(at, 8 | 13 | 18 | 23) {
                if raw[at] != b'-' {
                    return bad(format!("`{text}` is not a uuid"));
                }
                at += 1;
            }
            out.push(nibble(raw[at])? << 4 | nibble(raw[at + 1])?);
            at += 2;
        }
        Ok(())
    }
}

impl Family for Uuid {
    fn arrow(&self) -> DataType {
        DataType::Utf8
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        exactly::<16>(wire).map(|_| true)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        strings_builder(|wire| Self::text(wire).map(Some))
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        strings_values(array, Self::parse)
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Self::text(wire)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        Self::parse(text, out)
    }
}

/// `uuid` with the logical type UUID.
pub(crate) struct NativeUuid;

impl Family for NativeUuid {
    fn arrow(&self) -> DataType {
        DataType::FixedSizeBinary(16)
    }

    fn field(&self, name: &str) -> Field {
        let metadata = HashMap::from([("ARROW:extension:name".to_owned(), "arrow.uuid".to_owned())]);
        Field::new(name, self.arrow(), true).with_metadata(metadata)
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        exactly::<16>(wire).map(|_| true)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(FixedSizeBinaryBuilder::new(16))
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        Ok(Box::new(downcast::<FixedSizeBinaryArray>(array)?))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        Uuid::text(wire)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        Uuid::parse(text, out)
    }
}

impl ColumnBuilder for FixedSizeBinaryBuilder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        match wire {
            Some(wire) => self.append_value(wire).map_err(|e| WireError(e.to_string()))?,
            None => self.append_null(),
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(Self::finish(self)))
    }
}

impl Values for FixedSizeBinaryArray {
    fn is_null(&self, row: usize) -> bool {
        arrow_array::Array::is_null(self, row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(self.value(row));
        Ok(())
    }
}

/// A text whose bytes need not be UTF-8, as BINARY.
pub(crate) struct Raw;

impl Family for Raw {
    fn arrow(&self) -> DataType {
        DataType::Binary
    }

    fn fits(&self, _: &[u8]) -> Result<bool> {
        Ok(true)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Bytea.builder()
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        Bytea.values(array)
    }

    text_wire!();
}
