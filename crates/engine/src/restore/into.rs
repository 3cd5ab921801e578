//! Rows into tables that are there: side tables first, then one transaction (`dozo-postgres`, merge).
//!
//! Whole trees, single tables or single partitions; all rows or those of a predicate. *Crash behaviour*: as the whole restore:
//! what is loaded is noted with its rows, the same command continues, and until the exchange commits the live tables are as
//! they were.

use std::collections::BTreeMap;
use std::time::Instant;

use dozo_model::{ErrorClass, Explain, Fingerprint, Manifest, PostgresContent, QualifiedName, SequenceValue, Stage};
use dozo_postgres::{LiveTable, MergeMode, MergeTable, RestoreTarget};

use super::plan::{PlannedDataset, RestorePlan};
use super::{
    Completed, Existing, FetchClock, Job, LoadSource, Missing, RestoreOptions, RestoreReport, RestoredTable, load_rows,
    open_items,
};
use crate::{EngineError, Result};

/// Tables that get rows: the live table, what is stored for it, and what stands there.
pub(super) struct Group {
    pub(super) live: QualifiedName,
    pub(super) datasets: Vec<PlannedDataset>,
    pub(super) found: Option<LiveTable>,
}

impl Group {
    pub(super) fn stored(&self) -> Fingerprint {
        self.datasets.iter().map(|d| d.dataset.fingerprint).sum()
    }
}

/// Puts the chosen datasets together by the table that takes their rows: the root of a tree that was chosen as a whole, else
/// the table or partition itself.
pub(super) async fn groups(target: &RestoreTarget, plan: &RestorePlan) -> Result<Vec<Group>> {
    let mut by_live: BTreeMap<QualifiedName, Vec<PlannedDataset>> = BTreeMap::new();
    for planned in plan.datasets.iter().filter(|d| d.dataset.kind.is_table()) {
        let live = plan.top_of(&planned.dataset).unwrap_or_else(|| planned.target.clone());
        by_live.entry(live).or_default().push(planned.clone());
    }
    let wanted: Vec<_> = by_live.iter().map(|(live, d)| (live.clone(), d[0].dataset.columns.as_slice())).collect();
    let found = target.live_tables(&wanted).await?;
    Ok(by_live.into_iter().zip(found).map(|((live, datasets), found)| Group { live, datasets, found }).collect())
}

/// Tells whether rows go into existing tables. All of them must be there, or none.
pub(super) fn into_existing(groups: &[Group], options: &RestoreOptions) -> Result<bool> {
    let (there, gone): (Vec<&Group>, Vec<&Group>) = groups.iter().partition(|g| g.found.is_some());
    if options.content == super::Content::Data {
        if let Some(missing) = gone.first() {
            return Err(EngineError::NoTable(missing.live.clone()));
        }
        return Ok(true);
    }
    if options.existing == Existing::Refuse || there.is_empty() {
        return Ok(false);
    }
    match gone.first() {
        None => Ok(true),
        Some(missing) => Err(EngineError::Options(format!(
            "{} exists, but {} does not: restore them by separate commands",
            there[0].live, missing.live
        ))),
    }
}

/// Runs it. Side tables that do not hold what an interrupted run noted (they are not logged: a crash of the server empties
/// them) are made anew, once.
pub(super) async fn run(job: Job<'_>, plan: &RestorePlan, groups: &[Group]) -> Result<RestoreReport> {
    let mut continued = false;
    match exchange(job, plan, groups, &mut continued).await {
        Err(EngineError::SideDiffers { .. }) if continued => exchange(job, plan, groups, &mut false).await,
        done => done,
    }
}

async fn exchange(job: Job<'_>, plan: &RestorePlan, groups: &[Group], continued: &mut bool) -> Result<RestoreReport> {
    let Job { ctx, manifest, pg, info, options, target, .. } = job;
    let began = Instant::now();
    let mode = if options.existing == Existing::Replace { MergeMode::Replace } else { MergeMode::Append };
    let filter = options.filter.as_deref();
    let mut tables = Vec::new();
    let mut loads: Vec<PlannedDataset> = Vec::new();
    for (n, group) in groups.iter().enumerate() {
        let found = group.found.as_ref().ok_or_else(|| EngineError::NoTable(group.live.clone()))?;
        if !found.differences.is_empty() {
            return Err(EngineError::TableDiffers { table: group.live.clone(), columns: found.differences.clone() });
        }
        refuse_unheld(manifest, plan, group, found, mode)?;
        let side = QualifiedName::new("dozo", format!("restore_side_{n}"));
        loads.extend(group.datasets.iter().map(|d| PlannedDataset { dataset: d.dataset.clone(), target: side.clone() }));
        let columns = group.datasets[0].dataset.columns.iter().filter(|c| c.loaded()).cloned().collect();
        let keep = options.keep_replaced.then(|| beside_name(&group.live, &format!("before_{}", suffix(manifest))));
        tables.push(MergeTable {
            live: group.live.clone(),
            side,
            columns,
            key: found.key.clone(),
            partitioned: found.partitioned,
            must_be_empty: options.existing == Existing::Refuse,
            keep: keep.transpose()?,
            stored: group.stored(),
        });
    }
    let label = format!("{} into existing tables, {}{}", plan.label, options.existing.word(), filter.unwrap_or_default());
    let done;
    (done, *continued) = job.resumed(target.state(&label, Some(&[])).await?)?;
    if !*continued {
        target.create_sides(&label, &tables, filter).await?;
    }
    let mut seconds = BTreeMap::new();
    let stage = Instant::now();
    let mut complete = Completed { total: loads.len(), tables: 0 };
    let rest = async {
        let sides: Vec<QualifiedName> = loads.iter().map(|d| d.target.clone()).collect();
        let sides = target.tables(&sides).await?;
        let items = open_items(&loads, &sides, &done, &mut complete)?;
        let source = LoadSource { datasets: &loads, tables: &sides, objects: &plan.objects, clock: &FetchClock::default() };
        let _ = load_rows(job, source, items, &mut complete, Missing::Fail).await?;
        seconds.insert("data".to_owned(), stage.elapsed().as_secs_f64());
        let stage = Instant::now();
        ctx.progress.stage(Stage::Verify, tables.iter().map(|t| t.stored.rows).sum(), 0);
        for table in &tables {
            let found = target.side_fingerprint(table).await?;
            if found != table.stored {
                target.discard_sides(&tables).await?;
                return Err(EngineError::SideDiffers { table: table.live.clone(), expected: table.stored, found });
            }
        }
        let sequences = raised(pg, plan, groups);
        let merged = target.merge(&tables, mode, filter, &sequences, options.lock_timeout).await?;
        seconds.insert("verify".to_owned(), stage.elapsed().as_secs_f64());
        Ok(merged)
    };
    let merged = match rest.await {
        Ok(merged) => merged,
        Err(e) if e.class() == ErrorClass::Transient => {
            return Err(EngineError::RestoreStopped { complete: complete.tables, total: complete.total, source: Box::new(e) });
        }
        // What cannot go in is not to be continued; it says itself what to do.
        Err(e) => return Err(e),
    };
    let mut warnings = plan.warnings.clone();
    if let Err(e) = target.analyze(&tables.iter().map(|t| t.live.clone()).collect::<Vec<_>>()).await {
        warnings.push(format!("the rows are in, but statistics could not be gathered: {e}"));
    }
    seconds.insert("total".into(), began.elapsed().as_secs_f64());
    warnings
        .extend(tables.iter().filter_map(|t| Some(format!("the replaced rows of {} are kept in {}", t.live, t.keep.as_ref()?))));
    let reports: Vec<RestoredTable> = tables
        .iter()
        .zip(&merged)
        .map(|(table, merged)| RestoredTable {
            table: table.live.to_string(),
            restored_as: table.live.to_string(),
            rows: merged.changes.1 + merged.changes.2,
            expected: merged.expected,
            found: Some(merged.found),
            verdict: "equal",
            changes: Some(merged.changes),
        })
        .collect();
    Ok(RestoreReport {
        backup: format!("{}@{}", manifest.source, manifest.id),
        target: info.target(),
        outcome: "done",
        continued: *continued,
        rows: reports.iter().map(|t| t.rows).sum(),
        seconds,
        tables: reports,
        warnings,
    })
}

/// Replacing a tree must not delete rows that the backup never held, or cannot give back.
fn refuse_unheld(manifest: &Manifest, plan: &RestorePlan, group: &Group, found: &LiveTable, mode: MergeMode) -> Result<()> {
    if mode != MergeMode::Replace {
        return Ok(());
    }
    let left_out = found.leaves.iter().find(|l| manifest.left_out.iter().any(|o| &o.name == *l));
    let why = match (left_out, found.foreign_leaves.first()) {
        (Some(leaf), _) => format!("its partition {leaf} is not in the backup"),
        (None, Some(leaf)) => format!("its partition {leaf} is a foreign table"),
        (None, None) if plan.unmade > 0 => "some of its partitions cannot be made from the backup".into(),
        (None, None) => return Ok(()),
    };
    Err(EngineError::Options(format!("{} cannot be replaced as a whole: {why}; name the partitions", group.live)))
}

/// Sequences that belong to the tables.
fn raised(pg: &PostgresContent, plan: &RestorePlan, groups: &[Group]) -> Vec<SequenceValue> {
    let of = |owner: &QualifiedName| {
        groups.iter().any(|g| &g.live == owner || g.datasets.iter().any(|d| d.dataset.root.as_ref() == Some(owner)))
    };
    if plan.renamed() {
        return Vec::new();
    }
    pg.sequences.iter().filter(|s| s.owned_by.as_ref().is_some_and(of)).cloned().collect()
}

/// The part of a backup's id that tells it from others.
pub(super) fn suffix(manifest: &Manifest) -> String {
    manifest.id.as_str().rsplit('-').next().unwrap_or_default().to_owned()
}

/// Returns the name of something beside a table.
pub(super) fn beside_name(table: &QualifiedName, tail: &str) -> Result<QualifiedName> {
    let name = format!("{}_{tail}", table.name);
    if name.len() > 63 {
        return Err(EngineError::Options(format!("the new name `{name}` is longer than 63 bytes: use --as")));
    }
    Ok(QualifiedName::new(&table.schema, name))
}
