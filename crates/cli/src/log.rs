//! What a run says: kept for whoever is told of it, and with `--log-file` appended to a file, one line for each thing that happens. Time, host,
//! user, pid, level, what; never a secret.
//!
//! Every message that people see goes here too, with or without `--quiet`. *Crash behaviour*: each line is one write in append
//! mode, so that two runs do not mix within a line; a log that cannot be written stops no backup.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use dozo_model::Timestamp;

static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    file: File,
    who: String,
}

/// Opens the file for the rest of the process.
pub(crate) fn open(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let operator = crate::operator::this_operator();
    let who = format!("{} {} pid {}", operator.host, operator.user, std::process::id());
    // A second call keeps the first file.
    let _ = LOG.set(Log { file, who });
    line(Level::Begin, &operator.arguments.join(" "));
    Ok(())
}

/// Lines that are kept of a run, and as many errors more.
const KEPT: usize = 200;

static SAID: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

/// What kind of line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Begin,
    Result,
    Message,
    Warning,
    End,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Result => "result",
            Self::Message => "message",
            Self::Warning => "warning",
            Self::End => "end",
        }
    }
}

/// Keeps a line, and appends it to the log if there is one.
pub(crate) fn line(level: Level, text: &str) {
    if let Ok(mut said) = SAID.lock()
        && (said.len() < KEPT || (text.starts_with("error") && said.len() < 2 * KEPT))
    {
        said.push((level, text.to_owned()));
    }
    let Some(log) = LOG.get() else { return };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let text = text.replace('\n', "\\n");
    let _ = (&log.file).write_all(format!("{now} {} {}: {text}\n", log.who, level.as_str()).as_bytes());
}

/// Returns what was said so far, the first lines of it.
pub(crate) fn said() -> Vec<(Level, String)> {
    SAID.lock().map(|said| said.clone()).unwrap_or_default()
}
