//! `list`, `show`, `status`, `accept`: what is in the repository, what was proven about it, what will go, what is amiss.

use std::collections::{BTreeMap, HashMap, HashSet};

use dozo_catalog::{Action, BackupRecord, BackupState, DrillChain, Facts, History, Hold, Repository, plan, tool};
use dozo_model::{
    Acceptance, BackupId, DrillRecord, FORMAT_VERSION, Loss, Manifest, ManifestForm, RetentionPolicy, Severity, SourceName,
    Timestamp, Verdict, VerifyLevel,
};
use serde::Serialize;

use crate::alarms::{self, Alarm};
use crate::context::{Context, RepositorySettings, SourceSettings};
use crate::replicate::{ReplicaLag, Replicas};
use crate::{EngineError, Result};

/// One backup in a list.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupLine {
    /// Source.
    pub source: SourceName,
    /// Id.
    pub id: BackupId,
    /// `complete`, `suspect`, `partial`, `uncommitted`, `aborted`, `unreadable`.
    pub state: &'static str,
    /// Start, by the server's clock.
    pub started: Option<Timestamp>,
    /// Age in seconds.
    pub age_seconds: Option<i64>,
    /// Tables and partitions.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// Newest check of level content: when, and its verdict.
    pub verified: Option<(Timestamp, Verdict)>,
    /// Newest check of any level that found something.
    pub findings: usize,
    /// Source-matched and verified.
    pub proven: Option<Timestamp>,
    /// Restored and equal.
    pub drilled: Option<Timestamp>,
    /// Whether it may be relied on: complete, not suspect or accepted, no open finding.
    pub good: bool,
    /// Backup whose objects it shares.
    pub parent: Option<BackupId>,
    /// Who holds it, and why.
    pub hold: Option<Hold>,
    /// Until when it can be taken back; none = it is not marked for deletion.
    pub marked_until: Option<Timestamp>,
    /// What is wrong, for an unreadable or suspect one.
    pub note: Option<String>,
}

/// What a source looks like.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceStatus {
    /// Source.
    pub source: SourceName,
    /// Whether it is in the configuration.
    pub configured: bool,
    /// Committed backups.
    pub backups: usize,
    /// The newest committed one.
    pub newest: Option<BackupLine>,
    /// The newest good one: complete, no open finding.
    pub newest_good: Option<BackupLine>,
    /// Start of the newest one whose content was verified, and of the newest that was proven.
    pub newest_verified: Option<Timestamp>,
    /// As above.
    pub newest_proven: Option<Timestamp>,
    /// When a backup of it was last restored as a whole in a drill, and equal.
    pub drilled: Option<Timestamp>,
    /// Backups that serve each tier.
    pub tiers: BTreeMap<&'static str, usize>,
    /// Backups that are not good, by what they are.
    pub not_good: BTreeMap<&'static str, usize>,
    /// Backups that somebody holds.
    pub held: usize,
    /// Backups that are marked for deletion.
    pub marked: usize,
    /// The next one that goes, if backups go on.
    pub next_deletion: Option<Going>,
    /// Bytes of all objects that committed backups need, shared ones once.
    pub bytes: u64,
    /// Seconds that the newest one took.
    pub seconds: Option<f64>,
    /// The table of the newest backup with the fewest physical copies of its rows, and how many it has.
    pub fewest_copies: Option<(String, usize)>,
    /// Physical copies of the rows of each table of the newest backup.
    pub copies: BTreeMap<String, usize>,
    /// How far each replica is behind.
    pub replicas: Vec<ReplicaLag>,
    /// It is configured, and its newest good backup is too old, or there is none.
    #[serde(skip)]
    pub silent: bool,
    /// What somebody should hear of.
    pub alarms: Vec<Alarm>,
}

/// A backup that goes.
#[derive(Debug, Clone, Serialize)]
pub struct Going {
    /// Backup.
    pub id: BackupId,
    /// When.
    pub at: Timestamp,
    /// Whether it is marked by now.
    pub marked: bool,
}

/// The disk of a local repository.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Disk {
    /// Free bytes.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What everything looks like.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// When it was looked at.
    pub at: Timestamp,
    /// Sources.
    pub sources: Vec<SourceStatus>,
    /// The newest run of each configured drill.
    pub drills: Vec<DrillStatus>,
    /// The repository's disk, where it can be asked.
    pub disk: Option<Disk>,
    /// What somebody should hear of, of the repository as a whole.
    pub alarms: Vec<Alarm>,
}

/// The newest run of a drill.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DrillStatus {
    /// Name.
    pub drill: String,
    /// Number of its record.
    pub number: u64,
    /// When it ended.
    pub at: Timestamp,
    /// Outcome.
    pub verdict: Verdict,
    /// Measured recovery time.
    pub rto_seconds: Option<f64>,
    /// Recovery time objective.
    pub rto_objective_seconds: u64,
    /// Measured age of the newest row.
    pub rpo_seconds: Option<f64>,
    /// Recovery point objective.
    pub rpo_objective_seconds: u64,
}

impl DrillStatus {
    fn of(record: &DrillRecord) -> Self {
        Self {
            drill: record.drill.clone(),
            number: record.number,
            at: record.finished,
            verdict: record.verdict,
            rto_seconds: record.measured.rto_seconds,
            rto_objective_seconds: record.objectives.rto_seconds,
            rpo_seconds: record.measured.rpo_seconds,
            rpo_objective_seconds: record.objectives.rpo_seconds,
        }
    }
}

impl Status {
    /// Returns all alarms, with the source that each is about.
    pub fn all_alarms(&self) -> impl Iterator<Item = (Option<&SourceName>, &Alarm)> {
        let own = self.alarms.iter().map(|a| (None, a));
        own.chain(self.sources.iter().flat_map(|s| s.alarms.iter().map(move |a| (Some(&s.source), a))))
    }
}

/// Lists backups, oldest first.
///
/// # Errors
/// When the repository cannot be read.
pub async fn list(ctx: &Context, repository: &Repository, source: Option<&SourceName>) -> Result<Vec<BackupLine>> {
    let now = ctx.clock.now();
    let mut lines = Vec::new();
    for entry in repository.backups(source).await? {
        let mut line = BackupLine::unknown(&entry.source, &entry.id);
        match entry.state {
            BackupState::Committed(_) => match repository.record_of(entry).await? {
                Some(record) => line = BackupLine::committed(&record, now),
                None => continue,
            },
            BackupState::Uncommitted(intent) => {
                line.started = intent.map(|i| i.started);
                line.age_seconds = line.started.map(|s| now.duration_since(s).as_secs());
            }
            BackupState::Aborted => line.state = "aborted",
            // Told by nobody any more but `gc plan`, while something is left of it.
            BackupState::Doomed(_) => continue,
            BackupState::Unreadable(why) => {
                line.state = "unreadable";
                line.note = Some(why);
            }
        }
        lines.push(line);
    }
    in_order(&mut lines);
    Ok(lines)
}

fn in_order(lines: &mut [BackupLine]) {
    lines.sort_by(|a, b| (&a.source, a.id.second(), a.started).cmp(&(&b.source, b.id.second(), b.started)));
}

impl BackupLine {
    /// A backup of which nothing but its place is known.
    fn unknown(source: &SourceName, id: &BackupId) -> Self {
        Self {
            source: source.clone(),
            id: id.clone(),
            state: "uncommitted",
            started: None,
            age_seconds: None,
            tables: 0,
            rows: 0,
            bytes: 0,
            verified: None,
            findings: 0,
            proven: None,
            drilled: None,
            good: false,
            parent: None,
            hold: None,
            marked_until: None,
            note: None,
        }
    }

    fn committed(record: &BackupRecord, now: Timestamp) -> Self {
        let m = &record.manifest;
        let state = record.state();
        Self {
            state,
            good: record.good(),
            parent: m.parent.clone(),
            hold: record.hold(now),
            marked_until: record.mark.as_ref().map(|mark| mark.due.unwrap_or(mark.at)),
            started: Some(m.started),
            age_seconds: Some(now.duration_since(m.started).as_secs()),
            tables: m.tables() as u64,
            rows: m.rows(),
            bytes: m.stored_bytes(),
            verified: Repository::verified(&record.checks, VerifyLevel::Content).map(|c| (c.at, c.verdict)),
            findings: Repository::open_findings(&record.checks).len(),
            proven: proven(record),
            drilled: drilled(record),
            note: record.damaged.clone().or_else(|| (state == "suspect").then(|| losses_text(&m.losses))),
            ..Self::unknown(&m.source, &m.id)
        }
    }
}

/// Sums up every source, also configured ones without a backup.
///
/// # Errors
/// When the repository cannot be read.
pub async fn status<'p>(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    configured: &[SourceSettings],
    policy: impl Fn(&SourceName) -> &'p RetentionPolicy,
    drills: &[String],
) -> Result<Status> {
    let chain = repository.drills_confirmed().await?;
    let mut sources = Vec::new();
    for_each_source(ctx, repository, settings, configured, policy, |status, _| sources.push(status)).await?;
    Ok(Status::new(ctx, repository, settings, sources, &chain, drills))
}

/// Looks at one source after the other: its history does not outlive the call.
pub(crate) async fn for_each_source<'p>(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    configured: &[SourceSettings],
    policy: impl Fn(&SourceName) -> &'p RetentionPolicy,
    mut each: impl FnMut(SourceStatus, &History),
) -> Result<()> {
    let there = repository.sources().await?;
    // The databases of a server are sources of their own; the server is one only while nothing of it was backed up.
    let begun = |s: &SourceSettings| there.iter().any(|t| s.has_database(t));
    let mut names: Vec<SourceName> = configured.iter().filter(|s| !begun(s)).map(|s| s.name.clone()).collect();
    names.extend(there.iter().cloned());
    names.sort();
    names.dedup();
    let replicas = Replicas::open(&settings.replicas).await;
    let now = ctx.clock.now();
    for name in names {
        let history = repository.history(&name).await?;
        let lags = replicas.lags(repository, &name, &history, policy(&name), now).await;
        let of = SourceSettings::of(configured, &name);
        each(SourceStatus::new(name.clone(), &history, lags, of, policy(&name), now), &history);
    }
    Ok(())
}

impl Status {
    /// Puts together what was seen of all sources and of the drills.
    pub(crate) fn new(
        ctx: &Context,
        repository: &Repository,
        settings: &RepositorySettings,
        sources: Vec<SourceStatus>,
        chain: &DrillChain,
        drills: &[String],
    ) -> Self {
        let disk = repository.store().space().map(|(free, total)| Disk { free, total });
        let mut alarms: Vec<Alarm> = disk.and_then(|d| alarms::disk(d.free, d.total, settings.disk_levels)).into_iter().collect();
        let mut newest: BTreeMap<&str, &DrillRecord> = BTreeMap::new();
        // One that is not in the configuration any more is history.
        for stored in chain.records.iter().filter(|r| drills.contains(&r.record.drill)) {
            newest.insert(&stored.record.drill, &stored.record);
        }
        for record in newest.values().filter(|r| r.verdict != Verdict::Passed) {
            let first = record.all_findings().next().map(|(_, f)| format!(": {f}")).unwrap_or_default();
            let severity = if record.verdict == Verdict::Failed { Severity::Critical } else { Severity::Warning };
            alarms.push(Alarm::new(severity, format!("drill {} {}{first}", record.drill, record.verdict.as_str())));
        }
        for broken in &chain.broken {
            alarms.push(Alarm::new(Severity::Critical, format!("drill record {}: {}", broken.number, broken.reason)));
        }
        let drills = newest.values().map(|r| DrillStatus::of(r)).collect();
        Self { at: ctx.clock.now(), sources, drills, disk, alarms }
    }
}

impl SourceStatus {
    fn new(
        source: SourceName,
        history: &History,
        replicas: Vec<ReplicaLag>,
        settings: Option<&SourceSettings>,
        policy: &RetentionPolicy,
        now: Timestamp,
    ) -> Self {
        // By the recorded start: an id tells the time of another clock.
        let mut committed: Vec<BackupLine> = history.records.iter().map(|r| BackupLine::committed(r, now)).collect();
        let objects: HashMap<&str, u64> =
            history.records.iter().flat_map(|r| &r.manifest.objects).map(|o| (o.key.as_str(), o.bytes)).collect();
        let newest = history.records.last();
        let copies: BTreeMap<String, usize> = match newest {
            Some(newest) => history.physical_copies(&newest.manifest).into_iter().map(|(n, c)| (n.to_string(), c)).collect(),
            None => BTreeMap::new(),
        };
        let plan = plan(&Facts::of(history), |_| policy, now);
        let (mut tiers, mut not_good) = (BTreeMap::new(), BTreeMap::new());
        for verdict in &plan.backups {
            for tier in &verdict.tiers {
                *tiers.entry(tier.as_str()).or_default() += 1;
            }
            if !verdict.good {
                *not_good.entry(verdict.state).or_default() += 1;
            }
        }
        // What is good is decided by the policy, and what is dated in the future counts for nothing.
        let good: HashSet<&BackupId> = plan.backups.iter().filter(|v| v.good).map(|v| &v.id).collect();
        committed.iter_mut().for_each(|l| l.good = good.contains(&l.id));
        let newest_good_start = plan.sources.first().and_then(|s| s.newest_good);
        let going = plan.backups.iter().filter_map(|v| {
            let marked = v.action == Action::Marked;
            // Of a silent source nothing goes before it speaks again.
            Some(Going { id: v.id.clone(), at: if marked { v.goes? } else { v.goes?.max(now) }, marked })
        });
        let start_of = |line: Option<&BackupLine>| line.and_then(|l| l.started);
        let newest_good = committed.iter().rev().find(|l| l.good && l.started == newest_good_start).cloned();
        let verified = |l: &&BackupLine| l.findings == 0 && matches!(l.verified, Some((_, Verdict::Passed)));
        let mut status = Self {
            configured: settings.is_some(),
            backups: committed.len(),
            newest: committed.last().cloned(),
            newest_verified: start_of(committed.iter().rev().find(verified)),
            newest_proven: start_of(committed.iter().rev().find(|l| l.proven.is_some())),
            drilled: history.records.iter().filter_map(drilled).max(),
            tiers,
            not_good,
            held: committed.iter().filter(|l| l.hold.is_some()).count(),
            marked: committed.iter().filter(|l| l.marked_until.is_some()).count(),
            next_deletion: going.min_by_key(|g| g.at),
            bytes: objects.values().sum(),
            seconds: newest.and_then(|r| r.manifest.seconds.get("total").copied()),
            fewest_copies: copies.iter().min_by_key(|(_, n)| **n).map(|(t, n)| (t.clone(), *n)),
            copies,
            replicas,
            silent: settings.is_some() && policy.late(start_of(newest_good.as_ref()), now),
            alarms: Vec::new(),
            newest_good,
            source,
        };
        status.alarms = status.find_alarms(history, settings, policy, now);
        let told = |w: &&String| w.contains("dated in the future") || w.contains("the hold `");
        status.alarms.extend(plan.warnings.iter().filter(told).map(|w| Alarm::new(Severity::Warning, w.clone())));
        status
    }

    fn find_alarms(
        &self,
        history: &History,
        settings: Option<&SourceSettings>,
        policy: &RetentionPolicy,
        now: Timestamp,
    ) -> Vec<Alarm> {
        let unreadable = history.unreadable.iter();
        let mut all: Vec<Alarm> =
            unreadable.map(|why| Alarm::new(Severity::Critical, format!("nothing is deleted: {why}"))).collect();
        // A source that is not in the configuration any more is silent on purpose.
        if self.silent {
            all.extend(alarms::silent(self.newest_good.as_ref().and_then(|l| l.started), self.backups > 0, policy, now));
        }
        if let Some(newest) = self.newest.as_ref().filter(|l| !l.good) {
            let severity = if newest.state == "partial" { Severity::Warning } else { Severity::Critical };
            let state = if newest.findings > 0 { "damaged" } else { newest.state };
            let note = newest.note.as_ref().map(|n| format!(": {n}")).unwrap_or_default();
            all.push(Alarm::new(severity, format!("its newest backup is {state}{note}")));
        }
        let newest = self.newest_good.as_ref();
        let good = history.records.iter().rev().filter(|r| r.good()).map(|r| r.manifest.as_ref());
        let mut good = good.skip_while(|m| newest.is_some_and(|l| l.id != m.id));
        if let (Some(settings), Some(newest)) = (settings, good.next()) {
            all.extend(settings.alarms.of(newest, good.next()));
        }
        for lag in &self.replicas {
            let late = lag.lag_seconds.and_then(|s| u64::try_from(s).ok()).is_some_and(|s| s > policy.max_age.as_secs());
            if let Some(why) = &lag.unreachable {
                all.push(Alarm::new(Severity::Warning, format!("replica {} was not reached: {why}", lag.replica)));
            } else if late {
                all.push(Alarm::new(
                    Severity::Warning,
                    format!("replica {} lacks {} backups", lag.replica, lag.missing.unwrap_or(0)),
                ));
            }
        }
        all
    }
}

/// When it became proven: verified by content, and every row confirmed by the source's own fingerprint.
pub(crate) fn proven(record: &BackupRecord) -> Option<Timestamp> {
    // Only Postgres computes the fingerprint in the transaction that is read.
    let matched = record.manifest.postgres()?.datasets.iter().all(|d| d.source_match.is_some_and(|m| m.whole));
    let check = Repository::verified(&record.checks, VerifyLevel::Content).filter(|c| c.verdict == Verdict::Passed);
    let whole = record.damaged.is_none() && Repository::open_findings(&record.checks).is_empty();
    check.filter(|_| matched && whole).map(|c| c.at)
}

/// When all of it was last restored in a drill, and equal.
fn drilled(record: &BackupRecord) -> Option<Timestamp> {
    record.drills.iter().rev().find(|d| d.whole && d.verdict == Verdict::Passed).map(|d| d.at)
}

fn losses_text(losses: &[Loss]) -> String {
    losses.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What was accepted.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AcceptReport {
    /// Backup.
    pub backup: String,
    /// What it lost.
    pub losses: Vec<Loss>,
    /// What stands beside it now.
    pub accepted: Acceptance,
    /// Whether it is good now.
    pub good: bool,
}

/// Takes a suspect backup for good.
///
/// # Errors
/// [`EngineError::NotSuspect`]: a partial backup cannot be made good, and others need no acceptance.
pub async fn accept(ctx: &Context, repository: &Repository, manifest: &Manifest, reason: Option<String>) -> Result<AcceptReport> {
    let backup = format!("{}@{}", manifest.source, manifest.id);
    if !manifest.suspect() {
        let reason = if manifest.complete { "it needs no acceptance" } else { "it is partial, which nobody can accept" };
        return Err(EngineError::NotSuspect { backup, reason: reason.into() });
    }
    let acceptance =
        Acceptance { format: FORMAT_VERSION, at: ctx.clock.now(), reason, tool: tool(), operator: ctx.operator.clone() };
    let accepted = repository.accept(&manifest.source, &manifest.id, &acceptance).await?;
    let record = repository.record(Box::new(manifest.clone())).await?;
    Ok(AcceptReport { backup, losses: manifest.losses.clone(), accepted, good: record.good() })
}
