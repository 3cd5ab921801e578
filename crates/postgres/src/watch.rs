//! Who waits behind our locks, and how far replicas are behind: asked while a backup runs.

use crate::error::PgError;
use crate::session::Session;

/// A session that waits for a lock that one of ours holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// Its backend.
    pub pid: i32,
    /// Its role.
    pub user: String,
    /// What it waits for: a table, or the kind of lock.
    pub target: String,
    /// For how long, in seconds.
    pub seconds: f64,
}

/// Lists who waits behind the backends `ours`.
///
/// # Errors
/// What the server says.
pub async fn waiting_behind(session: &Session, ours: &[i32]) -> Result<Vec<Waiting>, PgError> {
    let rows = session
        .query(
            "looking who waits behind our locks",
            "SELECT l.pid, coalesce(a.usename::text, '?'), coalesce(l.relation::regclass::text, l.locktype),
                    extract(epoch FROM clock_timestamp() - l.waitstart)::float8
             FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
             WHERE NOT l.granted AND l.waitstart IS NOT NULL AND l.pid <> ALL($1) AND pg_blocking_pids(l.pid) && $1
             ORDER BY l.waitstart",
            &[&ours],
        )
        .await?;
    Ok(rows.iter().map(|r| Waiting { pid: r.get(0), user: r.get(1), target: r.get(2), seconds: r.get(3) }).collect())
}

/// A replica of a primary.
#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    /// Its `application_name`.
    pub name: String,
    /// WAL position that it has replayed; none of one that replays nothing (`pg_receivewal`), or that is just starting.
    pub replayed: Option<u64>,
    /// Whether this role may see it (it needs `pg_monitor`).
    pub visible: bool,
}

/// Returns the primary's WAL position and its connected replicas; `None` on a standby.
///
/// # Errors
/// What the server says.
pub async fn replicas(session: &Session) -> Result<Option<(u64, Vec<Replica>)>, PgError> {
    let what = "looking at the replicas";
    let sql = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8 END";
    let position: Option<i64> = session.query_one(what, sql, &[]).await?.get(0);
    let Some(position) = position else { return Ok(None) };
    let sql = "SELECT coalesce(application_name, '?'), pg_wal_lsn_diff(replay_lsn, '0/0')::int8, state IS NOT NULL
               FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup'";
    let rows = session.query(what, sql, &[]).await?;
    let replica = |r: &tokio_postgres::Row| Replica {
        name: r.get(0),
        replayed: r.get::<_, Option<i64>>(1).map(i64::unsigned_abs),
        visible: r.get(2),
    };
    Ok(Some((position.unsigned_abs(), rows.iter().map(replica).collect())))
}
