//! The coordinator: one transaction that locks every table first, then exports the snapshot that all workers share.
//!
//! *Ordering* (binding): list the tables on another connection, `LOCK TABLE … IN ACCESS SHARE MODE` before any statement
//! that takes a snapshot, then `pg_export_snapshot()`, then read the catalogs under it. A snapshot that is older than the
//! lock reads a table that was truncated or rewritten in between as empty, and an SQL proof would agree. A table or
//! relfilenode that the first look did not have starts another round. *Crash behaviour*: when this transaction dies,
//! nothing that a worker read can be trusted any more; [`Coordinator::alive`] finds that out before the manifest.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use dozo_model::{QualifiedName, SnapshotInfo};
use jiff::Timestamp;

use crate::conninfo::ConnInfo;
use crate::error::PgError;
use crate::inspect::{self, TableInfo};
use crate::session::{ServerFacts, Session};

/// Tables in one LOCK statement.
const LOCK_BATCH: usize = 200;
/// Rounds before giving up on a database whose tables keep changing.
const ROUNDS: usize = 3;

/// Holds the locks and the snapshot.
#[derive(Debug)]
pub struct Coordinator {
    session: Session,
    identity: Identity,
    /// `pg_export_snapshot()`
    pub snapshot_id: String,
    /// For the manifest.
    pub snapshot: SnapshotInfo,
    /// The server.
    pub facts: ServerFacts,
    /// Timeline, where the server tells.
    pub timeline: Option<u32>,
    /// Every table as the snapshot shows it; `locked` of them are locked.
    pub tables: Vec<TableInfo>,
    /// OIDs of the locked tables.
    pub locked: HashSet<u32>,
    /// Clock of the server right after the snapshot was taken.
    pub taken_at: Timestamp,
    /// WAL insert position after the snapshot, where this role may ask.
    insert_position: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    pid: i32,
    virtual_xid: String,
}

impl Coordinator {
    /// Locks the tables that `wanted` accepts and exports a snapshot.
    ///
    /// # Errors
    /// [`PgError::LockTimeout`] naming who holds the lock, [`PgError::Unstable`] after three rounds, or what the server
    /// says.
    pub async fn begin(
        info: &ConnInfo,
        looker: &Session,
        lock_timeout: Duration,
        wanted: impl Fn(&TableInfo) -> bool,
    ) -> Result<Self, PgError> {
        let session = Session::connect_as(info, "dozo coordinator").await?;
        let mut changed = Vec::new();
        for _ in 0..ROUNDS {
            let seen: Vec<TableInfo> = inspect::tables(looker).await?.into_iter().filter(|t| wanted(t)).collect();
            let begin = format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = '{}ms'",
                lock_timeout.as_millis().max(1)
            );
            session.batch("starting the coordinator", &begin).await?;
            match lock(&session, looker, &seen, lock_timeout).await {
                Ok(()) => {}
                // Dropped between the look and the lock: look again.
                Err(PgError::Query { sqlstate, reason, .. }) if sqlstate == "42P01" || sqlstate == "3F000" => {
                    session.batch("rolling back", "ROLLBACK").await?;
                    changed = vec![reason];
                    continue;
                }
                Err(e) => return Err(e),
            }
            let lsn_from = wal_position(looker).await;
            let row = session
                .query_one("exporting the snapshot", "SELECT pg_export_snapshot(), pg_current_snapshot()::text", &[])
                .await?;
            let (snapshot_id, snapshot): (String, String) = (row.get(0), row.get(1));
            let lsn_to = wal_position(looker).await;
            let insert_position = wal_insert_position(looker).await;
            let tables = inspect::tables(&session).await?;
            let before: HashMap<u32, u32> = seen.iter().map(|t| (t.oid, t.filenode)).collect();
            changed = tables
                .iter()
                .filter(|t| wanted(t) && before.get(&t.oid) != Some(&t.filenode))
                .map(|t| t.name.to_string())
                .collect();
            if !changed.is_empty() {
                session.batch("rolling back", "ROLLBACK").await?;
                continue;
            }
            let facts = session.facts().await?;
            // With several hosts in the URL the two connections may have met different servers.
            let other = looker.facts().await?;
            if (&other.system_identifier, other.postmaster_start) != (&facts.system_identifier, facts.postmaster_start) {
                return Err(PgError::Server {
                    target: info.target(),
                    reason: "two connections reached two different servers; name one host, or set target_session_attrs".into(),
                });
            }
            let identity = identity(&session).await?;
            return Ok(Self {
                identity,
                snapshot_id,
                snapshot: SnapshotInfo { snapshot, lsn_from, lsn_to },
                timeline: timeline(looker, facts.standby).await,
                taken_at: facts.now,
                insert_position,
                facts,
                locked: tables.iter().filter(|t| wanted(t)).map(|t| t.oid).collect(),
                tables,
                session,
            });
        }
        changed.truncate(5);
        Err(PgError::Unstable { tables: changed.join(", ") })
    }

    /// Returns the session, to read catalogs under the snapshot.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns its backend's pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.identity.pid
    }

    /// Makes sure that the transaction still stands: same backend, same virtual transaction.
    ///
    /// # Errors
    /// [`PgError::CoordinatorLost`].
    pub async fn alive(&self) -> Result<(), PgError> {
        match identity(&self.session).await {
            Ok(now) if now == self.identity => Ok(()),
            Ok(now) => Err(PgError::CoordinatorLost { reason: format!("pid {} became {}", self.identity.pid, now.pid) }),
            Err(e) => Err(PgError::CoordinatorLost { reason: e.to_string() }),
        }
    }

    /// Returns the number of heap blocks of each locked table.
    ///
    /// # Errors
    /// What the server says.
    pub async fn blocks(&self) -> Result<HashMap<u32, u64>, PgError> {
        let oids: Vec<u32> = self.tables.iter().filter(|t| t.has_rows() && self.locked.contains(&t.oid)).map(|t| t.oid).collect();
        let rows = self
            .session
            .query(
                "measuring the tables",
                "SELECT o, pg_relation_size(o::regclass, 'main') / current_setting('block_size')::int8 FROM unnest($1::oid[]) o",
                &[&oids],
            )
            .await?;
        Ok(rows.iter().map(|r| (r.get(0), u64::try_from(r.get::<_, Option<i64>>(1).unwrap_or(0)).unwrap_or(0))).collect())
    }

    /// Counts the rows of a materialized view under the snapshot; `None` when it cannot be read now.
    ///
    /// # Errors
    /// When the transaction is lost.
    pub async fn count_rows(&self, name: &QualifiedName) -> Result<Option<u64>, PgError> {
        let what = "counting a materialized view";
        self.session.batch(what, "SAVEPOINT view").await?;
        let counted = self.session.query_one(what, &format!("SELECT count(*) FROM {}", name.sql()), &[]).await;
        self.session.batch(what, "ROLLBACK TO view").await?;
        Ok(counted.ok().and_then(|r| u64::try_from(r.get::<_, i64>(0)).ok()))
    }

    /// Asks the server for its clock.
    ///
    /// # Errors
    /// What the server says.
    pub async fn server_clock(&self) -> Result<Timestamp, PgError> {
        Ok(self.session.facts().await?.now)
    }

    /// Waits until everything that the snapshot may show is flushed: after a crash a transaction that was not (asynchronous
    /// commit) is gone and its number is given to another one. A standby has only what its primary flushed.
    ///
    /// # Errors
    /// What the server says.
    pub async fn flushed(&self, looker: &Session, within: Duration) -> Result<bool, PgError> {
        if self.facts.standby {
            return Ok(true);
        }
        let Some(position) = &self.insert_position else { return Ok(false) };
        let sql = format!("SELECT pg_current_wal_flush_lsn() >= {}::pg_lsn", dozo_model::quote_literal(position));
        let deadline = tokio::time::Instant::now() + within;
        let mut nudged = false;
        loop {
            if self.session.query_one("waiting for the WAL to be flushed", &sql, &[]).await?.get(0) {
                return Ok(true);
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            if !nudged {
                nudged = true;
                // On an idle server nobody flushes what stands behind the last commit: a transaction of our own makes the WAL
                // writer do it.
                let _ = looker.batch("waking the WAL writer", "SELECT pg_current_xact_id()").await;
            }
        }
    }

    /// Ends the transaction.
    ///
    /// # Errors
    /// What the server says.
    pub async fn end(self) -> Result<(), PgError> {
        self.session.batch("ending the coordinator", "ROLLBACK").await
    }
}

async fn identity(session: &Session) -> Result<Identity, PgError> {
    let row = session
        .query_one(
            "asking the coordinator",
            "SELECT pg_backend_pid(), coalesce((SELECT virtualtransaction FROM pg_locks
             WHERE pid = pg_backend_pid() AND locktype = 'virtualxid' LIMIT 1), '')",
            &[],
        )
        .await?;
    Ok(Identity { pid: row.get(0), virtual_xid: row.get(1) })
}

async fn lock(session: &Session, looker: &Session, tables: &[TableInfo], timeout: Duration) -> Result<(), PgError> {
    for batch in tables.chunks(LOCK_BATCH) {
        let names: Vec<String> = batch.iter().map(|t| format!("ONLY {}", t.name.sql())).collect();
        let sql = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
        match session.batch("locking the tables", &sql).await {
            Err(PgError::LockTimeout { .. }) => {
                let oids: Vec<u32> = batch.iter().map(|t| t.oid).collect();
                let holders = looker
                    .query(
                        "looking who holds the lock",
                        "SELECT DISTINCT l.relation::regclass::text, l.pid FROM pg_locks l
                         WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND l.relation = ANY($1)",
                        &[&oids],
                    )
                    .await?;
                let named: Vec<String> = holders
                    .iter()
                    .map(|r| format!("{} (held by pid {})", r.get::<_, String>(0), r.get::<_, Option<i32>>(1).unwrap_or(0)))
                    .collect();
                return Err(PgError::LockTimeout {
                    what: format!("locking {}", if named.is_empty() { "the tables".into() } else { named.join(", ") }),
                    timeout: format!("{} s", timeout.as_secs_f64()),
                });
            }
            other => other?,
        }
    }
    Ok(())
}

/// Returns the WAL position, where this role may ask.
async fn wal_position(session: &Session) -> Option<String> {
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text";
    session.query_one("reading the WAL position", sql, &[]).await.ok()?.get(0)
}

/// Returns the WAL insert position of a primary, where this role may ask.
async fn wal_insert_position(session: &Session) -> Option<String> {
    let sql = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END::text";
    session.query_one("reading the WAL insert position", sql, &[]).await.ok()?.get(0)
}

/// Returns the timeline. Never from `pg_control_checkpoint()`, which is stale for minutes after a promotion.
async fn timeline(session: &Session, standby: bool) -> Option<u32> {
    let sql = if standby {
        "SELECT to_hex(received_tli) FROM pg_stat_wal_receiver WHERE received_tli > 0"
    } else {
        "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"
    };
    let text: Option<String> = session.query_one("reading the timeline", sql, &[]).await.ok()?.get(0);
    u32::from_str_radix(&text?, 16).ok()
}
