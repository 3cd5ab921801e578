//! Rows into tables that are there already: loaded into side tables first, then appended or exchanged in one transaction.
//!
//! *Ordering*: side tables are loaded and compared with the manifest; then one transaction locks the live tables against
//! writers (`EXCLUSIVE`), deletes, updates and inserts by key, compares fingerprints, and commits. *Invariants*:
//! readers are never in the way and never see an empty or half table, also those with an older snapshot, because rows are
//! exchanged under the same table (a table that is swapped by name looks empty to an older snapshot, TRUNCATE too); what
//! depends on the table stays; foreign keys hold, and no `ON DELETE` action touches a row of another table. *Crash behaviour*:
//! before the commit the live tables are as they were; the next run continues with the side tables. What cannot go in is dropped.

use std::collections::HashMap;

use dozo_model::{Column, ErrorClass, Explain, Fingerprint, QualifiedName, SequenceValue, quote_ident, quote_literal};

use crate::error::PgError;
use crate::inspect::{self, TableInfo};
use crate::session::Session;
use crate::sql::{Rows, fingerprint_of, predicate};
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
    /// Whether it is a partitioned table; of any other only its own rows count, never those of inheritance children.
    pub partitioned: bool,
    /// It must hold no row before.
    pub must_be_empty: bool,
    /// Where the replaced rows are kept.
    pub keep: Option<QualifiedName>,
    /// Sum of the stored rows.
    pub stored: Fingerprint,
}

impl MergeTable {
    /// The live table as a statement names it.
    fn own(&self) -> String {
        if self.partitioned { self.live.sql() } else { format!("ONLY {}", self.live.sql()) }
    }
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
    /// Whether it is a partitioned table.
    pub partitioned: bool,
    /// Its leaves, if it is.
    pub leaves: Vec<QualifiedName>,
    /// Leaves whose rows live elsewhere.
    pub foreign_leaves: Vec<QualifiedName>,
}

impl RestoreTarget {
    /// Looks at live tables that are to take rows with these columns; `None` for one that is not there. The catalogs are read
    /// once for all of them.
    ///
    /// # Errors
    /// What the server says.
    pub async fn live_tables(&self, wanted: &[(QualifiedName, &[Column])]) -> Result<Vec<Option<LiveTable>>, PgError> {
        let session = self.session();
        let tables = inspect::tables(session).await?;
        let named: HashMap<&QualifiedName, &TableInfo> =
            tables.iter().filter(|t| matches!(t.kind, 'r' | 'p')).map(|t| (&t.name, t)).collect();
        let there: Vec<&TableInfo> = wanted.iter().filter_map(|(name, _)| named.get(name).copied()).collect();
        if there.is_empty() {
            return Ok(vec![None; wanted.len()]);
        }
        let columns = self.columns_of(&there).await?;
        let keys = inspect::primary_keys(session).await?;
        let oids: Vec<u32> = there.iter().map(|t| t.oid).collect();
        let sql = "SELECT ev_class, rulename::text FROM pg_rewrite WHERE ev_class = ANY($1) AND rulename <> '_RETURN'";
        let rules: Vec<(u32, String)> =
            session.query("looking for rules", sql, &[&oids]).await?.iter().map(|r| (r.get(0), r.get(1))).collect();
        let live = |(name, stored): &(QualifiedName, &[Column])| {
            let table = named.get(name)?;
            let found = columns.get(&table.oid).map_or(&[][..], Vec::as_slice);
            let rules = rules.iter().filter(|(oid, _)| *oid == table.oid).map(|(_, rule)| rule.as_str());
            Some(live_table(table, &tables, found, keys.get(&table.oid), rules, stored))
        };
        Ok(wanted.iter().map(live).collect())
    }

    /// Makes the table of progress and empty side tables, in one transaction. A predicate is tried on each of them.
    ///
    /// # Errors
    /// What the server says; then the target is as it was.
    pub async fn create_sides(&self, label: &str, tables: &[MergeTable], filter: Option<&str>) -> Result<(), PgError> {
        let mut statements = Vec::new();
        for table in tables {
            // Left by somebody who dropped the table of progress only.
            statements.push(format!("DROP TABLE IF EXISTS {}", table.side.sql()));
            // An unlogged copy of the columns, without defaults and constraints.
            statements.push(format!(
                "CREATE UNLOGGED TABLE {} AS SELECT {} FROM {} WITH NO DATA",
                table.side.sql(),
                names(&table.columns).join(", "),
                table.live.sql()
            ));
            statements.extend(filter.map(|f| format!("SELECT FROM {} WHERE {}", table.side.sql(), predicate(f))));
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
        sequences: &[SequenceValue],
        lock_timeout: std::time::Duration,
    ) -> Result<Vec<Merged>, PgError> {
        let session = self.session();
        // Each statement must see what was committed while the locks were waited for.
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '{}ms'",
            lock_timeout.as_millis().max(1)
        );
        session.batch("beginning the exchange", &begin).await?;
        let done = async {
            let merged = exchange(session, tables, mode, filter).await?;
            raise_sequences(session, sequences).await?;
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

    /// Drops side tables and the table of progress: nothing is to be continued.
    ///
    /// # Errors
    /// What the server says.
    pub async fn discard_sides(&self, tables: &[MergeTable]) -> Result<(), PgError> {
        for table in tables {
            self.session().batch("dropping a side table", &format!("DROP TABLE IF EXISTS {}", table.side.sql())).await?;
        }
        self.drop_progress().await
    }
}

/// Compares one live table with the columns that are stored for it.
fn live_table<'a>(
    table: &TableInfo,
    tables: &[TableInfo],
    found: &[Column],
    key: Option<&Vec<String>>,
    rules: impl Iterator<Item = &'a str>,
    stored: &[Column],
) -> LiveTable {
    let mut differences = Vec::new();
    for column in stored.iter().filter(|c| c.loaded()) {
        match found.iter().find(|c| c.name == column.name) {
            None => differences.push(format!("{} {} is missing", column.name, column.type_name)),
            Some(live) if live.generated => differences.push(format!("{} is generated", column.name)),
            Some(live) if (&live.wire, &live.labels) != (column.wire.unprinted(), &column.labels) => {
                differences.push(format!("{} is {} instead of {}", column.name, live.type_name, column.type_name));
            }
            Some(_) => {}
        }
    }
    let extra = found.iter().filter(|c| c.loaded() && !stored.iter().any(|o| o.name == c.name));
    differences.extend(extra.map(|c| format!("{} {} is not in the backup", c.name, c.type_name)));
    differences.extend(rules.map(|rule| format!("its rule {rule} would act on the rows")));
    let below = |t: &&TableInfo| t.oid == table.oid || t.root.as_ref().is_some_and(|(oid, _)| *oid == table.oid);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
    let rows_estimate = tables.iter().filter(below).filter(|t| t.has_rows()).map(|t| t.rows_estimate.max(0.0) as u64).sum();
    let of_kind = |kind: char| {
        let leaves = tables.iter().filter(below).filter(|t| t.oid != table.oid && t.kind == kind);
        leaves.map(|t| t.name.clone()).collect()
    };
    LiveTable {
        key: key.cloned().unwrap_or_default(),
        differences,
        rows_estimate,
        partitioned: table.kind == 'p',
        leaves: of_kind('r'),
        foreign_leaves: of_kind('f'),
    }
}

/// Lets sequences go on behind the stored rows; one that is further stays where it is.
async fn raise_sequences(session: &Session, values: &[SequenceValue]) -> Result<(), PgError> {
    for value in values.iter().filter(|v| v.is_called) {
        let (name, last) = (value.name.sql(), value.last_value);
        let literal = quote_literal(&name);
        let sql = format!(
            "SELECT setval({literal}, {last}, true) FROM {name}, pg_sequence
             WHERE seqrelid = {literal}::regclass
               AND (CASE WHEN seqincrement > 0 THEN last_value < {last} ELSE last_value > {last} END OR last_value = {last} AND NOT is_called)"
        );
        session.batch(&format!("raising {}", value.name), &sql).await?;
    }
    Ok(())
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
        // EXCLUSIVE lets readers through, but nobody who would refer to a row that is to go (FOR KEY SHARE).
        session.batch(&format!("locking {live}"), &format!("LOCK TABLE {} IN EXCLUSIVE MODE", tables[*n].own())).await?;
    }
    let triggers = disable_triggers(session, tables).await?;
    let mut changes = vec![(0, 0, 0); tables.len()];
    let mut before = Vec::new();
    for table in tables {
        before.push(if mode == MergeMode::Append { live_fingerprint(session, table, None).await? } else { Fingerprint::EMPTY });
        if table.must_be_empty && before.last().is_some_and(|f| f.rows > 0) {
            return Err(PgError::NotEmpty { table: table.live.clone() });
        }
        if let Some(keep) = &table.keep {
            let sql = format!("CREATE TABLE {} AS SELECT * FROM {}", keep.sql(), table.own());
            session.batch(&format!("keeping the rows of {}", table.live), &sql).await?;
        }
    }
    if mode == MergeMode::Replace {
        for n in order.iter().rev() {
            refuse_actions(session, &tables[*n], filter).await?;
            changes[*n].0 = execute(session, &tables[*n], "replacing rows of", &delete_sql(&tables[*n], filter)).await?;
        }
    }
    for n in &order {
        let table = &tables[*n];
        if mode == MergeMode::Replace && !table.key.is_empty() {
            let always = identity_always(session, &table.live).await?;
            refuse_update_actions(session, table).await?;
            if let Some(sql) = update_sql(table, filter, &always) {
                changes[*n].1 = execute(session, table, "replacing rows of", &sql).await?;
            }
        }
        changes[*n].2 = execute(session, table, "adding rows to", &insert_sql(table, mode, filter)).await?;
    }
    // Keys that are checked at the end are checked now: triggers cannot be switched while a check is open.
    session.batch("checking deferred keys", "SET CONSTRAINTS ALL IMMEDIATE").await?;
    for sql in &triggers {
        session.batch("switching triggers on again", sql).await?;
    }
    let mut merged = Vec::new();
    for ((table, changes), before) in tables.iter().zip(changes).zip(before) {
        let (expected, found) = match (mode, filter) {
            (MergeMode::Append, None) => (before + table.stored, live_fingerprint(session, table, None).await?),
            (MergeMode::Append, Some(filter)) => {
                let side = stored_where(session, table, filter).await?;
                (before + side, live_fingerprint(session, table, None).await?)
            }
            (MergeMode::Replace, None) => (table.stored, live_fingerprint(session, table, None).await?),
            (MergeMode::Replace, Some(filter)) => {
                (stored_where(session, table, filter).await?, live_fingerprint(session, table, Some(filter)).await?)
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
        None => {
            fingerprint_of(session, &table.live, &table.columns, if table.partitioned { Rows::Tree } else { Rows::Own }).await
        }
        Some(filter) => {
            let rows = Rows::Where { only: !table.partitioned, filter };
            fingerprint_of(session, &table.live, &table.columns, rows).await
        }
    }
}

async fn stored_where(session: &Session, table: &MergeTable, filter: &str) -> Result<Fingerprint, PgError> {
    fingerprint_of(session, &table.side, &table.columns, Rows::Where { only: true, filter }).await
}

async fn execute(session: &Session, table: &MergeTable, what: &str, sql: &str) -> Result<u64, PgError> {
    session.execute(&format!("{what} {}", table.live), sql).await
}

fn names(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|c| quote_ident(&c.name)).collect()
}

/// The stored rows that are wanted, as a subquery `s`.
fn side(table: &MergeTable, filter: Option<&str>) -> String {
    let filter = filter.map(|f| format!(" WHERE {}", predicate(f))).unwrap_or_default();
    format!("(SELECT * FROM {}{filter}) s", table.side.sql())
}

fn same_key(table: &MergeTable) -> String {
    table.key.iter().map(|k| format!("s.{0} = l.{0}", quote_ident(k))).collect::<Vec<_>>().join(" AND ")
}

/// Which live rows go, as a condition on `l`: those in scope that have no stored row of their key, whatever the predicate says
/// about that one.
fn gone(table: &MergeTable, filter: Option<&str>) -> String {
    let mut conditions: Vec<String> = filter.map(predicate).into_iter().collect();
    if !table.key.is_empty() {
        conditions.push(format!("NOT EXISTS (SELECT FROM {} WHERE {})", side(table, None), same_key(table)));
    }
    if conditions.is_empty() { "true".into() } else { conditions.join(" AND ") }
}

fn delete_sql(table: &MergeTable, filter: Option<&str>) -> String {
    format!("DELETE FROM {} l WHERE {}", table.own(), gone(table, filter))
}

/// Updates rows whose bytes differ: images of rows are compared, so that 1.0 is not 1.00. In scope is a key whose live or
/// whose stored row satisfies the predicate.
fn update_sql(table: &MergeTable, filter: Option<&str>, always: &[String]) -> Option<String> {
    let set: Vec<String> = table
        .columns
        .iter()
        .filter(|c| !always.contains(&c.name))
        .map(|c| format!("{0} = s.{0}", quote_ident(&c.name)))
        .collect();
    if set.is_empty() {
        return None;
    }
    let of = |alias: &str| names(&table.columns).iter().map(|c| format!("{alias}.{c}")).collect::<Vec<_>>().join(", ");
    let scope = filter.map(|f| {
        let place = |of: &str| format!("(SELECT tableoid, ctid FROM {of} WHERE {})", predicate(f));
        format!(" AND ((s.tableoid, s.ctid) IN {} OR (l.tableoid, l.ctid) IN {})", place(&table.side.sql()), place(&table.own()))
    });
    Some(format!(
        "UPDATE {} l SET {} FROM {} s WHERE {} AND pg_catalog.record_image_ne(ROW({}), ROW({})){}",
        table.own(),
        set.join(", "),
        table.side.sql(),
        same_key(table),
        of("l"),
        of("s"),
        scope.unwrap_or_default()
    ))
}

fn insert_sql(table: &MergeTable, mode: MergeMode, filter: Option<&str>) -> String {
    let columns = names(&table.columns).join(", ");
    let new = if mode == MergeMode::Replace && !table.key.is_empty() {
        format!(" WHERE NOT EXISTS (SELECT FROM {} l WHERE {})", table.own(), same_key(table))
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

/// Switches the triggers of the tables and of their partitions off; returns how to switch each on again as it was.
async fn disable_triggers(session: &Session, tables: &[MergeTable]) -> Result<Vec<String>, PgError> {
    let mut again = Vec::new();
    for table in tables {
        let rows = session
            .query(
                "looking for triggers",
                "SELECT t.tgrelid::regclass::text, quote_ident(t.tgname), t.tgenabled = 'A'
                 FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
                   AND t.tgrelid IN (SELECT $1::text::regclass::oid UNION SELECT relid FROM pg_partition_tree($1::text::regclass))",
                &[&table.live.sql()],
            )
            .await?;
        for row in &rows {
            let (relation, trigger, always): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
            let off = format!("ALTER TABLE ONLY {relation} DISABLE TRIGGER {trigger}");
            session.batch(&format!("switching off trigger {trigger} of {relation}"), &off).await?;
            again.push(format!("ALTER TABLE ONLY {relation} ENABLE {}TRIGGER {trigger}", if always { "ALWAYS " } else { "" }));
        }
    }
    Ok(again)
}

/// A foreign key to a live table, to one of its partitions, or to the tree that it is a partition of.
struct Inbound {
    name: String,
    child: String,
    own: bool,
    from: Vec<String>,
    to: Vec<String>,
}

impl Inbound {
    fn join(&self, parent: &str) -> String {
        let pair = |(f, t): (&String, &String)| format!("c.{} = {parent}.{}", quote_ident(f), quote_ident(t));
        self.from.iter().zip(&self.to).map(pair).collect::<Vec<_>>().join(" AND ")
    }
}

/// Lists foreign keys whose action on delete, or on update, changes the rows that refer.
async fn inbound(session: &Session, table: &MergeTable, action: &str) -> Result<Vec<Inbound>, PgError> {
    let sql = format!(
        "SELECT DISTINCT c.conname::text, c.conrelid::regclass::text, c.conrelid = $1::text::regclass,
                (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k(attnum, n)
                 JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum),
                (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.confkey) WITH ORDINALITY k(attnum, n)
                 JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum)
         FROM pg_constraint c WHERE c.contype = 'f' AND c.{action} IN ('c', 'n', 'd')
           AND c.confrelid IN (SELECT $1::text::regclass::oid UNION SELECT relid FROM pg_partition_tree($1::text::regclass)
                               UNION SELECT relid FROM pg_partition_ancestors($1::text::regclass))"
    );
    let rows = session.query("looking for what refers to the table", &sql, &[&table.live.sql()]).await?;
    let key = |r: &tokio_postgres::Row| Inbound { name: r.get(0), child: r.get(1), own: r.get(2), from: r.get(3), to: r.get(4) };
    Ok(rows.iter().map(key).collect())
}

async fn refuse_if(session: &Session, table: &MergeTable, key: &Inbound, exists: &str) -> Result<(), PgError> {
    let touched: bool = session.query_one("looking for rows that would change with it", exists, &[]).await?.get(0);
    if touched {
        return Err(PgError::WouldCascade { table: table.live.clone(), child: key.child.clone(), key: key.name.clone() });
    }
    Ok(())
}

/// A deleted row must not take rows of other tables with it, nor rows of its own that stay. Rows of tables that are replaced
/// together were deleted before, children first: what still refers is there to stay.
async fn refuse_actions(session: &Session, table: &MergeTable, filter: Option<&str>) -> Result<(), PgError> {
    for key in inbound(session, table, "confdeltype").await? {
        let gone = format!("SELECT l.*, l.tableoid dozo_t, l.ctid dozo_c FROM {} l WHERE {}", table.own(), gone(table, filter));
        let stays = if key.own { " AND (c.tableoid, c.ctid) NOT IN (SELECT dozo_t, dozo_c FROM gone)" } else { "" };
        let sql =
            format!("WITH gone AS ({gone}) SELECT EXISTS (SELECT FROM {} c JOIN gone ON {}{stays})", key.child, key.join("gone"));
        refuse_if(session, table, &key, &sql).await?;
    }
    Ok(())
}

/// Nor must a changed row change what refers to it.
async fn refuse_update_actions(session: &Session, table: &MergeTable) -> Result<(), PgError> {
    for key in inbound(session, table, "confupdtype").await? {
        let of = |alias: &str| key.to.iter().map(|c| format!("{alias}.{}", quote_ident(c))).collect::<Vec<_>>().join(", ");
        if key.to.iter().any(|c| !table.columns.iter().any(|o| &o.name == c)) {
            continue;
        }
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {} l JOIN {} s ON {} JOIN {} c ON {} WHERE pg_catalog.record_image_ne(ROW({}), ROW({})))",
            table.own(),
            table.side.sql(),
            same_key(table),
            key.child,
            key.join("l"),
            of("l"),
            of("s")
        );
        refuse_if(session, table, &key, &sql).await?;
    }
    Ok(())
}
