//! COPY BINARY framing: header, tuples, trailer (`src/backend/commands/copyto.c`), and the block of tuples that
//! travels through the pipeline.
//!
//! *Memory*: a block holds about [`BLOCK_BYTES`], or one row if that is larger.

use crate::codec::WireError;

/// `PGCOPY\n\377\r\n\0`
pub(crate) const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the header extension.
pub(crate) const HEADER_BYTES: usize = 19;
/// A block is handed on when it holds this much…
pub(crate) const BLOCK_BYTES: usize = 4 << 20;
/// … or this many rows.
pub(crate) const BLOCK_ROWS: usize = 16 << 10;

#[derive(Debug, Clone, Copy)]
struct Slot {
    start: usize,
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

    /// Adds a tuple: field count, then fields.
    pub(crate) fn push(&mut self, tuple: &[u8]) {
        self.tuples.push(self.bytes.len());
        self.bytes.extend_from_slice(tuple);
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

    /// Finds every field of every tuple.
    pub(crate) fn scan(&mut self, columns: usize) -> Result<(), WireError> {
        self.columns = columns;
        self.fields.clear();
        self.fields.reserve(columns * self.tuples.len());
        let short = || WireError("a tuple that ends too early".into());
        for (i, start) in self.tuples.iter().enumerate() {
            let end = self.tuples.get(i + 1).copied().unwrap_or(self.bytes.len());
            let tuple = &self.bytes[..end];
            let count = tuple.get(*start..start + 2).ok_or_else(short)?;
            if usize::from(u16::from_be_bytes([count[0], count[1]])) != columns {
                return Err(WireError(format!(
                    "a tuple of {} fields instead of {columns}",
                    u16::from_be_bytes([count[0], count[1]])
                )));
            }
            let mut at = start + 2;
            for _ in 0..columns {
                let length = tuple.get(at..at + 4).ok_or_else(short)?;
                let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
                at += 4;
                self.fields.push(Slot { start: at, length });
                at += usize::try_from(length.max(0)).map_err(|_| short())?;
                if at > end {
                    return Err(short());
                }
            }
            if at != end {
                return Err(WireError("a tuple with bytes left over".into()));
            }
        }
        Ok(())
    }

    fn slot(&self, row: usize, column: usize) -> Option<std::ops::Range<usize>> {
        let slot = self.fields[row * self.columns + column];
        usize::try_from(slot.length).ok().map(|n| slot.start..slot.start + n)
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
                slot.start + usize::try_from(slot.length.max(0)).unwrap_or(0)
            }
        };
        &self.bytes[start..end]
    }
}
