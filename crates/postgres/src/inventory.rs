//! What belongs to tables beside their rows: indexes, keys, checks, triggers, policies, rules, and tables that it
//! inherits from, by name and digest of their definition.
//!
//! The source's catalogs are asked in the backup's snapshot, the restored database's after a restore: neither answer comes from `pg_dump`,
//! so a definition that was lost on the way is missed by name. Definitions are printed by the server with an empty `search_path`; two major
//! versions may print the same one differently, so digests are compared within one.

use std::collections::BTreeMap;

use dozo_model::{DefinitionsByTable, QualifiedName};

use crate::error::PgError;
use crate::session::Session;

/// Every definition that is of a table, not of an extension and not of the system. Invalid indexes are not dumped, so they are not
/// wanted; those of partitioned tables are. Not-null constraints are part of the columns. Foreign keys and triggers that a partition has from its
/// tree come with those of the tree, and may have other names then.
const DEFINITIONS: &str = "
SELECT n.nspname::text, c.relname::text, d.what, md5(d.text), d.refers
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT 'index ' || ic.relname AS what, pg_catalog.pg_get_indexdef(i.indexrelid) AS text, NULL::text AS refers
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND (i.indisvalid OR c.relkind = 'p')
    UNION ALL
    SELECT CASE t.contype WHEN 'f' THEN 'foreign key ' WHEN 'p' THEN 'primary key ' WHEN 'u' THEN 'unique ' WHEN 'x' THEN 'exclusion '
                          WHEN 't' THEN 'constraint trigger ' ELSE 'check ' END || t.conname, pg_catalog.pg_get_constraintdef(t.oid),
        (SELECT rn.nspname || '.' || r.relname FROM pg_catalog.pg_class r JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace WHERE r.oid = t.confrelid)
    FROM pg_catalog.pg_constraint t WHERE t.conrelid = c.oid AND t.contype <> 'n' AND NOT (t.contype = 'f' AND t.conparentid <> 0)
    UNION ALL
    SELECT 'trigger ' || t.tgname, pg_catalog.pg_get_triggerdef(t.oid) || t.tgenabled::text, NULL
    FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgparentid = 0
    UNION ALL
    SELECT 'policy ' || p.polname, p.polcmd::text || p.polpermissive::text
        || coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), '') || '/' || coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), ''), NULL
    FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid
    UNION ALL
    SELECT 'rule ' || r.rulename, pg_catalog.pg_get_ruledef(r.oid) || r.ev_enabled::text, NULL
    FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN'
    UNION ALL
    SELECT 'parent ' || p.relname, p.relname::text, NULL
    FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class p ON p.oid = h.inhparent WHERE h.inhrelid = c.oid AND NOT c.relispartition
) d
WHERE c.relkind IN ('r', 'p') AND d.text IS NOT NULL AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid AND e.deptype = 'e')";

/// Asks for the definitions that belong to the tables for which `wanted` says so.
///
/// # Errors
/// What the server says.
pub async fn table_definitions(
    session: &Session,
    wanted: impl Fn(&QualifiedName) -> bool,
) -> Result<DefinitionsByTable, PgError> {
    let mut found = DefinitionsByTable::new();
    for row in session.query("reading definitions", DEFINITIONS, &[]).await? {
        let table = QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        if wanted(&table) {
            let digest: String = row.get(3);
            let refers: Option<String> = row.get(4);
            let value = refers.map_or(digest.clone(), |table| format!("{digest} {table}"));
            found.entry(table.to_string()).or_default().insert(row.get(2), value);
        }
    }
    Ok(found)
}

/// Says what a restored database lacks, or has otherwise. Of tables that were restored without the others, keys to other tables, and what
/// a partition has from its tree alone, are not asked for. `texts` = the definitions' texts mean the same on both sides.
#[must_use]
pub fn lacking(expected: &DefinitionsByTable, found: &DefinitionsByTable, partial: bool, texts: bool) -> Vec<String> {
    let none = BTreeMap::new();
    let alone =
        |what: &str| ["index ", "primary key ", "unique ", "exclusion ", "check "].iter().any(|kind| what.starts_with(kind));
    let mut lacking = Vec::new();
    for (table, definitions) in expected {
        let there = found.get(table).unwrap_or(&none);
        for (what, digest) in definitions.iter().filter(|(what, _)| !partial || alone(what)) {
            match there.get(what) {
                None => lacking.push(format!("{what} of {table} is missing")),
                Some(other) if texts && other != digest => lacking.push(format!("{what} of {table} has another definition")),
                Some(_) => {}
            }
        }
    }
    lacking
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &[(&str, &str)]) -> DefinitionsByTable {
        let own = all.iter().map(|(what, digest)| ((*what).to_owned(), (*digest).to_owned())).collect();
        DefinitionsByTable::from([("public.orders".to_owned(), own)])
    }

    #[test]
    fn what_is_missing_is_named() {
        let expected = of(&[("index orders_user", "1"), ("foreign key orders_user_fk", "2"), ("trigger audit", "3")]);
        assert!(lacking(&expected, &expected, false, true).is_empty());
        let found = of(&[("foreign key orders_user_fk", "2"), ("trigger audit", "4")]);
        let named = ["index orders_user of public.orders is missing", "trigger audit of public.orders has another definition"];
        assert_eq!(lacking(&expected, &found, false, true), named);
        assert_eq!(lacking(&expected, &found, true, true), named[..1]);
        assert_eq!(lacking(&expected, &found, false, false), named[..1]);
        assert_eq!(lacking(&expected, &DefinitionsByTable::new(), false, true).len(), 3);
    }
}
