//! A partition tree as the catalogs have it, also what is half detached.

use dozo_model::{QualifiedName, quote_ident};

use crate::error::PgError;
use crate::session::Session;

/// Type of a partition key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// `date`
    Date,
    /// `timestamp`
    Timestamp,
    /// `timestamptz`
    Timestamptz,
}

/// A table or partition of a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// OID.
    pub oid: u32,
    /// Name.
    pub name: QualifiedName,
    /// OID of the partitioned table right above it; 0 for the root.
    pub parent: u32,
    /// `r` table, `p` partitioned table, `f` foreign table.
    pub kind: char,
    /// Its bound, as `pg_get_expr` prints it with the time zone UTC.
    pub bound: String,
    /// A concurrent detach of it has begun and not ended.
    pub pending: bool,
    /// Whether this role is its owner, or a member of it.
    pub owned: bool,
    /// Whether this role may read it, and sees all of its rows.
    pub readable: bool,
    /// `reltuples`; negative = never analyzed.
    pub rows_estimate: f64,
    /// Bytes with indexes and TOAST.
    pub bytes: u64,
    /// Column and type of its own partition key, where it is one column and RANGE.
    pub key: Option<(String, Option<KeyKind>)>,
}

impl Partition {
    /// Tells whether it takes what no other partition does.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.bound == "DEFAULT"
    }
}

/// A partition tree. The root is the first of its tables; every table comes behind its parent.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// All of it.
    pub tables: Vec<Partition>,
}

impl Tree {
    /// Returns the root.
    #[must_use]
    pub fn root(&self) -> &Partition {
        &self.tables[0]
    }

    /// Returns a table.
    #[must_use]
    pub fn get(&self, oid: u32) -> Option<&Partition> {
        self.tables.iter().find(|t| t.oid == oid)
    }

    /// Returns a table and everything below it, the table first.
    #[must_use]
    pub fn below(&self, oid: u32) -> Vec<&Partition> {
        let mut found: Vec<&Partition> = Vec::new();
        for table in &self.tables {
            if table.oid == oid || found.iter().any(|f| f.oid == table.parent) {
                found.push(table);
            }
        }
        found
    }

    /// Returns the tables above one, up to the root.
    #[must_use]
    pub fn above(&self, oid: u32) -> Vec<&Partition> {
        let parent = |t: &&Partition| self.get(t.parent);
        std::iter::successors(self.get(oid), parent).skip(1).collect()
    }

    /// Returns the partitions that are ranges of `column` alone.
    pub fn ranges_of<'a>(&'a self, column: &'a str) -> impl Iterator<Item = (&'a Partition, Option<KeyKind>)> {
        self.tables.iter().filter_map(move |t| {
            let (key, kind) = self.get(t.parent)?.key.as_ref()?;
            (key == column).then_some((t, *kind))
        })
    }
}

/// Reads a partition tree; none where the table does not exist or is not partitioned.
///
/// # Errors
/// What the server says.
pub async fn tree(session: &Session, root: &QualifiedName) -> Result<Option<Tree>, PgError> {
    let rows = session
        .query(
            "reading the partitions",
            "WITH RECURSIVE t(oid, parent, pending, level) AS (
                 SELECT to_regclass($1)::oid, 0::oid, false, 0
                 UNION ALL SELECT i.inhrelid, i.inhparent, i.inhdetachpending, t.level + 1
                 FROM t JOIN pg_inherits i ON i.inhparent = t.oid)
             SELECT c.oid, t.parent, t.pending, n.nspname::text, c.relname::text, c.relkind::text,
                    coalesce(pg_get_expr(c.relpartbound, c.oid), ''), pg_has_role(c.relowner, 'USAGE'),
                    has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
                        AND NOT (c.relrowsecurity AND row_security_active(c.oid)),
                    c.reltuples::float8, pg_total_relation_size(c.oid), a.attname::text, format_type(a.atttypid, NULL)
             FROM t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
             LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid
             LEFT JOIN pg_attribute a ON p.partstrat = 'r' AND p.partnatts = 1 AND a.attrelid = c.oid AND a.attnum = p.partattrs[0]
             ORDER BY t.level, 4, 5",
            &[&root.sql()],
        )
        .await?;
    let tables: Vec<Partition> = rows
        .iter()
        .map(|r| {
            let kind = |text: String| match text.as_str() {
                "date" => Some(KeyKind::Date),
                "timestamp without time zone" => Some(KeyKind::Timestamp),
                "timestamp with time zone" => Some(KeyKind::Timestamptz),
                _ => None,
            };
            let column: Option<String> = r.get(11);
            Partition {
                oid: r.get(0),
                parent: r.get(1),
                pending: r.get(2),
                name: QualifiedName::new(r.get::<_, String>(3), r.get::<_, String>(4)),
                kind: r.get::<_, String>(5).chars().next().unwrap_or(' '),
                bound: r.get(6),
                owned: r.get(7),
                readable: r.get(8),
                rows_estimate: r.get(9),
                bytes: u64::try_from(r.get::<_, Option<i64>>(10).unwrap_or(0)).unwrap_or(0),
                key: column.map(|column| (column, r.get::<_, Option<String>>(12).and_then(kind))),
            }
        })
        .collect();
    Ok(tables.first().is_some_and(|t| t.kind == 'p').then_some(Tree { tables }))
}

/// Writes the statements that make a partition as a sibling is: the table's indexes come by themselves; grants, owner, storage settings
/// and tablespace are the sibling's.
///
/// # Errors
/// What the server says.
pub async fn like_sibling(
    session: &Session,
    parent: &QualifiedName,
    sibling: &QualifiedName,
    name: &QualifiedName,
    bound: &str,
) -> Result<Vec<String>, PgError> {
    let row = session
        .query_one(
            "looking at the last partition",
            "SELECT coalesce(array_to_string(c.reloptions, ', '), ''), pg_get_userbyid(c.relowner)::text, s.spcname::text,
                    c.relpersistence::text,
                    array(SELECT format('GRANT %s ON %%s TO %s%s', a.privilege_type,
                                        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                                        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
                          FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner ORDER BY 1)
             FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE c.oid = to_regclass($1)",
            &[&sibling.sql()],
        )
        .await?;
    let (options, owner, space): (String, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
    let (persistence, grants): (String, Vec<String>) = (row.get(3), row.get(4));
    let unlogged = if persistence == "u" { "UNLOGGED " } else { "" };
    let with = if options.is_empty() { String::new() } else { format!(" WITH ({options})") };
    let space = space.map(|s| format!(" TABLESPACE {}", quote_ident(&s))).unwrap_or_default();
    let mut statements =
        vec![format!("CREATE {unlogged}TABLE {} PARTITION OF {} {bound}{with}{space}", name.sql(), parent.sql())];
    statements.push(format!("ALTER TABLE {} OWNER TO {}", name.sql(), quote_ident(&owner)));
    statements.extend(grants.into_iter().map(|grant| grant.replacen("%s", &name.sql(), 1)));
    Ok(statements)
}

/// Tells whether pg_partman makes the partitions of a table.
///
/// # Errors
/// What the server says.
pub async fn partman_manages(session: &Session, table: &QualifiedName) -> Result<bool, PgError> {
    let what = "looking for pg_partman";
    if !session.query_one(what, "SELECT to_regclass('partman.part_config') IS NOT NULL", &[]).await?.get::<_, bool>(0) {
        return Ok(false);
    }
    let sql = "SELECT EXISTS (SELECT FROM partman.part_config WHERE to_regclass(parent_table) = to_regclass($1))";
    Ok(session.query_one(what, sql, &[&table.sql()]).await?.get(0))
}
