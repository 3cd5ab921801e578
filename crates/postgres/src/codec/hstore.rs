//! `hstore` as MAP of strings: it travels as `hstore_out` text, `"key"=>"value", "key"=>NULL`.

use std::sync::Arc;

use arrow_array::builder::{MapBuilder, MapFieldNames, StringBuilder};
use arrow_array::{Array as _, ArrayRef, MapArray, StringArray};
use arrow_schema::DataType;

use super::{ColumnBuilder, Family, Result, Values, downcast, elements_of, push_quoted, text_wire, utf8};

/// `hstore`.
pub(crate) struct Hstore;

type Pairs = Vec<(String, Option<String>)>;

fn write_literal<'a>(pairs: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let mut text = String::new();
    for (i, (key, value)) in pairs.enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        push_quoted(key, &mut text);
        text.push_str("=>");
        match value {
            Some(value) => push_quoted(value, &mut text),
            None => text.push_str("NULL"),
        }
    }
    text
}

/// Takes a quoted string off the front.
fn quoted(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = inner.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &inner[at + 1..])),
            (_, '\\') => value.push(chars.next()?.1),
            (_, c) => value.push(c),
        }
    }
}

fn parse_literal(text: &str) -> Option<Pairs> {
    let mut pairs = Pairs::new();
    let mut rest = text;
    while !rest.is_empty() {
        if !pairs.is_empty() {
            rest = rest.strip_prefix(", ")?;
        }
        let (key, tail) = quoted(rest)?;
        let tail = tail.strip_prefix("=>")?;
        let (value, tail) = match tail.strip_prefix("NULL") {
            Some(tail) => (None, tail),
            None => quoted(tail).map(|(value, tail)| (Some(value), tail))?,
        };
        pairs.push((key, value));
        rest = tail;
    }
    Some(pairs)
}

/// Returns the pairs, if they write the same text again.
fn read(wire: &[u8]) -> Result<Option<Pairs>> {
    let text = utf8(wire)?;
    Ok(parse_literal(text).filter(|pairs| write_literal(pairs.iter().map(|(k, v)| (k.as_str(), v.as_deref()))) == text))
}

fn builder() -> MapBuilder<StringBuilder, StringBuilder> {
    // The names of the Parquet specification.
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new())
}

impl Family for Hstore {
    fn arrow(&self) -> DataType {
        let mut empty = builder();
        arrow_array::builder::ArrayBuilder::finish(&mut empty).data_type().clone()
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Ok(read(wire)?.is_some())
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(Builder(builder()))
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        let array: MapArray = downcast(array)?;
        let (keys, values) = (downcast(array.keys())?, downcast(array.values())?);
        Ok(Box::new(Column { array, keys, values }))
    }

    text_wire!();
}

struct Builder(MapBuilder<StringBuilder, StringBuilder>);

impl ColumnBuilder for Builder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        let read = match wire {
            Some(wire) => read(wire)?,
            None => None,
        };
        let there = read.is_some();
        for (key, value) in read.into_iter().flatten() {
            self.0.keys().append_value(key);
            self.0.values().append_option(value);
        }
        self.0.append(there).map_err(|e| super::WireError(e.to_string()))?;
        Ok(there || wire.is_none())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.0.finish()))
    }
}

struct Column {
    array: MapArray,
    keys: StringArray,
    values: StringArray,
}

impl Values for Column {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let pairs = elements_of(self.array.value_offsets(), row)?;
        let value = |i: usize| (!arrow_array::Array::is_null(&self.values, i)).then(|| self.values.value(i));
        out.extend_from_slice(write_literal(pairs.map(|i| (self.keys.value(i), value(i)))).as_bytes());
        Ok(())
    }
}
