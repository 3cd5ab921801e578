//! Rows into tables that are there already: loaded into side tables first, then appended or exchanged in one transaction.
//!
//! *Ordering*: side tables are loaded and compared with the manifest; then one transaction locks the live tables against
//! writers (`SHARE ROW EXCLUSIVE`), deletes, updates and inserts by key, compares fingerprints, and commits. *Invariants*:
//! readers are never in the way and never see an empty or half table, also those with an older snapshot, because rows are
//! exchanged under the same table (a table that is swapped by name looks empty to an older snapshot, TRUNCATE too); what
//! depends on the table stays; foreign keys hold, and no `ON DELETE` action touches a row of another table. *Crash behaviour*:
//! before the commit the live tables are as they were; the next run continues with the side tables. What cannot go in is dropped.

use dozo_model::{Column, ErrorClass, Explain, Fingerprint, QualifiedName, SequenceValue, quote_ident, quote_literal};

use crate::error::PgError;
use crate::inspect::{self, TypeCatalog};
use crate::session::Session;
use crate::sql::{Rows, fingerprint_of};
use crate::target::RestoreTarget;

/// What becomes of rows that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeMode {
    /// They stay; the stored ones are added.
    Append,
    /// Afterwards the table holds the stored rows.
    Replace,
}

/// One table that gets rows.
#[derive(Debug, Clone)]
pub struct MergeTable {
    /// The live table, or root of a tree.
    pub live: QualifiedName,
    /// Where its rows were loaded.
    pub side: QualifiedName,
    /// Columns of the stored rows; generated ones are not among them.
    pub columns: Vec<Column>,
    /// Columns that identify a row; empty: none do.
    pub key: Vec<String>,
    /// Where the replaced rows are kept.
    pub keep: Option<QualifiedName>,
    /// Sum of the stored rows.
    pub stored: Fingerprint,
}

/// What was done to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// Rows deleted, updated, inserted.
    pub changes: (u64, u64, u64),
    /// Fingerprint of what had to be there afterwards.
    pub expected: Fingerprint,
    /// Fingerprint of what is there.
    pub found: Fingerprint,
}

/// The live table as a merge must find it.
#[derive(Debug, Clone, Default)]
pub struct LiveTable {
    /// Columns of the primary key.
    pub key: Vec<String>,
    /// What keeps the stored rows out: columns that differ.
    pub differences: Vec<String>,
    /// Estimated rows.
    pub rows_estimate: u64,
}

impl RestoreTarget {
    /// Looks at a live table that is to take rows with these columns; `None` when there is no such table.
    ///
    /// # Errors
    /// What the server says.
    pub async fn live_table(&self, name: &QualifiedName, columns: &[Column]) -> Result<Option<LiveTable>, PgError> {
        let session = self.session();
        let tables = inspect::tables(session).await?;
        let Some(table) = tables.iter().find(|t| &t.name == name && matches!(t.kind, 'r' | 'p')) else { return Ok(None) };
        let types = TypeCatalog::load(session, self.facts.money_scale).await?;
        let found = inspect::columns(session, &types, &[table]).await?.remove(&table.oid).unwrap_or_default().columns;
        let mut differences = Vec::new();
        for column in columns.iter().filter(|c| !c.generated) {
            match found.iter().find(|c| c.name == column.name) {
                None => differences.push(format!("{} {} is missing", column.name, column.type_name)),
                Some(live) if live.generated => differences.push(format!("{} is generated", column.name)),
                Some(live) if (&live.wire, &live.labels) != (&column.wire, &column.labels) => {
                    differences.push(format!("{} is {} instead of {}", column.name, live.type_name, column.type_name));
                }
                Some(_) => {}
            }
        }
        let extra = found.iter().filter(|c| !c.generated && !columns.iter().any(|o| o.name == c.name));
        differences.extend(extra.map(|c| format!("{} {} is not in the backup", c.name, c.type_name)));
        let key = inspect::primary_keys(session).await?.remove(&table.oid).unwrap_or_default();
        let leaves = tables.iter().filter(|t| t.oid == table.oid || t.root.as_ref().is_some_and(|(oid, _)| *oid == table.oid));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
        let rows_estimate = leaves.filter(|t| t.has_rows()).map(|t| t.rows_estimate.max(0.0) as u64).sum();
        Ok(Some(LiveTable { key, differences, rows_estimate }))
    }

    /// Makes the table of progress and empty side tables, in one transaction. A predicate is tried on each of them.
    ///
    /// # Errors
    /// What the server says; then the target is as it was.
    pub async fn create_sides(&self, label: &str, tables: &[MergeTable], filter: Option<&str>) -> Result<(), PgError> {
        let mut statements = Vec::new();
        for table in tables {
            // An unlogged copy of the columns, without defaults and constraints.
            let columns: Vec<String> = table.columns.iter().map(|c| quote_ident(&c.name)).collect();
            statements.push(format!(
                "CREATE UNLOGGED TABLE {} AS SELECT {} FROM {} WITH NO DATA",
                table.side.sql(),
                columns.join(", "),
                table.live.sql()
            ));
            statements.extend(filter.map(|filter| format!("SELECT FROM {} WHERE ({filter}\n)", table.side.sql())));
        }
        self.begin_progress(label, &statements).await
    }

    /// Computes the fingerprint of a side table.
    ///
    /// # Errors
    /// What the server says.
    pub async fn side_fingerprint(&self, table: &MergeTable) -> Result<Fingerprint, PgError> {
        fingerprint_of(self.session(), &table.side, &table.columns, Rows::Own).await
    }

    /// Moves the rows of all side tables into their live tables, compares, and commits; the side tables and the table of
    /// progress go in the same transaction.
    ///
    /// # Errors
    /// [`PgError::MergeDiffers`] when a table would not hold what it must; what the server says. Then the live tables are
    /// as they were.
    pub async fn merge(
        &self,
        tables: &[MergeTable],
        mode: MergeMode,
        filter: Option<&str>,
        lock_timeout: std::time::Duration,
    ) -> Result<Vec<Merged>, PgError> {
        let session = self.session();
        let begin = format!("BEGIN; SET LOCAL lock_timeout = '{}ms'", lock_timeout.as_millis().max(1));
        session.batch("beginning the exchange", &begin).await?;
        let done = async {
            let merged = exchange(session, tables, mode, filter).await?;
            for table in tables {
                session.batch("dropping a side table", &format!("DROP TABLE {}", table.side.sql())).await?;
            }
            self.drop_progress().await?;
            session.batch("committing the exchange", "COMMIT").await?;
            Ok::<_, PgError>(merged)
        };
        match done.await {
            Ok(merged) => Ok(merged),
            Err(e) => {
                // The connection may be what failed.
                let _ = session.batch("rolling back", "ROLLBACK").await;
                if e.class() != ErrorClass::Transient {
                    // The rows cannot go in as things are: nothing is to be continued, so nothing is left behind.
                    let _ = self.discard_sides(tables).await;
                }
                Err(e)
            }
        }
    }

    async fn discard_sides(&self, tables: &[MergeTable]) -> Result<(), PgError> {
        for table in tables {
            self.session().batch("dropping a side table", &format!("DROP TABLE IF EXISTS {}", table.side.sql())).await?;
        }
        self.drop_progress().await
    }

    /// Lets sequences go on behind the stored rows; one that is further stays where it is.
    ///
    /// # Errors
    /// What the server says.
    pub async fn raise_sequences(&self, values: &[SequenceValue]) -> Result<(), PgError> {
        for value in values.iter().filter(|v| v.is_called) {
            let name = value.name.sql();
            let sql = format!(
                "SELECT setval({}, {}, true) FROM {name} WHERE last_value < {}",
                quote_literal(&name),
                value.last_value,
                value.last_value
            );
            self.session().batch(&format!("raising {}", value.name), &sql).await?;
        }
        Ok(())
    }
}

async fn exchange(
    session: &Session,
    tables: &[MergeTable],
    mode: MergeMode,
    filter: Option<&str>,
) -> Result<Vec<Merged>, PgError> {
    let order = parents_first(session, tables).await?;
    for n in &order {
        let live = &tables[*n].live;
        session.batch(&format!("locking {live}"), &format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", live.sql())).await?;
    }
    let triggers = disable_triggers(session, tables).await?;
    let mut changes = vec![(0, 0, 0); tables.len()];
    let mut before = Vec::new();
    for table in tables {
        before.push(if mode == MergeMode::Append { live_fingerprint(session, table, None).await? } else { Fingerprint::EMPTY });
        if let Some(keep) = &table.keep {
            let sql = format!("CREATE TABLE {} AS SELECT * FROM {}", keep.sql(), table.live.sql());
            session.batch(&format!("keeping the rows of {}", table.live), &sql).await?;
        }
    }
    if mode == MergeMode::Replace {
        for n in order.iter().rev() {
            refuse_actions(session, &tables[*n], tables, filter).await?;
            changes[*n].0 = execute(session, &tables[*n], "replacing rows of", &delete_sql(&tables[*n], filter)).await?;
        }
    }
    for n in &order {
        let table = &tables[*n];
        if mode == MergeMode::Replace && !table.key.is_empty() {
            let always = identity_always(session, &table.live).await?;
            if let Some(sql) = update_sql(table, filter, &always) {
                changes[*n].1 = execute(session, table, "replacing rows of", &sql).await?;
            }
        }
        changes[*n].2 = execute(session, table, "adding rows to", &insert_sql(table, mode, filter)).await?;
    }
    for sql in &triggers {
        session.batch("switching triggers on again", sql).await?;
    }
    let mut merged = Vec::new();
    for ((table, changes), before) in tables.iter().zip(changes).zip(before) {
        let (expected, found) = match (mode, filter) {
            (MergeMode::Append, None) => (before + table.stored, live_fingerprint(session, table, None).await?),
            (MergeMode::Append, Some(filter)) => {
                let side = filtered(session, &table.side, table, filter).await?;
                (before + side, live_fingerprint(session, table, None).await?)
            }
            (MergeMode::Replace, None) => (table.stored, live_fingerprint(session, table, None).await?),
            (MergeMode::Replace, Some(filter)) => {
                (filtered(session, &table.side, table, filter).await?, live_fingerprint(session, table, Some(filter)).await?)
            }
        };
        if expected != found {
            return Err(PgError::MergeDiffers { table: table.live.clone(), expected, found });
        }
        merged.push(Merged { changes, expected, found });
    }
    Ok(merged)
}

async fn live_fingerprint(session: &Session, table: &MergeTable, filter: Option<&str>) -> Result<Fingerprint, PgError> {
    match filter {
        None => fingerprint_of(session, &table.live, &table.columns, Rows::Tree).await,
        Some(filter) => filtered(session, &table.live, table, filter).await,
    }
}

async fn filtered(session: &Session, of: &QualifiedName, table: &MergeTable, filter: &str) -> Result<Fingerprint, PgError> {
    fingerprint_of(session, of, &table.columns, Rows::Where(filter)).await
}

async fn execute(session: &Session, table: &MergeTable, what: &str, sql: &str) -> Result<u64, PgError> {
    session.execute(&format!("{what} {}", table.live), sql).await
}

fn names(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|c| quote_ident(&c.name)).collect()
}

/// The stored rows that are wanted, as a subquery `s`.
fn side(table: &MergeTable, filter: Option<&str>) -> String {
    // A line break ends a comment that the predicate may end with.
    let filter = filter.map(|f| format!(" WHERE ({f}\n)")).unwrap_or_default();
    format!("(SELECT * FROM {}{filter}) s", table.side.sql())
}

fn same_key(table: &MergeTable) -> String {
    table.key.iter().map(|k| format!("s.{0} = l.{0}", quote_ident(k))).collect::<Vec<_>>().join(" AND ")
}

fn delete_sql(table: &MergeTable, filter: Option<&str>) -> String {
    let mut conditions: Vec<String> = filter.map(|f| format!("({f}\n)")).into_iter().collect();
    if !table.key.is_empty() {
        conditions.push(format!("NOT EXISTS (SELECT FROM {} WHERE {})", side(table, filter), same_key(table)));
    }
    let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    format!("DELETE FROM {} l{filter}", table.live.sql())
}

/// Updates rows whose bytes differ: images of rows are compared, so that 1.0 is not 1.00.
fn update_sql(table: &MergeTable, filter: Option<&str>, always: &[String]) -> Option<String> {
    let columns = || table.columns.iter().map(|c| quote_ident(&c.name));
    let set: Vec<String> = table
        .columns
        .iter()
        .filter(|c| !always.contains(&c.name))
        .map(|c| format!("{0} = s.{0}", quote_ident(&c.name)))
        .collect();
    if set.is_empty() {
        return None;
    }
    let of = |alias: &str| columns().map(|c| format!("{alias}.{c}")).collect::<Vec<_>>().join(", ");
    Some(format!(
        "UPDATE {} l SET {} FROM {} WHERE {} AND pg_catalog.record_image_ne(ROW({}), ROW({}))",
        table.live.sql(),
        set.join(", "),
        side(table, filter),
        same_key(table),
        of("l"),
        of("s")
    ))
}

fn insert_sql(table: &MergeTable, mode: MergeMode, filter: Option<&str>) -> String {
    let columns = names(&table.columns).join(", ");
    let new = if mode == MergeMode::Replace && !table.key.is_empty() {
        format!(" WHERE NOT EXISTS (SELECT FROM {} l WHERE {})", table.live.sql(), same_key(table))
    } else {
        String::new()
    };
    if table.columns.is_empty() {
        // INSERT has no form for rows without columns from a query; such a table holds nothing but their number.
        return format!("INSERT INTO {} SELECT FROM {}", table.live.sql(), side(table, filter));
    }
    format!(
        "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {}{new}",
        table.live.sql(),
        side(table, filter)
    )
}

async fn identity_always(session: &Session, table: &QualifiedName) -> Result<Vec<String>, PgError> {
    let sql = "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND attidentity = 'a'";
    let rows = session.query("looking for identity columns", sql, &[&table.sql()]).await?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

/// Orders tables so that what others refer to comes first. Tables in a circle come in any order.
async fn parents_first(session: &Session, tables: &[MergeTable]) -> Result<Vec<usize>, PgError> {
    let names: Vec<String> = tables.iter().map(|t| t.live.sql()).collect();
    let rows = session
        .query(
            "looking for foreign keys",
            "SELECT a.n::int4, b.n::int4 FROM unnest($1::text[]) WITH ORDINALITY a(t, n)
             JOIN pg_constraint c ON c.contype = 'f' AND c.conrelid = a.t::regclass
             JOIN unnest($1::text[]) WITH ORDINALITY b(t, n) ON c.confrelid = b.t::regclass AND a.n <> b.n",
            &[&names],
        )
        .await?;
    let index = |n: i32| usize::try_from(n - 1).unwrap_or(0);
    let needs: Vec<(usize, usize)> = rows.iter().map(|r| (index(r.get(0)), index(r.get(1)))).collect();
    let mut order: Vec<usize> = Vec::new();
    while order.len() < tables.len() {
        let open = |n: &usize| !order.contains(n);
        let ready =
            (0..tables.len()).filter(open).find(|n| needs.iter().all(|(child, parent)| child != n || order.contains(parent)));
        order.push(ready.or_else(|| (0..tables.len()).find(open)).unwrap_or(0));
    }
    Ok(order)
}

/// Switches the tables' own triggers off; returns how to switch them on again.
async fn disable_triggers(session: &Session, tables: &[MergeTable]) -> Result<Vec<String>, PgError> {
    let mut again = Vec::new();
    for table in tables {
        let rows = session
            .query(
                "looking for triggers",
                "SELECT t.tgrelid::regclass::text, quote_ident(t.tgname), t.tgenabled = 'A'
                 FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled IN ('O', 'A')
                   AND t.tgrelid IN (SELECT $1::text::regclass::oid UNION SELECT relid FROM pg_partition_tree($1::text::regclass))",
                &[&table.live.sql()],
            )
            .await?;
        for row in &rows {
            let (relation, trigger, always): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
            let off = format!("ALTER TABLE {relation} DISABLE TRIGGER {trigger}");
            session.batch(&format!("switching off trigger {trigger} of {relation}"), &off).await?;
            again.push(format!("ALTER TABLE {relation} ENABLE {}TRIGGER {trigger}", if always { "ALWAYS " } else { "" }));
        }
    }
    Ok(again)
}

/// A deleted row must not take rows of other tables with it.
async fn refuse_actions(session: &Session, table: &MergeTable, all: &[MergeTable], filter: Option<&str>) -> Result<(), PgError> {
    let rows = session
        .query(
            "looking for what refers to the table",
            "SELECT c.conname::text, c.conrelid::regclass::text,
                    (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k(attnum, n)
                     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum),
                    (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.confkey) WITH ORDINALITY k(attnum, n)
                     JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum)
             FROM pg_constraint c WHERE c.contype = 'f' AND c.conparentid = 0 AND c.confrelid = $1::text::regclass
               AND c.confdeltype IN ('c', 'n', 'd')",
            &[&table.live.sql()],
        )
        .await?;
    for row in &rows {
        let (key, child): (String, String) = (row.get(0), row.get(1));
        let (from, to): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
        // What is replaced together is deleted in its own right, children first.
        if all.iter().any(|t| t.live.to_string() == child || t.live.sql() == child) {
            continue;
        }
        let pairs: Vec<String> =
            from.iter().zip(&to).map(|(f, t)| format!("c.{} = l.{}", quote_ident(f), quote_ident(t))).collect();
        let gone = delete_sql(table, filter).replacen("DELETE FROM", "SELECT * FROM", 1);
        let sql = format!("SELECT EXISTS (SELECT FROM {child} c JOIN ({gone}) l ON {})", pairs.join(" AND "));
        let touched: bool = session.query_one("looking for rows that would be deleted with it", &sql, &[]).await?.get(0);
        if touched {
            return Err(PgError::WouldCascade { table: table.live.clone(), child, key });
        }
    }
    Ok(())
}
