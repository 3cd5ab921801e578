//! What belongs to the database itself and to no schema: settings, comment, grants, subscriptions.
//!
//! `pg_dump` keeps the first three only for a database that it creates itself, and a subscription with its password. *Invariant*: no
//! password leaves the server; a restored subscription is switched off and has no slot, so that dropping it touches nothing on
//! the publisher.

use std::collections::BTreeMap;

use dozo_model::{DatabaseFacts, DatabaseSetting, Subscription, quote_ident, quote_literal};

use crate::conninfo::keyword_values;
use crate::error::PgError;
use crate::grants;
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
    let sql = format!(
        "SELECT shobj_description(oid, 'pg_database'), {}, datacl IS NOT NULL FROM pg_database WHERE datname = current_database()",
        grants::listed("datacl")
    );
    let row = session.query_one(what, &sql, &[]).await?;
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
    // Newer versions have more options.
    let all = if readable { "subconninfo, (to_jsonb(s) - 'subconninfo')::text" } else { "NULL::text, '{}'" };
    let sql = format!(
        "SELECT subname::text, pg_get_userbyid(subowner)::text, subpublications, subslotname::text,
                obj_description(oid, 'pg_subscription'), {all}
         FROM pg_subscription s WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1"
    );
    let rows = session.query(what, &sql, &[]).await?;
    let read = |r: &tokio_postgres::Row| Subscription {
        name: r.get(0),
        owner: r.get(1),
        publications: r.get(2),
        slot: r.get(3),
        comment: r.get(4),
        connection: r.get::<_, Option<String>>(5).map(|text| without_secrets(&text)),
        options: options(&r.get::<_, String>(6)),
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
        let on = format!("DATABASE {name}");
        statements.push(format!("REVOKE ALL ON {on} FROM PUBLIC;"));
        statements.extend(grants::statements(grants, &["CREATE", "CONNECT", "TEMPORARY"], &on));
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
            "CREATE SUBSCRIPTION {name} CONNECTION {} PUBLICATION {} WITH (connect = false, slot_name = NONE{});",
            quote_literal(connection),
            publications.join(", "),
            subscription.options.iter().map(|(k, v)| format!(", {} = {}", quote_ident(k), quote_literal(v))).collect::<String>()
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

/// Options of a subscription that differ from their defaults, by the names of CREATE SUBSCRIPTION. Whether slots fail over is a matter
/// of the slot, which a restore does not make.
fn options(columns: &str) -> BTreeMap<String, String> {
    let columns: serde_json::Value = serde_json::from_str(columns).unwrap_or_default();
    let text = |column: &str| match &columns[column] {
        serde_json::Value::Bool(on) => Some(if *on { "on" } else { "off" }.to_owned()),
        serde_json::Value::String(text) => Some(text.clone()),
        _ => None,
    };
    let streaming = |value: String| match value.as_str() {
        "f" => "off".to_owned(),
        "t" => "on".to_owned(),
        "p" => "parallel".to_owned(),
        _ => value,
    };
    let found = [
        ("binary", "off", text("subbinary")),
        ("streaming", "off", text("substream").map(streaming)),
        ("two_phase", "off", text("subtwophasestate").map(|s| if s == "d" { "off" } else { "on" }.to_owned())),
        ("disable_on_error", "off", text("subdisableonerr")),
        ("password_required", "on", text("subpasswordrequired")),
        ("run_as_owner", "off", text("subrunasowner")),
        ("origin", "any", text("suborigin")),
        ("synchronous_commit", "off", text("subsynccommit")),
    ];
    let differs =
        |(name, default, value): (&str, &str, Option<String>)| value.filter(|v| v != default).map(|v| (name.to_owned(), v));
    found.into_iter().filter_map(differs).collect()
}

/// What of a connection text is kept. Whatever is not known to be harmless goes.
const HARMLESS: [&str; 12] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "sslmode",
    "sslrootcert",
    "application_name",
    "connect_timeout",
    "target_session_attrs",
    "channel_binding",
    "keepalives",
];

/// Writes a connection text again with its harmless parts only; a text that is neither form of libpq becomes empty.
fn without_secrets(text: &str) -> String {
    if let Some((scheme, rest)) = text.split_once("://")
        && ["postgres", "postgresql"].contains(&scheme)
    {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let user = user.split(':').next().unwrap_or_default();
        let kept: Vec<&str> =
            query.split('&').filter(|pair| HARMLESS.contains(&pair.split('=').next().unwrap_or_default())).collect();
        let at = if user.is_empty() { "" } else { "@" };
        let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
        return format!("{scheme}://{user}{at}{hosts}/{path}{query}");
    }
    let pairs = keyword_values(text).unwrap_or_default();
    let kept = pairs.iter().filter(|(key, _)| HARMLESS.contains(&key.as_str()));
    let quoted = kept.map(|(key, value)| {
        let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:,".contains(c));
        if plain { format!("{key}={value}") } else { format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
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
    fn no_secret_stays_in_a_connection_text() {
        for (text, kept) in [
            ("host=h password=Tr0ub&dor3 user=u", "host=h user=u"),
            ("host=h password=my\\ secret user=u", "host=h user=u"),
            ("password = 'a\\\\' sslpassword='s3cret' host='a b'", "host='a b'"),
            ("host=h passfile=/x scram_client_key=abc oauth_client_secret=z port=1", "host=h port=1"),
            ("postgresql://u:p%40w@h1:1,h2/db?password=x&sslmode=require", "postgresql://u@h1:1,h2/db?sslmode=require"),
            ("postgres://h/db", "postgres://h/db"),
            ("host=h password='never ended", ""),
        ] {
            assert_eq!(without_secrets(text), kept, "{text}");
        }
        let columns =
            r#"{"subbinary": true, "substream": "p", "subtwophasestate": "d", "suborigin": "none", "subsynccommit": "off"}"#;
        let found: Vec<(String, String)> = options(columns).into_iter().collect();
        let wanted = [("binary", "on"), ("origin", "none"), ("streaming", "parallel")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(found, wanted);
    }

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
