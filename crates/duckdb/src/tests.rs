//! The zoo: every type travels through its stored form and comes back, and its text made here is that of DuckDB.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dozo_model::quote_ident;
use duckdb::Connection;

use crate::codec;
use crate::file::{DuckFile, OpenOptions, TableInfo};
use crate::load::NewFile;
use crate::read::RowRange;
use crate::sql::qualified;
use crate::{DuckdbError, SchemaScript};

const ZOO: &str = include_str!("../../../fixtures/duckdb/zoo.sql");

fn options(folder: &Path) -> OpenOptions {
    OpenOptions { lock_timeout: Duration::from_millis(50), memory: 256 << 20, temp: folder.join("temp") }
}

fn zoo(folder: &Path) -> PathBuf {
    let path = folder.join("zoo.duckdb");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(ZOO).unwrap();
    connection.close().map_err(|(_, e)| e).unwrap();
    path
}

fn open(path: &Path) -> DuckFile {
    DuckFile::open(path, &options(path.parent().unwrap()), || false).unwrap()
}

fn text(connection: &Connection, sql: &str) -> String {
    connection.query_row(sql, [], |r| r.get(0)).unwrap_or_else(|e| panic!("{e}\n{sql}"))
}

/// Columns as they are stored, by SQL.
fn stored_sql(table: &TableInfo, from: &str) -> String {
    let columns = table.columns.iter().zip(&table.types).zip(&table.infinite);
    let mut list: Vec<String> = columns
        .map(|((c, t), i)| format!("{} AS {}", t.stored(&quote_ident(&c.name), *i), quote_ident(&c.parquet_name)))
        .collect();
    let infinite = table.columns.iter().zip(&table.infinite).filter(|(_, i)| **i);
    let infinite: Vec<_> = infinite.map(|(c, _)| (c.name.as_str(), quote_ident(&c.name))).collect();
    list.push(format!("{} AS {}", codec::exact(&infinite), quote_ident(codec::EXACT)));
    format!("(SELECT {} FROM {from})", list.join(", "))
}

#[test]
fn every_type_comes_back_and_has_the_text_that_duckdb_gives() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(&zoo(folder.path()));
    let (connection, _held) = file.share().unwrap();
    let tables = file.tables().unwrap();
    assert!(tables.len() > 12, "{tables:?}");
    let mut columns = 0;
    for table in &tables {
        let from = table.from(file.catalog());
        assert!(table.inexact().is_empty(), "{:?}", table.inexact());
        columns += table.columns.len();
        // Back and forth.
        let names: Vec<String> = table.columns.iter().map(|c| quote_ident(&c.name)).collect();
        let (there, back) = (format!("SELECT {} FROM {from}", names.join(", ")), table.rows_sql(&stored_sql(table, &from)));
        for (a, b) in [(&there, &back), (&back, &there)] {
            let sql = format!("SELECT count(*)::VARCHAR FROM ({a} EXCEPT ALL {b})");
            assert_eq!(text(&connection, &sql), "0", "{}: {sql}", table.full_name());
        }
        // EXCEPT takes 0.0 and -0.0 for the same: the text does not.
        let reader = file.reader().unwrap();
        let mut rows = 0;
        let all = table.all();
        let counted = reader.rows::<DuckdbError>(table, all, |r| {
            rows += r.batch.num_rows();
            Ok(())
        });
        let stored = counted.unwrap();
        assert_eq!(rows as u64, stored.rows);
        let by_sql = text(&connection, &table.fingerprint_sql(&from));
        assert_eq!(stored.to_string(), by_sql, "{}", table.full_name());
        assert_eq!(reader.fingerprint(table, all, || false).unwrap(), stored);
        assert_eq!(text(&connection, &table.fingerprint_sql(&format!("({back})"))), by_sql, "{}", table.full_name());
        // The parts add up.
        if table.whole {
            continue;
        }
        let middle = table.end / 2;
        let halves = [(0, middle), (middle, table.end)]
            .map(|(from, to)| reader.fingerprint(table, RowRange { from, to }, || false).unwrap());
        assert_eq!(halves[0] + halves[1], stored);
    }
    assert!(columns > 75, "{columns}");
}

#[test]
fn what_has_no_exact_form_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.duckdb");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE t(a VARIANT, b INTEGER, c STRUCT(v VARIANT)[])").unwrap();
    drop(connection);
    let named: Vec<String> = open(&path).tables().unwrap().iter().flat_map(TableInfo::inexact).collect();
    assert_eq!(named, ["main.t.a (VARIANT)", "main.t.c (STRUCT(v VARIANT)[])"]);
}

/// Random values of the types whose text is made here.
#[test]
fn texts_are_those_of_duckdb_for_random_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("random.duckdb");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t AS SELECT (random() * 11000000 - 5800000)::INTEGER AS days, \
             ((random() - 0.5) * 1.8e19)::HUGEINT AS wide, random() AS r, i FROM range(50000) s(i); \
             CREATE TABLE u AS SELECT DATE '1970-01-01' + days AS a, \
             make_timestamp((greatest(least(wide, 9223372036854775806), -9223372022400000000))::BIGINT) AS b, \
             make_timestamp((r * 4e15)::BIGINT) AS c, (r * 1e17)::BIGINT::DECIMAL(18,0) / 1 AS d0, \
             (r * 1e15 - 5e14)::DECIMAL(18,3) AS d, (r * 1e33 - 5e32)::DECIMAL(38,4) AS e, (r * 1e3 - 500)::DECIMAL(38,30) AS f, \
             make_timestamp((r * 4e15)::BIGINT)::TIMESTAMPTZ AS g, make_timestamp((r * 4e15)::BIGINT)::TIMESTAMP_MS AS h, \
             CASE WHEN i % 11 = 0 THEN NULL ELSE (r * 255)::UTINYINT END AS j FROM t",
        )
        .unwrap();
    drop(connection);
    let file = open(&path);
    let (connection, _held) = file.share().unwrap();
    for table in file.tables().unwrap() {
        let found = file.reader().unwrap().fingerprint(&table, table.all(), || false).unwrap();
        assert_eq!(found.rows, 50_000);
        let from = table.from(file.catalog());
        for (column, one) in table.columns.iter().zip(&table.types) {
            let single =
                TableInfo { columns: vec![column.clone()], types: vec![one.clone()], infinite: vec![false], ..table.clone() };
            let found = file.reader().unwrap().fingerprint(&single, table.all(), || false).unwrap();
            assert_eq!(found.to_string(), text(&connection, &single.fingerprint_sql(&from)), "{}", column.name);
        }
    }
}

/// What the catalog says, without what a new file cannot have.
fn catalog(connection: &Connection, name: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (columns, function) in [
        ("schema_name, table_name, sql, comment", "duckdb_tables"),
        ("schema_name, table_name, column_name, data_type, column_default, is_nullable, comment", "duckdb_columns"),
        ("schema_name, view_name, sql, comment", "duckdb_views"),
        ("schema_name, sequence_name, sql, comment", "duckdb_sequences"),
        ("schema_name, type_name, labels, comment", "duckdb_types"),
        ("schema_name, index_name, is_unique, expressions, sql, comment", "duckdb_indexes"),
        ("schema_name, function_name, parameters, macro_definition, comment", "duckdb_functions"),
        ("schema_name, table_name, constraint_text", "duckdb_constraints"),
    ] {
        let internal = if ["duckdb_sequences", "duckdb_constraints", "duckdb_indexes"].contains(&function) {
            ""
        } else {
            " AND NOT internal"
        };
        let sql = format!("SELECT ROW({columns})::VARCHAR FROM {function}() WHERE database_name = '{name}'{internal} ORDER BY 1");
        let mut statement = connection.prepare(&sql).unwrap();
        let rows = statement.query_map([], |r| r.get::<_, String>(0)).unwrap();
        all.extend(rows.map(|r| format!("{function} {}", r.unwrap())));
    }
    all
}

#[test]
fn a_schema_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = zoo(folder.path());
    let file = open(&path);
    let schema = file.schema(|_, _| false).unwrap();
    assert!(schema.broken.is_empty(), "{:?}", schema.broken);
    let copy = folder.path().join("copy.tmp");
    let schema = SchemaScript::parse(&schema.before_sql(), &schema.after_sql());
    let new = NewFile::create(&copy, &path, &schema, None, 2, 256 << 20, folder.path()).unwrap();
    new.before_rows(&schema).unwrap();
    assert_eq!(new.after_rows(&schema).unwrap(), Vec::<String>::new());
    new.finish().unwrap();
    let again = open(&copy);
    let (a, b) = (file.share().unwrap().0, again.share().unwrap().0);
    let (found, expected) = (catalog(&b, "copy"), catalog(&a, "zoo"));
    assert!(expected.len() > 100);
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
    b.execute_batch("USE copy").unwrap();
    assert_eq!(
        text(
            &b,
            "SELECT twice(1)::VARCHAR || ' ' || (SELECT n FROM earlier) || ' ' || (SELECT count(*) FROM staging.rows_of(3))"
        ),
        "6 0 3"
    );
    assert_eq!(qualified(&["a\"b", "c"]), "\"a\"\"b\".\"c\"");
}

#[test]
fn broken_views_are_told_and_left_out_tables_have_no_definition() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.duckdb");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE gone(a INTEGER); CREATE VIEW stale AS SELECT * FROM gone; DROP TABLE gone; \
                        CREATE TABLE a(x INTEGER); CREATE TABLE \"b c\"(x INTEGER); CREATE INDEX i ON a(x)",
        )
        .unwrap();
    drop(connection);
    let schema = open(&path).schema(|_, table| table == "a").unwrap();
    assert_eq!(schema.before, ["CREATE TABLE \"b c\"(x INTEGER)"]);
    assert!(schema.after.is_empty());
    let [(statement, reason)] = schema.broken.as_slice() else { panic!("{schema:?}") };
    assert!(statement.starts_with("CREATE VIEW stale") && reason.contains("gone"), "{reason}");
}

/// What does not run is told while the source exists; what would be lost is refused.
#[test]
fn odd_schemas_come_back_or_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, sql: &str| {
        let path = folder.path().join(name);
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        path
    };
    let back = |path: &Path| {
        let file = open(path);
        let script = file.schema(|_, _| false).unwrap();
        let script = SchemaScript::parse(&script.before_sql(), &script.after_sql());
        let copy = path.with_extension("copy");
        let new = NewFile::create(&copy, path, &script, None, 1, 256 << 20, folder.path()).unwrap();
        new.before_rows(&script).unwrap();
        let left = new.after_rows(&script).unwrap();
        new.finish().unwrap();
        (copy, left)
    };
    // Sequences at their ends, a schema called like the file, texts that look like comments.
    let odd = make(
        "sales.duckdb",
        "CREATE MACRO m(a := 1) AS a; CREATE SEQUENCE up MAXVALUE 3; CREATE SEQUENCE down START -1 INCREMENT -1 MINVALUE -2 MAXVALUE -1; \
         SELECT nextval('up'), nextval('up'), nextval('up'), nextval('down'), nextval('down'); \
         CREATE SCHEMA sales.sales; CREATE TABLE sales.sales.t(i INTEGER DEFAULT nextval('up')); \
         CREATE VIEW v AS SELECT '-- rows are loaded here;\n--' AS x",
    );
    let (copy, left) = back(&odd);
    assert!(left.is_empty(), "{left:?}");
    let copied = Connection::open(&copy).unwrap();
    assert!(copied.execute_batch("SELECT nextval('up')").unwrap_err().to_string().contains("reached maximum"));
    assert!(copied.execute_batch("SELECT nextval('down')").unwrap_err().to_string().contains("reached minimum"));
    assert_eq!(text(&copied, "SELECT x FROM v"), "-- rows are loaded here;\n--");
    // Reserved names.
    for name in ["main.duckdb", "Temp.duckdb", "a.b.duckdb", "it's \"odd\".duckdb", "pg_catalog.duckdb"] {
        let path = make(name, "CREATE TABLE t AS SELECT 1 AS i; CREATE VIEW v AS SELECT * FROM t");
        assert!(back(&path).1.is_empty(), "{name}");
    }
    // A column that hides the row ids.
    let hidden =
        make("rowid.duckdb", "CREATE TABLE t(rowid INTEGER, a INTEGER); INSERT INTO t VALUES (-5, 1), (NULL, 2), (3, 4)");
    let file = open(&hidden);
    let [table] = &file.tables().unwrap()[..] else { panic!() };
    assert_eq!(file.reader().unwrap().fingerprint(table, table.all(), || false).unwrap().rows, 3);
    // Refused, by name.
    let nested = make("nested.duckdb", "CREATE SCHEMA a; CREATE SCHEMA a.b; CREATE TABLE a.b.t(i INTEGER)");
    assert!(matches!(open(&nested).tables(), Err(DuckdbError::NestedSchemas { schemas, .. }) if schemas == "b"));
    let torn = make("torn.duckdb", "CREATE TABLE p(i INTEGER PRIMARY KEY); CREATE TABLE c(i INTEGER REFERENCES p(i))");
    assert!(
        matches!(open(&torn).schema(|_, t| t == "p"), Err(DuckdbError::Definition { statement, .. }) if statement.contains("TABLE c"))
    );
    let check = make("check.duckdb", "CREATE TABLE t(d TIMESTAMP, CHECK (d > now()::TIMESTAMP - INTERVAL 1 DAY))");
    assert_eq!(open(&check).schema(|_, _| false).unwrap().volatile.len(), 1);
    // A link: DuckDB keeps the WAL beside what it leads to.
    let real = make("real.duckdb", "CREATE TABLE t AS SELECT 1 AS i");
    fs::write(folder.path().join("real.duckdb.wal"), "x").unwrap();
    let link = folder.path().join("link.duckdb");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    fs::remove_file(folder.path().join("real.duckdb.wal")).unwrap();
    assert!(open(&link).beside().is_empty());
    assert_eq!(open(&link).catalog(), "link");
}
