//! Opening, beginning, committing, loading.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use dozo_model::{
    Ability, BackupId, CheckEvent, Clock, FORMAT_VERSION, Finding, Intent, Manifest, ManifestError, ManifestForm,
    RepositoryMarker, SourceName, Tool, Verdict, VerifyLevel, random_suffix,
};
use dozo_store::{Layout, ObjectInfo, PutOutcome, Store};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fate::{Fate, Fates, doomed, fate_number};
use crate::lease::LeaseTimes;
use crate::{CatalogError, Result};

/// Manifests fetched at the same time.
pub(crate) const FETCHES: usize = 16;

/// An opened repository. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Store,
    marker: RepositoryMarker,
    lease_times: LeaseTimes,
}

/// What stands under one backup's folder; of its manifest all, or the head.
#[derive(Debug, Clone)]
pub struct BackupEntry<M = Manifest> {
    /// Source.
    pub source: SourceName,
    /// Id.
    pub id: BackupId,
    /// State.
    pub state: BackupState<M>,
    /// What is to become of it.
    pub fate: Fate,
    /// Why that is not known: nobody may delete anything then.
    pub fate_unknown: Option<String>,
    /// What was listed beside it.
    pub(crate) beside: Beside,
}

impl<M> BackupEntry<M> {
    /// Tells whether somebody has accepted or held it.
    #[must_use]
    pub fn spoken_of(&self) -> bool {
        self.beside.accepted || !self.beside.holds.is_empty()
    }
}

impl<M: ManifestForm> BackupEntry<M> {
    /// A backup that was committed a moment ago.
    #[must_use]
    pub fn committed(manifest: M) -> Self {
        Self {
            source: manifest.source().clone(),
            id: manifest.id().clone(),
            state: BackupState::Committed(Box::new(manifest)),
            fate: Fate::Stands,
            fate_unknown: None,
            beside: Beside::default(),
        }
    }
}

/// What is listed beside a manifest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beside {
    /// Numbers of its fates.
    pub(crate) fates: Vec<u32>,
    /// Keys of its checks.
    pub(crate) checks: Vec<String>,
    /// Keys of its holds.
    pub(crate) holds: Vec<String>,
    /// Keys of what drills say of it.
    pub(crate) drills: Vec<String>,
    /// Somebody accepted it.
    pub(crate) accepted: bool,
}

impl Beside {
    /// Tells whether there is something that only committed backups have.
    pub(crate) fn has_events(&self) -> bool {
        self.accepted || [&self.checks, &self.holds, &self.drills].iter().any(|keys| !keys.is_empty()) || !self.fates.is_empty()
    }

    fn add(&mut self, object: ObjectInfo) {
        let name = object.key.splitn(4, '/').nth(3).unwrap_or_default();
        if let Some(n) = fate_number(&object.key) {
            self.fates.push(n);
        } else if name == "accepted.json" {
            self.accepted = true;
        } else if name.starts_with("checks/") {
            self.checks.push(object.key);
        } else if name.starts_with("holds/") {
            self.holds.push(object.key);
        } else if name.starts_with("drills/") {
            self.drills.push(object.key);
        }
    }
}

/// State of a backup.
#[derive(Debug, Clone)]
pub enum BackupState<M = Manifest> {
    /// Its manifest stands.
    Committed(Box<M>),
    /// It has an intent and no manifest: running, or killed.
    Uncommitted(Option<Box<Intent>>),
    /// Somebody took its manifest key to abort it.
    Aborted,
    /// It was deleted, or is being deleted; why.
    Doomed(String),
    /// Its manifest cannot be believed or read.
    Unreadable(String),
}

/// Returns this program's name and version.
#[must_use]
pub fn tool() -> Tool {
    Tool { name: "dozo".into(), version: env!("CARGO_PKG_VERSION").into() }
}

pub(crate) fn to_json<T: Serialize>(key: &str, value: &T) -> Result<Bytes> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|e| CatalogError::Record { key: key.to_owned(), reason: e.to_string() })?;
    bytes.push(b'\n');
    Ok(bytes.into())
}

pub(crate) fn from_json<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| CatalogError::Record { key: key.to_owned(), reason: e.to_string() })
}

impl Repository {
    /// Opens an existing repository.
    ///
    /// # Errors
    /// [`CatalogError::NoRepository`], [`CatalogError::TooNew`], or what the store says.
    pub async fn open(store: Store) -> Result<Self> {
        let url = store.url().to_owned();
        // Before anything is believed: a delete marker hides the repository's own marker, too.
        let (store, asked) = match store.as_kept().await? {
            Some(store) => (store, true),
            None => (store, false),
        };
        let Some(bytes) = store.get_opt(Layout::MARKER).await? else {
            return Err(CatalogError::NoRepository { url });
        };
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Head {
            min_reader: u32,
        }
        let bad = |e: serde_json::Error| CatalogError::BadMarker { url: url.clone(), reason: e.to_string() };
        let head: Head = serde_json::from_slice(&bytes).map_err(bad)?;
        if head.min_reader > FORMAT_VERSION {
            return Err(CatalogError::TooNew { url, found: head.min_reader, known: FORMAT_VERSION });
        }
        let marker: RepositoryMarker = serde_json::from_slice(&bytes).map_err(bad)?;
        let store = if marker.create_only { store } else { store.one_at_a_time(&marker.id) };
        let versioned = marker.capabilities.as_ref().is_some_and(|c| c.versioning == Ability::Yes);
        let store = if versioned && !asked { store.by_version() } else { store };
        Ok(Self { store, marker, lease_times: LeaseTimes::default() })
    }

    /// Opens a repository, or makes one where there is none.
    ///
    /// # Errors
    /// As [`Repository::open`], and when the store cannot be written.
    pub async fn open_or_init(store: Store, clock: &dyn Clock) -> Result<Self> {
        match Self::open(store.clone()).await {
            Err(CatalogError::NoRepository { .. }) => {}
            other => return other,
        }
        let (probe, id) = {
            let mut rng = rand::rng();
            (random_suffix(&mut rng, 12), random_suffix(&mut rng, 16))
        };
        let found = store.probe(&probe).await?;
        let marker = RepositoryMarker {
            format: FORMAT_VERSION,
            min_reader: FORMAT_VERSION,
            id,
            created: clock.now(),
            tool: tool(),
            create_only: found.create_only == Ability::Yes,
            capabilities: Some(found),
        };
        // Whoever comes second opens what the first one made.
        store.put_new(Layout::MARKER, to_json(Layout::MARKER, &marker)?).await?;
        Self::open(store).await
    }

    /// Returns this repository with another clockwork of leases.
    #[must_use]
    pub fn with_lease_times(self, lease_times: LeaseTimes) -> Self {
        Self { lease_times, ..self }
    }

    pub(crate) fn lease_times(&self) -> LeaseTimes {
        self.lease_times
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the marker.
    #[must_use]
    pub fn marker(&self) -> &RepositoryMarker {
        &self.marker
    }

    /// Announces a backup. Comes before its first object.
    ///
    /// # Errors
    /// What the store says.
    pub async fn begin(&self, intent: &Intent) -> Result<()> {
        let key = Layout::file(&intent.source, &intent.id, "intent.json");
        Ok(self.store.put_own(&key, to_json(&key, intent)?).await?)
    }

    /// Looks whether everything that a manifest names is there with its size, as the store lists it: a store that acknowledges
    /// what it loses is found out before the commit. One request for a thousand objects.
    ///
    /// # Errors
    /// [`CatalogError::NotStored`], [`CatalogError::Fate`] when it was aborted, or what the store says.
    pub async fn everything_stands(&self, manifest: &Manifest) -> Result<()> {
        let mut sizes: HashMap<String, u64> = HashMap::new();
        for folder in [format!("{}/{}", Layout::DATA, manifest.source), Layout::backup(&manifest.source, &manifest.id)] {
            sizes.extend(self.store.list(&folder).await?.into_iter().map(|o| (o.key, o.bytes)));
        }
        let intent = Layout::file(&manifest.source, &manifest.id, "intent.json");
        let of_other_size = manifest.objects.iter().filter(|o| sizes.get(&o.key) != Some(&o.bytes));
        let mut lost: Vec<(String, Option<u64>)> = of_other_size.map(|o| (o.key.clone(), Some(o.bytes))).collect();
        // Without it, collectors do not know of this backup.
        lost.extend((!sizes.contains_key(&intent)).then_some((intent, None)));
        let Some((key, expected)) = lost.first().cloned() else { return Ok(()) };
        if sizes.contains_key(&Layout::file(&manifest.source, &manifest.id, "manifest.json")) {
            // Somebody aborted it, and took its objects.
            return Err(CatalogError::Fate { source_name: manifest.source.clone(), id: manifest.id.clone() });
        }
        let (url, there) = (self.store.url().to_owned(), sizes.get(&key).copied());
        Err(CatalogError::NotStored { url, count: lost.len(), key, expected, found: there })
    }

    /// Commits a backup: its manifest is put, create-only. Everything it names must be there.
    ///
    /// # Errors
    /// [`CatalogError::Fate`] when the key is taken: the backup was aborted by somebody else.
    pub async fn commit(&self, manifest: &Manifest) -> Result<Bytes> {
        let key = Layout::file(&manifest.source, &manifest.id, "manifest.json");
        let bytes = manifest.to_bytes().map_err(|e| CatalogError::Record { key, reason: e.to_string() })?;
        let bytes = Bytes::from(bytes);
        self.commit_bytes(&manifest.source, &manifest.id, bytes.clone()).await?;
        Ok(bytes)
    }

    /// Commits a backup whose manifest is serialized.
    ///
    /// # Errors
    /// As [`Repository::commit`].
    pub async fn commit_bytes(&self, source: &SourceName, id: &BackupId, bytes: Bytes) -> Result<()> {
        let key = Layout::file(source, id, "manifest.json");
        match self.store.put_new(&key, bytes.clone()).await? {
            // A store may acknowledge what it loses, or let another put replace this one; somebody may have deleted the backup since. What
            // cannot be read now is not known to be lost.
            PutOutcome::Created => {
                let Ok(found) = self.store.get_opt(&key).await else { return Ok(()) };
                if let Ok(Fates { fate: Fate::Doomed(record), .. }) = self.fates(source, id).await {
                    return Err(doomed(source, id, record));
                }
                match found {
                    Some(found) if found == bytes => Ok(()),
                    Some(_) => Err(CatalogError::Fate { source_name: source.clone(), id: id.clone() }),
                    None => {
                        let (url, expected) = (self.store.url().to_owned(), Some(bytes.len() as u64));
                        Err(CatalogError::NotStored { url, count: 1, key, expected, found: None })
                    }
                }
            }
            PutOutcome::Exists => Err(CatalogError::Fate { source_name: source.clone(), id: id.clone() }),
        }
    }

    /// Returns the names of all sources that have a backup.
    ///
    /// # Errors
    /// What the store says.
    pub async fn sources(&self) -> Result<Vec<SourceName>> {
        let names = self.store.folders(Layout::BACKUPS).await?;
        Ok(names.iter().filter_map(|n| SourceName::parse(n).ok()).collect())
    }

    /// Returns the ids of a source's backups, committed or not, oldest first.
    ///
    /// # Errors
    /// What the store says.
    pub async fn ids(&self, source: &SourceName) -> Result<Vec<BackupId>> {
        let names = self.store.folders(&Layout::source(source)).await?;
        Ok(names.iter().filter_map(|n| BackupId::parse(n).ok()).collect())
    }

    /// Loads the backups of one source or of all, oldest first. One that cannot be read is an entry, not an error.
    ///
    /// # Errors
    /// What the store says.
    pub async fn backups(&self, source: Option<&SourceName>) -> Result<Vec<BackupEntry>> {
        self.entries(source).await
    }

    /// Loads the backups of one source or of all, with all of their manifests or the heads.
    pub(crate) async fn entries<M: ManifestForm>(&self, source: Option<&SourceName>) -> Result<Vec<BackupEntry<M>>> {
        let listed = self.listed(source).await?;
        futures::stream::iter(listed).map(|one| self.entry(one)).buffered(FETCHES).try_collect().await
    }

    /// Lists what stands beside each backup of one source or of all, oldest first.
    pub(crate) async fn listed(&self, source: Option<&SourceName>) -> Result<Vec<(SourceName, BackupId, Beside)>> {
        let sources = match source {
            Some(one) => vec![one.clone()],
            None => self.sources().await?,
        };
        let mut listed = Vec::new();
        for source in sources {
            // One listing for all: a doom that comes later than it is not known here, so nothing is deleted because of it.
            let mut found: BTreeMap<BackupId, Beside> = BTreeMap::new();
            for object in self.store.list(&Layout::source(&source)).await? {
                if let Some(id) = object.key.split('/').nth(2).and_then(|id| BackupId::parse(id).ok()) {
                    found.entry(id).or_default().add(object);
                }
            }
            listed.extend(found.into_iter().map(|(id, beside)| (source.clone(), id, beside)));
        }
        Ok(listed)
    }

    /// Lists what stands beside one backup.
    pub(crate) async fn beside(&self, source: &SourceName, id: &BackupId) -> Result<Beside> {
        let mut beside = Beside::default();
        for object in self.store.list(&Layout::backup(source, id)).await? {
            beside.add(object);
        }
        Ok(beside)
    }

    pub(crate) async fn entry<M: ManifestForm>(
        &self,
        (source, id, beside): (SourceName, BackupId, Beside),
    ) -> Result<BackupEntry<M>> {
        let fates = self.fates_of(&source, &id, beside.fates.clone()).await?;
        let (fate, fate_unknown) = (fates.fate.clone(), fates.unknown.as_ref().map(ToString::to_string));
        let state = self.state_of(&source, &id, self.read_manifest(&source, &id, fates).await).await?;
        Ok(BackupEntry { source, id, state, fate, fate_unknown, beside })
    }

    pub(crate) async fn state(&self, source: &SourceName, id: &BackupId) -> Result<BackupState> {
        self.state_of(source, id, self.fates_and_manifest(source, id).await).await
    }

    async fn state_of<M: ManifestForm>(
        &self,
        source: &SourceName,
        id: &BackupId,
        read: Result<(Fates, M)>,
    ) -> Result<BackupState<M>> {
        match read {
            Err(CatalogError::Doomed { reason, .. }) => Ok(BackupState::Doomed(reason)),
            Ok((_, manifest)) => Ok(BackupState::Committed(Box::new(manifest))),
            Err(CatalogError::NoBackup { .. }) => {
                let key = Layout::file(source, id, "intent.json");
                let intent = self.store.get_opt(&key).await?;
                Ok(BackupState::Uncommitted(intent.and_then(|b| from_json(&key, &b).ok()).map(Box::new)))
            }
            Err(CatalogError::Manifest { source: ManifestError::Aborted, .. }) => Ok(BackupState::Aborted),
            Err(e @ (CatalogError::Manifest { .. } | CatalogError::Misplaced { .. } | CatalogError::Record { .. })) => {
                let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
                Ok(BackupState::Unreadable(format!("{e}{cause}")))
            }
            Err(e) => Err(e),
        }
    }

    /// Loads one manifest, checking its fate, its digest, its version, its place and every key that it names.
    ///
    /// # Errors
    /// [`CatalogError::NoBackup`] when it is missing, [`CatalogError::Doomed`] when it was deleted, [`CatalogError::Manifest`] when
    /// it cannot be believed.
    pub async fn manifest(&self, source: &SourceName, id: &BackupId) -> Result<Manifest> {
        Ok(self.fates_and_manifest(source, id).await?.1)
    }

    /// Loads a manifest with its fate, which is not a doom. It may be unknown: what no doom is known of can be read.
    pub(crate) async fn fates_and_manifest(&self, source: &SourceName, id: &BackupId) -> Result<(Fates, Manifest)> {
        self.read_manifest(source, id, self.fates(source, id).await?).await
    }

    async fn read_manifest<M: ManifestForm>(&self, source: &SourceName, id: &BackupId, fates: Fates) -> Result<(Fates, M)> {
        if let Fate::Doomed(record) = fates.fate {
            return Err(doomed(source, id, record));
        }
        let key = Layout::file(source, id, "manifest.json");
        let Some(bytes) = self.store.get_opt(&key).await? else {
            // It may have been doomed and deleted since its fate was read.
            return match self.fates(source, id).await?.fate {
                Fate::Doomed(record) => Err(doomed(source, id, record)),
                _ => Err(CatalogError::NoBackup { selector: format!("{source}@{id}") }),
            };
        };
        let manifest = M::from_bytes(&bytes).map_err(|e| CatalogError::Manifest {
            source_name: source.clone(),
            id: id.clone(),
            source: e,
        })?;
        let misplaced = |found: String| CatalogError::Misplaced { source_name: source.clone(), id: id.clone(), found };
        if manifest.id() != id || manifest.source() != source {
            return Err(misplaced(format!("{}@{}", manifest.source(), manifest.id())));
        }
        if let Some(foreign) = manifest.keys().find(|key| !Layout::may_name(source, id, key)) {
            return Err(misplaced(format!("a backup that names `{foreign}`")));
        }
        Ok((fates, manifest))
    }

    /// Returns all checks of a backup, oldest first.
    ///
    /// # Errors
    /// What the store says, or a damaged record.
    pub async fn checks(&self, source: &SourceName, id: &BackupId) -> Result<Vec<CheckEvent>> {
        let mut checks: Vec<CheckEvent> = self.records(&self.beside(source, id).await?.checks).await?;
        checks.sort_by_key(|c| c.at);
        Ok(checks)
    }

    /// Reads records by their keys. One that is gone since it was listed is left out: its backup is being deleted.
    pub(crate) async fn records<T: DeserializeOwned>(&self, keys: &[String]) -> Result<Vec<T>> {
        let mut found = Vec::new();
        for key in keys {
            if let Some(bytes) = self.store.get_opt(key).await? {
                found.push(from_json(key, &bytes)?);
            }
        }
        Ok(found)
    }

    /// Puts a record behind those of a folder.
    pub(crate) async fn append(&self, folder: &str, record: &impl Serialize) -> Result<()> {
        let mut n = self.store.list(folder).await?.len();
        loop {
            let key = format!("{folder}/{n:06}.json");
            if self.store.put_new(&key, to_json(&key, record)?).await? == PutOutcome::Created {
                return Ok(());
            }
            n += 1;
        }
    }

    /// Adds the result of a check beside the manifest.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record_check(&self, source: &SourceName, check: &CheckEvent) -> Result<()> {
        self.append(&Layout::checks(source, &check.backup), check).await
    }

    /// Returns the newest check of each backup at or above a level that ran to its end, and its open findings.
    #[must_use]
    pub fn verified(checks: &[CheckEvent], level: VerifyLevel) -> Option<&CheckEvent> {
        checks.iter().rev().find(|c| c.level >= level && c.verdict != Verdict::NotRun)
    }

    /// Returns the findings that no later check has refuted: one that read the same object at the same level or deeper and
    /// found nothing.
    #[must_use]
    pub fn open_findings(checks: &[CheckEvent]) -> Vec<&Finding> {
        let mut open: Vec<(VerifyLevel, &Finding)> = Vec::new();
        for check in checks {
            open.retain(|(level, f)| check.level < *level || !check.has_read(&f.object));
            open.extend(check.findings.iter().map(|f| (check.level, f)));
        }
        open.into_iter().map(|(_, f)| f).collect()
    }
}
