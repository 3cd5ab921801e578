//! PostGIS geometry and geography as BINARY, ISO WKB: they travel as the hex text of EWKB, which `geometry_out` writes.
//!
//! EWKB marks Z, M and the spatial reference by bits of the type (`liblwgeom/lwin_wkb.c`); ISO WKB adds 1000 and 2000 and has no
//! place for the reference. Values with the column's own reference are readable; one with another, of a kind that GeoParquet does
//! not have, or in another form than the server writes, escapes.

use std::sync::Arc;

use arrow_array::builder::BinaryBuilder;
use arrow_array::{ArrayRef, BinaryArray};
use arrow_schema::DataType;

use super::bytes::{nibble, push_hex};
use super::{ColumnBuilder, Family, Result, Values, WireError, downcast, text_wire, utf8};

const Z: u32 = 0x8000_0000;
const M: u32 = 0x4000_0000;
const SRID: u32 = 0x2000_0000;

/// `geometry`, `geography`.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) srid: i32,
}

/// In which form a value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Ewkb,
    Iso,
}

struct Walk<'a> {
    rest: &'a [u8],
    out: Vec<u8>,
    from: Form,
    srid: i32,
}

impl Walk<'_> {
    fn copy(&mut self, n: usize) -> Option<()> {
        let (head, rest) = self.rest.split_at_checked(n)?;
        self.out.extend_from_slice(head);
        self.rest = rest;
        Some(())
    }

    fn number(&mut self) -> Option<u32> {
        let (head, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(u32::from_le_bytes(*head))
    }

    fn count(&mut self) -> Option<usize> {
        let n = self.number()?;
        self.out.extend_from_slice(&n.to_le_bytes());
        usize::try_from(n).ok()
    }

    /// Translates one geometry; `top` is the outermost, which carries the reference.
    fn geometry(&mut self, top: bool, depth: usize) -> Option<()> {
        let (order, rest) = self.rest.split_first()?;
        if *order != 1 || depth > 32 {
            return None;
        }
        self.rest = rest;
        self.out.push(1);
        let code = self.number()?;
        let (kind, z, m) = match self.from {
            Form::Ewkb => (code & 0x0fff_ffff, code & Z != 0, code & M != 0),
            Form::Iso => (code % 1000, (code / 1000) & 1 == 1, (code / 1000) & 2 == 2),
        };
        match self.from {
            Form::Ewkb => {
                let marked = code & SRID != 0;
                if marked != (top && self.srid != 0) || marked && self.number()? != self.srid.cast_unsigned() {
                    return None;
                }
                let iso = kind + if z { 1000 } else { 0 } + if m { 2000 } else { 0 };
                self.out.extend_from_slice(&iso.to_le_bytes());
            }
            Form::Iso => {
                let marked = top && self.srid != 0;
                let code = kind | if z { Z } else { 0 } | if m { M } else { 0 } | if marked { SRID } else { 0 };
                self.out.extend_from_slice(&code.to_le_bytes());
                if marked {
                    self.out.extend_from_slice(&self.srid.to_le_bytes());
                }
            }
        }
        let point = 8 * (2 + usize::from(z) + usize::from(m));
        match kind {
            // Point
            1 => self.copy(point)?,
            // LineString
            2 => {
                let points = self.count()?;
                self.copy(points.checked_mul(point)?)?;
            }
            // Polygon
            3 => {
                for _ in 0..self.count()? {
                    let points = self.count()?;
                    self.copy(points.checked_mul(point)?)?;
                }
            }
            // Collections
            4..=7 => {
                for _ in 0..self.count()? {
                    self.geometry(false, depth + 1)?;
                }
            }
            // Curves, surfaces, triangles: GeoParquet has none.
            _ => return None,
        }
        Some(())
    }
}

fn translate(bytes: &[u8], from: Form, srid: i32) -> Option<Vec<u8>> {
    let mut walk = Walk { rest: bytes, out: Vec::with_capacity(bytes.len() + 4), from, srid };
    walk.geometry(true, 0)?;
    walk.rest.is_empty().then_some(walk.out)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    push_hex(bytes, &mut text);
    text.make_ascii_uppercase();
    text
}

impl Geometry {
    fn read(self, wire: &[u8]) -> Result<Option<Vec<u8>>> {
        let text = utf8(wire)?;
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Ok(None);
        }
        let mut ewkb = Vec::with_capacity(pairs.len());
        for pair in pairs {
            match (nibble(pair[0]), nibble(pair[1])) {
                (Ok(high), Ok(low)) => ewkb.push(high << 4 | low),
                _ => return Ok(None),
            }
        }
        let same = |iso: &Vec<u8>| translate(iso, Form::Iso, self.srid).is_some_and(|again| hex(&again) == text);
        Ok(translate(&ewkb, Form::Ewkb, self.srid).filter(same))
    }
}

impl Family for Geometry {
    fn arrow(&self) -> DataType {
        DataType::Binary
    }

    fn fits(&self, wire: &[u8]) -> Result<bool> {
        Ok(self.read(wire)?.is_some())
    }

    fn builder(&self) -> Box<dyn ColumnBuilder> {
        Box::new(Builder { family: *self, values: BinaryBuilder::new() })
    }

    fn values(&self, array: &ArrayRef) -> Result<Box<dyn Values>> {
        Ok(Box::new(Column { array: downcast(array)?, srid: self.srid }))
    }

    text_wire!();
}

struct Builder {
    family: Geometry,
    values: BinaryBuilder,
}

impl ColumnBuilder for Builder {
    fn push(&mut self, wire: Option<&[u8]>) -> Result<bool> {
        let family = self.family;
        let read = wire.map(|w| family.read(w)).transpose()?.flatten();
        self.values.append_option(read.as_deref());
        Ok(read.is_some() || wire.is_none())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.values.finish()))
    }
}

struct Column {
    array: BinaryArray,
    srid: i32,
}

impl Values for Column {
    fn is_null(&self, row: usize) -> bool {
        arrow_array::Array::is_null(&self.array, row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let ewkb = translate(self.array.value(row), Form::Iso, self.srid);
        let ewkb = ewkb.ok_or_else(|| WireError("a geometry that is not WKB".into()))?;
        out.extend_from_slice(hex(&ewkb).as_bytes());
        Ok(())
    }
}
