//! What the tests share: a database, a repository on S3 through some endpoint, and the verbs as the binary calls them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dozo_engine::{
    BackupOptions, BackupReport, BackupSelector, ConnInfo, Context, EngineError, GcDone, GcOptions, Hooks, OnBlock,
    PostgresSettings, ReplicaSettings, ReplicateOptions, ReplicateReport, Replicated, Repository, RepositorySettings,
    RestoreOptions, RestoreReport, SourceKind, SourceSettings, Store, StoreOptions, ToolChoice, UrlRef, VerifyReport, backup,
    replicate, restore, verify,
};
use dozo_model::{
    ByteSize, Clock, Explain, Manifest, NoProgress, Operator, Profile, SourceName, SystemClock, TableFormat, Verdict, VerifyLevel,
};
use dozo_testkit::{Cluster, Database, S3Server};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What is marked by hand goes, whatever a policy says.
pub(crate) async fn all_may_go()
-> std::result::Result<std::collections::HashSet<(SourceName, dozo_model::BackupId)>, dozo_engine::CatalogError> {
    Ok(std::collections::HashSet::new())
}

pub(crate) type Result<T> = std::result::Result<T, EngineError>;

/// A repository behind an endpoint.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) settings: RepositorySettings,
}

impl Place {
    /// A folder of the bucket, reached through `endpoint`; requests are tried again for so long.
    pub(crate) fn new(endpoint: &str, prefix: &str, retry_for: Duration) -> Self {
        let keys: PathBuf = std::env::temp_dir().join(format!("dozo-keys-{}", std::process::id()));
        std::fs::create_dir_all(&keys).unwrap();
        let file = keys.join(format!("credentials-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let text = format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", S3Server::KEY, S3Server::SECRET);
        std::fs::write(&file, text).unwrap();
        let store = StoreOptions {
            endpoint: Some(endpoint.to_owned()),
            region: Some("us-east-1".into()),
            credentials_file: Some(file),
            retry_for: Some(retry_for),
            request_timeout: Some(Duration::from_secs(10)),
            // The least that S3 takes.
            part_bytes: Some(5 << 20),
            ..StoreOptions::default()
        };
        let url = format!("s3://{}/{prefix}", S3Server::BUCKET);
        let settings = RepositorySettings {
            url,
            store,
            base: keys,
            min_free: 0,
            disk_levels: [0; 3],
            lock: None,
            only_host: None,
            replicas: vec![],
        };
        Self { settings }
    }

    /// A folder.
    pub(crate) fn local(folder: &std::path::Path) -> Self {
        let url = format!("file://{}", folder.display());
        Self { settings: RepositorySettings { url, ..Self::memory().settings } }
    }

    /// Settings for a repository in memory, which is opened otherwise.
    pub(crate) fn memory() -> Self {
        let store = StoreOptions::default();
        let settings = RepositorySettings {
            url: "memory://".into(),
            store,
            base: PathBuf::new(),
            min_free: 0,
            disk_levels: [0; 3],
            lock: None,
            only_host: None,
            replicas: vec![],
        };
        Self { settings }
    }

    pub(crate) fn store(&self) -> Store {
        self.settings.store().unwrap()
    }

    pub(crate) async fn open(&self) -> Result<Repository> {
        Ok(Repository::open(self.store()).await?)
    }

    /// Copies everything that stands here to another place.
    pub(crate) async fn copy_to(&self, other: &Self) {
        let (from, to) = (self.store(), other.store());
        for object in from.list("").await.unwrap() {
            to.put_own(&object.key, from.get(&object.key).await.unwrap()).await.unwrap();
        }
    }

    /// Every key with a digest of its bytes.
    pub(crate) async fn content(&self) -> Vec<(String, String)> {
        let store = self.store();
        let mut all = Vec::new();
        for object in store.list("").await.unwrap() {
            let digest = dozo_model::Sha256Digest::of(&store.get(&object.key).await.unwrap());
            all.push((object.key, digest.to_string()));
        }
        all
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name that no other test has.
pub(crate) fn fresh(what: &str) -> String {
    format!("{what}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn nightly() -> bool {
    std::env::var_os("DOZO_TEST_NIGHTLY").is_some()
}

/// A database with everything that costs a request: parts, shared objects, a partition tree.
pub(crate) fn small_database<'c>(cluster: &'c Cluster, name: &str) -> Database<'c> {
    let database = cluster.database(name);
    database.psql(
        "CREATE TABLE a AS SELECT i, string_agg(decode(md5(i || ' ' || j), 'hex'), '') t FROM generate_series(1, 54) i, generate_series(1, 6250) j GROUP BY i; \
         CREATE TABLE b AS SELECT i FROM generate_series(1, 10) i; \
         CREATE TABLE p (k int, v text) PARTITION BY RANGE (k); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100); \
         INSERT INTO p SELECT i, 'v' || i FROM generate_series(0, 99) i",
    );
    database
}

/// The verbs, on one database.
#[derive(Clone)]
pub(crate) struct Verbs {
    pub(crate) ctx: Context,
    pub(crate) source: SourceSettings,
}

impl Verbs {
    pub(crate) fn new(database: &Database<'_>) -> Self {
        Self::on(&database.url(), database.cluster.tools(), Arc::new(SystemClock))
    }

    pub(crate) fn on(url: &str, tools: PathBuf, clock: Arc<dyn Clock>) -> Self {
        let source = SourceSettings {
            name: SourceName::parse("shop").unwrap(),
            kind: SourceKind::Postgres(PostgresSettings {
                url: UrlRef::parse(url, std::path::Path::new("/")).unwrap(),
                database: None,
                databases: None,
                pg_tools: ToolChoice::Folder(tools),
                max_block: Duration::from_secs(5),
                on_block: OnBlock::Warn,
                max_replication_lag: None,
                profile: Profile::Lake,
                format: TableFormat::default(),
                formats: Vec::new(),
                text_only: vec![],
                canary: false,
                rpo_column: None,
                refuse_unknown_encoding: false,
            }),
            include: vec![],
            exclude: vec![],
            workers: 2,
            memory: ByteSize(256_000_000),
            lock_timeout: Duration::from_secs(10),
            zstd_level: 1,
            time_zone: "UTC".into(),
            reuse_max_age: Duration::from_secs(35 * 86400),
            shrink_max: 50,
            shrink_ignore: vec![],
            rate: None,
            hooks: Hooks::default(),
            retention: dozo_model::RetentionPolicy::default(),
            alarms: dozo_engine::AlarmRules::default(),
        };
        let ctx = Context {
            progress: Arc::new(NoProgress),
            clock,
            cancel: CancellationToken::new(),
            operator: Operator { user: "tester".into(), host: "here".into(), arguments: vec![] },
            uploads: TaskTracker::new(),
            cleanups: TaskTracker::new(),
        };
        Self { ctx, source }
    }

    pub(crate) async fn backup(&self, place: &Place) -> Result<BackupReport> {
        let repository = Repository::open_or_init(place.store(), self.ctx.clock.as_ref()).await?;
        backup(&self.ctx, &repository, &place.settings, &self.source, &BackupOptions::default()).await
    }

    pub(crate) async fn latest(&self, repository: &Repository) -> Result<Manifest> {
        Ok(repository.resolve(&"shop@latest".parse::<BackupSelector>()?).await?)
    }

    pub(crate) async fn verify(&self, place: &Place) -> Result<VerifyReport> {
        let repository = place.open().await?;
        let manifest = self.latest(&repository).await?;
        verify(&self.ctx, &repository, &manifest, VerifyLevel::Content, None).await
    }

    /// Verifies everything that is committed. Returns how many backups that were.
    pub(crate) async fn verify_all(&self, place: &Place) -> usize {
        let repository = place.open().await.unwrap();
        let history = repository.history(&self.source.name).await.unwrap();
        for record in &history.records {
            let report = verify(&self.ctx, &repository, &record.manifest, VerifyLevel::Content, None).await.unwrap();
            assert_eq!(report.check.verdict, Verdict::Passed, "{:?}", report.check);
        }
        history.records.len()
    }

    pub(crate) async fn restore(&self, place: &Place, url: &str) -> Result<RestoreReport> {
        let repository = place.open().await?;
        let manifest = self.latest(&repository).await?;
        self.restore_of(&repository, &manifest, url).await
    }

    pub(crate) async fn restore_of(&self, repository: &Repository, manifest: &Manifest, url: &str) -> Result<RestoreReport> {
        let options = RestoreOptions {
            create_db: true,
            verify: true,
            workers: 2,
            pg_tools: self.source.postgres().unwrap().pg_tools.clone(),
            lock_timeout: Duration::from_secs(10),
            ..RestoreOptions::default()
        };
        let info = ConnInfo::parse(url, "test").map_err(EngineError::from)?;
        restore(&self.ctx, repository, manifest, &info, &options).await
    }

    pub(crate) async fn gc(&self, place: &Place, grace: Duration) -> Result<GcDone> {
        let options = GcOptions { grace, now: self.ctx.clock.now(), only_host: None };
        Ok(place.open().await?.gc_apply(&options, &self.ctx.operator, all_may_go).await?)
    }

    /// Fills a replica; a backup that was not copied is an error here.
    pub(crate) async fn replicate(&self, from: &Place, to: &Place) -> Result<ReplicateReport> {
        let replica = ReplicaSettings {
            name: "safe".into(),
            repository: to.settings.clone(),
            choice: dozo_engine::ReplicaChoice::All,
            after_backup: true,
        };
        let from = from.open().await?;
        let options = ReplicateOptions { which: Replicated::All, sources: None, init: true, again: false, rate: None };
        let report = replicate(&self.ctx, &from, &replica, &options).await?;
        match report.failed.first() {
            Some(first) => Err(EngineError::Internal(format!("{}: {}", first.backup, first.reason))),
            None => Ok(report),
        }
    }
}

/// The exit code of an error.
pub(crate) fn exit_code(error: &EngineError) -> u8 {
    error.class().exit_code()
}
