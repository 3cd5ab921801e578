//! Results on stdout (text or JSON), messages on stderr.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::error::{CliError, Usage};
use crate::log::{self, Level};

/// Where results and messages go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    pub(crate) fn quiet(self) -> bool {
        self.quiet
    }

    /// Prints a result: JSON if asked for, else the text; with `--quiet` no text.
    pub(crate) fn result(self, value: &impl Serialize, text: impl Fn() -> String) -> Result<(), CliError> {
        let text = text();
        log::line(Level::Result, &text);
        if self.json {
            let json = serde_json::to_string_pretty(value).map_err(|e| CliError::Output(e.into()))?;
            return Self::print(&json);
        }
        if self.quiet { Ok(()) } else { Self::print(&text) }
    }

    /// Prints to stdout whatever the options say.
    pub(crate) fn print(text: &str) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        match write!(out, "{text}{newline}").and_then(|()| out.flush()) {
            // Whoever read this has seen enough; the exit code still tells the outcome.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            done => done.map_err(CliError::Output),
        }
    }

    /// Prints an error; as JSON on stdout too, if asked for.
    pub(crate) fn error(self, error: &CliError) {
        if self.json {
            // There is nowhere left to report this to.
            let _ = Self::print(&error.json().to_string());
        }
        self.message(&error.text());
    }

    /// Prints a message to stderr.
    pub(crate) fn message(self, text: &str) {
        log::line(Level::Message, text);
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

/// Lays out rows in columns; numbers (columns named in `right`) to the right.
pub(crate) fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&i) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Replaces a file as a whole: whoever reads it sees the old text or the new one.
pub(crate) fn replace_file(file: &Path, text: &str) -> Result<(), CliError> {
    let beside = file.with_extension(format!("{}.tmp", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut out = std::fs::File::create(&beside)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&beside, file)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        let text = format!("{} cannot be written: {e}", file.display());
        CliError::Usage(Usage::OutputFile, text, "check the path and its permissions".into())
    })
}
