//! The certificate of a drill: what was restored, when, from which backup, with which digests, how long it took, what was found.

use dozo_model::{DrillItem, DrillLink, DrillRecord, human_bytes, human_count};
use maud::{Markup, html};

use super::page::{contacts, whole};
use super::words::{self, Language};
use super::{class, head, measured, seconds};
use crate::commands::drill::PHASES;

/// Names of chosen tables that are listed.
const CHOSEN: usize = 12;

/// Draws the certificate; `link` is its place in the chain, `broken` what contradicts it.
pub(crate) fn certificate_page(record: &DrillRecord, link: Option<&DrillLink>, broken: &[String], l: Language) -> String {
    let body = html! {
        header {
            h1 { (l.say(words::CERTIFICATE)) " " (record.number) }
            div class="meta" { (record.drill) " · " (l.say(words::REPOSITORY)) " " (record.repository) " · " (record.tool.name) " " (record.tool.version) }
        }
        @if !broken.is_empty() {
            section class="state bad" { h2 { (l.say(words::BROKEN)) } ul { @for b in broken { li { (b) } } } }
        }
        section class={ "state " (class(record.verdict)) } {
            span class={ "badge " (class(record.verdict)) } { (l.verdict(record.verdict)) }
            (facts(record, link, l))
            @for finding in &record.findings { p class="bad" { (finding) } }
        }
        @for item in &record.items { (restored(item, l)) }
        @if !record.warnings.is_empty() {
            section { h2 { (l.say(words::WARNINGS)) } ul { @for w in &record.warnings { li { (w) } } } }
        }
        (contacts(&record.contacts, l))
    };
    whole(l, &format!("{} {}", l.say(words::CERTIFICATE), record.number), &body)
}

#[expect(clippy::cast_precision_loss, reason = "seconds of objectives")]
fn pairs(record: &DrillRecord, link: Option<&DrillLink>, l: Language) -> Vec<(&'static str, String)> {
    let (m, o) = (&record.measured, &record.objectives);
    let utc = |t: dozo_model::Timestamp| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let mut all = vec![
        (l.say(words::STARTED), utc(record.started)),
        (l.say(words::ENDED), utc(record.finished)),
        (l.say(words::INCIDENT), l.incident(record.incident).to_owned()),
        ("RTO", format!("{} / {} {}", measured(m.rto_seconds, l), l.say(words::OBJECTIVE), seconds(o.rto_seconds as f64, l))),
        ("RPO", format!("{} / {} {}", measured(m.rpo_seconds, l), l.say(words::OBJECTIVE), seconds(o.rpo_seconds as f64, l))),
        (l.say(words::OPERATOR), format!("{}@{}", record.operator.user, record.operator.host)),
    ];
    if let Some(runbook) = &record.runbook {
        let age = runbook.age_days.map_or_else(|| "–".into(), |d| format!("{d} {}", l.say(words::DAYS_OLD)));
        all.push((l.say(words::RUNBOOK), format!("{}, {age}", runbook.path)));
    }
    all.extend(link.map(|link| (l.say(words::CHAIN), head(link))));
    all.extend(record.previous.as_ref().map(|p| (l.say(words::PREVIOUS), head(p))));
    all
}

fn table_of(all: &[(&str, String)]) -> Markup {
    html! { div class="wide" { table { @for (name, value) in all {
        tr { th { (name) } td class=(if value.len() > 40 && !value.contains(' ') { "mono" } else { "" }) { (value) } }
    } } } }
}

fn facts(record: &DrillRecord, link: Option<&DrillLink>, l: Language) -> Markup {
    table_of(&pairs(record, link, l))
}

fn about(item: &DrillItem, l: Language) -> Vec<(&'static str, String)> {
    let utc = |t: dozo_model::Timestamp| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let mut all = vec![(l.say(words::WHAT), l.scope(item.scope).to_owned())];
    if !item.chosen.is_empty() {
        let more = item.chosen.len().checked_sub(CHOSEN).filter(|n| *n > 0).map(|n| format!(" … +{n}")).unwrap_or_default();
        all.push((l.say(words::TABLE), format!("{}{more}", item.chosen[..item.chosen.len().min(CHOSEN)].join(", "))));
    }
    all.push((l.say(words::PLACE), item.place.clone()));
    all.extend(item.taken.map(|t| (l.say(words::TAKEN), utc(t))));
    all.extend(item.manifest_sha256.map(|d| (l.say(words::MANIFEST), d.to_string())));
    all.extend(item.fingerprint.map(|f| (l.say(words::FINGERPRINT), f.to_string())));
    let rows = if item.rows > 0 { format!(", {} {}", human_count(item.rows), l.say(words::OF_ROWS)) } else { String::new() };
    let equal = format!("{} / {}{rows}, {}", human_count(item.equal), human_count(item.restored), human_bytes(item.bytes));
    all.push((l.say(words::EQUAL), equal));
    all.push(("RTO", measured(item.rto_seconds, l)));
    if let Some(e) = &item.estimate {
        let share = e.share * 100.0;
        let text = format!("{} ({} – {}), {share:.0} %", seconds(e.seconds, l), seconds(e.low, l), seconds(e.high, l));
        all.push((l.say(words::ESTIMATE), text));
    }
    if let Some(rpo) = &item.rpo {
        all.push((l.say(words::NEWEST_ROW), format!("{} ({}): RPO {}", utc(rpo.newest), rpo.from, seconds(rpo.seconds, l))));
    }
    all.extend(item.backup_age_seconds.map(|s| (l.say(words::BACKUP_AGE), seconds(s, l))));
    all
}

fn restored(item: &DrillItem, l: Language) -> Markup {
    let total: f64 = item.seconds.values().sum();
    let phases: Vec<(usize, &str, f64)> =
        PHASES.iter().enumerate().filter_map(|(n, phase)| Some((n, *phase, *item.seconds.get(*phase)?))).collect();
    html! {
        section {
            h2 { (item.label()) " " span class={ "badge " (class(item.verdict)) } { (l.verdict(item.verdict)) } }
            (table_of(&about(item, l)))
            @if total > 0.0 {
                h3 { (l.say(words::PHASES)) }
                div class="bars" { @for (n, _, took) in &phases { i class={ "p" (n) } style={ "width:" (format!("{:.2}", took / total * 100.0)) "%" } {} } }
                div class="legend" { @for (n, phase, took) in &phases { span { i class={ "p" (n) } {} (l.phase(phase)) " " (seconds(*took, l)) } } }
            }
            h3 { (l.say(words::CHECKS)) }
            div class="wide" { table {
                tr { th { (l.say(words::VERDICT)) } th { (l.say(words::CHECK)) } th { (l.say(words::RESULT)) } }
                @for check in &item.checks {
                    tr { td { span class={ "badge " (class(check.verdict)) } { (l.verdict(check.verdict)) } } td { (check.name) } td { (check.detail) } }
                }
                @for finding in item.findings.iter().filter(|f| !item.checks.iter().any(|c| **f == format!("{}: {}", c.name, c.detail))) {
                    tr { td { span class="badge bad" { (l.verdict(dozo_model::Verdict::Failed)) } } td { (l.say(words::OBJECTIVE)) } td { (finding) } }
                }
            } }
            @if !item.changes.is_empty() {
                h3 { (l.say(words::CHANGES)) }
                ul { @for c in &item.changes { li { (c) } } }
            }
            @if !item.not_checked.is_empty() {
                h3 { (l.say(words::NOT_CHECKED)) }
                ul { @for n in &item.not_checked { li { (n) } } }
            }
        }
    }
}

/// Writes the certificate as text.
pub(crate) fn certificate_text(record: &DrillRecord, link: Option<&DrillLink>, broken: &[String], l: Language) -> String {
    let mut lines =
        vec![format!("{} {}: {} {}", l.say(words::CERTIFICATE), record.number, record.drill, l.verdict(record.verdict))];
    lines.extend(broken.iter().map(|b| format!("  {}: {b}", l.say(words::BROKEN))));
    lines.extend(pairs(record, link, l).into_iter().map(|(name, value)| format!("  {name}: {value}")));
    lines.extend(record.findings.iter().map(|f| format!("  {}: {f}", l.verdict(dozo_model::Verdict::Failed))));
    for item in &record.items {
        lines.push(format!("\n{} {}", item.label(), l.verdict(item.verdict)));
        lines.extend(about(item, l).into_iter().map(|(name, value)| format!("  {name}: {value}")));
        let phases = PHASES.iter().filter_map(|p| Some(format!("{} {}", l.phase(p), seconds(*item.seconds.get(*p)?, l))));
        lines.push(format!("  {}: {}", l.say(words::PHASES), phases.collect::<Vec<_>>().join(", ")));
        lines.extend(item.findings.iter().map(|f| format!("  {}: {f}", l.verdict(dozo_model::Verdict::Failed))));
        let passed = item.checks.iter().filter(|c| c.verdict == dozo_model::Verdict::Passed);
        lines.extend(passed.map(|c| format!("  {}: {}: {}", l.verdict(c.verdict), c.name, c.detail)));
        lines.extend(item.changes.iter().map(|c| format!("  {}: {c}", l.say(words::CHANGES))));
        lines.extend(item.not_checked.iter().map(|n| format!("  {}: {n}", l.say(words::NOT_CHECKED))));
    }
    lines.extend(record.warnings.iter().map(|w| format!("{}: {w}", l.say(words::WARNINGS))));
    lines.extend(record.contacts.iter().map(|(who, how)| format!("{}: {who} {how}", l.say(words::CONTACTS))));
    lines.join("\n")
}
