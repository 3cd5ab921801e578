//! `list`, `show`, `status`: what is in the repository, and what was proven about it.

use dozo_catalog::{BackupState, Repository};
use dozo_model::{BackupId, SourceName, Timestamp, Verdict, VerifyLevel};
use serde::Serialize;

use crate::Result;
use crate::context::Context;

/// One backup in a list.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupLine {
    /// Source.
    pub source: SourceName,
    /// Id.
    pub id: BackupId,
    /// `complete`, `partial`, `uncommitted`, `aborted`, `unreadable`.
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
    /// What is wrong, for an unreadable one.
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
    /// Bytes of all committed backups.
    pub bytes: u64,
}

/// Lists backups, oldest first.
///
/// # Errors
/// When the repository cannot be read.
pub async fn list(ctx: &Context, repository: &Repository, source: Option<&SourceName>) -> Result<Vec<BackupLine>> {
    let now = ctx.clock.now();
    let mut lines = Vec::new();
    for entry in repository.backups(source).await? {
        let mut line = BackupLine {
            source: entry.source.clone(),
            id: entry.id.clone(),
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
            note: None,
        };
        match entry.state {
            BackupState::Committed(m) => {
                let checks = repository.checks(&entry.source, &entry.id).await?;
                line.state = if m.complete { "complete" } else { "partial" };
                line.started = Some(m.started);
                line.age_seconds = Some(now.duration_since(m.started).as_secs());
                line.tables = m.datasets.len() as u64;
                line.rows = m.rows();
                line.bytes = m.stored_bytes();
                line.verified = Repository::verified(&checks, VerifyLevel::Content).map(|c| (c.at, c.verdict));
                line.findings = Repository::open_findings(&checks).len();
            }
            BackupState::Uncommitted(intent) => {
                line.started = intent.map(|i| i.started);
                line.age_seconds = line.started.map(|s| now.duration_since(s).as_secs());
            }
            BackupState::Aborted => line.state = "aborted",
            BackupState::Unreadable(why) => {
                line.state = "unreadable";
                line.note = Some(why);
            }
        }
        lines.push(line);
    }
    lines.sort_by(|a, b| (&a.source, a.id.second(), a.started).cmp(&(&b.source, b.id.second(), b.started)));
    Ok(lines)
}

/// Sums up every source, also configured ones without a backup.
///
/// # Errors
/// When the repository cannot be read.
pub async fn status(ctx: &Context, repository: &Repository, configured: &[SourceName]) -> Result<Vec<SourceStatus>> {
    let mut names = repository.sources().await?;
    names.extend(configured.iter().cloned());
    names.sort();
    names.dedup();
    let mut all = Vec::new();
    for source in names {
        let lines: Vec<BackupLine> = list(ctx, repository, Some(&source)).await?;
        let committed: Vec<&BackupLine> = lines.iter().filter(|l| ["complete", "partial"].contains(&l.state)).collect();
        all.push(SourceStatus {
            backups: committed.len(),
            newest: committed.last().map(|l| (*l).clone()),
            newest_good: committed.iter().rev().find(|l| l.state == "complete" && l.findings == 0).map(|l| (*l).clone()),
            bytes: committed.iter().map(|l| l.bytes).sum(),
            source,
        });
    }
    Ok(all)
}
