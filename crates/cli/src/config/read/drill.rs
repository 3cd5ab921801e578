//! `[drill.NAME]`: what is restored for practice, where, and what is promised.

use std::time::Duration;

use dozo_engine::{
    ArchiveJob, BackupPick, CheckKind, DrillJob, DrillServer, OwnCheck, PartitionPick, SampleSize, ScratchOptions,
    SourceSettings, UrlRef,
};
use dozo_model::{Incident, Percent, SourceName, Span};
use toml::de::{DeTable, DeValue};

use super::{Reader, Table, default_workers};

/// A canary is written by cron every minute, or with the backup.
const CANARY_MAX_AGE: Duration = Duration::from_secs(3600);
/// A runbook that nobody has touched for a year describes another system.
const RUNBOOK_MAX_AGE: Duration = Duration::from_secs(365 * 86_400);
/// How long a check of one's own may take.
const CHECK_WITHIN: Duration = Duration::from_secs(600);

impl<'t> Reader<'t> {
    pub(super) fn drills(&mut self, root: &mut Table<'t>, sources: &[SourceSettings], archives: &[ArchiveJob]) -> Vec<DrillJob> {
        let Some((_, tables)) = self.subtables(root, "drill") else { return Vec::new() };
        tables.into_iter().map(|(name, line, table)| self.drill(name, line, table, sources, archives)).collect()
    }

    fn drill(
        &mut self,
        name: String,
        line: usize,
        table: DeTable<'t>,
        sources: &[SourceSettings],
        archives: &[ArchiveJob],
    ) -> DrillJob {
        let path = format!("drill.{name}");
        if let Err(e) = SourceName::parse(&name) {
            self.problem(line, &path, e.to_string());
        }
        let mut table = self.table(path.clone(), table);
        let named = self.texts(&mut table, "sources");
        let mut chosen: Vec<SourceName> = Vec::new();
        for text in &named {
            match sources.iter().find(|s| s.name.as_str() == text) {
                Some(source) if chosen.contains(&source.name) => {}
                Some(source) => chosen.push(source.name.clone()),
                None => self.problem(line, &format!("{path}.sources"), format!("`{text}` is not a source")),
            }
        }
        let mut jobs: Vec<ArchiveJob> = Vec::new();
        for text in self.texts(&mut table, "archives") {
            match archives.iter().find(|a| a.name == text) {
                Some(job) => jobs.push(job.clone()),
                None => self.problem(line, &format!("{path}.archives"), format!("`{text}` is not an archive job")),
            }
        }
        if chosen.is_empty() && jobs.is_empty() && named.is_empty() {
            self.problem(line, &path, "it restores nothing: it needs sources, or archives".into());
        }
        let picks = [BackupPick::Latest, BackupPick::Oldest, BackupPick::Random].map(|p| (p.as_str(), p));
        let backup = self.one_of(&mut table, "backup", picks);
        let tables = self.texts(&mut table, "tables");
        let sample = self.sample(&mut table);
        if !tables.is_empty() && sample.is_some() {
            self.problem(line, &format!("{path}.sample"), "tables and sample contradict each other".into());
        }
        if jobs.is_empty() && table.entries.iter().any(|(k, ..)| k == "partition") {
            self.problem(line, &format!("{path}.partition"), "it is about archives, and there is none".into());
        }
        let partition = match self.text(&mut table, "partition").as_deref() {
            None | Some("random") => PartitionPick::Random,
            Some("latest") => PartitionPick::Latest,
            Some("oldest") => PartitionPick::Oldest,
            Some(name) => PartitionPick::Named(name.to_owned()),
        };
        let server = match self.text(&mut table, "server").as_deref() {
            None | Some("scratch") => DrillServer::Scratch,
            Some(url) => match UrlRef::parse(url, &self.base) {
                Ok(url) => DrillServer::Test(url),
                Err(e) => {
                    self.problem(line, &format!("{path}.server"), format!("it is neither scratch nor a database: {e}"));
                    DrillServer::Scratch
                }
            },
        };
        let scratch = ScratchOptions {
            programs: self.text(&mut table, "server-programs").map(|f| self.base.join(f)),
            run_as: self.text(&mut table, "run-as"),
        };
        let folder = self.text(&mut table, "folder").map_or_else(std::env::temp_dir, |f| self.base.join(f));
        let incidents = [Incident::Minor, Incident::Database, Incident::Complete].map(|i| (i.as_str(), Some(i)));
        let incident = table.entries.iter().any(|(k, ..)| k == "incident");
        let incident = incident.then(|| self.one_of(&mut table, "incident", incidents)).flatten();
        let workers = self.count(&mut table, "workers").unwrap_or_else(default_workers);
        let mut span = |reader: &mut Self, key: &str| reader.parsed::<Span>(&mut table, key).map(|s| s.0);
        let (rto, rpo) = (span(self, "rto"), span(self, "rpo"));
        let canary_max_age = span(self, "canary-max-age").unwrap_or(CANARY_MAX_AGE);
        let runbook_max_age = span(self, "runbook-max-age").unwrap_or(RUNBOOK_MAX_AGE);
        let timeout = span(self, "check-timeout").unwrap_or(CHECK_WITHIN);
        let amcheck = self.boolean(&mut table, "amcheck").unwrap_or(true);
        let runbook = self.text(&mut table, "runbook").map(|f| self.base.join(f));
        let checks = self.own_checks(&mut table, timeout, &chosen);
        self.no_more(&table);
        DrillJob {
            name,
            sources: chosen,
            backup,
            tables,
            sample,
            archives: jobs,
            partition,
            server,
            scratch,
            folder,
            workers,
            incident,
            rto,
            rpo,
            canary_max_age,
            amcheck,
            checks,
            runbook,
            runbook_max_age,
        }
    }

    /// Reads `sample = 3` or `sample = "20%"`.
    fn sample(&mut self, table: &mut Table<'t>) -> Option<SampleSize> {
        let (_, line, value) = table.entries.iter().find(|(k, ..)| k == "sample")?;
        let line = *line;
        if matches!(value.get_ref(), DeValue::Integer(_)) {
            let count = self.integer(table, "sample", 1..=100_000)?;
            return usize::try_from(count).ok().map(SampleSize::Count);
        }
        match self.parsed::<Percent>(table, "sample")?.0 {
            0 => {
                self.problem(line, &Self::dotted(table, "sample"), "it must be above 0".into());
                None
            }
            percent => Some(SampleSize::Share(percent)),
        }
    }

    /// Reads `[[drill.NAME.check]]`.
    fn own_checks(&mut self, table: &mut Table<'t>, timeout: Duration, sources: &[SourceName]) -> Vec<OwnCheck> {
        let key = Self::dotted(table, "check");
        let Some((line, value)) = self.take(table, "check") else { return Vec::new() };
        let DeValue::Array(items) = value else {
            self.problem(line, &key, format!("it must be tables, like [[{key}]]"));
            return Vec::new();
        };
        let mut found: Vec<OwnCheck> = Vec::new();
        for item in items {
            let line = self.line(item.span().start);
            let DeValue::Table(inner) = item.into_inner() else {
                self.problem(line, &key, "it must be a table".into());
                continue;
            };
            let mut one = self.table(key.clone(), inner);
            let name = self.text(&mut one, "name");
            let source = self.text(&mut one, "source");
            let source = source.and_then(|text| {
                let known = sources.iter().find(|s| s.as_str() == text).cloned();
                if known.is_none() {
                    self.problem(line, &format!("{key}.source"), format!("`{text}` is not one of the drill's sources"));
                }
                known
            });
            let (query, expect) = (self.text(&mut one, "query"), self.text(&mut one, "expect"));
            let command = self.texts(&mut one, "command");
            let kind = match (query, expect, command.is_empty()) {
                (Some(query), Some(expect), true) => Some(CheckKind::Query { query, expect }),
                (None, None, false) => Some(CheckKind::Command(command)),
                _ => {
                    self.problem(line, &key, "it needs query and expect, or command".into());
                    None
                }
            };
            self.no_more(&one);
            let kind = kind.unwrap_or(CheckKind::Command(vec![]));
            let name = name.unwrap_or_else(|| match &kind {
                CheckKind::Query { query, .. } => query.clone(),
                CheckKind::Command(words) => words.join(" "),
            });
            found.push(OwnCheck { name, source, kind, timeout });
        }
        found
    }

    /// Reads `rpo-column = "schema.table.column"`.
    pub(super) fn rpo_column(&mut self, table: &mut Table<'t>) -> Option<(dozo_model::QualifiedName, String)> {
        let line = table.entries.iter().find(|(k, ..)| k == "rpo-column")?.1;
        let text = self.text(table, "rpo-column")?;
        match text.split('.').collect::<Vec<_>>().as_slice() {
            [schema, name, column] if ![schema, name, column].iter().any(|p| p.is_empty()) => {
                Some((dozo_model::QualifiedName::new(*schema, *name), (*column).to_owned()))
            }
            _ => {
                let reason = format!("`{text}` is not schema.table.column");
                self.problem(line, &Self::dotted(table, "rpo-column"), reason);
                None
            }
        }
    }
}
