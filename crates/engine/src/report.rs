//! `report`: everything that people look at, as data. How it is drawn is the binary's matter.
//!
//! *Invariant*: the page, the text and `--json` come from this one value. Forecasts are straight lines through what was measured; where
//! there are fewer than two points there is none.

use std::collections::{BTreeMap, HashSet};

use dozo_catalog::{BackupRecord, DrillChain, Facts, History, Repository, Scenario, simulate, tool};
use dozo_model::{
    BackupId, Content, DrillRecord, RetentionPolicy, Severity, SourceName, Tier, Timestamp, Tool, Verdict, VerifyLevel,
};
use dozo_store::Layout;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::archive::{ArchiveLine, archive_list};
use crate::context::{Context, RepositorySettings, SourceSettings};
use crate::status::{SourceStatus, Status, for_each_source};
use crate::{EngineError, Result};

/// Runs of each source that are told one by one.
const RUNS: usize = 8;
/// Tables of each source whose growth is told.
const TABLES: usize = 8;
/// Days that a calendar and the charts show.
const DAYS: i32 = 371;
/// Days that a trend is drawn from.
const TREND_DAYS: f64 = 90.0;
/// Days that the policy is played forward; behind them the last month goes on.
const FORECAST_DAYS: u32 = 120;
/// Days whose growth goes on behind these.
const LAST_DAYS: usize = 30;
const SECONDS_OF_DAY: f64 = 86_400.0;

/// Everything that people look at.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Version of this object.
    pub format: u32,
    /// When it was made.
    pub at: Timestamp,
    /// Day of that, in the calendar of the configuration.
    pub today: Date,
    /// Time zone of all days.
    pub time_zone: String,
    /// Repository.
    pub repository: String,
    /// Program.
    pub tool: Tool,
    /// What somebody should do something about, the worst first.
    pub findings: Vec<ReportFinding>,
    /// Newest backups, ages, tiers.
    pub status: Status,
    /// Each source over time.
    pub sources: Vec<SourceReport>,
    /// Size of the repository from today on, by the policy played forward: what each source adds, and what the tiers let go.
    pub size: Growth,
    /// When its disk will be full; none where it cannot be asked.
    pub disk: Option<DiskForecast>,
    /// Drills, oldest first.
    pub drills: Vec<DrillRecord>,
    /// What is archived.
    pub archives: Vec<ArchiveLine>,
    /// Whom to call, and how.
    pub contacts: Vec<(String, String)>,
}

/// What somebody should do something about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportFinding {
    /// How bad it is.
    pub severity: Severity,
    /// Source; none = the repository, or a drill.
    pub source: Option<SourceName>,
    /// What it is.
    pub text: String,
}

/// A source over time.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceReport {
    /// Source.
    pub source: SourceName,
    /// Kind.
    pub kind: &'static str,
    /// Which day has what.
    pub coverage: Coverage,
    /// Rows and bytes over time.
    pub growth: Growth,
    /// Its largest tables.
    pub tables: Vec<TableGrowth>,
    /// Its newest runs, newest first.
    pub runs: Vec<Run>,
    /// What is kept of it.
    pub policy: RetentionPolicy,
    /// First and last second of each backup that stands, with the tier that keeps it longest.
    pub kept: Vec<(Timestamp, Option<Tier>)>,
}

/// Days on which there is something.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Coverage {
    /// In order; days without a backup are left out.
    pub days: Vec<CoverageDay>,
}

/// A day of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CoverageDay {
    /// Day.
    pub date: Date,
    /// Backups that stand.
    pub backups: usize,
    /// Whether one of them may be relied on.
    pub good: bool,
    /// Longest tier that one of them serves.
    pub tier: Option<Tier>,
    /// Whether the content of one was read back and found equal.
    pub verified: bool,
    /// Whether one was verified and matched with its source.
    pub proven: bool,
    /// Whether one was restored in a drill, and equal.
    pub drilled: bool,
}

/// Sizes over time, and the line through the last of them.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Growth {
    /// In order.
    pub points: Vec<SizePoint>,
    /// Bytes more each day; none = there are too few points.
    pub bytes_per_day: Option<f64>,
}

/// A size at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SizePoint {
    /// Day.
    pub date: Date,
    /// Rows; 0 where there are none.
    pub rows: u64,
    /// Bytes: of a source those that a backup needs, of the repository all.
    pub bytes: u64,
}

/// A table over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TableGrowth {
    /// Table; a tree counts as one.
    pub table: String,
    /// Rows of the newest backup.
    pub rows: u64,
    /// Bytes that were read of it.
    pub bytes: u64,
    /// Rows more each day; none = there is one backup only.
    pub rows_per_day: Option<f64>,
}

/// A run that was committed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Backup.
    pub id: BackupId,
    /// Start, by the server's clock.
    pub started: Timestamp,
    /// What became of it.
    pub state: &'static str,
    /// Seconds in all.
    pub seconds: f64,
    /// Rows.
    pub rows: u64,
    /// Bytes that it wrote.
    pub written: u64,
    /// The stage that took longest, and its share in percent.
    pub slowest: Option<(String, u8)>,
}

/// When a disk will be full.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskForecast {
    /// Bytes in all.
    pub total: u64,
    /// Bytes in use.
    pub used: u64,
    /// Percent that backups leave free.
    pub reserve: u8,
    /// Percent in use, and the day on which that is reached; none = not within ten years.
    pub reached: Vec<(u8, Option<Date>)>,
}

/// Gathers everything.
///
/// # Errors
/// When the repository cannot be read.
pub async fn report<'p>(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    configured: &[SourceSettings],
    policy: impl Fn(&SourceName) -> &'p RetentionPolicy + Copy,
    drills: &[String],
    time_zone: &str,
    contacts: &[(String, String)],
) -> Result<Report> {
    let zone = TimeZone::get(time_zone).map_err(|e| EngineError::Options(e.to_string()))?;
    let now = ctx.clock.now();
    let today = now.to_zoned(zone.clone()).date();
    let chain: DrillChain = repository.drills_confirmed().await?;
    let (mut statuses, mut sources) = (Vec::new(), Vec::new());
    for_each_source(ctx, repository, settings, configured, policy, |status, history| {
        let tiers = longest_tiers(history, policy(&status.source), now);
        sources.push(SourceReport::new(&status, history, &tiers, policy(&status.source), &zone, today));
        statuses.push(status);
    })
    .await?;
    let mut archives = Vec::new();
    for source in repository.store().folders(Layout::ARCHIVE).await? {
        if let Ok(source) = SourceName::parse(&source) {
            archives.extend(archive_list(repository, &source).await?);
        }
    }
    let archived: u64 = archives.iter().map(|a| a.bytes).sum();
    let status = Status::new(ctx, repository, settings, statuses, &chain, drills);
    let size = played_forward(&repository.retention_facts().await?, policy, now, archived);
    let disk = status.disk.map(|d| DiskForecast::new(d.total, d.total - d.free, settings, &size, today));
    let mut findings = findings(&status, drills);
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    Ok(Report {
        format: 1,
        at: now,
        today,
        time_zone: time_zone.to_owned(),
        repository: repository.store().url().to_owned(),
        tool: tool(),
        findings,
        status,
        sources,
        size,
        disk,
        drills: chain.records.into_iter().map(|r| r.record).collect(),
        archives,
        contacts: contacts.to_vec(),
    })
}

/// Everything that somebody should do something about: alarms, findings of drills, and what was never looked at.
fn findings(status: &Status, drills: &[String]) -> Vec<ReportFinding> {
    let alarms = status.all_alarms().map(|(source, alarm)| ReportFinding {
        severity: alarm.severity,
        source: source.cloned(),
        text: alarm.text.clone(),
    });
    let unread = status.sources.iter().filter(|s| s.newest_good.is_some() && s.newest_verified.is_none());
    let unread = unread.map(|s| ReportFinding {
        severity: Severity::Warning,
        source: Some(s.source.clone()),
        text: "no backup of it was ever verified".into(),
    });
    let held = |name: &String| status.drills.iter().any(|d| &d.drill == name);
    let never = drills.iter().filter(|name| !held(name)).map(|name| ReportFinding {
        severity: Severity::Info,
        source: None,
        text: format!("drill {name} was never held"),
    });
    let undrilled = status.sources.iter().filter(|s| s.configured && s.newest_good.is_some() && s.drilled.is_none());
    let undrilled = undrilled.map(|s| ReportFinding {
        severity: Severity::Info,
        source: Some(s.source.clone()),
        text: "no backup of it was ever restored as a whole in a drill".into(),
    });
    alarms.chain(unread).chain(never).chain(undrilled).collect()
}

fn day(time: Timestamp, zone: &TimeZone) -> Date {
    time.to_zoned(zone.clone()).date()
}

fn is_own(key: &str, id: &BackupId) -> bool {
    // What stands beside the manifest is its own, too.
    Layout::owner(key).is_none_or(|owner| &owner == id)
}

/// Plays the policy forward: archives stay.
fn played_forward<'p>(
    facts: &Facts,
    policy: impl Fn(&SourceName) -> &'p RetentionPolicy,
    now: Timestamp,
    archived: u64,
) -> Growth {
    let scenario = Scenario { from: now, days: FORECAST_DAYS, every: None, stop_after: None, disk: None };
    let days = simulate(facts, policy, &scenario).days;
    let mut points: Vec<SizePoint> =
        days.iter().map(|d| SizePoint { date: d.date, rows: 0, bytes: d.bytes + archived }).collect();
    // What stands now, before the next backup.
    if let Some(first) = points.first_mut() {
        first.bytes = facts.objects.iter().sum::<u64>() + archived;
    }
    let last = points.len().checked_sub(LAST_DAYS + 1).map(|at| (points[at].bytes, points[points.len() - 1].bytes));
    #[expect(clippy::cast_precision_loss, reason = "bytes of a trend")]
    let per_day = last.filter(|_| !facts.backups.is_empty()).map(|(then, end)| (end as f64 - then as f64) / LAST_DAYS as f64);
    Growth { points, bytes_per_day: per_day }
}

/// Which tier keeps each backup longest.
fn longest_tiers(history: &History, policy: &RetentionPolicy, now: Timestamp) -> BTreeMap<BackupId, Tier> {
    let plan = dozo_catalog::plan(&dozo_catalog::Facts::of(history), |_| policy, now);
    plan.backups.iter().filter_map(|v| Some((v.id.clone(), v.tiers.iter().copied().max()?))).collect()
}

impl SourceReport {
    fn new(
        status: &SourceStatus,
        history: &History,
        tiers: &BTreeMap<BackupId, Tier>,
        policy: &RetentionPolicy,
        zone: &TimeZone,
        today: Date,
    ) -> Self {
        let first = today.saturating_sub(jiff::Span::new().days(DAYS));
        let recent: Vec<&BackupRecord> = history.records.iter().filter(|r| day(r.manifest.started, zone) >= first).collect();
        let mut days: BTreeMap<Date, CoverageDay> = BTreeMap::new();
        for record in &recent {
            let date = day(record.manifest.started, zone);
            let entry = days.entry(date).or_insert(CoverageDay {
                date,
                backups: 0,
                good: false,
                tier: None,
                verified: false,
                proven: false,
                drilled: false,
            });
            let read = Repository::verified(&record.checks, VerifyLevel::Content).is_some_and(|c| c.verdict == Verdict::Passed);
            entry.backups += 1;
            entry.good |= record.good();
            entry.tier = entry.tier.max(tiers.get(&record.manifest.id).copied());
            entry.verified |= read && Repository::open_findings(&record.checks).is_empty();
            entry.proven |= crate::status::proven(record).is_some();
            entry.drilled |= record.drills.iter().any(|d| d.whole && d.verdict == Verdict::Passed);
        }
        let mut by_day: BTreeMap<Date, SizePoint> = BTreeMap::new();
        for record in &recent {
            let m = &record.manifest;
            let date = day(m.started, zone);
            by_day.insert(date, SizePoint { date, rows: m.rows(), bytes: m.stored_bytes() });
        }
        Self {
            source: status.source.clone(),
            kind: history.records.last().map_or("", |r| r.manifest.kind()),
            coverage: Coverage { days: days.into_values().collect() },
            growth: Growth::of(by_day.into_values().collect(), today),
            tables: tables(&recent),
            runs: recent.iter().rev().take(RUNS).map(|r| Run::of(r)).collect(),
            policy: policy.clone(),
            kept: history.records.iter().map(|r| (r.manifest.started, tiers.get(&r.manifest.id).copied())).collect(),
        }
    }
}

impl Run {
    fn of(record: &BackupRecord) -> Self {
        let m = &record.manifest;
        let total = m.seconds.get("total").copied().unwrap_or_else(|| m.seconds.values().sum());
        let stages = m.seconds.iter().filter(|(stage, _)| *stage != "total");
        let slowest = stages.max_by(|a, b| a.1.total_cmp(b.1));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage")]
        let share = |seconds: f64| (seconds / total.max(1e-9) * 100.0).round().clamp(0.0, 100.0) as u8;
        Self {
            id: m.id.clone(),
            started: m.started,
            state: if record.state() == "complete" && !record.good() { "damaged" } else { record.state() },
            seconds: total,
            rows: m.rows(),
            written: m.objects.iter().filter(|o| is_own(&o.key, &m.id)).map(|o| o.bytes).sum(),
            slowest: slowest.map(|(stage, seconds)| (stage.clone(), share(*seconds))),
        }
    }
}

/// Sums rows and bytes of each table, a tree as one.
fn sums(record: &BackupRecord) -> BTreeMap<String, (u64, u64)> {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut add = |name: String, rows: u64, bytes: u64| {
        let sum = sums.entry(name).or_default();
        (sum.0, sum.1) = (sum.0 + rows, sum.1 + bytes);
    };
    match &record.manifest.content {
        Content::Postgres(pg) => {
            for d in pg.datasets.iter().filter(|d| d.kind.is_table()) {
                add(d.root.as_ref().unwrap_or(&d.name).to_string(), d.fingerprint.rows, d.bytes_read);
            }
        }
        Content::Duckdb(content) => {
            let bytes: BTreeMap<&str, u64> = record.manifest.objects.iter().map(|o| (o.key.as_str(), o.bytes)).collect();
            for (file, table) in content.tables() {
                let own: HashSet<&str> = table.parts.iter().map(|p| p.object.as_str()).collect();
                let stored = own.iter().filter_map(|key| bytes.get(key)).sum();
                add(format!("{file} {}.{}", table.schema, table.name), table.fingerprint.rows, stored);
            }
        }
        Content::Files(_) | Content::Command(_) => {}
    }
    sums
}

fn tables(recent: &[&BackupRecord]) -> Vec<TableGrowth> {
    let Some(newest) = recent.iter().rev().find(|r| r.good()) else { return Vec::new() };
    // The oldest within the span of a trend.
    let since = |r: &BackupRecord| {
        #[expect(clippy::cast_precision_loss, reason = "days")]
        let days = newest.manifest.started.duration_since(r.manifest.started).as_secs() as f64 / SECONDS_OF_DAY;
        days
    };
    let before = recent.iter().find(|r| since(r) <= TREND_DAYS && since(r) >= 1.0 && r.good());
    let then = before.map(|r| (since(r), sums(r)));
    let mut all: Vec<TableGrowth> = sums(newest)
        .into_iter()
        .map(|(table, (rows, bytes))| {
            #[expect(clippy::cast_precision_loss, reason = "rows")]
            let growth = then.as_ref().and_then(|(days, then)| {
                let was = then.get(&table)?.0;
                Some((rows as f64 - was as f64) / days)
            });
            TableGrowth { table, rows, bytes, rows_per_day: growth }
        })
        .collect();
    all.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.table.cmp(&b.table)));
    all.truncate(TABLES);
    all
}

impl Growth {
    /// Draws a line through the last points, by least squares.
    fn of(points: Vec<SizePoint>, today: Date) -> Self {
        let age = |date: Date| f64::from((today - date).get_days());
        #[expect(clippy::cast_precision_loss, reason = "bytes of a trend")]
        let last: Vec<(f64, f64)> =
            points.iter().map(|p| (-age(p.date), p.bytes as f64)).filter(|(x, _)| *x >= -TREND_DAYS).collect();
        #[expect(clippy::cast_precision_loss, reason = "a handful of points")]
        let n = last.len() as f64;
        let (sx, sy) = last.iter().fold((0.0, 0.0), |(sx, sy), (x, y)| (sx + x, sy + y));
        let (mx, my) = (sx / n.max(1.0), sy / n.max(1.0));
        let (above, below) =
            last.iter().fold((0.0, 0.0), |(a, b), (x, y)| ((x - mx).mul_add(y - my, a), (x - mx).mul_add(x - mx, b)));
        Self { points, bytes_per_day: (below > 0.0).then(|| above / below) }
    }
}

impl DiskForecast {
    fn new(total: u64, used: u64, settings: &RepositorySettings, size: &Growth, today: Date) -> Self {
        let mut levels: Vec<u8> = settings.disk_levels.to_vec();
        levels.push(100 - settings.min_free.min(100));
        levels.sort_unstable();
        levels.dedup();
        let now = size.points.first().map_or(0, |p| p.bytes);
        let reached = |level: u8| {
            let full = u128::from(total) * u128::from(level) / 100;
            if u128::from(used) >= full {
                return Some(today);
            }
            // What others keep on the disk stays as it is.
            let grown = |p: &&SizePoint| (u128::from(used) + u128::from(p.bytes)).saturating_sub(u128::from(now)) >= full;
            if let Some(day) = size.points.iter().find(grown) {
                return Some(day.date);
            }
            let last = size.points.last()?;
            let at_end = (u128::from(used) + u128::from(last.bytes)).saturating_sub(u128::from(now));
            #[expect(clippy::cast_precision_loss, reason = "bytes of a disk")]
            let days = full.saturating_sub(at_end) as f64 / size.bytes_per_day.filter(|d| *d > 0.0)?;
            #[expect(clippy::cast_possible_truncation, reason = "within ten years")]
            (days < 3650.0).then(|| last.date.saturating_add(jiff::Span::new().days(days.ceil() as i64)))
        };
        let reached = levels.into_iter().map(|level| (level, reached(level))).collect();
        Self { total, used, reserve: settings.min_free, reached }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_through_the_last_points_tells_the_growth() {
        let today: Date = "2026-11-22".parse().unwrap();
        let point =
            |back: i64, bytes: u64| SizePoint { date: today.saturating_sub(jiff::Span::new().days(back)), rows: 0, bytes };
        let growth = Growth::of(vec![point(200, 9_999_999), point(10, 1_000), point(5, 1_500), point(0, 2_000)], today);
        assert!((growth.bytes_per_day.unwrap() - 100.0).abs() < 1e-6, "{growth:?}");
        assert_eq!(Growth::of(vec![point(0, 5)], today).bytes_per_day, None);
    }
}
