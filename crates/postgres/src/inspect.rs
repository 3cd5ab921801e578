//! Reads the catalogs: tables, sequences, materialized views, roles, dependents.
//!
//! Every statement here runs with an empty `search_path`, so that `regclass` and `format_type` print full names.

use std::collections::{BTreeMap, HashMap, HashSet};

use dozo_model::{MaterializedView, QualifiedName, SequenceValue};

use crate::error::PgError;
use crate::session::Session;

/// A table, partition or partitioned table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableInfo {
    /// OID.
    pub oid: u32,
    /// Name.
    pub name: QualifiedName,
    /// `r` table, `p` partitioned table, `f` foreign table.
    pub kind: char,
    /// `p` permanent, `u` unlogged, `t` temporary.
    pub persistence: char,
    /// Root of its partition tree.
    pub root: Option<(u32, QualifiedName)>,
    /// Partitioned table that it is a partition of.
    pub parent: Option<QualifiedName>,
    /// Partition bound.
    pub bound: Option<String>,
    /// `relfilenode`
    pub filenode: u32,
    /// `heap`
    pub access_method: String,
    /// `reltuples`; negative = never analyzed.
    pub rows_estimate: f64,
    /// `relpages` × block size.
    pub bytes_estimate: u64,
    /// SELECT on it and USAGE on its schema.
    pub select_granted: bool,
    /// USAGE on its schema.
    pub usage_granted: bool,
    /// Row-level security would filter rows for this role.
    pub row_security: bool,
    /// Owner.
    pub owner: String,
    /// Extension that it belongs to.
    pub extension: Option<String>,
    /// Which of its rows belong to users, if it is a table of an extension that has such: a condition, or nothing for all.
    pub configuration: Option<String>,
}

impl TableInfo {
    /// Tells whether it has rows of its own.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        self.kind == 'r'
    }
}

/// Lists tables, partitions, partitioned and foreign tables of the user's schemas, by name.
///
/// # Errors
/// What the server says.
pub async fn tables(session: &Session) -> Result<Vec<TableInfo>, PgError> {
    let rows = session
        .query(
            "listing the tables",
            "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
                    r.oid, rn.nspname::text, r.relname::text, pg_get_expr(c.relpartbound, c.oid), c.relfilenode,
                    coalesce(am.amname::text, ''), c.reltuples::float8,
                    c.relpages::int8 * current_setting('block_size')::int8,
                    has_table_privilege(c.oid, 'SELECT'), has_schema_privilege(n.oid, 'USAGE'),
                    c.relrowsecurity AND row_security_active(c.oid), pg_get_userbyid(c.relowner)::text,
                    (SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                     WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' LIMIT 1),
                    pn.nspname::text, pc.relname::text,
                    (SELECT coalesce(e.extcondition[array_position(e.extconfig, c.oid)], '') FROM pg_extension e
                     WHERE c.oid = ANY(e.extconfig) LIMIT 1)
             FROM pg_class c
             JOIN pg_namespace n ON n.oid = c.relnamespace
             LEFT JOIN pg_am am ON am.oid = c.relam
             LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid)
             LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
             LEFT JOIN pg_inherits i ON c.relispartition AND i.inhrelid = c.oid
             LEFT JOIN pg_class pc ON pc.oid = i.inhparent
             LEFT JOIN pg_namespace pn ON pn.oid = pc.relnamespace
             WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
               AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'
             ORDER BY 2, 3",
            &[],
        )
        .await?;
    let letter = |text: String| text.chars().next().unwrap_or(' ');
    Ok(rows
        .iter()
        .map(|row| {
            let usage: bool = row.get(14);
            let root: Option<u32> = row.get(5);
            let parent: Option<String> = row.get(18);
            TableInfo {
                oid: row.get(0),
                name: QualifiedName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
                kind: letter(row.get(3)),
                persistence: letter(row.get(4)),
                root: root.map(|oid| (oid, QualifiedName::new(row.get::<_, String>(6), row.get::<_, String>(7)))),
                parent: parent.map(|schema| QualifiedName::new(schema, row.get::<_, String>(19))),
                bound: row.get(8),
                filenode: row.get(9),
                access_method: row.get(10),
                rows_estimate: row.get(11),
                bytes_estimate: u64::try_from(row.get::<_, i64>(12)).unwrap_or(0),
                select_granted: row.get::<_, bool>(13) && usage,
                usage_granted: usage,
                row_security: row.get::<_, Option<bool>>(15).unwrap_or(false),
                owner: row.get(16),
                extension: row.get(17),
                configuration: row.get(20),
            }
        })
        .collect())
}

/// A sequence as the snapshot shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceInfo {
    /// Name.
    pub name: QualifiedName,
    /// Table that owns it (serial, identity).
    pub owned_by: Option<QualifiedName>,
    /// SELECT on it and USAGE on its schema.
    pub select_granted: bool,
}

/// Lists the sequences that belong to no extension, and those whose values an extension leaves to users.
///
/// # Errors
/// What the server says.
pub async fn sequences(session: &Session) -> Result<Vec<SequenceInfo>, PgError> {
    let rows = session
        .query(
            "listing the sequences",
            "SELECT n.nspname::text, c.relname::text, on_.nspname::text, o.relname::text,
                    has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                  AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
             LEFT JOIN pg_class o ON o.oid = d.refobjid
             LEFT JOIN pg_namespace on_ ON on_.oid = o.relnamespace
             WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
               AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e'
                               AND NOT EXISTS (SELECT FROM pg_extension x WHERE c.oid = ANY(x.extconfig)))
             ORDER BY 1, 2",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| {
            let owner: Option<String> = row.get(2);
            SequenceInfo {
                name: QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
                owned_by: owner.map(|schema| QualifiedName::new(schema, row.get::<_, String>(3))),
                select_granted: row.get(4),
            }
        })
        .collect())
}

/// Reads the values of sequences, after the snapshot and each on its own: they cannot be locked, and one that was dropped
/// meanwhile must not stop the others. Returns the values, and what could not be read with the reason.
///
/// # Errors
/// When the connection breaks.
pub async fn sequence_values(
    session: &Session,
    sequences: &[SequenceInfo],
) -> Result<(Vec<SequenceValue>, Vec<(QualifiedName, String)>), PgError> {
    let mut values = Vec::new();
    let mut unread = Vec::new();
    for SequenceInfo { name, owned_by, .. } in sequences {
        let sql = format!("SELECT last_value, is_called FROM {}", name.sql());
        match session.query_one(&format!("reading sequence {name}"), &sql, &[]).await {
            Ok(r) => values.push(SequenceValue {
                name: name.clone(),
                last_value: r.get(0),
                is_called: r.get(1),
                owned_by: owned_by.clone(),
            }),
            Err(PgError::Query { reason, .. }) => unread.push((name.clone(), reason)),
            Err(e) => return Err(e),
        }
    }
    Ok((values, unread))
}

/// Lists materialized views so that each comes after those that it reads, also through views.
///
/// # Errors
/// What the server says.
pub async fn materialized_views(session: &Session) -> Result<Vec<MaterializedView>, PgError> {
    let rows = session
        .query(
            "listing the materialized views",
            "SELECT c.oid, n.nspname::text, c.relname::text, c.relispopulated, c.relkind = 'm',
                    array(SELECT DISTINCT d.refobjid FROM pg_rewrite r JOIN pg_depend d
                          ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
                          WHERE r.ev_class = c.oid AND d.refobjid <> c.oid)
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('v', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 2, 3",
            &[],
        )
        .await?;
    let needs: BTreeMap<u32, Vec<u32>> = rows.iter().map(|r| (r.get(0), r.get(5))).collect();
    fn visit(oid: u32, needs: &BTreeMap<u32, Vec<u32>>, seen: &mut HashSet<u32>, order: &mut Vec<u32>) {
        if let Some(inner) = needs.get(&oid)
            && seen.insert(oid)
        {
            inner.iter().for_each(|i| visit(*i, needs, seen, order));
            order.push(oid);
        }
    }
    let (mut seen, mut order) = (HashSet::new(), Vec::new());
    rows.iter().for_each(|r| visit(r.get(0), &needs, &mut seen, &mut order));
    let views: HashMap<u32, MaterializedView> = rows
        .iter()
        .filter(|r| r.get(4))
        .map(|r| {
            let name = QualifiedName::new(r.get::<_, String>(1), r.get::<_, String>(2));
            (r.get(0), MaterializedView { name, populated: r.get(3), rows: None })
        })
        .collect();
    Ok(order.iter().filter_map(|oid| views.get(oid).cloned()).collect())
}

/// Lists every role that owns something in the database or is granted something there.
///
/// # Errors
/// What the server says.
pub async fn roles(session: &Session) -> Result<Vec<String>, PgError> {
    let rows = session
        .query(
            "listing the roles",
            "WITH o(owner, acl) AS (
                 SELECT relowner, relacl FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                 UNION ALL SELECT proowner, proacl FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                 UNION ALL SELECT typowner, typacl FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                 UNION ALL SELECT nspowner, nspacl FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
                 UNION ALL SELECT defaclrole, defaclacl FROM pg_default_acl
                 UNION ALL SELECT lomowner, lomacl FROM pg_largeobject_metadata
                 UNION ALL SELECT unnest(polroles), NULL FROM pg_policy)
             SELECT DISTINCT r.rolname::text FROM (
                 SELECT owner AS oid FROM o UNION SELECT (aclexplode(acl)).grantee FROM o WHERE acl IS NOT NULL
                 UNION SELECT (aclexplode(attacl)).grantee FROM pg_attribute WHERE attacl IS NOT NULL AND attrelid >= 16384) x
             JOIN pg_roles r ON r.oid = x.oid WHERE r.rolname !~ '^pg_' ORDER BY 1",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

/// Lists the foreign keys and views that need one of `tables` and belong to another table.
///
/// # Errors
/// What the server says.
pub async fn dependents(session: &Session, tables: &[u32]) -> Result<HashMap<u32, Vec<String>>, PgError> {
    let rows = session
        .query(
            "looking for what needs the tables left out",
            "SELECT confrelid, 'foreign key ' || conname || ' of ' || conrelid::regclass::text FROM pg_constraint
             WHERE contype = 'f' AND conparentid = 0 AND confrelid = ANY($1) AND conrelid <> ALL($1)
             UNION ALL
             SELECT DISTINCT d.refobjid, 'view ' || r.ev_class::regclass::text FROM pg_rewrite r
             JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
             WHERE d.refobjid = ANY($1) AND r.ev_class <> d.refobjid ORDER BY 1, 2",
            &[&tables],
        )
        .await?;
    let mut found: HashMap<u32, Vec<String>> = HashMap::new();
    for row in &rows {
        found.entry(row.get(0)).or_default().push(row.get(1));
    }
    Ok(found)
}

/// Counts the user mappings whose options this role may see, and pg_dump with it: they may be passwords.
///
/// # Errors
/// What the server says.
pub async fn visible_user_mappings(session: &Session) -> Result<u64, PgError> {
    let sql = "SELECT count(*) FROM pg_user_mappings WHERE umoptions IS NOT NULL";
    let count: i64 = session.query_one("counting user mappings", sql, &[]).await?.get(0);
    Ok(count.unsigned_abs())
}

/// Returns the first column of each partitioned table's key.
///
/// # Errors
/// What the server says.
pub async fn partition_keys(session: &Session) -> Result<HashMap<u32, String>, PgError> {
    let rows = session
        .query(
            "reading partition keys",
            "SELECT p.partrelid, a.attname::text FROM pg_partitioned_table p
             JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
}

/// Returns the columns of each table's primary key, in the key's order.
///
/// # Errors
/// What the server says.
pub async fn primary_keys(session: &Session) -> Result<HashMap<u32, Vec<String>>, PgError> {
    let rows = session
        .query(
            "reading primary keys",
            "SELECT i.indrelid, array_agg(a.attname::text ORDER BY k.n) FROM pg_index i
             CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE i.indisprimary AND k.n <= i.indnkeyatts GROUP BY 1",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
}

/// A database of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseInfo {
    /// Name.
    pub name: String,
    /// Why this role cannot connect to it.
    pub refuses: Option<String>,
}

/// Lists the databases of a server, without templates.
///
/// # Errors
/// What the server says.
pub async fn databases(session: &Session) -> Result<Vec<DatabaseInfo>, PgError> {
    let sql = "SELECT datname::text, CASE WHEN NOT datallowconn THEN 'it allows no connections'
                      WHEN NOT has_database_privilege(oid, 'CONNECT') THEN 'permission denied' END
               FROM pg_database WHERE NOT datistemplate ORDER BY 1";
    let rows = session.query("listing the databases", sql, &[]).await?;
    Ok(rows.iter().map(|r| DatabaseInfo { name: r.get(0), refuses: r.get(1) }).collect())
}
