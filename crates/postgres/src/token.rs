//! The change token: has a table changed since it was copied?
//!
//! A token is the relfilenode, the number of row versions that the snapshot sees, the sum of `hashtidextended(ctid, xmin)` over
//! them, and a digest of everything that decides what the same bytes on disk mean ([`token_shapes`]). *Invariant*: equal tokens
//! from the same server process, timeline and database mean the same rows. It says nothing across a restart: a data folder that
//! was rolled back to a copy repeats (ctid, xmin) with other rows. Tables whose rows can show something else without being
//! touched get no token at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dozo_model::{Algorithm, BlockRange, Column, QualifiedName, RowVersions, Sha256Digest};

use crate::error::PgError;
use crate::inspect::TableInfo;
use crate::session::{ServerFacts, Session};
use crate::sql::block_filter;
use crate::wire::TextRow;

/// Raised whenever an encoder is mended: what older ones wrote is copied again.
const WRITER_EPOCH: u32 = 1;
/// Values of these types print other things when something else changes.
const RESTLESS: [&str; 2] = ["aclitem", "_aclitem"];

/// What a token's shape is, or why a table can have no token.
pub type TokenShape = Result<Sha256Digest, &'static str>;

/// Digests what decides the meaning of each table's bytes: every live column's number, name, type, modifier, collation,
/// generation expression and missing value; recursively the types; the server's encoding and money; how dozo writes them.
///
/// # Errors
/// What the server says.
pub async fn token_shapes(
    session: &Session,
    facts: &ServerFacts,
    tables: &[&TableInfo],
    columns: impl Fn(u32) -> Vec<Column>,
) -> Result<HashMap<u32, TokenShape>, PgError> {
    let oids: Vec<u32> = tables.iter().map(|t| t.oid).collect();
    let rows = session
        .query(
            "reading what the columns mean",
            "SELECT a.attrelid,
                    jsonb_agg(jsonb_build_array(a.attnum, a.attname::text, a.atttypid::int8, a.atttypmod, a.attcollation::int8,
                              a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid), a.attmissingval::text) ORDER BY a.attnum)::text,
                    array_agg(DISTINCT a.atttypid), bool_or(a.attgenerated = 'v')
             FROM pg_attribute a
             LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> ''
             WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped GROUP BY 1",
            &[&oids],
        )
        .await?;
    type Described = (String, Vec<u32>, bool);
    let described: HashMap<u32, Described> = rows.iter().map(|r| (r.get(0), (r.get(1), r.get(2), r.get(3)))).collect();
    let used: BTreeSet<u32> = described.values().flat_map(|(_, types, _)| types.iter().copied()).collect();
    let types = Types::load(session, &used.into_iter().collect::<Vec<_>>()).await?;
    let shape = |table: &TableInfo| -> TokenShape {
        if table.persistence != 'p' {
            return Err("unlogged: a crash empties it");
        }
        if table.access_method != "heap" {
            return Err("its access method is not heap");
        }
        let none = (String::new(), vec![], false);
        let (text, own, virtual_columns) = described.get(&table.oid).unwrap_or(&none);
        if *virtual_columns {
            return Err("it has virtual generated columns");
        }
        let reached = types.reachable(own);
        if reached.values().any(|t| t.restless) {
            return Err("it has columns whose text depends on other objects");
        }
        let meanings: Vec<(&u32, &str)> = reached.iter().map(|(oid, t)| (oid, t.text.as_str())).collect();
        let columns = columns(table.oid);
        let all = (text, meanings, &facts.lc_monetary, &facts.encoding, Algorithm::of(&columns).id(), WRITER_EPOCH, &columns);
        let json = serde_json::to_string(&all).map_err(|_| "its columns cannot be described")?;
        Ok(Sha256Digest::of(json.as_bytes()))
    };
    Ok(tables.iter().map(|t| (t.oid, shape(t))).collect())
}

struct TypeMeaning {
    text: String,
    uses: Vec<u32>,
    restless: bool,
}

struct Types(HashMap<u32, TypeMeaning>);

impl Types {
    /// Loads these types and whatever they are made of.
    async fn load(session: &Session, oids: &[u32]) -> Result<Self, PgError> {
        let rows = session
            .query(
                "reading what the types mean",
                "WITH RECURSIVE edges(owner, used) AS (
                     SELECT oid, typbasetype FROM pg_type WHERE typbasetype <> 0
                     UNION ALL SELECT oid, typelem FROM pg_type WHERE typelem <> 0
                     UNION ALL SELECT rngtypid, rngsubtype FROM pg_range
                     UNION ALL SELECT rngmultitypid, rngsubtype FROM pg_range
                     UNION ALL SELECT t.oid, a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
                               WHERE t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped),
                 reach(oid) AS (SELECT unnest($1::oid[]) UNION SELECT e.used FROM reach r JOIN edges e ON e.owner = r.oid)
                 SELECT t.oid, n.nspname = 'pg_catalog' AND t.typname ~ '^_?reg', t.typname::text,
                        jsonb_build_array(n.nspname::text, t.typname::text, t.typtype::text, t.typbasetype::int8, t.typtypmod,
                            t.typelem::int8, t.typcollation::int8,
                            (SELECT jsonb_agg(jsonb_build_array(e.oid::int8, e.enumlabel::text) ORDER BY e.enumsortorder)
                             FROM pg_enum e WHERE e.enumtypid = t.oid),
                            (SELECT jsonb_agg(jsonb_build_array(a.attnum, a.attname::text, a.atttypid::int8, a.atttypmod) ORDER BY a.attnum)
                             FROM pg_attribute a WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
                            (SELECT jsonb_agg(jsonb_build_array(g.rngsubtype::int8, g.rngcollation::int8, g.rngsubopc::int8))
                             FROM pg_range g WHERE t.oid IN (g.rngtypid, g.rngmultitypid)),
                            (SELECT jsonb_agg(jsonb_build_array(x.extname::text, x.extversion)) FROM pg_depend d
                             JOIN pg_extension x ON x.oid = d.refobjid
                             WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'))::text,
                        array(SELECT e.used FROM edges e WHERE e.owner = t.oid)
                 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid IN (SELECT oid FROM reach)",
                &[&oids],
            )
            .await?;
        let meaning = |r: &tokio_postgres::Row| {
            let (reg, name): (bool, String) = (r.get(1), r.get(2));
            let restless = reg || RESTLESS.contains(&name.as_str());
            (r.get(0), TypeMeaning { text: r.get(3), uses: r.get(4), restless })
        };
        Ok(Self(rows.iter().map(meaning).collect()))
    }

    fn reachable(&self, own: &[u32]) -> BTreeMap<u32, &TypeMeaning> {
        let mut found = BTreeMap::new();
        let mut open = own.to_vec();
        while let Some(oid) = open.pop() {
            if let Some(meaning) = self.0.get(&oid)
                && found.insert(oid, meaning).is_none()
            {
                open.extend(&meaning.uses);
            }
        }
        found
    }
}

/// Writes the statement that counts and sums the row versions that the snapshot sees in a range of a table.
pub(crate) fn row_versions_sql(table: &QualifiedName, blocks: BlockRange) -> String {
    format!(
        "SELECT count(*), coalesce(sum(hashtidextended(ctid, xmin::text::int8)), 0) FROM ONLY {}{}",
        table.sql(),
        block_filter(blocks)
    )
}

/// Reads its answer.
pub(crate) fn row_versions(answer: &[TextRow]) -> Option<RowVersions> {
    let [row] = answer else { return None };
    let [Some(versions), Some(sum)] = row.as_slice() else { return None };
    Some(RowVersions { versions: versions.parse().ok()?, version_sum: modulo(sum)? })
}

/// Reads a sum of 64-bit integers, modulo 2⁶⁴.
pub(crate) fn modulo(sum: &str) -> Option<u64> {
    let sum: i128 = sum.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the sum is taken modulo 2^64")]
    Some(sum as u64)
}
