//! What stands in the way of a partition that is to leave: asked before anything is read, so that all of it can be told at once.

use std::collections::HashMap;

use dozo_model::QualifiedName;

use super::ledger::{LEDGER_SCHEMA, QUARANTINE};
use crate::error::PgError;
use crate::session::Session;
use crate::sql::predicate;

/// What stands in the way of partitions, by their OIDs, as people read it.
#[derive(Debug, Clone, Default)]
pub struct Obstacles(pub HashMap<u32, Vec<String>>);

/// What this role may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Privileges that are missing for the ledger and the quarantine.
    pub missing: Vec<String>,
    /// Publications that send the rows of one of the tables, by name.
    pub publications: Vec<String>,
    /// Sets of pg_partman that look after one of the tables: what it does with old partitions.
    pub partman: Option<String>,
}

/// Looks for views, functions, types and foreign keys that name one of `partitions` itself; for publications and privileges.
/// `tree` is all tables of the partition tree.
///
/// # Errors
/// What the server says.
pub async fn obstacles(session: &Session, tree: &[u32], partitions: &[u32]) -> Result<(Obstacles, Grants), PgError> {
    let what = "looking what stands in the way";
    let rows = session
        .query(
            what,
            // Foreign keys that were declared on the partition itself would keep it; those of its tree are judged by their rows.
            "SELECT confrelid, 'foreign key ' || quote_ident(conname) || ' of ' || conrelid::regclass::text || ' refers to it by name'
             FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND confrelid = ANY($1) AND conrelid <> confrelid
             UNION
             SELECT d.refobjid, CASE c.relkind WHEN 'm' THEN 'materialized view ' WHEN 'v' THEN 'view ' ELSE 'a rule of ' END || c.oid::regclass::text || ' reads it'
             FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class
             WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY($1) AND r.ev_class <> d.refobjid
             UNION
             SELECT d.refobjid, 'function ' || d.objid::regprocedure::text || ' reads it'
             FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY($1) AND d.deptype = 'n'
             UNION
             SELECT c.oid, pg_describe_object(d.classid, d.objid, d.objsubid) || ' has its type'
             FROM pg_class c JOIN pg_type y ON y.typrelid = c.oid
             JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid IN (y.oid, y.typarray) AND d.deptype = 'n'
             WHERE c.oid = ANY($1)
             ORDER BY 1, 2",
            &[&partitions],
        )
        .await?;
    let mut found = Obstacles::default();
    for row in &rows {
        found.0.entry(row.get(0)).or_default().push(row.get(1));
    }
    let row = session
        .query_one(
            what,
            "SELECT array(SELECT DISTINCT p.pubname::text FROM pg_publication_tables p
                          JOIN pg_class c ON c.relname = p.tablename JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = p.schemaname
                          WHERE c.oid = ANY($1) ORDER BY 1),
                    to_regnamespace($2::text) IS NOT NULL OR has_database_privilege(current_database(), 'CREATE'),
                    coalesce(has_schema_privilege(to_regnamespace($2::text)::oid, 'CREATE'), true),
                    coalesce(has_schema_privilege(to_regnamespace($3::text)::oid, 'CREATE'), has_database_privilege(current_database(), 'CREATE')),
                    to_regclass('partman.part_config') IS NOT NULL",
            &[&tree, &LEDGER_SCHEMA, &QUARANTINE],
        )
        .await?;
    let mut grants = Grants { publications: row.get(0), ..Grants::default() };
    if !row.get::<_, bool>(1) || !row.get::<_, bool>(2) {
        grants.missing.push(format!("CREATE for schema {LEDGER_SCHEMA}"));
    }
    if !row.get::<_, bool>(3) {
        grants.missing.push(format!("CREATE for schema {QUARANTINE}"));
    }
    if row.get(4) {
        let sql = "SELECT parent_table::text || coalesce(', retention ' || retention, '') FROM partman.part_config
                   WHERE to_regclass(parent_table)::oid = ANY($1) LIMIT 1";
        // Whether it may be read is its owner's affair.
        grants.partman = session.query(what, sql, &[&tree]).await.ok().and_then(|rows| rows.first().map(|r| r.get(0)));
    }
    Ok((found, grants))
}

/// Rows of a table that refer to rows of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referring {
    /// The partition.
    pub partition: u32,
    /// The table, or leaf, whose rows refer to it.
    pub table: u32,
    /// Its name.
    pub name: QualifiedName,
    /// How many.
    pub rows: u64,
}

/// Counts the rows that refer to rows of the `leaves` of a tree, by the foreign keys to the tree.
///
/// # Errors
/// What the server says.
pub async fn referring_rows(session: &Session, tables: &[u32], leaves: &[u32]) -> Result<Vec<Referring>, PgError> {
    let what = "looking for rows that refer to old ones";
    // Without those that a partition has from its table, and those that a key has for each partition that it refers to.
    let keys = session
        .query(
            what,
            "SELECT k.conrelid::regclass::text, k.confrelid::regclass::text,
                    (SELECT array_agg(format('r.%I OPERATOR(%I.%s) f.%I', pa.attname, opn.nspname, o.oprname, fa.attname) ORDER BY x.n)
                     FROM unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY x(f, r, op, n)
                     JOIN pg_attribute fa ON fa.attrelid = k.conrelid AND fa.attnum = x.f
                     JOIN pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attnum = x.r
                     JOIN pg_operator o ON o.oid = x.op JOIN pg_namespace opn ON opn.oid = o.oprnamespace)
             FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid = ANY($1)",
            &[&tables],
        )
        .await?;
    let mut found: HashMap<(u32, u32), Referring> = HashMap::new();
    for key in &keys {
        let (from, to, pairs): (String, String, Vec<String>) = (key.get(0), key.get(1), key.get(2));
        let sql = format!(
            "SELECT r.tableoid, f.tableoid, n.nspname::text, c.relname::text, x.count FROM
                 (SELECT r.tableoid, f.tableoid, count(*) FROM {from} f JOIN {to} r ON {}
                  WHERE r.tableoid = ANY($1) GROUP BY 1, 2) x(r, f, count)
             CROSS JOIN LATERAL (SELECT x.r AS tableoid) r CROSS JOIN LATERAL (SELECT x.f AS tableoid) f
             JOIN pg_class c ON c.oid = x.f JOIN pg_namespace n ON n.oid = c.relnamespace",
            pairs.join(" AND ")
        );
        for row in session.query(what, &sql, &[&leaves]).await? {
            let (partition, table): (u32, u32) = (row.get(0), row.get(1));
            let name = QualifiedName::new(row.get::<_, String>(2), row.get::<_, String>(3));
            let rows = u64::try_from(row.get::<_, i64>(4)).unwrap_or(0);
            found.entry((partition, table)).or_insert(Referring { partition, table, name, rows: 0 }).rows += rows;
        }
    }
    let mut found: Vec<Referring> = found.into_values().collect();
    found.sort_by(|a, b| (a.partition, &a.name).cmp(&(b.partition, &b.name)));
    Ok(found)
}

/// Counts the rows of a leaf that do not satisfy a person's predicate, as the session's snapshot shows them.
///
/// # Errors
/// What the server says.
pub async fn rows_outside(session: &Session, leaf: &QualifiedName, filter: &str) -> Result<u64, PgError> {
    let sql = format!("SELECT count(*) FROM ONLY {} WHERE {} IS NOT TRUE", leaf.sql(), predicate(filter));
    let row = session.query_one(&format!("looking for rows of {leaf} outside `where`"), &sql, &[]).await?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// Returns the folder of a server's data, where this role may know.
///
/// # Errors
/// When the connection breaks.
pub async fn data_folder(session: &Session) -> Result<Option<String>, PgError> {
    let sql = "SELECT setting FROM pg_settings WHERE name = 'data_directory'";
    let rows = session.query("asking for the data folder", sql, &[]).await?;
    Ok(rows.first().and_then(|r| r.get(0)))
}

/// Returns the bytes of tables, with indexes and TOAST.
///
/// # Errors
/// What the server says.
pub async fn bytes_of(session: &Session, tables: &[u32]) -> Result<u64, PgError> {
    let sql = "SELECT coalesce(sum(pg_total_relation_size(o)), 0)::int8 FROM unnest($1::oid[]) o";
    let bytes: i64 = session.query_one("measuring tables", sql, &[&tables]).await?.get(0);
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Returns the DEFAULT partition of a partitioned table.
///
/// # Errors
/// What the server says.
pub async fn default_of(session: &Session, parent: &QualifiedName) -> Result<Option<QualifiedName>, PgError> {
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partdefid
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.partrelid = to_regclass($1)::oid";
    let rows = session.query("looking for a DEFAULT partition", sql, &[&parent.sql()]).await?;
    Ok(rows.first().map(|r| QualifiedName::new(r.get::<_, String>(0), r.get::<_, String>(1))))
}

/// Counts rows of a table that satisfy a condition made by dozo.
///
/// # Errors
/// What the server says.
pub async fn rows_where(session: &Session, table: &QualifiedName, filter: &str) -> Result<u64, PgError> {
    let sql = format!("SELECT count(*) FROM {} WHERE {filter}", table.sql());
    let count: i64 = session.query_one(&format!("counting rows of {table}"), &sql, &[]).await?.get(0);
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Returns the OID of a table.
///
/// # Errors
/// What the server says.
pub async fn oid_of(session: &Session, table: &QualifiedName) -> Result<Option<u32>, PgError> {
    Ok(session.query_one("looking for a table", "SELECT to_regclass($1)::oid", &[&table.sql()]).await?.get(0))
}

/// Tells whether there is a table of this name that is no partition.
///
/// # Errors
/// What the server says.
pub async fn is_alone(session: &Session, table: &QualifiedName) -> Result<bool, PgError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1) AND NOT relispartition)";
    Ok(session.query_one("looking for a table", sql, &[&table.sql()]).await?.get(0))
}

/// Tells whether an interrupted restore waits to be continued.
///
/// # Errors
/// What the server says.
pub async fn restore_is_open(session: &Session) -> Result<bool, PgError> {
    let sql = "SELECT to_regclass('dozo.restore') IS NOT NULL";
    Ok(session.query_one("looking for an interrupted restore", sql, &[]).await?.get(0))
}
