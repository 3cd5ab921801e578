//! Drills: a backup is real when it was restored. Restores for real, apart from everything else, compares, times, and leaves a record.
//!
//! Place in the flow: `[drill.NAME]` → [`choose`] (which backups, tables, partitions) → per item: a throw-away server or folder, the restore
//! that people use, fingerprints, definitions, checks, tear-down → record, create-only, in a chain ([`dozo_catalog::DrillChain`]).
//! *Invariants*: nothing connects to a source; a test server is refused when a manifest knows it; what could not be looked at is named, and
//! never green. *Crash behaviour*: servers, folders and databases carry the mark of the process that made them; the next drill ends and
//! removes those of dead ones ([`place`]).

mod checks;
mod choose;
mod database;
mod estimate;
mod folder;
mod job;
mod place;

use std::collections::BTreeMap;
use std::time::Instant;

use dozo_catalog::{DrillChain, Repository, StoredDrill, tool};
use dozo_model::{
    DrillEvent, DrillItem, DrillRecord, DrillScope, ErrorClass, Explain, FORMAT_VERSION, Incident, Measured, Objectives, Runbook,
    Sha256Digest, Timestamp, Verdict, human_duration,
};
use serde::Serialize;

pub use choose::{DrillPlan, PlannedItem};
pub use job::{BackupPick, CheckKind, DrillJob, DrillServer, OwnCheck, PartitionPick, SampleSize};

use self::choose::Chosen;
use self::place::WorkFolder;
use crate::context::{Context, SourceSettings};
use crate::{EngineError, Result};

/// What systems say when a disk is full, or a share of it used up.
const FULL: [&str; 3] = ["No space left on device", "os error 28", "Disk quota exceeded"];

/// What a drill came to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DrillReport {
    /// The record, as it stands in the repository.
    pub record: DrillRecord,
    /// SHA-256 of its bytes: the head of the chain now.
    pub sha256: Sha256Digest,
}

/// Says what a drill would restore, where, and whom it would connect to; changes nothing.
///
/// # Errors
/// When the repository cannot be read.
pub async fn drill_plan(ctx: &Context, repository: &Repository, job: &DrillJob, sources: &[SourceSettings]) -> Result<DrillPlan> {
    Ok(choose::choose(ctx, repository, job, sources).await?.0)
}

/// Runs a drill and records it.
///
/// # Errors
/// [`EngineError::Cancelled`]: then nothing is recorded; when the repository cannot be read or written. What becomes of an item is in the
/// report.
pub async fn drill_run(
    ctx: &Context,
    repository: &Repository,
    job: &DrillJob,
    sources: &[SourceSettings],
    contacts: &[(String, String)],
) -> Result<DrillReport> {
    // Whoever ends the process waits until what this makes is taken down.
    let _until_taken_down = ctx.cleanups.token();
    let began = Instant::now();
    let started = ctx.clock.now();
    let (plan, chosen) = choose::choose(ctx, repository, job, sources).await?;
    let before = repository.drills().await?;
    let mut warnings = place::sweep(&job.folder).await;
    let mut items = Vec::new();
    let mut outcome = Ok(());
    let work = match WorkFolder::make(&job.folder) {
        Ok(work) => Some(work),
        // Nothing can be restored, and that is written down like everything else.
        Err(e) => {
            let error = EngineError::folder(&job.folder)(e);
            for one in &chosen {
                let mut draft = Draft::new(one, started, "nowhere".into());
                draft.stop("folder", &error, true, None);
                items.push(draft.done());
            }
            None
        }
    };
    for (n, one) in chosen.iter().enumerate() {
        let Some(work) = &work else { break };
        if let Some(why) = &one.damaged {
            let mut draft = Draft::new(one, started, "nowhere".into());
            draft.check("backup", Verdict::Failed, why.clone());
            items.push(draft.done());
            continue;
        }
        let bench = Bench { ctx, repository, job, sources, before: &before, work, started, number: n };
        let done = match one.scope {
            DrillScope::Database | DrillScope::Tables | DrillScope::Sample | DrillScope::Archive => bench.database(one).await,
            DrillScope::Duckdb | DrillScope::Files | DrillScope::Command => bench.files(one).await,
        };
        match done {
            Ok(item) => items.push(item),
            Err(e) => {
                outcome = Err(e);
                break;
            }
        }
    }
    if let Some(work) = &work {
        warnings.extend(work.remove().await);
    }
    outcome?;
    let incident = plan.incident;
    let objectives = Objectives { rto_seconds: plan.rto_seconds, rpo_seconds: plan.rpo_seconds };
    let mut findings = Vec::new();
    let measured = judge(&mut items, &mut findings, job, incident, &objectives, began);
    let runbook = job.runbook.as_ref().map(|path| runbook(path, ctx.clock.now()));
    if let Some(found) = &runbook {
        match found.age_days {
            None => warnings.push(format!("the runbook {} cannot be read", found.path)),
            Some(days) if days * 86_400 > job.runbook_max_age.as_secs() => {
                let most = human_duration(job.runbook_max_age);
                warnings.push(format!("the runbook {} was last written {days} days ago, more than {most}", found.path));
            }
            Some(_) => {}
        }
    }
    // A check that nobody ran is not green, whatever the reason.
    let ran = |check: &OwnCheck| items.iter().any(|i| i.checks.iter().any(|c| c.name == check.name));
    let idle: Vec<&OwnCheck> = job.checks.iter().filter(|c| !ran(c)).collect();
    warnings
        .extend(idle.iter().map(|c| format!("check `{}` was not run: nothing that was restored is what it is about", c.name)));
    let own = match (findings.is_empty(), idle.is_empty()) {
        (false, _) => Some(Verdict::Failed),
        (true, false) => Some(Verdict::NotRun),
        (true, true) => None,
    };
    let record = DrillRecord {
        format: FORMAT_VERSION,
        number: 0,
        previous: None,
        repository: repository.marker().id.clone(),
        drill: job.name.clone(),
        started,
        finished: ctx.clock.now(),
        verdict: Verdict::of(items.iter().map(|i| i.verdict).chain(own)),
        incident,
        objectives,
        measured,
        items,
        findings,
        runbook,
        warnings,
        contacts: contacts.to_vec(),
        tool: tool(),
        operator: ctx.operator.clone(),
    };
    let StoredDrill { link, record } = repository.record_drill(record).await?;
    for item in &record.items {
        // What archives hold is told of by their own ledger and by the record.
        if let (Some(id), false) = (&item.backup, item.scope == DrillScope::Archive) {
            let event = DrillEvent {
                format: FORMAT_VERSION,
                record: link.clone(),
                whole: item.whole(),
                verdict: item.verdict,
                at: record.finished,
            };
            repository.record_drilled(&item.source, id, &event).await?;
        }
    }
    Ok(DrillReport { record, sha256: link.sha256 })
}

/// Loads all drills and whatever contradicts their chain. `heads` are those that somebody was told of, and by whom.
///
/// # Errors
/// When the repository cannot be read.
pub async fn drill_history(repository: &Repository, heads: &[(dozo_model::DrillLink, String)]) -> Result<DrillChain> {
    let mut chain = repository.drills_confirmed().await?;
    heads.iter().for_each(|(head, told_by)| chain.confirm(head, told_by));
    Ok(chain)
}

/// What every item is given.
pub(crate) struct Bench<'a> {
    ctx: &'a Context,
    repository: &'a Repository,
    job: &'a DrillJob,
    sources: &'a [SourceSettings],
    /// Drills before this one.
    before: &'a DrillChain,
    work: &'a WorkFolder,
    /// When the drill began.
    started: Timestamp,
    /// Which item.
    number: usize,
}

/// What is known of an item while it is made.
pub(crate) struct Draft {
    item: DrillItem,
    /// Something could not be looked at that makes the item not green.
    stopped: bool,
}

impl Draft {
    fn new(chosen: &Chosen, started: Timestamp, place: String) -> Self {
        let taken = chosen.taken();
        #[expect(clippy::cast_precision_loss, reason = "seconds of an age")]
        let age = taken.map(|t| started.duration_since(t).as_millis() as f64 / 1000.0);
        let not_checked = chosen.passed_over.clone().into_iter().collect();
        let item = DrillItem {
            source: chosen.source.clone(),
            scope: chosen.scope,
            backup: chosen.id(),
            manifest_sha256: chosen.sha256,
            taken,
            chosen: chosen.names.clone(),
            place,
            verdict: Verdict::NotRun,
            findings: vec![],
            seconds: BTreeMap::new(),
            rto_seconds: None,
            estimate: None,
            rpo: None,
            backup_age_seconds: age,
            restored: 0,
            equal: 0,
            rows: 0,
            bytes: 0,
            fingerprint: None,
            checks: vec![],
            changes: vec![],
            not_checked,
        };
        Self { item, stopped: false }
    }

    fn phase(&mut self, name: &str, seconds: f64) {
        *self.item.seconds.entry(name.into()).or_default() += seconds.max(0.0);
    }

    fn check(&mut self, name: impl Into<String>, verdict: Verdict, detail: impl Into<String>) {
        let (name, detail) = (name.into(), detail.into());
        match verdict {
            Verdict::Passed => {}
            Verdict::Failed => self.item.findings.push(format!("{name}: {detail}")),
            Verdict::NotRun => self.item.not_checked.push(format!("{name}: {detail}")),
        }
        self.item.checks.push(dozo_model::DrillCheck { name, verdict, detail });
    }

    /// Says that the item ended before it was restored, and whether that speaks against the backup. `before` = nothing was restored yet.
    fn stop(&mut self, name: &str, error: &EngineError, before: bool, room: Option<String>) {
        let text = crate::error::chain(error);
        let full = FULL.iter().any(|said| text.contains(said));
        let (verdict, detail) = match room {
            // What is damaged is so on a full disk, too.
            _ if error.class() == ErrorClass::Integrity => (Verdict::Failed, text),
            Some(room) => (Verdict::NotRun, format!("{room}: {text}")),
            None if full => (Verdict::NotRun, format!("no room: {text}")),
            None if before => (Verdict::NotRun, text),
            // A part of a database may name what is in the rest of it.
            None if !self.item.whole() && crate::restore::names_missing(error) => (Verdict::NotRun, text),
            None => (verdict_of(error), text),
        };
        self.stopped |= verdict == Verdict::NotRun;
        self.check(name, verdict, detail);
    }

    /// Judges: a finding fails it; nothing compared is not run.
    fn done(mut self) -> DrillItem {
        self.item.verdict = match () {
            () if !self.item.findings.is_empty() => Verdict::Failed,
            () if self.stopped || self.item.equal == 0 => Verdict::NotRun,
            () => Verdict::Passed,
        };
        self.item
    }
}

/// Tells whether an error speaks against the backup, or only against the drill.
fn verdict_of(error: &EngineError) -> Verdict {
    use dozo_catalog::CatalogError;
    use dozo_postgres::PgError;
    use dozo_store::StoreError;
    match error {
        EngineError::RestoreStopped { source, .. } => verdict_of(source),
        // A manifest that cannot be believed, or names what is not there.
        EngineError::Catalog(CatalogError::Manifest { .. } | CatalogError::Misplaced { .. } | CatalogError::Record { .. }) => {
            Verdict::Failed
        }
        EngineError::Store(StoreError::NotFound { .. })
        | EngineError::Catalog(CatalogError::Store(StoreError::NotFound { .. })) => Verdict::Failed,
        // The rest of a store; programs that are missing; a folder that cannot be written, or has no room.
        EngineError::Store(_)
        | EngineError::Catalog(_)
        | EngineError::Postgres(PgError::Tool { .. } | PgError::Scratch { .. } | PgError::CannotHold { .. })
        | EngineError::Folder { .. }
        | EngineError::FolderOccupied { .. }
        | EngineError::WithoutDuckdb { .. } => Verdict::NotRun,
        // Disk full, out of memory, too many connections; a right that is missing on a test server.
        EngineError::Postgres(PgError::Query { sqlstate, .. }) if sqlstate.starts_with("53") || sqlstate == "42501" => {
            Verdict::NotRun
        }
        other => match other.class() {
            ErrorClass::Integrity | ErrorClass::Failed => Verdict::Failed,
            _ => Verdict::NotRun,
        },
    }
}

/// Holds what was measured against what was promised.
fn judge(
    items: &mut [DrillItem],
    findings: &mut Vec<String>,
    job: &DrillJob,
    incident: Incident,
    objectives: &Objectives,
    began: Instant,
) -> Measured {
    let of = |i: &DrillItem| i.estimate.as_ref().map_or(i.rto_seconds, |e| i.rto_seconds.map(|_| e.seconds));
    #[expect(clippy::cast_precision_loss, reason = "seconds of objectives")]
    let (rto, rpo) = (objectives.rto_seconds as f64, objectives.rpo_seconds as f64);
    let human = |seconds: f64| human_duration(std::time::Duration::from_secs_f64(seconds.max(0.0)));
    let times: Vec<f64> = items.iter().filter_map(of).collect();
    let whole = if incident == Incident::Complete { times.iter().sum() } else { times.iter().copied().fold(0.0, f64::max) };
    let rto_seconds = (!times.is_empty()).then_some(whole);
    if incident == Incident::Complete {
        if whole > rto {
            findings.push(format!(
                "objective missed: everything is back after {}, the recovery time objective is {}",
                human(whole),
                human(rto)
            ));
        }
    } else {
        for item in items.iter_mut() {
            if let Some(seconds) = of(item).filter(|s| *s > rto) {
                let about = if item.estimate.is_some() { "the whole would be back after about" } else { "it was back after" };
                let text = format!("objective missed: {about} {}, the recovery time objective is {}", human(seconds), human(rto));
                fail(item, text);
            }
        }
    }
    let mut worst: Option<f64> = None;
    // An old backup is chosen to see whether it can be read, not for its rows of today.
    if job.backup == BackupPick::Latest {
        for item in items.iter_mut().filter(|i| i.scope != DrillScope::Archive && i.rto_seconds.is_some()) {
            let (age, what) = match (&item.rpo, item.backup_age_seconds) {
                (Some(rpo), _) => (rpo.seconds, format!("the newest row ({}) is {} old", rpo.from, human(rpo.seconds))),
                (None, Some(age)) => (age, format!("the backup is {} old", human(age))),
                (None, None) => continue,
            };
            worst = Some(worst.map_or(age, |w| w.max(age)));
            if age > rpo {
                fail(item, format!("objective missed: {what}, the recovery point objective is {}", human(rpo)));
            }
        }
    }
    Measured { rto_seconds, rpo_seconds: worst, wall_seconds: began.elapsed().as_secs_f64() }
}

fn fail(item: &mut DrillItem, text: String) {
    item.findings.push(text);
    item.verdict = Verdict::Failed;
}

fn runbook(path: &std::path::Path, now: Timestamp) -> Runbook {
    let text = std::fs::read(path).ok();
    let written = std::fs::metadata(path).and_then(|m| m.modified()).ok().and_then(|t| Timestamp::try_from(t).ok());
    let days = |t: Timestamp| u64::try_from(now.duration_since(t).as_secs().max(0) / 86_400).unwrap_or(0);
    Runbook {
        path: path.display().to_string(),
        age_days: text.as_ref().and(written).map(days),
        sha256: text.map(|t| Sha256Digest::of(&t)),
    }
}
