//! The database that a restore fills: is it empty, what has an interrupted restore left, who else restores.
//!
//! *Layout*: table `dozo.restore (item)`; its first row says which backup and which selection, each other row what is
//! complete. It is dropped at the end. *Invariant*: a row is written in the same transaction as what it stands for, so the
//! next run continues, and touches nothing that it did not create.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use dozo_model::{Column, LargeObjects, Profile, QualifiedName, SequenceValue, ServerIdentity, quote_ident, quote_literal};

use crate::conninfo::ConnInfo;
use crate::error::PgError;
use crate::inspect::{self, TableInfo};
use crate::large::{large_object_columns, large_object_statements, large_objects_name};
use crate::session::{ServerFacts, Session};
use crate::sql::{RowSet, predicate};
use crate::types::{self, TypeCatalog, TypeOptions};

/// Advisory lock of the one restore that may run: `dozo` in ASCII, 1.
const RESTORE_LOCK: i64 = 0x646f_7a6f_0000_0001;
/// Advisory lock that every worker shares.
pub(crate) const WORKER_LOCK: i64 = 0x646f_7a6f_0000_0002;
pub(crate) const PROGRESS_INSERT: &str = "INSERT INTO dozo.restore (item) VALUES ($1)";
const BEGUN: &str = "begin ";
const OWN_SCHEMA: &str = "schema dozo was created by this restore";

/// What is in the way, or left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetState {
    /// Nothing in the way.
    Fresh,
    /// An interrupted restore of the same backup and selection: these items are complete.
    Interrupted(HashSet<String>),
    /// An interrupted restore of something else.
    OtherRestore(String),
    /// Tables that a restore would have to create.
    Occupied(Vec<String>),
}

/// A table as the target has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TargetTable {
    /// Columns.
    pub columns: Vec<Column>,
    /// Which of its rows are meant.
    pub rows: RowSet,
}

/// The control connection of a restore.
#[derive(Debug)]
pub struct RestoreTarget {
    session: Session,
    /// The server.
    pub facts: ServerFacts,
}

impl RestoreTarget {
    /// Connects and makes sure that no other restore runs, nor a worker of a killed one. `None` when one does. `role` is taken on first.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn open(info: &ConnInfo, role: Option<&str>) -> Result<Option<Self>, PgError> {
        let session = Session::connect_as(info, "dozo restore").await?;
        let facts = session.facts().await?;
        // A killed run's backend may need a moment to notice.
        for attempt in 0..10 {
            let row =
                session.query_one("looking for another restore", "SELECT pg_try_advisory_lock($1)", &[&RESTORE_LOCK]).await?;
            if row.get(0) {
                let wait = format!("SELECT pg_advisory_lock({WORKER_LOCK}); SELECT pg_advisory_unlock({WORKER_LOCK})");
                session.batch("waiting for workers of an interrupted restore", &wait).await?;
                if let Some(role) = role {
                    session.batch("taking the role", &format!("SET ROLE {}", quote_ident(role))).await?;
                }
                return Ok(Some(Self { session, facts }));
            }
            if attempt < 9 {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        Ok(None)
    }

    /// Returns the session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Looks at the target. `label` names backup and selection; `wanted` are the tables that would be created, or `None`
    /// when the database must be empty.
    ///
    /// # Errors
    /// What the server says.
    pub async fn state(&self, label: &str, wanted: Option<&[QualifiedName]>) -> Result<TargetState, PgError> {
        let what = "looking at the target";
        let row = self.session.query_one(what, "SELECT to_regclass('dozo.restore') IS NOT NULL", &[]).await?;
        if row.get(0) {
            let rows = self.session.query(what, "SELECT item FROM dozo.restore", &[]).await?;
            let items: HashSet<String> = rows.iter().map(|r| r.get(0)).collect();
            let begun = items.iter().find_map(|i| i.strip_prefix(BEGUN)).unwrap_or_default().to_owned();
            return Ok(if begun == label { TargetState::Interrupted(items) } else { TargetState::OtherRestore(begun) });
        }
        let there: Vec<String> = match wanted {
            Some(tables) => {
                let names: Vec<String> = tables.iter().map(QualifiedName::sql).collect();
                let rows = self
                    .session
                    .query(what, "SELECT t FROM unnest($1::text[]) t WHERE to_regclass(t) IS NOT NULL ORDER BY 1", &[&names])
                    .await?;
                rows.iter().map(|r| r.get(0)).collect()
            }
            None => {
                let rows = self
                    .session
                    .query(
                        what,
                        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
                         UNION ALL (SELECT 'large object ' || oid FROM pg_largeobject_metadata LIMIT 3)
                         ORDER BY 1 LIMIT 20",
                        &[],
                    )
                    .await?;
                rows.iter().map(|r| r.get(0)).collect()
            }
        };
        Ok(if there.is_empty() { TargetState::Fresh } else { TargetState::Occupied(there) })
    }

    /// Tells whether there is a partitioned table of this name.
    ///
    /// # Errors
    /// What the server says.
    pub async fn is_partitioned(&self, name: &QualifiedName) -> Result<bool, PgError> {
        let sql = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'p')";
        Ok(self.session.query_one("looking for a partitioned table", sql, &[&name.sql()]).await?.get(0))
    }

    /// Tells which relations are there.
    ///
    /// # Errors
    /// What the server says.
    pub async fn relations_there(&self, names: &[QualifiedName]) -> Result<Vec<bool>, PgError> {
        let names: Vec<String> = names.iter().map(QualifiedName::sql).collect();
        let sql = "SELECT to_regclass(t) IS NOT NULL FROM unnest($1::text[]) WITH ORDINALITY u(t, n) ORDER BY n";
        let rows = self.session.query("looking for relations", sql, &[&names]).await?;
        Ok(rows.iter().map(|r| r.get(0)).collect())
    }

    /// Returns which of `roles` do not exist.
    ///
    /// # Errors
    /// What the server says.
    pub async fn missing_roles(&self, roles: &[String]) -> Result<Vec<String>, PgError> {
        let sql = "SELECT r FROM unnest($1::text[]) r WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) ORDER BY 1";
        let rows = self.session.query("looking for roles", sql, &[&roles]).await?;
        Ok(rows.iter().map(|r| r.get(0)).collect())
    }

    /// Creates the progress table and runs statements, in one transaction.
    ///
    /// # Errors
    /// What the server says; then the target is as it was.
    pub(crate) async fn begin_progress(&self, label: &str, statements: &[String]) -> Result<(), PgError> {
        let session = &self.session;
        session.batch("beginning the restore", "BEGIN").await?;
        let work = async {
            self.progress_table(label).await?;
            for sql in statements {
                session.batch("preparing side tables", sql).await?;
            }
            session.batch("committing side tables", "COMMIT").await
        };
        match work.await {
            Ok(()) => Ok(()),
            Err(e) => {
                session.batch("rolling back", "ROLLBACK").await?;
                Err(e)
            }
        }
    }

    pub(crate) async fn progress_table(&self, label: &str) -> Result<(), PgError> {
        let session = &self.session;
        let what = "creating the table of progress";
        let row = session.query_one(what, "SELECT to_regnamespace('dozo') IS NULL", &[]).await?;
        let own: bool = row.get(0);
        if own {
            session.batch(what, "CREATE SCHEMA dozo").await?;
        }
        session
            .batch(what, "CREATE TABLE dozo.restore (item text PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
            .await?;
        let mut items = vec![format!("{BEGUN}{label}")];
        items.extend(own.then(|| OWN_SCHEMA.to_owned()));
        for item in &items {
            session.query(what, PROGRESS_INSERT, &[item]).await?;
        }
        Ok(())
    }

    /// Deletes the rows that do not satisfy a predicate, in one transaction with the note `item`. Returns how many went.
    ///
    /// # Errors
    /// What the server says; then all rows are still there.
    pub async fn keep_only(&self, tables: &[QualifiedName], filter: &str, item: &str) -> Result<u64, PgError> {
        let (session, what) = (&self.session, "leaving out other rows");
        session.batch(what, "BEGIN").await?;
        let work = async {
            let mut gone = 0;
            for table in tables {
                let sql = format!("DELETE FROM ONLY {} WHERE {} IS NOT TRUE", table.sql(), predicate(filter));
                gone += session.execute(&format!("{what} of {table}"), &sql).await?;
            }
            session.query(what, PROGRESS_INSERT, &[&item]).await?;
            session.batch(what, "COMMIT").await?;
            Ok(gone)
        };
        match work.await {
            Ok(gone) => Ok(gone),
            Err(e) => {
                // The connection may be what failed.
                let _ = session.batch(what, "ROLLBACK").await;
                Err(e)
            }
        }
    }

    /// Gives restored large objects their owners, grants and comments.
    ///
    /// # Errors
    /// What the server says.
    pub async fn describe_large_objects(&self, groups: &[LargeObjects], owners: bool, privileges: bool) -> Result<(), PgError> {
        for statement in large_object_statements(groups, owners, privileges) {
            self.session.batch("giving large objects their owners", &statement).await?;
        }
        Ok(())
    }

    /// Runs statements that a restore can do without, each by itself. Returns what failed.
    pub async fn try_statements(&self, statements: &[String]) -> Vec<String> {
        let mut failed = Vec::new();
        for statement in statements {
            if let Err(e) = self.session.batch("describing the database", statement).await {
                failed.push(format!("{}: {e}", statement.lines().next().unwrap_or_default()));
            }
        }
        failed
    }

    /// Sets sequences to their values.
    ///
    /// # Errors
    /// What the server says.
    pub async fn set_sequences(&self, values: &[SequenceValue]) -> Result<(), PgError> {
        for chunk in values.chunks(200) {
            let calls: Vec<String> = chunk
                .iter()
                .map(|v| format!("SELECT setval({}, {}, {});", quote_literal(&v.name.sql()), v.last_value, v.is_called))
                .collect();
            self.session.batch("setting the sequences", &calls.join("\n")).await?;
        }
        Ok(())
    }

    /// Lets the identity columns of side copies go on where the original's sequence stood.
    ///
    /// # Errors
    /// What the server says.
    pub async fn set_identities(&self, tables: &[(QualifiedName, SequenceValue)]) -> Result<(), PgError> {
        for (table, value) in tables {
            let name = quote_literal(&table.sql());
            let sql = format!(
                "SELECT setval(pg_get_serial_sequence({name}, attname::text), {}, {}) FROM pg_attribute
                 WHERE attrelid = {name}::regclass AND attidentity <> ''",
                value.last_value, value.is_called
            );
            self.session.batch(&format!("setting the identity of {table}"), &sql).await?;
        }
        Ok(())
    }

    /// Reads what restored tables are in the target.
    ///
    /// # Errors
    /// What the server says.
    pub async fn tables(&self, names: &[QualifiedName]) -> Result<Vec<Option<TargetTable>>, PgError> {
        let tables = inspect::tables(&self.session).await?;
        let wanted: HashSet<&QualifiedName> = names.iter().collect();
        let chosen: Vec<_> = tables.iter().filter(|t| wanted.contains(&t.name)).collect();
        let mut found = self.columns_of(&chosen).await?;
        let mut described: HashMap<&QualifiedName, TargetTable> = HashMap::new();
        for table in chosen {
            let rows = table.configuration.clone().map_or(RowSet::Own, RowSet::Configuration);
            described.insert(&table.name, TargetTable { columns: found.remove(&table.oid).unwrap_or_default(), rows });
        }
        let large = (large_objects_name(), large_object_columns(Profile::default()));
        described.insert(&large.0, TargetTable { columns: large.1, rows: RowSet::LargeObjects });
        Ok(names.iter().map(|n| described.get(n).cloned()).collect())
    }

    /// Reads the columns of tables. What the backup did not take of them is not asked for here.
    pub(crate) async fn columns_of(&self, tables: &[&TableInfo]) -> Result<HashMap<u32, Vec<Column>>, PgError> {
        let types = TypeCatalog::load(&self.session, TypeOptions::new(&self.facts, Profile::default())).await?;
        types::columns(&self.session, &types, tables, |_, _| true).await
    }

    /// Refreshes a materialized view and returns its rows.
    ///
    /// # Errors
    /// What the server says.
    pub async fn refresh(&self, view: &QualifiedName) -> Result<u64, PgError> {
        let what = format!("refreshing {view}");
        self.session.batch(&what, &format!("REFRESH MATERIALIZED VIEW {}", view.sql())).await?;
        let row = self.session.query_one(&what, &format!("SELECT count(*) FROM {}", view.sql()), &[]).await?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    /// Gathers statistics.
    ///
    /// # Errors
    /// What the server says.
    pub async fn analyze(&self, tables: &[QualifiedName]) -> Result<(), PgError> {
        for chunk in tables.chunks(200) {
            let names: Vec<String> = chunk.iter().map(QualifiedName::sql).collect();
            self.session.batch("gathering statistics", &format!("ANALYZE {}", names.join(", "))).await?;
        }
        Ok(())
    }

    /// Drops the table of progress: the restore is complete.
    ///
    /// # Errors
    /// What the server says.
    pub async fn finish(&self) -> Result<(), PgError> {
        // Restored event triggers must not act on this; whoever may create them may also set this.
        let _ = self.session.batch("ending the restore", "SET session_replication_role = replica").await;
        self.drop_progress().await
    }

    /// Drops the table of progress within the caller's transaction.
    pub(crate) async fn drop_progress(&self) -> Result<(), PgError> {
        let what = "ending the restore";
        let sql = format!("SELECT EXISTS (SELECT FROM dozo.restore WHERE item = {})", quote_literal(OWN_SCHEMA));
        let own: bool = self.session.query_one(what, &sql, &[]).await?.get(0);
        self.session.batch(what, "DROP TABLE dozo.restore").await?;
        if own {
            let left = "SELECT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'dozo'::regnamespace)";
            let used: bool = self.session.query_one(what, left, &[]).await?.get(0);
            if !used {
                self.session.batch(what, "DROP SCHEMA dozo").await?;
            }
        }
        Ok(())
    }

    /// Creates a database with the encoding and locale of a backup.
    ///
    /// # Errors
    /// What the server says.
    pub async fn create_database(info: &ConnInfo, server: &ServerIdentity) -> Result<(), PgError> {
        let admin = Session::connect(&info.with_database("postgres")).await?;
        let (collate, ctype) = (&server.collate, &server.ctype);
        let mut locale = if collate.is_empty() || ctype.is_empty() {
            String::new()
        } else {
            format!(" LC_COLLATE {} LC_CTYPE {}", quote_literal(collate), quote_literal(ctype))
        };
        if let (Some(provider @ ("icu" | "builtin")), Some(name)) = (server.locale_provider.as_deref(), &server.locale) {
            let key = if provider == "icu" { "ICU_LOCALE" } else { "BUILTIN_LOCALE" };
            locale.push_str(&format!(" LOCALE_PROVIDER {provider} {key} {}", quote_literal(name)));
        }
        let sql = format!(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING {}{locale}",
            quote_ident(&info.database),
            quote_literal(&server.encoding)
        );
        admin.batch(&format!("creating database {}", info.database), &sql).await
    }
}
