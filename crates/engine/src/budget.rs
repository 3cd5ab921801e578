//! Memory, computed before the first byte: what each worker may hold, and the peak that follows.

use dozo_store::Parts;

/// Rows in flight as COPY bytes, as Arrow arrays, in the sample and in the writer's buffers.
const BLOCK_FOOTPRINT: usize = 16 << 20;
/// The program, its runtimes and connections.
const BASE: usize = 40 << 20;
/// A row group below this wastes space.
const ROW_GROUP_MIN: usize = 8 << 20;
/// A row group above this is read badly by others.
const ROW_GROUP_MAX: usize = 64 << 20;
/// Heap bytes of a file that people query: 128 MB to 1 GB of Parquet.
const LARGE_FILE: u64 = 2 << 30;

/// What a run may hold in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Connections.
    pub workers: usize,
    /// A row group ends at this many encoded bytes.
    pub row_group_bytes: usize,
    /// A row group ends at this many rows.
    pub row_group_rows: usize,
    /// Heap bytes in one unit of work, at least where there are so many.
    pub unit_least: u64,
    /// Heap bytes in one unit of work, at most.
    pub unit_bytes: u64,
    /// How uploads are cut.
    pub parts: Parts,
}

impl Budget {
    /// Divides `memory` bytes among `workers`; with too little memory there are fewer workers.
    #[must_use]
    pub fn new(memory: u64, workers: usize, parts: Parts) -> Self {
        let memory = usize::try_from(memory).unwrap_or(usize::MAX).saturating_sub(BASE);
        let fixed = fixed(parts);
        let workers = workers.clamp(1, (memory / (fixed + ROW_GROUP_MIN)).max(1));
        let row_group_bytes = (memory / workers).saturating_sub(fixed).clamp(ROW_GROUP_MIN, ROW_GROUP_MAX);
        Self { workers, row_group_bytes, row_group_rows: 1 << 20, unit_least: 32 << 20, unit_bytes: 128 << 20, parts }
    }

    /// Returns this budget for files that people query: large ones, whatever that costs in parallelism.
    #[must_use]
    pub fn for_large_files(self) -> Self {
        Self { unit_least: LARGE_FILE, unit_bytes: LARGE_FILE, ..self }
    }

    /// Returns the expected peak, without the largest single row.
    #[must_use]
    pub fn peak_bytes(&self) -> usize {
        BASE + self.workers * (self.row_group_bytes + fixed(self.parts))
    }
}

/// What a worker holds beside its row group: rows, and parts that are filled, queued and on their way.
fn fixed(parts: Parts) -> usize {
    BLOCK_FOOTPRINT + parts.bytes * (parts.in_flight + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_what_was_given() {
        for memory in [100_000_000u64, 128_000_000, 256_000_000, 1_000_000_000, 8_000_000_000] {
            for workers in 1..=8 {
                let budget = Budget::new(memory, workers, Parts::default());
                assert!(budget.workers >= 1 && budget.workers <= workers);
                let least = Budget::new(0, 1, Parts::default()).peak_bytes() as u64;
                assert!(budget.peak_bytes() as u64 <= memory.max(least), "{memory} {workers} {budget:?}");
            }
        }
    }
}
