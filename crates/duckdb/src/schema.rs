//! The schema of a file as SQL, in an order in which it runs.
//!
//! DuckDB's own EXPORT DATABASE loses comments, refuses tables that refer to themselves, and writes views before those that they
//! need. Here every statement was run once, on an empty database in memory, before it is written: what does not run is told while the
//! source still exists.

use std::fmt::Write as _;
use std::path::Path;

use dozo_model::quote_ident;
use duckdb::Connection;

use crate::file::{DuckFile, catalog_name, instance};
use crate::sql::{literal, qualified};
use crate::{DuckdbError, Result};

/// Functions that may make a CHECK say no to rows that it once let in.
const VOLATILE: [&str; 7] = ["now(", "today(", "current_", "get_current_", "random(", "uuid(", "nextval("];
/// Memory of the database that tries the statements.
const TRIAL: u64 = 128 << 20;

/// A schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaScript {
    /// Schemas, types, sequences, macros, tables.
    pub before: Vec<String>,
    /// Views, indexes, triggers, comments.
    pub after: Vec<String>,
    /// Statements that do not run, each with its reason: views of tables that are gone.
    pub broken: Vec<(String, String)>,
    /// Constraints that may refuse rows which they let in once.
    pub volatile: Vec<String>,
}

impl SchemaScript {
    /// Returns the file that is run before the rows.
    #[must_use]
    pub fn before_sql(&self) -> String {
        self.before.iter().map(|s| format!("{s};\n")).collect()
    }

    /// Returns the file that is run after the rows. What does not run stands at its end, as a comment.
    #[must_use]
    pub fn after_sql(&self) -> String {
        let mut out: String = self.after.iter().map(|s| format!("{s};\n")).collect();
        for (statement, reason) in &self.broken {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "-- It does not run: {}", reason.replace(['\n', '\r'], " "));
            for line in statement.lines() {
                let _ = writeln!(out, "--   {line}");
            }
        }
        out
    }

    /// Reads both files again.
    #[must_use]
    pub fn parse(before: &str, after: &str) -> Self {
        Self { before: statements(before), after: statements(after), ..Self::default() }
    }

    /// Returns the name under which a database of this schema is opened: a schema of the file's own name would be ambiguous.
    pub(crate) fn catalog(&self, named: &Path) -> String {
        catalog_beside(&self.before, named)
    }
}

fn catalog_beside(statements: &[String], named: &Path) -> String {
    let name = catalog_name(named);
    let taken = statements.iter().any(|s| s.eq_ignore_ascii_case(&create_schema(&name)));
    if taken { format!("{name}_db") } else { name }
}

fn create_schema(name: &str) -> String {
    format!("CREATE SCHEMA {}", quote_ident(name))
}

impl DuckFile {
    /// Reads the schema. `left_out` tells by schema and name which tables are not in it.
    ///
    /// # Errors
    /// [`DuckdbError::Query`].
    pub fn schema(&self, left_out: impl Fn(&str, &str) -> bool) -> Result<SchemaScript> {
        let failed = |e: duckdb::Error| self.failed(&e);
        let (connection, _held) = self.share()?;
        let catalog = literal(self.catalog());
        let list = |sql: String| -> std::result::Result<Vec<(String, String, String)>, duckdb::Error> {
            let mut statement = connection.prepare(&sql)?;
            let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
            rows.collect()
        };
        let of = |columns: &str, function: &str| format!("SELECT {columns} FROM {function}() WHERE database_name = {catalog}");
        let mut open = Vec::new();
        let schemas =
            list(of("schema_name, schema_name, schema_name", "duckdb_schemas") + " AND NOT internal AND schema_name <> 'main'");
        open.extend(schemas.map_err(failed)?.into_iter().map(|(schema, ..)| create_schema(&schema)));
        // One that has given its last value has no next one to start with.
        let ended = "CASE WHEN NOT cycle AND last_value IS NOT NULL AND increment_by > 0 AND last_value::HUGEINT + increment_by > max_value THEN max_value \
                     WHEN NOT cycle AND last_value IS NOT NULL AND increment_by < 0 AND last_value::HUGEINT + increment_by < min_value THEN min_value END";
        let parts = format!("schema_name, sequence_name, concat_ws(chr(0), sql, CAST({ended} AS VARCHAR))");
        let sequences = list(of(&parts, "duckdb_sequences") + " AND NOT temporary");
        let mut spent = Vec::new();
        for (schema, name, sql) in sequences.map_err(failed)? {
            let (sql, last) = sql.split_once('\0').map_or((sql.as_str(), None), |(sql, last)| (sql, Some(last)));
            let mut sql = trimmed(sql);
            if let (Some(last), Some((head, tail))) = (last, sql.split_once(" START ")) {
                let rest = tail.split_once(' ').map(|(_, rest)| rest).unwrap_or_default();
                sql = format!("{head} START {last} {rest}");
                spent.push(format!("SELECT nextval({})", literal(&qualified(&[&schema, &name]))));
            }
            open.push(sql);
        }
        let types = list(of("schema_name, type_name, ''", "duckdb_types") + " AND NOT internal");
        for (schema, name, _) in types.map_err(failed)? {
            let name = qualified(&[&schema, &name]);
            let asked = format!("SELECT typeof(CAST(NULL AS {}.{name}))", quote_ident(self.catalog()));
            let resolved: String = connection.query_row(&asked, [], |r| r.get(0)).map_err(failed)?;
            open.push(format!("CREATE TYPE {name} AS {resolved}"));
        }
        let tables =
            list(of("schema_name, table_name, sql", "duckdb_tables") + " AND NOT internal AND NOT temporary ORDER BY table_oid");
        let kept = tables.map_err(failed)?.into_iter().filter(|(schema, table, _)| !left_out(schema, table));
        open.extend(kept.map(|(.., sql)| trimmed(&sql)));
        open.extend(self.macros(&connection)?);
        let views =
            list(of("schema_name, view_name, sql", "duckdb_views") + " AND NOT internal AND NOT temporary ORDER BY view_oid");
        let views: Vec<String> = views.map_err(failed)?.into_iter().map(|(.., sql)| trimmed(&sql)).collect();
        let checks =
            list(of("schema_name, table_name, constraint_text", "duckdb_constraints") + " AND constraint_type = 'CHECK'");
        let volatile = checks.map_err(failed)?.into_iter().filter(|(schema, table, text)| {
            let text = text.to_lowercase();
            !left_out(schema, table) && VOLATILE.iter().any(|v| text.contains(v))
        });
        let volatile = volatile.map(|(schema, table, text)| format!("{schema}.{table}: {text}")).collect();
        let mut after: Vec<String> = Vec::new();
        let indexes = list(of("schema_name, table_name, sql", "duckdb_indexes") + " AND sql IS NOT NULL ORDER BY index_oid");
        let triggers = list(of("schema_name, table_name, sql", "duckdb_triggers") + " AND NOT temporary ORDER BY trigger_oid");
        for (schema, table, sql) in indexes.map_err(failed)?.into_iter().chain(triggers.map_err(failed)?) {
            if !left_out(&schema, &table) {
                after.push(trimmed(&sql));
            }
        }
        let comments = list(comments(&catalog)).map_err(failed)?;
        after.extend(comments.into_iter().filter(|(s, t, _)| !left_out(s, t)).map(|(.., sql)| sql));
        let name = catalog_beside(&open, self.path());
        let mut script = try_out(&name, open, views, after)?;
        script.before.extend(spent);
        script.volatile = volatile;
        Ok(script)
    }

    /// The statements of the macros. The catalog does not show the defaults of their parameters: DuckDB's export of a copy without
    /// tables does.
    fn macros(&self, connection: &Connection) -> Result<Vec<String>> {
        let failed = |e: duckdb::Error| self.failed(&e);
        let catalog = literal(self.catalog());
        let count = format!("SELECT count(*) FROM duckdb_functions() WHERE database_name = {catalog} AND NOT internal");
        if connection.query_row(&count, [], |r| r.get::<_, u64>(0)).map_err(failed)? == 0 {
            return Ok(Vec::new());
        }
        let folder = tempfile::tempdir().map_err(|source| DuckdbError::File { path: std::env::temp_dir(), source })?;
        let target = folder.path().join("schema");
        let copy = "dozo schema";
        let begin = format!(
            "ATTACH ':memory:' AS {copy}; COPY FROM DATABASE {from} TO {copy} (SCHEMA)",
            copy = quote_ident(copy),
            from = quote_ident(self.catalog())
        );
        connection.execute_batch(&begin).map_err(failed)?;
        // A table goes after those that refer to it, whichever these are.
        let mut left = usize::MAX;
        loop {
            let names = format!(
                "SELECT 'DROP TABLE ' || '\"dozo schema\".\"' || replace(schema_name, '\"', '\"\"') || '\".\"' || replace(table_name, '\"', '\"\"') || '\"' \
                 FROM duckdb_tables() WHERE database_name = {}",
                literal(copy)
            );
            let mut statement = connection.prepare(&names).map_err(failed)?;
            let drops = statement.query_map([], |r| r.get::<_, String>(0)).map_err(failed)?;
            let drops = drops.collect::<std::result::Result<Vec<_>, _>>().map_err(failed)?;
            if drops.is_empty() || drops.len() >= left {
                break;
            }
            left = drops.len();
            // What cannot go yet goes in the next round.
            drops.iter().for_each(|sql| drop(connection.execute_batch(sql)));
        }
        let export = format!(
            "USE {copy}; EXPORT DATABASE {to}; USE memory; DETACH {copy}",
            copy = quote_ident(copy),
            to = literal(&target.display().to_string()),
        );
        connection.execute_batch(&export).map_err(failed)?;
        let file = target.join("schema.sql");
        let text = std::fs::read_to_string(&file).map_err(|source| DuckdbError::File { path: file, source })?;
        Ok(statements(&text).into_iter().filter(|s| s.starts_with("CREATE MACRO ")).collect())
    }
}

/// Runs the statements on an empty database, and returns them in an order in which they run.
fn try_out(catalog: &str, open: Vec<String>, views: Vec<String>, after: Vec<String>) -> Result<SchemaScript> {
    let trial = instance(1, TRIAL, None)?;
    let name = quote_ident(catalog);
    trial
        .execute_batch(&format!("ATTACH ':memory:' AS {name}; USE {name}"))
        .map_err(|e| DuckdbError::query("a database in memory", &e))?;
    let mut script = SchemaScript::default();
    let left = rounds(&trial, open, &mut script.before);
    // Without these there is nowhere for the rows to go.
    let needed = ["CREATE SCHEMA ", "CREATE SEQUENCE ", "CREATE TYPE ", "CREATE TABLE "];
    if let Some((statement, reason)) = left.iter().find(|(s, _)| needed.iter().any(|n| s.starts_with(n))) {
        return Err(DuckdbError::Definition { statement: statement.clone(), reason: reason.clone() });
    }
    // A view may read files that are elsewhere by then: rows do not wait for it.
    let late = left.into_iter().map(|(s, _)| s).chain(views).collect();
    script.broken = rounds(&trial, late, &mut script.after);
    for statement in after {
        match trial.execute_batch(&statement) {
            Ok(()) => script.after.push(statement),
            Err(e) => script.broken.push((statement, crate::error::said(&e))),
        }
    }
    Ok(script)
}

/// Runs statements until none is left or none runs; returns those that are left, with their reasons.
fn rounds(trial: &Connection, mut open: Vec<String>, done: &mut Vec<String>) -> Vec<(String, String)> {
    loop {
        let before = done.len();
        let mut left = Vec::new();
        for statement in open {
            match trial.execute_batch(&statement) {
                Ok(()) => done.push(statement),
                Err(e) => left.push((statement, crate::error::said(&e))),
            }
        }
        if left.is_empty() || done.len() == before {
            return left;
        }
        open = left.into_iter().map(|(statement, _)| statement).collect();
    }
}

/// A query for COMMENT statements: schema, table, statement.
fn comments(catalog: &str) -> String {
    let quoted = |x: &str| format!("'\"' || replace({x}, '\"', '\"\"') || '\"'");
    let text = "' IS ''' || replace(comment, '''', '''''') || ''''";
    let one = |what: &str, function: &str, name: &str, table: &str| {
        format!(
            "SELECT schema_name, {table}, 'COMMENT ON {what} ' || {} || '.' || {} || {text} FROM {function}() \
             WHERE database_name = {catalog} AND comment IS NOT NULL",
            quoted("schema_name"),
            quoted(name)
        )
    };
    let column = format!(
        "SELECT schema_name, table_name, 'COMMENT ON COLUMN ' || {} || '.' || {} || '.' || {} || {text} FROM duckdb_columns() \
         WHERE database_name = {catalog} AND comment IS NOT NULL",
        quoted("schema_name"),
        quoted("table_name"),
        quoted("column_name")
    );
    let macros = |kind: &str, what: &str| {
        one(what, "duckdb_functions", "function_name", "''") + &format!(" AND NOT internal AND function_type = '{kind}'")
    };
    [
        one("TABLE", "duckdb_tables", "table_name", "table_name"),
        column,
        one("VIEW", "duckdb_views", "view_name", "''") + " AND NOT internal",
        one("SEQUENCE", "duckdb_sequences", "sequence_name", "''"),
        one("TYPE", "duckdb_types", "type_name", "''") + " AND NOT internal",
        one("INDEX", "duckdb_indexes", "index_name", "table_name"),
        macros("macro", "MACRO"),
        macros("table_macro", "MACRO TABLE"),
    ]
    .join(" UNION ALL ")
}

fn trimmed(statement: &str) -> String {
    statement.trim().trim_end_matches(';').trim_end().to_owned()
}

/// Cuts a script at semicolons that stand in no quotes and no comment.
fn statements(script: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current = String::new();
    let mut quote: Option<char> = None;
    let mut chars = script.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '-') if chars.peek() == Some(&'-') => while chars.next_if(|c| *c != '\n').is_some() {},
            (None, ';') => found.push(std::mem::take(&mut current)),
            (None, '\'' | '"') => {
                quote = Some(c);
                current.push(c);
            }
            (Some(q), _) => {
                if c == q {
                    quote = None;
                }
                current.push(c);
            }
            (None, _) => current.push(c),
        }
    }
    found.push(current);
    found.into_iter().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_cut_outside_quotes() {
        let script =
            "CREATE TABLE a(x INTEGER);\n-- a; comment\nCREATE MACRO m(a := 'x;''y') AS a;CREATE VIEW \"v;\" AS SELECT 1\n;\n";
        let expected = ["CREATE TABLE a(x INTEGER)", "CREATE MACRO m(a := 'x;''y') AS a", "CREATE VIEW \"v;\" AS SELECT 1"];
        assert_eq!(statements(script), expected);
        let odd = "CREATE VIEW v AS SELECT '\n-- It does not run: ;\n' AS x";
        let schema = SchemaScript {
            before: vec![expected[1].into()],
            after: vec![odd.into(), expected[0].into()],
            broken: vec![("a;\nb".into(), "no\nway".into())],
            volatile: vec![],
        };
        let read = SchemaScript::parse(&schema.before_sql(), &schema.after_sql());
        assert_eq!((read.before, read.after), (schema.before, schema.after));
    }
}
