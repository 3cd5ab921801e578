//! The ways to reach somebody.

use std::path::PathBuf;

use dozo_model::Severity;
use serde_json::json;

use crate::message::Message;
use crate::secret::Secret;
use crate::{NotifyError, Result, command, http, mail};

/// Mail by SMTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Host of the server.
    pub host: String,
    /// Port; none = 465 with TLS from the start, 587 with STARTTLS, 25 without.
    pub port: Option<u16>,
    /// How it is encrypted.
    pub tls: MailTls,
    /// User.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Sender.
    pub from: String,
    /// Receivers.
    pub to: Vec<String>,
    /// Authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// How mail is encrypted on its way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailTls {
    /// From the start (`smtps://`).
    Implicit,
    /// After STARTTLS, or not at all (`smtp://`): without it nothing is sent.
    StartTls,
    /// Not at all: a server on this host.
    Plain,
}

/// How a receiver is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channel {
    /// `{"text": …}` to a webhook that Slack and its like understand.
    Slack {
        /// URL.
        url: Secret,
        /// Authorities to trust beside the system's.
        ca_file: Option<PathBuf>,
    },
    /// The message as JSON, signed.
    Signed {
        /// URL.
        url: Secret,
        /// Key of the HMAC.
        key: Secret,
        /// Authorities to trust beside the system's.
        ca_file: Option<PathBuf>,
    },
    /// Mail.
    Mail(Box<Mail>),
    /// A command that gets the message as JSON on its standard input.
    Command(Vec<String>),
    /// A URL that is fetched when a job went well, and another one when it did not.
    Heartbeat {
        /// URL for success.
        url: Secret,
        /// URL for failure.
        failed: Option<Secret>,
        /// Authorities to trust beside the system's.
        ca_file: Option<PathBuf>,
    },
}

impl Channel {
    /// Sends a message once.
    pub(crate) async fn send(&self, message: &Message) -> Result<()> {
        match self {
            Self::Slack { url, ca_file } => {
                let text = format!("*{}*\n```\n{}\n```", escape(&message.subject()), escape(&message.text()));
                let body = json!({ "text": text }).to_string();
                http::post(&url.resolve()?, body, &[], ca_file.as_deref()).await
            }
            Self::Signed { url, key, ca_file } => {
                let body = serde_json::to_string(message).map_err(|e| NotifyError::Setup(e.to_string()))?;
                let (time, signature) = http::signature(&key.resolve()?, message.at, &body);
                let headers = [("x-dozo-timestamp", time), ("x-dozo-signature", signature)];
                http::post(&url.resolve()?, body, &headers, ca_file.as_deref()).await
            }
            Self::Mail(mail) => mail::send(mail, message).await,
            Self::Command(argv) => command::run(argv, message).await,
            Self::Heartbeat { url, failed, ca_file } => {
                let url = if message.severity == Severity::Critical { failed.as_ref() } else { Some(url) };
                match url {
                    Some(url) => http::get(&url.resolve()?, ca_file.as_deref()).await,
                    // It is missed: that is what it is for.
                    None => Ok(()),
                }
            }
        }
    }
}

/// What Slack would take for markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
