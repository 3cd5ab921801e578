//! One connection with every setting pinned that could change what a value looks like.
//!
//! *Invariant*: whatever the role's or the database's defaults say, two sessions send the same bytes for the same row.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::config::{Host, SslMode as DriverSslMode, TargetSessionAttrs};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Row, SimpleQueryMessage};

use crate::conninfo::{ConnInfo, SslMode};
use crate::error::{PgError, query_error};
use crate::sql::PINNED_FORMS;
use crate::tls;

/// Pinned on every connection, behind [`PINNED_FORMS`]. `set_config` over `pg_settings` skips what a version does not have.
const PINNED_CONDUCT: &str = "
SET synchronize_seqscans = off;
SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'; SET default_transaction_deferrable = off; SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN ('transaction_timeout', 'idle_session_timeout');
";

/// Returns everything that is pinned.
pub(crate) fn pinned() -> String {
    format!("{PINNED_FORMS}{PINNED_CONDUCT}")
}

/// What a session finds out about its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`
    pub version_num: u32,
    /// `server_version`
    pub version: String,
    /// `pg_control_system().system_identifier`, where it may be read.
    pub system_identifier: Option<String>,
    /// `pg_postmaster_start_time()`
    pub postmaster_start: Timestamp,
    /// `pg_is_in_recovery()`
    pub standby: bool,
    /// Database.
    pub database: String,
    /// Its OID.
    pub database_oid: u32,
    /// Role.
    pub user: String,
    /// Encoding of the database.
    pub encoding: String,
    /// `datcollate`
    pub collate: String,
    /// `datctype`
    pub ctype: String,
    /// `libc`, `icu` or `builtin`.
    pub locale_provider: Option<String>,
    /// Locale of the provider, where it is not libc.
    pub locale: Option<String>,
    /// `lc_monetary`
    pub lc_monetary: String,
    /// Decimals of `money`.
    pub money_scale: u8,
    /// Superuser, or a member of `pg_read_all_data`.
    pub superuser: bool,
    /// The server's clock.
    pub now: Timestamp,
}

/// A pinned connection.
#[derive(Debug)]
pub struct Session {
    client: Client,
    info: ConnInfo,
}

impl Session {
    /// Connects and pins.
    ///
    /// # Errors
    /// [`PgError::Unreachable`], [`PgError::Auth`], [`PgError::NoDatabase`], [`PgError::Tls`].
    pub async fn connect(info: &ConnInfo) -> Result<Self, PgError> {
        Self::connect_as(info, "dozo").await
    }

    /// Connects under another `application_name`, by which a DBA tells the sessions apart.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn connect_as(info: &ConnInfo, name: &str) -> Result<Self, PgError> {
        let mut config = Config::new();
        config.user(&info.user).dbname(&info.database).application_name(name);
        config.connect_timeout(Duration::from_secs(info.connect_timeout));
        config.keepalives(true).keepalives_idle(Duration::from_secs(60));
        if let Some(password) = &info.password {
            config.password(password);
        }
        for (host, port) in &info.hosts {
            config.host(host).port(*port);
        }
        config.target_session_attrs(match info.target_session_attrs.as_str() {
            "read-write" => TargetSessionAttrs::ReadWrite,
            "read-only" => TargetSessionAttrs::ReadOnly,
            _ => TargetSessionAttrs::Any,
        });
        config.ssl_mode(match info.ssl_mode {
            SslMode::Disable => DriverSslMode::Disable,
            SslMode::Prefer => DriverSslMode::Prefer,
            _ => DriverSslMode::Require,
        });
        if config.get_hosts().iter().all(|h| matches!(h, Host::Unix(_))) {
            // As libpq: TLS is ignored on a socket in the file system.
            config.ssl_mode(DriverSslMode::Disable);
        }
        let connector = tls::connector(info).map_err(|reason| PgError::Tls { target: info.target(), reason })?;
        let (client, connection) = config.connect(connector).await.map_err(|e| connect_error(info, e))?;
        tokio::spawn(connection);
        let session = Self { client, info: info.clone() };
        session.batch("setting up the session", &pinned()).await?;
        // So that a backend in a long statement notices a killed dozo; servers on other systems than Linux refuse it.
        let _ = session.batch("setting up the session", "SET client_connection_check_interval = '1s'").await;
        Ok(session)
    }

    /// Returns how it was connected.
    #[must_use]
    pub fn info(&self) -> &ConnInfo {
        &self.info
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Runs statements by the simple protocol: no snapshot is taken by preparing them.
    ///
    /// # Errors
    /// What the server says; `what` names the work.
    pub async fn batch(&self, what: &str, sql: &str) -> Result<(), PgError> {
        self.client.batch_execute(sql).await.map_err(|e| query_error(what, e))
    }

    pub(crate) async fn query(&self, what: &str, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, PgError> {
        self.client.query(sql, params).await.map_err(|e| query_error(what, e))
    }

    pub(crate) async fn query_one(&self, what: &str, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, PgError> {
        self.client.query_one(sql, params).await.map_err(|e| query_error(what, e))
    }

    /// Runs one statement and returns how many rows it touched.
    pub(crate) async fn execute(&self, what: &str, sql: &str) -> Result<u64, PgError> {
        self.client.execute(sql, &[]).await.map_err(|e| query_error(what, e))
    }

    /// Asks the server who it is.
    ///
    /// # Errors
    /// When it is older than 14, or does not answer.
    pub async fn facts(&self) -> Result<ServerFacts, PgError> {
        let what = "asking the server who it is";
        let row = self
            .query_one(
                what,
                "SELECT current_setting('server_version_num')::int4, current_setting('server_version'),
                        to_char(pg_postmaster_start_time(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), pg_is_in_recovery(),
                        current_database()::text, current_user::text, pg_encoding_to_char(d.encoding)::text,
                        coalesce(d.datcollate, '')::text, coalesce(d.datctype, '')::text, (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'lc_monetary'),
                        (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
                        to_char(clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
                        CASE to_jsonb(d) ->> 'datlocprovider' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' WHEN 'c' THEN 'libc' END,
                        coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'), d.oid
                 FROM pg_catalog.pg_database d WHERE d.datname = current_database()",
                &[],
            )
            .await?;
        let money_scale = self.money_scale(what).await?;
        let time = |i: usize| -> Result<Timestamp, PgError> {
            let text: String = row.get(i);
            text.parse().map_err(|e: jiff::Error| PgError::Query {
                what: what.into(),
                reason: e.to_string(),
                sqlstate: String::new(),
            })
        };
        let system = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
        let system_identifier = self.client.query_opt(system, &[]).await.ok().flatten().map(|r| r.get(0));
        let facts = ServerFacts {
            version_num: row.get::<_, i32>(0).unsigned_abs(),
            version: row.get(1),
            system_identifier,
            postmaster_start: time(2)?,
            standby: row.get(3),
            database: row.get(4),
            database_oid: row.get(14),
            user: row.get(5),
            encoding: row.get(6),
            collate: row.get(7),
            ctype: row.get(8),
            locale_provider: row.get(12),
            locale: row.get(13),
            lc_monetary: row.get(9),
            money_scale,
            superuser: row.get::<_, Option<bool>>(10).unwrap_or(false),
            now: time(11)?,
        };
        let refuse = |reason: String| PgError::Server { target: self.info.target(), reason };
        if facts.version_num < 140_000 {
            return Err(refuse(format!("version {} is older than 14", facts.version)));
        }
        Ok(facts)
    }

    /// Returns the decimals of `money` as the database has it: sessions of dozo pin another locale.
    async fn money_scale(&self, what: &str) -> Result<u8, PgError> {
        self.batch(what, "SET lc_monetary = DEFAULT").await?;
        let scale: i32 = self.query_one(what, "SELECT coalesce(scale('1'::money::numeric), 2)", &[]).await?.get(0);
        self.batch(what, "SET lc_monetary = 'C'").await?;
        Ok(u8::try_from(scale).unwrap_or(2))
    }

    /// Returns the time zone that the server gives to sessions that set none.
    ///
    /// # Errors
    /// What the server says.
    pub async fn server_time_zone(&self) -> Result<String, PgError> {
        let sql = "SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'TimeZone'";
        Ok(self.query_one("asking for the time zone", sql, &[]).await?.get(0))
    }

    /// Finds out whether a pooler hands each transaction to another backend: then a second connection gets the backend
    /// that the first one just used, or the first one gets another backend while the second holds one.
    ///
    /// # Errors
    /// [`PgError::Pooler`], or what the server says.
    pub async fn refuse_pooler(&self) -> Result<(), PgError> {
        let pooled = || PgError::Pooler { target: self.info.target() };
        let what = "looking for a pooler";
        let first = self.backend_pid(what).await?;
        let other = Self::connect(&self.info).await?;
        other.batch(what, "BEGIN").await?;
        if other.backend_pid(what).await? == first || self.backend_pid(what).await? != first {
            return Err(pooled());
        }
        other.batch(what, "ROLLBACK").await
    }

    /// Returns the backend's pid, by the simple protocol: prepared statements do not survive a pooler.
    async fn backend_pid(&self, what: &str) -> Result<String, PgError> {
        let answer = self.client.simple_query("SELECT pg_backend_pid()").await.map_err(|e| query_error(what, e))?;
        let row = answer.iter().find_map(|m| match m {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(row.unwrap_or_default().to_owned())
    }
}

fn connect_error(info: &ConnInfo, error: tokio_postgres::Error) -> PgError {
    let target = info.target();
    if let Some(db) = error.as_db_error() {
        let reason = db.message().to_owned();
        return match db.code().code() {
            "28000" | "28P01" => PgError::Auth { target, reason },
            "3D000" => PgError::NoDatabase { target, reason },
            _ => PgError::Unreachable { target, source: reason.into() },
        };
    }
    let text = error.to_string();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    if text.contains("TLS") || cause.contains("certificate") || cause.contains("TLS") {
        return PgError::Tls { target, reason: if cause.is_empty() { text } else { cause } };
    }
    if text.contains("password missing") || cause.contains("password missing") {
        return PgError::Auth { target, reason: "it wants a password and none was given".into() };
    }
    PgError::Unreachable { target, source: error.into() }
}
