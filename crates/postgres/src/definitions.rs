//! Makes what a restore needs before the rows: every definition, in one transaction, or all that the server cannot hold by name.
//!
//! *Ordering*: a server of another build may lack an extension, a collation provider, libxml. Each entry is tried behind a
//! savepoint; what needs one that failed is not tried. *Crash behaviour*: nothing is there before the transaction commits; what
//! was left out on request is noted in the table of progress, so that an interrupted restore continues with the same choice.

use std::collections::{BTreeMap, BTreeSet};

use dozo_model::QualifiedName;

use crate::error::PgError;
use crate::script::Entry;
use crate::sql::predicate;
use crate::target::{PROGRESS_INSERT, RestoreTarget};

/// Note of an entry that was left out.
const LEFT_OUT: &str = "left out entry ";

/// Definitions that are to be made.
#[derive(Debug, Clone, Copy)]
pub struct Definitions<'a> {
    /// Backup and selection.
    pub label: &'a str,
    /// Entries before the rows with their statements, in order.
    pub entries: &'a [(&'a Entry, String)],
    /// Entries that may exist already.
    pub tolerated: &'a BTreeSet<u32>,
    /// Tables with XML columns: a server without libxml makes them, but reads no value.
    pub with_xml: &'a BTreeSet<u32>,
    /// Leave out what the server cannot hold, instead of refusing all.
    pub skip: bool,
    /// A predicate is tried on these tables.
    pub probe: Option<(&'a [QualifiedName], &'a str)>,
}

/// What became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Entries that were left out, and why.
    pub left_out: BTreeMap<u32, String>,
    /// What was made in another way.
    pub adapted: Vec<String>,
}

/// Returns the entries that an interrupted restore left out.
pub fn left_out<'a>(items: impl Iterator<Item = &'a String>) -> BTreeSet<u32> {
    items.filter_map(|item| item.strip_prefix(LEFT_OUT)?.parse().ok()).collect()
}

/// Tells whether a server says that it lacks something; a full disk or a missing right is another matter. Feature not supported,
/// undefined object, file, function, table, schema; invalid parameter value; a library that cannot be loaded.
pub fn unsupported(sqlstate: &str, reason: &str) -> bool {
    ["0A000", "42704", "58P01", "42883", "42P01", "3F000", "22023"].contains(&sqlstate)
        || sqlstate == "XX000" && reason.contains("could not load library")
}

impl RestoreTarget {
    /// Makes the table of progress and all definitions, in one transaction.
    ///
    /// # Errors
    /// [`PgError::CannotHold`] with all that the server refuses; then the target is as it was.
    pub async fn create(&self, definitions: Definitions<'_>) -> Result<Made, PgError> {
        let session = self.session();
        session.batch("beginning the restore", "BEGIN").await?;
        let made = async {
            let made = self.create_in_transaction(definitions).await?;
            let (tables, filter) = definitions.probe.unwrap_or_default();
            for table in tables {
                let sql = format!("SELECT FROM {} WHERE {}", table.sql(), predicate(filter));
                session.batch(&format!("trying the predicate on {table}"), &sql).await?;
            }
            Ok(made)
        };
        match made.await {
            Ok(made) => {
                session.batch("committing the schema", "COMMIT").await?;
                Ok(made)
            }
            Err(e) => {
                session.batch("rolling back", "ROLLBACK").await?;
                Err(e)
            }
        }
    }

    async fn create_in_transaction(&self, definitions: Definitions<'_>) -> Result<Made, PgError> {
        let session = self.session();
        self.progress_table(definitions.label).await?;
        // Defaults of money are written as the database writes them.
        session.batch("setting up", "SET LOCAL check_function_bodies = off; SET LOCAL lc_monetary = DEFAULT").await?;
        let mut made = Made::default();
        let without_xml = !definitions.with_xml.is_empty() && self.attempt("SELECT '<a/>'::xml").await?.is_err();
        let mut first = None;
        let mut labels: BTreeMap<u32, String> = BTreeMap::new();
        for (entry, sql) in definitions.entries {
            let refused = if without_xml && definitions.with_xml.contains(&entry.id) {
                Some("the server reads no XML: it was built without libxml".to_owned())
            } else if let Some(need) = entry.needs.iter().find_map(|id| labels.get(id)) {
                Some(format!("it needs {need}"))
            } else {
                match self.attempt(sql).await? {
                    Ok(()) => None,
                    // duplicate schema, object, function, table: it is there already and is left alone.
                    Err(PgError::Query { sqlstate, .. })
                        if definitions.tolerated.contains(&entry.id)
                            && ["42P06", "42710", "42723", "42P07"].contains(&sqlstate.as_str()) =>
                    {
                        None
                    }
                    Err(e) => self.without_compression(entry, sql, e, &mut made, &mut first).await?,
                }
            };
            if let Some(reason) = refused {
                labels.insert(entry.id, entry.label());
                made.left_out.insert(entry.id, format!("{}: {reason}", entry.label()));
            }
        }
        if made.left_out.is_empty() {
            return Ok(made);
        }
        if !definitions.skip {
            return match (first, made.left_out.len()) {
                // One thing went wrong: the server's own words say it best.
                (Some(error), 1) => Err(error),
                _ => Err(PgError::CannotHold { objects: made.left_out.into_values().collect() }),
            };
        }
        for id in made.left_out.keys() {
            session.query("noting what was left out", PROGRESS_INSERT, &[&format!("{LEFT_OUT}{id}")]).await?;
        }
        Ok(made)
    }

    /// Runs a statement behind a savepoint. The outer error is that of a connection.
    async fn attempt(&self, sql: &str) -> Result<Result<(), PgError>, PgError> {
        let (session, what) = (self.session(), "creating definitions");
        session.batch(what, "SAVEPOINT entry").await?;
        match session.batch(what, sql).await {
            Ok(()) => {
                session.batch(what, "RELEASE entry").await?;
                Ok(Ok(()))
            }
            Err(e @ PgError::Query { .. }) => {
                session.batch(what, "ROLLBACK TO entry").await?;
                Ok(Err(e))
            }
            Err(e) => Err(e),
        }
    }

    /// How a column is compressed is no property of its values: where a server lacks the method, it uses its own. Returns why
    /// the entry cannot be made.
    async fn without_compression(
        &self,
        entry: &Entry,
        sql: &str,
        error: PgError,
        made: &mut Made,
        first: &mut Option<PgError>,
    ) -> Result<Option<String>, PgError> {
        let compression = |line: &&str| line.starts_with("ALTER TABLE ONLY ") && line.contains(" SET COMPRESSION ");
        if sql.lines().any(|l| compression(&l)) {
            let rest: Vec<&str> = sql.lines().filter(|l| !compression(l)).collect();
            if self.attempt(&rest.join("\n")).await?.is_ok() {
                made.adapted.push(format!("{} is compressed by the server's own method", entry.label()));
                return Ok(None);
            }
        }
        let PgError::Query { reason, sqlstate, .. } = error else { return Err(error) };
        let what = format!("creating {}", entry.label());
        if !unsupported(&sqlstate, &reason) {
            return Err(PgError::Query { what, reason, sqlstate });
        }
        first.get_or_insert(PgError::Query { what, reason: reason.clone(), sqlstate });
        Ok(Some(reason))
    }
}
