//! Reports that people look at: one page about everything, the certificate of a drill, and both as text.
//!
//! Place in the flow: the engine's [`Report`] and records of drills in, HTML or text out. *Invariants*: a page needs no network and no script; every text
//! that came from outside is escaped (maud does it); light, dark and print are one page; both languages say the same.

mod calendar;
mod certificate;
mod charts;
mod page;
mod text;
mod words;

use dozo_engine::Report;
use dozo_model::{DrillLink, Severity, Timestamp, Verdict, human_duration};

pub(crate) use certificate::{certificate_page, certificate_text};
pub(crate) use words::Language;

use crate::args::Lang;

/// Style of all pages.
const STYLE: &str = include_str!("report/style.css");

/// Returns the language that was asked for, or that of the environment.
pub(crate) fn language(asked: Option<Lang>) -> Language {
    match asked {
        Some(Lang::Ja) => Language::Japanese,
        Some(Lang::En) => Language::English,
        None => {
            let set = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(|k| std::env::var(k).ok().filter(|v| !v.is_empty()));
            if set.is_some_and(|v| v.starts_with("ja")) { Language::Japanese } else { Language::English }
        }
    }
}

/// Draws the page.
pub(crate) fn page(report: &Report, language: Language) -> String {
    page::page(report, language)
}

/// Writes the text for a mail.
pub(crate) fn text(report: &Report, language: Language) -> String {
    text::text(report, language)
}

/// Shows seconds for people.
fn seconds(s: f64, l: Language) -> String {
    let text = human_duration(std::time::Duration::from_secs_f64(s.max(0.0)));
    if l == Language::English {
        return text;
    }
    let word = |word: &str| match word {
        "d" => "日".to_owned(),
        "h" => "時間".to_owned(),
        "min" => "分".to_owned(),
        "s" => "秒".to_owned(),
        number => number.to_owned(),
    };
    text.split(' ').map(word).collect()
}

fn measured(s: Option<f64>, l: Language) -> String {
    s.map_or_else(|| "–".into(), |s| seconds(s, l))
}

/// Shows a time in a time zone.
fn local(time: Timestamp, zone: &str) -> String {
    match jiff::tz::TimeZone::get(zone) {
        Ok(zone) => time.to_zoned(zone).strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => time.strftime("%Y-%m-%d %H:%MZ").to_string(),
    }
}

/// Class of a verdict in the style.
fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "good",
        Verdict::Failed => "bad",
        Verdict::NotRun => "warn",
    }
}

fn severity_class(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warn",
        Severity::Critical => "bad",
    }
}

/// Shows the head of a chain.
fn head(link: &DrillLink) -> String {
    format!("{}:{}", link.number, link.sha256)
}
