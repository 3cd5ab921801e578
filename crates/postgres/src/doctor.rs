//! What `dozo check` and `dozo init` ask a server.

use std::collections::BTreeMap;

use dozo_model::{QualifiedName, quote_ident};

use crate::error::PgError;
use crate::inspect::{SequenceInfo, TableInfo};
use crate::session::Session;

/// Writes the GRANT statements that a role lacks to read `tables` and `sequences`.
#[must_use]
pub fn missing_grants(role: &str, tables: &[&TableInfo], sequences: &[SequenceInfo]) -> Vec<String> {
    let role = quote_ident(role);
    let mut schemas: BTreeMap<&str, Vec<&TableInfo>> = BTreeMap::new();
    for table in tables {
        schemas.entry(&table.name.schema).or_default().push(table);
    }
    let mut grants = Vec::new();
    for (schema, tables) in schemas {
        if tables.iter().any(|t| !t.usage_granted) {
            grants.push(format!("GRANT USAGE ON SCHEMA {} TO {role};", quote_ident(schema)));
        }
        let missing: Vec<_> = tables.iter().filter(|t| !t.select_granted).collect();
        if missing.len() > 1 && missing.len() == tables.len() {
            grants.push(format!("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {role};", quote_ident(schema)));
        } else {
            grants.extend(missing.iter().map(|t| format!("GRANT SELECT ON TABLE {} TO {role};", t.name.sql())));
        }
        let filtered: Vec<_> = tables.iter().filter(|t| t.row_security).collect();
        grants.extend(filtered.iter().map(|t| {
            format!("-- row-level security on {} hides rows from {role}: ALTER ROLE {role} BYPASSRLS; as a superuser", t.name)
        }));
    }
    let mut schemas: BTreeMap<&str, Vec<&SequenceInfo>> = BTreeMap::new();
    for sequence in sequences {
        schemas.entry(&sequence.name.schema).or_default().push(sequence);
    }
    for (schema, sequences) in schemas {
        let unread: Vec<_> = sequences.iter().filter(|s| !s.select_granted).collect();
        if unread.len() > 1 && unread.len() == sequences.len() {
            grants.push(format!("GRANT SELECT ON ALL SEQUENCES IN SCHEMA {} TO {role};", quote_ident(schema)));
        } else {
            grants.extend(unread.iter().map(|s| format!("GRANT SELECT ON SEQUENCE {} TO {role};", s.name.sql())));
        }
    }
    grants
}

/// The shared lock table: what a backup needs, and what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockBudget {
    /// Slots in the server.
    pub slots: u64,
    /// Slots in use now.
    pub used: u64,
}

/// Reads the size of the shared lock table: `max_locks_per_transaction × (max_connections + max_prepared_transactions)`.
///
/// # Errors
/// What the server says.
pub async fn lock_budget(session: &Session) -> Result<LockBudget, PgError> {
    let row = session
        .query_one(
            "reading the lock limits",
            "SELECT current_setting('max_locks_per_transaction')::int8
                    * (current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8),
                    (SELECT count(*) FROM pg_locks WHERE NOT fastpath)",
            &[],
        )
        .await?;
    Ok(LockBudget {
        slots: u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
        used: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
    })
}

/// Sums tables and their partitions for people: name, number of leaves, bytes, estimated rows; largest first.
#[must_use]
pub fn suggest_tables(tables: &[TableInfo]) -> Vec<(QualifiedName, usize, u64, u64)> {
    let mut sums: BTreeMap<&QualifiedName, (usize, u64, f64)> = BTreeMap::new();
    for table in tables.iter().filter(|t| t.has_rows() && t.extension.is_none()) {
        let (name, leaves) = table.root.as_ref().map_or((&table.name, 0), |(_, root)| (root, 1));
        let sum = sums.entry(name).or_default();
        sum.0 += leaves;
        sum.1 += table.bytes_estimate;
        sum.2 += table.rows_estimate.max(0.0);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
    let mut list: Vec<_> = sums.into_iter().map(|(n, (l, b, r))| (n.clone(), l, b, r as u64)).collect();
    list.sort_by_key(|(_, _, bytes, _)| std::cmp::Reverse(*bytes));
    list
}
