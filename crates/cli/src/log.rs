//! `--log-file`: one line for each thing that happens, appended. Time, host, user, pid, level, what; never a secret.
//!
//! Every message that people see goes here too, with or without `--quiet`. *Crash behaviour*: each line is one write in append
//! mode, so that two runs do not mix within a line; a log that cannot be written stops no backup.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

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
    line("begin", &operator.arguments.join(" "));
    Ok(())
}

/// Appends a line, if there is a log.
pub(crate) fn line(level: &str, text: &str) {
    let Some(log) = LOG.get() else { return };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let text = text.replace('\n', "\\n");
    let _ = (&log.file).write_all(format!("{now} {} {level}: {text}\n", log.who).as_bytes());
}

/// Tells whether there is a log.
pub(crate) fn wanted() -> bool {
    LOG.get().is_some()
}
