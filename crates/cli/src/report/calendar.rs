//! The coverage calendar and the retention map of a source, as SVG of their own: a chart library has neither.

use std::collections::BTreeMap;
use std::fmt::Write;

use dozo_engine::{CoverageDay, SourceReport};
use dozo_model::{Period, Tier, Timestamp};
use jiff::civil::{Date, Weekday};

use super::words::{self, Language};

/// Weeks that are shown.
const WEEKS: i32 = 53;
/// Distance of squares.
const STEP: i32 = 13;
const LEFT: i32 = 26;
const TOP: i32 = 12;

/// Class of a tier in the style.
pub(super) fn class(tier: Option<Tier>) -> &'static str {
    match tier {
        None => "l",
        Some(Tier::Daily) => "d",
        Some(Tier::Weekly) => "w",
        Some(Tier::Monthly) => "m",
        Some(Tier::Yearly) => "y",
    }
}

/// Draws a square for each day of the last year, a column for each week.
pub(super) fn calendar(source: &SourceReport, today: Date, language: Language) -> String {
    let days: BTreeMap<Date, &CoverageDay> = source.coverage.days.iter().map(|d| (d.date, d)).collect();
    let first_weekday = source.policy.week_start;
    let column_of_today = WEEKS - 1;
    let row = |date: Date| i32::from(date.weekday().since(first_weekday));
    let start = today.saturating_sub(jiff::Span::new().days(row(today) + column_of_today * 7));
    let (width, height) = (LEFT + WEEKS * STEP + 4, TOP + 7 * STEP + 2);
    let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">", source.source);
    // Writing to a string does not fail.
    for day in [Weekday::Monday, Weekday::Wednesday, Weekday::Friday] {
        let y = TOP + i32::from(day.since(first_weekday)) * STEP + 8;
        let name = match (language, day) {
            (Language::English, Weekday::Monday) => "Mon",
            (Language::English, Weekday::Wednesday) => "Wed",
            (Language::English, _) => "Fri",
            (Language::Japanese, Weekday::Monday) => "月",
            (Language::Japanese, Weekday::Wednesday) => "水",
            (Language::Japanese, _) => "金",
        };
        let _ = write!(svg, "<text x=\"0\" y=\"{y}\">{name}</text>");
    }
    let mut month = 0;
    for n in 0..WEEKS * 7 {
        let date = start.saturating_add(jiff::Span::new().days(n));
        if date > today {
            break;
        }
        let (x, y) = (LEFT + n / 7 * STEP, TOP + n % 7 * STEP);
        if n % 7 == 0 && date.month() != month && n / 7 < WEEKS - 1 {
            month = date.month();
            // The last days of a month leave no room for its name.
            if n > 0 || date.day() <= 14 {
                let name = match language {
                    Language::English => date.strftime("%b").to_string(),
                    Language::Japanese => format!("{month}月"),
                };
                let _ = write!(svg, "<text x=\"{x}\" y=\"8\">{name}</text>");
            }
        }
        match days.get(&date) {
            None => {
                let _ = write!(svg, "<rect x=\"{x}\" y=\"{y}\"/>");
            }
            Some(day) => {
                let colour = if day.good { class(day.tier) } else { "x" };
                let pale = if day.verified || !day.good { "" } else { " u" };
                let title = title(day, language);
                let _ = write!(svg, "<rect x=\"{x}\" y=\"{y}\" class=\"{colour}{pale}\"><title>{title}</title></rect>");
                if day.proven {
                    let _ = write!(svg, "<path d=\"M{} {}h6\"/>", x + 2, y + 8);
                }
                if day.drilled {
                    let _ = write!(svg, "<circle cx=\"{}\" cy=\"{}\"/>", x + 5, y + 4);
                }
            }
        }
    }
    svg.push_str("</svg>");
    svg
}

fn title(day: &CoverageDay, language: Language) -> String {
    let mut said = vec![day.date.to_string()];
    said.push(match (day.good, day.tier) {
        (false, _) => language.say(words::NOT_GOOD).into(),
        (true, Some(tier)) => language.tier(tier).into(),
        (true, None) => language.say(words::UNKEPT).into(),
    });
    for (is, word) in [(day.verified, words::VERIFIED), (day.proven, words::PROVEN), (day.drilled, words::DRILLED)] {
        said.extend(is.then(|| language.say(word).to_owned()));
    }
    said.join(" ")
}

/// Width of the retention map.
const MAP: f64 = 900.0;
/// Days that it shows.
const MAP_DAYS: f64 = 400.0;

/// Days before today as a place: the last weeks get more room than the months before them.
fn place(days: f64) -> f64 {
    let scaled = (days.max(0.0) + 3.0).ln() - 3.0_f64.ln();
    let whole = (MAP_DAYS + 3.0).ln() - 3.0_f64.ln();
    MAP - 20.0 - (scaled / whole).min(1.0) * (MAP - 110.0)
}

/// Draws the backups that stand over the spans that the tiers promise.
pub(super) fn retention_map(source: &SourceReport, now: Timestamp, language: Language) -> String {
    let policy = &source.policy;
    let tiers = [
        (Tier::Daily, policy.daily),
        (Tier::Weekly, policy.weekly),
        (Tier::Monthly, policy.monthly),
        (Tier::Yearly, policy.yearly),
    ];
    let shown: Vec<(Tier, Period)> = tiers.into_iter().filter(|(_, p)| !p.is_off()).collect();
    let rows = i32::try_from(shown.len()).unwrap_or(4);
    let height = 16 + rows * 16 + 6;
    let mut svg = format!("<svg viewBox=\"0 0 {MAP:.0} {height}\" role=\"img\" aria-label=\"{}\">", source.source);
    for days in [1.0, 7.0, 30.0, 90.0, 365.0] {
        let x = place(days);
        let text = match language {
            Language::English => format!("{days:.0} d"),
            Language::Japanese => format!("{days:.0}日"),
        };
        let _ = write!(
            svg,
            "<line x1=\"{x:.0}\" x2=\"{x:.0}\" y1=\"12\" y2=\"{height}\"/><text x=\"{:.0}\" y=\"8\">{text}</text>",
            x - 8.0
        );
    }
    for (n, (tier, period)) in shown.iter().enumerate() {
        let y = 16 + i32::try_from(n).unwrap_or(0) * 16;
        let (from, class) = (place(span(*period)), class(Some(*tier)));
        let _ = write!(svg, "<text x=\"0\" y=\"{}\">{}</text>", y + 9, language.tier(*tier));
        let _ = write!(svg, "<rect class=\"bar {class}\" x=\"{from:.0}\" y=\"{}\" width=\"{:.0}\"/>", y + 2, MAP - 20.0 - from);
        for (started, longest) in &source.kept {
            if longest.unwrap_or(Tier::Daily) == *tier {
                #[expect(clippy::cast_precision_loss, reason = "days")]
                let days = now.duration_since(*started).as_secs() as f64 / 86_400.0;
                let class = if longest.is_some() { class } else { "l" };
                let _ = write!(svg, "<circle class=\"{class}\" cx=\"{:.0}\" cy=\"{}\"/>", place(days), y + 5);
            }
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Returns about how many days a period has.
fn span(period: Period) -> f64 {
    match period {
        Period::Time(time) => time.as_secs_f64() / 86_400.0,
        Period::Months(months) => f64::from(months) * 30.44,
        Period::Forever => MAP_DAYS,
    }
}
