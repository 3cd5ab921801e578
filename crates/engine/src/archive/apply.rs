//! `archive apply`: what was begun is brought to its end, what waited long enough is dropped, what is old enough leaves.
//!
//! *Ordering*: the source's lease (backup and archive exclude each other) → reconcile both ledgers → publish, drop → plan → unit by unit
//! in the plan's order. *Crash behaviour*: every step is an event; the next run goes on where the ledgers say. One unit that fails
//! does not stop those that do not need it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use dozo_catalog::{ArchivedUnit, Repository};
use dozo_model::{BackupId, Fingerprint, QualifiedName, TableFormat, Timestamp, UnitState, VerifyLevel};
use dozo_postgres::{
    LedgerDetails, LedgerRow, LedgerState, PgError, PgTools, Place, Quarantined, Removal, Session, drop_quarantined,
    forget_announced, forget_if_attached, ledger_rows, place_of, prepare_ledger, tables_of, try_run_lock,
};
use dozo_store::StoreError;
use serde::Serialize;

use super::detach::{Attached, Step};
use super::export::{Exported, Run, checks};
use super::has_left;
use super::job::{ArchiveJob, Then};
use super::plan::{Fate, decide};
use super::point::point;
use super::publish::as_published;
use super::survey::{Candidate, Survey};
use crate::backup::Warnings;
use crate::context::{Context, PostgresSettings, RepositorySettings, SourceSettings};
use crate::{EngineError, Result};

/// How often a partition whose rows change under the export is exported again.
const ROUNDS: usize = 3;

/// How an archive run is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// How long a backup of the source is waited for.
    pub wait: Duration,
    /// Only these partitions, by name or by the end of their folder's name; empty = all.
    pub partitions: Vec<String>,
}

/// What became of a partition.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchivedLine {
    /// Job.
    pub job: String,
    /// Source.
    pub source: String,
    /// Partition.
    pub partition: QualifiedName,
    /// Folder of the archive.
    pub label: String,
    /// Unit, where there is one.
    pub unit: Option<String>,
    /// `copied`, `quarantined`, `dropped`, `published`, `restored`, `stays`, `refused`, `finding`, `failed`.
    pub outcome: &'static str,
    /// Rows and digests.
    pub fingerprint: Option<Fingerprint>,
    /// Bytes that the database has no more.
    pub freed: u64,
    /// Why, where it is not what was wanted.
    pub reasons: Vec<String>,
}

/// What a run did.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchiveReport {
    /// Partitions.
    pub units: Vec<ArchivedLine>,
    /// What was found in the ledgers and brought to an end.
    pub reconciled: Vec<String>,
    /// Jobs of which nothing can be done, and why.
    pub refused: Vec<String>,
    /// Bytes that the database has no more.
    pub freed: u64,
    /// Bytes that lie in quarantine.
    pub quarantined: u64,
    /// Percent of the server's data disk in use, where it can be seen.
    pub disk_used: Option<u8>,
    /// What people should know.
    pub warnings: Vec<String>,
}

impl ArchiveReport {
    /// Tells whether something could not be done that was to be.
    #[must_use]
    pub fn partial(&self) -> bool {
        !self.refused.is_empty() || self.units.iter().any(|u| matches!(u.outcome, "refused" | "failed"))
    }

    /// Tells whether stored or live rows are not what they must be.
    #[must_use]
    pub fn findings(&self) -> bool {
        self.units.iter().any(|u| u.outcome == "finding")
    }
}

/// Runs the archive jobs of a source.
///
/// # Errors
/// See [`EngineError`]. What one partition meets is in the report.
pub async fn archive_apply(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    source: &SourceSettings,
    jobs: &[&ArchiveJob],
    options: &ArchiveOptions,
) -> Result<ArchiveReport> {
    settings.check_space(repository.store())?;
    with_run(ctx, repository, settings, source, options.wait, async |run| {
        let work = Work { run: &run, jobs, options };
        work.go().await
    })
    .await
}

/// Takes the lease of a source, opens what a run needs, and gives the lease back.
pub(crate) async fn with_run<T>(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    source: &SourceSettings,
    wait: Duration,
    work: impl AsyncFnOnce(Run<'_>) -> Result<T>,
) -> Result<T> {
    let Some(postgres) = source.postgres() else {
        return Err(EngineError::Options(format!("source `{}` is no Postgres database", source.name)));
    };
    let info = postgres.connection()?;
    let session = Session::connect_as(&info, "dozo archive").await?;
    let facts = session.facts().await?;
    let tools = PgTools::find(&postgres.pg_tools, facts.version_num).await?;
    let id = BackupId::new(ctx.clock.now(), &mut rand::rng());
    let joined = repository.joined(&source.name).await?;
    let lease = repository.lease(&source.name, &id, Arc::clone(&ctx.clock), wait).await?;
    let warnings = Warnings::new(source.name.as_str(), Arc::clone(&ctx.progress));
    if let Some(broken) = &lease.broken {
        warnings.add(format!("took over from a dead process (pid {} on {})", broken.pid, broken.host));
    }
    let run = Run {
        ctx,
        repository,
        settings,
        source,
        postgres: PostgresSettings { format: TableFormat::Parquet, formats: vec![], ..postgres.clone() },
        info,
        tools,
        facts,
        joined,
        warnings,
    };
    // Whoever lost the lease while it slept finds the database taken.
    let alone = try_run_lock(&session).await;
    let done = match alone {
        Ok(true) => tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => Err(EngineError::Cancelled),
            done = work(run) => done,
        },
        Ok(false) => Err(EngineError::ArchiveRunning { target: session.info().target() }),
        Err(e) => Err(e.into()),
    };
    let released = lease.release().await;
    if let (Ok(_), Err(e)) = (&done, released) {
        ctx.progress.warn(&format!("the lease could not be given back: {e}"));
    }
    done
}

struct Work<'a> {
    run: &'a Run<'a>,
    jobs: &'a [&'a ArchiveJob],
    options: &'a ArchiveOptions,
}

impl Work<'_> {
    async fn go(&self) -> Result<ArchiveReport> {
        let run = self.run;
        let mut report = ArchiveReport::default();
        if run.facts.standby {
            let text = format!("{} is a replica: archive on the primary", run.info.target());
            return Err(EngineError::Options(text));
        }
        (report.reconciled, report.units) = run.reconcile(self.jobs).await?;
        self.finish(&mut report).await?;
        let survey = self.survey().await?;
        let (fates, order) = decide(&survey);
        let leaving = order.iter().any(|i| survey.jobs[survey.candidates[*i].job].job.then != Then::Keep);
        if leaving {
            prepare_ledger(&survey.session).await?;
        }
        let mut stayed: HashSet<u32> = HashSet::new();
        for i in order {
            let candidate = &survey.candidates[i];
            let job = survey.jobs[candidate.job].job;
            if !self.wants(&candidate.partition.name, candidate.label.as_deref()) {
                stayed.extend(&candidate.leaves);
                continue;
            }
            // What was to leave first and did not keeps what it refers to.
            if let Some(kept) = candidate.referring.iter().find(|r| stayed.contains(&r.table)) {
                stayed.extend(&candidate.leaves);
                let why = format!("{} rows of {}, which stays, refer to it", kept.rows, kept.name);
                report.units.push(line(run, job, candidate, "stays", vec![why]));
                continue;
            }
            let done = match run.archive(job, &survey, candidate).await {
                Ok(done) => done,
                Err(e) if stops_all(&e) => return Err(e),
                Err(e) => line(run, job, candidate, "failed", vec![crate::error::chain(&e)]),
            };
            if matches!(done.outcome, "refused" | "failed" | "finding") {
                stayed.extend(&candidate.leaves);
            }
            report.freed += done.freed;
            if done.outcome == "quarantined" {
                report.quarantined += candidate.bytes;
            }
            report.units.push(done);
        }
        for (i, fate) in fates.iter().enumerate() {
            let candidate = &survey.candidates[i];
            let job = survey.jobs[candidate.job].job;
            match fate {
                Fate::Go => {}
                _ if !self.wants(&candidate.partition.name, candidate.label.as_deref()) => {}
                // Whoever names a partition wants to hear why it stays.
                Fate::Stay(_) if candidate.young && self.options.partitions.is_empty() => {}
                Fate::Stay(why) => {
                    let outcome = if self.options.partitions.is_empty() { "stays" } else { "refused" };
                    report.units.push(line(run, job, candidate, outcome, why.clone()));
                }
                Fate::Refused(why) => report.units.push(line(run, job, candidate, "refused", why.clone())),
            }
        }
        for job in &survey.jobs {
            report.refused.extend(job.refusals.iter().map(|why| format!("archive.{}: {why}", job.job.name)));
        }
        report.warnings.extend(run.warnings.all());
        report.disk_used =
            super::disk::used(&survey.session, self.jobs.first().map_or(&[][..], |j| &j.disk_command)).await.ok().flatten();
        Ok(report)
    }

    async fn survey(&self) -> Result<Survey<'_>> {
        Survey::look(Some(self.run.repository), self.run.source, self.jobs, self.run.ctx.clock.fixed()).await
    }

    fn wants(&self, partition: &QualifiedName, label: Option<&str>) -> bool {
        let named = |text: &String| {
            &partition.name == text
                || &partition.to_string() == text
                || label.is_some_and(|l| l == text || l.split_once('=').is_some_and(|(_, end)| end == text))
        };
        self.options.partitions.is_empty() || self.options.partitions.iter().any(named)
    }

    /// Publishes what left and is not published, and drops what has waited long enough.
    async fn finish(&self, report: &mut ArchiveReport) -> Result<()> {
        let run = self.run;
        let session = Session::connect_as(&run.info, "dozo archive").await?;
        let rows = ledger_rows(&session).await?;
        let now = run.ctx.clock.fixed().unwrap_or(run.facts.now);
        for unit in run.repository.archive_units(&run.source.name).await? {
            let row = rows.iter().find(|r| r.unit == unit.plan.unit.as_str() && !run.foreign(&unit));
            let Some(row) = row else { continue };
            let job = self.jobs.iter().find(|j| j.name == unit.plan.job);
            let (Some(job), true) = (job, self.wants(&unit.plan.partition, Some(&unit.plan.label))) else { continue };
            let gone = matches!(row.state, LedgerState::Detached | LedgerState::Dropped);
            let mut unit = unit;
            if gone && !unit.is_published() {
                unit = match run.publish(unit.clone()).await {
                    Ok(unit) => {
                        report.units.push(of_unit(run, &unit, "published", 0, vec![]));
                        unit
                    }
                    // Neither staged nor published, or not what was proven: told, and the others go on.
                    Err(e @ (EngineError::Damaged { .. } | EngineError::Store(StoreError::NotFound { .. }))) => {
                        report.units.push(of_unit(run, &unit, "finding", 0, vec![crate::error::chain(&e)]));
                        continue;
                    }
                    Err(e) => return Err(e),
                };
            }
            let over = row.left_at.checked_add(job.quarantine).is_ok_and(|over: Timestamp| over <= now);
            if row.state == LedgerState::Detached && job.then == Then::Drop && over {
                let line = run.dropping(unit, row).await?;
                report.freed += line.freed;
                report.units.push(line);
            }
        }
        Ok(())
    }
}

/// Without its server or its store, nothing that comes behind can be done either.
fn stops_all(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Cancelled
            | EngineError::Internal(_)
            | EngineError::Store(_)
            | EngineError::Catalog(_)
            | EngineError::Postgres(PgError::Unreachable { .. } | PgError::Lost { .. })
    )
}

impl Run<'_> {
    /// As [`Run::drop_unit`]; what the server refuses is a line, and the others go on.
    pub(crate) async fn dropping(&self, unit: ArchivedUnit, row: &LedgerRow) -> Result<ArchivedLine> {
        match self.drop_unit(unit.clone(), row).await {
            Err(e) if !stops_all(&e) => Ok(of_unit(self, &unit, "failed", 0, vec![crate::error::chain(&e)])),
            done => done,
        }
    }

    /// Drops a quarantined partition once everything that it was exported to has been read back.
    pub(crate) async fn drop_unit(&self, unit: ArchivedUnit, row: &LedgerRow) -> Result<ArchivedLine> {
        let plain = self.repository.unit_manifest(&unit).await?;
        let manifest = as_published(&unit, plain.clone());
        let check = crate::verify::examine(self.ctx, self.repository, &manifest, VerifyLevel::Content, None).await?;
        if check.verdict != dozo_model::Verdict::Passed {
            let found = check.findings.iter().map(|f| format!("{}: {}", f.object, f.detail)).chain(check.not_run.iter().cloned());
            return Ok(of_unit(self, &unit, "finding", 0, found.chain(["it was not dropped".into()]).collect()));
        }
        let tables: Vec<(u32, QualifiedName)> = row.details.moved.iter().map(|m| (m.oid, m.name.clone())).collect();
        let leaves = checks(&plain, &tables);
        let bytes = self.bytes_of(&tables).await?;
        let step = self
            .giving_way(|session| {
                let leaves = leaves.as_slice();
                async move { drop_quarantined(&session, &Quarantined { row, leaves, lock_timeout: self.lock_patience() }).await }
            })
            .await?;
        match step {
            Step::Ended(Removal::Done(_)) => {
                point("dropping", &unit.plan.partition);
                let unit = self.record(unit, self.event(UnitState::Dropped)).await?;
                // The newest event says dropped; that it is published was said before.
                Ok(of_unit(self, &unit, "dropped", bytes, vec![]))
            }
            Step::Ended(Removal::Gone) => {
                let unit = self.record(unit, self.event(UnitState::Dropped)).await?;
                Ok(of_unit(self, &unit, "dropped", 0, vec!["somebody else had dropped it in quarantine".into()]))
            }
            Step::Ended(Removal::Changed(why)) => {
                let more =
                    "it was written to in quarantine, and stays: `dozo restore --archive` brings it back with those rows".into();
                Ok(of_unit(self, &unit, "finding", 0, vec![why, more]))
            }
            Step::Ended(Removal::Refused(why)) | Step::InTheWay(why) => Ok(of_unit(self, &unit, "failed", 0, vec![why])),
        }
    }

    async fn bytes_of(&self, tables: &[(u32, QualifiedName)]) -> Result<u64> {
        let session = Session::connect_as(&self.info, "dozo archive").await?;
        Ok(dozo_postgres::bytes_of(&session, &tables.iter().map(|(oid, _)| *oid).collect::<Vec<_>>()).await?)
    }

    /// Archives one partition.
    async fn archive(&self, job: &ArchiveJob, survey: &Survey<'_>, candidate: &Candidate) -> Result<ArchivedLine> {
        let mut why = String::new();
        let mut ready = survey.unit_of(candidate).filter(|u| u.last.state == UnitState::Proven).cloned();
        if let Some(unit) = ready.take_if(|u| Some(&u.plan.label) != candidate.label.as_ref()) {
            self.abandon(unit, "its folder has another name by now").await?;
        }
        for _ in 0..ROUNDS {
            let (unit, manifest) = match ready.take() {
                Some(unit) => {
                    // Time has passed since it was proven.
                    let manifest = self.repository.unit_manifest(&unit).await?;
                    if let Err(why) = self.read_back(&manifest).await? {
                        self.warnings.add(format!("{}: {why}: it is exported again", candidate.partition.name));
                        self.abandon(unit, &why).await?;
                        continue;
                    }
                    (unit, manifest)
                }
                None => match self.export(job, candidate).await? {
                    Exported::Proven(done) => *done,
                    Exported::Refused(why) => return Ok(line(self, job, candidate, "refused", vec![why])),
                },
            };
            if job.then == Then::Keep {
                let unit = self.publish(unit).await?;
                self.retire_copies(survey, &unit).await?;
                return Ok(of_unit(self, &unit, "copied", 0, vec![]));
            }
            let (unit, step) =
                self.detach(job, unit, &manifest, &candidate.tables, Attached::Yes, LedgerDetails::default()).await?;
            match step {
                Step::Ended(Removal::Done(row)) => {
                    let unit = self.publish(unit).await?;
                    self.retire_copies(survey, &unit).await?;
                    let dropped = row.state == LedgerState::Dropped;
                    let freed = if dropped { candidate.bytes } else { 0 };
                    return Ok(of_unit(self, &unit, if dropped { "dropped" } else { "quarantined" }, freed, vec![]));
                }
                Step::Ended(Removal::Changed(changed)) => {
                    self.take_back(&unit).await?;
                    self.abandon(unit, &changed).await?;
                    why = changed;
                }
                Step::Ended(Removal::Refused(why)) => {
                    self.take_back(&unit).await?;
                    self.abandon(unit, &why).await?;
                    return Ok(line(self, job, candidate, "refused", vec![why]));
                }
                Step::Ended(Removal::Gone) => {
                    return Err(EngineError::Internal("a partition that was never in quarantine is gone from it".into()));
                }
                Step::InTheWay(why) => {
                    // What was proven stays: the next run needs only the detach.
                    return Ok(line(self, job, candidate, "failed", vec![format!("{why}: the next run tries it again")]));
                }
            }
        }
        Ok(line(self, job, candidate, "failed", vec![format!("its rows changed under {ROUNDS} exports: {why}")]))
    }

    /// Takes other copies of a partition away from readers, once it has left, or was copied anew.
    async fn retire_copies(&self, survey: &Survey<'_>, left: &ArchivedUnit) -> Result<()> {
        let same = |u: &&ArchivedUnit| u.plan.table == left.plan.table && u.plan.partition == left.plan.partition;
        let older = |u: &&ArchivedUnit| u.plan.root != "v1" && u.plan.unit != left.plan.unit && u.is_published();
        for copy in survey.units.iter().filter(same).filter(older) {
            let copy = self.withdraw(copy.clone()).await?;
            self.abandon(copy, "the partition was archived again").await?;
        }
        Ok(())
    }

    /// Undoes what a concurrent detach has done, and what was announced of it.
    pub(crate) async fn take_back(&self, unit: &ArchivedUnit) -> Result<()> {
        let session = Session::connect_as(&self.info, "dozo archive").await?;
        let rows = ledger_rows(&session).await?;
        let Some(mut row) = rows.into_iter().find(|r| r.unit == unit.plan.unit.as_str() && r.state == LedgerState::Detaching)
        else {
            return Ok(());
        };
        // They were never dropped.
        row.details.own_keys.clear();
        match place_of(&session, row.relid).await? {
            Some(Place::Attached) | None => {}
            Some(place) => {
                if place == Place::Pending {
                    dozo_postgres::concurrently(&session, &row.parent, &row.partition, true, self.source.lock_timeout).await?;
                }
                let back = dozo_postgres::Attach {
                    row: &row,
                    quarantined: false,
                    from_default: None,
                    holder: dozo_postgres::Holder::None,
                    columns: &[],
                    lock_timeout: self.source.lock_timeout,
                };
                if let Removal::Refused(why) | Removal::Changed(why) = dozo_postgres::attach_again(&session, &back).await? {
                    return Err(EngineError::Options(format!("{} could not be attached again: {why}", row.partition)));
                }
            }
        }
        Ok(forget_announced(&session, &row.unit).await?)
    }

    /// Makes both ledgers tell the same story, and ends what was begun. The database is right. Returns what was done, and
    /// what could not be brought to its end.
    pub(crate) async fn reconcile(&self, jobs: &[&ArchiveJob]) -> Result<(Vec<String>, Vec<ArchivedLine>)> {
        let session = Session::connect_as(&self.info, "dozo archive").await?;
        let rows = ledger_rows(&session).await?;
        let (mut done, mut open) = (Vec::new(), Vec::new());
        for unit in self.repository.archive_units(&self.source.name).await? {
            // Another server's: that one's ledger is not here.
            if self.foreign(&unit) {
                continue;
            }
            let (name, id) = (unit.plan.partition.clone(), unit.plan.unit.clone());
            let row = rows.iter().find(|r| r.unit == id.as_str());
            let mut note = |text: &str| done.push(format!("{name} (unit {id}): {text}"));
            match row.map(|r| r.state) {
                None if matches!(unit.last.state, UnitState::Planned | UnitState::Exported) => {
                    note("an export that was not proven was given up");
                    self.abandon(unit, "it was not proven when the run ended").await?;
                }
                // A detach was announced in the repository, and the database knows nothing of it.
                None if unit.last.state == UnitState::Detaching => {
                    note("a detach that never began was given up");
                    self.abandon(unit, "the detach never began").await?;
                }
                Some(LedgerState::Detaching) => {
                    let row = row.cloned().ok_or_else(|| EngineError::Internal("a row without a row".into()))?;
                    match self.end_concurrent(&session, jobs, unit.clone(), &row).await {
                        Ok(Ok(text)) => note(text),
                        Ok(Err(why)) => open.push(of_unit(self, &unit, "failed", 0, vec![why])),
                        // One that cannot be ended does not stop the others.
                        Err(e) if !stops_all(&e) => {
                            open.push(of_unit(self, &unit, "failed", 0, vec![crate::error::chain(&e)]));
                        }
                        Err(e) => return Err(e),
                    }
                }
                Some(LedgerState::Detached) if !has_left(&unit) => {
                    note("it had left its table");
                    let _ = self.record(unit, self.event(UnitState::Detached)).await?;
                }
                Some(LedgerState::Dropped) if !unit.was(UnitState::Dropped) => {
                    note("it had been dropped");
                    let _ = self.record(unit, self.event(UnitState::Dropped)).await?;
                }
                Some(LedgerState::Restored) if unit.last.state != UnitState::Restored => {
                    note("it is back in its table");
                    // Whatever stands where readers look, also of a publication that was cut off.
                    let unit = self.withdraw(unit).await?;
                    let unit = self.record(unit, self.event(UnitState::Restored)).await?;
                    self.clear_staging(&unit).await?;
                }
                // A kill between the event and the cleaning.
                Some(_) if unit.is_published() => self.settle(&unit).await?,
                _ => {}
            }
        }
        Ok((done, open))
    }

    /// Ends a concurrent detach that a run left in the middle.
    async fn end_concurrent(
        &self,
        session: &Session,
        jobs: &[&ArchiveJob],
        unit: ArchivedUnit,
        row: &LedgerRow,
    ) -> Result<std::result::Result<&'static str, String>> {
        let state = match place_of(session, row.relid).await? {
            Some(Place::Attached) => {
                // The statement of a killed run may still wait for its turn.
                if !forget_if_attached(session, row, self.source.lock_timeout).await? {
                    return Ok(Err("its detach has just ended: run it again".into()));
                }
                self.abandon(unit, "the detach never began").await?;
                return Ok(Ok("a detach that never began was given up"));
            }
            None => return Ok(Err(format!("{} is gone while it was being detached", row.partition))),
            Some(Place::Pending) => Attached::Pending,
            Some(Place::Alone) => Attached::No,
        };
        let Some(job) = jobs.iter().find(|j| j.name == row.job) else {
            return Ok(Err(format!("a concurrent detach of it was begun: run archive {}", row.job)));
        };
        // Time has passed since it was proven.
        if let Err(why) = self.read_back(&self.manifest(&unit).await?).await? {
            self.take_back(&unit).await?;
            self.abandon(unit, &why).await?;
            return Ok(Ok("it was attached again: its stored rows are damaged"));
        }
        let manifest = self.repository.unit_manifest(&unit).await?;
        let tables = tables_of(session, row.relid).await?;
        match self.detach(job, unit, &manifest, &tables, state, row.details.clone()).await? {
            (_, Step::Ended(Removal::Done(_))) => Ok(Ok("its concurrent detach was brought to its end")),
            (unit, Step::Ended(Removal::Changed(why) | Removal::Refused(why))) => {
                self.take_back(&unit).await?;
                self.abandon(unit, &why).await?;
                Ok(Ok("it was attached again: its rows had changed"))
            }
            (_, Step::InTheWay(why)) => Ok(Err(format!("its concurrent detach still waits: {why}"))),
            (_, Step::Ended(Removal::Gone)) => Ok(Err(format!("{} is gone while it was being detached", row.partition))),
        }
    }
}

fn line(run: &Run<'_>, job: &ArchiveJob, candidate: &Candidate, outcome: &'static str, reasons: Vec<String>) -> ArchivedLine {
    ArchivedLine {
        job: job.name.clone(),
        source: run.source.name.to_string(),
        partition: candidate.partition.name.clone(),
        label: candidate.label.clone().unwrap_or_default(),
        unit: None,
        outcome,
        fingerprint: None,
        freed: 0,
        reasons,
    }
}

pub(crate) fn of_unit(
    run: &Run<'_>,
    unit: &ArchivedUnit,
    outcome: &'static str,
    freed: u64,
    reasons: Vec<String>,
) -> ArchivedLine {
    ArchivedLine {
        job: unit.plan.job.clone(),
        source: run.source.name.to_string(),
        partition: unit.plan.partition.clone(),
        label: unit.plan.label.clone(),
        unit: Some(unit.plan.unit.to_string()),
        outcome,
        fingerprint: unit.last.fingerprint,
        freed,
        reasons,
    }
}
