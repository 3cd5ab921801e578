//! Large objects: their bytes as rows of a table that the server does not have, their owners and grants as facts beside.
//!
//! A row is a piece of an object: its OID, where the piece begins, its bytes; an empty object has one row without bytes. Read
//! through `lo_get`, which needs no superuser and sees what the snapshot sees. *Invariant*: the same statement is copied and
//! fingerprinted, in the source and in the target. A hole comes back as zeros, as pg_dump has it.

use dozo_model::{Column, LargeObjects, PgType, Profile, QualifiedName, quote_ident, quote_literal};

use crate::error::PgError;
use crate::grants;
use crate::session::Session;

/// Bytes of a piece.
pub const LARGE_OBJECT_PIECE: u64 = 1 << 20;
const PIECE: u64 = LARGE_OBJECT_PIECE;
/// Objects in one statement.
const BATCH: usize = 200;

/// Large objects that this role may read.
const READABLE: &str = "(SELECT rolsuper FROM pg_roles WHERE rolname = current_user) OR m.lomacl IS NULL AND pg_has_role(m.lomowner, 'USAGE')
    OR EXISTS (SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))";

/// Returns the name under which large objects stand among the tables.
#[must_use]
pub fn large_objects_name() -> QualifiedName {
    QualifiedName::new("pg_catalog", "pg_largeobject")
}

/// Returns the columns of their rows.
#[must_use]
pub fn large_object_columns(profile: Profile) -> Vec<Column> {
    let column = |(attnum, name, type_name, wire): (i16, &str, &str, PgType)| Column {
        name: name.into(),
        parquet_name: name.into(),
        type_name: type_name.into(),
        parquet: wire.parquet(profile),
        wire,
        attnum,
        not_null: true,
        generated: false,
        text_only: false,
        profile,
        labels: vec![],
    };
    let columns = [(1, "loid", "oid", PgType::Oid), (2, "at", "bigint", PgType::Int8), (3, "data", "bytea", PgType::Bytea)];
    columns.into_iter().map(column).collect()
}

/// Writes the rows as what stands behind FROM. Where an object ends is found out by asking for the first byte of the next piece:
/// opening it and seeking its end keeps state in the session, whose answers a planner may take for the same ones.
pub(crate) fn large_object_rows() -> String {
    format!(
        "(WITH RECURSIVE pieces(loid, at) AS (
         SELECT m.oid, 0::bigint FROM pg_largeobject_metadata m WHERE {READABLE}
         UNION ALL SELECT loid, at + {PIECE} FROM pieces WHERE octet_length(lo_get(loid, at + {PIECE}, 1)) = 1)
     SELECT loid, at, lo_get(loid, at, {PIECE}) AS data FROM pieces OFFSET 0) large_objects"
    )
}

/// Writes the statements that make the objects of the stage and fill them.
pub(crate) fn large_objects_from_stage(stage: &str) -> String {
    format!(
        "SELECT count(lo_create(loid)) FROM (SELECT DISTINCT loid FROM {stage}) d; SELECT count(lo_put(loid, at, data)::text) FROM {stage}"
    )
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LargeObjectCensus {
    /// Owners, grants and comments, with the objects that have the same.
    pub groups: Vec<LargeObjects>,
    /// Objects that this role may not read.
    pub unreadable: u64,
    /// Bytes, roughly.
    pub bytes: u64,
}

/// Looks at the large objects of the snapshot.
///
/// # Errors
/// What the server says.
pub async fn large_objects(session: &Session) -> Result<LargeObjectCensus, PgError> {
    let what = "listing the large objects";
    let sql = format!(
        "SELECT pg_get_userbyid(m.lomowner)::text, m.lomacl IS NOT NULL,
                {},
                obj_description(m.oid, 'pg_largeobject'), array_agg(m.oid ORDER BY m.oid), coalesce(({READABLE}), false)
         FROM pg_largeobject_metadata m GROUP BY 1, 2, 3, 4, 6 ORDER BY 5",
        grants::listed("m.lomacl")
    );
    let mut census = LargeObjectCensus::default();
    for row in session.query(what, &sql, &[]).await? {
        let oids: Vec<u32> = row.get(4);
        if !row.get::<_, bool>(5) {
            census.unreadable += oids.len() as u64;
            continue;
        }
        let grants = row.get::<_, bool>(1).then(|| row.get(2));
        census.groups.push(LargeObjects { owner: row.get(0), grants, comment: row.get(3), oids });
    }
    let row = session.query_one(what, "SELECT pg_relation_size('pg_catalog.pg_largeobject')", &[]).await?;
    census.bytes = row.get::<_, i64>(0).unsigned_abs();
    Ok(census)
}

/// Writes the statements that give restored objects their owners, grants and comments.
#[must_use]
pub fn large_object_statements(groups: &[LargeObjects], owners: bool, privileges: bool) -> Vec<String> {
    let mut statements = Vec::new();
    for group in groups {
        for oids in group.oids.chunks(BATCH) {
            let owner = quote_ident(&group.owner);
            let list = oids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            if owners {
                let alter = |oid: &u32| format!("ALTER LARGE OBJECT {oid} OWNER TO {owner};");
                statements.push(oids.iter().map(alter).collect::<Vec<_>>().join(" "));
            }
            if let Some(grants) = group.grants.as_ref().filter(|_| privileges) {
                let on = format!("LARGE OBJECT {list}");
                statements.push(format!("REVOKE ALL ON {on} FROM {owner};"));
                statements.extend(grants::statements(grants, &["SELECT", "UPDATE"], &on));
            }
            if let Some(comment) = &group.comment {
                let say = |oid: &u32| format!("COMMENT ON LARGE OBJECT {oid} IS {};", quote_literal(comment));
                statements.push(oids.iter().map(say).collect::<Vec<_>>().join(" "));
            }
        }
    }
    statements
}
