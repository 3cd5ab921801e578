//! Gives the tables of a dumped entry other names: for `restore --as`.
//!
//! pg_dump writes every name with its schema, so a lexer that knows strings, quoted names, dollar quotes and comments is
//! enough: it replaces `schema.name` pairs, and the name inside `'schema.name'::regclass`. Bodies of functions are
//! strings and stay as they are.

use std::collections::{BTreeMap, BTreeSet};

use dozo_model::{QualifiedName, quote_ident};

use crate::script::Entry;

/// Old names to new ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renames {
    /// Tables of a side copy.
    pub tables: BTreeMap<QualifiedName, QualifiedName>,
    /// Whole schemas.
    pub schemas: BTreeMap<String, String>,
}

impl Renames {
    /// Returns the new name of a table, sequence or view.
    #[must_use]
    pub fn apply(&self, name: &QualifiedName) -> QualifiedName {
        if let Some(new) = self.tables.get(name) {
            return new.clone();
        }
        match self.schemas.get(&name.schema) {
            Some(schema) => QualifiedName::new(schema, &name.name),
            None => name.clone(),
        }
    }

    fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.schemas.is_empty()
    }
}

/// Returns the statements of an entry under its new names; `None` when a side copy does without it.
#[must_use]
pub fn rewrite_entry(entry: &Entry, renames: &Renames) -> Option<String> {
    if renames.is_empty() {
        return Some(entry.sql.clone());
    }
    if entry.kind == "SCHEMA" {
        let new = renames.schemas.get(&entry.name).unwrap_or(&entry.name);
        return Some(format!("CREATE SCHEMA {};", quote_ident(new)));
    }
    let mut sql = entry.sql.clone();
    if !renames.tables.is_empty() {
        // Names of indexes and constraints are unique in a schema: the copy's are left to the server.
        match entry.kind.as_str() {
            "TABLE" | "DEFAULT" | "TABLE ATTACH" | "CHECK CONSTRAINT" | "COMMENT" => {}
            "SEQUENCE" if sql.contains("ADD GENERATED") => {
                let kept = sql.lines().filter(|l| !l.trim_start().starts_with("SEQUENCE NAME ")).collect::<Vec<_>>();
                sql = kept.join("\n");
            }
            "INDEX" => sql = without_index_name(&sql),
            "CONSTRAINT" => sql = without_constraint_name(&sql),
            _ => return None,
        }
        if entry.kind == "COMMENT" && !["TABLE ", "COLUMN "].iter().any(|k| entry.name.starts_with(k)) {
            return None;
        }
    }
    Some(rename(&sql, renames))
}

/// Tells whether statements mention one of `names`, outside strings and comments.
pub(crate) fn mentions(sql: &str, names: &BTreeSet<QualifiedName>) -> bool {
    let mut at = 0;
    while let Some(first) = token(&sql[at..]) {
        let (Token::Name { length, .. } | Token::Text { length, .. } | Token::Other { length }) = &first;
        at += length;
        if let Token::Name { value, .. } = first
            && let Some(rest) = sql[at..].strip_prefix('.')
            && let Some(Token::Name { value: second, .. }) = token(rest)
            && names.contains(&QualifiedName::new(value, second))
        {
            return true;
        }
    }
    false
}

/// Where a statement starts: behind the settings that an entry carries.
fn statement(sql: &str) -> usize {
    let mut at = 0;
    for line in sql.split_inclusive('\n') {
        if !line.trim().is_empty() && !line.starts_with("SET default_") {
            break;
        }
        at += line.len();
    }
    at
}

fn without_index_name(sql: &str) -> String {
    let start = statement(sql);
    let (settings, body) = sql.split_at(start);
    for prefix in ["CREATE UNIQUE INDEX ", "CREATE INDEX "] {
        if let Some(rest) = body.strip_prefix(prefix) {
            let rest = &rest[name_length(rest)..];
            let rest = rest.trim_start().strip_prefix("ON ONLY ").map_or(rest.trim_start().to_owned(), |r| format!("ON {r}"));
            // Statements behind the first one name the index.
            return format!("{settings}{prefix}{}", first_statement(&rest));
        }
    }
    sql.to_owned()
}

fn without_constraint_name(sql: &str) -> String {
    match sql.split_once("ADD CONSTRAINT ") {
        Some((head, rest)) => {
            let head = head.replace("ALTER TABLE ONLY ", "ALTER TABLE ");
            format!("{head}ADD {}", first_statement(rest[name_length(rest)..].trim_start()))
        }
        None => sql.to_owned(),
    }
}

fn first_statement(sql: &str) -> &str {
    sql.split_once(";\n").map_or(sql, |(first, _)| first)
}

/// Returns the length of the name in front.
fn name_length(sql: &str) -> usize {
    match token(sql) {
        Some(Token::Name { length, .. }) => length,
        _ => 0,
    }
}

enum Token {
    /// A plain or quoted name, and its meaning.
    Name { length: usize, value: String },
    /// A plain string literal, and its meaning.
    Text { length: usize, value: String },
    /// Anything else.
    Other { length: usize },
}

fn token(sql: &str) -> Option<Token> {
    let mut chars = sql.char_indices();
    let (_, first) = chars.next()?;
    let until = |pattern: &str, from: usize| sql[from..].find(pattern).map_or(sql.len(), |i| from + i + pattern.len());
    Some(match first {
        '"' | '\'' => {
            let mut value = String::new();
            let mut rest = sql[1..].char_indices().peekable();
            let mut length = sql.len();
            while let Some((i, c)) = rest.next() {
                if c == first {
                    if rest.peek().is_some_and(|(_, next)| *next == first) {
                        rest.next();
                    } else {
                        length = i + 2;
                        break;
                    }
                }
                value.push(c);
            }
            if first == '"' { Token::Name { length, value } } else { Token::Text { length, value } }
        }
        'E' if sql[1..].starts_with('\'') => {
            let mut escaped = false;
            let end = sql[2..].char_indices().find(|(_, c)| {
                let ends = *c == '\'' && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            });
            Token::Other { length: end.map_or(sql.len(), |(i, _)| i + 3) }
        }
        '$' => {
            let tag = sql[1..].find('$').map(|i| &sql[..i + 2]);
            let quoted = tag.filter(|t| t[1..t.len() - 1].chars().all(|c| c.is_alphanumeric() || c == '_'));
            Token::Other { length: quoted.map_or(1, |tag| until(tag, tag.len())) }
        }
        '-' if sql.starts_with("--") => Token::Other { length: until("\n", 2) },
        '/' if sql.starts_with("/*") => Token::Other { length: until("*/", 2) },
        c if c.is_alphabetic() || c == '_' => {
            let length = sql.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(sql.len());
            Token::Name { length, value: sql[..length].to_owned() }
        }
        c => Token::Other { length: c.len_utf8() },
    })
}

/// Returns the length of the string, name, comment or character in front.
pub(crate) fn token_length(sql: &str) -> usize {
    match token(sql) {
        Some(Token::Name { length, .. } | Token::Text { length, .. } | Token::Other { length }) => length,
        None => 0,
    }
}

fn rename(sql: &str, renames: &Renames) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut at = 0;
    while let Some(token) = token(&sql[at..]) {
        match token {
            Token::Name { length, value } => {
                let after = &sql[at + length..];
                let second = after.strip_prefix('.').and_then(|rest| match self::token(rest) {
                    Some(Token::Name { length, value }) => Some((length, value)),
                    _ => None,
                });
                let previous_is_dot = out.ends_with('.');
                match second {
                    Some((second_length, second_value)) if !previous_is_dot => {
                        let old = QualifiedName::new(value, second_value);
                        let new = renames.apply(&old);
                        if new == old {
                            out.push_str(&sql[at..=at + length]);
                            at += length + 1;
                        } else {
                            out.push_str(&new.sql());
                            at += length + 1 + second_length;
                        }
                    }
                    _ => {
                        out.push_str(&sql[at..at + length]);
                        at += length;
                    }
                }
            }
            Token::Text { length, value } => {
                if sql[at + length..].starts_with("::regclass") {
                    out.push_str(&dozo_model::quote_literal(&rename(&value, renames)));
                } else {
                    out.push_str(&sql[at..at + length]);
                }
                at += length;
            }
            Token::Other { length } => {
                out.push_str(&sql[at..at + length]);
                at += length;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Section;

    fn entry(kind: &str, sql: &str) -> Entry {
        Entry {
            id: 1,
            needs: vec![],
            name: "x".into(),
            kind: kind.into(),
            schema: None,
            section: Section::PostData,
            sql: sql.into(),
        }
    }

    #[test]
    fn renames_names_and_nothing_else() {
        let renames = Renames {
            tables: BTreeMap::from([(QualifiedName::new("public", "orders"), QualifiedName::new("public", "Old Orders"))]),
            schemas: BTreeMap::new(),
        };
        let sql = "CREATE TABLE public.orders (\n  a text DEFAULT 'public.orders',\n  public_orders int, b public.mark, -- public.orders\n  c bigint DEFAULT nextval('public.orders'::regclass), d text DEFAULT $q$public.orders$q$,\n  e public.\"orders\"\n);";
        let got = rewrite_entry(&entry("TABLE", sql), &renames).unwrap();
        assert_eq!(
            got,
            "CREATE TABLE \"public\".\"Old Orders\" (\n  a text DEFAULT 'public.orders',\n  public_orders int, b public.mark, -- public.orders\n  c bigint DEFAULT nextval('\"public\".\"Old Orders\"'::regclass), d text DEFAULT $q$public.orders$q$,\n  e \"public\".\"Old Orders\"\n);"
        );
        let index = "SET default_tablespace = '';\nCREATE UNIQUE INDEX \"orders idx\" ON ONLY public.orders USING btree (id);\nALTER TABLE public.orders CLUSTER ON x;";
        assert_eq!(
            rewrite_entry(&entry("INDEX", index), &renames).unwrap(),
            "SET default_tablespace = '';\nCREATE UNIQUE INDEX ON \"public\".\"Old Orders\" USING btree (id)"
        );
        let key = "ALTER TABLE ONLY public.orders\n    ADD CONSTRAINT orders_pkey PRIMARY KEY (id);";
        assert_eq!(
            rewrite_entry(&entry("CONSTRAINT", key), &renames).unwrap(),
            "ALTER TABLE \"public\".\"Old Orders\"\n    ADD PRIMARY KEY (id);"
        );
        assert_eq!(rewrite_entry(&entry("TRIGGER", "x"), &renames), None);
    }

    #[test]
    fn renames_schemas() {
        let renames = Renames { tables: BTreeMap::new(), schemas: BTreeMap::from([("s".into(), "t".into())]) };
        let sql = "ALTER TABLE ONLY s.a ALTER COLUMN s SET DEFAULT nextval('s.a_seq'::regclass) + x.s.y;";
        assert_eq!(
            rewrite_entry(&entry("DEFAULT", sql), &renames).unwrap(),
            "ALTER TABLE ONLY \"t\".\"a\" ALTER COLUMN s SET DEFAULT nextval('\"t\".\"a_seq\"'::regclass) + x.s.y;"
        );
    }
}
