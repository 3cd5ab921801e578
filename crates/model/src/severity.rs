//! How bad something is: by what whoever hears of it has to do.

use std::str::FromStr;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It went well.
    Info,
    /// Somebody should look at it by day.
    Warning,
    /// Somebody must look at it now.
    Critical,
}

impl Severity {
    /// Returns the word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Info, Self::Warning, Self::Critical];
        all.into_iter().find(|s| s.as_str() == text).ok_or_else(|| format!("`{text}` is not critical, warning or info"))
    }
}
