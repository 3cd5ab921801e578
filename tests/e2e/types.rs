//! Values and objects that other tools lose come back as they were, or the run refuses by name before it copies a byte.

use std::collections::BTreeMap;

use dozo_testkit::{CAPABILITIES, majors, shared};
use serde_json::Value;

use crate::harness::{Dozo, Place, files, fingerprints, fresh};

/// Returns the first lines in which two texts differ.
pub(crate) fn difference(a: &str, b: &str) -> String {
    let only = |of: &str, other: &str| {
        let there: std::collections::HashSet<&str> = other.lines().collect();
        of.lines().filter(|l| !there.contains(l)).take(10).map(str::to_owned).collect::<Vec<_>>().join("\n")
    };
    format!("only in the source:\n{}\nonly in the copy:\n{}", only(a, b), only(b, a))
}

fn dataset<'a>(manifest: &'a Value, table: &str) -> &'a Value {
    manifest["datasets"].as_array().unwrap().iter().find(|d| d["name"] == table).unwrap_or_else(|| panic!("no {table}"))
}

const DECLARED: &str = r#"<?xml version="1.0" encoding="UTF-8"?><a b="c">é &amp; &#233;</a>|{"<?xml version=\"1.0\" encoding=\"UTF-8\"?><a/>",NULL}
<?xml version="1.0" encoding="UTF-8"?><a b="c">é &amp; &#233;</a>|{"<?xml version=\"1.0\" encoding=\"UTF-8\"?><a/>",NULL}
|{"<?xml version=\"1.0\" encoding=\"UTF-8\"?><a/>",NULL}"#;

/// XML declarations are in no text of pg_dump: what is stored is compared.
const XML_OF: [(&str, &str, &str); 2] = [
    ("SELECT 1", "1", "1"),
    (
        "SELECT x::text, list::text[] FROM documents WHERE x::text LIKE '<?%'
         UNION ALL SELECT d::text, ds::text[] FROM kept_documents WHERE d::text LIKE '<?%'
         UNION ALL SELECT '', list::text[] FROM kept_documents WHERE d::text LIKE '<?%'",
        DECLARED,
        DECLARED,
    ),
];

/// Everything of the zoo comes back: fingerprints, and the whole text of pg_dump.
#[test]
fn the_zoo_comes_back() {
    for (name, majors_with, _) in CAPABILITIES {
        assert!(majors().iter().any(|m| majors_with.contains(m)), "no server has {name}");
    }
    for major in majors() {
        let cluster = shared(major);
        let database = cluster.zoo(true);
        let mut dozo = Dozo::new(&database, Place::Local);
        let report = dozo.run(&["--json", "backup", "shop", "--prove", "100%"]).exits(0).json();
        assert_eq!(report["outcome"], "done", "{report}");
        let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
        let copy = dozo.restore_into(cluster, "zoo_copy");
        assert_eq!(fingerprints(&dozo, cluster, &database.name), fingerprints(&dozo, cluster, &copy));
        let (source, restored) = (cluster.dump(&database.name), cluster.dump(&copy));
        // The one difference: a password does not leave the server.
        let password = "password=''ge heim'' ";
        assert!(source.contains(password));
        let source = source.replace(password, "");
        for file in files(&dozo.repository().join("backups")) {
            assert!(!String::from_utf8_lossy(&std::fs::read(&file).unwrap()).contains("ge heim"), "{}", file.display());
        }
        assert!(source == restored, "on {major}: {}", difference(&source, &restored));
        assert!(source.lines().count() > 4000, "the zoo is there");

        let manifest = dozo.manifest();
        let escaped = |table: &str, column: &str| dataset(&manifest, table)["escaped"][column].as_u64().unwrap_or(0);
        assert_eq!((escaped("times", "d"), escaped("times", "ts"), escaped("numerics", "two")), (2, 5, 1));
        assert_eq!(escaped("numerics", "free"), 0);
        assert_eq!(escaped("composites", "p"), 0);
        // What is not in pg_dump's text.
        for (sql, before, after) in [
            // A generated column gone stale is computed anew.
            ("SELECT string_agg(g::text, ',' ORDER BY id) FROM stale", "2,4,9", "3,6,9"),
            ("SELECT relispopulated FROM pg_class WHERE oid = 'app.never'::regclass", "f", "f"),
            ("SELECT most FROM app.above", "500.00", "500.00"),
            XML_OF[usize::from(major != 18)],
            (
                "SELECT string_agg(setrole::regrole::text || c, ';' ORDER BY c) FROM pg_db_role_setting, unnest(setconfig) c WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
                "-app.tenant=it's;-search_path=\"$user\", public, \"a, b\";zoo_readerwork_mem=7MB",
                "-app.tenant=it's;-search_path=\"$user\", public, \"a, b\";zoo_readerwork_mem=7MB",
            ),
            (
                "SELECT shobj_description(oid, 'pg_database'), has_database_privilege('zoo_owner', oid, 'CREATE') FROM pg_database WHERE datname = current_database()",
                "a zoo|t",
                "a zoo|t",
            ),
            ("SELECT max(length(data)), count(*) > 1000 FROM pg_largeobject", "2048|t", "2048|t"),
        ] {
            assert_eq!(cluster.psql(&database.name, sql), before, "{sql}");
            assert_eq!(cluster.psql(&copy, sql), after, "{sql}");
        }
    }
}

/// A newer server of another build gets everything that it can hold; the rest is refused by name before a row is loaded.
#[test]
fn the_zoo_on_newer_servers() {
    const GIS: [&str; 2] = ["EXTENSION postgis", "TABLE public.places: it needs"];
    const DATA: [&str; 1] = ["EXTENSION address_standardizer_data_us"];
    const XML: [&str; 2] =
        ["TABLE public.documents: the server reads no XML", "TABLE public.kept_documents: the server reads no XML"];
    const ICU: [&str; 2] = ["COLLATION public.no_case", "TABLE public.collated: it needs COLLATION"];
    for (old, new, lists, tables_without) in [
        (15, 17, vec![&GIS[..], &DATA, &ICU], vec!["places", "collated", "spatial_ref_sys", "us_lex", "us_gaz", "us_rules"]),
        (
            15,
            18,
            vec![&GIS[..], &DATA, &ICU, &XML],
            vec!["places", "collated", "documents", "kept_documents", "spatial_ref_sys", "us_lex", "us_gaz", "us_rules"],
        ),
        (17, 18, vec![&XML[..]], vec!["documents", "kept_documents"]),
    ] {
        let (source, target) = (shared(old), shared(new));
        let database = source.zoo(true);
        target.zoo_roles();
        let mut dozo = Dozo::new(&database, Place::Local);
        let _ = dozo.backup();
        let name = format!("newer_{}", fresh());
        dozo.set("COPY_URL", &target.url("postgres", &name));
        // The tools of the newer server, as a user of it has them.
        let tools = format!("{}:{}:/usr/bin:/bin", target.tools().display(), source.tools().display());
        let mut command = dozo.command(&["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"]);
        let refused = command.env("PATH", &tools).output().unwrap();
        let text = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{text}");
        let wanted: Vec<&str> = lists.concat();
        for word in &wanted {
            assert!(text.contains(word), "{old} to {new}, {word}: {text}");
        }
        let sql = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
        assert_eq!(target.psql(&name, sql), "0", "nothing was made");
        let mut command = dozo.command(&["--json", "restore", "shop@latest", "--to", "env:COPY_URL", "--skip-unsupported"]);
        let done = command.env("PATH", &tools).output().unwrap();
        assert_eq!(done.status.code(), Some(4), "{}", String::from_utf8_lossy(&done.stderr));
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        let late =
            report["warnings"].as_array().unwrap().iter().any(|w| w.as_str().unwrap().contains("INDEX public.sorted_in_german"));
        assert_eq!(late, old == 15, "an index of a collation that is not there: {report}");
        let restored = report["tables"].as_array().unwrap();
        assert!(restored.iter().all(|t| t["verdict"] == "equal"), "{report}");
        let manifest = dozo.manifest();
        let missing: Vec<&str> = manifest["datasets"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|d| {
                !restored
                    .iter()
                    .any(|t| t["table"] == format!("{}.{}", d["schema"].as_str().unwrap(), d["name"].as_str().unwrap()))
            })
            .map(|d| d["name"].as_str().unwrap())
            .collect();
        let (mut missing, mut without) = (missing, tables_without);
        missing.sort_unstable();
        without.sort_unstable();
        assert_eq!(missing, without, "{old} to {new}");
        let lines = fingerprints(&dozo, source, &database.name);
        assert!(fingerprints(&dozo, target, &name).iter().all(|l| lines.contains(l)), "{old} to {new}");
    }
}

/// Each of these is lost silently by at least one other tool. Table, column, and the text that must come back.
#[test]
fn what_other_tools_lose() {
    let cluster = shared(17);
    let database = cluster.database("losses");
    let cases: [(&str, &str, &str, &str); 14] = [
        ("nan_in_decimal", "numeric(10,2)", "'NaN'", "x::text = 'NaN'"),
        ("infinity_in_numeric", "numeric", "'-Infinity'", "x::text = '-Infinity'"),
        ("infinite_date", "date", "'infinity'", "x = 'infinity'"),
        ("infinite_timestamp", "timestamptz", "'-infinity'", "x = '-infinity'"),
        ("dst_hour_shift", "timestamptz", "'2024-03-09 12:00-05'", "x = '2024-03-09 17:00+00'"),
        ("interval_microseconds", "interval", "'3.000501 s'", "extract(microseconds FROM x) = 3000501"),
        ("timetz_offset", "timetz", "'12:00+02'", "x::text = '12:00:00+02'"),
        ("array_bounds", "integer[]", "'[0:1]={1,2}'", "array_lower(x, 1) = 0"),
        ("array_dimensions", "integer[]", "'{{1,2},{3,4}}'", "array_ndims(x) = 2"),
        ("bpchar_blanks", "char(5)", "'a'", "octet_length(x) = 5"),
        ("inet_mask", "inet", "'10.1.2.3/8'", "masklen(x) = 8 AND host(x) = '10.1.2.3'"),
        (
            "json_rewriting",
            "json",
            "'{\"b\": 1.50, \"a\" :  [ ], \"b\": 2}'",
            "x::text = '{\"b\": 1.50, \"a\" :  [ ], \"b\": 2}'",
        ),
        ("path_closed", "path", "'((0,0),(1,1))'", "isclosed(x)"),
        ("path_open", "path", "'[(0,0),(1,1)]'", "isopen(x)"),
    ];
    for (table, wire, value, _) in cases {
        database.psql(&format!("CREATE TABLE {table} (x {wire}); INSERT INTO {table} VALUES ({value})"));
    }
    database.psql("CREATE TABLE zero_columns (); INSERT INTO zero_columns SELECT FROM generate_series(1, 1000)");
    let mut dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    let copy = dozo.restore_into(cluster, "losses_copy");
    for (table, _, _, holds) in cases {
        assert_eq!(cluster.psql(&copy, &format!("SELECT count(*) FROM {table} WHERE {holds}")), "1", "{table}");
    }
    assert_eq!(cluster.psql(&copy, "SELECT count(*) FROM zero_columns"), "1000");
}

/// The logical types of the native profile; changing the profile copies again.
#[test]
fn the_native_profile() {
    let cluster = shared(17);
    let database = cluster.database("native");
    database.psql("CREATE TABLE t (u uuid, us uuid[], t time); INSERT INTO t VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}', '24:00'), (NULL, NULL, '12:34:56.789')");
    let mut dozo = Dozo::with_url(&database.url(), cluster, Place::Local, "profile = \"native\"");
    let _ = dozo.backup();
    let manifest = dozo.manifest();
    let columns = dataset(&manifest, "t")["columns"].as_array().unwrap().clone();
    let parquet: Vec<&str> = columns.iter().map(|c| c["parquet"].as_str().unwrap()).collect();
    assert_eq!(parquet, ["UUID", "LIST<UUID>", "TIME(MICROS)"]);
    assert_eq!(dataset(&manifest, "t")["escaped"]["t"], 1);
    let file = dozo.repository().join(dataset(&manifest, "t")["parts"][0]["object"].as_str().unwrap());
    let script = "import sys, pyarrow.parquet as pq; s = pq.ParquetFile(sys.argv[1]).schema; print([str(s.column(i).logical_type) for i in range(3)])";
    let python = dozo_testkit::services().join("venv/bin/python");
    let out = std::process::Command::new(python).args(["-c", script]).arg(&file).output().unwrap();
    let seen = String::from_utf8(out.stdout).unwrap();
    assert!(seen.starts_with("['UUID', 'UUID', 'Time("), "{seen}{}", String::from_utf8_lossy(&out.stderr));
    let copy = dozo.restore_into(cluster, "native_copy");
    assert_eq!(fingerprints(&dozo, cluster, &database.name), fingerprints(&dozo, cluster, &copy));
}

/// Databases of other encodings: text is UTF-8 in the files, and comes back in the database's own; a database that does not
/// know its encoding gets its bytes back.
#[test]
fn other_encodings() {
    let cluster = shared(15);
    for (encoding, value, bytes) in [
        ("LATIN1", "E'caf\\u00e9'", "\\x636166e9"),
        ("EUC_JP", "E'\\u6ce8\\u6587'", "\\xc3edcab8"),
        ("SQL_ASCII", "convert_from('\\xff00fe61'::bytea, 'x')", ""),
    ] {
        let name = format!("enc_{}_{}", encoding.to_lowercase(), fresh());
        cluster.psql(
            "postgres",
            &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"),
        );
        let mut more = String::new();
        if encoding == "SQL_ASCII" {
            more.push_str("SET client_encoding = 'SQL_ASCII'; CREATE TABLE t (x text, v varchar, c char(3), n text[], j jsonb, e citext_or_text, k integer); INSERT INTO t VALUES (E'\\xff\\xfea', E'\\xe9', E'\\xe9', ARRAY[E'\\xff', NULL], '{\"a\": 1}', E'\\xe8', 1), ('plain', '', '', '{}', 'null', NULL, 2)");
            more = more.replace("citext_or_text", "text");
        } else {
            more.push_str(&format!(
                "SET client_encoding = 'UTF8'; CREATE TABLE t (x text, k integer); INSERT INTO t VALUES ({value}, 1)"
            ));
        }
        cluster.psql(&name, &more);
        let mut dozo = Dozo::with_url(&cluster.url("postgres", &name), cluster, Place::Local, "");
        let _ = dozo.backup();
        let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
        let copy = dozo.restore_into(cluster, "enc_copy");
        assert_eq!(cluster.psql(&copy, "SHOW server_encoding"), encoding);
        assert_eq!(fingerprints(&dozo, cluster, &name), fingerprints(&dozo, cluster, &copy));
        let stored = "SELECT textsend(x) FROM t WHERE k = 1";
        let pinned = format!("SET client_encoding = '{encoding}'; {stored}");
        assert_eq!(cluster.psql(&name, &pinned), cluster.psql(&copy, &pinned));
        if encoding == "SQL_ASCII" {
            let refused = Dozo::with_url(&cluster.url("postgres", &name), cluster, Place::Local, "unknown-encoding = \"refuse\"");
            let run = refused.run(&["backup", "shop"]).exits(1);
            assert!(run.stderr.contains("public.t.x, public.t.v") && run.stderr.contains("DOZO-E6022"), "{}", run.stderr);
        } else {
            assert_eq!(cluster.psql(&copy, &pinned), bytes);
        }
    }
}

/// Types whose text no server reads back.
#[test]
fn what_cannot_come_back_is_refused_all_named() {
    let cluster = shared(15);
    let database = cluster.database("refused");
    database.psql(
        "CREATE EXTENSION pg_trgm; CREATE EXTENSION seg; CREATE EXTENSION postgis; CREATE TABLE fine (id integer, a inet); INSERT INTO fine VALUES (1, '::1');
         CREATE TYPE holder AS (n integer, t gtrgm); CREATE DOMAIN document AS xml; CREATE TYPE filed AS (n integer, d document[]);
         CREATE TABLE short (id integer, s seg, ss seg[], b box2d, c box3d[], f filed, fs filed[]);
         CREATE TABLE a (id integer, g gtsvector, n pg_ndistinct); CREATE TABLE b (ts gtrgm[], h holder); INSERT INTO a VALUES (1, NULL, NULL);
         CREATE STATISTICS s (ndistinct) ON id, a FROM fine; ANALYZE fine;",
    );
    let dozo = Dozo::new(&database, Place::Local);
    let run = dozo.run(&["backup", "shop"]).exits(1);
    for named in [
        "public.a.g (gtsvector: no server reads its text)",
        "public.a.n (pg_ndistinct: no server",
        "public.b.ts (public.gtrgm[]: no server",
        "public.b.h (public.holder: no server",
        "public.short.s (public.seg: its text says less than its value)",
        "public.short.ss (public.seg[]: its",
        "public.short.b (public.box2d: its",
        "public.short.c (public.box3d[]: its",
        "public.short.f (public.filed: its",
        "public.short.fs (public.filed[]: its",
        "DOZO-E2116",
        "text-only",
    ] {
        assert!(run.stderr.contains(named), "{named}: {}", run.stderr);
    }
    assert!(!dozo.repository().join("data").exists(), "nothing was copied");
    // Exported as text, for readers: the rest of the table comes back, and the restore says what did not.
    let mut text = Dozo::with_url(
        &database.url(),
        cluster,
        Place::Local,
        "text-only = [\"public.a.*\", \"b.ts\", \"b.h\", \"public.short.*\"]",
    );
    let report = text.run(&["--json", "backup", "shop"]).exits(0).json();
    assert_eq!(report["tables"].as_array().unwrap().len(), 5);
    let target = format!("refused_copy_{}", fresh());
    text.set("COPY_URL", &cluster.url("postgres", &target));
    let run = text.run(&["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"]).exits(4);
    assert!(run.stderr.contains("public.a.g") && run.stderr.contains("public.b.ts"), "{}", run.stderr);
    assert_eq!(cluster.psql(&target, "SELECT id FROM a"), "1");
    let without = Dozo::with_url(&database.url(), cluster, Place::Local, "exclude = [\"public.a\", \"b\", \"public.short\"]");
    let report = without.run(&["--json", "backup", "shop"]).exits(0).json();
    assert_eq!(report["tables"].as_array().unwrap().len(), 2);
    assert_eq!(report["left-out"].as_array().unwrap().len(), 3);
}

/// What each column became.
#[test]
fn show_types() {
    let cluster = shared(18);
    let database = cluster.database("shown");
    database.psql("CREATE TYPE pair AS (a integer, b numeric(5,2)); CREATE TABLE t (d date, p pair, r int4range); INSERT INTO t VALUES ('infinity', ROW(1, 2), 'empty'), ('2024-01-01', NULL, NULL)");
    let dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    let text = dozo.run(&["show", "shop@latest", "--types"]).exits(0).stdout;
    for line in ["public.t", "STRUCT<a INT32, b DECIMAL(5,2)>", "1 of 2 escaped", "as text"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let json = dozo.run(&["--json", "show", "shop@latest", "--types"]).exits(0).json();
    let by_column: BTreeMap<&str, &Value> = json.as_array().unwrap().iter().map(|c| (c["column"].as_str().unwrap(), c)).collect();
    assert_eq!(by_column["d"]["escaped"], 1);
    assert_eq!(by_column["p"]["parquet"], "STRUCT<a INT32, b DECIMAL(5,2)>");
    assert_eq!(by_column["r"]["travels"], "text");
}

/// Values of hundreds of megabytes are copied within a small multiple of their size; a row that no message can carry is refused by
/// table and key.
#[test]
fn large_values() {
    let cluster = shared(17);
    let database = cluster.database("huge");
    let size = if crate::harness::nightly() { 400_000_000 } else { 40_000_000 };
    database.psql(&format!(
        "CREATE TABLE huge (id integer PRIMARY KEY, t text, b bytea);
         INSERT INTO huge VALUES (1, repeat('0123456789', {size} / 10), NULL), (2, 'x', decode(repeat('00ff', {size} / 2), 'hex'))"
    ));
    let mut dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
    let copy = dozo.restore_into(cluster, "huge_copy");
    let sums = "SELECT id, md5(t), md5(b) FROM huge ORDER BY 1";
    assert_eq!(database.psql(sums), cluster.psql(&copy, sums));
    if crate::harness::nightly() {
        database.psql("INSERT INTO huge SELECT 3, repeat('a', 600000000), NULL; UPDATE huge SET b = convert_to(repeat('b', 600000000), 'UTF8') WHERE id = 3");
        let run = dozo.run(&["backup", "shop"]).exits(1);
        for word in ["public.huge", "id 3", "1.2 GB", "DOZO-E2126"] {
            assert!(run.stderr.contains(word), "{word}: {}", run.stderr);
        }
    }
}
