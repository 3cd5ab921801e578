//! Telling somebody: what became of a job goes to mail, webhooks, commands and heartbeats.
//!
//! Place in the flow: the binary runs a job, then hands a [`Message`] and the configured [`Receiver`]s to [`deliver`]. *Invariants*: a delivery
//! never fails the job, and never holds it up longer than the receiver's timeout, attempts and pauses included; receivers are served at the
//! same time. No secret is in a message or an error. *Crash behaviour*: nothing is kept but the times of the last messages; without
//! them one is sent twice.

mod channel;
mod command;
mod http;
mod mail;
mod message;
mod repeat;
mod secret;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use dozo_model::{Severity, Timestamp};
use serde::Serialize;

pub use channel::{Channel, Mail, MailTls};
pub use message::Message;
pub use repeat::state_folder;
pub use secret::Secret;

use crate::repeat::Sent;

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// The configuration of the receiver cannot be used: trying again changes nothing.
    #[error("{0}")]
    Setup(String),
    /// The receiver refused the message for good.
    #[error("{0}")]
    Refused(String),
    /// It may arrive when it is sent again.
    #[error("{0}")]
    Unreached(String),
}

/// Returns what was tried, an error and its causes, in a line.
fn chain(tried: &str, error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string);
    let mut said: Vec<String> = std::iter::once(tried.to_owned()).filter(|t| !t.is_empty()).chain(causes).collect();
    said.dedup();
    said.join(": ")
}

type Result<T> = std::result::Result<T, NotifyError>;

/// Pause before the second attempt; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(300);

/// Somebody, or something, that wants to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Name in the configuration.
    pub name: String,
    /// How it is reached.
    pub channel: Channel,
    /// What it wants to hear of; heartbeats hear of every job.
    pub on: Vec<Severity>,
    /// Jobs that it wants to hear of; empty = all.
    pub jobs: Vec<String>,
    /// How long a delivery may take, with all its attempts.
    pub timeout: Duration,
    /// The same message is not sent again within this.
    pub repeat_after: Duration,
}

impl Receiver {
    /// Tells whether it wants to hear of this.
    #[must_use]
    pub fn wants(&self, message: &Message) -> bool {
        let job = self.jobs.is_empty() || self.jobs.contains(&message.job);
        job && (self.on.contains(&message.severity) || matches!(self.channel, Channel::Heartbeat { .. }))
    }
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Delivered {
    /// It arrived, at this attempt.
    Sent {
        /// Attempts.
        attempts: u32,
    },
    /// The same was sent not long ago.
    Repeated,
    /// It did not arrive.
    Failed {
        /// Attempts.
        attempts: u32,
        /// Why.
        reason: String,
    },
}

/// A delivery to one receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// Receiver.
    pub receiver: String,
    /// What became of it.
    #[serde(flatten)]
    pub delivered: Delivered,
}

/// Delivers a message to all of these at the same time. `state` is the folder where the times of the last messages are kept; none = everything is
/// sent.
pub async fn deliver(receivers: &[&Receiver], message: &Message, state: Option<PathBuf>, now: Timestamp) -> Vec<Delivery> {
    let mut sent = Sent::load(state);
    let fresh: Vec<(&Receiver, bool)> = receivers.iter().map(|r| (*r, sent.may(r, message, now))).collect();
    let all = fresh.iter().map(|(receiver, fresh)| async move {
        let delivered = if *fresh { attempts(receiver, message).await } else { Delivered::Repeated };
        Delivery { receiver: receiver.name.clone(), delivered }
    });
    let deliveries = futures::future::join_all(all).await;
    for (delivery, (receiver, _)) in deliveries.iter().zip(&fresh) {
        if matches!(delivery.delivered, Delivered::Sent { .. }) {
            sent.note(receiver, message, now);
        }
    }
    sent.save(now);
    deliveries
}

async fn attempts(receiver: &Receiver, message: &Message) -> Delivered {
    let began = Instant::now();
    let (mut attempts, mut pause) = (0, PAUSE);
    loop {
        attempts += 1;
        let left = receiver.timeout.saturating_sub(began.elapsed());
        let error = match tokio::time::timeout(left, receiver.channel.send(message)).await {
            Ok(Ok(())) => return Delivered::Sent { attempts },
            Ok(Err(NotifyError::Unreached(reason))) => reason,
            Ok(Err(e)) => return Delivered::Failed { attempts, reason: e.to_string() },
            Err(_) => format!("no answer within {}", dozo_model::human_duration(receiver.timeout)),
        };
        if began.elapsed() + pause >= receiver.timeout {
            return Delivered::Failed { attempts, reason: error };
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}
