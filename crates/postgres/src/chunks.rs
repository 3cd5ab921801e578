//! Cuts tables into units of work: ranges of heap blocks, and small partitions of one tree packed together.
//!
//! A unit carries names, no handles, so that another machine could run it. Bounds come from the size of the heap at the
//! time of the lock; the last range of a table is open-ended, because the heap may have grown since.

use dozo_model::{BlockRange, QualifiedName};
use serde::{Deserialize, Serialize};

/// How large units become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Heap blocks in one range.
    pub blocks: u64,
    /// A partition of at most this many blocks may share an object with its siblings.
    pub small_blocks: u64,
}

/// A range of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Index of the dataset in the plan.
    pub dataset: usize,
    /// Heap blocks.
    pub blocks: BlockRange,
    /// Number of heap blocks, for the order of work.
    pub weight: u64,
}

/// What one worker does at a time: it becomes one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Number of the unit within its table.
    pub chunk: usize,
    /// Ranges, in order.
    pub pieces: Vec<Piece>,
}

impl Unit {
    fn weight(&self) -> u64 {
        self.pieces.iter().map(|p| p.weight).sum()
    }
}

/// A dataset as the planner sees it.
pub trait Planned {
    /// Heap blocks.
    fn blocks(&self) -> u64;
    /// Whether ranges of blocks can be read (heap access method).
    fn divisible(&self) -> bool;
    /// Datasets with the same key and the same columns may share an object.
    fn family(&self) -> Option<&QualifiedName>;
    /// Tells whether two datasets have the same columns.
    fn same_columns(&self, other: &Self) -> bool;
}

/// Plans units, largest first.
pub fn plan_units<T: Planned>(datasets: &[T], limits: ChunkLimits) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let mut open: Option<(usize, Unit)> = None;
    let mut packs: std::collections::HashMap<&QualifiedName, usize> = std::collections::HashMap::new();
    for (i, dataset) in datasets.iter().enumerate() {
        let blocks = dataset.blocks();
        if let Some(family) = dataset.family().filter(|_| blocks <= limits.small_blocks) {
            let piece = Piece { dataset: i, blocks: BlockRange { from: 0, to: None }, weight: blocks.max(1) };
            match &mut open {
                Some((first, unit))
                    if datasets[*first].family() == Some(family)
                        && datasets[*first].same_columns(dataset)
                        && unit.weight() + blocks <= limits.blocks / 4 =>
                {
                    unit.pieces.push(piece);
                }
                _ => {
                    units.extend(open.take().map(|(_, unit)| unit));
                    let chunk = packs.entry(family).or_default();
                    open = Some((i, Unit { chunk: *chunk, pieces: vec![piece] }));
                    *chunk += 1;
                }
            }
            continue;
        }
        let ranges = if dataset.divisible() { blocks.div_ceil(limits.blocks).max(1) } else { 1 };
        let size = blocks.div_ceil(ranges);
        for chunk in 0..ranges {
            let from = chunk * size;
            let to = (chunk + 1 < ranges).then_some(from + size);
            let piece = Piece { dataset: i, blocks: BlockRange { from, to }, weight: size.max(1) };
            units.push(Unit { chunk: usize::try_from(chunk).unwrap_or(usize::MAX), pieces: vec![piece] });
        }
    }
    units.extend(open.map(|(_, unit)| unit));
    units.sort_by_key(|u| std::cmp::Reverse(u.weight()));
    units
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug)]
    struct Table {
        blocks: u64,
        heap: bool,
        root: Option<QualifiedName>,
        shape: u8,
    }

    impl Planned for Table {
        fn blocks(&self) -> u64 {
            self.blocks
        }
        fn divisible(&self) -> bool {
            self.heap
        }
        fn family(&self) -> Option<&QualifiedName> {
            self.root.as_ref()
        }
        fn same_columns(&self, other: &Self) -> bool {
            self.shape == other.shape
        }
    }

    proptest! {
        /// Every block of every table is in exactly one piece, the last piece of a table is open-ended, and only
        /// partitions of one tree with the same columns share a unit.
        #[test]
        fn covers_every_block_once(tables in prop::collection::vec((0u64..5000, any::<bool>(), prop::option::of(0u8..2), 0u8..2), 0..30), blocks in 1u64..600, small in 0u64..100) {
            let tables: Vec<Table> = tables.into_iter().map(|(blocks, heap, root, shape)| Table {
                blocks, heap, shape, root: root.map(|r| QualifiedName::new("s", format!("r{r}"))),
            }).collect();
            let units = plan_units(&tables, ChunkLimits { blocks, small_blocks: small });
            for (i, table) in tables.iter().enumerate() {
                let mut pieces: Vec<&Piece> = units.iter().flat_map(|u| &u.pieces).filter(|p| p.dataset == i).collect();
                pieces.sort_by_key(|p| p.blocks.from);
                prop_assert!(!pieces.is_empty());
                prop_assert_eq!(pieces[0].blocks.from, 0);
                for pair in pieces.windows(2) {
                    prop_assert_eq!(pair[0].blocks.to, Some(pair[1].blocks.from));
                }
                let last = pieces[pieces.len() - 1];
                prop_assert_eq!(last.blocks.to, None);
                prop_assert!(table.heap || pieces.len() == 1);
                prop_assert!(pieces.iter().all(|p| p.blocks.to.is_none_or(|to| to > p.blocks.from)));
            }
            for unit in units.iter().filter(|u| u.pieces.len() > 1) {
                let first = &tables[unit.pieces[0].dataset];
                for piece in &unit.pieces {
                    let table = &tables[piece.dataset];
                    prop_assert!(table.root.is_some() && table.root == first.root && table.shape == first.shape && table.blocks <= small);
                }
            }
        }
    }
}
