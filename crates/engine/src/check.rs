//! `check`: the doctor. One line per question, each ok, warn or fail with the next step.

use dozo_catalog::Repository;
use dozo_model::{Ability, Capabilities, Explain, human_bytes, random_suffix};
use dozo_postgres::{
    PgError, PgTools, Session, large_objects, lock_budget, missing_grants, sequences, tables, visible_user_mappings,
};
use dozo_store::Parts;
use serde::Serialize;

use crate::backup::{Readable, readable, wanted_sequences};
use crate::budget::Budget;
use crate::context::{
    CommandSettings, Context, DuckdbSettings, FilesSettings, PostgresSettings, RepositorySettings, SourceKind, SourceSettings,
};
use crate::select::Patterns;
use crate::{EngineError, Result, command, duckdb, files};

/// Answer to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// It works, with a consequence.
    Warn,
    /// It does not work.
    Fail,
}

/// One line of the doctor.
#[derive(Debug, Clone, Serialize)]
pub struct CheckLine {
    /// `repository`, or a source.
    pub about: String,
    /// Question.
    pub question: &'static str,
    /// Answer.
    pub status: CheckStatus,
    /// What was found.
    pub detail: String,
    /// Next step.
    pub next: Option<String>,
}

struct Doctor {
    about: String,
    lines: Vec<CheckLine>,
}

impl Doctor {
    fn add(&mut self, question: &'static str, status: CheckStatus, detail: impl Into<String>, next: Option<String>) {
        self.lines.push(CheckLine { about: self.about.clone(), question, status, detail: detail.into(), next });
    }

    fn ok(&mut self, question: &'static str, detail: impl Into<String>) {
        self.add(question, CheckStatus::Ok, detail, None);
    }

    fn fail(&mut self, question: &'static str, error: &impl Explain) {
        let cause = error.source().map(|s| format!(": {s}")).unwrap_or_default();
        self.add(question, CheckStatus::Fail, format!("{error}{cause}"), error.next());
    }
}

/// Returns the exclude patterns that match nothing: fine for tables that come and go, or misspelt.
fn idle_excludes(source: &SourceSettings, tables: &[dozo_postgres::TableInfo]) -> Result<Vec<String>> {
    let mut idle = Vec::new();
    for pattern in &source.exclude {
        let one = Patterns::new(std::slice::from_ref(pattern))?;
        if !tables.iter().any(|t| one.matching(&t.name, t.root.as_ref().map(|(_, n)| n)).is_some()) {
            idle.push(format!("`{pattern}`"));
        }
    }
    Ok(idle)
}

/// Looks at the repository and at every source.
///
/// # Errors
/// When the work is interrupted. What does not work is in the lines.
pub async fn check(ctx: &Context, repository: &RepositorySettings, sources: &[SourceSettings]) -> Result<Vec<CheckLine>> {
    let work = async {
        let mut lines = check_repository(None, repository, sources).await;
        for replica in &repository.replicas {
            lines.extend(check_repository(Some(&replica.name), &replica.repository, &[]).await);
        }
        for source in sources {
            lines.extend(check_source(ctx, source, repository).await);
        }
        lines
    };
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(EngineError::Cancelled),
        lines = work => Ok(lines),
    }
}

/// Looks at a repository, or at a replica of it.
async fn check_repository(replica: Option<&str>, settings: &RepositorySettings, sources: &[SourceSettings]) -> Vec<CheckLine> {
    let about = replica.map_or_else(|| "repository".into(), |name| format!("replica {name}"));
    let mut doctor = Doctor { about, lines: Vec::new() };
    let store = match settings.store() {
        Ok(store) => store,
        Err(e) => {
            doctor.fail("url", &e);
            return doctor.lines;
        }
    };
    let mut recorded = None;
    match Repository::open(store.clone()).await {
        Ok(r) => {
            doctor.ok("repository", format!("{} (id {}, format version {})", store.url(), r.marker().id, r.marker().format));
            recorded = Some(r.marker().create_only);
        }
        Err(dozo_catalog::CatalogError::NoRepository { url }) => {
            doctor.add(
                "repository",
                CheckStatus::Warn,
                format!("{url} holds no repository yet"),
                Some(match replica {
                    Some(name) => format!("mount its disk, or make it: dozo replicate --init --to {name}"),
                    None => "the first `dozo backup` makes one".into(),
                }),
            );
            // Nothing is written under what may be an unmounted disk.
            if replica.is_some() {
                return doctor.lines;
            }
        }
        Err(e) => doctor.fail("repository", &e),
    }
    let random = random_suffix(&mut rand::rng(), 12);
    match store.probe(&random).await {
        Ok(found) => tell_capabilities(&mut doctor, &found, recorded, settings),
        Err(e) => doctor.fail("writable", &e),
    }
    if let Some((free, total)) = store.space() {
        let tenth = total / 10;
        let status = if free < tenth { CheckStatus::Warn } else { CheckStatus::Ok };
        let next = (status == CheckStatus::Warn).then(|| "free space, or move the repository".to_owned());
        doctor.add("room", status, format!("{} of {} free", human_bytes(free), human_bytes(total)), next);
    }
    for source in sources {
        let budget = Budget::new(source.memory.0, source.workers, store.parts());
        let (workers, peak) = (budget.workers, human_bytes(budget.peak_bytes() as u64));
        doctor.ok("memory", format!("source {}: {workers} workers, peak about {peak}", source.name));
    }
    doctor.lines
}

/// Says what the store can do, as it was just found out, and what follows from it.
fn tell_capabilities(doctor: &mut Doctor, found: &Capabilities, recorded: Option<bool>, settings: &RepositorySettings) {
    match found.delete {
        Ability::Yes => doctor.ok("writable", "objects were written, read, listed and removed"),
        _ => doctor.add(
            "writable",
            CheckStatus::Warn,
            "objects were written, but not removed",
            Some("fine for a host that only backs up; `dozo gc apply` needs the permission to delete".into()),
        ),
    }
    let only = settings.only_host.as_deref();
    if found.create_only == Ability::Yes && recorded != Some(false) {
        doctor.ok("create-only puts", "the second of two writers is refused");
    } else {
        let was = if found.create_only == Ability::Yes { "when the repository was made, " } else { "" };
        let what = format!("{was}the store let the second of two writers overwrite the first");
        let next = match only {
            Some(host) => format!("only {host} may ever write to it: two hosts would lose backups"),
            None => "back up from one host only; to delete anything, name it: only-host".into(),
        };
        doctor.add("create-only puts", CheckStatus::Warn, what, Some(next));
    }
    if found.list_after_write == Ability::No {
        let next = "use another store: a backup would not be committed here".to_owned();
        doctor.add("listing", CheckStatus::Fail, "it does not show what was just written", Some(next));
    }
    if found.multipart == Ability::No {
        let next = "objects of more than part-size cannot be stored".to_owned();
        doctor.add("uploads in parts", CheckStatus::Fail, "refused, or not what was sent", Some(next));
    }
    if found.checksums == Ability::No {
        let next = "transport errors are found by `dozo verify` only".to_owned();
        doctor.add("checksums", CheckStatus::Warn, "the store accepts bytes that do not match their SHA-256", Some(next));
    }
    if found.storage_class == Ability::No {
        let next = "remove storage-class, or correct it".to_owned();
        doctor.add("storage class", CheckStatus::Warn, "the configured class is refused or not kept", Some(next));
    }
    let words = [
        ("If-Match", found.if_match),
        ("multipart", found.multipart),
        ("checksums", found.checksums),
        ("storage class", found.storage_class),
        ("versioning", found.versioning),
        ("object lock", found.object_lock),
    ];
    let word = |a: Ability| match a {
        Ability::Yes => "yes",
        Ability::No => "no",
        Ability::Unknown => "not asked",
    };
    let words: Vec<String> = words.iter().map(|(name, a)| format!("{name} {}", word(*a))).collect();
    doctor.ok("store", words.join(", "));
}

async fn check_source(ctx: &Context, source: &SourceSettings, repositories: &RepositorySettings) -> Vec<CheckLine> {
    let mut doctor = Doctor { about: source.name.to_string(), lines: Vec::new() };
    let looked = match &source.kind {
        SourceKind::Postgres(settings) => {
            let parts = repositories.store().map(|s| s.parts()).unwrap_or_default();
            look_at_database(ctx, source, settings, parts, &mut doctor).await
        }
        SourceKind::Duckdb(settings) => look_at_files(source, settings, &mut doctor),
        SourceKind::Files(settings) => look_at_set(ctx, source, settings, repositories, &mut doctor).await,
        SourceKind::Command(settings) => {
            look_at_command(settings, &mut doctor);
            Ok(())
        }
    };
    if let Err(e) = looked {
        doctor.fail("source", &e);
    }
    doctor.lines
}

/// Looks whether a file set is there, and what of it cannot be read.
async fn look_at_set(
    ctx: &Context,
    source: &SourceSettings,
    settings: &FilesSettings,
    repositories: &RepositorySettings,
    doctor: &mut Doctor,
) -> Result<()> {
    let walked = files::Tree::look(source, settings)?.walk(repositories, &ctx.cancel).await?;
    let bytes = walked.items.iter().map(files::size_of).sum();
    let status = if walked.items.is_empty() { CheckStatus::Fail } else { CheckStatus::Ok };
    let detail =
        format!("{} files, folders and links below {}, {}", walked.items.len(), settings.root.display(), human_bytes(bytes));
    let next = (status == CheckStatus::Fail).then(|| "correct root, include or exclude".to_owned());
    doctor.add("files", status, detail, next);
    for pattern in source.include.iter().filter(|p| !p.starts_with('!')) {
        if !files::matches_any(pattern, &walked.items)? {
            let next = "correct it, if that is not meant: patterns are those of .gitignore, and count from root".to_owned();
            doctor.add("files", CheckStatus::Warn, format!("include `{pattern}` matches nothing"), Some(next));
        }
    }
    for problem in walked.problems {
        let status = if problem.error { CheckStatus::Fail } else { CheckStatus::Warn };
        let next = "give whoever backs up the right to read it, or leave it out with exclude".to_owned();
        doctor.add("files", status, format!("{}: {}", problem.path, problem.reason), Some(next));
    }
    Ok(())
}

/// Looks whether the programs are there; they are not run.
fn look_at_command(settings: &CommandSettings, doctor: &mut Doctor) {
    for program in [settings.command.first(), settings.check.first()].into_iter().flatten() {
        match command::find_program(&settings.base, program) {
            Ok(path) => doctor.ok("command", format!("{program} is {}", path.display())),
            Err(why) => doctor.add("command", CheckStatus::Fail, why, Some("install it, or write its whole path".into())),
        }
    }
}

/// Looks whether the files are there and open.
fn look_at_files(source: &SourceSettings, settings: &DuckdbSettings, doctor: &mut Doctor) -> Result<()> {
    for (name, found) in duckdb::look_at(source, settings)? {
        match found {
            Ok(detail) => doctor.ok("file", format!("{name}: {detail}")),
            Err(e) => doctor.fail("file", &e),
        }
    }
    Ok(())
}

async fn look_at_database(
    ctx: &Context,
    source: &SourceSettings,
    settings: &PostgresSettings,
    parts: Parts,
    doctor: &mut Doctor,
) -> Result<()> {
    let info = match settings.connection() {
        Ok(info) => info,
        Err(e) => {
            doctor.fail("url", &e);
            return Ok(());
        }
    };
    let session = match Session::connect(&info).await {
        Ok(session) => session,
        Err(e) => {
            doctor.fail("connection", &e);
            return Ok(());
        }
    };
    doctor.ok("connection", info.target());
    let facts = match session.facts().await {
        Ok(facts) => facts,
        Err(e) => {
            doctor.fail("server", &e);
            return Ok(());
        }
    };
    let major = facts.version_num / 10_000;
    let described =
        format!("Postgres {}{}, encoding {}", facts.version, if facts.standby { ", standby" } else { "" }, facts.encoding);
    match major {
        15 | 17 | 18 => doctor.ok("server", described),
        _ => doctor.add("server", CheckStatus::Warn, described, Some("this version is not tested; 15, 17 and 18 are".into())),
    }
    let skew = ctx.clock.now().duration_since(facts.now).as_secs().abs();
    let clock = if skew > 60 { CheckStatus::Warn } else { CheckStatus::Ok };
    doctor.add(
        "clock",
        clock,
        format!("{skew} s apart from the server's"),
        (skew > 60).then(|| "set up time synchronization on both".to_owned()),
    );
    match session.refuse_pooler().await {
        Ok(()) => doctor.ok("pooler", "none in transaction mode"),
        Err(e @ PgError::Pooler { .. }) => {
            doctor.fail("pooler", &e);
            return Ok(());
        }
        Err(e) => return Err(e.into()),
    }
    let all = tables(&session).await?;
    let Readable { wanted, row_security } = readable(source, facts.standby, &all)?;
    let idle = idle_excludes(source, &all)?;
    if !idle.is_empty() {
        doctor.add(
            "exclude",
            CheckStatus::Warn,
            format!("{} matches no table now", idle.join(", ")),
            Some("check the spelling".into()),
        );
    }
    let grants =
        missing_grants(&facts.user, &wanted, &wanted_sequences(source, facts.standby, &all, sequences(&session).await?)?);
    if grants.is_empty() {
        doctor.ok("grants", format!("all {} tables and partitions may be read", wanted.len()));
    } else {
        doctor.add(
            "grants",
            CheckStatus::Fail,
            "not every table may be read",
            Some(format!("run as the owner or a superuser:\n{}", grants.join("\n"))),
        );
    }
    if row_security.is_empty() {
        doctor.ok("row security", "no policy hides rows from this role");
    } else {
        let next = format!("ALTER ROLE {} BYPASSRLS;", dozo_model::quote_ident(&facts.user));
        doctor.add("row security", CheckStatus::Fail, format!("it hides rows of {}", row_security.join(", ")), Some(next));
    }
    match large_objects(&session).await {
        Ok(census) if census.unreadable == 0 => {}
        Ok(census) => doctor.add(
            "large objects",
            CheckStatus::Warn,
            format!("{} of them may not be read: a backup without them is partial", census.unreadable),
            Some(format!(
                "GRANT SELECT ON LARGE OBJECT … TO {}; or exclude = [\"pg_catalog.pg_largeobject\"]",
                dozo_model::quote_ident(&facts.user)
            )),
        ),
        Err(e) => doctor.fail("large objects", &e),
    }
    let mappings = visible_user_mappings(&session).await?;
    if mappings > 0 {
        doctor.add(
            "secrets",
            CheckStatus::Warn,
            format!("schema.dump and schema.sql will hold the options of {mappings} user mappings, perhaps passwords"),
            Some("keep the repository closed to others, or back up as a role that does not own them".into()),
        );
    }
    match PgTools::find(&settings.pg_tools, facts.version_num).await {
        Ok(tools) => doctor.ok("pg_dump", format!("version {} in {}", tools.major, tools.location())),
        Err(e) => doctor.fail("pg_dump", &e),
    }
    let locks = lock_budget(&session).await?;
    let workers = Budget::new(source.memory.0, source.workers, parts).workers as u64;
    // The coordinator, pg_dump and each worker lock every table they read.
    let needed = wanted.len() as u64 * (workers + 2);
    let free = locks.slots.saturating_sub(locks.used);
    let enough = needed <= free;
    doctor.add(
        "locks",
        if enough { CheckStatus::Ok } else { CheckStatus::Warn },
        format!("up to {needed} needed, {free} of {} free", locks.slots),
        (!enough).then(|| "raise max_locks_per_transaction and restart the server, or lower workers".to_owned()),
    );
    Ok(())
}
