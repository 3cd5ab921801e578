//! The report as text, for a mail: findings first, a line for each source and drill.

use dozo_engine::Report;
use dozo_model::human_bytes;

use super::words::{self, Language};
use super::{local, measured, seconds};
use crate::output::table;

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ages and bytes")]
pub(super) fn text(report: &Report, l: Language) -> String {
    let when = |t: Option<dozo_model::Timestamp>| t.map_or_else(|| "–".into(), |t| local(t, &report.time_zone));
    let mut lines = vec![
        format!("{}  {}  {} {}", l.say(words::TITLE), report.repository, local(report.at, &report.time_zone), report.time_zone),
        String::new(),
        format!("{}:", l.say(words::FINDINGS)),
    ];
    if report.findings.is_empty() {
        lines.push(format!("  {}", l.say(words::NO_FINDINGS)));
    }
    for f in &report.findings {
        let source = f.source.as_ref().map_or(l.say(words::WHOLE), |s| s.as_str());
        lines.push(format!("  [{}] {source}: {}", l.severity(f.severity), l.finding(&f.text)));
    }
    let header = [words::SOURCE, words::NEWEST, words::AGE, words::VERIFIED, words::DRILLED, words::BACKUPS, words::SIZE];
    let header: Vec<&str> = header.iter().map(|w| l.say(*w)).collect();
    let rows = report.status.sources.iter().map(|s| {
        let good = s.newest_good.as_ref();
        vec![
            s.source.to_string(),
            when(good.and_then(|g| g.started)),
            good.and_then(|g| g.age_seconds).map_or_else(|| "–".into(), |a| seconds(a as f64, l)),
            when(s.newest_verified),
            when(s.drilled),
            s.backups.to_string(),
            human_bytes(s.bytes),
        ]
    });
    lines.extend([String::new(), table(&header, &[5, 6], rows.collect())]);
    if !report.drills.is_empty() {
        let header = [words::NUMBER, words::STARTED, words::DRILL, words::VERDICT, words::RTO, words::RPO];
        let header: Vec<&str> = header.iter().map(|w| l.say(*w)).collect();
        let rows = report.drills.iter().rev().take(5).map(|d| {
            let of = |value: Option<f64>, objective: u64| format!("{} / {}", measured(value, l), seconds(objective as f64, l));
            vec![
                d.number.to_string(),
                local(d.started, &report.time_zone),
                d.drill.clone(),
                l.verdict(d.verdict).to_owned(),
                of(d.measured.rto_seconds, d.objectives.rto_seconds),
                of(d.measured.rpo_seconds, d.objectives.rpo_seconds),
            ]
        });
        lines.extend([String::new(), table(&header, &[0], rows.collect())]);
    } else {
        lines.extend([String::new(), l.say(words::NO_DRILLS).to_owned()]);
    }
    let size = report.size.points.first().map_or(0, |p| p.bytes);
    let signed = |r: f64| format!("{}{}", if r < 0.0 { "-" } else { "+" }, human_bytes(r.abs() as u64));
    let rate = report.size.bytes_per_day.map(|r| format!(", {} {}", signed(r), l.say(words::PER_DAY))).unwrap_or_default();
    lines.extend([String::new(), format!("{}: {}{rate}", l.say(words::REPOSITORY_SIZE), human_bytes(size))]);
    if let Some(disk) = &report.disk {
        let percent = (disk.used as f64 / (disk.total as f64).max(1.0) * 100.0).round() as u64;
        lines.push(format!("{}: {} {percent} %", l.say(words::DISK), l.say(words::USED)));
        for (level, date) in &disk.reached {
            let unknown = if report.size.bytes_per_day.is_some() { words::NOT_FORESEEN } else { words::TOO_FEW };
            let said = date.map_or_else(
                || l.say(unknown).to_owned(),
                |d| if d <= report.today { l.say(words::ALREADY).to_owned() } else { d.to_string() },
            );
            lines.push(format!("  {level} %: {said}"));
        }
    }
    lines.join("\n")
}
