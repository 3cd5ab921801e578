//! A database comes back: into a throw-away server, or a new database of a test server; compared, asked, and gone again.
//!
//! *Ordering*: room → server → roles → (of an archived partition: the definitions around it) → restore with fingerprints → definitions →
//! newest row → checks → tear-down, whatever happened before it. *Invariant*: the time to the verified end counts as recovery; what is looked
//! at afterwards does not.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use dozo_catalog::{lives, this_process};
use dozo_model::{
    DrillItem, DrillScope, Fingerprint, LeaseHolder, Manifest, MeasuredRpo, PostgresContent, QualifiedName, Verdict, human_bytes,
    human_duration,
};
use dozo_postgres::{
    ConnInfo, PgTools, RestoreTarget, Scratch, ServerFacts, ServerPrograms, ServerUser, Session, canary_name, comment_database,
    commented_databases, drop_database, lacking, make_roles, newest, table_definitions,
};

use super::choose::{Chosen, known_servers};
use super::estimate::estimate;
use super::job::{BackupPick, DrillServer};
use super::place::MARK;
use super::{Bench, Draft};
use crate::context::SourceSettings;
use crate::restore::{Content, RestoreOptions, RestoreReport, postgres, restore};
use crate::{EngineError, Result};

/// What the names of databases on test servers begin with.
const PREFIX: &str = "dozo_drill_";
/// Name of the database in a throw-away server.
const DATABASE: &str = "drilled";
/// What a restore makes without an error, and nobody compares.
const NOT_COMPARED: [&str; 3] = [
    "defaults, NOT NULL, identity, values of sequences, owners and grants: restored without an error, not compared",
    "settings of the database and event triggers: left out, they would act upon the drill",
    "views, functions and types: made without an error, not compared",
];
/// Definitions that are named one by one.
const NAMED: usize = 40;
/// Room that is left in the folder when a server says that its disk is full.
const FULL: u64 = 64 << 20;

/// Where a database is restored to.
pub(super) struct Place {
    pub(super) info: ConnInfo,
    /// The throw-away server.
    scratch: Option<Scratch>,
    /// Folder of its programs, for `pg_amcheck`.
    pub(super) programs: Option<std::path::PathBuf>,
    /// Major version.
    major: u32,
    /// The database is there.
    ready: bool,
}

impl Place {
    /// Tells whether the server was made for this alone.
    pub(super) fn is_own(&self) -> bool {
        self.scratch.is_some()
    }
}

impl Bench<'_> {
    /// Restores a database, some of its tables, or an archived partition.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`]. Everything else is in the item.
    pub(super) async fn database(&self, chosen: &Chosen) -> Result<DrillItem> {
        let shown = match &self.job.server {
            DrillServer::Scratch => "scratch server".to_owned(),
            DrillServer::Test(url) => format!("test server {url}"),
        };
        let mut draft = Draft::new(chosen, self.started, shown);
        let manifest = match (&chosen.manifest, &chosen.not_run) {
            (Some(manifest), None) => manifest,
            (_, why) => {
                let why = why.clone().unwrap_or_else(|| "there is nothing to restore".into());
                draft.stopped = true;
                draft.check("backup", Verdict::NotRun, why);
                return Ok(draft.done());
            }
        };
        let mut place = None;
        let worked = tokio::select! {
            biased;
            () = self.ctx.cancel.cancelled() => Err(EngineError::Cancelled),
            done = self.steps(&mut draft, chosen, manifest, &mut place) => done,
        };
        if let Err(e) = worked {
            if matches!(e, EngineError::Cancelled) {
                self.tear_down(place).await;
                return Err(e);
            }
            let died = place.as_mut().and_then(|p| Some(p.scratch.as_mut()?.ended().map(|status| status.to_string())));
            let error = match (died.flatten(), place.as_ref().and_then(|p| p.scratch.as_ref())) {
                (Some(status), Some(scratch)) => EngineError::Postgres(scratch.failed(&format!("it died ({status})"))),
                _ => e,
            };
            let full = free(&self.job.folder).filter(|free| *free < FULL && place.as_ref().is_none_or(|p| p.scratch.is_some()));
            let room = full.map(|free| format!("no room: {} are left in {}", human_bytes(free), self.job.folder.display()));
            let before = place.as_ref().is_none_or(|p| !p.ready);
            let name = if before { "server" } else { "restore" };
            draft.stop(name, &error, before, room);
        }
        // A server that died in a check has not finished it.
        if let Some(scratch) = place.as_mut().and_then(|p| p.scratch.as_mut())
            && let Some(status) = scratch.ended().filter(|_| draft.item.rto_seconds.is_some())
        {
            let error = EngineError::Postgres(scratch.failed(&format!("it died ({status})")));
            draft.stop("server", &error, true, None);
        }
        let began = Instant::now();
        let left = self.tear_down(place).await;
        draft.phase("teardown", began.elapsed().as_secs_f64());
        draft.item.not_checked.extend(left);
        Ok(draft.done())
    }

    async fn steps(&self, draft: &mut Draft, chosen: &Chosen, manifest: &Manifest, slot: &mut Option<Place>) -> Result<()> {
        let pg = postgres(manifest)?;
        let began = Instant::now();
        self.provision(draft, chosen, manifest, slot).await?;
        let Some(place) = slot.as_mut() else { return Err(EngineError::Internal("there is no server".into())) };
        let session = Session::connect_as(&place.info.with_database("postgres"), "dozo drill").await?;
        let own_server = place.scratch.is_some();
        let mut roles = pg.roles.clone();
        if let Some(around) = chosen.around.as_deref().and_then(Manifest::postgres) {
            roles.extend(around.roles.iter().cloned());
        }
        if own_server {
            make_roles(&session, &roles).await?;
            draft.item.not_checked.push("roles: made by name, without their attributes, memberships and passwords".into());
        } else {
            draft.item.not_checked.push("owners and grants: a test server has roles of its own".into());
        }
        drop(session);
        let usual = RestoreOptions {
            create_db: true,
            verify: true,
            no_tablespaces: true,
            no_owner: !own_server,
            no_privileges: !own_server,
            skip_unsupported: true,
            cut_off: true,
            workers: self.job.workers,
            pg_tools: self.tools(chosen),
            lock_timeout: std::time::Duration::from_secs(10),
            ..RestoreOptions::default()
        };
        if let Some(around) = &chosen.around {
            let options = RestoreOptions { content: Content::Schema, verify: false, ..usual.clone() };
            let _ = restore(self.ctx, self.repository, around, &place.info, &options).await?;
        }
        draft.phase("provision", began.elapsed().as_secs_f64());

        let partition = chosen.scope == DrillScope::Archive;
        let options = RestoreOptions {
            // Names, and no patterns.
            tables: chosen.names.iter().map(|n| globset::escape(n)).collect(),
            alone: partition,
            // Its table may be there again, as a stub.
            rename: partition.then(|| format!("{PREFIX}partition")),
            create_db: chosen.around.is_none(),
            ..usual
        };
        let since = Instant::now();
        let report = restore(self.ctx, self.repository, manifest, &place.info, &options).await?;
        draft.restored(&report);
        // What the restore did before its first stage is part of it.
        let since = since.elapsed().as_secs_f64();
        let told: f64 = ["schema", "fetch", "load", "index", "verify"].iter().filter_map(|p| draft.item.seconds.get(*p)).sum();
        draft.phase("schema", since - told);
        draft.item.rto_seconds = Some(draft.recovery());
        let came: BTreeSet<&str> = report.tables.iter().map(|t| t.table.as_str()).collect();
        for dataset in chosen.datasets() {
            let table = dataset.name.to_string();
            if !came.contains(table.as_str()) {
                draft.stopped = true;
                draft.check("fingerprint", Verdict::NotRun, format!("{table} was not restored"));
            }
        }
        if report.outcome == "partial" && manifest.complete {
            draft.stopped = true;
            let text = "not everything could be restored: see what was left out".to_owned();
            draft.item.not_checked.push(text);
        }
        draft.item.bytes = chosen.datasets().iter().map(|d| d.bytes_read).sum();
        for lost in manifest.left_out.iter().filter(|l| l.error) {
            draft.check("backup", Verdict::Failed, format!("{} is not in it ({})", lost.name, lost.reason));
        }
        if chosen.scope == DrillScope::Sample {
            draft.item.estimate = estimate(pg, &chosen.datasets(), &draft.item.seconds);
        }

        let began = Instant::now();
        let session = Session::connect_as(&place.info, "dozo drill").await?;
        draft.item.not_checked.extend(NOT_COMPARED.map(str::to_owned));
        if partition {
            draft
                .item
                .not_checked
                .push("definitions: those of an archived partition are made without an error, not compared".into());
            if !self.job.checks.is_empty() {
                draft.item.not_checked.push("checks of one's own: around an archived partition there are no rows".into());
            }
        } else {
            self.definitions(draft, chosen, manifest, &session, place.major).await?;
            self.newest(draft, manifest, &session).await?;
        }
        self.checks(draft, place, &session).await?;
        draft.phase("checks", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Makes a server, or a database on the test server.
    async fn provision(&self, draft: &mut Draft, chosen: &Chosen, manifest: &Manifest, slot: &mut Option<Place>) -> Result<()> {
        let pg = postgres(manifest)?;
        match &self.job.server {
            DrillServer::Scratch => {
                self.room(chosen)?;
                let programs = ServerPrograms::find(&self.job.scratch, pg.server.version_num / 10_000).await?;
                let major = programs.major;
                if major != pg.server.version_num / 10_000 {
                    let was = &pg.server.version;
                    draft.item.not_checked.push(format!("the version: the backup is of {was}, the scratch server of {major}"));
                }
                let user = ServerUser::find(&self.job.scratch)?;
                let folder = self.work.of(self.number);
                let scratch = Scratch::start(programs, user, &folder, (MARK, self.work.name())).await?;
                draft.item.place = format!("scratch server {major}");
                if !scratch.without_network {
                    let text = "isolation: the system refuses a server without a network; its settings alone keep it apart";
                    draft.item.not_checked.push(text.into());
                }
                let programs = Some(scratch.programs.folder.clone());
                let info = scratch.info(DATABASE);
                *slot = Some(Place { info: info.clone(), scratch: Some(scratch), programs, major, ready: false });
                // A locale that this machine lacks speaks against the machine.
                RestoreTarget::create_database(&info, &pg.server).await?;
            }
            DrillServer::Test(url) => {
                let info = url.resolve()?;
                let admin = Session::connect_as(&info, "dozo drill").await?;
                let facts = admin.facts().await?;
                let version = pg.server.version_num / 10_000;
                self.refuse_production(&info, &facts, version).await?;
                let major = facts.version_num / 10_000;
                if major != version {
                    draft.item.not_checked.push(format!("the version: the backup is of {version}, the test server of {major}"));
                }
                for (name, comment) in commented_databases(&admin, PREFIX).await? {
                    let owner = serde_json::from_str::<LeaseHolder>(&comment);
                    if owner.is_ok_and(|owner| lives(&owner) == Some(false)) {
                        drop_database(&admin, &name).await?;
                    }
                }
                let unique = self.work.name().rsplit('-').next().unwrap_or_default();
                let database = format!("{PREFIX}{unique}_{}", self.number);
                let own = info.with_database(&database);
                let programs = PgTools::find(&self.tools(chosen), facts.version_num).await.ok().and_then(|t| t.folder());
                // It is dropped whatever happens from here on.
                *slot = Some(Place { info: own.clone(), scratch: None, programs, major, ready: false });
                RestoreTarget::create_database(&own, &pg.server).await?;
                let owner = serde_json::to_string(&this_process()).map_err(|e| EngineError::Internal(e.to_string()))?;
                comment_database(&admin, &database, &owner).await?;
            }
        }
        if let Some(place) = slot {
            place.ready = true;
        }
        Ok(())
    }

    /// Makes sure that a server is none that backups came from.
    async fn refuse_production(&self, info: &ConnInfo, facts: &ServerFacts, version: u32) -> Result<()> {
        let refuse = |why: String| EngineError::Options(format!("{} is not drilled on: {why}", info.target()));
        let [host] = info.hosts.as_slice() else {
            return Err(refuse("it names several hosts, and each connection may reach another one".into()));
        };
        for source in self.sources {
            let theirs = source.postgres().and_then(|pg| pg.connection().ok());
            if theirs.is_some_and(|theirs| theirs.hosts.contains(host)) {
                return Err(refuse(format!("source `{}` is on the same host and port", source.name)));
            }
        }
        let Some(system) = &facts.system_identifier else {
            let why = "its system identifier cannot be read, so it cannot be told from a server that backups came from: GRANT EXECUTE ON FUNCTION pg_control_system() TO this role";
            return Err(refuse(why.into()));
        };
        let known = known_servers(self.repository).await?;
        let keys = [format!("system {system}"), format!("started {}", facts.postmaster_start)];
        if let Some(backup) = keys.iter().find_map(|k| known.by.get(k)) {
            return Err(refuse(format!("it is the server that {backup} came from (system identifier {system})")));
        }
        if let Some(backup) = known.nameless {
            return Err(refuse(format!(
                "{backup} does not say which server it came from (its role may not execute pg_control_system()): it may be this one"
            )));
        }
        if facts.version_num / 10_000 < version {
            return Err(refuse(format!("it is of version {}, the backup of {version}", facts.version_num / 10_000)));
        }
        Ok(())
    }

    /// Returns the client programs that the source is configured with.
    fn tools(&self, chosen: &Chosen) -> dozo_postgres::ToolChoice {
        let source = SourceSettings::of(self.sources, &chosen.source).and_then(SourceSettings::postgres);
        source.map(|pg| pg.pg_tools.clone()).unwrap_or_default()
    }

    /// Makes sure that there is room.
    pub(super) fn room(&self, chosen: &Chosen) -> Result<()> {
        let (needed, folder) = (chosen.bytes(), &self.job.folder);
        match free(folder) {
            Some(free) if free < needed => Err(EngineError::Folder {
                folder: folder.clone(),
                reason: format!("no room: about {} are needed, {} are free", human_bytes(needed), human_bytes(free)),
            }),
            _ => Ok(()),
        }
    }

    async fn tear_down(&self, place: Option<Place>) -> Option<String> {
        let folder = self.work.of(self.number);
        let mut left = None;
        if let Some(place) = place {
            match place.scratch {
                Some(scratch) => scratch.stop().await,
                None => {
                    let admin = async {
                        let DrillServer::Test(url) = &self.job.server else { return Ok(()) };
                        let admin = Session::connect_as(&url.resolve()?, "dozo drill").await?;
                        drop_database(&admin, &place.info.database).await
                    };
                    left = admin.await.err().map(|e: dozo_postgres::PgError| {
                        format!("teardown: database {} was not dropped: {e}", place.info.database)
                    });
                }
            }
        }
        // The next item needs the room; what does not go here goes with the folder of the drill.
        let _ = crate::workers::blocking(move || Ok(std::fs::remove_dir_all(folder))).await;
        left
    }

    /// Compares what belongs to the tables with what the source had.
    async fn definitions(
        &self,
        draft: &mut Draft,
        chosen: &Chosen,
        manifest: &Manifest,
        session: &Session,
        major: u32,
    ) -> Result<()> {
        let name = "definitions";
        let pg = postgres(manifest)?;
        let Some(expected) = &pg.definitions else {
            draft.check(name, Verdict::NotRun, "the backup is of an older dozo, which did not write them down");
            return Ok(());
        };
        let mut expected = expected.clone();
        let partial = chosen.scope != DrillScope::Database;
        if partial {
            let came: Vec<String> = chosen.datasets().iter().map(|d| d.name.to_string()).collect();
            expected.retain(|table, _| came.contains(table) || chosen.names.contains(table));
        }
        // A key to a table that is not in the backup cannot come back.
        let in_backup: BTreeSet<String> =
            pg.datasets.iter().map(|d| d.name.to_string()).chain(pg.partitioned.iter().map(|p| p.name.to_string())).collect();
        for own in expected.values_mut() {
            own.retain(|_, value| value.split_once(' ').is_none_or(|(_, referred)| in_backup.contains(referred)));
        }
        let same = major == pg.server.version_num / 10_000;
        let found = table_definitions(session, |_| true).await?;
        // What this server cannot hold was left out, and said: it speaks against the server.
        let name_of = |what: &str| what.split(" of ").next().and_then(|w| w.rsplit(' ').next()).unwrap_or_default().to_owned();
        let left_out = |what: &String| {
            let name = name_of(what);
            draft.item.checks.iter().any(|c| c.detail.starts_with("left out ") && c.detail.contains(&name))
        };
        let missing: Vec<String> = lacking(&expected, &found, partial, same).into_iter().filter(|what| !left_out(what)).collect();
        let count: usize = expected.values().map(std::collections::BTreeMap::len).sum();
        for one in missing.iter().take(NAMED) {
            draft.check(name, Verdict::Failed, one.clone());
        }
        if let Some(more) = missing.len().checked_sub(NAMED).filter(|n| *n > 0) {
            draft.check(name, Verdict::Failed, format!("{more} more are missing, or others"));
        }
        if missing.is_empty() {
            let what = if same { "by name and definition" } else { "by name" };
            let only = if partial { ", but for keys to other tables and triggers" } else { "" };
            draft.check(
                name,
                Verdict::Passed,
                format!("{count} indexes, keys, checks, triggers, policies and rules {what}{only}"),
            );
        }
        draft.item.changes = self.changes(manifest, pg).await;
        Ok(())
    }

    /// Says what the backup that was drilled before had and this one does not: somebody may have dropped it by mistake.
    async fn changes(&self, manifest: &Manifest, pg: &PostgresContent) -> Vec<String> {
        let items = self.before.records.iter().rev().flat_map(|r| &r.record.items);
        let mut ids =
            items.filter(|i| i.source == manifest.source && i.scope != DrillScope::Archive).filter_map(|i| i.backup.as_ref());
        let Some(id) = ids.next().filter(|id| **id != manifest.id) else { return Vec::new() };
        // One that is deleted by now tells nothing.
        let Ok(then) = self.repository.manifest(&manifest.source, id).await else { return Vec::new() };
        if then.started >= manifest.started {
            return Vec::new();
        }
        let (Some(then), Some(now)) = (then.postgres().and_then(|p| p.definitions.clone()), &pg.definitions) else {
            return Vec::new();
        };
        // A table that is gone as a whole is told of by the backup itself.
        let there = |table: &String| {
            pg.datasets.iter().any(|d| &d.name.to_string() == table)
                || pg.partitioned.iter().any(|p| &p.name.to_string() == table)
        };
        let then = then.into_iter().filter(|(table, _)| there(table)).collect();
        let gone = lacking(&then, now, false, false);
        gone.into_iter().take(NAMED).map(|what| format!("{what}: it was in {}@{id}", manifest.source)).collect()
    }

    /// Looks how fresh the rows are.
    async fn newest(&self, draft: &mut Draft, manifest: &Manifest, session: &Session) -> Result<()> {
        let name = "newest row";
        let settings = SourceSettings::of(self.sources, &manifest.source).and_then(SourceSettings::postgres);
        let column = settings.and_then(|pg| pg.rpo_column.clone());
        let (from, table, column) = match column {
            Some((table, column)) => (format!("{table}.{column}"), table, column),
            None => ("canary".to_owned(), canary_name(), "at".to_owned()),
        };
        let canary = from == "canary";
        let there = |t: &QualifiedName| manifest.datasets().iter().any(|d| &d.name == t || d.root.as_ref() == Some(t));
        let zone = SourceSettings::of(self.sources, &manifest.source).map_or("UTC", |s| s.time_zone.as_str());
        // A row that is written while the backup begins is one of it, or not.
        let until = manifest.finished.max(manifest.started);
        let asked = if there(&table) { newest(session, &table, &column, until, zone).await } else { Ok(None) };
        let newest = match asked {
            Ok(newest) => newest,
            // A column that is not there, or no time.
            Err(e) => {
                draft.stopped = true;
                draft.check(name, Verdict::NotRun, format!("{from}: {}", crate::error::chain(&e)));
                return Ok(());
            }
        };
        let Some((newest, later)) = newest else {
            let why = if canary {
                "there is no canary in the backup (dozo canary, or rpo-column of the source): only the age of the backup is known"
            } else {
                "no row of it came back: only the age of the backup is known"
            };
            draft.check(name, Verdict::NotRun, format!("{from}: {why}"));
            return Ok(());
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds of an age")]
        let since = |t: dozo_model::Timestamp| t.duration_since(newest).as_millis() as f64 / 1000.0;
        if later > 0 {
            draft
                .item
                .not_checked
                .push(format!("{later} rows of {table} that are dated after the backup: they say nothing about its age"));
        }
        let (seconds, before) = (since(self.started).max(0.0), since(manifest.started).max(0.0));
        draft.item.rpo = Some(MeasuredRpo { from: from.clone(), newest, seconds, before_backup_seconds: before });
        let human = |s: f64| human_duration(std::time::Duration::from_secs_f64(s.max(0.0)));
        if canary && before > self.job.canary_max_age.as_secs_f64() {
            let most = human_duration(self.job.canary_max_age);
            let text = format!(
                "stale canary: when the backup was made nobody had written one for {} (more than {most}): does `dozo canary` still run?",
                human(before)
            );
            draft.check(name, Verdict::Failed, text);
        } else {
            let old = if self.job.backup == BackupPick::Latest { format!(", {} old", human(seconds)) } else { String::new() };
            draft.check(name, Verdict::Passed, format!("{from}: {}{old}", newest.strftime("%Y-%m-%d %H:%M:%SZ")));
        }
        Ok(())
    }
}

impl Draft {
    /// Seconds from the first step to the verified end.
    fn recovery(&self) -> f64 {
        ["provision", "schema", "fetch", "load", "index", "recover", "verify"]
            .iter()
            .filter_map(|phase| self.item.seconds.get(*phase))
            .sum()
    }

    /// Takes over what a restore told.
    fn restored(&mut self, report: &RestoreReport) {
        let took = |stage: &str| report.seconds.get(stage).copied().unwrap_or(0.0);
        self.phase("schema", took("prepare") + took("schema"));
        self.phase("fetch", took("fetch"));
        self.phase("load", took("data") - took("fetch"));
        self.phase("index", took("post-data"));
        self.phase("verify", took("verify"));
        let differing: Vec<_> = report.tables.iter().filter(|t| t.verdict == "differs").collect();
        for table in &differing {
            let found = table.found.map_or_else(|| "a table of another shape".to_owned(), |f| f.to_string());
            let text = format!("{} holds {found} instead of {}", table.restored_as, table.expected);
            self.check("fingerprint", Verdict::Failed, text);
        }
        let unknown: Vec<&str> = report.tables.iter().filter(|t| t.verdict == "not run").map(|t| t.table.as_str()).collect();
        if !unknown.is_empty() {
            self.stopped = true;
            self.check("fingerprint", Verdict::NotRun, format!("it could not be computed of {}", unknown.join(", ")));
        }
        let equal = report.tables.iter().filter(|t| t.verdict == "equal").count();
        self.item.restored = report.tables.len() as u64;
        self.item.equal = equal as u64;
        self.item.rows = report.rows;
        // Sums of one algorithm add up; of a mixed backup the record has the manifest's digest.
        let found: Vec<Fingerprint> = report.tables.iter().filter_map(|t| t.found).collect();
        let one = found.first().is_some_and(|f| found.iter().all(|o| o.algorithm == f.algorithm));
        self.item.fingerprint = one.then(|| found.into_iter().sum());
        if equal == report.tables.len() && equal > 0 {
            let text =
                format!("row count and fingerprint of all {equal} tables equal the manifest, by SQL in the restored database");
            self.check("fingerprint", Verdict::Passed, text);
        }
        // What the server lacks was left out, so it was not rehearsed.
        let (left, others): (Vec<&String>, Vec<&String>) = report.warnings.iter().partition(|w| w.starts_with("left out "));
        if !left.is_empty() {
            self.stopped = true;
            for one in left {
                self.check("definitions", Verdict::NotRun, one.clone());
            }
        }
        self.item.not_checked.extend(others.into_iter().filter(|w| !w.starts_with("the backup is partial")).cloned());
    }
}

/// Returns the free bytes of the disk of a folder.
fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
