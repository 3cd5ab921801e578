//! Walks the TOML tree, collects every problem with its line and dotted key, and resolves defaults.

mod archive;
mod drill;
mod notify;
mod retention;
mod schedule;
mod source;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use dozo_engine::{ReplicaChoice, ReplicaSettings, RepositorySettings, StoreOptions};
use dozo_model::{ByteSize, Percent, Period, RetentionPolicy, Span, Tier};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, Problem};

/// More connections than this gain nothing on the machines measured.
const WORKERS_MAX: usize = 4;
/// Room on the repository's disk that a backup leaves free.
const MIN_FREE: Percent = Percent(20);
/// Percent of the repository's disk in use at which people are told, warned, alarmed.
const DISK_LEVELS: [u8; 3] = [70, 80, 85];

pub(super) struct Reader<'t> {
    text: &'t str,
    base: PathBuf,
    problems: Vec<Problem>,
}

/// A table being read: keys are taken out, what is left is unknown.
struct Table<'t> {
    path: String,
    entries: Vec<(String, usize, Spanned<DeValue<'t>>)>,
}

/// Returns how many connections a run uses by default.
pub(crate) fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(WORKERS_MAX)
}

impl<'t> Reader<'t> {
    pub(super) fn read(path: &Path, base: &Path, text: &'t str) -> Result<Config, Vec<Problem>> {
        let mut reader = Reader { text, base: base.to_owned(), problems: Vec::new() };
        let root = match DeTable::parse(text) {
            Ok(root) => root,
            Err(e) => {
                let line = e.span().map_or(1, |s| reader.line(s.start));
                return Err(vec![Problem { line, key: "(file)".into(), reason: e.message().to_owned() }]);
            }
        };
        let mut root = reader.table(String::new(), root.into_inner());
        let named_zone = reader.text(&mut root, "time-zone");
        let time_zone = named_zone.clone().unwrap_or_else(|| "UTC".into());
        if jiff::tz::TimeZone::get(&time_zone).is_err() {
            reader.problem(1, "time-zone", format!("`{time_zone}` is not a time zone"));
        }
        let workers = reader.count(&mut root, "workers");
        let memory = reader.parsed::<ByteSize>(&mut root, "memory");
        let repository = reader.repository(&mut root);
        let usual = RetentionPolicy { time_zone: time_zone.clone(), ..RetentionPolicy::default() };
        let retention = reader.retention(&mut root, usual);
        let strangers = RetentionPolicy { daily: Period::Forever, ..retention.clone() };
        let mut sources = Vec::new();
        if let Some((line, tables)) = reader.subtables(&mut root, "source") {
            for (name, at, table) in tables {
                let defaults = Defaults { workers, memory, time_zone: &time_zone, retention: &retention };
                sources.extend(reader.source(&name, at, table, &defaults));
            }
            if sources.is_empty() && reader.problems.is_empty() {
                reader.problem(line, "source", "it has no [source.NAME]".into());
            }
        }
        let archives = reader.archives(&mut root, &sources, named_zone.as_deref());
        let drills = reader.drills(&mut root, &sources, &archives);
        let (schedule, prices) = (reader.schedule(&mut root, &time_zone), reader.prices(&mut root));
        let (receivers, contacts) = (reader.receivers(&mut root), reader.contacts(&mut root));
        reader.no_more(&root);
        match repository {
            Some(repository) if reader.problems.is_empty() => Ok(Config {
                file: path.to_owned(),
                repository,
                sources,
                archives,
                drills,
                time_zone,
                retention,
                strangers,
                prices,
                schedule,
                receivers,
                contacts,
            }),
            _ => {
                reader.problems.sort_by_key(|p| p.line);
                Err(reader.problems)
            }
        }
    }

    fn line(&self, offset: usize) -> usize {
        self.text[..offset.min(self.text.len())].matches('\n').count() + 1
    }

    fn problem(&mut self, line: usize, key: &str, reason: String) {
        self.problems.push(Problem { line, key: key.to_owned(), reason });
    }

    fn table(&self, path: String, table: DeTable<'t>) -> Table<'t> {
        let entries = table.into_iter().map(|(k, v)| (k.get_ref().to_string(), self.line(k.span().start), v)).collect();
        Table { path, entries }
    }

    fn take(&self, table: &mut Table<'t>, key: &str) -> Option<(usize, DeValue<'t>)> {
        let at = table.entries.iter().position(|(k, ..)| k == key)?;
        let (_, line, value) = table.entries.remove(at);
        Some((line, value.into_inner()))
    }

    fn dotted(table: &Table<'t>, key: &str) -> String {
        if table.path.is_empty() { key.to_owned() } else { format!("{}.{key}", table.path) }
    }

    fn text(&mut self, table: &mut Table<'t>, key: &str) -> Option<String> {
        let (line, value) = self.take(table, key)?;
        match value {
            DeValue::String(text) => Some(text.into_owned()),
            _ => {
                self.problem(line, &Self::dotted(table, key), "it must be a string".into());
                None
            }
        }
    }

    fn parsed<T: FromStr<Err: std::fmt::Display>>(&mut self, table: &mut Table<'t>, key: &str) -> Option<T> {
        let line = table.entries.iter().find(|(k, ..)| k == key)?.1;
        let text = self.text(table, key)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(e) => {
                self.problem(line, &Self::dotted(table, key), e.to_string());
                None
            }
        }
    }

    fn integer(&mut self, table: &mut Table<'t>, key: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let (line, value) = self.take(table, key)?;
        let number = match &value {
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok(),
            _ => None,
        };
        let valid = number.filter(|n| range.contains(n));
        if valid.is_none() {
            self.problem(
                line,
                &Self::dotted(table, key),
                format!("it must be a number from {} to {}", range.start(), range.end()),
            );
        }
        valid
    }

    fn count(&mut self, table: &mut Table<'t>, key: &str) -> Option<usize> {
        self.integer(table, key, 1..=64).and_then(|n| usize::try_from(n).ok())
    }

    fn boolean(&mut self, table: &mut Table<'t>, key: &str) -> Option<bool> {
        let (line, value) = self.take(table, key)?;
        match value {
            DeValue::Boolean(b) => Some(b),
            _ => {
                self.problem(line, &Self::dotted(table, key), "it must be true or false".into());
                None
            }
        }
    }

    fn texts(&mut self, table: &mut Table<'t>, key: &str) -> Vec<String> {
        let Some((line, value)) = self.take(table, key) else { return Vec::new() };
        let list: Option<Vec<String>> = match value {
            DeValue::Array(items) => items
                .into_iter()
                .map(|item| match item.into_inner() {
                    DeValue::String(text) => Some(text.into_owned()),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        list.unwrap_or_else(|| {
            self.problem(line, &Self::dotted(table, key), "it must be a list of strings".into());
            Vec::new()
        })
    }

    #[expect(clippy::type_complexity, reason = "a line, and per table its name, line and entries")]
    fn subtables(&mut self, table: &mut Table<'t>, key: &str) -> Option<(usize, Vec<(String, usize, DeTable<'t>)>)> {
        let (line, value) = self.take(table, key)?;
        let DeValue::Table(inner) = value else {
            self.problem(line, key, "it must be tables, like [source.shop]".into());
            return None;
        };
        let mut found = Vec::new();
        for (name, value) in inner {
            let at = self.line(name.span().start);
            match value.into_inner() {
                DeValue::Table(table) => found.push((name.get_ref().to_string(), at, table)),
                _ => self.problem(at, &format!("{key}.{}", name.get_ref()), "it must be a table".into()),
            }
        }
        found.sort_by_key(|(_, line, _)| *line);
        Some((line, found))
    }

    fn no_more(&mut self, table: &Table<'t>) {
        for (key, line, _) in &table.entries {
            let dotted = Self::dotted(table, key);
            self.problem(*line, &dotted, "unknown key".into());
        }
    }

    fn repository(&mut self, root: &mut Table<'t>) -> Option<RepositorySettings> {
        let Some((line, value)) = self.take(root, "repository") else {
            self.problem(
                1,
                "repository",
                "it is missing: [repository] with url = \"file:///folder\" or \"s3://bucket/prefix\"".into(),
            );
            return None;
        };
        let DeValue::Table(table) = value else {
            self.problem(line, "repository", "it must be a table".into());
            return None;
        };
        let mut table = self.table("repository".into(), table);
        let replicas = self.replicas(&mut table);
        let mut repository = self.one_repository(&mut table, line);
        self.no_more(&table);
        let own = repository.as_ref().map(|r| r.url.clone());
        for (i, replica) in replicas.iter().enumerate() {
            let same = |other: &ReplicaSettings| other.name == replica.name;
            if replicas[..i].iter().any(same) {
                self.problem(line, "repository.replica", format!("two replicas are called `{}`: give them a name", replica.name));
            }
            if own.as_ref() == Some(&replica.repository.url) {
                self.problem(line, "repository.replica", format!("`{}` is the repository itself", replica.name));
            }
        }
        if let Some(repository) = &mut repository {
            repository.replicas = replicas;
        }
        repository
    }

    fn replicas(&mut self, table: &mut Table<'t>) -> Vec<ReplicaSettings> {
        let Some((line, value)) = self.take(table, "replica") else { return Vec::new() };
        let DeValue::Array(items) = value else {
            self.problem(line, "repository.replica", "it must be tables, like [[repository.replica]]".into());
            return Vec::new();
        };
        let mut found = Vec::new();
        for item in items {
            let line = self.line(item.span().start);
            let DeValue::Table(inner) = item.into_inner() else {
                self.problem(line, "repository.replica", "it must be a table".into());
                continue;
            };
            let mut table = self.table("repository.replica".into(), inner);
            let name = self.text(&mut table, "name");
            let choices = [
                ("all", ReplicaChoice::All),
                ("latest", ReplicaChoice::Latest),
                ("held", ReplicaChoice::Held),
                ("weekly", ReplicaChoice::Tier(Tier::Weekly)),
                ("monthly", ReplicaChoice::Tier(Tier::Monthly)),
                ("yearly", ReplicaChoice::Tier(Tier::Yearly)),
            ];
            let choice = self.one_of(&mut table, "backups", choices);
            let after_backup = self.boolean(&mut table, "after-backup").unwrap_or(true);
            let repository = self.one_repository(&mut table, line);
            self.no_more(&table);
            found.extend(repository.map(|repository| ReplicaSettings {
                name: name.unwrap_or_else(|| repository.url.clone()),
                repository,
                choice,
                after_backup,
            }));
        }
        found
    }

    /// Reads what the repository and its replicas have in common.
    fn one_repository(&mut self, table: &mut Table<'t>, line: usize) -> Option<RepositorySettings> {
        let url = self.text(table, "url");
        let store = StoreOptions {
            endpoint: self.text(table, "endpoint"),
            region: self.text(table, "region"),
            path_style: self.boolean(table, "path-style"),
            profile: self.text(table, "profile"),
            credentials_file: self.text(table, "credentials-file").map(PathBuf::from),
            ca_file: self.text(table, "ca-file").map(PathBuf::from),
            encryption: self.text(table, "encryption"),
            kms_key: self.text(table, "kms-key"),
            storage_class: self.text(table, "storage-class"),
            request_timeout: self.parsed::<Span>(table, "request-timeout").map(|span| span.0),
            retry_for: self.parsed::<Span>(table, "retry-for").map(|span| span.0),
            part_bytes: self.parsed::<ByteSize>(table, "part-size").map(|size| size.0),
            parts_in_flight: self.count(table, "parts-in-flight"),
            upload_rate: self.rate(table, "upload-rate"),
            checksums: self.boolean(table, "checksums"),
        };
        let min_free = self.parsed::<Percent>(table, "min-free").unwrap_or(MIN_FREE).0;
        let disk_levels = self.disk_levels(table);
        let only_host = self.text(table, "only-host");
        let key = Self::dotted(table, "url");
        let Some(url) = url else {
            self.problem(line, &key, "it is missing".into());
            return None;
        };
        let lock = self.lock(table);
        let settings = RepositorySettings {
            url,
            store,
            base: self.base.clone(),
            min_free,
            disk_levels,
            lock,
            only_host,
            replicas: Vec::new(),
        };
        if let Err(e) = settings.check_url() {
            self.problem(line, &key, e.to_string());
        }
        Some(settings)
    }

    /// Reads three percentages that do not fall.
    fn disk_levels(&mut self, table: &mut Table<'t>) -> [u8; 3] {
        let Some(line) = table.entries.iter().find(|(k, ..)| k == "disk-levels").map(|e| e.1) else { return DISK_LEVELS };
        let texts = self.texts(table, "disk-levels");
        let levels: Vec<u8> = texts.iter().filter_map(|t| t.parse::<Percent>().ok()).map(|p| p.0).collect();
        match levels.as_slice() {
            [tell, warn, alarm] if texts.len() == 3 && tell <= warn && warn <= alarm => [*tell, *warn, *alarm],
            _ => {
                let key = Self::dotted(table, "disk-levels");
                self.problem(
                    line,
                    &key,
                    "it must be three percentages that do not fall, like [\"70%\", \"80%\", \"85%\"]".into(),
                );
                DISK_LEVELS
            }
        }
    }

    /// Reads a size that is above 0.
    fn rate(&mut self, table: &mut Table<'t>, key: &str) -> Option<u64> {
        let line = table.entries.iter().find(|(k, ..)| k == key)?.1;
        let rate = self.parsed::<ByteSize>(table, key)?.0;
        if rate == 0 {
            self.problem(line, &Self::dotted(table, key), "it must be above 0".into());
        }
        Some(rate)
    }

    /// Reads one of some words; the first is the default.
    fn one_of<T: Copy, const N: usize>(&mut self, table: &mut Table<'t>, key: &str, words: [(&str, T); N]) -> T {
        let line = table.entries.iter().find(|(k, ..)| k == key).map_or(1, |e| e.1);
        let Some(text) = self.text(table, key) else { return words[0].1 };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let (last, others) = known.split_last().unwrap_or((&"", &[]));
        let reason = format!("`{text}` is not {} or {last}", others.join(", "));
        self.problem(line, &Self::dotted(table, key), reason);
        words[0].1
    }
}

struct Defaults<'a> {
    workers: Option<usize>,
    memory: Option<ByteSize>,
    time_zone: &'a str,
    retention: &'a RetentionPolicy,
}
