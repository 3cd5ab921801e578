//! COPY BINARY framing: header, tuples, trailer (`src/backend/commands/copyto.c`), and the block of tuples that
//! travels through the pipeline.
//!
//! *Memory*: a block holds about [`BLOCK_BYTES`], or one row if that is larger.

use crate::codec::WireError;

/// `PGCOPY\n\377\r\n\0`
pub(crate) const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the header extension.
pub(crate) const HEADER_BYTES: usize = 19;
/// A block is handed on when it holds this much: rows, their fields and arrays stay in the second-level cache…
pub(crate) const BLOCK_BYTES: usize = 256 << 10;
/// … or this many rows.
pub(crate) const BLOCK_ROWS: usize = 4 << 10;

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// From the start of the tuple: a tuple is below 2 GB.
    start: u32,
    /// -1 = NULL.
    length: i32,
}

/// Tuples of one table, back to back, and where their fields are.
#[derive(Debug, Default)]
pub struct RowBlock {
    bytes: Vec<u8>,
    tuples: Vec<usize>,
    fields: Vec<Slot>,
    columns: usize,
}

impl RowBlock {
    /// Forgets the rows, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.tuples.clear();
        self.fields.clear();
    }

    /// Takes the tuple at the front of `data`: field count, then fields. Returns its length; 0 for the trailer, `None` when
    /// the tuple is not complete.
    pub(crate) fn take(&mut self, data: &[u8]) -> Result<Option<usize>, WireError> {
        let Some(count) = data.first_chunk::<2>() else { return Ok(None) };
        let count = i16::from_be_bytes(*count);
        if count == -1 {
            return Ok(Some(0));
        }
        let known = self.fields.len();
        self.fields.reserve(usize::try_from(count).unwrap_or(0));
        let mut at = 2usize;
        for _ in 0..count {
            let Some(length) = data.get(at..at + 4) else {
                self.fields.truncate(known);
                return Ok(None);
            };
            let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            if length < -1 {
                return Err(WireError(format!("a field of length {length}")));
            }
            at += 4;
            let start = u32::try_from(at).map_err(|_| WireError("a tuple above 4 GB".into()))?;
            self.fields.push(Slot { start, length });
            at += usize::try_from(length.max(0)).unwrap_or(0);
        }
        if at > data.len() {
            self.fields.truncate(known);
            return Ok(None);
        }
        self.tuples.push(self.bytes.len());
        self.bytes.extend_from_slice(&data[..at]);
        Ok(Some(at))
    }

    /// Tells whether it is time to hand the block on.
    pub(crate) fn full(&self) -> bool {
        self.bytes.len() >= BLOCK_BYTES || self.tuples.len() >= BLOCK_ROWS
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.tuples.len()
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Makes sure that every tuple has this many fields.
    pub(crate) fn expect(&mut self, columns: usize) -> Result<(), WireError> {
        self.columns = columns;
        let count = |start: usize| usize::from(u16::from_be_bytes([self.bytes[start], self.bytes[start + 1]]));
        match self.tuples.iter().map(|start| count(*start)).find(|n| *n != columns) {
            Some(found) => Err(WireError(format!("a tuple of {found} fields instead of {columns}"))),
            None => Ok(()),
        }
    }

    fn slot(&self, row: usize, column: usize) -> Option<std::ops::Range<usize>> {
        let slot = self.fields[row * self.columns + column];
        let start = self.tuples[row] + slot.start as usize;
        usize::try_from(slot.length).ok().map(|n| start..start + n)
    }

    /// Returns a field's bytes; `None` for NULL.
    pub(crate) fn field(&self, row: usize, column: usize) -> Option<&[u8]> {
        self.slot(row, column).map(|range| &self.bytes[range])
    }

    /// Returns a field's bytes to normalize them in place.
    pub(crate) fn field_mut(&mut self, row: usize, column: usize) -> Option<&mut [u8]> {
        self.slot(row, column).map(|range| &mut self.bytes[range])
    }

    /// Returns the bytes of the first `columns` fields with their lengths: what the row digest is computed over.
    pub(crate) fn tuple_prefix(&self, row: usize, columns: usize) -> &[u8] {
        let start = self.tuples[row] + 2;
        let end = match columns {
            0 => start,
            n => {
                let slot = self.fields[row * self.columns + n - 1];
                self.tuples[row] + slot.start as usize + usize::try_from(slot.length.max(0)).unwrap_or(0)
            }
        };
        &self.bytes[start..end]
    }
}
