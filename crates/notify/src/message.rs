//! What is told: for people as text, for programs as JSON.

use dozo_model::{Severity, Timestamp};
use serde::{Serialize, Serializer};

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Message {
    /// Version of this object.
    pub format: u32,
    /// How bad it is.
    pub severity: Severity,
    /// Job: `backup`, `verify`, `retention`, …
    pub job: String,
    /// Its exit code.
    pub exit: u8,
    /// What happened, in a line.
    pub summary: String,
    /// Everything that it said.
    pub details: Vec<String>,
    /// Host.
    pub host: String,
    /// OS user.
    pub user: String,
    /// Its arguments, secrets masked.
    pub command: Vec<String>,
    /// When it ended.
    pub at: Timestamp,
    /// Whom to call, and how, in the order of the configuration.
    #[serde(serialize_with = "as_map")]
    pub contacts: Vec<(String, String)>,
}

fn as_map<S: Serializer>(pairs: &[(String, String)], s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(pairs.iter().map(|(k, v)| (k, v)))
}

impl Message {
    /// Returns the subject of a mail.
    #[must_use]
    pub fn subject(&self) -> String {
        let short: String = self.summary.chars().take(120).collect();
        format!("[dozo {}] {} on {}: {short}", self.severity.as_str(), self.job, self.host)
    }

    /// Returns the text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![self.summary.clone()];
        let more: Vec<&String> = self.details.iter().filter(|d| **d != self.summary).collect();
        if !more.is_empty() {
            lines.push(String::new());
            lines.extend(more.into_iter().cloned());
        }
        lines.push(String::new());
        lines.push(format!("job      {} (exit {})", self.job, self.exit));
        lines.push(format!("host     {} as {}", self.host, self.user));
        lines.push(format!("time     {}", self.at.strftime("%Y-%m-%d %H:%M:%SZ")));
        lines.push(format!("command  {}", self.command.join(" ")));
        // Whoever reads a critical message at four in the morning must not look for the number.
        if self.severity == Severity::Critical {
            lines.extend(self.contacts.iter().map(|(who, how)| format!("contact  {who}: {how}")));
        }
        lines.join("\n")
    }
}
