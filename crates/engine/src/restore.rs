//! `restore`: a whole database, schemas or tables, from a backup into a database, and proven there.
//!
//! *Ordering*: roles looked up → schema before the rows (one transaction) → rows, each part in one transaction with its note of
//! progress → sequences → indexes and keys → materialized views → statistics → fingerprints. *Crash behaviour*: what is noted in
//! `dozo.restore` is complete; the next run of the same restore continues and touches nothing that it did not create.

mod folder;
mod into;
mod plan;
mod preview;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dozo_catalog::Repository;
use dozo_model::{Algorithm, Column, DatasetKind, Fingerprint, Manifest, PostgresContent, Stage};
use dozo_postgres::{
    ConnInfo, CopyForm, Definitions, LoadTable, LoadWorker, PgError, PgTools, RestoreTarget, RowEncoder, Section, TargetState,
    TargetTable, ToolChoice, cut_off, database_statements, left_out, shape_digest, subscription_statements, unsupported,
};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use folder::{FolderOptions, FolderReport, RestoredFile, RestoredSet, restore_folder};
pub use preview::{PreviewTable, RestorePreview, preview};

use crate::context::Context;
use crate::intact::Digests;
use crate::restore::plan::{PlannedEntry, RestorePlan};
use crate::verify::{batch_rows, open};
use crate::workers::Workers;
use crate::{EngineError, Result, texts};

/// What to restore, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Schemas; empty = all.
    pub schemas: Vec<String>,
    /// Tables; empty = all.
    pub tables: Vec<String>,
    /// New name of the one table or schema.
    pub rename: Option<String>,
    /// Leave out what the target cannot hold.
    pub skip_unsupported: bool,
    /// Do not set owners.
    pub no_owner: bool,
    /// Do not grant.
    pub no_privileges: bool,
    /// Do not use tablespaces.
    pub no_tablespaces: bool,
    /// Role that creates everything.
    pub role: Option<String>,
    /// Create the database first.
    pub create_db: bool,
    /// Compute the fingerprint of every restored table.
    pub verify: bool,
    /// Connections.
    pub workers: usize,
    /// Client programs.
    pub pg_tools: ToolChoice,
    /// What becomes of tables that are there.
    pub existing: Existing,
    /// Definitions, rows, or both.
    pub content: Content,
    /// Only rows that satisfy this SQL predicate.
    pub filter: Option<String>,
    /// Keep the rows that are replaced, beside their table.
    pub keep_replaced: bool,
    /// Under a name beside the live table.
    pub beside: bool,
    /// How long to wait for a lock of a live table.
    pub lock_timeout: Duration,
    /// A partition stays by itself, whether its tree is there or not.
    pub alone: bool,
    /// The target must not reach other servers, and nothing of the database acts by itself: foreign-data wrappers lose their handlers before
    /// anything is computed from foreign tables, event triggers and settings of the database are left out.
    pub cut_off: bool,
}

/// What becomes of tables that are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Existing {
    /// Nothing: the restore is refused.
    #[default]
    Refuse,
    /// Their rows stay, the stored ones are added.
    Append,
    /// They hold the stored rows afterwards.
    Replace,
}

impl Existing {
    fn word(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Append => "append",
            Self::Replace => "replace",
        }
    }
}

/// What is restored of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Content {
    /// Definitions and rows.
    #[default]
    All,
    /// Definitions.
    Schema,
    /// Rows.
    Data,
}

/// What a restore did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RestoreReport {
    /// Backup.
    pub backup: String,
    /// Where to.
    pub target: String,
    /// `done`, `partial` (the backup was), or `differs`.
    pub outcome: &'static str,
    /// Whether an interrupted restore was continued.
    pub continued: bool,
    /// Rows.
    pub rows: u64,
    /// Seconds per stage; `fetch` is the part of `data` in which workers waited for the store.
    pub seconds: BTreeMap<String, f64>,
    /// Per table.
    pub tables: Vec<RestoredTable>,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// A restored table.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RestoredTable {
    /// Name in the backup.
    pub table: String,
    /// Name in the target.
    pub restored_as: String,
    /// Rows.
    pub rows: u64,
    /// Fingerprint in the manifest.
    pub expected: Fingerprint,
    /// Fingerprint computed by the target; none when it was not asked for or could not be computed.
    pub found: Option<Fingerprint>,
    /// `equal`, `differs`, or `not run`.
    pub verdict: &'static str,
    /// Rows deleted, updated and inserted in a table that was there.
    pub changes: Option<(u64, u64, u64)>,
}

/// Restores a backup.
///
/// # Errors
/// See [`EngineError`]. Once rows are being loaded, an error names how much is complete, and the same command continues.
pub async fn restore(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    info: &ConnInfo,
    options: &RestoreOptions,
) -> Result<RestoreReport> {
    let cancel = ctx.cancel.clone();
    check_options(options)?;
    let work = dispatch(ctx, repository, manifest, info, options);
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(EngineError::Cancelled),
        done = work => done,
    }
}

fn check_options(options: &RestoreOptions) -> Result<()> {
    let refuse = |why: &str| Err(EngineError::Options(why.to_owned()));
    let part = !options.tables.is_empty();
    if options.filter.is_some() && !part {
        return refuse("--where needs --table");
    }
    if options.filter.is_some() && options.content == Content::Schema {
        return refuse("--where and --schema-only contradict each other");
    }
    if options.content == Content::Schema && options.existing != Existing::Refuse {
        return refuse("--existing is about rows, --schema-only restores none");
    }
    if options.beside && (!part || options.rename.is_some() || options.existing != Existing::Refuse) {
        return refuse("--beside goes with --table, and not with --as or --existing");
    }
    if options.existing == Existing::Replace && !part && options.schemas.is_empty() {
        return refuse("--existing replace and --swap need --table or --schema");
    }
    Ok(())
}

/// Opens the target and decides which way the restore goes.
async fn dispatch(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    info: &ConnInfo,
    options: &RestoreOptions,
) -> Result<RestoreReport> {
    ctx.progress.stage(Stage::Prepare, 0, 0);
    let pg = postgres(manifest)?;
    if options.create_db {
        match RestoreTarget::create_database(info, &pg.server).await {
            // It exists: whether it may be used is found out below.
            Err(PgError::Query { sqlstate, .. }) if sqlstate == "42P04" => {}
            other => other?,
        }
    }
    let (target, plan) = opened(repository, manifest, info, options).await?;
    let job = Job { ctx, repository, manifest, pg, info, options, target: &target };
    let live = into::groups(&target, &plan).await?;
    if into::into_existing(&live, options)? {
        return into::run(job, &plan, &live).await;
    }
    let plan = if options.alone { plan } else { plan.attaching(&target).await? };
    run(job, plan).await
}

/// Opens the target and plans the restore.
async fn opened(
    repository: &Repository,
    manifest: &Manifest,
    info: &ConnInfo,
    options: &RestoreOptions,
) -> Result<(RestoreTarget, RestorePlan)> {
    let Some(target) = RestoreTarget::open(info, options.role.as_deref()).await? else {
        return Err(EngineError::RestoreRunning { target: info.target() });
    };
    let pg = postgres(manifest)?;
    let tools = PgTools::find(&options.pg_tools, pg.server.version_num.max(pg.dump_version * 10_000)).await?;
    let plan = RestorePlan::new(repository, manifest, pg, &tools, options).await?;
    Ok((target, plan))
}

/// Returns what a backup holds of a Postgres database.
pub(crate) fn postgres(manifest: &Manifest) -> Result<&PostgresContent> {
    manifest.postgres().ok_or_else(|| EngineError::other_kind(manifest, "postgres"))
}

/// A restore that has begun.
#[derive(Clone, Copy)]
struct Job<'a> {
    ctx: &'a Context,
    repository: &'a Repository,
    manifest: &'a Manifest,
    pg: &'a PostgresContent,
    info: &'a ConnInfo,
    options: &'a RestoreOptions,
    target: &'a RestoreTarget,
}

impl Job<'_> {
    /// Returns what an interrupted run of the same restore has done, and whether there was one.
    fn resumed(&self, state: TargetState) -> Result<(HashSet<String>, bool)> {
        let target = || self.info.target();
        match state {
            TargetState::Interrupted(items) => Ok((items, true)),
            TargetState::Fresh => Ok((HashSet::new(), false)),
            TargetState::OtherRestore(label) => Err(EngineError::OtherRestore { target: target(), label }),
            TargetState::Occupied(tables) => Err(EngineError::TargetOccupied { target: target(), tables }),
        }
    }
}

async fn run(job: Job<'_>, mut plan: RestorePlan) -> Result<RestoreReport> {
    let Job { ctx, manifest, pg, info, options, target, .. } = job;
    let began = Instant::now();
    let target_name = info.target();
    let mut seconds = BTreeMap::new();
    let mut timed = |stage: Stage, since: Instant| seconds.insert(stage.label().to_owned(), since.elapsed().as_secs_f64());

    let names = plan.created_tables();
    let state = target.state(&plan.label, (!plan.whole).then_some(names.as_slice())).await?;
    let (done, continued) = job.resumed(state)?;
    if !options.no_owner || !options.no_privileges {
        let missing = target.missing_roles(&plan.roles).await?;
        if !missing.is_empty() {
            return Err(EngineError::MissingRoles { target: target_name, roles: missing });
        }
    }
    timed(Stage::Prepare, began);
    let stage = Instant::now();
    ctx.progress.stage(Stage::Schema, 0, 0);
    if continued {
        let gone = left_out(done.iter());
        if !gone.is_empty() {
            plan.warnings.push(format!("{} definitions were left out when this restore began", gone.len()));
        }
        plan.leave_out(gone);
    } else {
        let entries: Vec<_> = plan.entries(Section::PreData).map(|e| (&e.entry, e.sql.clone())).collect();
        let made = target
            .create(Definitions {
                label: &plan.label,
                entries: &entries,
                tolerated: &plan.tolerated,
                with_xml: &plan.with_xml,
                skip: options.skip_unsupported,
                probe: options.filter.as_deref().map(|f| (names.as_slice(), f)),
            })
            .await?;
        drop(entries);
        plan.warnings.extend(made.adapted);
        plan.warnings.extend(made.left_out.values().map(|what| format!("left out {what}")));
        plan.leave_out(made.left_out.into_keys().collect());
    }
    if options.cut_off {
        cut_off(target.session()).await?;
    }
    timed(Stage::Schema, stage);

    let mut complete = Completed { total: plan.datasets.len(), tables: 0 };
    let mut warnings = plan.warnings.clone();
    let lost = manifest.left_out.iter().filter(|l| l.error && plan.whole);
    warnings.extend(lost.map(|l| format!("the backup is partial: {} is not in it ({})", l.name, l.reason)));
    let (mut late, mut fetching) = (0, 0.0);
    let rest = async {
        let stage = Instant::now();
        plan.keep_there(target).await?;
        let restored = plan.created_tables();
        let tables = target.tables(&restored).await?;
        let clock = FetchClock::default();
        let source = LoadSource { datasets: &plan.datasets, tables: &tables, objects: &plan.objects, clock: &clock };
        // Rows that name objects which are not there yet, such as an index by its regclass.
        let mut early = Vec::new();
        // What a server lacks may show only now: a collation in an index, a function in a view.
        let mut left_out_late = Vec::new();
        if options.content != Content::Schema {
            let items = open_items(&plan.datasets, &tables, &done, &mut complete)?;
            let owners = !options.no_owner && options.role.is_none();
            early = load_rows(job, source, items, &mut complete, Missing::Postpone).await?;
            // Tables of an extension may refer to each other: their keys stand since the extension was made.
            loop {
                let (again, names): (Vec<_>, Vec<_>) =
                    early.into_iter().partition(|i| plan.datasets[i.dataset].dataset.kind == DatasetKind::Configuration);
                let before = again.len();
                early = load_rows(job, source, again, &mut complete, Missing::Postpone).await?;
                let stuck = early.len() == before;
                early.extend(names);
                if stuck {
                    break;
                }
            }
            target.describe_large_objects(&plan.large_objects, owners, !options.no_privileges).await?;
            target.set_sequences(&plan.sequences).await?;
            target.set_identities(&plan.identities).await?;
        }
        timed(Stage::Data, stage);
        fetching = clock.share() * stage.elapsed().as_secs_f64();
        // Rows by a predicate: all of them are loaded and compared, then the others go.
        let (mut compared, mut left_out) = (None, 0);
        if let Some(filter) = options.filter.as_deref().filter(|_| !done.contains(FILTERED)) {
            compared = Some(compare(ctx, info, options, &plan, tables.clone()).await?);
            left_out = target.keep_only(&restored, filter, FILTERED).await?;
        }

        let stage = Instant::now();
        ctx.progress.stage(Stage::PostData, 0, 0);
        let mut groups = plan.post_data();
        let mut event_triggers = std::mem::take(&mut groups[RestorePlan::EVENT_TRIGGERS]);
        if options.cut_off {
            event_triggers.clear();
        }
        for (n, group) in groups.into_iter().enumerate() {
            if n == RestorePlan::FOREIGN_KEYS && !early.is_empty() {
                load_rows(job, source, std::mem::take(&mut early), &mut complete, Missing::Fail).await?;
            }
            let refused = run_entries(ctx, info, options, group, &done).await?;
            left_out_late.extend(refused);
        }
        for view in &plan.views {
            let rows = match target.refresh(&view.name).await {
                Err(PgError::Query { sqlstate, reason, .. }) if options.skip_unsupported && unsupported(&sqlstate, &reason) => {
                    left_out_late.push(format!("rows of {}: {reason}", view.name));
                    continue;
                }
                Err(PgError::Query { sqlstate, .. }) if options.cut_off && sqlstate == "55000" => {
                    warnings.push(format!("materialized view {} stays empty: it reads another server", view.name));
                    continue;
                }
                rows => rows?,
            };
            if view.rows.is_some_and(|before| before != rows) {
                warnings.push(format!(
                    "materialized view {} has {rows} rows, {} when it was backed up",
                    view.name,
                    view.rows.unwrap_or(0)
                ));
            }
        }
        let owners = !options.no_owner && options.role.is_none();
        if plan.whole && options.content != Content::Data {
            let mut statements = subscription_statements(&pg.database.subscriptions, owners);
            for subscription in pg.database.subscriptions.iter().filter(|s| s.connection.is_some()) {
                warnings.push(format!(
                    "subscription {} is switched off, without password and slot{}",
                    subscription.name,
                    subscription.slot.as_ref().map(|s| format!(" (it was {s})")).unwrap_or_default()
                ));
            }
            if options.create_db && !options.cut_off {
                statements.extend(database_statements(&pg.database, &info.database, !options.no_privileges));
            }
            warnings.extend(target.try_statements(&statements).await);
        }
        let of_users = plan.datasets.iter().filter(|d| d.dataset.kind != DatasetKind::LargeObjects);
        target.analyze(&of_users.map(|d| d.target.clone()).collect::<Vec<_>>()).await?;
        left_out_late.extend(run_entries(ctx, info, options, event_triggers, &done).await?);
        late = left_out_late.len();
        warnings.extend(left_out_late.into_iter().map(|what| format!("left out {what}")));
        timed(Stage::PostData, stage);

        let stage = Instant::now();
        let reports = if let Some(reports) = compared {
            reports
        } else if options.verify && options.content != Content::Schema && options.filter.is_none() {
            compare(ctx, info, options, &plan, tables).await?
        } else {
            plan.datasets.iter().map(|d| d.report(None, "not run")).collect::<Vec<_>>()
        };
        timed(Stage::Verify, stage);
        target.finish().await?;
        Ok::<_, EngineError>((reports, left_out))
    };
    let (tables, left_out) = match rest.await {
        Ok(done) => done,
        Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
        Err(e) => {
            return Err(EngineError::RestoreStopped { complete: complete.tables, total: complete.total, source: Box::new(e) });
        }
    };
    let differs = tables.iter().any(|t| t.verdict == "differs");
    seconds.insert("total".into(), began.elapsed().as_secs_f64());
    seconds.insert("fetch".into(), fetching);
    Ok(RestoreReport {
        backup: format!("{}@{}", manifest.source, manifest.id),
        target: target_name,
        outcome: match (differs, plan.whole && !manifest.complete || plan.unmade + late > 0) {
            (true, _) => "differs",
            (false, true) => "partial",
            (false, false) => "done",
        },
        continued,
        rows: tables.iter().map(|t| t.rows).sum::<u64>().saturating_sub(left_out),
        seconds,
        tables,
        warnings,
    })
}

/// Noted when the rows that do not satisfy the predicate are gone.
const FILTERED: &str = "rows by predicate";

struct Completed {
    total: usize,
    tables: usize,
}

/// What is loaded, the tables that take it, and the digest of each object.
#[derive(Clone, Copy)]
struct LoadSource<'a> {
    datasets: &'a [plan::PlannedDataset],
    tables: &'a [Option<TargetTable>],
    objects: &'a Digests,
    clock: &'a FetchClock,
}

/// How long workers waited for the store, and how long they worked in all, in microseconds.
#[derive(Debug, Clone, Default)]
struct FetchClock(Arc<[AtomicU64; 2]>);

impl FetchClock {
    fn add(&self, fetching: Duration, working: Duration) {
        for (sum, time) in self.0.iter().zip([fetching, working]) {
            sum.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Returns which share of their time workers waited for the store.
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a run")]
    fn share(&self) -> f64 {
        let [fetching, working] = [0, 1].map(|i| self.0[i].load(Ordering::Relaxed) as f64);
        if working > 0.0 { fetching / working } else { 0.0 }
    }
}

/// A part of a table that is not loaded yet.
#[derive(Clone)]
struct LoadItem {
    dataset: usize,
    part: usize,
    item: String,
}

/// What becomes of rows that name an object which is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// They are loaded later.
    Postpone,
    /// They cannot be loaded.
    Fail,
}

/// Tells whether a value names an object that does not exist (undefined table, function, object, schema), or refers to a row that does
/// not.
fn names_missing_object(error: &PgError) -> bool {
    matches!(error, PgError::Query { sqlstate, .. } if ["42P01", "42883", "42704", "3F000", "23503"].contains(&sqlstate.as_str()))
}

/// As [`names_missing_object`], of what ended a restore.
pub(crate) fn names_missing(error: &EngineError) -> bool {
    match error {
        EngineError::RestoreStopped { source, .. } => names_missing(source),
        EngineError::Postgres(e) => names_missing_object(e),
        _ => false,
    }
}

/// Lists the parts that are still to be loaded.
fn open_items(
    datasets: &[plan::PlannedDataset],
    tables: &[Option<TargetTable>],
    done: &HashSet<String>,
    complete: &mut Completed,
) -> Result<Vec<LoadItem>> {
    let mut items = Vec::new();
    for (i, (planned, table)) in datasets.iter().zip(tables).enumerate() {
        if table.is_none() {
            return Err(EngineError::NoTable(planned.target.clone()));
        }
        let before = items.len();
        for (n, part) in planned.dataset.parts.iter().enumerate() {
            let item = format!("rows of {} in {} part {n}", planned.dataset.name, planned.target);
            if part.fingerprint.rows > 0 && !done.contains(&item) {
                items.push(LoadItem { dataset: i, part: n, item });
            }
        }
        complete.tables += usize::from(items.len() == before);
    }
    Ok(items)
}

/// Loads parts in parallel. Returns those that are to be loaded later.
async fn load_rows(
    job: Job<'_>,
    source: LoadSource<'_>,
    mut items: Vec<LoadItem>,
    complete: &mut Completed,
    missing: Missing,
) -> Result<Vec<LoadItem>> {
    let Job { ctx, repository, info, options, .. } = job;
    let mut left: Vec<usize> = vec![0; source.datasets.len()];
    items.iter().for_each(|i| left[i.dataset] += 1);
    let rows_of = |i: &LoadItem| source.datasets[i.dataset].dataset.parts[i.part].fingerprint.rows;
    let bytes: u64 = source.datasets.iter().map(|d| d.dataset.bytes_read).sum();
    ctx.progress.stage(Stage::Data, items.iter().map(rows_of).sum(), bytes);
    items.sort_by_key(|i| std::cmp::Reverse(rows_of(i)));

    let (info, role) = (info.clone(), options.role.clone());
    let start = move |stop: &CancellationToken| Ok(LoadWorker::start(&info, role.as_deref(), stop.clone())?);
    let (datasets, tables) = (source.datasets.to_vec(), source.tables.to_vec());
    let (store, handle, progress) = (repository.store().clone(), Handle::current(), Arc::clone(&ctx.progress));
    let (objects, cancel) = (source.objects.clone(), ctx.cancel.clone());
    let clock = source.clock.clone();
    let work = move |worker: &mut LoadWorker, item: LoadItem| {
        let began = Instant::now();
        let planned = &datasets[item.dataset];
        let part = &planned.dataset.parts[item.part];
        let fetched = handle.block_on(store.fetch(&part.object))?;
        let fetching = began.elapsed();
        objects.check(&part.object, fetched.bytes, fetched.sha256)?;
        let encode = |source| EngineError::Encode { object: part.object.clone(), source };
        let live = tables[item.dataset].clone().unwrap_or_default();
        let form = CopyForm::of(planned.dataset.format);
        let into = LoadTable { name: &planned.target, columns: &planned.dataset.columns, live: &live, form };
        let name = planned.target.to_string();
        let loaded = worker.load(&into, &item.item, |put: &mut dyn FnMut(&[u8]) -> Result<()>| {
            if form != CopyForm::Binary {
                texts::bytes(fetched.data, &planned.dataset, part, &cancel, &mut |bytes| {
                    progress.advance(&name, 0, bytes.len() as u64);
                    put(bytes)
                })?;
                progress.advance(&name, part.fingerprint.rows, 0);
                return Ok(());
            }
            let reader = open(fetched.data, &planned.dataset).map_err(encode)?;
            let batches = reader.rows(part.row_groups, batch_rows(&planned.dataset)).map_err(encode)?;
            let mut encoder = RowEncoder::for_load(&planned.dataset.columns);
            for batch in batches {
                let batch = batch.map_err(encode)?;
                let mut bytes = 0;
                encoder.encode(&batch, |tuple| {
                    bytes += tuple.len() as u64;
                    put(tuple)
                })?;
                progress.advance(&name, batch.num_rows() as u64, bytes);
            }
            Ok::<(), EngineError>(())
        });
        clock.add(fetching, began.elapsed());
        match loaded {
            Ok(rows) if rows == part.fingerprint.rows => Ok((item, true)),
            Ok(rows) => Err(EngineError::Internal(format!("{rows} of {} rows of {name} were loaded", part.fingerprint.rows))),
            Err(EngineError::Postgres(e)) if missing == Missing::Postpone && names_missing_object(&e) => Ok((item, false)),
            Err(e) => Err(e),
        }
    };
    let done = Workers::start(options.workers, items, &ctx.cancel, start, work)
        .collect(|(item, loaded)| {
            left[item.dataset] -= usize::from(*loaded);
            if left[item.dataset] == 0 {
                complete.tables += 1;
                let planned = &source.datasets[item.dataset];
                ctx.progress.done(&planned.target.to_string(), planned.dataset.fingerprint.rows, 0.0);
            }
        })
        .await?;
    Ok(done.into_iter().filter(|(_, loaded)| !loaded).map(|(item, _)| item).collect())
}

/// Runs entries that do not need each other, in parallel. Returns what the server lacks something for, where that may be left out.
async fn run_entries(
    ctx: &Context,
    info: &ConnInfo,
    options: &RestoreOptions,
    entries: Vec<PlannedEntry>,
    done: &HashSet<String>,
) -> Result<Vec<String>> {
    let left: Vec<PlannedEntry> = entries.into_iter().filter(|e| !done.contains(&e.item())).collect();
    let parallel = if left.iter().any(|e| e.in_order) { 1 } else { options.workers };
    let (info, role) = (info.clone(), options.role.clone());
    let start = move |stop: &CancellationToken| Ok(LoadWorker::start(&info, role.as_deref(), stop.clone())?);
    let skip = options.skip_unsupported;
    let work = move |worker: &mut LoadWorker, entry: PlannedEntry| match worker.run(
        &format!("creating {}", entry.entry.label()),
        &entry.sql,
        &entry.item(),
    ) {
        Ok(()) => Ok(None),
        Err(PgError::Query { sqlstate, reason, .. }) if skip && unsupported(&sqlstate, &reason) => {
            Ok(Some(format!("{}: {reason}", entry.entry.label())))
        }
        Err(e) => Err(e.into()),
    };
    let done = Workers::start(parallel, left, &ctx.cancel, start, work).collect(|_| {}).await?;
    Ok(done.into_iter().flatten().collect())
}

async fn compare(
    ctx: &Context,
    info: &ConnInfo,
    options: &RestoreOptions,
    plan: &RestorePlan,
    tables: Vec<Option<TargetTable>>,
) -> Result<Vec<RestoredTable>> {
    ctx.progress.stage(Stage::Verify, plan.datasets.iter().map(|d| d.dataset.fingerprint.rows).sum(), 0);
    let (info, role) = (info.clone(), options.role.clone());
    let start = move |stop: &CancellationToken| Ok(LoadWorker::start(&info, role.as_deref(), stop.clone())?);
    let datasets = plan.datasets.clone();
    let progress = Arc::clone(&ctx.progress);
    let work = move |worker: &mut LoadWorker, n: usize| {
        let planned = &datasets[n];
        let live = tables[n].clone().unwrap_or_default();
        let mut found = live.columns.clone();
        // A partition restored by itself has its own order of columns; the manifest has its root's.
        let place = |name: &str| planned.dataset.columns.iter().position(|c| c.name == name);
        found.sort_by_key(|c| place(&c.name));
        if Algorithm::of(&planned.dataset.columns) == Algorithm::T1 {
            found = Column::printed_all(found);
        }
        // Fingerprints mean the same only where the shape is the same.
        if shape_digest(&found) != planned.dataset.shape {
            return Ok((n, planned.report(None, "differs")));
        }
        let form = CopyForm::of(planned.dataset.format);
        let table = LoadTable { name: &planned.target, columns: &planned.dataset.columns, live: &live, form };
        let report = match worker.fingerprint(&table) {
            Ok(found) if found == planned.dataset.fingerprint => planned.report(Some(found), "equal"),
            Ok(found) => planned.report(Some(found), "differs"),
            // A row that is too large for the statement: the verdict is *not run*, never green.
            Err(e) if crate::backup::too_large(&e) => planned.report(None, "not run"),
            Err(e) => return Err(e.into()),
        };
        progress.advance(&planned.target.to_string(), planned.dataset.fingerprint.rows, 0);
        Ok((n, report))
    };
    let mut order: Vec<usize> = (0..plan.datasets.len()).collect();
    order.sort_by_key(|n| std::cmp::Reverse(plan.datasets[*n].dataset.fingerprint.rows));
    let mut reports = Workers::start(options.workers, order, &ctx.cancel, start, work).collect(|_| {}).await?;
    reports.sort_by_key(|(n, _)| *n);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}
