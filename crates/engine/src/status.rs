//! `list`, `show`, `status`, `accept`: what is in the repository, and what was proven about it.

use std::collections::{BTreeMap, HashMap};

use dozo_catalog::{BackupRecord, BackupState, Repository, tool};
use dozo_model::{
    Acceptance, BackupId, FORMAT_VERSION, Loss, Manifest, ManifestForm, SourceName, Timestamp, Verdict, VerifyLevel,
};
use serde::Serialize;

use crate::context::{Context, ReplicaSettings};
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
    /// What is wrong, for an unreadable or suspect one.
    pub note: Option<String>,
}

/// What a source looks like.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceStatus {
    /// Source.
    pub source: SourceName,
    /// Committed backups.
    pub backups: usize,
    /// The newest committed one.
    pub newest: Option<BackupLine>,
    /// The newest good one: complete, no open finding.
    pub newest_good: Option<BackupLine>,
    /// Bytes of all objects that committed backups need, shared ones once.
    pub bytes: u64,
    /// The table of the newest backup with the fewest physical copies of its rows, and how many it has.
    pub fewest_copies: Option<(String, usize)>,
    /// Physical copies of the rows of each table of the newest backup.
    pub copies: BTreeMap<String, usize>,
    /// How far each replica is behind.
    pub replicas: Vec<ReplicaLag>,
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
            BackupState::Committed(m) => line = BackupLine::committed(&repository.record(m).await?, now),
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
            started: Some(m.started),
            age_seconds: Some(now.duration_since(m.started).as_secs()),
            tables: m.datasets.len() as u64,
            rows: m.rows(),
            bytes: m.stored_bytes(),
            verified: Repository::verified(&record.checks, VerifyLevel::Content).map(|c| (c.at, c.verdict)),
            findings: Repository::open_findings(&record.checks).len(),
            proven: proven(record),
            note: record.damaged.clone().or_else(|| (state == "suspect").then(|| losses_text(&m.losses))),
            ..Self::unknown(&m.source, &m.id)
        }
    }
}

/// Sums up every source, also configured ones without a backup.
///
/// # Errors
/// When the repository cannot be read.
pub async fn status(
    ctx: &Context,
    repository: &Repository,
    replicas: &[ReplicaSettings],
    configured: &[SourceName],
) -> Result<Vec<SourceStatus>> {
    let mut names = repository.sources().await?;
    names.extend(configured.iter().cloned());
    names.sort();
    names.dedup();
    let (now, mut all) = (ctx.clock.now(), Vec::new());
    let replicas = Replicas::open(replicas).await;
    for source in names {
        let history = repository.history(&source).await?;
        let mut committed: Vec<BackupLine> = history.records.iter().map(|r| BackupLine::committed(r, now)).collect();
        in_order(&mut committed);
        let objects: HashMap<&str, u64> =
            history.records.iter().flat_map(|r| &r.manifest.objects).map(|o| (o.key.as_str(), o.bytes)).collect();
        let copies: BTreeMap<String, usize> = match history.records.last() {
            Some(newest) => history.physical_copies(&newest.manifest).into_iter().map(|(n, c)| (n.to_string(), c)).collect(),
            None => BTreeMap::new(),
        };
        let manifests: Vec<&Manifest> = history.records.iter().map(|r| r.manifest.as_ref()).collect();
        let replicas = replicas.lags(repository, &source, &manifests).await;
        all.push(SourceStatus {
            backups: committed.len(),
            newest: committed.last().cloned(),
            newest_good: committed.iter().rev().find(|l| l.good).cloned(),
            bytes: objects.values().sum(),
            fewest_copies: copies.iter().min_by_key(|(_, n)| **n).map(|(t, n)| (t.clone(), *n)),
            copies,
            replicas,
            source,
        });
    }
    Ok(all)
}

/// When it became proven: verified by content, and every row confirmed by the source's own fingerprint.
fn proven(record: &BackupRecord) -> Option<Timestamp> {
    let matched = record.manifest.datasets.iter().all(|d| d.source_match.is_some_and(|m| m.whole));
    let check = Repository::verified(&record.checks, VerifyLevel::Content).filter(|c| c.verdict == Verdict::Passed);
    check.filter(|_| matched).map(|c| c.at)
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
