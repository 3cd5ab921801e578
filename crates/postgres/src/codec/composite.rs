//! Composite types as STRUCT: they travel as `record_out` text, because `record_send` embeds the OIDs of the fields.
//!
//! A field is readable when its own family reads the field's text and writes the very same text again; a value with one that
//! is not escapes as a whole. ROW(NULL, NULL) and NULL stay different: the first is a STRUCT of NULLs.

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, StructArray};
use arrow_buffer::NullBufferBuilder;
use arrow_schema::{DataType, Field, Fields};

use super::{ColumnBuilder, Family, Result, Values, WireError, bad, downcast, text_of, text_wire, utf8, wire_of_text};

/// A composite type with at least one field.
pub(crate) struct Composite {
    /// Names, different also without case, and families.
    pub(crate) fields: Vec<(String, Arc<dyn Family>)>,
}

impl Composite {
    fn arrow_fields(&self) -> Fields {
        self.fields.iter().map(|(name, family)| Field::new(name, family.arrow(), true)).collect()
    }

    /// Returns the wire form of each field, or `None` if one is not readable.
    fn read(&self, wire: &[u8]) -> Result<Option<Vec<Option<Vec<u8>>>>> {
        let text = utf8(wire)?;
        let Some(fields) = parse_literal(text).filter(|f| f.len() == self.fields.len()) else { return Ok(None) };
        if write_literal(&fields) != text {
            return Ok(None);
        }
        let mut values = Vec::with_capacity(fields.len());
        for (text, (_, family)) in fields.iter().zip(&self.fields) {
            match text.as_deref().map(|t| wire_of_text(family.as_ref(), t)) {
                None => values.push(None),
                Some(Some(wire)) => values.push(Some(wire)),
                Some(None) => return Ok(None),
            }
        }
        Ok(Some(values))
    }
}

impl Family for Composite {
    fn arrow(&self) -> DataType {
        DataType::Struct(self.arrow_fields())
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Ok(self.read(wire)?.is_some())
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(Builder {
            family: Self { fields: self.fields.clone() },
            columns: self.fields.iter().map(|(_, family)| family.builder()).collect(),
            nulls: NullBufferBuilder::new(0),
        })
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        let array: StructArray = downcast(array)?;
        if array.num_columns() != self.fields.len() {
            return bad(format!("a composite column of {} fields instead of {}", array.num_columns(), self.fields.len()));
        }
        let open =
            |((_, family), column): (&(String, Arc<dyn Family>), &ArrayRef)| Ok((Arc::clone(family), family.values(column)?));
        let columns = self.fields.iter().zip(array.columns()).map(open).collect::<Result<_>>()?;
        Ok(Box::new(Column { array, columns }))
    }

    text_wire!();
}

struct Builder {
    family: Composite,
    columns: Vec<Box<dyn ColumnBuilder>>,
    nulls: NullBufferBuilder,
}

impl ColumnBuilder for Builder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        let read = match wire {
            Some(wire) => self.family.read(wire)?,
            None => None,
        };
        for (i, column) in self.columns.iter_mut().enumerate() {
            column.push(read.as_ref().and_then(|values| values[i].as_deref()))?;
        }
        self.nulls.append(read.is_some());
        Ok(read.is_some() || wire.is_none())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let columns = self.columns.iter_mut().map(|c| c.finish()).collect::<Result<Vec<_>>>()?;
        let array = StructArray::try_new(self.family.arrow_fields(), columns, self.nulls.finish());
        Ok(Arc::new(array.map_err(|e| WireError(e.to_string()))?))
    }
}

struct Column {
    array: StructArray,
    columns: Vec<(Arc<dyn Family>, Box<dyn Values>)>,
}

impl Values for Column {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let fields = self.columns.iter().map(|(family, values)| text_of(family.as_ref(), values.as_ref(), row));
        out.extend_from_slice(write_literal(&fields.collect::<Result<Vec<_>>>()?).as_bytes());
        Ok(())
    }
}

/// Writes a composite literal as `record_out` does.
fn write_literal(fields: &[Option<String>]) -> String {
    let special = |c: char| matches!(c, '"' | '\\' | '(' | ')' | ',' | ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c');
    let mut text = String::from("(");
    for (i, field) in fields.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        let Some(value) = field else { continue };
        if !value.is_empty() && !value.contains(special) {
            text.push_str(value);
            continue;
        }
        text.push('"');
        for c in value.chars() {
            if matches!(c, '"' | '\\') {
                text.push(c);
            }
            text.push(c);
        }
        text.push('"');
    }
    text.push(')');
    text
}

/// Reads a composite literal in the form that `record_out` writes.
fn parse_literal(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let mut fields = vec![None];
    let mut quoted = false;
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut()?;
        match c {
            ',' if !quoted => fields.push(None),
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.get_or_insert_with(String::new).push('"');
            }
            '"' => {
                quoted = !quoted;
                field.get_or_insert_with(String::new);
            }
            '\\' => field.get_or_insert_with(String::new).push(chars.next()?),
            c => field.get_or_insert_with(String::new).push(c),
        }
    }
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        for (text, fields) in [
            ("(1,a)", vec![Some("1"), Some("a")]),
            ("()", vec![None]),
            ("(,)", vec![None, None]),
            ("(\"\",\"a b\")", vec![Some(""), Some("a b")]),
            ("(\"q\"\"\",\"b\\\\s\",\"(1,\"\"x\"\")\")", vec![Some("q\""), Some("b\\s"), Some("(1,\"x\")")]),
        ] {
            let fields: Vec<Option<String>> = fields.into_iter().map(|f| f.map(str::to_owned)).collect();
            assert_eq!(parse_literal(text).as_ref(), Some(&fields), "{text}");
            assert_eq!(write_literal(&fields), text);
        }
        for bad in ["", "(", "1,2", "(\"a)"] {
            assert_eq!(parse_literal(bad), None, "{bad}");
        }
    }
}
