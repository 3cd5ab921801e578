//! `dozo.ledger`: what has left the database, by the database's own word.
//!
//! One row for each unit, written in the transaction that moves the partition. *Invariant*: a unit is archived if and only if its row
//! says so: after a restore to a point in time before the archive, the row is gone with everything else that came later.

use dozo_model::{Fingerprint, QualifiedName, Timestamp, quote_literal};
use serde::{Deserialize, Serialize};

use crate::error::PgError;
use crate::session::Session;

/// Schema of the ledger.
pub const LEDGER_SCHEMA: &str = "dozo";
/// Schema of partitions that left their table and are not dropped yet.
pub const QUARANTINE: &str = "dozo_quarantine";

/// What the ledger says of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LedgerState {
    /// A concurrent detach was announced.
    Detaching,
    /// The partition is in quarantine.
    Detached,
    /// It was dropped.
    Dropped,
    /// It is back in its table.
    Restored,
}

impl LedgerState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Detaching => "detaching",
            Self::Detached => "detached",
            Self::Dropped => "dropped",
            Self::Restored => "restored",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Detaching, Self::Detached, Self::Dropped, Self::Restored].into_iter().find(|s| s.as_str() == text)
    }
}

/// What is needed to bring a partition back as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct LedgerDetails {
    /// Its tables (one, unless it is partitioned itself), the partition first: where each was, and its name in quarantine.
    pub moved: Vec<Moved>,
    /// Foreign keys that were declared on it alone: table, and the definition.
    pub own_keys: Vec<(QualifiedName, String, String)>,
    /// CHECK constraints that it had before a concurrent detach, which adds one.
    pub checks: Vec<String>,
    /// The empty partition that took its place.
    pub stub: Option<QualifiedName>,
}

/// A table that was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// OID.
    pub oid: u32,
    /// Name in the tree.
    pub name: QualifiedName,
    /// Name in quarantine.
    pub quarantined: String,
    /// Its indexes and sequences, which go along.
    #[serde(default)]
    pub along: Vec<Along>,
}

/// An index or sequence that is moved with its table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Along {
    /// Name beside its table.
    pub name: QualifiedName,
    /// Name in quarantine.
    pub quarantined: String,
    /// It is a sequence.
    pub sequence: bool,
}

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// Unit.
    pub unit: String,
    /// Job.
    pub job: String,
    /// State.
    pub state: LedgerState,
    /// Root of the partition tree.
    pub root: QualifiedName,
    /// Partitioned table right above the partition.
    pub parent: QualifiedName,
    /// The partition.
    pub partition: QualifiedName,
    /// Its bound.
    pub bound: String,
    /// Folder of the archive.
    pub label: String,
    /// OID of the partition.
    pub relid: u32,
    /// Rows that were archived, and their digests.
    pub fingerprint: Fingerprint,
    /// SHA-256 of the unit's manifest.
    pub manifest: String,
    /// When it left its table, by the ledger's clock.
    pub left_at: Timestamp,
    /// What a return needs.
    pub details: LedgerDetails,
}

/// Advisory lock of the one archive run that a database may have: `dozo` in ASCII, 3. Safety does not rest on the lease of the repository.
const RUN_LOCK: i64 = 0x646f_7a6f_0000_0003;

/// Takes the lock of archive runs for as long as the session lasts. Tells whether it was free.
///
/// # Errors
/// What the server says.
pub async fn try_run_lock(session: &Session) -> Result<bool, PgError> {
    Ok(session.query_one("looking for another archive run", "SELECT pg_try_advisory_lock($1)", &[&RUN_LOCK]).await?.get(0))
}

/// Makes the ledger and the quarantine where they are missing.
///
/// # Errors
/// What the server says.
pub async fn prepare_ledger(session: &Session) -> Result<(), PgError> {
    let what = "making the ledger";
    for schema in [LEDGER_SCHEMA, QUARANTINE] {
        // IF NOT EXISTS asks for the privilege even where there is nothing to do.
        let there = format!("SELECT to_regnamespace({}) IS NOT NULL", quote_literal(schema));
        if !session.query_one(what, &there, &[]).await?.get::<_, bool>(0) {
            session.batch(what, &format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await?;
        }
    }
    if !session.query_one(what, "SELECT to_regclass('dozo.ledger') IS NOT NULL", &[]).await?.get::<_, bool>(0) {
        let table = "CREATE TABLE IF NOT EXISTS dozo.ledger (
                unit text PRIMARY KEY, job text NOT NULL,
                state text NOT NULL CHECK (state IN ('detaching', 'detached', 'dropped', 'restored')),
                root_schema text NOT NULL, root_name text NOT NULL, parent_schema text NOT NULL, parent_name text NOT NULL,
                partition_schema text NOT NULL, partition_name text NOT NULL, bound text NOT NULL, label text NOT NULL,
                relid oid NOT NULL, fingerprint text NOT NULL, manifest text NOT NULL, left_at timestamptz NOT NULL,
                changed_at timestamptz NOT NULL DEFAULT now(), details text NOT NULL);
            COMMENT ON TABLE dozo.ledger IS 'Partitions that dozo archived. Rows are written in the transactions that move them.'";
        session.batch(what, table).await?;
    }
    Ok(())
}

/// Reads the rows of the ledger; none where there is no ledger.
///
/// # Errors
/// What the server says, or a row that no dozo wrote.
pub async fn ledger_rows(session: &Session) -> Result<Vec<LedgerRow>, PgError> {
    let what = "reading the ledger";
    if !session.query_one(what, "SELECT to_regclass('dozo.ledger') IS NOT NULL", &[]).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let rows = session
        .query(
            what,
            "SELECT unit, job, state, root_schema, root_name, parent_schema, parent_name, partition_schema, partition_name, bound,
                    label, relid, fingerprint, manifest, to_char(left_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), details
             FROM dozo.ledger ORDER BY unit",
            &[],
        )
        .await?;
    let bad =
        |unit: &str, reason: String| PgError::Query { what: format!("{what}: unit {unit}"), reason, sqlstate: String::new() };
    rows.iter()
        .map(|r| {
            let unit: String = r.get(0);
            let name = |i: usize| QualifiedName::new(r.get::<_, String>(i), r.get::<_, String>(i + 1));
            let (state, fingerprint, at, details): (String, String, String, String) = (r.get(2), r.get(12), r.get(14), r.get(15));
            Ok(LedgerRow {
                job: r.get(1),
                state: LedgerState::parse(&state).ok_or_else(|| bad(&unit, format!("state `{state}`")))?,
                root: name(3),
                parent: name(5),
                partition: name(7),
                bound: r.get(9),
                label: r.get(10),
                relid: r.get(11),
                fingerprint: fingerprint.parse().map_err(|e: dozo_model::FingerprintError| bad(&unit, e.to_string()))?,
                manifest: r.get(13),
                left_at: at.parse().map_err(|e: jiff::Error| bad(&unit, e.to_string()))?,
                details: serde_json::from_str(&details).map_err(|e| bad(&unit, e.to_string()))?,
                unit,
            })
        })
        .collect()
}

impl LedgerRow {
    /// Writes the statement that inserts the row, or replaces what is said of the unit.
    pub(super) fn upsert(&self) -> Result<String, PgError> {
        let details = serde_json::to_string(&self.details).map_err(|e| PgError::Query {
            what: "writing the ledger".into(),
            reason: e.to_string(),
            sqlstate: String::new(),
        })?;
        let texts = [
            &self.unit,
            &self.job,
            &self.root.schema,
            &self.root.name,
            &self.parent.schema,
            &self.parent.name,
            &self.partition.schema,
            &self.partition.name,
            &self.bound,
            &self.label,
            &self.fingerprint.to_string(),
            &self.manifest,
            &self.left_at.to_string(),
            &details,
        ];
        let values: Vec<String> = texts.iter().map(|t| quote_literal(t)).collect();
        Ok(format!(
            "INSERT INTO dozo.ledger (state, relid, unit, job, root_schema, root_name, parent_schema, parent_name, partition_schema, \
             partition_name, bound, label, fingerprint, manifest, left_at, details) VALUES ('{}', {}, {}) \
             ON CONFLICT (unit) DO UPDATE SET state = excluded.state, left_at = excluded.left_at, details = excluded.details, \
             changed_at = now()",
            self.state.as_str(),
            self.relid,
            values.join(", ")
        ))
    }
}

/// Writes the statement that says that a unit has another state.
#[must_use]
pub fn ledger_says(unit: &str, state: LedgerState) -> String {
    format!("UPDATE dozo.ledger SET state = '{}', changed_at = now() WHERE unit = {}", state.as_str(), quote_literal(unit))
}

/// Deletes what was announced of a unit and never happened.
///
/// # Errors
/// What the server says.
pub async fn forget_announced(session: &Session, unit: &str) -> Result<(), PgError> {
    let sql = format!("DELETE FROM dozo.ledger WHERE state = 'detaching' AND unit = {}", quote_literal(unit));
    session.batch("taking back an announcement", &sql).await
}

/// Announces a concurrent detach.
///
/// # Errors
/// What the server says.
pub async fn announce(session: &Session, row: &LedgerRow) -> Result<(), PgError> {
    session.batch("announcing a detach", &row.upsert()?).await
}
