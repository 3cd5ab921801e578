//! What every backup has in common, whatever its source: id, lease, history and intent before, the files beside the manifest, the
//! lock, the last look and the manifest after.
//!
//! *Invariant*: objects first, manifest last, create-only; between the two everything that it names was listed, and its parent and
//! its source were asked whether they still stand. *Crash behaviour*: before the manifest there is nothing that counts.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use dozo_catalog::{History, Repository, this_process, tool};
use dozo_model::{
    BackupId, Content, FORMAT_VERSION, Intent, LeftOut, Loss, Manifest, ManifestForm, ObjectRef, Settings, Sha256Digest, Tier,
    Timestamp,
};
use dozo_store::{Layout, RequestCounts};

use super::BackupOptions;
use super::report::{BackupReport, Bottleneck, FilesReport, TableReport};
use super::warnings::Warnings;
use crate::Result;
use crate::context::{Context, RepositorySettings, SourceSettings};

/// A backup that has its lease.
pub(crate) struct Frame<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) repository: &'a Repository,
    pub(crate) settings: &'a RepositorySettings,
    pub(crate) source: &'a SourceSettings,
    pub(crate) options: &'a BackupOptions,
    pub(crate) id: BackupId,
    pub(crate) started: Instant,
    pub(crate) warnings: Warnings,
    pub(crate) history: History,
    pub(crate) requests_before: RequestCounts,
}

/// Everything that a source says about its backup.
pub(crate) struct Draft {
    /// Backup whose objects it shares.
    pub(crate) parent: Option<BackupId>,
    pub(crate) started: Timestamp,
    pub(crate) finished: Timestamp,
    /// Format of the data, as the configuration calls it.
    pub(crate) format: &'static str,
    pub(crate) workers: usize,
    /// Algorithm of its fingerprints.
    pub(crate) fingerprint: String,
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) losses: Vec<Loss>,
    /// Data objects that it names.
    pub(crate) objects: Vec<ObjectRef>,
    /// Files that are put beside the manifest.
    pub(crate) put: Vec<(String, Bytes)>,
    /// Per stage.
    pub(crate) seconds: BTreeMap<String, f64>,
    pub(crate) content: Content,
}

/// A backup that exists.
pub(crate) struct Committed {
    pub(crate) manifest: Manifest,
    /// Bytes of the files beside the manifest.
    pub(crate) beside: u64,
}

impl Frame<'_> {
    /// Says that a backup begins, and that its parent stands.
    ///
    /// # Errors
    /// When the repository cannot be written, or the parent is being deleted.
    pub(crate) async fn begin(&self, parent: Option<&BackupId>) -> Result<()> {
        let intent = Intent {
            format: FORMAT_VERSION,
            id: self.id.clone(),
            source: self.source.name.clone(),
            parent: parent.cloned(),
            started: self.ctx.clock.now(),
            holder: this_process(),
            replica_of: None,
        };
        self.repository.begin(&intent).await?;
        if let Some(parent) = parent {
            self.repository.parent_stands(&self.source.name, parent).await?;
        }
        Ok(())
    }

    /// Puts what is beside the manifest, looks once more at everything, and puts the manifest. `since` is the start of that stage;
    /// `describe` writes `RESTORE.md`; `stands` asks the source.
    ///
    /// # Errors
    /// See [`crate::EngineError`]; nothing is committed then.
    pub(crate) async fn commit(
        &self,
        draft: Draft,
        since: Instant,
        describe: impl FnOnce(&Manifest) -> String,
        stands: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<Committed> {
        let (ctx, source) = (self.ctx, self.source);
        let mut manifest = Manifest {
            format: FORMAT_VERSION,
            min_reader: FORMAT_VERSION,
            min_deleter: FORMAT_VERSION,
            repository: self.repository.marker().id.clone(),
            id: self.id.clone(),
            source: source.name.clone(),
            replica_of: None,
            parent: draft.parent,
            tool: tool(),
            operator: ctx.operator.clone(),
            complete: !draft.left_out.iter().any(|l| l.error),
            started: draft.started,
            finished: draft.finished,
            settings: Settings {
                format: draft.format.into(),
                include: source.include.clone(),
                exclude: source.exclude.clone(),
                workers: draft.workers,
                zstd_level: source.zstd_level,
                time_zone: source.time_zone.clone(),
            },
            fingerprint: draft.fingerprint,
            left_out: draft.left_out,
            losses: draft.losses,
            seconds: BTreeMap::new(),
            locked_until: None,
            lock_mode: None,
            content: draft.content,
            objects: Vec::new(),
        };
        let restore_md = Layout::file(&source.name, &self.id, "RESTORE.md");
        let mut put = vec![(restore_md, Bytes::from(describe(&manifest)))];
        put.extend(draft.put);
        let mut objects = draft.objects;
        let mut beside = 0;
        for (key, bytes) in put {
            beside += bytes.len() as u64;
            objects.push(ObjectRef { key: key.clone(), bytes: bytes.len() as u64, sha256: Sha256Digest::of(&bytes) });
            self.repository.store().put_own(&key, bytes).await?;
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        // Several partitions may share an object.
        objects.dedup();
        manifest.objects = objects;
        if let Some(lock) = &self.settings.lock {
            let (history, policy) = (&self.history, &source.retention);
            manifest.locked_until = self.repository.lock_named(&manifest, history, lock, policy, ctx.clock.now()).await?;
            manifest.lock_mode = manifest.locked_until.map(|_| lock.mode.as_str().to_owned());
            if manifest.locked_until.is_none() && lock.tier == Tier::Daily && manifest.complete && !manifest.suspect() {
                self.warnings.add("it is not locked: it serves no tier yet, or what it serves has ended".into());
            }
        }
        self.repository.everything_stands(&manifest).await?;
        if let Some(parent) = &manifest.parent {
            self.repository.parent_stands(&source.name, parent).await?;
        }
        stands().await?;
        let mut seconds = draft.seconds;
        seconds.insert("commit".into(), since.elapsed().as_secs_f64());
        seconds.insert("total".into(), self.started.elapsed().as_secs_f64());
        manifest.seconds = seconds;
        self.repository.commit(&manifest).await?;
        if let (Some(lock), Some(until)) = (&self.settings.lock, manifest.locked_until)
            && let Err(e) = self.repository.lock_manifest(&manifest, lock.mode, until).await
        {
            self.warnings.add(format!("the manifest could not be locked, `dozo retention apply` tries it again: {e}"));
        }
        for alarm in source.alarms.of(&manifest, self.history.newest_good().map(|r| r.manifest.as_ref())) {
            self.warnings.add(alarm.text);
        }
        Ok(Committed { manifest, beside })
    }

    /// Says what was done.
    pub(crate) fn report(&self, done: Committed, work: Work) -> BackupReport {
        let Committed { manifest, beside } = done;
        let reused = work.tables.iter().filter(|t| t.how == "reused").count();
        BackupReport {
            source: self.source.name.to_string(),
            kind: manifest.kind(),
            database: manifest.postgres().map(|pg| pg.server.database.clone()),
            id: self.id.clone(),
            outcome: match (manifest.complete, manifest.suspect()) {
                (false, _) => "partial",
                (true, true) => "suspect",
                (true, false) => "done",
            },
            full_because: work.full_because,
            parent: manifest.parent.clone(),
            rows: manifest.rows(),
            bytes_read: work.bytes_read,
            bytes_written: work.written + beside,
            bytes_needed: manifest.stored_bytes(),
            copied: work.tables.len() - reused,
            reused,
            memory_budget: work.memory_budget,
            bottleneck: work.bottleneck,
            requests: self.repository.store().requests().since(&self.requests_before),
            tables: work.tables,
            files: work.files,
            left_out: manifest.left_out,
            losses: manifest.losses,
            seconds: manifest.seconds,
            warnings: self.warnings.all(),
        }
    }
}

/// What a run did, beside what the manifest says.
pub(crate) struct Work {
    pub(crate) full_because: Option<String>,
    pub(crate) bytes_read: u64,
    /// Bytes of the data objects that it wrote.
    pub(crate) written: u64,
    pub(crate) memory_budget: u64,
    pub(crate) bottleneck: Option<Bottleneck>,
    pub(crate) tables: Vec<TableReport>,
    pub(crate) files: Option<FilesReport>,
}
