//! What belongs to the database itself and to no schema: settings, comment, grants, subscriptions.
//!
//! `pg_dump` keeps the first three only for a database that it creates itself, and a subscription with its password. *Invariant*: no
//! password leaves the server; a restored subscription is switched off and has no slot, so that dropping it touches nothing on
//! the publisher.

use dozo_model::{DatabaseFacts, DatabaseSetting, Subscription, quote_ident, quote_literal};

use crate::error::PgError;
use crate::session::Session;

/// Settings whose value is a list of names (`GUC_LIST_QUOTE`): each of them is quoted by itself.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Reads the facts of the database that the session is connected to. A subscription whose connection this role may not read has
/// none.
///
/// # Errors
/// What the server says.
pub async fn database_facts(session: &Session) -> Result<DatabaseFacts, PgError> {
    let what = "reading the database's settings";
    let row = session
        .query_one(
            what,
            "SELECT shobj_description(oid, 'pg_database'),
                    coalesce((SELECT array_agg(CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
                              || ' ' || a.privilege_type || CASE WHEN a.is_grantable THEN ' *' ELSE '' END ORDER BY a.n)
                              FROM aclexplode(datacl) WITH ORDINALITY a(grantor, grantee, privilege_type, is_grantable, n)), '{}'),
                    datacl IS NOT NULL
             FROM pg_database WHERE datname = current_database()",
            &[],
        )
        .await?;
    let mut facts =
        DatabaseFacts { comment: row.get(0), grants: row.get::<_, bool>(2).then(|| row.get(1)), ..Default::default() };
    let rows = session
        .query(
            what,
            "SELECT r.rolname::text, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
             FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole CROSS JOIN LATERAL unnest(s.setconfig) c
             WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1 NULLS FIRST, 2",
            &[],
        )
        .await?;
    facts.settings = rows.iter().map(|r| DatabaseSetting { role: r.get(0), name: r.get(1), value: r.get(2) }).collect();
    facts.subscriptions = subscriptions(session).await?;
    Ok(facts)
}

async fn subscriptions(session: &Session) -> Result<Vec<Subscription>, PgError> {
    let what = "listing the subscriptions";
    let readable = "SELECT has_column_privilege('pg_catalog.pg_subscription', 'subconninfo', 'SELECT')";
    let readable: bool = session.query_one(what, readable, &[]).await?.get(0);
    // Passwords go: `password = '…'` of either kind, and those within a URL.
    let connection = if readable {
        r"regexp_replace(regexp_replace(regexp_replace(subconninfo,
            '\m(ssl)?password\s*=\s*(''(\\.|[^''])*''|[^\s&]*)\s*', '', 'gi'), '(://[^:/@]*):[^@/]*@', '\1@'), '[?&]+$', '')"
    } else {
        "NULL::text"
    };
    let sql = format!(
        "SELECT subname::text, pg_get_userbyid(subowner)::text, {connection}, subpublications, subbinary, subslotname::text,
                obj_description(oid, 'pg_subscription')
         FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1"
    );
    let rows = session.query(what, &sql, &[]).await?;
    let read = |r: &tokio_postgres::Row| Subscription {
        name: r.get(0),
        owner: r.get(1),
        connection: r.get(2),
        publications: r.get(3),
        binary: r.get(4),
        slot: r.get(5),
        comment: r.get(6),
    };
    Ok(rows.iter().map(read).collect())
}

/// Writes the statements that give a new database its settings, comment and grants.
#[must_use]
pub fn database_statements(facts: &DatabaseFacts, database: &str, privileges: bool) -> Vec<String> {
    let name = quote_ident(database);
    let mut statements = Vec::new();
    for DatabaseSetting { role, name: setting, value } in &facts.settings {
        let value = if LISTS.contains(&setting.as_str()) {
            names(value).iter().map(|n| quote_literal(n)).collect::<Vec<_>>().join(", ")
        } else {
            quote_literal(value)
        };
        // An extension's setting has a point between two names.
        let setting = setting.split('.').map(quote_ident).collect::<Vec<_>>().join(".");
        statements.push(match role {
            Some(role) => format!("ALTER ROLE {} IN DATABASE {name} SET {setting} TO {value};", quote_ident(role)),
            None => format!("ALTER DATABASE {name} SET {setting} TO {value};"),
        });
    }
    if let Some(comment) = &facts.comment {
        statements.push(format!("COMMENT ON DATABASE {name} IS {};", quote_literal(comment)));
    }
    if let Some(grants) = facts.grants.as_ref().filter(|_| privileges) {
        statements.push(format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC;"));
        for grant in grants {
            let (grant, option) = grant.strip_suffix(" *").map_or((grant.as_str(), ""), |g| (g, " WITH GRANT OPTION"));
            if let Some((role, privilege @ ("CREATE" | "CONNECT" | "TEMPORARY"))) = grant.rsplit_once(' ') {
                statements.push(format!("GRANT {privilege} ON DATABASE {name} TO {role}{option};"));
            }
        }
    }
    statements
}

/// Writes the statements that make the subscriptions, switched off.
#[must_use]
pub fn subscription_statements(subscriptions: &[Subscription], owners: bool) -> Vec<String> {
    let mut statements = Vec::new();
    for subscription in subscriptions {
        let Some(connection) = &subscription.connection else { continue };
        let name = quote_ident(&subscription.name);
        let publications: Vec<String> = subscription.publications.iter().map(|p| quote_ident(p)).collect();
        let mut text = format!(
            "CREATE SUBSCRIPTION {name} CONNECTION {} PUBLICATION {} WITH (connect = false, slot_name = NONE, binary = {});",
            quote_literal(connection),
            publications.join(", "),
            subscription.binary
        );
        if let Some(comment) = &subscription.comment {
            text.push_str(&format!(" COMMENT ON SUBSCRIPTION {name} IS {};", quote_literal(comment)));
        }
        if owners {
            text.push_str(&format!(" ALTER SUBSCRIPTION {name} OWNER TO {};", quote_ident(&subscription.owner)));
        }
        statements.push(text);
    }
    statements
}

/// Takes a list of names apart: quoted ones may hold anything (`SplitGUCList`).
fn names(list: &str) -> Vec<String> {
    let (mut found, mut name, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                name.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => found.push(std::mem::take(&mut name)),
            ' ' if !quoted => {}
            c => name.push(c),
        }
    }
    found.push(name);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_quoted_as_they_must_be() {
        let setting = |role: Option<&str>, name: &str, value: &str| DatabaseSetting {
            role: role.map(str::to_owned),
            name: name.into(),
            value: value.into(),
        };
        let facts = DatabaseFacts {
            settings: vec![
                setting(None, "search_path", "\"$user\", app, \"a \"\"b, c\""),
                setting(Some("me"), "app.tenant", "it's"),
            ],
            grants: Some(vec!["PUBLIC TEMPORARY".into(), "\"a role\" CONNECT *".into()]),
            ..Default::default()
        };
        assert_eq!(
            database_statements(&facts, "d", true),
            [
                "ALTER DATABASE \"d\" SET \"search_path\" TO '$user', 'app', 'a \"b, c';",
                "ALTER ROLE \"me\" IN DATABASE \"d\" SET \"app\".\"tenant\" TO 'it''s';",
                "REVOKE ALL ON DATABASE \"d\" FROM PUBLIC;",
                "GRANT TEMPORARY ON DATABASE \"d\" TO PUBLIC;",
                "GRANT CONNECT ON DATABASE \"d\" TO \"a role\" WITH GRANT OPTION;",
            ]
        );
    }
}
