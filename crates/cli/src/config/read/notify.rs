//! `[notify.NAME]` and `[contacts]`.

use std::path::PathBuf;
use std::time::Duration;

use dozo_model::{Severity, Span};
use dozo_notify::{Channel, Mail, MailTls, Receiver, Secret};
use toml::de::{DeTable, DeValue};

use super::{Reader, Table};
use crate::notify::JOBS;

/// How long a delivery may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same message is not sent again within this.
const REPEAT_AFTER: Duration = Duration::from_secs(3600);
/// The ways to reach somebody; a receiver has one of them.
const WAYS: [&str; 5] = ["webhook", "post", "smtp", "command", "heartbeat"];

impl<'t> Reader<'t> {
    pub(super) fn receivers(&mut self, root: &mut Table<'t>) -> Vec<Receiver> {
        let Some((_, tables)) = self.subtables(root, "notify") else { return Vec::new() };
        tables.into_iter().filter_map(|(name, line, table)| self.receiver(name, line, table)).collect()
    }

    pub(super) fn contacts(&mut self, root: &mut Table<'t>) -> Vec<(String, String)> {
        let Some((line, value)) = self.take(root, "contacts") else { return Vec::new() };
        let DeValue::Table(inner) = value else {
            self.problem(line, "contacts", "it must be a table, like primary = \"oncall@example.com\"".into());
            return Vec::new();
        };
        let mut table = self.table("contacts".into(), inner);
        table.entries.sort_by_key(|(_, line, _)| *line);
        let names: Vec<String> = table.entries.iter().map(|(name, ..)| name.clone()).collect();
        names.into_iter().filter_map(|name| Some((name.clone(), self.text(&mut table, &name)?))).collect()
    }

    fn receiver(&mut self, name: String, line: usize, table: DeTable<'t>) -> Option<Receiver> {
        let mut table = self.table(format!("notify.{name}"), table);
        let path = table.path.clone();
        let on = self.severities(&mut table, line);
        let jobs = self.texts(&mut table, "jobs");
        for unknown in jobs.iter().filter(|j| !JOBS.contains(&j.as_str())) {
            self.problem(line, &format!("{path}.jobs"), format!("`{unknown}` is no job ({})", JOBS.join(", ")));
        }
        let timeout = self.parsed::<Span>(&mut table, "timeout").map_or(TIMEOUT, |s| s.0);
        let repeat_after = self.parsed::<Span>(&mut table, "repeat-after").map_or(REPEAT_AFTER, |s| s.0);
        let ca_file = self.text(&mut table, "ca-file").map(|file| self.base.join(file));
        let ways: Vec<&str> = WAYS.into_iter().filter(|way| table.entries.iter().any(|(k, ..)| k == way)).collect();
        let channel = match ways.as_slice() {
            [way] => self.channel(way, &mut table, line, ca_file),
            several => {
                let reason = format!("it needs one of {}", WAYS.join(", "));
                self.problem(line, &path, reason);
                for way in several {
                    self.take(&mut table, way);
                }
                None
            }
        };
        if jobs.is_empty() && ways == ["heartbeat"] {
            let reason = "it is missing: a heartbeat of every job tells of none".into();
            self.problem(line, &format!("{path}.jobs"), reason);
        }
        self.no_more(&table);
        Some(Receiver { name, channel: channel?, on, jobs, timeout, repeat_after })
    }

    fn severities(&mut self, table: &mut Table<'t>, line: usize) -> Vec<Severity> {
        if !table.entries.iter().any(|(k, ..)| k == "on") {
            return vec![Severity::Critical, Severity::Warning];
        }
        let (key, texts) = (Self::dotted(table, "on"), self.texts(table, "on"));
        let parsed = texts.iter().map(|t| t.parse().map_err(|e| self.problem(line, &key, e)));
        parsed.filter_map(Result::ok).collect()
    }

    /// Reads `env:NAME` or `file:PATH`; the text itself only where it is not a secret.
    fn secret(&mut self, table: &mut Table<'t>, key: &str, may_be_plain: bool) -> Option<Secret> {
        let line = table.entries.iter().find(|(k, ..)| k == key)?.1;
        let secret = Secret::parse(&self.text(table, key)?, &self.base);
        if secret.is_plain() && !may_be_plain {
            self.problem(line, &Self::dotted(table, key), "it is a secret: env:NAME or file:PATH".into());
        }
        Some(secret)
    }

    fn channel(&mut self, way: &str, table: &mut Table<'t>, line: usize, ca_file: Option<PathBuf>) -> Option<Channel> {
        match way {
            "webhook" => Some(Channel::Slack { url: self.secret(table, "webhook", false)?, ca_file }),
            "post" => {
                let (url, key) = (self.secret(table, "post", true), self.secret(table, "key", false));
                if key.is_none() {
                    self.problem(line, &Self::dotted(table, "key"), "it is missing: messages are signed with it".into());
                }
                Some(Channel::Signed { url: url?, key: key?, ca_file })
            }
            "command" => {
                let command = self.texts(table, "command");
                if command.is_empty() {
                    self.problem(line, &Self::dotted(table, "command"), "it is empty".into());
                }
                Some(Channel::Command(command))
            }
            "heartbeat" => {
                let failed = self.secret(table, "heartbeat-failed", true);
                Some(Channel::Heartbeat { url: self.secret(table, "heartbeat", true)?, failed, ca_file })
            }
            _ => self.mail(table, line, ca_file),
        }
    }

    fn mail(&mut self, table: &mut Table<'t>, line: usize, ca_file: Option<PathBuf>) -> Option<Channel> {
        let key = |name: &str| Self::dotted(table, name);
        let (smtp, from_key, to_key, password_key) = (key("smtp"), key("from"), key("to"), key("password"));
        let server = self.text(table, "smtp")?;
        let (user, password) = (self.text(table, "user"), self.secret(table, "password", false));
        let (from, to) = (self.text(table, "from"), self.texts(table, "to"));
        if user.is_some() != password.is_some() {
            self.problem(line, &password_key, "user and password go together".into());
        }
        if from.is_none() {
            self.problem(line, &from_key, "it is missing".into());
        }
        if to.is_empty() {
            self.problem(line, &to_key, "it is missing".into());
        }
        let schemes = [("smtps://", MailTls::Implicit), ("smtp://", MailTls::StartTls), ("smtp-plain://", MailTls::Plain)];
        let found = schemes.into_iter().find_map(|(scheme, tls)| Some((server.strip_prefix(scheme)?, tls)));
        let parts = found.and_then(|(rest, tls)| match rest.rsplit_once(':') {
            Some((host, port)) => Some((host.to_owned(), Some(port.parse().ok()?), tls)),
            None => Some((rest.to_owned(), None, tls)),
        });
        let Some((host, port, tls)) = parts.filter(|(host, ..)| !host.is_empty() && !host.contains(['/', '@'])) else {
            let reason =
                format!("`{server}` is not smtps://HOST[:PORT], smtp://HOST[:PORT] (STARTTLS) or smtp-plain://HOST[:PORT]");
            self.problem(line, &smtp, reason);
            return None;
        };
        Some(Channel::Mail(Box::new(Mail { host, port, tls, user, password, from: from?, to, ca_file })))
    }
}
