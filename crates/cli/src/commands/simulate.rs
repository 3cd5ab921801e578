//! `dozo retention simulate`: the policy played forward, as a table, JSON, or a picture.

use std::collections::BTreeMap;

use dozo_engine::{Broken, Day, ReplicaChoice, Repository, Scenario, Simulation, simulate};
use dozo_model::{Period, Tier, human_bytes};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde::Serialize;

use super::{Outcome, Session};
use crate::args::Simulate;
use crate::config::Config;
use crate::error::{CliError, Usage};
use crate::output::{replace_file, table};

/// Longer is a slip.
const DAYS_MAX: i64 = 3660;
/// Class of an object that was given none.
const STANDARD: &str = "STANDARD";
/// Days of a month, on average.
const MONTH: f64 = 30.44;
const DAILY: RGBColor = RGBColor(56, 126, 184);
const WEEKLY: RGBColor = RGBColor(77, 157, 80);
const MONTHLY: RGBColor = RGBColor(222, 143, 34);
const YEARLY: RGBColor = RGBColor(140, 90, 170);
const SIZE: RGBColor = RGBColor(70, 70, 70);

/// What is printed.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    simulation: Simulation,
    /// What the objects cost over these days, by storage class of the repository and of its replicas.
    cost: BTreeMap<String, f64>,
}

pub(super) async fn run(session: &Session, config: &Config, repository: &Repository, args: Simulate) -> Outcome {
    let facts = repository.retention_facts().await?;
    let now = session.ctx.clock.now();
    let days = days(args.span, now)?;
    let disk = repository.store().space().map(|(free, total)| {
        let own: u64 = facts.objects.iter().sum();
        (total, total.saturating_sub(free).saturating_sub(own), config.repository.disk_levels[2])
    });
    let scenario = Scenario { from: now, days, every: args.every.map(|s| s.0), stop_after: args.stop_after.map(|s| s.0), disk };
    let simulation = simulate(&facts, |s| config.policy(s), &scenario);
    let report = Report { cost: cost(config, &simulation), simulation };
    if let Some(file) = &args.picture {
        let svg = picture(&report.simulation).map_err(|e| {
            let text = format!("{} cannot be drawn: {e}", file.display());
            CliError::Usage(Usage::OutputFile, text, "print it with --json".into())
        })?;
        let html = file.extension().is_some_and(|e| e == "html" || e == "htm");
        replace_file(file, &if html { page(&report, &svg) } else { svg })?;
    }
    session.output.result(&report, || text(&report))?;
    Ok(0)
}

fn days(span: Period, now: dozo_model::Timestamp) -> Result<u32, CliError> {
    let days = match span {
        Period::Time(time) => i64::try_from(time.as_secs() / 86_400).unwrap_or(i64::MAX),
        Period::Months(months) => {
            let start = now.to_zoned(jiff::tz::TimeZone::UTC).date();
            let end = start.checked_add(jiff::Span::new().months(i64::from(months)));
            end.ok().and_then(|end| start.until(end).ok()).map_or(i64::MAX, |s| i64::from(s.get_days()))
        }
        Period::Forever => i64::MAX,
    };
    u32::try_from(days).ok().filter(|d| *d > 0 && i64::from(*d) <= DAYS_MAX).ok_or_else(|| {
        CliError::Usage(
            Usage::Options,
            format!("`{span}` is not between a day and ten years"),
            "dozo retention simulate 1y".into(),
        )
    })
}

/// What each class costs: byte-days times the price of a GB and month.
fn cost(config: &Config, simulation: &Simulation) -> BTreeMap<String, f64> {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let gigabyte_months = simulation.days.iter().map(|d| d.bytes as f64 / 1e9 / MONTH).sum::<f64>();
    let replicas = config.repository.replicas.iter().filter(|r| r.choice == ReplicaChoice::All).map(|r| &r.repository);
    let mut cost = BTreeMap::new();
    for place in std::iter::once(&config.repository).chain(replicas) {
        let class = place.store.storage_class.clone().unwrap_or_else(|| STANDARD.to_owned());
        if let Some(price) = config.prices.get(&class) {
            *cost.entry(class).or_default() += price * gigabyte_months;
        }
    }
    cost
}

fn text(report: &Report) -> String {
    let simulation = &report.simulation;
    let mut rows = Vec::new();
    for (i, day) in simulation.days.iter().enumerate() {
        // The first day, the last, and the last one of each month.
        let month_ends = simulation.days.get(i + 1).is_none_or(|next| next.date.month() != day.date.month());
        if i == 0 || month_ends {
            let mut row = vec![day.date.to_string(), day.backups.to_string()];
            row.extend(Tier::ALL.iter().map(|t| day.tiers.get(t).copied().unwrap_or(0).to_string()));
            row.push(human_bytes(day.bytes));
            rows.push(row);
        }
    }
    let mut text = table(&["DAY", "BACKUPS", "DAILY", "WEEKLY", "MONTHLY", "YEARLY", "SIZE"], &[1, 2, 3, 4, 5, 6], rows);
    for pace in &simulation.paces {
        text.push_str(&format!(
            "\n{}: a backup every {}, {} new each, {} once a month, growing by {} a day",
            pace.source,
            dozo_model::human_duration(std::time::Duration::from_secs(pace.every_seconds)),
            human_bytes(pace.new_bytes),
            human_bytes(pace.full_bytes),
            human_bytes(pace.growth_bytes),
        ));
    }
    for (class, cost) in &report.cost {
        text.push_str(&format!("\n{class}: {cost:.2} over {} days", simulation.days.len()));
    }
    match simulation.broken.as_slice() {
        [] => text.push_str("\nevery promise is kept"),
        broken => broken.iter().for_each(|b| text.push_str(&format!("\n{}", sentence(b)))),
    }
    text
}

fn sentence(broken: &Broken) -> String {
    let about = broken.source.as_ref().map(|s| format!("{s}: ")).unwrap_or_default();
    format!("broken from {} on: {about}{}", broken.date, broken.promise)
}

type Drawn<T> = Result<T, Box<dyn std::error::Error>>;

/// Draws what stands each day above, and its size below.
fn picture(simulation: &Simulation) -> Drawn<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (960, 640)).into_drawing_area();
        root.fill(&WHITE)?;
        let (above, below) = root.split_vertically(360);
        counts(&above, simulation)?;
        sizes(&below, simulation)?;
        root.present()?;
    }
    Ok(svg)
}

fn last(simulation: &Simulation) -> usize {
    simulation.days.len().saturating_sub(1).max(1)
}

fn label(simulation: &Simulation, day: usize) -> String {
    simulation.days.get(day).map(|d| d.date.to_string()).unwrap_or_default()
}

fn counts(area: &DrawingArea<SVGBackend<'_>, Shift>, simulation: &Simulation) -> Drawn<()> {
    let most = simulation.days.iter().map(|d| d.longest.values().sum::<usize>()).max().unwrap_or(1).max(1);
    let mut chart = ChartBuilder::on(area)
        .caption("Backups by the longest tier that keeps them", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(64)
        .build_cartesian_2d(0..last(simulation), 0..most + most / 10 + 1)?;
    chart.configure_mesh().x_labels(8).x_label_formatter(&|day| label(simulation, *day)).light_line_style(TRANSPARENT).draw()?;
    // Each area lies upon the one before.
    let colours = [(Tier::Yearly, YEARLY), (Tier::Monthly, MONTHLY), (Tier::Weekly, WEEKLY), (Tier::Daily, DAILY)];
    for (i, (tier, colour)) in colours.into_iter().enumerate() {
        let stacked = |day: &Day| colours[i..].iter().map(|(t, _)| day.longest.get(t).copied().unwrap_or(0)).sum::<usize>();
        if simulation.days.iter().all(|d| !d.longest.contains_key(&tier)) {
            continue;
        }
        let points = simulation.days.iter().enumerate().map(|(n, day)| (n, stacked(day)));
        chart
            .draw_series(AreaSeries::new(points, 0, colour.mix(0.75)))?
            .label(tier.as_str())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
    }
    for broken in &simulation.broken {
        let Some(day) = simulation.days.iter().position(|d| d.date == broken.date) else { continue };
        chart.draw_series(LineSeries::new([(day, 0), (day, most)], RED.stroke_width(2)))?;
    }
    chart.configure_series_labels().border_style(BLACK.mix(0.3)).background_style(WHITE.mix(0.8)).draw()?;
    Ok(())
}

fn sizes(area: &DrawingArea<SVGBackend<'_>, Shift>, simulation: &Simulation) -> Drawn<()> {
    let most = simulation.days.iter().map(|d| d.bytes).max().unwrap_or(1).max(1);
    let mut chart = ChartBuilder::on(area)
        .caption("Size of the repository", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(64)
        .build_cartesian_2d(0..last(simulation), 0..most + most / 10)?;
    chart
        .configure_mesh()
        .x_labels(8)
        .x_label_formatter(&|day| label(simulation, *day))
        .y_labels(6)
        .y_label_formatter(&|bytes| human_bytes(*bytes))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let points = simulation.days.iter().enumerate().map(|(n, day)| (n, day.bytes));
    chart.draw_series(AreaSeries::new(points, 0, SIZE.mix(0.25)).border_style(SIZE.stroke_width(2)))?;
    Ok(())
}

/// A page that needs no network.
fn page(report: &Report, svg: &str) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>dozo retention simulate</title>\n\
         <style>body{{font-family:sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}svg{{width:100%;height:auto}}pre{{overflow-x:auto}}</style></head>\n\
         <body><h1>Retention, played forward</h1>\n{svg}\n<pre>{}</pre></body></html>\n",
        escape(&text(report))
    )
}
