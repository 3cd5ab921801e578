//! The same message is not sent again and again: when each was last sent stands in a small file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dozo_model::{Severity, Sha256Digest, Timestamp};

use crate::Receiver;
use crate::channel::Channel;
use crate::message::Message;

/// Times older than this are forgotten.
const FORGOTTEN: jiff::SignedDuration = jiff::SignedDuration::from_hours(31 * 24);

/// Returns the folder where this user's runs keep what they remember, from `$DOZO_STATE`, `$XDG_STATE_HOME`, the home folder, or
/// `/var/lib/dozo`.
#[must_use]
pub fn state_folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || set("HOME").map(|home| home.join(".local/state/dozo"));
    let own = set("DOZO_STATE").or_else(|| set("XDG_STATE_HOME").map(|s| s.join("dozo"))).or_else(home);
    own.unwrap_or_else(|| "/var/lib/dozo".into())
}

/// When each message was last sent to each receiver.
pub(crate) struct Sent {
    file: Option<PathBuf>,
    times: BTreeMap<String, Timestamp>,
}

impl Sent {
    pub(crate) fn load(folder: Option<PathBuf>) -> Self {
        let file = folder.map(|f| f.join("notified.json"));
        // What cannot be read is sent once more.
        let text = file.as_ref().and_then(|f| std::fs::read(f).ok());
        let times = text.and_then(|t| serde_json::from_slice(&t).ok()).unwrap_or_default();
        Self { file, times }
    }

    /// Tells whether the message may be sent now.
    pub(crate) fn may(&self, receiver: &Receiver, message: &Message, now: Timestamp) -> bool {
        // A heartbeat that is not sent is an alarm.
        if matches!(receiver.channel, Channel::Heartbeat { .. }) || message.severity == Severity::Info {
            return true;
        }
        let last = self.times.get(&key(receiver, message));
        last.is_none_or(|last| {
            let since = now.duration_since(*last);
            since.is_negative() || since.unsigned_abs() >= receiver.repeat_after
        })
    }

    pub(crate) fn note(&mut self, receiver: &Receiver, message: &Message, now: Timestamp) {
        self.times.insert(key(receiver, message), now);
    }

    /// Writes it down. What cannot be written is sent once more.
    pub(crate) fn save(mut self, now: Timestamp) {
        let Some(file) = self.file else { return };
        self.times.retain(|_, at| now.duration_since(*at) < FORGOTTEN);
        let write = || -> std::io::Result<()> {
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let beside = file.with_extension(format!("{}.tmp", std::process::id()));
            std::fs::write(&beside, serde_json::to_vec_pretty(&self.times)?)?;
            std::fs::rename(&beside, &file)
        };
        let _ = write();
    }
}

/// Names a message by its command and its error code; without a code by its words but numbers: ids, ages and times differ each time.
fn key(receiver: &Receiver, message: &Message) -> String {
    let code = message.summary.split(['[', ']']).find(|part| part.starts_with("DOZO-"));
    let words = || message.summary.chars().filter(|c| !c.is_ascii_digit()).collect();
    let what = code.map_or_else(words, str::to_owned);
    let said = format!("{}\n{}\n{what}", message.severity.as_str(), message.command.join("\n"));
    let digest = Sha256Digest::of(said.as_bytes()).to_string();
    format!("{}/{}/{}", receiver.name, message.job, &digest[..16])
}
