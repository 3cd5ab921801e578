//! File set errors, by what the caller can do.

use std::io;
use std::path::{Path, PathBuf};

use dozo_model::{ErrorClass, Explain};

/// Why files could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The system refused something.
    #[error("{}", path.display())]
    File {
        /// File or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A pattern is not one of `.gitignore`'s.
    #[error("pattern `{pattern}` is not valid: {reason}")]
    Pattern {
        /// Pattern.
        pattern: String,
        /// Why.
        reason: String,
    },
    /// A tar object cannot be written on.
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
    /// A tar object or a list is not what dozo writes.
    #[error("{0}")]
    Damaged(String),
    /// Something stands where a folder has to be, or a folder where something else has to be.
    #[error("{}: a link, a file or a folder stands in the way", path.display())]
    InTheWay {
        /// Where.
        path: PathBuf,
    },
    /// Another run writes into the folder.
    #[error("{}: another run writes into this folder", path.display())]
    Busy {
        /// Folder.
        path: PathBuf,
    },
    /// The run was interrupted.
    #[error("interrupted")]
    Cancelled,
}

impl FilesError {
    /// Says which path the system refused.
    pub fn file(path: &Path) -> impl Fn(io::Error) -> Self + Copy + use<'_> {
        move |source| Self::File { path: path.to_owned(), source }
    }

    /// As [`FilesError::file`], for calls of the system.
    pub(crate) fn system(path: &Path) -> impl Fn(rustix::io::Errno) -> Self + Copy + use<'_> {
        move |e| Self::File { path: path.to_owned(), source: e.into() }
    }
}

impl Explain for FilesError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::File { .. } | Self::Write(_) | Self::InTheWay { .. } => ErrorClass::Failed,
            Self::Busy { .. } => ErrorClass::Conflict,
            Self::Pattern { .. } => ErrorClass::Input,
            Self::Damaged(_) => ErrorClass::Integrity,
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "DOZO-E8001",
            Self::Pattern { .. } => "DOZO-E8002",
            Self::Write(_) => "DOZO-E8003",
            Self::Damaged(_) => "DOZO-E8004",
            Self::Cancelled => "DOZO-E8005",
            Self::InTheWay { .. } => "DOZO-E8006",
            Self::Busy { .. } => "DOZO-E8007",
        }
    }

    fn next(&self) -> Option<String> {
        Some(match self {
            Self::File { .. } | Self::Write(_) => "check the path, its permissions and its disk".into(),
            Self::Pattern { .. } => "patterns are those of .gitignore: *.csv, /logs/, **/build, !keep.me".into(),
            Self::Damaged(_) => "dozo verify, then restore from another backup".into(),
            Self::InTheWay { .. } => "move it away, or restore into a new folder".into(),
            Self::Busy { .. } => "wait for it to end".into(),
            Self::Cancelled => return None,
        })
    }
}
