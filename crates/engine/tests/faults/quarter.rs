//! A quarter of nights with a clock that is given: backup, verification, retention; one bad night a week, each of another kind. In the end
//! stands what the policy promises, and each of it restores.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dozo_engine::{BackupState, ClockDoubts, Decision, Facts, GcOptions, RetentionOptions, retention_plan};
use dozo_model::{BackupId, FixedClock, Intent, LeaseHolder, Period, RetentionPolicy, Timestamp, Verdict};
use dozo_testkit::shared;
use jiff::ToSpan;
use jiff::civil::Date;

use crate::world::{Place, Verbs, fresh, nightly};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Night {
    Good,
    /// A table is empty.
    Suspect,
    /// A table cannot be read.
    Partial,
    /// An object is damaged after it was written.
    Damaged,
    /// The process dies before the commit.
    Killed,
    /// The machine is off.
    Nothing,
}

const BAD: [Night; 5] = [Night::Suspect, Night::Partial, Night::Damaged, Night::Killed, Night::Nothing];

fn policy() -> RetentionPolicy {
    let usual = RetentionPolicy { time_zone: "Asia/Tokyo".into(), ..RetentionPolicy::default() };
    // By day fewer nights, and shorter tiers for them.
    if nightly() { usual } else { RetentionPolicy { daily: Period::days(9), weekly: Period::Months(1), ..usual } }
}

/// What stays, by counting days and weeks on the calendar: the good ones of `daily` days, the first good one of each week and month.
fn promised(nights: &BTreeMap<Date, (Night, BackupId)>, policy: &RetentionPolicy) -> BTreeSet<BackupId> {
    let good: Vec<(&Date, &BackupId)> =
        nights.iter().filter(|(_, (n, _))| *n == Night::Good).map(|(d, (_, id))| (d, id)).collect();
    let newest = *good.last().unwrap().0;
    let Period::Time(daily) = policy.daily else { panic!("days") };
    let young = |date: &Date| date.until(newest).unwrap().get_days() <= i32::try_from(daily.as_secs() / 86_400).unwrap();
    let months = |n: u32| newest.checked_sub(i64::from(n).months()).unwrap();
    let (Period::Months(weekly), Period::Months(monthly)) = (policy.weekly, policy.monthly) else { panic!("months") };
    let mut stays: BTreeSet<BackupId> = nights.iter().filter(|(d, _)| young(d)).map(|(_, (_, id))| id.clone()).collect();
    let (mut weeks, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (date, id) in good {
        let week = (date.iso_week_date().year(), date.iso_week_date().week());
        if weeks.insert(week) && *date >= months(weekly) {
            stays.insert(id.clone());
        }
        if seen.insert((date.year(), date.month())) && *date >= months(monthly) {
            stays.insert(id.clone());
        }
    }
    stays
}

struct Quarter {
    place: Place,
    folder: std::path::PathBuf,
    url: String,
    nights: BTreeMap<Date, (Night, BackupId)>,
}

impl Quarter {
    fn verbs(&self, now: Timestamp) -> Verbs {
        let verbs = Verbs::on(&self.url, shared(15).tools(), Arc::new(FixedClock(now)));
        let source = dozo_engine::SourceSettings { retention: policy(), ..verbs.source };
        Verbs { source, ..verbs }
    }

    /// A backup that dies before it is committed: its intent stands, its process does not.
    async fn killed(&self, now: Timestamp) {
        let verbs = self.verbs(now);
        let repository = self.place.open().await.unwrap();
        let holder =
            LeaseHolder { host: "elsewhere".into(), boot_id: "1".into(), pid_namespace: "1".into(), pid: 1, pid_start: 1 };
        let id = BackupId::new(now, &mut rand::rng());
        let intent = Intent { format: 1, id, source: verbs.source.name, parent: None, started: now, holder, replica_of: None };
        repository.begin(&intent).await.unwrap();
    }

    /// Flips a bit of an object that this backup has written.
    fn damage(&self, id: &BackupId) {
        let mut open = vec![self.folder.join("data")];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else if path.to_string_lossy().contains(id.as_str()) {
                    let mut bytes = std::fs::read(&path).unwrap();
                    bytes[20] ^= 1;
                    return std::fs::write(&path, bytes).unwrap();
                }
            }
        }
        panic!("{id} has written nothing");
    }

    async fn night(&mut self, date: Date, now: Timestamp, kind: Night) {
        let verbs = self.verbs(now);
        match kind {
            Night::Nothing => return,
            Night::Killed => return self.killed(now).await,
            _ => {}
        }
        let report = verbs.backup(&self.place).await.unwrap();
        let expected = match kind {
            Night::Suspect => "suspect",
            Night::Partial => "partial",
            _ => "done",
        };
        assert_eq!(report.outcome, expected, "{date}: {:?} {:?}", report.losses, report.left_out);
        if kind == Night::Damaged {
            self.damage(&report.id);
        }
        let verdict = verbs.verify(&self.place).await.unwrap().check.verdict;
        assert_eq!(verdict == Verdict::Failed, kind == Night::Damaged, "{date}");
        self.nights.insert(date, (kind, report.id));
    }

    async fn retention(&self, now: Timestamp) -> Facts {
        let repository = self.place.open().await.unwrap();
        let facts = repository.retention_facts().await.unwrap();
        let (policy, verbs) = (policy(), self.verbs(now));
        let plan = retention_plan(&facts, |_| &policy, now);
        let gc = GcOptions { grace: std::time::Duration::from_secs(86_400), now, only_host: None };
        let options = RetentionOptions { gc, max_delete: None, doubts: ClockDoubts::Records, lock: None };
        let (latest, ctx) = (facts.latest_record.as_ref(), &verbs.ctx);
        repository.retention_apply(&plan, latest, |_| &policy, &options, &ctx.operator, &ctx.cancel).await.unwrap();
        facts
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarter_of_nights() {
    let cluster = shared(15);
    let database = cluster.database("quarter");
    let role = fresh("reader");
    database.psql(&format!(
        "CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders SELECT i, md5(i::text) FROM generate_series(1, 2000) i; \
         CREATE TABLE users AS SELECT i FROM generate_series(1, 300) i; CREATE TABLE prices AS SELECT i FROM generate_series(1, 50) i; \
         CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    ));
    let folder = tempfile::tempdir().unwrap();
    let place = Place::local(folder.path());
    let url = database.url_as(&role);
    let mut quarter = Quarter { place, folder: folder.path().to_owned(), url, nights: BTreeMap::new() };
    let (first, count): (Date, i64) =
        if nightly() { ("2026-08-24".parse().unwrap(), 90) } else { ("2026-09-28".parse().unwrap(), 40) };
    let mut counts: BTreeMap<Night, usize> = BTreeMap::new();
    let mut last = Timestamp::UNIX_EPOCH;
    for n in 0..count {
        let date = first.checked_add(n.days()).unwrap();
        let now = date.at(2, 0, 0, 0).in_tz("Asia/Tokyo").unwrap().timestamp();
        last = now + 2.hours();
        database.psql(&format!("UPDATE orders SET note = 'night {n}' WHERE id <= 20; INSERT INTO users VALUES ({n})"));
        // One bad night a week, each week on another day; the last ones are good.
        let week = n / 7;
        let bad = n % 7 == (week * 2 + 3) % 7 && n + 3 < count;
        let kind = if bad { BAD[usize::try_from(week).unwrap() % BAD.len()] } else { Night::Good };
        match kind {
            Night::Suspect => database.psql("DELETE FROM prices"),
            Night::Partial => database.psql(&format!("REVOKE SELECT ON prices FROM {role}")),
            _ => String::new(),
        };
        quarter.night(date, now, kind).await;
        match kind {
            Night::Suspect => database.psql("INSERT INTO prices SELECT generate_series(1, 50)"),
            Night::Partial => database.psql(&format!("GRANT SELECT ON prices TO {role}")),
            _ => String::new(),
        };
        *counts.entry(kind).or_default() += 1;
        quarter.retention(last).await;
    }
    let facts = quarter.retention(last).await;
    let promised = promised(&quarter.nights, &policy());
    let standing: BTreeSet<BackupId> = facts.backups.iter().filter(|b| b.mark.is_none()).map(|b| b.id.clone()).collect();
    assert_eq!(standing, promised);
    // What is marked is within its grace, and nothing else is left.
    for b in facts.backups.iter().filter(|b| b.mark.is_some()) {
        assert!(b.mark.as_ref().unwrap().due > last, "{}", b.id);
    }
    let repository = quarter.place.open().await.unwrap();
    let plan = repository
        .gc_plan(&GcOptions { grace: std::time::Duration::from_secs(86_400), now: last, only_host: None })
        .await
        .unwrap();
    assert!(plan.orphans.is_empty() && plan.uncommitted.is_empty() && plan.unreadable.is_empty(), "{plan:?}");
    let mut restored = 0;
    for entry in repository.backups(None).await.unwrap() {
        let BackupState::Committed(manifest) = entry.state else { continue };
        let kind = quarter.nights.values().find(|(_, id)| *id == manifest.id).unwrap().0;
        if kind == Night::Damaged || !standing.contains(&manifest.id) {
            continue;
        }
        let url = cluster.url("postgres", &fresh("quarter_copy"));
        quarter.verbs(last).restore_of(&repository, &manifest, &url).await.unwrap();
        restored += 1;
    }
    println!("{count} nights {counts:?}: {} backups stand, {restored} of them restored", standing.len());
    assert!(restored + 1 >= standing.len() && restored > 10);
    // Whoever marks by hand is contradicted by the next run.
    let kept = standing.first().unwrap();
    let verbs = quarter.verbs(last);
    let by = Decision { operator: &verbs.ctx.operator, at: last, reason: "by mistake" };
    repository.mark(&verbs.source.name, kept, &by, last + 24.hours()).await.unwrap();
    quarter.retention(last).await;
    assert!(repository.fate(&verbs.source.name, kept).await.unwrap().mark().is_none());
}
