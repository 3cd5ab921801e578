//! The error policy in one file: what is printed, and the exit code.

use std::fmt;

use dozo_engine::EngineError;
use dozo_model::{ErrorClass, Explain};
use serde_json::json;

use crate::config::ConfigError;

/// What about the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    /// The source is not in the configuration.
    UnknownSource,
    /// `init` cannot write its file.
    InitFile,
    /// The configuration has no source.
    NoSource,
    /// Options contradict each other.
    Options,
    /// The log file cannot be opened.
    LogFile,
    /// The replica is not in the configuration.
    UnknownReplica,
    /// A replica is only filled by copies.
    BackupToReplica,
    /// The file of a plan cannot be used.
    PlanFile,
    /// No backup came from that server.
    UnknownServer,
    /// The receiver is not in the configuration.
    UnknownReceiver,
    /// A file cannot be written.
    OutputFile,
    /// Timers cannot be installed, or started.
    Schedule,
    /// The source is no database.
    NoDatabase,
    /// The archive job is not in the configuration.
    UnknownArchive,
    /// The drill is not in the configuration, or there is none.
    UnknownDrill,
}

impl Usage {
    fn code(&self) -> &'static str {
        match self {
            Self::UnknownSource => "DOZO-E1004",
            Self::InitFile => "DOZO-E1005",
            Self::NoSource => "DOZO-E1007",
            Self::Options => "DOZO-E1008",
            Self::LogFile => "DOZO-E1010",
            Self::UnknownReplica => "DOZO-E1011",
            Self::BackupToReplica => "DOZO-E1012",
            Self::PlanFile => "DOZO-E1013",
            Self::UnknownServer => "DOZO-E1014",
            Self::UnknownReceiver => "DOZO-E1015",
            Self::OutputFile => "DOZO-E1016",
            Self::Schedule => "DOZO-E1017",
            Self::NoDatabase => "DOZO-E1018",
            Self::UnknownArchive => "DOZO-E1019",
            Self::UnknownDrill => "DOZO-E1020",
        }
    }
}

/// Why a verb failed.
#[derive(Debug)]
pub(crate) enum CliError {
    /// The engine.
    Engine(EngineError),
    /// The configuration.
    Config(ConfigError),
    /// Something about the arguments: what, text, next step.
    Usage(Usage, String, String),
    /// The result could not be printed.
    Output(std::io::Error),
}

impl<E: Into<EngineError>> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(e) => {
                write!(f, "{e}")?;
                let mut shown = e.to_string();
                let mut source = std::error::Error::source(e);
                while let Some(cause) = source {
                    let text = cause.to_string();
                    // A transparent error repeats the text of its cause.
                    if !shown.contains(&text) {
                        write!(f, "\n  why: {text}")?;
                        shown = text;
                    }
                    source = cause.source();
                }
                Ok(())
            }
            Self::Config(e) => write!(f, "{e}"),
            Self::Usage(_, text, _) => f.write_str(text),
            Self::Output(e) => write!(f, "the result cannot be written: {e}"),
        }
    }
}

impl CliError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Engine(e) => e.class().exit_code(),
            Self::Config(_) | Self::Usage(..) => ErrorClass::Input.exit_code(),
            Self::Output(_) => 1,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Engine(e) => e.code(),
            Self::Config(e) => e.code(),
            Self::Usage(usage, ..) => usage.code(),
            Self::Output(_) => "DOZO-E1009",
        }
    }

    fn next(&self) -> Option<String> {
        match self {
            Self::Engine(e) => e.next(),
            Self::Config(e) => Some(e.next()),
            Self::Usage(_, _, next) => Some(next.clone()),
            Self::Output(_) => None,
        }
    }

    /// Returns the lines for people.
    pub(crate) fn text(&self) -> String {
        let next = self.next().map(|n| format!("\n  next: {}", n.replace('\n', "\n        "))).unwrap_or_default();
        format!("error[{}]: {self}{next}", self.code())
    }

    /// Returns the object for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        json!({ "error": { "code": self.code(), "message": self.to_string(), "next": self.next(), "exit": self.exit_code() } })
    }
}
