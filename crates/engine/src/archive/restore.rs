//! The way back: a partition into its table, or beside it; and which of two truths counts after a restore to an earlier point in time.
//!
//! *Ordering*: the rows are loaded into a table of their own and compared, then readers of the archive lose them, then one transaction
//! attaches the table and says so in the ledger. *Invariant*: no reader sees a row in both places. *Crash behaviour*: until that
//! transaction the unit is archived, and the next archive run publishes it again; after it the next run finds it restored.

use std::time::Duration;

use dozo_catalog::{ArchivedUnit, Repository};
use dozo_model::{Manifest, QualifiedName, UnitEvent, UnitState, quote_ident};
use dozo_postgres::{
    Attach, Holder, KeyKind, LedgerDetails, LedgerRow, LedgerState, QUARANTINE, Removal, Session, attach_again, default_of,
    ledger_rows, prepare_ledger, rows_where, tables_of, tree,
};

use super::apply::{ArchivedLine, of_unit, with_run};
use super::detach::{Attached, Step};
use super::export::Run;
use super::has_left;
use super::job::ArchiveJob;
use super::label;
use crate::context::{Context, RepositorySettings, SourceSettings};
use crate::restore::{Existing, RestoreOptions, restore};
use crate::{EngineError, Result};

/// What comes back, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreUnitOptions {
    /// Partition, by its name or by its folder (`2023-01`).
    pub partition: String,
    /// Another name: then it is a table of its own, and stays archived.
    pub rename: Option<String>,
    /// Move rows of the DEFAULT partition that belong into it.
    pub move_default: bool,
    /// How long a backup of the source is waited for.
    pub wait: Duration,
    /// Connections.
    pub workers: usize,
}

/// Brings archived partitions back.
///
/// # Errors
/// See [`EngineError`]; nothing is lost, and the same command continues.
pub async fn archive_restore(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    source: &SourceSettings,
    job: &ArchiveJob,
    options: &RestoreUnitOptions,
) -> Result<Vec<ArchivedLine>> {
    with_run(ctx, repository, settings, source, options.wait, async |run| {
        let (_, open) = run.reconcile(&[job]).await?;
        open.iter().for_each(|l| run.warnings.add(format!("{}: {}", l.partition, l.reasons.join("; "))));
        let mut units = chosen(&run, job, &options.partition).await?;
        let rows = ledger_rows(&Session::connect_as(&run.info, "dozo archive").await?).await?;
        // Late rows come behind the partition that they belong to.
        let late = |u: &ArchivedUnit| rows.iter().any(|r| r.details.stub.as_ref() == Some(&u.plan.partition));
        units.sort_by_key(late);
        let mut lines = Vec::new();
        for (n, unit) in units.into_iter().enumerate() {
            lines.push(match &options.rename {
                Some(name) => beside(&run, unit, name, options, n > 0).await?,
                None => back(&run, unit, options).await?,
            });
        }
        Ok(lines)
    })
    .await
}

/// Returns the units of a partition that are archived, the oldest first.
async fn chosen(run: &Run<'_>, job: &ArchiveJob, wanted: &str) -> Result<Vec<ArchivedUnit>> {
    let units = run.repository.archive_units(&run.source.name).await?;
    let is = |u: &ArchivedUnit| {
        u.plan.job == job.name
            && !u.last.state.is_last()
            && !run.foreign(u)
            && (u.is_published() || has_left(u))
            && (u.plan.partition.name == wanted
                || u.plan.partition.to_string() == wanted
                || u.plan.label == wanted
                || u.plan.label.split_once('=').is_some_and(|(_, end)| end == wanted))
    };
    let found: Vec<ArchivedUnit> = units.into_iter().filter(is).collect();
    if found.is_empty() {
        return Err(EngineError::Options(format!("archive `{}` has no partition `{wanted}`: dozo archive list", job.name)));
    }
    Ok(found)
}

fn load_options(run: &Run<'_>, unit: &ArchivedUnit, options: &RestoreUnitOptions) -> RestoreOptions {
    RestoreOptions {
        // A name, and no pattern.
        tables: vec![globset::escape(&unit.plan.partition.to_string())],
        rename: options.rename.clone(),
        verify: true,
        workers: options.workers.max(1),
        pg_tools: run.postgres.pg_tools.clone(),
        lock_timeout: run.source.lock_timeout,
        alone: true,
        ..RestoreOptions::default()
    }
}

/// Loads a unit into a table of its own and compares it.
async fn load(run: &Run<'_>, manifest: &Manifest, options: &RestoreOptions) -> Result<()> {
    let report = restore(run.ctx, run.repository, manifest, &run.info, options).await?;
    match report.tables.iter().find(|t| t.verdict != "equal") {
        None => Ok(()),
        Some(table) => Err(EngineError::SideDiffers {
            table: manifest
                .datasets()
                .iter()
                .map(|d| d.name.clone())
                .next()
                .unwrap_or_else(|| QualifiedName::new("", &table.table)),
            expected: table.expected,
            found: table.found.unwrap_or_default(),
        }),
    }
}

/// Restores a unit under another name; the archive stays as it is.
async fn beside(run: &Run<'_>, unit: ArchivedUnit, name: &str, options: &RestoreUnitOptions, add: bool) -> Result<ArchivedLine> {
    let manifest = run.manifest(&unit).await?;
    let mut loading = load_options(run, &unit, options);
    if add {
        // Late rows of the same month.
        loading.existing = Existing::Append;
    }
    load(run, &manifest, &loading).await?;
    Ok(of_unit(run, &unit, "restored", 0, vec![format!("as {name}, a table of its own: it stays archived")]))
}

/// Brings a unit back into its table.
async fn back(run: &Run<'_>, unit: ArchivedUnit, options: &RestoreUnitOptions) -> Result<ArchivedLine> {
    let session = Session::connect_as(&run.info, "dozo archive").await?;
    if unit.plan.root != "v1" {
        return Ok(of_unit(
            run,
            &unit,
            "refused",
            0,
            vec!["it is a copy: the partition never left (--as restores it beside)".into()],
        ));
    }
    let rows = ledger_rows(&session).await?;
    let Some(row) = rows.iter().find(|r| r.unit == unit.plan.unit.as_str()).cloned() else {
        let resolve = format!("this database knows nothing of it: dozo archive resolve {} --keep live|archived", unit.plan.unit);
        return Ok(of_unit(run, &unit, "refused", 0, vec![resolve]));
    };
    let row = LedgerRow { bound: typed_bound(&session, &row).await?, ..row };
    let holder = holder(&session, &row, &rows).await?;
    let from_default = match misplaced(&session, &row).await? {
        Some((default, _, count)) if !options.move_default => {
            let why = format!("{count} rows of its range are in {default}: --move-default moves them into it");
            return Ok(of_unit(run, &unit, "refused", 0, vec![why]));
        }
        found => found.map(|(default, filter, _)| (default, filter)),
    };
    let moved = from_default.is_some();
    // One that somebody dropped in quarantine comes out of the archive.
    let there = dozo_postgres::place_of(&session, row.relid).await?.is_some();
    let quarantined = row.state == LedgerState::Detached && there;
    let manifest = run.manifest(&unit).await?;
    if let Some(why) = other_columns(&session, &row, &manifest).await? {
        return Ok(of_unit(run, &unit, "refused", 0, vec![why]));
    }
    let mut loading = load_options(run, &unit, options);
    if let (Holder::Other { from, .. }, false) = (&holder, quarantined) {
        loading.rename = Some(from.to_string());
    }
    let alone = loading.rename.as_ref().map_or(&row.partition, |_| match &holder {
        Holder::Other { from, .. } => from,
        Holder::None | Holder::Stub(_) => &row.partition,
    });
    if !quarantined && !waits_alone(&session, alone, &manifest).await? {
        load(run, &manifest, &loading).await?;
    }
    super::point::point("loaded", &unit.plan.partition);
    // Also what a run that was cut off left where readers look.
    let mut unit = run.withdraw(unit).await?;
    super::point::point("withdrawn-for-restore", &unit.plan.partition);
    let mut row = row;
    if !quarantined {
        // The definitions that were restored have them already.
        row.details.own_keys.clear();
        row.details.checks = dozo_postgres::checks_of_name(&session, &row.partition).await?;
    }
    let (attach_row, default, holder) = (&row, &from_default, &holder);
    let columns = manifest.datasets().first().map_or(&[][..], |d| d.columns.as_slice());
    let step = run
        .giving_way(|session| async move {
            let lock_timeout = run.lock_patience();
            let (from_default, holder) = (default.clone(), holder.clone());
            attach_again(&session, &Attach { row: attach_row, quarantined, from_default, holder, columns, lock_timeout }).await
        })
        .await;
    // After an error what became of it is not known: it stays withdrawn until the next run has asked the ledger.
    let refused = match step? {
        Step::Ended(Removal::Done(_)) => None,
        Step::Ended(Removal::Changed(why) | Removal::Refused(why)) | Step::InTheWay(why) => Some(why),
        Step::Ended(Removal::Gone) => Some("it is gone from quarantine".into()),
    };
    if let Some(why) = refused {
        unit = run.publish(unit).await?;
        return Ok(of_unit(run, &unit, "refused", 0, vec![why]));
    }
    super::point::point("attached", &unit.plan.partition);
    let expected = row.fingerprint;
    // Late rows went into the partition that was archived first; they were compared before.
    let found = match holder {
        Holder::Other { .. } => expected,
        Holder::None | Holder::Stub(_) => unit_fingerprint(&session, &manifest).await?,
    };
    let unit = run.record(unit, UnitEvent { fingerprint: Some(found), ..run.event(UnitState::Restored) }).await?;
    run.clear_staging(&unit).await?;
    let why = match (found == expected, quarantined, moved) {
        (true, ..) => match holder {
            Holder::Other { into, .. } => vec![format!("its rows are in {into} now, which has its range")],
            Holder::None | Holder::Stub(_) => vec![],
        },
        (false, _, true) => vec!["with rows that were in DEFAULT".to_owned()],
        (false, true, _) => vec!["with rows that were written to it in quarantine".to_owned()],
        (false, false, false) => vec![format!("it holds {found} instead of {expected}")],
    };
    let outcome = if found == expected || quarantined || moved { "restored" } else { "finding" };
    Ok(of_unit(run, &unit, outcome, 0, why))
}

/// Computes the fingerprint of the tables of a unit, in the server.
async fn unit_fingerprint(session: &Session, manifest: &Manifest) -> Result<dozo_model::Fingerprint> {
    let mut sum = dozo_model::Fingerprint::EMPTY;
    for dataset in manifest.datasets() {
        sum += dozo_postgres::fingerprint(session, &dataset.name, &dataset.columns, true).await?;
    }
    Ok(sum)
}

/// Tells whether an interrupted restore has loaded everything, and only the attaching is missing.
async fn waits_alone(session: &Session, table: &QualifiedName, manifest: &Manifest) -> Result<bool> {
    if !dozo_postgres::is_alone(session, table).await? {
        return Ok(false);
    }
    // A restore that is still to be continued says so itself.
    if dozo_postgres::restore_is_open(session).await? {
        return Ok(false);
    }
    let expected: dozo_model::Fingerprint = manifest.datasets().iter().map(|d| d.fingerprint).sum();
    let columns = manifest.datasets().first().map_or(&[][..], |d| d.columns.as_slice());
    let named = |c: &dozo_model::Column| (c.name.clone(), c.type_name.clone());
    let there = dozo_postgres::columns_now(session, table).await?;
    let squats = || EngineError::Options(format!("another table {table} stands there: rename or drop it first"));
    if !columns.iter().map(named).all(|c| there.contains(&c)) {
        return Err(squats());
    }
    let found = dozo_postgres::fingerprint(session, table, columns, false).await?;
    if found == expected { Ok(true) } else { Err(squats()) }
}

/// Says how the columns of a table differ from those that a unit was archived with: it cannot be a partition of it then.
async fn other_columns(session: &Session, row: &LedgerRow, manifest: &Manifest) -> Result<Option<String>> {
    let now = dozo_postgres::columns_now(session, &row.parent).await?;
    let then: Vec<(String, String)> = manifest
        .datasets()
        .first()
        .map(|d| d.columns.iter().map(|c| (c.name.clone(), c.type_name.clone())).collect())
        .unwrap_or_default();
    let text = |(name, kind): &(String, String)| format!("{name} ({kind})");
    let new: Vec<String> = now.iter().filter(|c| !then.contains(c)).map(text).collect();
    let gone: Vec<String> = then.iter().filter(|c| !now.contains(c)).map(text).collect();
    if new.is_empty() && gone.is_empty() {
        return Ok(None);
    }
    let list =
        |what: &str, names: &[String]| if names.is_empty() { String::new() } else { format!("{what} {}; ", names.join(", ")) };
    Ok(Some(format!(
        "{} has other columns by now: {}{}restore it with --as, then ALTER and ATTACH that table by hand",
        row.parent,
        list("new", &new),
        list("gone", &gone)
    )))
}

/// Returns the bound of a unit, written anew from its values: stored text is never run.
async fn typed_bound(session: &Session, row: &LedgerRow) -> Result<String> {
    let (kind, _) = key_of(session, row).await?;
    let range = label::range(&row.bound, kind).map_err(EngineError::Options)?;
    Ok(label::bound_sql(range))
}

/// Returns the type and name of the partition key above a unit.
async fn key_of(session: &Session, row: &LedgerRow) -> Result<(KeyKind, String)> {
    let found = tree(session, &row.root).await?.ok_or_else(|| EngineError::NoTable(row.root.clone()))?;
    let parent = found.tables.iter().find(|t| t.name == row.parent).ok_or_else(|| EngineError::NoTable(row.parent.clone()))?;
    match &parent.key {
        Some((column, Some(kind))) => Ok((*kind, column.clone())),
        _ => Err(EngineError::Options(format!("{} is not partitioned by a date any more", row.parent))),
    }
}

/// Looks for a partition that holds the range of a unit already.
async fn holder(session: &Session, row: &LedgerRow, rows: &[LedgerRow]) -> Result<Holder> {
    let found = tree(session, &row.root).await?.ok_or_else(|| EngineError::NoTable(row.root.clone()))?;
    let (kind, _) = key_of(session, row).await?;
    let same = |bound: &str| label::range(bound, kind).is_ok_and(|range| label::bound_sql(range) == row.bound);
    let Some(live) = found.tables.iter().find(|t| found.get(t.parent).is_some_and(|p| p.name == row.parent) && same(&t.bound))
    else {
        return Ok(Holder::None);
    };
    let stub = rows.iter().any(|r| r.details.stub.as_ref() == Some(&live.name));
    if stub {
        return Ok(Holder::Stub(live.name.clone()));
    }
    let quarantined = row.details.moved.first().filter(|m| m.oid == row.relid && row.state == LedgerState::Detached);
    let from = match quarantined {
        Some(table) => QualifiedName::new(QUARANTINE, &table.quarantined),
        None => {
            let unit = row.unit.rsplit('-').next().unwrap_or_default();
            QualifiedName::new(&row.partition.schema, format!("dozo_back_{}_{unit}", row.relid))
        }
    };
    Ok(Holder::Other { into: live.name.clone(), from })
}

/// Looks for rows of a unit's range in the DEFAULT partition: which, and how many.
async fn misplaced(session: &Session, row: &LedgerRow) -> Result<Option<(QualifiedName, String, u64)>> {
    let Some(default) = default_of(session, &row.parent).await? else { return Ok(None) };
    let (kind, column) = key_of(session, row).await?;
    let range = label::range(&row.bound, kind).map_err(EngineError::Options)?;
    let filter = label::filter_sql(&quote_ident(&column), range);
    let count = rows_where(session, &default, &filter).await?;
    Ok((count > 0).then_some((default, filter, count)))
}

/// Which of two truths counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The rows of the database: the archive forgets the unit.
    Live,
    /// Those of the archive: the partition leaves once more, if it holds the same.
    Archived,
}

/// Resolves a unit that is live and archived at once.
///
/// # Errors
/// See [`EngineError`].
pub async fn archive_resolve(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    source: &SourceSettings,
    jobs: &[&ArchiveJob],
    unit: &str,
    keep: Keep,
) -> Result<ArchivedLine> {
    with_run(ctx, repository, settings, source, Duration::ZERO, async |run| {
        let _ = run.reconcile(jobs).await?;
        let units = run.repository.archive_units(&run.source.name).await?;
        let mut matching = units.into_iter().filter(|u| u.plan.unit.as_str().starts_with(unit) && !u.last.state.is_last());
        let (Some(mut unit), None) = (matching.next(), matching.next()) else {
            return Err(EngineError::Options(format!("`{unit}` is no unit, or more than one: dozo archive list")));
        };
        let session = Session::connect_as(&run.info, "dozo archive").await?;
        let known = ledger_rows(&session).await?.iter().any(|r| r.unit == unit.plan.unit.as_str());
        // A copy never left, and what was only proven did not either.
        let known = known || unit.plan.root != "v1" || !has_left(&unit);
        let found = dozo_postgres::oid_of(&session, &unit.plan.partition).await?;
        let (false, Some(oid)) = (known, found) else {
            let why = "there is nothing to resolve: it is not live and archived at once".to_owned();
            return Ok(of_unit(&run, &unit, "refused", 0, vec![why]));
        };
        if run.foreign(&unit) {
            let why = "it was archived from another server: dozo source rebind, if this one continues that".to_owned();
            return Ok(of_unit(&run, &unit, "refused", 0, vec![why]));
        }
        if keep == Keep::Live {
            if dozo_postgres::place_of(&session, oid).await? != Some(dozo_postgres::Place::Attached) {
                let why = format!("{} is no partition here: there are no live rows to keep", unit.plan.partition);
                return Ok(of_unit(&run, &unit, "refused", 0, vec![why]));
            }
            let (live, stored) = (rows_where(&session, &unit.plan.partition, "true").await?, unit.last.fingerprint.map_or(0, |f| f.rows));
            if live < stored {
                let why = format!("{live} live rows, {stored} archived ones: nothing is thrown away; --keep archived, or restore it with --as and compare");
                return Ok(of_unit(&run, &unit, "refused", 0, vec![why]));
            }
            unit = run.withdraw(unit).await?;
            let event = UnitEvent { reason: Some("the live rows were kept".into()), ..run.event(UnitState::Restored) };
            let unit = run.record(unit, event).await?;
            run.clear_staging(&unit).await?;
            return Ok(of_unit(&run, &unit, "restored", 0, vec!["the live rows count; the archive has none of them".into()]));
        }
        let Some(job) = jobs.iter().find(|j| j.name == unit.plan.job) else {
            return Err(EngineError::Options(format!("archive.{} is not in the configuration", unit.plan.job)));
        };
        prepare_ledger(&session).await?;
        let plain = run.repository.unit_manifest(&unit).await?;
        let tables = tables_of(&session, oid).await?;
        unit.plan.relid = oid;
        // Without the token of a server that is another one by now.
        let manifest = without_tokens(plain);
        // What is to be left alone with the rows is read before.
        if let Err(why) = run.read_back(&run.manifest(&unit).await?).await? {
            return Ok(of_unit(&run, &unit, "finding", 0, vec![why]));
        }
        let (unit, step) = run.detach(job, unit, &manifest, &tables, Attached::Yes, LedgerDetails::default()).await?;
        if !matches!(step, Step::Ended(Removal::Done(_))) {
            run.take_back(&unit).await?;
        }
        match step {
            Step::Ended(Removal::Done(row)) => {
                let unit = if unit.is_published() { unit } else { run.publish(unit).await? };
                let outcome = if row.state == LedgerState::Dropped { "dropped" } else { "quarantined" };
                Ok(of_unit(&run, &unit, outcome, 0, vec!["the archived rows count".into()]))
            }
            Step::Ended(Removal::Changed(why)) => Ok(of_unit(&run, &unit, "finding", 0, vec![why])),
            Step::Ended(Removal::Refused(why)) | Step::InTheWay(why) => Ok(of_unit(&run, &unit, "failed", 0, vec![why])),
            Step::Ended(Removal::Gone) => Err(EngineError::Internal("a live partition is gone from quarantine".into())),
        }
    })
    .await
}

fn without_tokens(mut manifest: Manifest) -> Manifest {
    if let dozo_model::Content::Postgres(pg) = &mut manifest.content {
        pg.datasets.iter_mut().for_each(|d| d.change_token = None);
    }
    manifest
}
