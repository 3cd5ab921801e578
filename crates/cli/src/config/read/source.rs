//! `[source.NAME]`: what all kinds have, and what each kind has by itself.

use std::path::PathBuf;
use std::time::Duration;

use dozo_engine::{
    DatabaseChoice, DuckdbSettings, Hook, Hooks, OnBlock, PostgresSettings, SourceKind, SourceSettings, ToolChoice, UrlRef,
};
use dozo_model::{ByteSize, Compression, DuckdbForm, Percent, Profile, SourceName, Span};
use toml::de::{DeTable, DeValue};

use super::{Defaults, Reader, Table, default_workers};

/// How long a lock is waited for: long enough for ordinary statements, short enough not to stand in a queue.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Memory of a run.
const MEMORY: ByteSize = ByteSize(256_000_000);
const ZSTD_LEVEL: i32 = 1;
/// Five weeks: a nightly verification that fails for a month is noticed before everything is copied again.
const REUSE_MAX_AGE: Duration = Duration::from_secs(35 * 86400);
const SHRINK_MAX: Percent = Percent(50);
/// How long others may wait behind our locks.
const MAX_BLOCK: Duration = Duration::from_secs(5);
const MAX_REPLICATION_LAG: Duration = Duration::from_secs(10);
const HOOK_TIMEOUT: Duration = Duration::from_secs(600);
/// Kinds of sources.
const KINDS: &str = "postgres or duckdb";

impl<'t> Reader<'t> {
    pub(super) fn source(
        &mut self,
        name: &str,
        line: usize,
        table: DeTable<'t>,
        defaults: &Defaults<'_>,
    ) -> Option<SourceSettings> {
        let path = format!("source.{name}");
        let mut table = self.table(path.clone(), table);
        let parsed = SourceName::parse(name).map_err(|e| self.problem(line, &path, e.to_string())).ok();
        let kind = match self.text(&mut table, "kind").as_deref() {
            Some("postgres") => self.postgres(&mut table, &path, line).map(SourceKind::Postgres),
            Some("duckdb") => self.duckdb(&mut table, &path, line).map(SourceKind::Duckdb),
            Some(kind @ ("postgres-physical" | "files" | "command")) => {
                self.problem(line, &format!("{path}.kind"), format!("`{kind}` is not available in this version"));
                return None;
            }
            Some(kind) => {
                self.problem(line, &format!("{path}.kind"), format!("`{kind}` is not {KINDS}"));
                return None;
            }
            None => {
                self.problem(line, &format!("{path}.kind"), format!("it is missing ({KINDS})"));
                return None;
            }
        };
        let include = self.texts(&mut table, "include");
        let exclude = self.texts(&mut table, "exclude");
        let whole = |k: &SourceKind| matches!(k, SourceKind::Duckdb(d) if d.form == DuckdbForm::File);
        if kind.as_ref().is_some_and(whole) && !(include.is_empty() && exclude.is_empty()) {
            let reason = "include and exclude go with format = \"parquet\": a file is kept as a whole".into();
            self.problem(line, &format!("{path}.format"), reason);
        }
        let workers = self.count(&mut table, "workers").or(defaults.workers).unwrap_or_else(default_workers);
        let memory = self.parsed::<ByteSize>(&mut table, "memory").or(defaults.memory).unwrap_or(MEMORY);
        let lock_timeout = self.parsed::<Span>(&mut table, "lock-timeout").map_or(LOCK_TIMEOUT, |s| s.0);
        let level = self.integer(&mut table, "zstd-level", 1..=19).and_then(|n| i32::try_from(n).ok());
        // Only tables of Postgres have tokens that tell whether they changed.
        let reuse = matches!(kind, Some(SourceKind::Postgres(_)) | None);
        let reuse = reuse.then(|| self.parsed::<Span>(&mut table, "reuse-max-age")).flatten();
        let shrink_max = self.parsed::<Percent>(&mut table, "shrink-max").unwrap_or(SHRINK_MAX).0;
        let shrink_ignore = self.texts(&mut table, "shrink-ignore");
        let rate = self.rate(&mut table, "rate").map(ByteSize);
        let hooks = self.hooks(&mut table);
        let retention = self.retention(&mut table, defaults.retention.clone());
        let alarms = self.alarms(&mut table);
        self.no_more(&table);
        Some(SourceSettings {
            name: parsed?,
            kind: kind?,
            include,
            exclude,
            workers,
            memory,
            lock_timeout,
            zstd_level: level.unwrap_or(ZSTD_LEVEL),
            time_zone: defaults.time_zone.to_owned(),
            reuse_max_age: reuse.map_or(REUSE_MAX_AGE, |s| s.0),
            shrink_max,
            shrink_ignore,
            rate,
            hooks,
            retention,
            alarms,
        })
    }

    fn postgres(&mut self, table: &mut Table<'t>, path: &str, line: usize) -> Option<PostgresSettings> {
        let url = self.text(table, "url");
        if url.is_none() {
            self.problem(line, &format!("{path}.url"), "it is missing (env:NAME or file:PATH)".into());
        }
        let base = self.base.clone();
        let url = url
            .and_then(|u| UrlRef::parse(&u, &base).map_err(|e| self.problem(line, &format!("{path}.url"), e.to_string())).ok());
        if let Some(format) = self.text(table, "format").filter(|f| f != "parquet") {
            self.problem(line, &format!("{path}.format"), format!("`{format}` is not available in this version (parquet)"));
        }
        let pg_tools = self.pg_tools(table);
        let max_block = self.parsed::<Span>(table, "max-block").map_or(MAX_BLOCK, |s| s.0);
        let on_block = [("warn", OnBlock::Warn), ("release", OnBlock::Release), ("abort", OnBlock::Abort)];
        let on_block = self.one_of(table, "on-block", on_block);
        let lag = self.parsed::<Span>(table, "max-replication-lag").map_or(MAX_REPLICATION_LAG, |s| s.0);
        let databases = self.databases(table, path, line);
        let profile = self.one_of(table, "profile", [("lake", Profile::Lake), ("native", Profile::Native)]);
        let text_only = self.texts(table, "text-only");
        let unknown = self.one_of(table, "unknown-encoding", [("binary", false), ("refuse", true)]);
        Some(PostgresSettings {
            url: url?,
            database: None,
            databases,
            pg_tools,
            max_block,
            on_block,
            max_replication_lag: (!lag.is_zero()).then_some(lag),
            profile,
            text_only,
            refuse_unknown_encoding: unknown,
        })
    }

    fn duckdb(&mut self, table: &mut Table<'t>, path: &str, line: usize) -> Option<DuckdbSettings> {
        let files = self.text(table, "path");
        if files.is_none() {
            self.problem(line, &format!("{path}.path"), "it is missing (a file, or a pattern like data/*.duckdb)".into());
        }
        let (parquet, file) = (DuckdbForm::Parquet, DuckdbForm::File);
        let forms = [
            ("parquet", (parquet, Compression::Zstd)),
            ("duckdb.zst", (file, Compression::Zstd)),
            ("duckdb.gz", (file, Compression::Gzip)),
        ];
        let (form, compression) = self.one_of(table, "format", forms);
        Some(DuckdbSettings { base: self.base.clone(), path: PathBuf::from(files?), form, compression })
    }

    fn databases(&mut self, table: &mut Table<'t>, path: &str, line: usize) -> Option<DatabaseChoice> {
        let include = self.texts(table, "databases");
        let exclude = self.texts(table, "exclude-databases");
        if include.is_empty() && !exclude.is_empty() {
            self.problem(line, &format!("{path}.exclude-databases"), "it goes with databases = [\"*\"]".into());
        }
        (!include.is_empty()).then_some(DatabaseChoice { include, exclude })
    }

    fn hooks(&mut self, table: &mut Table<'t>) -> Hooks {
        let (before, after) = (self.texts(table, "before"), self.texts(table, "after"));
        let timeout = self.parsed::<Span>(table, "hook-timeout").map_or(HOOK_TIMEOUT, |s| s.0);
        let hook = |command: Vec<String>| (!command.is_empty()).then_some(Hook { command, timeout });
        Hooks { before: hook(before), after: hook(after) }
    }

    fn pg_tools(&mut self, table: &mut Table<'t>) -> ToolChoice {
        match table.entries.iter().find(|(k, ..)| k == "pg-tools").map(|(.., v)| v.get_ref()) {
            Some(DeValue::Array(_)) => ToolChoice::Wrapper(self.texts(table, "pg-tools")),
            _ => match self.text(table, "pg-tools").as_deref() {
                None | Some("auto") => ToolChoice::Auto,
                Some(folder) => ToolChoice::Folder(self.base.join(folder)),
            },
        }
    }
}
