//! `dozo sql`: a query over a backup, as a table, CSV, JSON or Parquet.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex};

use dozo_engine::{BackupSelector, SqlForm, SqlOptions, SqlRows, archive_manifest, sql};
use dozo_model::{human_bytes, human_count};

use super::{Outcome, Session};
use crate::args::{AnswerFormat, Sql};
use crate::config::default_workers;
use crate::error::{CliError, Usage};
use crate::output::table;

/// A table for people ends after so many rows.
const TABLE_ROWS: usize = 10_000;

pub(super) async fn run(session: &Session, args: Sql) -> Outcome {
    let config = session.config()?;
    let format = args.format.unwrap_or(if session.global.json { AnswerFormat::Json } else { AnswerFormat::Table });
    let form = match (format, &args.output) {
        (AnswerFormat::Parquet, Some(path)) => SqlForm::Parquet(std::path::absolute(path).map_err(CliError::Output)?),
        (AnswerFormat::Parquet, None) => {
            let text = "--format parquet needs --output FILE".to_owned();
            return Err(CliError::Usage(Usage::Options, text, "name a new file".into()));
        }
        (AnswerFormat::Json, _) => SqlForm::Json,
        (AnswerFormat::Table | AnswerFormat::Csv, _) => SqlForm::Text,
    };
    if let Some(path) = args.output.as_ref().filter(|p| p.exists()) {
        let text = format!("{} exists", path.display());
        return Err(CliError::Usage(Usage::OutputFile, text, "name a new file".into()));
    }
    let repository = config.repository.open().await?;
    let manifest = match args.backup.strip_prefix("archive:") {
        Some(name) => {
            let job = config.archive(name).ok_or_else(|| super::archive::unknown_archive(&config, name))?;
            archive_manifest(&repository, job).await?
        }
        None => repository.resolve(&args.backup.parse::<BackupSelector>()?).await?,
    };
    let options = SqlOptions {
        form,
        threads: args.jobs.unwrap_or_else(default_workers).max(1),
        memory: args.memory.0,
        cache_max: args.cache_max.0,
    };
    let out: Box<dyn Write + Send> = match (&args.output, format) {
        (Some(path), AnswerFormat::Table | AnswerFormat::Csv | AnswerFormat::Json) => {
            Box::new(BufWriter::new(File::create_new(path).map_err(CliError::Output)?))
        }
        _ => Box::new(BufWriter::new(io::stdout())),
    };
    let answer = Arc::new(Mutex::new(Answer { out, format, begun: false, shown: Vec::new(), columns: Vec::new(), more: false }));
    let taker = Arc::clone(&answer);
    let each = move |rows: SqlRows<'_>| taker.lock().map_err(|_| io::Error::other("a thread panicked"))?.take(rows);
    let report = match sql(&session.ctx, &repository, &manifest, &args.query, &options, each).await {
        // Whoever read this has seen enough.
        Err(dozo_engine::EngineError::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
        other => other?,
    };
    if let Ok(mut answer) = answer.lock() {
        answer.end().map_err(CliError::Output)?;
    }
    for name in &report.escaped {
        session
            .output
            .message(&format!("note: values of {name} that its columns cannot hold are NULL, and stand in _dozo_exact"));
    }
    if !session.output.quiet() {
        session.output.message(&format!(
            "{} rows, {} objects of {} read, {:.1} s",
            human_count(report.rows),
            report.objects,
            human_bytes(report.bytes),
            report.seconds
        ));
    }
    Ok(0)
}

/// An answer on its way out.
struct Answer {
    out: Box<dyn Write + Send>,
    format: AnswerFormat,
    begun: bool,
    columns: Vec<String>,
    /// Rows of a table, which is drawn at the end.
    shown: Vec<Vec<String>>,
    more: bool,
}

impl Answer {
    fn take(&mut self, batch: SqlRows<'_>) -> io::Result<()> {
        let first = !std::mem::replace(&mut self.begun, true);
        match self.format {
            AnswerFormat::Csv => {
                if first {
                    self.line(batch.columns.iter().map(|c| Some(c.as_str())))?;
                }
                for row in &batch.rows {
                    self.line(row.iter().map(Option::as_deref))?;
                }
            }
            AnswerFormat::Json => {
                for (i, row) in batch.rows.iter().enumerate() {
                    let before = if first && i == 0 { "[" } else { "," };
                    write!(self.out, "{before}\n{}", row[0].as_deref().unwrap_or("null"))?;
                }
                if first && batch.rows.is_empty() {
                    write!(self.out, "[")?;
                }
            }
            AnswerFormat::Table | AnswerFormat::Parquet => {
                self.columns = batch.columns.to_vec();
                let left = TABLE_ROWS - self.shown.len();
                self.more |= batch.rows.len() > left;
                let texts = |row: Vec<Option<String>>| row.into_iter().map(|v| v.unwrap_or_else(|| "NULL".into())).collect();
                self.shown.extend(batch.rows.into_iter().take(left).map(texts));
            }
        }
        Ok(())
    }

    /// Writes a line of CSV (RFC 4180); NULL is nothing, an empty text is two quotes.
    fn line<'v>(&mut self, values: impl Iterator<Item = Option<&'v str>>) -> io::Result<()> {
        for (i, value) in values.enumerate() {
            if i > 0 {
                self.out.write_all(b",")?;
            }
            match value {
                None => {}
                Some(text) if text.is_empty() || text.contains([',', '"', '\n', '\r']) => {
                    write!(self.out, "\"{}\"", text.replace('"', "\"\""))?;
                }
                Some(text) => self.out.write_all(text.as_bytes())?,
            }
        }
        self.out.write_all(b"\n")
    }

    fn end(&mut self) -> io::Result<()> {
        match self.format {
            AnswerFormat::Json => writeln!(self.out, "\n]")?,
            AnswerFormat::Table => {
                let names: Vec<&str> = self.columns.iter().map(String::as_str).collect();
                writeln!(self.out, "{}", table(&names, &[], std::mem::take(&mut self.shown)))?;
                if self.more {
                    writeln!(self.out, "only the first {TABLE_ROWS} rows are shown: --format csv has them all")?;
                }
            }
            AnswerFormat::Csv | AnswerFormat::Parquet => {}
        }
        self.out.flush()
    }
}
