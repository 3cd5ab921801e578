//! The page: findings first, then what covers which day, how it grows, how fast it comes back, what stays, what leaves, what ran.

use std::collections::{BTreeMap, BTreeSet};

use dozo_engine::{DrillStatus, Report, SourceReport};
use dozo_model::{DrillRecord, Period, Severity, Tier, Verdict, human_bytes, human_count};
use jiff::civil::Date;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::calendar::{calendar, class as tier_class, retention_map};
use super::charts::{Chart, Line, draw};
use super::words::{self, Language};
use super::{STYLE, class, local, measured, seconds, severity_class};

/// Drills that the table lists.
const DRILLS: usize = 30;

pub(super) fn page(report: &Report, l: Language) -> String {
    let worst = report.findings.iter().map(|f| f.severity).max().unwrap_or(Severity::Info);
    let (state, word) = match worst {
        Severity::Info => ("good", words::ALL_WELL),
        Severity::Warning => ("warn", words::ATTENTION),
        Severity::Critical => ("bad", words::ALARM),
    };
    let body = html! {
        header {
            h1 { (l.say(words::TITLE)) }
            div class="meta" {
                (l.say(words::REPOSITORY)) " " (report.repository) " · " (l.say(words::MADE)) " " (local(report.at, &report.time_zone)) " "
                (report.time_zone) " · " (report.tool.name) " " (report.tool.version)
            }
        }
        section class={ "state " (state) } {
            h2 { (l.say(word)) }
            (tiles(report, l))
        }
        (findings(report, l))
        (sources(report, l))
        (coverage(report, l))
        (growth(report, l))
        (trends(report, l))
        (drills(report, l))
        (retention(report, l))
        (archives(report, l))
        (runs(report, l))
        (contacts(&report.contacts, l))
    };
    whole(l, l.say(words::TITLE), &body)
}

/// Puts a body into a page that needs nothing else.
pub(super) fn whole(l: Language, title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang=(l.code()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Without it a browser asks for one.
                link rel="icon" href="data:,";
                title { (title) " · dozo" }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

fn tile(value: &str, what: &str) -> Markup {
    html! { div class="tile" { b { (value) } span { (what) } } }
}

fn tiles(report: &Report, l: Language) -> Markup {
    let sources: Vec<_> = report.status.sources.iter().filter(|s| s.configured).collect();
    // One source without a good backup has no recovery point at all.
    let ages: Option<Vec<i64>> = sources.iter().map(|s| s.newest_good.as_ref()?.age_seconds).collect();
    #[expect(clippy::cast_precision_loss, reason = "seconds of an age")]
    let oldest = ages.and_then(|a| a.into_iter().max()).map(|s| s as f64);
    let stored = report.size.points.first().map_or(0, |p| p.bytes);
    // The worst of the newest runs of each drill: by verdict, and by how near it came to its objective.
    let drills = &report.status.drills;
    let verdict = (!drills.is_empty()).then(|| Verdict::of(drills.iter().map(|d| d.verdict)));
    #[expect(clippy::cast_precision_loss, reason = "seconds of an objective")]
    let share = |d: &&DrillStatus| d.rto_seconds.unwrap_or(f64::MAX) / (d.rto_objective_seconds as f64).max(1.0);
    let slowest = drills.iter().max_by(|a, b| share(a).total_cmp(&share(b)));
    #[expect(clippy::cast_precision_loss, reason = "seconds of an objective")]
    let objective = slowest.map_or_else(|| "–".into(), |d| seconds(d.rto_objective_seconds as f64, l));
    let last = drills.iter().map(|d| d.at).max().map(|at| local(at, &report.time_zone)).unwrap_or_default();
    html! {
        div class="tiles" {
            (tile(&measured(oldest, l), &format!("{}: {}", l.say(words::RPO), l.say(words::BACKUP_AGE))))
            (tile(&measured(slowest.and_then(|d| d.rto_seconds), l),
                &format!("{}, {} {objective}", l.say(words::RTO), l.say(words::OBJECTIVE))))
            (tile(verdict.map_or("–", |v| l.verdict(v)), &format!("{} {last}", l.say(words::DRILLS))))
            (tile(&sources.len().to_string(), l.say(words::SOURCES)))
            (tile(&human_bytes(stored), l.say(words::REPOSITORY_SIZE)))
        }
    }
}

/// Findings in their order; what is said of several sources is said once.
fn grouped(report: &Report, l: Language) -> Vec<(Severity, Vec<&str>, &str)> {
    let mut groups: Vec<(Severity, Vec<&str>, &str)> = Vec::new();
    for f in &report.findings {
        let source = f.source.as_ref().map_or(l.say(words::WHOLE), |s| s.as_str());
        match groups.iter_mut().find(|(severity, _, text)| *severity == f.severity && *text == f.text) {
            Some((_, sources, _)) => sources.push(source),
            None => groups.push((f.severity, vec![source], &f.text)),
        }
    }
    groups
}

fn findings(report: &Report, l: Language) -> Markup {
    html! {
        section id="findings" {
            h2 { (l.say(words::FINDINGS)) }
            @if report.findings.is_empty() {
                p class="good" { (l.say(words::NO_FINDINGS)) }
            } @else {
                div class="wide" { table {
                    tr { th { (l.say(words::SEVERITY)) } th { (l.say(words::SOURCE)) } th { (l.say(words::FINDING)) } }
                    @for (severity, sources, text) in grouped(report, l) {
                        tr {
                            td { span class={ "badge " (severity_class(severity)) } { (l.severity(severity)) } }
                            td { (sources.join(", ")) }
                            td { (l.finding(text)) }
                        }
                    }
                } }
            }
        }
    }
}

fn sources(report: &Report, l: Language) -> Markup {
    let kind = |name: &str| report.sources.iter().find(|s| s.source.as_str() == name).map_or("", |s| s.kind);
    let when = |t: Option<dozo_model::Timestamp>| t.map_or_else(|| "–".into(), |t| local(t, &report.time_zone));
    html! {
        section id="sources" {
            h2 { (l.say(words::SOURCES)) }
            div class="wide" { table {
                tr {
                    th { (l.say(words::SOURCE)) } th { (l.say(words::KIND)) } th { (l.say(words::NEWEST)) } th class="n" { (l.say(words::AGE)) }
                    th { (l.say(words::VERIFIED)) } th { (l.say(words::PROVEN)) } th { (l.say(words::DRILLED)) }
                    th class="n" { (l.say(words::BACKUPS)) } th { (l.say(words::NEXT_DELETION)) } th class="n" { (l.say(words::SIZE)) }
                }
                @for s in &report.status.sources {
                    tr {
                        td { b { (s.source) } }
                        td { (l.kind(kind(s.source.as_str()))) }
                        td class={ "t " (if s.silent { "bad" } else { "" }) } { (when(s.newest_good.as_ref().and_then(|n| n.started))) }
                        td class="n" {
                            @let age = s.newest_good.as_ref().and_then(|n| n.age_seconds);
                            @match age.and_then(|a| i32::try_from(a).ok()) { Some(a) => (seconds(f64::from(a), l)), None => "–" }
                        }
                        td class="t" { (when(s.newest_verified)) }
                        td class="t" { (when(s.newest_proven)) }
                        td class="t" { (when(s.drilled)) }
                        td class="n" { (s.backups) }
                        td class="t" { (s.next_deletion.as_ref().map_or_else(|| "–".into(), |g| local(g.at, &report.time_zone)[..10].to_owned())) }
                        td class="n" { (human_bytes(s.bytes)) }
                    }
                }
            } }
        }
    }
}

fn coverage(report: &Report, l: Language) -> Markup {
    html! {
        section id="coverage" {
            h2 { (l.say(words::COVERAGE)) }
            p class="help" { (l.say(words::COVERAGE_HELP)) }
            div class="legend" {
                @for tier in Tier::ALL { span { i class=(tier_class(Some(tier))) {} (l.tier(tier)) } }
                span { i class="l" {} (l.say(words::UNKEPT)) }
                span { i class="x" {} (l.say(words::NOT_GOOD)) }
                span { i {} (l.say(words::NOTHING)) }
            }
            @for source in &report.sources {
                h3 { (source.source) }
                div class="cal wide" { (PreEscaped(calendar(source, report.today, l))) }
            }
        }
    }
}

/// Days from today, negative before it.
fn back(date: Date, today: Date) -> f64 {
    f64::from((date - today).get_days())
}

/// Names days; `years` = there are several.
fn day_label(today: Date, years: bool) -> impl Fn(f64) -> String {
    let form = if years { "%Y-%m-%d" } else { "%m-%d" };
    #[expect(clippy::cast_possible_truncation, reason = "days")]
    move |x: f64| today.saturating_add(jiff::Span::new().days(x.round() as i64)).strftime(form).to_string()
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of a chart")]
fn growth(report: &Report, l: Language) -> Markup {
    let label = day_label(report.today, false);
    let points = report.size.points.iter().map(|p| (back(p.date, report.today), p.bytes as f64)).collect();
    let chart = draw(&Chart {
        lines: vec![Line { points }],
        limit: None,
        filled: true,
        dots: false,
        day: &label,
        value: &|y| human_bytes(y as u64),
    });
    let signed = |n: f64| format!("{}{}", if n < 0.0 { "−" } else { "+" }, human_bytes(n.abs() as u64));
    html! {
        section id="growth" {
            h2 { (l.say(words::GROWTH)) }
            @if let Some(svg) = chart {
                h3 {
                    (l.say(words::FORECAST))
                    @if let Some(rate) = report.size.bytes_per_day { " · " (signed(rate)) " " (l.say(words::PER_DAY)) }
                }
                div class="chart wide" { (PreEscaped(svg)) }
            }
            h3 { (l.say(words::DISK)) }
            @match &report.disk {
                None => p class="help" { (l.say(words::REMOTE_DISK)) },
                Some(disk) => {
                    @let percent = disk.used as f64 / (disk.total as f64).max(1.0) * 100.0;
                    p class="help" {
                        (l.say(words::USED)) " " (human_bytes(disk.used)) " / " (human_bytes(disk.total)) " (" (format!("{percent:.0}")) " %) · "
                        (l.say(words::RESERVE)) " " (disk.reserve) " %"
                    }
                    div class="meter" { i style={ "width:" (format!("{percent:.1}")) "%" } {} }
                    div class="wide" { table {
                        tr { th { (l.say(words::LEVEL)) } th { (l.say(words::REACHED)) } }
                        @for (level, date) in &disk.reached {
                            tr {
                                td { (level) " %" @if *level == 100 - disk.reserve.min(100) { " (" (l.say(words::RESERVE)) " " (disk.reserve) " %)" } }
                                td { @match date {
                                    None if report.size.bytes_per_day.is_none() => (l.say(words::TOO_FEW)),
                                    None => (l.say(words::NOT_FORESEEN)),
                                    Some(date) if *date <= report.today => span class="bad" { (l.say(words::ALREADY)) },
                                    Some(date) => (date),
                                } }
                            }
                        }
                    } }
                }
            }
            @for source in report.sources.iter().filter(|s| !s.tables.is_empty()) {
                h3 { (source.source) }
                div class="wide" { table {
                    tr { th { (l.say(words::TABLE)) } th class="n" { (l.say(words::ROWS)) } th class="n" { (l.say(words::ROWS_PER_DAY)) } th class="n" { (l.say(words::SIZE)) } }
                    @for t in &source.tables {
                        tr {
                            td { (t.table) } td class="n" { (human_count(t.rows)) }
                            td class="n" { (t.rows_per_day.map_or_else(|| "–".into(), |n| format!("{n:+.0}"))) }
                            td class="n" { (human_bytes(t.bytes)) }
                        }
                    }
                } }
            }
        }
    }
}

/// A line for each drill, in percent of its objective.
#[expect(clippy::cast_precision_loss, reason = "seconds of objectives")]
fn trend(report: &Report, of: fn(&DrillRecord) -> (Option<f64>, u64)) -> Option<(Vec<String>, String)> {
    let zone = jiff::tz::TimeZone::get(&report.time_zone).unwrap_or(jiff::tz::TimeZone::UTC);
    let now = report.at;
    let mut by_drill: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for record in &report.drills {
        let (measured, objective) = of(record);
        let age = now.duration_since(record.finished).as_secs() as f64 / 86_400.0;
        if let Some(seconds) = measured.filter(|_| age <= 730.0) {
            by_drill.entry(&record.drill).or_default().push((-age, seconds / (objective as f64).max(1.0) * 100.0));
        }
    }
    let names: Vec<String> = by_drill.keys().map(|n| (*n).to_owned()).collect();
    let label = day_label(report.at.to_zoned(zone).date(), true);
    let svg = draw(&Chart {
        lines: by_drill.into_values().map(|points| Line { points }).collect(),
        limit: Some(100.0),
        filled: false,
        dots: true,
        day: &label,
        value: &|y| if y < 1.0 && y > 0.0 { format!("{y:.2} %") } else { format!("{y:.0} %") },
    })?;
    Some((names, svg))
}

fn trends(report: &Report, l: Language) -> Markup {
    let charts = [
        (words::RTO_TREND, trend(report, |d| (d.measured.rto_seconds, d.objectives.rto_seconds))),
        (words::RPO_TREND, trend(report, |d| (d.measured.rpo_seconds, d.objectives.rpo_seconds))),
    ];
    html! {
        section id="trends" {
            h2 { (l.say(words::TRENDS)) }
            @if report.drills.is_empty() { p class="warn" { (l.say(words::NO_DRILLS)) } }
            @for (word, chart) in &charts {
                @if let Some((names, svg)) = chart {
                    h3 { (l.say(*word)) }
                    div class="chart wide" { (PreEscaped(svg)) }
                    div class="legend" { @for (n, name) in names.iter().enumerate() { span { i class={ "k" (n % 5 + 1) } {} (name) } } }
                }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of objectives")]
fn drills(report: &Report, l: Language) -> Markup {
    html! {
        @if !report.drills.is_empty() {
            section id="drills" {
                h2 { (l.say(words::DRILLS)) }
                div class="wide" { table {
                    tr {
                        th class="n" { (l.say(words::NUMBER)) } th { (l.say(words::STARTED)) } th { (l.say(words::DRILL)) } th { (l.say(words::VERDICT)) }
                        th class="n" { (l.say(words::RESTORES)) } th class="n" { (l.say(words::RTO)) " / " (l.say(words::OBJECTIVE)) }
                        th class="n" { (l.say(words::RPO)) " / " (l.say(words::OBJECTIVE)) } th { (l.say(words::FINDING)) }
                    }
                    @for d in report.drills.iter().rev().take(DRILLS) {
                        tr {
                            td class="n" { (d.number) } td class="t" { (local(d.started, &report.time_zone)) } td { (d.drill) }
                            td { span class={ "badge " (class(d.verdict)) } { (l.verdict(d.verdict)) } }
                            td class="n" { (d.items.len()) }
                            td class="n" { (measured(d.measured.rto_seconds, l)) " / " (seconds(d.objectives.rto_seconds as f64, l)) }
                            td class="n" { (measured(d.measured.rpo_seconds, l)) " / " (seconds(d.objectives.rpo_seconds as f64, l)) }
                            td { @for (item, text) in d.all_findings().take(3) { div { @if let Some(i) = item { (i.source) ": " } (text) } } }
                        }
                    }
                } }
            }
        }
    }
}

fn retention(report: &Report, l: Language) -> Markup {
    html! {
        section id="retention" {
            h2 { (l.say(words::RETENTION)) }
            p class="help" { (l.say(words::RETENTION_HELP)) }
            @for source in report.sources.iter().filter(|s| !s.kept.is_empty()) {
                h3 { (source.source) span class="meta" { " · " (promise(source, l)) } }
                div class="map wide" { (PreEscaped(retention_map(source, report.at, l))) }
            }
            p class="help" { (l.say(words::NO_WAL)) }
        }
    }
}

/// Shows a period.
fn span(period: Period, l: Language) -> String {
    let text = period.to_string();
    if l == Language::English {
        return text;
    }
    let unit = |word: &str| match word.trim_end_matches('s') {
        "day" => "日",
        "month" => "か月",
        "year" => "年",
        _ => "",
    };
    match text.split_once(' ') {
        Some((n, word)) if !unit(word).is_empty() => format!("{n} {}", unit(word)),
        _ if text == "forever" => "無期限".into(),
        _ => text,
    }
}

fn promise(source: &SourceReport, l: Language) -> String {
    let p = &source.policy;
    let tiers = [(Tier::Daily, p.daily), (Tier::Weekly, p.weekly), (Tier::Monthly, p.monthly), (Tier::Yearly, p.yearly)];
    let said = tiers
        .into_iter()
        .filter(|(_, period)| !period.is_off())
        .map(|(tier, period)| format!("{} {}", l.tier(tier), span(period, l)));
    said.collect::<Vec<_>>().join(", ")
}

fn archives(report: &Report, l: Language) -> Markup {
    struct Tree<'a> {
        partitions: usize,
        rows: u64,
        bytes: u64,
        labels: BTreeSet<&'a str>,
        states: BTreeMap<String, usize>,
    }
    let mut trees: BTreeMap<(String, String), Tree<'_>> = BTreeMap::new();
    for a in &report.archives {
        let tree = trees.entry((a.source.clone(), a.table.to_string())).or_insert_with(|| Tree {
            partitions: 0,
            rows: 0,
            bytes: 0,
            labels: BTreeSet::new(),
            states: BTreeMap::new(),
        });
        tree.partitions += usize::from(a.published);
        tree.rows += a.fingerprint.filter(|_| a.published).map_or(0, |f| f.rows);
        tree.bytes += a.bytes;
        tree.labels.insert(a.label.split_once('=').map_or(a.label.as_str(), |(_, end)| end));
        *tree.states.entry(a.state.to_string()).or_default() += 1;
    }
    html! {
        section id="archives" {
            h2 { (l.say(words::ARCHIVES)) }
            @if trees.is_empty() { p class="help" { (l.say(words::NO_ARCHIVES)) } } @else {
                div class="wide" { table {
                    tr {
                        th { (l.say(words::SOURCE)) } th { (l.say(words::TABLE)) } th class="n" { (l.say(words::PARTITIONS)) } th { (l.say(words::FROM_TO)) }
                        th class="n" { (l.say(words::ROWS)) } th class="n" { (l.say(words::SIZE)) } th { (l.say(words::STATE)) }
                    }
                    @for ((source, table), tree) in &trees {
                        tr {
                            td { (source) } td { (table) } td class="n" { (tree.partitions) }
                            td class="t" { (tree.labels.first().unwrap_or(&"")) " – " (tree.labels.last().unwrap_or(&"")) }
                            td class="n" { (human_count(tree.rows)) } td class="n" { (human_bytes(tree.bytes)) }
                            td { (tree.states.iter().map(|(s, n)| format!("{} {n}", l.state(s))).collect::<Vec<_>>().join(", ")) }
                        }
                    }
                } }
            }
        }
    }
}

fn runs(report: &Report, l: Language) -> Markup {
    html! {
        section id="runs" {
            h2 { (l.say(words::RUNS)) }
            div class="wide" { table {
                tr {
                    th { (l.say(words::SOURCE)) } th { (l.say(words::STARTED)) } th { (l.say(words::STATE)) } th class="n" { (l.say(words::TOOK)) }
                    th class="n" { (l.say(words::ROWS)) } th class="n" { (l.say(words::WRITTEN)) } th { (l.say(words::BOTTLENECK)) }
                }
                @for source in &report.sources { @for run in source.runs.iter().take(3) {
                    tr {
                        td { (source.source) } td class="t" { (local(run.started, &report.time_zone)) }
                        td class=(if run.state == "complete" { "good" } else { "bad" }) { (l.state(run.state)) }
                        td class="n" { (seconds(run.seconds, l)) } td class="n" { (human_count(run.rows)) } td class="n" { (human_bytes(run.written)) }
                        td { @if let Some((stage, share)) = &run.slowest { (l.phase(stage)) " " (share) " %" } }
                    }
                } }
            } }
        }
    }
}

/// Whom to call.
pub(super) fn contacts(all: &[(String, String)], l: Language) -> Markup {
    html! {
        @if !all.is_empty() {
            section id="contacts" {
                h2 { (l.say(words::CONTACTS)) }
                div class="wide" { table { @for (who, how) in all { tr { td { (who) } td { (how) } } } } }
            }
        }
    }
}
