//! The canary: a small table whose newest row tells how fresh what a restore gave back is; and the few questions of a drill.
//!
//! *Layout*: `dozo.canary (at, host)`, a row by each `dozo canary`, by the server's clock. *Invariant*: a row counts only if it came back
//! by a restore, so whatever keeps rows from being backed up shows.

use std::time::Duration;

use dozo_model::{QualifiedName, Timestamp, quote_ident, quote_literal};
use tokio_postgres::SimpleQueryMessage;

use crate::error::{PgError, query_error};
use crate::session::Session;

/// Schema and name of the table.
const CANARY: (&str, &str) = ("dozo", "canary");

/// Name of the canary's table.
#[must_use]
pub fn canary_name() -> QualifiedName {
    QualifiedName::new(CANARY.0, CANARY.1)
}

/// Writes a row, makes the table where there is none, and forgets rows older than `keep`. Returns the row's time.
///
/// # Errors
/// What the server says: a standby and a role that may not write refuse.
pub async fn write_canary(session: &Session, host: &str, keep: Duration) -> Result<Timestamp, PgError> {
    let what = "writing the canary";
    let there: bool = session.query_one(what, "SELECT to_regclass('dozo.canary') IS NOT NULL", &[]).await?.get(0);
    if !there {
        // Two at once: whoever comes second finds it.
        let make = "CREATE SCHEMA IF NOT EXISTS dozo;
             CREATE TABLE IF NOT EXISTS dozo.canary (at timestamptz PRIMARY KEY DEFAULT clock_timestamp(), host text NOT NULL);
             COMMENT ON TABLE dozo.canary IS 'written by dozo canary: the newest row that a restore gives back tells the recovery point'";
        match session.batch(what, make).await {
            Err(PgError::Query { sqlstate, .. }) if ["23505", "42P06", "42P07"].contains(&sqlstate.as_str()) => {}
            made => made?,
        }
    }
    let sql = format!(
        "INSERT INTO dozo.canary (host) VALUES ({}) RETURNING to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        quote_literal(host)
    );
    let text: String = session.query_one(what, &sql, &[]).await?.get(0);
    session.execute(what, &format!("DELETE FROM dozo.canary WHERE at < now() - interval '{} seconds'", keep.as_secs())).await?;
    instant(what, &text)
}

/// Returns the newest value of a column of time that is not after `until`, and how many rows are dated later; none where the table is not
/// there, or has no such row. A time without a zone is one of `zone`.
///
/// # Errors
/// What the server says: the column must be a date, timestamp or timestamptz.
pub async fn newest(
    session: &Session,
    table: &QualifiedName,
    column: &str,
    until: Timestamp,
    zone: &str,
) -> Result<Option<(Timestamp, u64)>, PgError> {
    let what = "looking for the newest row";
    let there = session.query_one(what, "SELECT to_regclass($1) IS NOT NULL", &[&table.sql()]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    session.batch(what, &format!("SET TimeZone = {}", quote_literal(zone))).await?;
    // Rows dated in the future say nothing about what was there.
    let (column, until) = (quote_ident(column), quote_literal(&until.to_string()));
    let sql = format!(
        "SELECT to_char(max({column}::timestamptz) FILTER (WHERE {column}::timestamptz <= {until}) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
                count(*) FILTER (WHERE {column}::timestamptz > {until})
         FROM {}",
        table.sql()
    );
    let row = session.query_one(what, &sql, &[]).await;
    session.batch(what, "SET TimeZone = 'UTC'").await?;
    let row = row?;
    let (text, later): (Option<String>, i64) = (row.get(0), row.get(1));
    text.map(|text| Ok((instant(what, &text)?, later.unsigned_abs()))).transpose()
}

fn instant(what: &str, text: &str) -> Result<Timestamp, PgError> {
    text.parse().map_err(|e: jiff::Error| PgError::Query { what: what.into(), reason: e.to_string(), sqlstate: String::new() })
}

/// Runs a question of a user's in a transaction that writes nothing, and returns its rows as `psql -At` prints them.
///
/// # Errors
/// What the server says; `timeout` ends it.
pub async fn ask(session: &Session, sql: &str, timeout: Duration) -> Result<String, PgError> {
    let what = "asking";
    let limits = format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = {}; SET LOCAL search_path = \"$user\", public",
        timeout.as_millis()
    );
    session.batch(what, &limits).await?;
    let answer = session.client().simple_query(sql).await.map_err(|e| query_error(what, e));
    // Whatever became of it, the session goes on.
    session.batch(what, "ROLLBACK").await?;
    let mut lines = Vec::new();
    for message in answer? {
        if let SimpleQueryMessage::Row(row) = message {
            let values: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or_default()).collect();
            lines.push(values.join("|"));
        }
    }
    Ok(lines.join("\n"))
}

/// Takes the handlers from all foreign-data wrappers: nothing that is run afterwards reads from another server.
///
/// # Errors
/// What the server says.
pub async fn cut_off(session: &Session) -> Result<(), PgError> {
    let what = "cutting off foreign servers";
    for row in
        session.query(what, "SELECT fdwname::text FROM pg_catalog.pg_foreign_data_wrapper WHERE fdwhandler <> 0", &[]).await?
    {
        let name = quote_ident(&row.get::<_, String>(0));
        session.batch(what, &format!("ALTER FOREIGN DATA WRAPPER {name} NO HANDLER")).await?;
    }
    Ok(())
}

/// Makes roles that can do nothing, for what they own and are granted. Those that are there stay as they are.
///
/// # Errors
/// What the server says.
pub async fn make_roles(session: &Session, roles: &[String]) -> Result<(), PgError> {
    let what = "making roles";
    for role in roles {
        let there =
            session.query_one(what, "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)", &[role]).await?;
        if !there.get::<_, bool>(0) {
            session.batch(what, &format!("CREATE ROLE {} NOLOGIN", quote_ident(role))).await?;
        }
    }
    Ok(())
}

/// Databases whose name begins with `prefix`, with their comments.
///
/// # Errors
/// What the server says.
pub async fn commented_databases(session: &Session, prefix: &str) -> Result<Vec<(String, String)>, PgError> {
    let sql = "SELECT datname::text, coalesce(pg_catalog.shobj_description(oid, 'pg_database'), '') FROM pg_catalog.pg_database WHERE starts_with(datname, $1)";
    let rows = session.query("listing databases", sql, &[&prefix]).await?;
    Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
}

/// Comments a database.
///
/// # Errors
/// What the server says.
pub async fn comment_database(session: &Session, name: &str, comment: &str) -> Result<(), PgError> {
    session
        .batch("marking the database", &format!("COMMENT ON DATABASE {} IS {}", quote_ident(name), quote_literal(comment)))
        .await
}

/// Drops a database, and whoever is connected to it.
///
/// # Errors
/// What the server says.
pub async fn drop_database(session: &Session, name: &str) -> Result<(), PgError> {
    session.batch("dropping the database", &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(name))).await
}
