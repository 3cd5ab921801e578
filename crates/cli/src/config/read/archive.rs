//! `[archive.NAME]`: which partitions leave, when, and what becomes of them.

use std::time::Duration;

use dozo_engine::{ArchiveJob, Granularity, Leftover, Protocol, SourceSettings, Then};
use dozo_model::{Period, QualifiedName, SourceName, Span};
use toml::de::DeTable;

use super::{Reader, Table};

/// How long a partition waits in quarantine.
const QUARANTINE: Duration = Duration::from_secs(7 * 86_400);

impl<'t> Reader<'t> {
    /// Reads all jobs; `time_zone` is the one that stands above all tables, if one does.
    pub(super) fn archives(
        &mut self,
        root: &mut Table<'t>,
        sources: &[SourceSettings],
        time_zone: Option<&str>,
    ) -> Vec<ArchiveJob> {
        let Some((_, tables)) = self.subtables(root, "archive") else { return Vec::new() };
        let jobs: Vec<(usize, ArchiveJob)> = tables
            .into_iter()
            .filter_map(|(name, line, table)| Some((line, self.archive(&name, line, table, sources, time_zone)?)))
            .collect();
        for (i, (line, job)) in jobs.iter().enumerate() {
            // Two jobs would each archive the partitions of the other.
            if let Some((_, other)) = jobs[..i].iter().find(|(_, o)| o.source == job.source && o.table == job.table) {
                let key = format!("archive.{}.table", job.name);
                self.problem(*line, &key, format!("archive.{} has the same table", other.name));
            }
        }
        jobs.into_iter().map(|(_, job)| job).collect()
    }

    fn archive(
        &mut self,
        name: &str,
        line: usize,
        table: DeTable<'t>,
        sources: &[SourceSettings],
        usual_zone: Option<&str>,
    ) -> Option<ArchiveJob> {
        let path = format!("archive.{name}");
        if let Err(e) = SourceName::parse(name) {
            self.problem(line, &path, e.to_string());
        }
        let mut table = self.table(path.clone(), table);
        let mut missing = |reader: &mut Self, key: &str, what: &str| {
            let found = reader.text(&mut table, key);
            if found.is_none() {
                reader.problem(line, &format!("{path}.{key}"), format!("it is missing ({what})"));
            }
            found
        };
        let source = missing(self, "source", "a source of kind postgres");
        let of = missing(self, "table", "a partitioned table, like public.orders");
        let column = missing(self, "column", "the column that it is partitioned by");
        let known = source.as_ref().and_then(|s| sources.iter().find(|k| k.name.as_str() == s));
        if let Some(text) = &source
            && known.is_none_or(|s| s.postgres().is_none_or(|pg| pg.databases.is_some()))
        {
            self.problem(
                line,
                &format!("{path}.source"),
                format!("`{text}` is not a source of kind postgres that is one database"),
            );
        }
        let older_than = self.parsed::<Period>(&mut table, "older-than");
        if older_than.is_none_or(|p| p == Period::Forever) {
            self.problem(line, &format!("{path}.older-than"), "it is missing, or for ever (like \"12 months\")".into());
        }
        let then =
            self.one_of(&mut table, "then", [("quarantine", Then::Quarantine), ("drop", Then::Drop), ("keep", Then::Keep)]);
        let quarantine = self.zero_or_span(&mut table, "quarantine");
        if let Some(period) = self.parsed::<Period>(&mut table, "keep")
            && period != Period::Forever
        {
            let reason = "archives are kept for ever: what is in them is nowhere else".into();
            self.problem(line, &format!("{path}.keep"), reason);
        }
        let widths = [Granularity::Month, Granularity::Year, Granularity::Week, Granularity::Day].map(|g| (g.as_str(), g));
        let granularity = self.one_of(&mut table, "granularity", widths);
        let sort_by = self.texts(&mut table, "sort-by");
        let protocol = self.one_of(&mut table, "protocol", [("plain", Protocol::Plain), ("concurrent", Protocol::Concurrent)]);
        let filter = self.text(&mut table, "where");
        let leftover = self.one_of(&mut table, "leftover", [("refuse", Leftover::Refuse), ("archive-all", Leftover::ArchiveAll)]);
        if filter.is_some() && then == Then::Keep {
            let reason = "it goes with then = \"quarantine\" or \"drop\": a copy has all rows of a partition".into();
            self.problem(line, &format!("{path}.where"), reason);
        }
        let stub = self.boolean(&mut table, "stub").unwrap_or(false);
        let time_zone = self.text(&mut table, "time-zone").or_else(|| usual_zone.map(str::to_owned));
        if let Some(zone) = time_zone.as_ref().filter(|z| jiff::tz::TimeZone::get(z).is_err()) {
            self.problem(line, &format!("{path}.time-zone"), format!("`{zone}` is not a time zone"));
        }
        let disk_command = self.texts(&mut table, "disk-command");
        self.no_more(&table);
        let of = of?;
        let of = of.split_once('.').map_or_else(|| QualifiedName::new("public", &of), |(s, t)| QualifiedName::new(s, t));
        Some(ArchiveJob {
            name: name.to_owned(),
            source: known?.name.clone(),
            table: of,
            column: column?,
            older_than: older_than?,
            then,
            quarantine: quarantine.unwrap_or(QUARANTINE),
            granularity,
            sort_by,
            protocol,
            filter,
            leftover,
            stub,
            time_zone,
            disk_command,
        })
    }

    /// Reads a span; a bare 0 is none.
    fn zero_or_span(&mut self, table: &mut Table<'t>, key: &str) -> Option<Duration> {
        let line = table.entries.iter().find(|(k, ..)| k == key)?.1;
        let text = self.text(table, key)?;
        match text.parse::<Span>() {
            _ if text.trim() == "0" => Some(Duration::ZERO),
            Ok(span) => Some(span.0),
            Err(e) => {
                self.problem(line, &Self::dotted(table, key), e.to_string());
                None
            }
        }
    }
}
