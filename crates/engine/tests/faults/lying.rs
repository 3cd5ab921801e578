//! Stores that lie: they acknowledge what they lose, return less than there is, or what was there before. Each request of a backup and of a
//! verification is answered with each lie in turn; nothing that is lost is ever called good.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dozo_catalog::Repository;
use dozo_engine::{BackupOptions, CatalogError, EngineError, Store, backup, verify};
use dozo_model::{Explain, SystemClock, Verdict, VerifyLevel};
use dozo_store::{Intercept, Interference, Operation, Request};
use dozo_testkit::shared;

use crate::world::{Place, Verbs, small_database};

/// Tells one lie: to the nth request that it can be told to.
#[derive(Debug)]
struct Liar {
    nth: u64,
    seen: AtomicU64,
    lie: Interference,
}

impl Liar {
    fn new(nth: u64, lie: Interference) -> Arc<Self> {
        Arc::new(Self { nth, seen: AtomicU64::new(0), lie })
    }

    /// Tells whether there was somebody to lie to.
    fn lied(&self) -> bool {
        self.seen.load(Ordering::SeqCst) > self.nth
    }
}

#[async_trait::async_trait]
impl Intercept for Liar {
    async fn before(&self, request: Request) -> Interference {
        let writes = matches!(request.operation, Operation::Put | Operation::Part | Operation::Complete | Operation::Begin);
        let concerned = match self.lie {
            Interference::LoseWrite => writes,
            Interference::Truncate(_) => request.operation == Operation::Get,
            _ => matches!(request.operation, Operation::Get | Operation::List),
        };
        if concerned && self.seen.fetch_add(1, Ordering::SeqCst) == self.nth { self.lie } else { Interference::Pass }
    }
}

const LIES: [Interference; 3] = [Interference::LoseWrite, Interference::Truncate(1), Interference::Old];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_committed_is_there() {
    let database = small_database(shared(15), "liars");
    let verbs = Verbs::new(&database);
    let place = Place::memory();
    let (mut told, mut found_out, mut harmless) = (0, 0, 0);
    for lie in LIES {
        for nth in 0.. {
            let honest = Store::memory();
            Repository::open_or_init(honest.clone(), &SystemClock).await.unwrap();
            let liar = Liar::new(nth, lie);
            let lying = honest.intercepted(Arc::clone(&liar) as Arc<dyn Intercept>);
            let made = match Repository::open(lying).await {
                Ok(r) => backup(&verbs.ctx, &r, &place.settings, &verbs.source, &BackupOptions::default()).await,
                Err(e) => Err(e.into()),
            };
            if !liar.lied() {
                break;
            }
            told += 1;
            let repository = Repository::open(honest).await.unwrap();
            match made {
                Ok(report) => {
                    let manifest = repository.manifest(&verbs.source.name, &report.id).await.unwrap();
                    let check = verify(&verbs.ctx, &repository, &manifest, VerifyLevel::Content, None).await.unwrap().check;
                    assert_eq!(check.verdict, Verdict::Passed, "{lie:?} to request {nth}: {check:?}");
                    harmless += 1;
                }
                Err(e) => {
                    assert!(!e.to_string().is_empty() && e.class().exit_code() != 0);
                    found_out += 1;
                }
            }
        }
    }
    println!("backup: {told} lies, {found_out} found out before the commit, {harmless} without consequence");
    assert!(found_out >= 12 && told >= 20, "{found_out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_that_passes_has_read_everything() {
    let database = small_database(shared(15), "liars_verify");
    let verbs = Verbs::new(&database);
    let place = Place::memory();
    let honest = Store::memory();
    let repository = Repository::open_or_init(honest.clone(), &SystemClock).await.unwrap();
    let made = backup(&verbs.ctx, &repository, &place.settings, &verbs.source, &BackupOptions::default()).await.unwrap();
    let (mut told, mut failed, mut refused, mut harmless) = (0, 0, 0, 0);
    for lie in [Interference::Truncate(1), Interference::Old] {
        for nth in 0.. {
            let liar = Liar::new(nth, lie);
            let checked = async {
                let repository = Repository::open(honest.intercepted(Arc::clone(&liar) as Arc<dyn Intercept>)).await?;
                let manifest = repository.manifest(&verbs.source.name, &made.id).await?;
                let before = liar.lied();
                let check = verify(&verbs.ctx, &repository, &manifest, VerifyLevel::Content, None).await?.check;
                Ok::<_, EngineError>((before, check))
            };
            let checked = checked.await;
            if !liar.lied() {
                break;
            }
            told += 1;
            match checked {
                Err(EngineError::Catalog(CatalogError::Store(_))) | Err(EngineError::Catalog(_)) => refused += 1,
                Err(e) => panic!("{lie:?} to request {nth}: {e}"),
                Ok((_, check)) if check.verdict == Verdict::Failed => failed += 1,
                // Told about a fate, or about earlier checks: what was read of the backup is true.
                Ok((before, check)) => {
                    assert!(before || check.objects > 0, "{lie:?} to request {nth}: {check:?}");
                    harmless += 1;
                }
            }
        }
    }
    println!("verify: {told} lies, {failed} findings, {refused} refused to go on, {harmless} without consequence");
    // Every object is read once, and each lie about it is a finding.
    assert!(failed >= 2 * made.tables.len() && refused >= 3 && harmless <= 4, "{failed} {refused} {harmless}");
}
