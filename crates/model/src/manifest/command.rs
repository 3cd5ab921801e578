//! What a backup of a command's output holds.

use serde::{Deserialize, Serialize};

use super::StoredFile;

/// What a backup of a command's output holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CommandContent {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Program and arguments that looked at what it did, and found it good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub check: Vec<String>,
    /// Name that its output has as a file.
    pub name: String,
    /// What it printed.
    pub stored: StoredFile,
    /// Key of the description of a restore without dozo.
    pub restore_md: String,
}
