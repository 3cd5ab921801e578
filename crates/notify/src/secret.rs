//! Where a URL or password comes from: a variable or a file, so that it stands in no configuration.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{NotifyError, Result};

/// A text that is looked up when it is needed.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// `env:NAME`
    Variable(String),
    /// `file:PATH`
    File(PathBuf),
    /// The text itself.
    Plain(String),
}

impl Secret {
    /// Reads a reference; relative paths count from `base`.
    #[must_use]
    pub fn parse(text: &str, base: &Path) -> Self {
        match text.split_once(':') {
            Some(("env", name)) => Self::Variable(name.to_owned()),
            Some(("file", path)) => Self::File(base.join(path)),
            _ => Self::Plain(text.to_owned()),
        }
    }

    /// Tells whether the text stands in the configuration itself.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    pub(crate) fn resolve(&self) -> Result<String> {
        let setup = |text: String| Err(NotifyError::Setup(text));
        let found = match self {
            Self::Plain(text) => text.clone(),
            Self::Variable(name) => match std::env::var(name) {
                Ok(value) => value,
                Err(_) => return setup(format!("the variable {name} is not set")),
            },
            Self::File(path) => {
                let read = std::fs::metadata(path).and_then(|m| Ok((m.permissions().mode(), std::fs::read_to_string(path)?)));
                match read {
                    Ok((mode, _)) if mode & 0o077 != 0 => {
                        return setup(format!("{} can be read by others: chmod 600", path.display()));
                    }
                    Ok((_, text)) => text,
                    Err(e) => return setup(format!("{} cannot be read: {e}", path.display())),
                }
            }
        };
        let found = found.trim();
        if found.is_empty() { setup(format!("{self:?} is empty")) } else { Ok(found.to_owned()) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Plain(_) => f.write_str("(text)"),
        }
    }
}
