//! `[source.NAME]`: what all kinds have, and what each kind has by itself.

use std::path::PathBuf;
use std::time::Duration;

use dozo_engine::{
    CommandSettings, DatabaseChoice, DuckdbSettings, FilesSettings, Hook, Hooks, OnBlock, PostgresSettings, RotateSettings,
    SourceKind, SourceSettings, ToolChoice, UnseenWriters, UrlRef,
};
use dozo_model::{ByteSize, Compression, DuckdbForm, FilePath, Percent, Profile, SourceName, Span, TableFormat};
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
const KINDS: &str = "postgres, duckdb, files or command";
/// A command that says nothing for so long hangs.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

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
            Some("files") => self.files(&mut table, &path, line).map(SourceKind::Files),
            Some("command") => self.command(&mut table, &path, line, name).map(SourceKind::Command),
            Some(kind @ "postgres-physical") => {
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
        // There is one output, and it is kept as a whole.
        let parts = !matches!(kind, Some(SourceKind::Command(_)));
        let mut patterns = |key| if parts { self.texts(&mut table, key) } else { Vec::new() };
        let (include, exclude) = (patterns("include"), patterns("exclude"));
        let whole = |k: &SourceKind| matches!(k, SourceKind::Duckdb(d) if d.form == DuckdbForm::File);
        if kind.as_ref().is_some_and(whole) && !(include.is_empty() && exclude.is_empty()) {
            let reason = "include and exclude go with format = \"parquet\": a file is kept as a whole".into();
            self.problem(line, &format!("{path}.format"), reason);
        }
        let workers = self.count(&mut table, "workers").or(defaults.workers).unwrap_or_else(default_workers);
        let memory = self.parsed::<ByteSize>(&mut table, "memory").or(defaults.memory).unwrap_or(MEMORY);
        // Files and commands have no locks.
        let locks = matches!(kind, Some(SourceKind::Postgres(_) | SourceKind::Duckdb(_)) | None);
        let lock_timeout = locks.then(|| self.parsed::<Span>(&mut table, "lock-timeout")).flatten();
        let level = self.integer(&mut table, "zstd-level", 1..=19).and_then(|n| i32::try_from(n).ok());
        // Only of tables of Postgres and of files is it known whether they changed.
        let reuse = matches!(kind, Some(SourceKind::Postgres(_) | SourceKind::Files(_)) | None);
        let reuse = reuse.then(|| self.parsed::<Span>(&mut table, "reuse-max-age")).flatten();
        let shrink_max = self.parsed::<Percent>(&mut table, "shrink-max").unwrap_or(SHRINK_MAX).0;
        let shrink_ignore = if locks { self.texts(&mut table, "shrink-ignore") } else { Vec::new() };
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
            lock_timeout: lock_timeout.map_or(LOCK_TIMEOUT, |s| s.0),
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
        let format = self.one_of(table, "format", TableFormat::ALL.map(|f| (f.as_str(), f)));
        let formats = self.formats(table, path);
        let pg_tools = self.pg_tools(table);
        let max_block = self.parsed::<Span>(table, "max-block").map_or(MAX_BLOCK, |s| s.0);
        let on_block = [("warn", OnBlock::Warn), ("release", OnBlock::Release), ("abort", OnBlock::Abort)];
        let on_block = self.one_of(table, "on-block", on_block);
        let lag = self.parsed::<Span>(table, "max-replication-lag").map_or(MAX_REPLICATION_LAG, |s| s.0);
        let databases = self.databases(table, path, line);
        let profile = self.one_of(table, "profile", [("lake", Profile::Lake), ("native", Profile::Native)]);
        let text_only = self.texts(table, "text-only");
        let canary = self.boolean(table, "canary").unwrap_or(false);
        let rpo_column = self.rpo_column(table);
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
            format,
            formats,
            text_only,
            canary,
            rpo_column,
            refuse_unknown_encoding: unknown,
        })
    }

    /// Reads `formats = { "schema.table" = "csv.gz" }`.
    fn formats(&mut self, table: &mut Table<'t>, path: &str) -> Vec<(String, TableFormat)> {
        let Some((line, value)) = self.take(table, "formats") else { return Vec::new() };
        let key = format!("{path}.formats");
        let DeValue::Table(inner) = value else {
            self.problem(line, &key, "it must be a table, like { \"public.events\" = \"csv.gz\" }".into());
            return Vec::new();
        };
        let patterns: Vec<String> = inner.keys().map(|k| k.get_ref().to_string()).collect();
        let mut rules = self.table(key, inner);
        patterns
            .into_iter()
            .map(|pattern| {
                let format = self.one_of(&mut rules, &pattern, TableFormat::ALL.map(|f| (f.as_str(), f)));
                (pattern, format)
            })
            .collect()
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

    fn files(&mut self, table: &mut Table<'t>, path: &str, line: usize) -> Option<FilesSettings> {
        let root = self.text(table, "root");
        if root.is_none() {
            self.problem(line, &format!("{path}.root"), "it is missing (the folder that all files lie below)".into());
        }
        let formats = [("tar.zst", Compression::Zstd), ("tar.gz", Compression::Gzip)];
        let compression = self.one_of(table, "format", formats);
        let rotate = self.rotate(table, path);
        Some(FilesSettings { root: self.base.join(root?), compression, rotate })
    }

    fn rotate(&mut self, table: &mut Table<'t>, path: &str) -> Option<RotateSettings> {
        let (line, value) = self.take(table, "rotate")?;
        let key = format!("{path}.rotate");
        let DeValue::Table(inner) = value else {
            self.problem(line, &key, "it must be a table, like { compress-after = \"1d\", delete-after = \"30d\" }".into());
            return None;
        };
        let mut rules = self.table(key.clone(), inner);
        let compress_after = self.parsed::<Span>(&mut rules, "compress-after").map(|s| s.0);
        let delete_after = self.parsed::<Span>(&mut rules, "delete-after").map(|s| s.0);
        let after_backup = self.boolean(&mut rules, "after-backup").unwrap_or(true);
        let unseen = [("hold", UnseenWriters::Hold), ("ignore", UnseenWriters::Ignore)];
        let unseen_writers = self.one_of(&mut rules, "unseen-writers", unseen);
        self.no_more(&rules);
        if compress_after.is_none() && delete_after.is_none() {
            self.problem(line, &key, "it needs compress-after or delete-after".into());
        }
        if let (Some(compress), Some(delete)) = (compress_after, delete_after)
            && delete <= compress
        {
            self.problem(line, &key, "delete-after must be longer than compress-after".into());
        }
        Some(RotateSettings { compress_after, delete_after, after_backup, unseen_writers })
    }

    fn command(&mut self, table: &mut Table<'t>, path: &str, line: usize, name: &str) -> Option<CommandSettings> {
        let command = self.texts(table, "command");
        if command.is_empty() {
            let reason = "it is missing (program and arguments, like [\"docker\", \"compose\", \"logs\"])";
            self.problem(line, &format!("{path}.command"), reason.into());
        }
        let check = self.texts(table, "check");
        let timeout = self.parsed::<Span>(table, "timeout").map_or(COMMAND_TIMEOUT, |s| s.0);
        if timeout.is_zero() {
            self.problem(line, &format!("{path}.timeout"), "a command needs some time".into());
        }
        let min_size = self.parsed::<ByteSize>(table, "min-size").unwrap_or(ByteSize(1));
        let file = self.text(table, "file").unwrap_or_else(|| format!("{name}.out"));
        let plain = FilePath::new(file.as_bytes());
        if !plain.is_plain() || plain.names().count() != 1 {
            self.problem(line, &format!("{path}.file"), "it must be the name of a file, without a folder".into());
        }
        let compression = self.one_of(table, "format", [("zst", Compression::Zstd), ("gz", Compression::Gzip)]);
        let base = self.base.clone();
        (!command.is_empty()).then_some(CommandSettings { base, command, check, timeout, min_size, file, compression })
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
