//! Which ranges the server is asked to confirm by its own fingerprint: all of them, or a sample.

use std::collections::HashSet;

use dozo_model::BlockRange;
use rand::seq::SliceRandom;

/// The ranges to confirm.
#[derive(Debug, Default)]
pub(crate) struct Proving(HashSet<(usize, u64)>);

impl Proving {
    /// Chooses at random until the chosen ranges weigh at least `percent` of all.
    pub(crate) fn choose(mut ranges: Vec<(usize, BlockRange, u64)>, percent: Option<u8>) -> Self {
        let Some(percent) = percent else { return Self::default() };
        ranges.shuffle(&mut rand::rng());
        let wanted = (ranges.iter().map(|r| u128::from(r.2)).sum::<u128>() * u128::from(percent)).div_ceil(100);
        let mut weight = 0;
        let mut chosen = HashSet::new();
        for (dataset, blocks, own) in ranges {
            // All of them means the empty ones, too.
            if percent < 100 && weight >= wanted {
                break;
            }
            weight += u128::from(own);
            chosen.insert((dataset, blocks.from));
        }
        Self(chosen)
    }

    /// Tells whether a range is to be confirmed.
    pub(crate) fn wants(&self, dataset: usize, blocks: BlockRange) -> bool {
        self.0.contains(&(dataset, blocks.from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_weighs_enough_and_all_is_all() {
        let ranges = || (0..100).map(|i| (i, BlockRange { from: 0, to: None }, 7)).collect::<Vec<_>>();
        let count = |p: &Proving| ranges().iter().filter(|r| p.wants(r.0, r.1)).count();
        assert_eq!(count(&Proving::choose(ranges(), None)), 0);
        assert_eq!(count(&Proving::choose(ranges(), Some(10))), 10);
        assert_eq!(count(&Proving::choose(ranges(), Some(1))), 1);
        assert_eq!(count(&Proving::choose(ranges(), Some(100))), 100);
        let empty = vec![(0, BlockRange { from: 0, to: None }, 0)];
        assert!(Proving::choose(empty, Some(100)).wants(0, BlockRange { from: 0, to: None }));
    }
}
