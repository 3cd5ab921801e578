//! The configuration file: found, read, and turned into settings; every problem is reported at once.
//!
//! Keys are kebab-case, unknown ones are refused, relative paths count from the file's folder. `docs/config.toml` shows every
//! key and is parsed by a test.

mod read;

pub(crate) use read::default_workers;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dozo_engine::{ArchiveJob, DrillJob, RepositorySettings, SourceSettings};
use dozo_model::{ByteSize, RetentionPolicy, SourceName};
use dozo_notify::Receiver;
use jiff::civil::Time;

/// A configuration, resolved.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// File it came from.
    pub(crate) file: PathBuf,
    /// `[repository]`
    pub(crate) repository: RepositorySettings,
    /// `[source.*]`, in the file's order.
    pub(crate) sources: Vec<SourceSettings>,
    /// `[archive.*]`, in the file's order.
    pub(crate) archives: Vec<ArchiveJob>,
    /// `[drill.*]`, in the file's order.
    pub(crate) drills: Vec<DrillJob>,
    /// Calendar of everything that has none of its own.
    pub(crate) time_zone: String,
    /// `[retention]`
    pub(crate) retention: RetentionPolicy,
    /// What is kept of sources that are not in the file: everything.
    pub(crate) strangers: RetentionPolicy,
    /// `[prices]`: of a GB for a month, by storage class.
    pub(crate) prices: BTreeMap<String, f64>,
    /// `[schedule]`
    pub(crate) schedule: Schedule,
    /// `[notify.*]`, in the file's order.
    pub(crate) receivers: Vec<Receiver>,
    /// `[contacts]`, in the file's order.
    pub(crate) contacts: Vec<(String, String)>,
}

/// When the night's jobs run, and what they may take.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schedule {
    /// Backup of all sources, then verification of the newest.
    pub(crate) backup: Option<Time>,
    /// Retention.
    pub(crate) retention: Option<Time>,
    /// A look at everything, told to whoever is to be told.
    pub(crate) status: Option<Time>,
    /// All drills, on the first of each month.
    pub(crate) drill: Option<Time>,
    /// Calendar of these times.
    pub(crate) time_zone: String,
    /// Jobs of many hosts do not all begin in the same second.
    pub(crate) random_delay: Duration,
    /// A job that takes longer is stopped.
    pub(crate) timeout: Duration,
    /// Niceness.
    pub(crate) nice: i64,
    /// Memory that the kernel lets it take.
    pub(crate) memory_max: ByteSize,
}

/// Something wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Line, from 1.
    pub(crate) line: usize,
    /// Dotted key.
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) reason: String,
}

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) enum ConfigError {
    /// No file in any of the usual places.
    Missing(Vec<PathBuf>),
    /// It cannot be read.
    Unreadable(PathBuf, std::io::Error),
    /// It has problems.
    Invalid(PathBuf, Vec<Problem>),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(tried) => {
                let tried: Vec<String> = tried.iter().map(|p| p.display().to_string()).collect();
                write!(f, "there is no configuration file (looked for {})", tried.join(", "))
            }
            Self::Unreadable(path, e) => write!(f, "{} cannot be read: {e}", path.display()),
            Self::Invalid(path, problems) => {
                let plural = if problems.len() == 1 { "a problem".into() } else { format!("{} problems", problems.len()) };
                write!(f, "{} has {plural}", path.display())?;
                for p in problems {
                    write!(f, "\n  {}:{}: {}: {}", path.display(), p.line, p.key, p.reason)?;
                }
                Ok(())
            }
        }
    }
}

impl ConfigError {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "DOZO-E1001",
            Self::Unreadable(..) => "DOZO-E1002",
            Self::Invalid(..) => "DOZO-E1003",
        }
    }

    pub(crate) fn next(&self) -> String {
        match self {
            Self::Missing(_) => "dozo init --from env:DATABASE_URL".into(),
            Self::Unreadable(..) => "check the path and its permissions".into(),
            Self::Invalid(..) => "docs/config.toml shows every key".into(),
        }
    }
}

impl Config {
    /// Finds and reads the file.
    pub(crate) fn load(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        let path = find(explicit)?;
        let text = std::fs::read_to_string(&path).map_err(|e| ConfigError::Unreadable(path.clone(), e))?;
        Self::parse(&path, &text)
    }

    /// Reads the text of a file.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        // The parent of a bare name is empty, which is no folder to any call of the system.
        let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let base = std::path::absolute(&base).unwrap_or(base);
        read::Reader::read(path, &base, text).map_err(|problems| ConfigError::Invalid(path.to_owned(), problems))
    }

    /// Returns a source.
    pub(crate) fn source(&self, name: &str) -> Option<&SourceSettings> {
        self.sources.iter().find(|s| s.name.as_str() == name)
    }

    /// Returns an archive job.
    pub(crate) fn archive(&self, name: &str) -> Option<&ArchiveJob> {
        self.archives.iter().find(|a| a.name == name)
    }

    /// Returns a drill.
    pub(crate) fn drill(&self, name: &str) -> Option<&DrillJob> {
        self.drills.iter().find(|d| d.name == name)
    }

    /// Returns the names of all drills.
    pub(crate) fn drill_names(&self) -> Vec<String> {
        self.drills.iter().map(|d| d.name.clone()).collect()
    }

    /// Returns the source that made a backup: one of that name, or the server that it is a database of.
    pub(crate) fn owner(&self, name: &SourceName) -> Option<&SourceSettings> {
        SourceSettings::of(&self.sources, name)
    }

    /// Returns what is kept of a source. Of one that is not in the file any more, or has another name there, nothing goes.
    pub(crate) fn policy(&self, name: &SourceName) -> &RetentionPolicy {
        self.owner(name).map_or(&self.strangers, |s| &s.retention)
    }

    /// Returns the names of all sources.
    pub(crate) fn names(&self) -> Vec<SourceName> {
        self.sources.iter().map(|s| s.name.clone()).collect()
    }
}

fn find(explicit: Option<&Path>) -> Result<PathBuf, ConfigError> {
    if let Some(path) = explicit {
        return Ok(path.to_owned());
    }
    if let Some(path) = std::env::var_os("DOZO_CONFIG").filter(|v| !v.is_empty()) {
        return Ok(path.into());
    }
    let mut tried = vec![PathBuf::from("dozo.toml")];
    tried.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/dozo/dozo.toml")));
    tried.push("/etc/dozo/dozo.toml".into());
    tried.iter().find(|p| p.is_file()).cloned().ok_or(ConfigError::Missing(tried))
}

#[cfg(test)]
mod tests;
