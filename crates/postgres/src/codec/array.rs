//! Arrays as LIST: `array_send`, and `array_out` for elements whose OID differs between databases.
//!
//! One dimension that starts at 1 is readable, also with NULL elements and empty; everything else (several
//! dimensions, other lower bounds, an element that its own type cannot hold) escapes as an array literal.

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, ListArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer};
use arrow_schema::{DataType, FieldRef};

use super::{
    ColumnBuilder, Family, Result, Values, WireError, bad, downcast, elements_of, push_quoted, text_of, text_wire, utf8,
    wire_of_text,
};

/// `MAXDIM` of `array.h`.
const MAX_DIMENSIONS: usize = 6;

fn list_field(element: &dyn Family) -> FieldRef {
    Arc::new(element.field("element"))
}

/// An array value taken apart: lengths and lower bounds per dimension, elements row by row.
struct Elements<T> {
    bounds: Vec<(i32, i32)>,
    values: Vec<Option<T>>,
}

impl<T> Elements<T> {
    fn readable(&self) -> bool {
        match self.bounds.as_slice() {
            [] => true,
            [(_, lower)] => *lower == 1,
            _ => false,
        }
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.0.split_at_checked(n) {
            Some((head, rest)) => {
                self.0 = rest;
                Ok(head)
            }
            None => bad("an array that ends too early"),
        }
    }

    fn int(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(super::exactly(self.take(4)?)?))
    }
}

fn read_binary(wire: &[u8]) -> Result<Elements<&[u8]>> {
    let mut cursor = Cursor(wire);
    let dimensions = usize::try_from(cursor.int()?).ok().filter(|n| *n <= MAX_DIMENSIONS);
    let Some(dimensions) = dimensions else { return bad("an array of more than six dimensions") };
    cursor.int()?;
    cursor.int()?;
    let mut bounds = Vec::with_capacity(dimensions);
    let mut count: usize = usize::from(dimensions > 0);
    for _ in 0..dimensions {
        let (length, lower) = (cursor.int()?, cursor.int()?);
        count = usize::try_from(length)
            .ok()
            .and_then(|n| count.checked_mul(n))
            .ok_or_else(|| WireError("an array of a negative length".into()))?;
        bounds.push((length, lower));
    }
    if count > cursor.0.len() / 4 {
        return bad("an array that ends too early");
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        values.push(match cursor.int()? {
            -1 => None,
            n => Some(cursor.take(usize::try_from(n).map_err(|_| WireError("an element of a negative length".into()))?)?),
        });
    }
    if cursor.0.is_empty() { Ok(Elements { bounds, values }) } else { bad("an array with bytes left over") }
}

/// Clears the has-nulls flag of an array that has no NULL. The server keeps a NULL bitmap when a NULL element is
/// overwritten (`array_set_element` in `arrayfuncs.c`), so two equal arrays may differ in that flag; the SQL fingerprint
/// clears it in the same way.
pub(crate) fn clear_idle_null_flag(wire: &mut [u8]) -> Result<()> {
    if wire.get(4..8).is_some_and(|flag| flag != [0; 4]) {
        let elements = read_binary(wire)?;
        if elements.values.iter().all(Option::is_some) {
            wire[4..8].fill(0);
        }
    }
    Ok(())
}

fn write_binary(elements: &Elements<Vec<u8>>, oid: u32, out: &mut Vec<u8>) -> Result<()> {
    let int = |n: usize| i32::try_from(n).map_err(|_| WireError("an array that is too long".into()));
    out.extend_from_slice(&int(elements.bounds.len())?.to_be_bytes());
    out.extend_from_slice(&i32::from(elements.values.iter().any(Option::is_none)).to_be_bytes());
    out.extend_from_slice(&oid.to_be_bytes());
    for (length, lower) in &elements.bounds {
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&lower.to_be_bytes());
    }
    for value in &elements.values {
        match value {
            None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            Some(bytes) => {
                out.extend_from_slice(&int(bytes.len())?.to_be_bytes());
                out.extend_from_slice(bytes);
            }
        }
    }
    Ok(())
}

/// Writes an array literal as `array_out` does.
fn write_literal<T: AsRef<str>>(elements: &Elements<T>) -> String {
    let mut text = String::new();
    if elements.bounds.iter().any(|(_, lower)| *lower != 1) {
        for (length, lower) in &elements.bounds {
            text.push_str(&format!("[{lower}:{}]", i64::from(*lower) + i64::from(*length) - 1));
        }
        text.push('=');
    }
    fn level<T: AsRef<str>>(bounds: &[(i32, i32)], values: &mut std::slice::Iter<'_, Option<T>>, text: &mut String) {
        text.push('{');
        if let Some(((length, _), inner)) = bounds.split_first() {
            for i in 0..*length {
                if i > 0 {
                    text.push(',');
                }
                if !inner.is_empty() {
                    level(inner, values, text);
                } else if let Some(Some(value)) = values.next() {
                    quote_element(value.as_ref(), text);
                } else {
                    text.push_str("NULL");
                }
            }
        }
        text.push('}');
    }
    level(&elements.bounds, &mut elements.values.iter(), &mut text);
    text
}

fn quote_element(value: &str, text: &mut String) {
    let special = |c: char| matches!(c, '"' | '\\' | '{' | '}' | ',' | ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c');
    if !value.is_empty() && !value.eq_ignore_ascii_case("NULL") && !value.contains(special) {
        text.push_str(value);
        return;
    }
    push_quoted(value, text);
}

/// Reads an array literal in the form that `array_out` writes.
fn read_literal(text: &str) -> Result<Elements<String>> {
    parse_literal(text).ok_or_else(|| WireError(format!("`{text}` is not an array")))
}

fn parse_literal(text: &str) -> Option<Elements<String>> {
    let mut declared = Vec::new();
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('[') {
        let (range, tail) = after.split_once(']')?;
        let (lower, upper) = range.split_once(':')?;
        let (lower, upper): (i32, i64) = (lower.parse().ok()?, upper.parse().ok()?);
        declared.push((i32::try_from(upper - i64::from(lower) + 1).ok()?, lower));
        rest = tail;
    }
    if !declared.is_empty() {
        rest = rest.strip_prefix('=')?;
    }
    let mut lengths: Vec<Option<i32>> = Vec::new();
    let mut values = Vec::new();
    let mut counts = vec![];
    let mut chars = rest.chars().peekable();
    let mut deepest = 0;
    loop {
        match chars.next()? {
            '{' => {
                counts.push(0);
                deepest = deepest.max(counts.len());
                if chars.peek() == Some(&'}') && counts.len() == 1 {
                    chars.next();
                    return (chars.next().is_none() && declared.is_empty())
                        .then_some(Elements { bounds: vec![], values: vec![] });
                }
                continue;
            }
            '}' => {
                let count = counts.pop()?;
                let depth = counts.len();
                if lengths.len() <= depth {
                    lengths.resize(depth + 1, None);
                }
                if *lengths[depth].get_or_insert(count) != count {
                    return None;
                }
                match counts.last_mut() {
                    Some(outer) => *outer += 1,
                    None => break,
                }
            }
            '"' => {
                let mut value = String::new();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => value.push(chars.next()?),
                        c => value.push(c),
                    }
                }
                values.push(Some(value));
                *counts.last_mut()? += 1;
            }
            ',' => continue,
            first => {
                let mut value = String::from(first);
                while let Some(c) = chars.next_if(|c| !matches!(c, ',' | '}')) {
                    value.push(c);
                }
                values.push((value != "NULL").then_some(value));
                *counts.last_mut()? += 1;
            }
        }
    }
    if chars.next().is_some() {
        return None;
    }
    let lengths: Vec<i32> = lengths.into_iter().collect::<Option<_>>()?;
    let bounds = if declared.is_empty() { lengths.iter().map(|n| (*n, 1)).collect() } else { declared };
    let same = bounds.len() == deepest && bounds.iter().map(|b| b.0).eq(lengths);
    same.then_some(Elements { bounds, values })
}

struct ListBuilder<R> {
    field: FieldRef,
    inner: Box<dyn ColumnBuilder>,
    lengths: Vec<usize>,
    nulls: NullBufferBuilder,
    /// Pushes the elements of a value and returns their number, or `None` if it does not fit.
    read: R,
}

impl<R: FnMut(&[u8], &mut dyn ColumnBuilder) -> Result<Option<usize>> + Send> ColumnBuilder for ListBuilder<R> {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        let read = match wire {
            Some(wire) => (self.read)(wire, self.inner.as_mut())?,
            None => None,
        };
        self.lengths.push(read.unwrap_or(0));
        self.nulls.append(read.is_some());
        Ok(read.is_some() || wire.is_none())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let offsets = OffsetBuffer::from_lengths(self.lengths.drain(..));
        Ok(Arc::new(ListArray::new(Arc::clone(&self.field), offsets, self.inner.finish()?, self.nulls.finish())))
    }
}

struct ListValues {
    array: ListArray,
    inner: Box<dyn Values>,
    form: Form,
}

/// How an array goes back onto the wire.
enum Form {
    /// In binary, with this OID.
    Binary(u32),
    /// As text, of elements of this family.
    Text(Arc<dyn Family>),
}

impl ListValues {
    fn open(array: &ArrayRef, element: &dyn Family, form: Form) -> Result<Box<dyn Values>> {
        let array: ListArray = downcast(array)?;
        let inner = element.values(array.values())?;
        Ok(Box::new(Self { array, inner, form }))
    }

    fn elements<T>(&self, row: usize, read: impl Fn(usize) -> Result<Option<T>>) -> Result<Elements<T>> {
        let values = elements_of(self.array.value_offsets(), row)?.map(read).collect::<Result<Vec<_>>>()?;
        let length = i32::try_from(values.len()).map_err(|_| WireError("a list that is too long".into()))?;
        Ok(Elements { bounds: if values.is_empty() { vec![] } else { vec![(length, 1)] }, values })
    }

    fn binary(&self, i: usize) -> Result<Option<Vec<u8>>> {
        if self.inner.is_null(i) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.inner.write(i, &mut bytes)?;
        Ok(Some(bytes))
    }
}

impl Values for ListValues {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        match &self.form {
            Form::Binary(oid) => write_binary(&self.elements(row, |i| self.binary(i))?, *oid, out),
            Form::Text(family) => {
                let elements = self.elements(row, |i| text_of(family.as_ref(), self.inner.as_ref(), i))?;
                out.extend_from_slice(write_literal(&elements).as_bytes());
                Ok(())
            }
        }
    }
}

/// An array whose binary form is the same in every database.
pub(crate) struct Array {
    pub(crate) element: Arc<dyn Family>,
    /// OID of the element type in the binary form.
    pub(crate) oid: u32,
}

fn fits(element: &dyn Family, elements: &Elements<&[u8]>) -> Result<bool> {
    if !elements.readable() {
        return Ok(false);
    }
    for value in elements.values.iter().flatten() {
        if !element.fits(value)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Family for Array {
    fn arrow(&self) -> DataType {
        DataType::List(list_field(self.element.as_ref()))
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        fits(self.element.as_ref(), &read_binary(wire)?)
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        let element = Arc::clone(&self.element);
        Box::new(ListBuilder {
            field: list_field(self.element.as_ref()),
            inner: self.element.builder(),
            lengths: Vec::new(),
            nulls: NullBufferBuilder::new(0),
            read: move |wire: &[u8], inner: &mut dyn ColumnBuilder| {
                let elements = read_binary(wire)?;
                if !fits(element.as_ref(), &elements)? {
                    return Ok(None);
                }
                for value in &elements.values {
                    inner.push(*value)?;
                }
                Ok(Some(elements.values.len()))
            },
        })
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        ListValues::open(array, self.element.as_ref(), Form::Binary(self.oid))
    }

    fn to_text(&self, wire: &[u8]) -> Result<String> {
        let elements = read_binary(wire)?;
        let values = elements.values.iter().map(|v| v.map(|v| self.element.to_text(v)).transpose());
        Ok(write_literal(&Elements { values: values.collect::<Result<_>>()?, bounds: elements.bounds }))
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let elements = read_literal(text)?;
        let read = |text: String| {
            let mut bytes = Vec::new();
            self.element.parse_text(&text, &mut bytes).map(|()| bytes)
        };
        let values = elements.values.into_iter().map(|v| v.map(read).transpose()).collect::<Result<_>>()?;
        write_binary(&Elements { bounds: elements.bounds, values }, self.oid, out)
    }
}

/// An array of elements whose OID differs between databases: it travels as `array_out` text. An element is readable when its
/// family writes the very same text again.
pub(crate) struct TextArray {
    pub(crate) element: Arc<dyn Family>,
}

/// Returns the wire form of each element, or `None` if the array or one of them is not readable.
fn read_text(element: &dyn Family, wire: &[u8]) -> Result<Option<Vec<Option<Vec<u8>>>>> {
    let text = utf8(wire)?;
    let Some(elements) = parse_literal(text).filter(|e| e.readable() && write_literal(e) == text) else { return Ok(None) };
    let mut values = Vec::with_capacity(elements.values.len());
    for text in &elements.values {
        match text.as_deref().map(|t| wire_of_text(element, t)) {
            None => values.push(None),
            Some(Some(wire)) => values.push(Some(wire)),
            Some(None) => return Ok(None),
        }
    }
    Ok(Some(values))
}

impl Family for TextArray {
    fn arrow(&self) -> DataType {
        DataType::List(list_field(self.element.as_ref()))
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Ok(read_text(self.element.as_ref(), wire)?.is_some())
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        let element = Arc::clone(&self.element);
        Box::new(ListBuilder {
            field: list_field(self.element.as_ref()),
            inner: self.element.builder(),
            lengths: Vec::new(),
            nulls: NullBufferBuilder::new(0),
            read: move |wire: &[u8], inner: &mut dyn ColumnBuilder| {
                let Some(values) = read_text(element.as_ref(), wire)? else { return Ok(None) };
                for value in &values {
                    inner.push(value.as_deref())?;
                }
                Ok(Some(values.len()))
            },
        })
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        ListValues::open(array, self.element.as_ref(), Form::Text(Arc::clone(&self.element)))
    }

    text_wire!();
}
