//! Progress: bars on a terminal, plain lines elsewhere, nothing with `--quiet`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use dozo_model::{Progress, Stage, human_count, human_duration};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::log::{self, Level};

/// Shows bars: one for the whole, one for each table at work.
pub(crate) struct Bars {
    all: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    total: Option<ProgressBar>,
    tables: BTreeMap<String, ProgressBar>,
    rows: u64,
    bytes: u64,
}

/// Tables shown at the same time.
const SHOWN: usize = 6;

impl Bars {
    fn new() -> Self {
        Self { all: MultiProgress::new(), state: Mutex::default() }
    }
}

impl Progress for Bars {
    fn stage(&self, stage: Stage, rows: u64, bytes: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.tables.values().for_each(ProgressBar::finish_and_clear);
        *state = State { total: state.total.take(), ..State::default() };
        if let Some(old) = state.total.take() {
            old.finish_and_clear();
        }
        let bar = self.all.add(ProgressBar::new(rows.max(1)));
        let template = match (rows, bytes) {
            (0, _) => "{spinner} {prefix} {elapsed}",
            _ => "{prefix} {wide_bar} {human_pos}/{human_len} rows  {msg}  {eta} left",
        };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(stage.label());
        bar.enable_steady_tick(Duration::from_millis(200));
        state.total = Some(bar);
    }

    fn advance(&self, dataset: &str, rows: u64, bytes: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.rows += rows;
        state.bytes += bytes;
        if let Some(total) = &state.total {
            // The estimate may be too low: the bar never shows more than the whole.
            if state.rows > total.length().unwrap_or(0) {
                total.set_length(state.rows);
            }
            total.set_position(state.rows);
            let seconds = total.elapsed().as_secs_f64();
            if seconds > 0.1 && state.bytes > 0 {
                #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
                let rate = state.bytes as f64 / seconds / 1e6;
                total.set_message(format!("{rate:.1} MB/s"));
            }
        }
        if !state.tables.contains_key(dataset) && state.tables.len() < SHOWN {
            let bar = self.all.add(ProgressBar::new_spinner());
            bar.set_style(
                ProgressStyle::with_template("  {human_pos:>14} rows  {per_sec:>16}  {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.set_message(dataset.to_owned());
            state.tables.insert(dataset.to_owned(), bar);
        }
        if let Some(bar) = state.tables.get(dataset) {
            bar.inc(rows);
        }
    }

    fn done(&self, dataset: &str, _: u64, _: f64) {
        let Ok(mut state) = self.state.lock() else { return };
        if let Some(bar) = state.tables.remove(dataset) {
            bar.finish_and_clear();
        }
    }

    fn warn(&self, message: &str) {
        log::line(Level::Warning, message);
        // A terminal that is gone needs no warning.
        let _ = self.all.println(format!("warning: {}", message.replace('\n', " ")));
    }
}

/// Writes lines.
pub(crate) struct Lines {
    quiet: bool,
}

impl Lines {
    fn line(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

impl Progress for Lines {
    fn stage(&self, stage: Stage, rows: u64, _: u64) {
        if !self.quiet {
            let about = if rows > 0 { format!(" (about {} rows)", human_count(rows)) } else { String::new() };
            self.line(&format!("{}{about}", stage.label()));
        }
    }

    fn advance(&self, _: &str, _: u64, _: u64) {}

    fn done(&self, dataset: &str, rows: u64, seconds: f64) {
        if !self.quiet {
            let time =
                if seconds > 0.0 { format!(", {}", human_duration(Duration::from_secs_f64(seconds))) } else { String::new() };
            self.line(&format!("  {dataset}: {} rows{time}", human_count(rows)));
        }
    }

    fn warn(&self, message: &str) {
        log::line(Level::Warning, message);
        // One line each: a table's name may hold line breaks.
        self.line(&format!("warning: {}", message.replace('\n', " ")));
    }
}

/// Chooses by what stderr is.
pub(crate) fn reporter(quiet: bool) -> std::sync::Arc<dyn Progress> {
    if !quiet && std::io::stderr().is_terminal() {
        std::sync::Arc::new(Bars::new())
    } else {
        std::sync::Arc::new(Lines { quiet })
    }
}
