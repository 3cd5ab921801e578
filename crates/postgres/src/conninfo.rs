//! Connection texts: `postgres://` URLs and `key=value` strings, from `env:`, `file:` or plain, without ever printing
//! a password.
//!
//! dozo reads the text itself instead of handing it to the driver, because libpq knows modes and files that the driver
//! does not (`verify-ca`, `sslrootcert`, `PGPASSFILE`), and because the same settings go to `pg_dump` as environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::PgError;

/// How TLS is used (libpq, "SSL Support").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server offers it; the certificate is not checked.
    Prefer,
    /// Always; the certificate is not checked.
    Require,
    /// Always; the chain is checked.
    VerifyCa,
    /// Always; the chain and the host name are checked.
    VerifyFull,
}

impl SslMode {
    /// Returns libpq's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// Where a connection text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UrlRef {
    /// `env:NAME`
    Env(String),
    /// `file:PATH`
    File(PathBuf),
    /// The text itself, without a password.
    Plain(String),
}

impl UrlRef {
    /// Reads a reference; relative files count from `base`.
    ///
    /// # Errors
    /// [`PgError::PasswordInUrl`] when a plain text holds a password.
    pub fn parse(text: &str, base: &Path) -> Result<Self, PgError> {
        if let Some(name) = text.strip_prefix("env:") {
            return Ok(Self::Env(name.to_owned()));
        }
        if let Some(path) = text.strip_prefix("file:").filter(|p| !p.starts_with("//")) {
            return Ok(Self::File(base.join(path)));
        }
        let info = ConnInfo::parse(text, "the URL given")?;
        if info.password.is_some() {
            return Err(PgError::PasswordInUrl { origin: info.target() });
        }
        Ok(Self::Plain(text.to_owned()))
    }

    /// Reads the connection text.
    ///
    /// # Errors
    /// [`PgError::Secret`] when the variable or file is missing, [`PgError::Conninfo`] when the text is wrong.
    pub fn resolve(&self) -> Result<ConnInfo, PgError> {
        let origin = self.to_string();
        let secret = |reason: String| PgError::Secret { origin: origin.clone(), reason };
        let text = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| secret("this environment variable is not set".into()))?,
            Self::File(path) => std::fs::read_to_string(path).map_err(|e| secret(e.to_string()))?,
            Self::Plain(text) => text.clone(),
        };
        ConnInfo::parse(text.trim(), &origin)?.with_passfile()
    }
}

impl fmt::Display for UrlRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Plain(text) => f.write_str(text),
        }
    }
}

/// A connection, taken apart. `Debug` and `Display` show no password.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnInfo {
    /// Hosts and ports; a host that starts with `/` is a socket folder.
    pub hosts: Vec<(String, u16)>,
    /// Role.
    pub user: String,
    /// Database.
    pub database: String,
    pub(crate) password: Option<String>,
    /// TLS.
    pub ssl_mode: SslMode,
    /// Certificates to trust: a file, or `system`.
    pub ssl_root_cert: Option<String>,
    /// `any`, `read-write`, `read-only`.
    pub target_session_attrs: String,
    /// Seconds.
    pub connect_timeout: u64,
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target())
    }
}

impl ConnInfo {
    /// Returns user, hosts and database for messages.
    #[must_use]
    pub fn target(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(|(h, p)| format!("{h}:{p}")).collect();
        format!("{}@{}/{}", self.user, hosts.join(","), self.database)
    }

    /// Returns a connection over the socket in a folder, without a password.
    #[must_use]
    pub fn on_socket(folder: &Path, user: &str, database: &str) -> Self {
        Self {
            hosts: vec![(folder.display().to_string(), 5432)],
            user: user.to_owned(),
            database: database.to_owned(),
            password: None,
            ssl_mode: SslMode::Disable,
            ssl_root_cert: None,
            target_session_attrs: "any".into(),
            connect_timeout: 10,
        }
    }

    /// Returns the same connection to another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    /// Reads a URL or a `key=value` string.
    ///
    /// # Errors
    /// [`PgError::Conninfo`], naming what is wrong and never the text.
    pub fn parse(text: &str, origin: &str) -> Result<Self, PgError> {
        let fail = |reason: String| PgError::Conninfo { origin: origin.to_owned(), reason };
        let mut params = match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
            Some(rest) => parse_url(rest),
            None if text.contains("://") => Err("it is no postgres:// URL".to_owned()),
            None => parse_pairs(text),
        }
        .map_err(fail)?;
        let env = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let mut take = |key: &str, variable: &str| params.remove(key).or_else(|| env(variable));
        let user = take("user", "PGUSER").or_else(|| env("USER")).unwrap_or_else(|| "postgres".into());
        let database = take("dbname", "PGDATABASE").unwrap_or_else(|| user.clone());
        let hosts_text = take("host", "PGHOST").or_else(|| take("hostaddr", "PGHOSTADDR")).unwrap_or_else(default_host);
        let ports_text = take("port", "PGPORT").unwrap_or_else(|| "5432".into());
        let ssl_mode = take("sslmode", "PGSSLMODE");
        let ssl_root_cert = take("sslrootcert", "PGSSLROOTCERT");
        let attrs = take("target_session_attrs", "PGTARGETSESSIONATTRS").unwrap_or_else(|| "any".into());
        let timeout = take("connect_timeout", "PGCONNECT_TIMEOUT").unwrap_or_else(|| "10".into());
        let password = params.remove("password");
        for ignored in [
            "application_name",
            "fallback_application_name",
            "keepalives",
            "client_encoding",
            "gssencmode",
            "channel_binding",
            "passfile",
        ] {
            params.remove(ignored);
        }
        if let Some((key, _)) = params.pop_first() {
            return Err(fail(format!("parameter `{key}` is not known")));
        }
        let ssl_mode = match ssl_mode.as_deref() {
            None | Some("prefer" | "allow") if ssl_root_cert.as_deref() == Some("system") => SslMode::VerifyFull,
            None | Some("prefer" | "allow") => SslMode::Prefer,
            Some("disable") => SslMode::Disable,
            // As libpq: with a root certificate, `require` checks the chain.
            Some("require") if ssl_root_cert.is_some() => SslMode::VerifyCa,
            Some("require") => SslMode::Require,
            Some("verify-ca") => SslMode::VerifyCa,
            Some("verify-full") => SslMode::VerifyFull,
            Some(other) => return Err(fail(format!("sslmode `{other}` is not known"))),
        };
        if !["any", "read-write", "read-only"].contains(&attrs.as_str()) {
            return Err(fail(format!("target_session_attrs `{attrs}` is not supported (any, read-write, read-only)")));
        }
        let names: Vec<&str> = hosts_text.split(',').collect();
        let ports: Vec<&str> = ports_text.split(',').collect();
        if ports.len() != 1 && ports.len() != names.len() {
            return Err(fail(format!("{} hosts but {} ports", names.len(), ports.len())));
        }
        let mut hosts = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let port = ports.get(i).or(ports.first()).copied().unwrap_or("5432");
            let port = if port.is_empty() { Ok(5432) } else { u16::from_str(port) };
            hosts.push(((*name).to_owned(), port.map_err(|_| fail("a port is not a number".into()))?));
        }
        let connect_timeout = timeout.parse().map_err(|_| fail("connect_timeout is not a number of seconds".into()))?;
        Ok(Self { hosts, user, database, password, ssl_mode, ssl_root_cert, target_session_attrs: attrs, connect_timeout })
    }

    /// Fills in a missing password from `$PGPASSWORD`, `$PGPASSFILE` or `~/.pgpass` (libpq, "The Password File").
    fn with_passfile(mut self) -> Result<Self, PgError> {
        self.password = self.password.or_else(|| std::env::var("PGPASSWORD").ok().filter(|p| !p.is_empty()));
        if self.password.is_some() {
            return Ok(self);
        }
        let named = std::env::var_os("PGPASSFILE").map(PathBuf::from);
        let explicit = named.is_some();
        let Some(path) = named.or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".pgpass"))) else {
            return Ok(self);
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let (host, port) = self.hosts.first().cloned().unwrap_or_default();
                self.password = passfile_entry(&text, &host, port, &self.database, &self.user);
                Ok(self)
            }
            Err(e) if explicit => {
                Err(PgError::Secret { origin: format!("PGPASSFILE {}", path.display()), reason: e.to_string() })
            }
            Err(_) => Ok(self),
        }
    }
}

fn default_host() -> String {
    ["/var/run/postgresql", "/tmp"]
        .into_iter()
        .find(|folder| Path::new(folder).join(".s.PGSQL.5432").exists())
        .unwrap_or("localhost")
        .to_owned()
}

fn decode(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let hex = text.get(at + 1..at + 3).ok_or("a % without two hex digits")?;
            out.push(u8::from_str_radix(hex, 16).map_err(|_| "a % without two hex digits")?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).map_err(|_| "it is not UTF-8".to_owned())
}

fn parse_url(rest: &str) -> Result<BTreeMap<String, String>, String> {
    let mut params = BTreeMap::new();
    let (main, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = main.split_once('/').unwrap_or((main, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').map_or((login, None), |(u, p)| (u, Some(p)));
    if !user.is_empty() {
        params.insert("user".into(), decode(user)?);
    }
    if let Some(password) = password.filter(|p| !p.is_empty()) {
        params.insert("password".into(), decode(password)?);
    }
    if !database.is_empty() {
        params.insert("dbname".into(), decode(database)?);
    }
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
        let (name, port) = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
            Some((name, port)) => (name, port.strip_prefix(':').unwrap_or("")),
            None => host.rsplit_once(':').unwrap_or((host, "")),
        };
        names.push(decode(name)?);
        ports.push(port.to_owned());
    }
    if names.iter().any(|n| !n.is_empty()) {
        params.insert("host".into(), names.join(","));
    }
    if ports.iter().any(|p| !p.is_empty()) {
        params.insert("port".into(), ports.join(","));
    }
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("a parameter without a value")?;
        params.insert(decode(key)?, decode(value)?);
    }
    Ok(params)
}

fn parse_pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let params: BTreeMap<String, String> = keyword_values(text)?.into_iter().collect();
    if params.is_empty() { Err("it is empty".into()) } else { Ok(params) }
}

/// Reads `keyword = value` pairs in their order, as `conninfo_parse` of libpq does.
pub(crate) fn keyword_values(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') || key.is_empty() {
            return Err("it is neither a postgres:// URL nor key=value pairs".into());
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut value = String::new();
        let quoted = chars.next_if_eq(&'\'').is_some();
        loop {
            match chars.next() {
                None if quoted => return Err("a quoted value without its end".into()),
                None => break,
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) => value.push(c),
            }
        }
        pairs.push((key, value));
    }
}

fn passfile_entry(text: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
    let host = if host.starts_with('/') { "localhost" } else { host };
    let wanted = [host.to_owned(), port.to_string(), database.to_owned(), user.to_owned()];
    text.lines().filter(|l| !l.starts_with('#')).find_map(|line| {
        let mut fields = vec![String::new()];
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => fields.last_mut()?.extend(chars.next()),
                ':' if fields.len() < 5 => fields.push(String::new()),
                c => fields.last_mut()?.push(c),
            }
        }
        let password = fields.get(4)?.clone();
        wanted.iter().zip(&fields).all(|(w, f)| f == "*" || f == w).then_some(password)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ConnInfo {
        ConnInfo::parse(text, "test").unwrap()
    }

    #[test]
    fn urls_and_pairs() {
        let info = parse(
            "postgresql://ja%40ne:s%3Acret@db1:5433,db2/shop?sslmode=verify-ca&sslrootcert=/ca.pem&target_session_attrs=read-write",
        );
        assert_eq!(info.hosts, [("db1".into(), 5433), ("db2".into(), 5432)]);
        assert_eq!((info.user.as_str(), info.database.as_str()), ("ja@ne", "shop"));
        assert_eq!(info.password.as_deref(), Some("s:cret"));
        assert_eq!(info.ssl_mode, SslMode::VerifyCa);
        assert_eq!(info.target_session_attrs, "read-write");
        assert!(!format!("{info:?}").contains("cret"));
        let info = parse("host=/tmp/x port=5555 user='o\\'x' dbname = 'a \\'b'");
        assert_eq!(info.hosts, [("/tmp/x".into(), 5555)]);
        assert_eq!(parse("postgres://%2Ftmp%2Fx:5555/shop").hosts, [("/tmp/x".into(), 5555)]);
        assert_eq!(parse("postgres:///shop?host=/tmp/x&user=a").hosts[0].0, "/tmp/x");
        assert_eq!(parse("postgres://[::1]:5555/shop").hosts, [("::1".into(), 5555)]);
        assert_eq!(parse("postgres://h/shop?sslrootcert=system").ssl_mode, SslMode::VerifyFull);
    }

    #[test]
    fn refusals_do_not_repeat_the_text() {
        for text in [
            "postgres://u:hunter2@h/d?nonsense=1",
            "hunter2",
            "mysql://u:hunter2@h",
            "postgres://u:hunter2@h:x/d",
            "postgres://u:hunter2@h/d?sslmode=maybe",
            "",
        ] {
            let error = ConnInfo::parse(text, "test").unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(matches!(UrlRef::parse("postgres://u:p@h/d", Path::new("/")), Err(PgError::PasswordInUrl { .. })));
        assert_eq!(UrlRef::parse("file:x/url", Path::new("/etc")).unwrap(), UrlRef::File("/etc/x/url".into()));
    }

    #[test]
    fn password_file() {
        let text = "# comment\nother:*:*:*:no\nlocalhost:5432:shop:me:a\\:b\\\\c\n*:*:*:*:last\n";
        assert_eq!(passfile_entry(text, "/tmp", 5432, "shop", "me").as_deref(), Some("a:b\\c"));
        assert_eq!(passfile_entry(text, "db", 1, "x", "y").as_deref(), Some("last"));
    }
}
