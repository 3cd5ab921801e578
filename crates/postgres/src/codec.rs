//! COPY BINARY values to Arrow and back: one file per type family, both directions mirrored.
//!
//! A [`Family`] knows one wire type: the Arrow type that holds its readable values, which values that type cannot hold
//! (they *escape*, as Postgres text, to the exact column), and the way back. Everything is integer arithmetic on the
//! bytes of the *send* functions (`src/backend/utils/adt/*.c`); nothing goes through a lossy type. Types whose binary form
//! means something else in another database travel as text, and their families take that text apart. *Invariant*:
//! `write(push(wire)) == wire` and `parse_text(to_text(wire)) == wire`; the second is checked at run time whenever a
//! value escapes.

mod array;
mod bits;
mod bytes;
mod calendar;
mod composite;
mod datetime;
mod floats;
mod geometry;
mod hstore;
mod interval;
mod ints;
mod network;
mod numeric;
mod rows;
#[cfg(test)]
mod tests;
mod text;
mod vector;

use arrow_array::ArrayRef;
use arrow_schema::{DataType, Field};
use dozo_model::{CompositeField, NumericMod, PgType, Profile};

use crate::copy::RowBlock;

pub(crate) use array::clear_idle_null_flag;
pub(crate) use calendar::{EPOCH_MICROS, date_text, timestamp_text};
pub use rows::{EXACT_COLUMN, RowDecoder, RowEncoder, arrow_schema, tuple_texts};

/// Bytes that are not what the server sends for this type, or a file that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(pub(crate) String);

pub(crate) type Result<T> = std::result::Result<T, WireError>;

pub(crate) fn bad<T>(what: impl Into<String>) -> Result<T> {
    Err(WireError(what.into()))
}

/// One wire type.
pub(crate) trait Family: Send + Sync {
    /// The Arrow type of the readable column.
    fn arrow(&self) -> DataType;
    /// The readable column.
    fn field(&self, name: &str) -> Field {
        Field::new(name, self.arrow(), true)
    }
    /// Tells whether the readable column holds this value exactly.
    fn fits(&self, wire: &[u8]) -> Result<bool>;
    /// Starts a column.
    fn builder(&self) -> Box<dyn ColumnBuilder>;
    /// Reads a column.
    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>>;
    /// Writes a value as text that Postgres reads as the same value; as the server itself writes it, where that is known.
    fn to_text(&self, wire: &[u8]) -> Result<String>;
    /// Reads what [`Family::to_text`] wrote.
    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()>;
}

/// Collects a column.
pub(crate) trait ColumnBuilder: Send {
    /// Adds a value; one that does not fit is added as NULL, and `false` is returned.
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool>;
    /// Adds a column of a block; rows whose value does not fit go to `escaped`. One virtual call for the whole column.
    fn push_column(&mut self, block: &RowBlock, column: usize, escaped: &mut Vec<usize>) -> Result<()> {
        for row in 0..block.rows() {
            if !self.push(block.field(row, column))? {
                escaped.push(row);
            }
        }
        Ok(())
    }
    /// Returns what was collected and starts over.
    ///
    /// # Errors
    /// When what was collected is no column of its type.
    fn finish(&mut self) -> Result<ArrayRef>;
}

/// Reads a column's values as wire bytes.
pub(crate) trait Values {
    /// Tells whether the value is NULL.
    fn is_null(&self, row: usize) -> bool;
    /// Appends the value's wire bytes, without a length.
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()>;
}

/// Returns the family of a wire type.
pub(crate) fn family(wire: &PgType, profile: Profile) -> Box<dyn Family> {
    match wire {
        PgType::Printed(inner) if matches!(**inner, PgType::Raw(_)) => Box::new(bytes::Raw),
        PgType::Bool => Box::new(ints::Bool),
        PgType::Int2 => Box::new(ints::Int2),
        PgType::Int4 => Box::new(ints::Int4),
        PgType::Int8 => Box::new(ints::Int8),
        PgType::Oid | PgType::Xid | PgType::Cid => Box::new(ints::Oid),
        PgType::Float4 => Box::new(floats::Float4),
        PgType::Float8 => Box::new(floats::Float8),
        PgType::Numeric(m) => match m.and_then(NumericMod::decimal) {
            Some((precision, scale)) => Box::new(numeric::Decimal { precision, scale }),
            None => Box::new(numeric::NumericText),
        },
        PgType::Money { scale } => Box::new(numeric::Money { scale: *scale }),
        PgType::Text
        | PgType::Varchar
        | PgType::Bpchar
        | PgType::Name
        | PgType::Json
        | PgType::Enum
        | PgType::Citext
        | PgType::Xml
        | PgType::Printed(_)
        | PgType::AsText => Box::new(text::Text),
        PgType::Jsonb => Box::new(text::Jsonb),
        PgType::Char => Box::new(text::Char),
        PgType::Bytea => Box::new(bytes::Bytea),
        PgType::Raw(_) => Box::new(bytes::Raw),
        PgType::Uuid if profile == Profile::Native => Box::new(bytes::NativeUuid),
        PgType::Uuid => Box::new(bytes::Uuid),
        PgType::Date => Box::new(datetime::Date),
        PgType::Time if profile == Profile::Native => Box::new(datetime::NativeTime),
        PgType::Time => Box::new(datetime::Time),
        PgType::Timetz => Box::new(datetime::Timetz),
        PgType::Timestamp => Box::new(datetime::Timestamp { utc: false }),
        PgType::Timestamptz => Box::new(datetime::Timestamp { utc: true }),
        PgType::Interval => Box::new(interval::Interval),
        PgType::Inet => Box::new(network::Inet { cidr: false }),
        PgType::Cidr => Box::new(network::Inet { cidr: true }),
        PgType::Macaddr => Box::new(network::Mac { bytes: 6 }),
        PgType::Macaddr8 => Box::new(network::Mac { bytes: 8 }),
        PgType::Bit | PgType::Varbit => Box::new(bits::Bits),
        PgType::Hstore => Box::new(hstore::Hstore),
        PgType::Vector => Box::new(vector::Vector),
        PgType::Sparsevec => Box::new(vector::Sparsevec),
        PgType::Geometry { srid } => Box::new(geometry::Geometry { srid: *srid }),
        PgType::Composite(fields) => Box::new(composite::Composite {
            fields: names_without_case(fields)
                .into_iter()
                .zip(fields)
                .map(|(n, f)| (n, family(&f.wire, profile).into()))
                .collect(),
        }),
        PgType::Array(element) if !wire.travels_as_text() => {
            Box::new(array::Array { element: family(element, profile).into(), oid: element_oid(element) })
        }
        PgType::Array(element) | PgType::DomainArray(element) => {
            Box::new(array::TextArray { element: family(element, profile).into() })
        }
    }
}

/// Engines that fold case must not see two fields of one name.
pub(crate) fn names_without_case(fields: &[CompositeField]) -> Vec<String> {
    different_without_case(fields.iter().map(|f| f.name.as_str()))
}

/// Appends `__2`, `__3` … to names that differ from an earlier one only in case.
pub(crate) fn different_without_case<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut taken = std::collections::HashSet::new();
    let mut found = Vec::new();
    for original in names {
        let mut name = original.to_owned();
        let mut n = 1;
        while !taken.insert(name.to_lowercase()) {
            n += 1;
            name = format!("{original}__{n}");
        }
        found.push(name);
    }
    found
}

/// The two methods of a family whose wire form is its text.
macro_rules! text_wire {
    () => {
        fn to_text(&self, wire: &[u8]) -> Result<String> {
            $crate::codec::utf8(wire).map(str::to_owned)
        }

        fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
            out.extend_from_slice(text.as_bytes());
            Ok(())
        }
    };
}
pub(crate) use text_wire;

/// Writes a value between double quotes, with backslashes before what would end it: as `array_out` and `hstore_out` do.
pub(crate) fn push_quoted(value: &str, text: &mut String) {
    text.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
}

/// Returns the elements of a list or a map in a row.
pub(crate) fn elements_of(offsets: &[i32], row: usize) -> Result<std::ops::Range<usize>> {
    let at = |i: usize| usize::try_from(offsets[i]).map_err(|_| WireError("a list with a negative offset".into()));
    Ok(at(row)?..at(row + 1)?)
}

/// Reads text.
pub(crate) fn utf8(wire: &[u8]) -> Result<&str> {
    std::str::from_utf8(wire).map_err(|e| WireError(format!("text that is not UTF-8: {e}")))
}

/// Returns the wire form of a value within a text, if its family holds it and writes the very same text again.
pub(crate) fn wire_of_text(family: &dyn Family, text: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::new();
    family.parse_text(text, &mut wire).ok()?;
    (family.fits(&wire).ok()? && family.to_text(&wire).ok()? == text).then_some(wire)
}

/// Returns the text of a value within a text.
pub(crate) fn text_of(family: &dyn Family, values: &dyn Values, row: usize) -> Result<Option<String>> {
    if values.is_null(row) {
        return Ok(None);
    }
    let mut wire = Vec::new();
    values.write(row, &mut wire)?;
    family.to_text(&wire).map(Some)
}

/// Returns the OID that arrays of this built-in type carry; 0 where they travel as text.
fn element_oid(element: &PgType) -> u32 {
    match element {
        PgType::Raw(inner) => element_oid(inner),
        PgType::Xid => 28,
        PgType::Cid => 29,
        PgType::Cidr => 650,
        PgType::Macaddr8 => 774,
        PgType::Macaddr => 829,
        PgType::Inet => 869,
        PgType::Bit => 1560,
        PgType::Varbit => 1562,
        PgType::Bool => 16,
        PgType::Bytea => 17,
        PgType::Char => 18,
        PgType::Name => 19,
        PgType::Int8 => 20,
        PgType::Int2 => 21,
        PgType::Int4 => 23,
        PgType::Text => 25,
        PgType::Oid => 26,
        PgType::Json => 114,
        PgType::Float4 => 700,
        PgType::Float8 => 701,
        PgType::Money { .. } => 790,
        PgType::Bpchar => 1042,
        PgType::Varchar => 1043,
        PgType::Date => 1082,
        PgType::Time => 1083,
        PgType::Timestamp => 1114,
        PgType::Timestamptz => 1184,
        PgType::Interval => 1186,
        PgType::Timetz => 1266,
        PgType::Numeric(_) => 1700,
        PgType::Uuid => 2950,
        PgType::Jsonb => 3802,
        PgType::Enum
        | PgType::Citext
        | PgType::Hstore
        | PgType::Vector
        | PgType::Sparsevec
        | PgType::Geometry { .. }
        | PgType::Composite(_)
        | PgType::Array(_)
        | PgType::DomainArray(_)
        | PgType::Xml
        | PgType::Printed(_)
        | PgType::AsText => 0,
    }
}

/// Returns the first `N` bytes of a value that must have exactly `N`.
pub(crate) fn exactly<const N: usize>(wire: &[u8]) -> Result<[u8; N]> {
    wire.try_into().map_err(|_| WireError(format!("{} bytes instead of {N}", wire.len())))
}

/// Downcasts a column that was read from a file.
pub(crate) fn downcast<T: Clone + 'static>(array: &ArrayRef) -> Result<T> {
    match array.as_any().downcast_ref::<T>() {
        Some(array) => Ok(array.clone()),
        None => bad(format!("a column of {} is not of the expected type", array.data_type())),
    }
}
