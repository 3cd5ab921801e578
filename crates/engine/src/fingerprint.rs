//! `fingerprint`: what Postgres itself says about live tables.

use dozo_model::{Algorithm, Column, Fingerprint, Profile, QualifiedName};
use dozo_postgres::{
    ConnInfo, Session, TableInfo, TypeCatalog, TypeOptions, columns, fingerprint_settings, fingerprint_sql, tables,
};
use serde::Serialize;

use crate::context::Context;
use crate::select::Patterns;
use crate::{EngineError, Result};

/// A table's fingerprint.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FingerprintLine {
    /// Table: a root stands for all its partitions.
    pub table: QualifiedName,
    /// Fingerprint.
    pub fingerprint: Fingerprint,
}

/// All fingerprints asked for.
#[derive(Debug, Clone, Serialize)]
pub struct FingerprintReport {
    /// Server and database.
    pub target: String,
    /// Per table.
    pub tables: Vec<FingerprintLine>,
}

async fn chosen(session: &Session, patterns: &[String], algorithm: Algorithm) -> Result<Vec<(TableInfo, Vec<Column>)>> {
    let patterns = Patterns::new(patterns)?;
    let facts = session.facts().await?;
    let all = tables(session).await?;
    patterns.all_match(all.iter().map(|t| (&t.name, None)), &session.info().target())?;
    // Without a pattern: roots and tables of their own. A partition is shown when it is named.
    let wanted: Vec<&TableInfo> = all
        .iter()
        .filter(|t| matches!(t.kind, 'r' | 'p') && t.extension.is_none())
        .filter(|t| if patterns.is_empty() { t.root.is_none() } else { patterns.matching(&t.name, None).is_some() })
        .collect();
    let types = TypeCatalog::load(session, TypeOptions::new(&facts, Profile::default())).await?;
    let mut found = columns(session, &types, &wanted, |_, _| true).await?;
    let of = |table: &TableInfo| {
        let columns = found.remove(&table.oid).unwrap_or_default();
        let columns = if algorithm == Algorithm::T1 { Column::printed_all(columns) } else { columns };
        (table.clone(), columns)
    };
    Ok(wanted.into_iter().map(of).collect())
}

/// Computes fingerprints in the server, all under one snapshot.
///
/// # Errors
/// What the server says; a table that may not be read is an error.
pub async fn fingerprint(ctx: &Context, info: &ConnInfo, patterns: &[String], algorithm: Algorithm) -> Result<FingerprintReport> {
    let session = Session::connect(info).await?;
    let work = async {
        session.batch("starting a snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let mut lines = Vec::new();
        for (table, columns) in chosen(&session, patterns, algorithm).await? {
            // A table with inheritance children of the old kind is itself only; a partitioned one is its leaves.
            let only = table.kind == 'r';
            let fingerprint = dozo_postgres::fingerprint(&session, &table.name, &columns, only).await?;
            lines.push(FingerprintLine { table: table.name, fingerprint });
        }
        session.batch("ending the snapshot", "ROLLBACK").await?;
        Ok(FingerprintReport { target: info.target(), tables: lines })
    };
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(EngineError::Cancelled),
        done = work => done,
    }
}

/// Returns the SQL that computes the same in psql.
///
/// # Errors
/// What the server says.
pub async fn fingerprint_statements(info: &ConnInfo, patterns: &[String], algorithm: Algorithm) -> Result<String> {
    let session = Session::connect(info).await?;
    let encoding = session.facts().await?.encoding;
    let mut out = format!("{}\n", fingerprint_settings(&encoding));
    for (table, columns) in chosen(&session, patterns, algorithm).await? {
        out.push_str(&format!(
            "\n-- {}\n{};\n",
            table.name.to_string().replace('\n', " "),
            fingerprint_sql(&table.name, &columns, table.kind == 'r')
        ));
    }
    Ok(out)
}
