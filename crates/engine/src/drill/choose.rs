//! What a drill restores: which backups, which tables and partitions, into what. Reads the repository and nothing else.

use std::collections::BTreeMap;

use dozo_catalog::{ArchivedUnit, BackupRecord, BackupState, CatalogError, Repository};
use dozo_model::{
    BackupId, Content, Dataset, DrillScope, Incident, Manifest, PostgresContent, QualifiedName, Sha256Digest, SourceName,
    Timestamp, UnitState, Verdict,
};
use dozo_postgres::canary_name;
use dozo_store::{Layout, StoreError};
use rand::seq::{IndexedRandom, SliceRandom};
use serde::Serialize;

use super::job::{BackupPick, DrillJob, DrillServer, PartitionPick, SampleSize};
use crate::archive::as_published;
use crate::context::{Context, SourceSettings};
use crate::{EngineError, Patterns, Result};

/// Objectives of incidents, in hours, unless the configuration says otherwise.
const HOURS: [(Incident, u64); 3] = [(Incident::Minor, 1), (Incident::Database, 4), (Incident::Complete, 24)];
/// Bytes on disk for each COPY byte of a row, with indexes: measured on the sample database.
const HEAP_FACTOR: f64 = 1.6;
/// Write-ahead log that piles up while rows are loaded, at most.
const WAL_MAX: f64 = 5e9;
/// An empty cluster with its log.
const EMPTY_CLUSTER: u64 = 100_000_000;

/// What a drill would do.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DrillPlan {
    /// Name.
    pub drill: String,
    /// Incident.
    pub incident: Incident,
    /// Recovery time objective.
    pub rto_seconds: u64,
    /// Recovery point objective.
    pub rpo_seconds: u64,
    /// Restores, one after the other.
    pub items: Vec<PlannedItem>,
    /// Whom it connects to, besides the repository.
    pub connections: Vec<String>,
}

/// A restore of a drill.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedItem {
    /// Source.
    pub source: SourceName,
    /// What of it.
    pub scope: DrillScope,
    /// Backup, or unit of an archive.
    pub backup: Option<BackupId>,
    /// Tables, or a partition; empty = all.
    pub chosen: Vec<String>,
    /// Where it is restored to.
    pub place: String,
    /// Room that it needs there, about.
    pub bytes: u64,
    /// Why it cannot run.
    pub not_run: Option<String>,
}

/// A restore of a drill, with all that it takes.
pub(crate) struct Chosen {
    pub(super) source: SourceName,
    pub(super) scope: DrillScope,
    pub(super) manifest: Option<Manifest>,
    /// SHA-256 of its manifest as it is stored.
    pub(super) sha256: Option<Sha256Digest>,
    /// Tables, by name; or the partition.
    pub(super) names: Vec<String>,
    /// Definitions that an archived partition needs and does not carry: those of a backup of its database.
    pub(super) around: Option<Box<Manifest>>,
    /// Why it cannot run.
    pub(super) not_run: Option<String>,
    /// Why it fails before anything is restored: what it would take is damaged or gone.
    pub(super) damaged: Option<String>,
    /// Good to know: newer backups that are not good.
    pub(super) passed_over: Option<String>,
}

impl Chosen {
    fn without(source: &SourceName, scope: DrillScope, why: impl Into<String>) -> Self {
        Self {
            source: source.clone(),
            scope,
            manifest: None,
            sha256: None,
            names: vec![],
            around: None,
            not_run: Some(why.into()),
            damaged: None,
            passed_over: None,
        }
    }

    /// One whose choice has failed: what is damaged or gone speaks against the backup, a store that does not answer does not.
    fn failed(source: &SourceName, scope: DrillScope, error: &EngineError) -> Self {
        let text = crate::error::chain(error);
        let damaged = super::verdict_of(error) == Verdict::Failed;
        let (damaged, not_run) = if damaged { (Some(text), None) } else { (None, Some(text)) };
        Self { damaged, not_run, ..Self::without(source, scope, "") }
    }

    pub(super) fn id(&self) -> Option<BackupId> {
        self.manifest.as_ref().map(|m| m.id.clone())
    }

    pub(super) fn taken(&self) -> Option<Timestamp> {
        self.manifest.as_ref().map(|m| m.started)
    }

    /// Returns the datasets that come back.
    pub(super) fn datasets(&self) -> Vec<&Dataset> {
        let all = self.manifest.iter().flat_map(Manifest::datasets);
        let branches = self.manifest.as_ref().and_then(Manifest::postgres).map_or(&[][..], |pg| &pg.partitioned);
        let up = |name: &QualifiedName| branches.iter().find(|p| &p.name == name).and_then(|p| p.parent.clone());
        all.filter(|d| {
            let named = |name: &QualifiedName| self.names.contains(&name.to_string());
            let mut above = std::iter::successors(d.parent.clone(), up);
            self.names.is_empty() || named(&d.name) || above.any(|name| named(&name))
        })
        .collect()
    }

    /// Returns the room that it needs.
    pub(super) fn bytes(&self) -> u64 {
        let Some(manifest) = &self.manifest else { return 0 };
        match &manifest.content {
            Content::Postgres(_) => {
                let rows: u64 = self.datasets().iter().map(|d| d.bytes_read).sum();
                #[expect(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "an estimate"
                )]
                let needed = (rows as f64).mul_add(HEAP_FACTOR, (rows as f64 * 1.2).min(WAL_MAX)) as u64;
                needed + EMPTY_CLUSTER
            }
            Content::Duckdb(content) => content.files.iter().map(|f| f.bytes).sum(),
            Content::Files(content) => content.bytes,
            Content::Command(content) => content.stored.bytes,
        }
    }
}

/// Chooses.
pub(super) async fn choose(
    ctx: &Context,
    repository: &Repository,
    job: &DrillJob,
    sources: &[SourceSettings],
) -> Result<(DrillPlan, Vec<Chosen>)> {
    let mut chosen = Vec::new();
    let there = repository.sources().await?;
    for name in &job.sources {
        // The databases of a server are sources of their own.
        let is_its = |t: &&SourceName| *t != name && SourceSettings::of(sources, t).is_some_and(|s| &s.name == name);
        let of_server: Vec<&SourceName> = there.iter().filter(is_its).collect();
        for source in if of_server.is_empty() { vec![name] } else { of_server } {
            let one = of_source(ctx, repository, job, source).await;
            chosen.push(one.unwrap_or_else(|e| Chosen::failed(source, scope_without(job), &e)));
        }
    }
    for archive in &job.archives {
        let one = of_archive(repository, job, archive).await;
        chosen.push(one.unwrap_or_else(|e| Chosen::failed(&archive.source, DrillScope::Archive, &e)));
    }
    let whole = |c: &Chosen| matches!(c.scope, DrillScope::Database | DrillScope::Sample);
    let usual = if chosen.iter().any(whole) { Incident::Database } else { Incident::Minor };
    let incident = job.incident.unwrap_or(usual);
    let hours = HOURS.iter().find(|(i, _)| *i == incident).map_or(24, |(_, hours)| *hours);
    let oldest = job.sources.iter().filter_map(|s| SourceSettings::of(sources, s)).map(|s| s.retention.max_age).max();
    let rpo = job.rpo.or(oldest).unwrap_or_else(|| dozo_model::RetentionPolicy::default().max_age);
    let database = |c: &Chosen| !matches!(c.scope, DrillScope::Duckdb | DrillScope::Files | DrillScope::Command);
    let test = match &job.server {
        DrillServer::Test(url) => Some(url.to_string()),
        DrillServer::Scratch => None,
    };
    let place = |c: &Chosen| match (&test, database(c)) {
        (Some(url), true) => format!("a new database on {url}"),
        (None, true) => format!("a scratch server in {}", job.folder.display()),
        (_, false) => format!("a folder in {}", job.folder.display()),
    };
    let plan = DrillPlan {
        drill: job.name.clone(),
        incident,
        rto_seconds: job.rto.map_or(hours * 3600, |d| d.as_secs()),
        rpo_seconds: rpo.as_secs(),
        connections: test.iter().filter(|_| chosen.iter().any(database)).cloned().collect(),
        items: chosen
            .iter()
            .map(|c| PlannedItem {
                source: c.source.clone(),
                scope: c.scope,
                backup: c.id(),
                chosen: c.names.clone(),
                place: place(c),
                bytes: c.bytes(),
                not_run: c.not_run.clone().or_else(|| c.damaged.clone()),
            })
            .collect(),
    };
    Ok((plan, chosen))
}

/// What would be restored of a database that is not known.
fn scope_without(job: &DrillJob) -> DrillScope {
    match (job.tables.is_empty(), job.sample) {
        (false, _) => DrillScope::Tables,
        (true, Some(_)) => DrillScope::Sample,
        (true, None) => DrillScope::Database,
    }
}

async fn of_source(ctx: &Context, repository: &Repository, job: &DrillJob, source: &SourceName) -> Result<Chosen> {
    let history = repository.history(source).await?;
    let now = ctx.clock.now();
    let newest = history.records.last().map(|r| r.manifest.id.clone());
    let unreadable = history.unreadable.first().cloned();
    // One that is dated in the future is not the newest.
    let good: Vec<BackupRecord> =
        history.records.into_iter().filter(|r| r.good() && r.mark.is_none() && r.manifest.started <= now).collect();
    let picked = match job.backup {
        BackupPick::Latest => good.last(),
        BackupPick::Oldest => good.first(),
        BackupPick::Random => good.choose(&mut rand::rng()),
    };
    let Some(manifest) = picked.map(|r| (*r.manifest).clone()) else {
        return Ok(Chosen::without(source, scope_without(job), "it has no good backup"));
    };
    let key = Layout::file(source, &manifest.id, "manifest.json");
    let sha256 = Some(Sha256Digest::of(&repository.store().get(&key).await?));
    let (scope, names, not_run) = match &manifest.content {
        Content::Postgres(pg) => match scope_of(job, pg) {
            Ok((scope, names)) => (scope, names, None),
            Err(e) => (DrillScope::Tables, vec![], Some(e.to_string())),
        },
        Content::Duckdb(_) => (DrillScope::Duckdb, vec![], None),
        Content::Files(_) => (DrillScope::Files, vec![], None),
        Content::Command(_) => (DrillScope::Command, vec![], None),
    };
    let passed_over = match (unreadable, newest.filter(|id| job.backup == BackupPick::Latest && *id != manifest.id)) {
        (Some(why), _) => Some(format!("a backup that cannot be read: {why}")),
        (None, Some(id)) => Some(format!("a newer backup, {source}@{id}: it is not good")),
        (None, None) => None,
    };
    Ok(Chosen {
        source: source.clone(),
        scope,
        manifest: Some(manifest),
        sha256,
        names,
        around: None,
        not_run,
        damaged: None,
        passed_over,
    })
}

/// Decides which tables of a database come back.
fn scope_of(job: &DrillJob, pg: &PostgresContent) -> Result<(DrillScope, Vec<String>)> {
    let tables: Vec<&Dataset> = pg.datasets.iter().filter(|d| d.kind.is_table()).collect();
    let mut names: Vec<String> = Vec::new();
    let scope = if !job.tables.is_empty() {
        let patterns = Patterns::new(&job.tables)?;
        let trees = pg.partitioned.iter().map(|p| &p.name);
        let all: Vec<(&QualifiedName, Option<&QualifiedName>)> =
            tables.iter().map(|d| (&d.name, d.root.as_ref())).chain(trees.map(|t| (t, None))).collect();
        patterns.all_match(all.iter().copied(), "the backup")?;
        let matching = |name: &QualifiedName| patterns.matching(name, None).is_some();
        // A tree, or a branch of one, comes with all its partitions: they are not named again.
        let parents: BTreeMap<&QualifiedName, Option<&QualifiedName>> = pg
            .partitioned
            .iter()
            .map(|p| (&p.name, p.parent.as_ref()))
            .chain(tables.iter().map(|d| (&d.name, d.parent.as_ref())))
            .collect();
        let above = |name| std::iter::successors(Some(name), |n| parents.get(*n).copied().flatten()).skip(1);
        let chosen = parents.keys().filter(|name| matching(name) && !above(**name).any(matching));
        names.extend(chosen.map(ToString::to_string));
        DrillScope::Tables
    } else if let Some(size) = job.sample {
        let canary = canary_name();
        // A table that inherits from another one cannot be restored by itself.
        let child = |d: &Dataset| {
            let own = pg.definitions.as_ref().and_then(|all| all.get(&d.name.to_string()));
            own.is_some_and(|own| own.keys().any(|what| what.starts_with("parent ")))
        };
        // pg_restore lists no name with a line break, and no pattern has a backslash.
        let odd = |d: &Dataset| d.name.to_string().chars().any(|c| c.is_control() || c == '\\');
        // A regclass names objects that are not there without the others.
        let names_others = |d: &Dataset| d.columns.iter().any(|c| c.type_name.starts_with("reg"));
        let drawn: Vec<&Dataset> =
            tables.iter().copied().filter(|d| d.name != canary && !child(d) && !odd(d) && !names_others(d)).collect();
        names.extend(sample(&drawn, size).into_iter().map(|d| d.name.to_string()));
        DrillScope::Sample
    } else {
        return Ok((DrillScope::Database, names));
    };
    // Without a name everything would be meant.
    if names.is_empty() {
        return Err(EngineError::Options("there is no table with rows to draw".into()));
    }
    // It tells how fresh the rows are.
    let canary = canary_name();
    if pg.datasets.iter().any(|d| d.name == canary) && !names.contains(&canary.to_string()) {
        names.push(canary.to_string());
    }
    Ok((scope, names))
}

/// Draws tables and partitions that have rows. By share: until so many bytes are together, and no table that alone is much more, unless there
/// is no other.
fn sample<'a>(tables: &[&'a Dataset], size: SampleSize) -> Vec<&'a Dataset> {
    let mut shuffled: Vec<&Dataset> = tables.iter().copied().filter(|d| d.fingerprint.rows > 0).collect();
    shuffled.shuffle(&mut rand::rng());
    let percent = match size {
        SampleSize::Count(count) => {
            shuffled.truncate(count.max(1));
            return shuffled;
        }
        SampleSize::Share(percent) => u64::from(percent),
    };
    let total: u64 = shuffled.iter().map(|d| d.bytes_read).sum();
    let wanted = (total / 100).saturating_mul(percent).max(1);
    let (mut taken, mut bytes) = (Vec::new(), 0_u64);
    for dataset in &shuffled {
        if bytes >= wanted {
            break;
        }
        if bytes + dataset.bytes_read <= wanted + wanted / 4 {
            bytes += dataset.bytes_read;
            taken.push(*dataset);
        }
    }
    if taken.is_empty() {
        taken.extend(shuffled.into_iter().min_by_key(|d| d.bytes_read));
    }
    taken
}

async fn of_archive(repository: &Repository, job: &DrillJob, archive: &crate::ArchiveJob) -> Result<Chosen> {
    let units = repository.archive_units(&archive.source).await?;
    let of_job = |u: &ArchivedUnit| u.plan.job == archive.name && u.is_published();
    let mut units: Vec<ArchivedUnit> = units.into_iter().filter(of_job).collect();
    if let PartitionPick::Named(wanted) = &job.partition {
        units.retain(|u| {
            &u.plan.partition.name == wanted
                || u.plan.partition.to_string() == *wanted
                || u.plan.label.split_once('=').is_some_and(|(_, end)| end == wanted)
        });
    }
    let picked = match job.partition {
        PartitionPick::Latest => units.pop(),
        PartitionPick::Oldest => units.into_iter().next(),
        PartitionPick::Random | PartitionPick::Named(_) => units.choose(&mut rand::rng()).cloned(),
    };
    let Some(unit) = picked else {
        let which = match &job.partition {
            PartitionPick::Named(wanted) => format!("archive `{}` has no published partition `{wanted}`", archive.name),
            _ => format!("archive `{}` has no published partition", archive.name),
        };
        return Ok(Chosen::without(&archive.source, DrillScope::Archive, which));
    };
    let stored = repository.unit_manifest(&unit).await?;
    let sha256 = Some(Sha256Digest::of(&repository.store().get(&format!("{}/manifest.json", unit.folder())).await?));
    let around = repository.history(&archive.source).await?.newest_good().map(|r| r.manifest.clone());
    debug_assert!(unit.was(UnitState::Published));
    Ok(Chosen {
        source: archive.source.clone(),
        scope: DrillScope::Archive,
        names: vec![unit.plan.partition.to_string()],
        manifest: Some(as_published(&unit, stored)),
        sha256,
        not_run: around.is_none().then(|| "its database has no good backup, whose types and functions it needs".to_owned()),
        around,
        damaged: None,
        passed_over: None,
    })
}

/// Servers that backups came from: what each is known by, and the backup; and a backup that does not say.
#[derive(Debug, Default)]
pub(super) struct KnownServers {
    pub(super) by: BTreeMap<String, String>,
    pub(super) nameless: Option<String>,
}

/// Returns what servers may be known by: of all backups, and of archived partitions.
///
/// # Errors
/// What the store says; when a manifest cannot be read: it may be that of the server that is asked about.
pub(super) async fn known_servers(repository: &Repository) -> Result<KnownServers> {
    let mut known = KnownServers::default();
    let mut add = |manifest: &Manifest| {
        if let Some(pg) = manifest.postgres() {
            let of = format!("{}@{}", manifest.source, manifest.id);
            known.by.insert(format!("started {}", pg.server.postmaster_start), of.clone());
            match &pg.server.system_identifier {
                Some(id) => drop(known.by.insert(format!("system {id}"), of)),
                None => known.nameless = Some(of),
            }
        }
    };
    for source in repository.sources().await? {
        for entry in repository.backups(Some(&source)).await? {
            match &entry.state {
                BackupState::Committed(manifest) => add(manifest),
                BackupState::Unreadable(why) => {
                    return Err(EngineError::Options(format!("{}@{}: {why}", entry.source, entry.id)));
                }
                BackupState::Uncommitted(_) | BackupState::Aborted | BackupState::Doomed(_) => {}
            }
        }
        for unit in repository.archive_units(&source).await? {
            match repository.unit_manifest(&unit).await {
                Ok(manifest) => add(&manifest),
                // One that was not finished has none.
                Err(CatalogError::Store(StoreError::NotFound { .. })) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(name: &str, bytes: u64) -> Dataset {
        let json = serde_json::json!({
            "schema": "public", "name": name, "kind": "table", "root": null, "bound": null, "columns": [],
            "fingerprint": format!("b1:{}:{}", bytes.min(9), "0".repeat(32)), "shape": "0".repeat(64), "key-range": null, "parts": [],
            "bytes-read": bytes, "escaped": {},
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_sample_has_the_share_that_was_asked_for() {
        let tables: Vec<Dataset> = (0..50).map(|i| dataset(&format!("t{i}"), 100 + i)).collect();
        let all: Vec<&Dataset> = tables.iter().collect();
        let total: u64 = tables.iter().map(|d| d.bytes_read).sum();
        for _ in 0..50 {
            let taken: u64 = sample(&all, SampleSize::Share(20)).iter().map(|d| d.bytes_read).sum();
            assert!((total * 18 / 100..=total * 26 / 100).contains(&taken), "{taken} of {total}");
            assert_eq!(sample(&all, SampleSize::Count(3)).len(), 3);
        }
        // One table that is nearly everything, and one that is empty.
        let (large, empty) = (dataset("large", 1_000_000), dataset("empty", 0));
        assert_eq!(sample(&[&large, &empty], SampleSize::Share(20)).len(), 1);
        assert!(sample(&[&empty], SampleSize::Share(20)).is_empty());
    }
}
