//! MD5 of many short messages at once: the rows of a block, one per SIMD lane.
//!
//! Place in the flow: below the fingerprint. MD5 (RFC 1321) is a chain of 64 dependent steps per 64-byte block, so one message
//! leaves most of a core idle; 16 or 32 messages side by side, in two interleaved groups of lanes, do not. *Invariants*: every
//! kernel gives what the `md-5` crate gives; a kernel that does not, on this very machine, is not used ([`Kernel::best`]). Rows
//! are hashed where they lie; only their last one or two blocks are copied, for the padding. *Source*: interleaving as in
//! Intel's multi-buffer crypto library (isa-l_crypto); measured by `scripts/bench`.

mod compress;
mod kernel;
#[cfg(test)]
mod tests;

pub use kernel::Kernel;

use md5::{Digest, Md5};

/// Bytes of an MD5 block.
pub(crate) const BLOCK: usize = 64;

/// Digests rows in batches. Keeps its buffers between calls.
#[derive(Debug)]
pub struct ManyMd5 {
    kernel: Kernel,
    order: Vec<u32>,
    counts: Vec<u32>,
}

impl Default for ManyMd5 {
    fn default() -> Self {
        Self::with(Kernel::best())
    }
}

/// Rows of up to this many blocks are sorted by counting.
const COUNTED: usize = 256;

impl ManyMd5 {
    /// Uses a certain kernel, which must be one of [`Kernel::available`]; another one falls back to the safe twin.
    #[must_use]
    pub fn with(kernel: Kernel) -> Self {
        let kernel = if Kernel::available().contains(&kernel) { kernel } else { Kernel::Scalar };
        Self { kernel, order: Vec::new(), counts: Vec::new() }
    }

    /// Returns the kernel that it uses.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Calls `each` with every row's index and digest, in any order.
    pub fn digest(&mut self, rows: &[&[u8]], mut each: impl FnMut(usize, [u8; 16])) {
        if self.kernel == Kernel::Scalar {
            rows.iter().enumerate().for_each(|(i, row)| each(i, scalar(row)));
            return;
        }
        self.sort(rows);
        let lanes = self.kernel.lanes();
        for batch in self.order.chunks(lanes) {
            if batch.len() * 4 < lanes {
                // Too few to fill a quarter of the lanes: one after the other is as fast.
                batch.iter().for_each(|i| each(*i as usize, scalar(rows[*i as usize])));
                continue;
            }
            self.kernel.digest(batch, rows, &mut each);
        }
    }

    /// Orders rows by their number of blocks, so that the lanes of a batch end together.
    fn sort(&mut self, rows: &[&[u8]]) {
        let bucket = |row: &[u8]| blocks(row.len()).min(COUNTED);
        self.counts.clear();
        self.counts.resize(COUNTED + 2, 0);
        rows.iter().for_each(|row| self.counts[bucket(row) + 1] += 1);
        for i in 1..self.counts.len() {
            self.counts[i] += self.counts[i - 1];
        }
        self.order.clear();
        self.order.resize(rows.len(), 0);
        for (i, row) in rows.iter().enumerate() {
            let at = &mut self.counts[bucket(row)];
            self.order[*at as usize] = u32::try_from(i).expect("a block has fewer than 2^32 rows");
            *at += 1;
        }
        // The last bucket holds all long ones.
        let long = self.order.partition_point(|i| blocks(rows[*i as usize].len()) < COUNTED);
        self.order[long..].sort_unstable_by_key(|i| rows[*i as usize].len());
    }
}

/// The safe twin: one row at a time.
#[must_use]
pub fn scalar(row: &[u8]) -> [u8; 16] {
    Md5::digest(row).into()
}

/// Returns the number of blocks of a message with its padding: a one bit, zeros, and eight bytes of length.
pub(crate) fn blocks(length: usize) -> usize {
    (length + 9).div_ceil(BLOCK)
}
