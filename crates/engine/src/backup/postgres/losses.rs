//! Did a table lose more rows than is likely? Then the backup is suspect: it is committed, but it is not good.

use std::collections::{BTreeMap, BTreeSet};

use dozo_model::{Dataset, LeftOut, Loss, LossUnit, Manifest, QualifiedName};
use dozo_postgres::canary_name;

use crate::Result;
use crate::context::SourceSettings;
use crate::select::Patterns;

/// Compares with the newest good backup, per partition tree: a month that was dropped from three years is no loss of the tree,
/// nor is one that was detached and stands by itself now. What was left out is not lost: it is excluded, or makes the backup
/// partial. `archived` are the
/// partitions that the database's ledger says have left.
pub(super) fn losses(
    source: &SourceSettings,
    before: &Manifest,
    now: &[Dataset],
    left_out: &[LeftOut],
    archived: &BTreeSet<QualifiedName>,
) -> Result<Vec<Loss>> {
    let ignored = Patterns::new(&source.shrink_ignore)?;
    let mut trees: BTreeMap<&QualifiedName, Vec<&Dataset>> = BTreeMap::new();
    // What left by the ledger's word is no loss, unless a table of that name is there again.
    let there = |d: &Dataset| now.iter().any(|n| n.name == d.name);
    // The canary forgets its old rows.
    let kept = |d: &&Dataset| {
        d.name != canary_name() && !left_out.iter().any(|l| l.name == d.name) && (!archived.contains(&d.name) || there(d))
    };
    for dataset in before.datasets().iter().filter(kept) {
        trees.entry(dataset.root.as_ref().unwrap_or(&dataset.name)).or_default().push(dataset);
    }
    let lost = trees.into_iter().filter_map(|(tree, leaves)| {
        let before: u64 = leaves.iter().map(|d| d.fingerprint.rows).sum();
        let of_tree =
            |d: &&Dataset| d.root.as_ref() == Some(tree) || &d.name == tree || leaves.iter().any(|leaf| leaf.name == d.name);
        let left: Vec<u64> = now.iter().filter(of_tree).map(|d| d.fingerprint.rows).collect();
        let now = (!left.is_empty()).then(|| left.iter().sum());
        let loss = Loss { name: tree.clone(), unit: LossUnit::Rows, before, now };
        (source.shrank(before, now) && ignored.matching(tree, None).is_none()).then_some(loss)
    });
    Ok(lost.collect())
}
