//! Values that other tools lose come back bit for bit, or the run refuses by column name before it copies a byte.

use dozo_testkit::{majors, shared};

use crate::harness::{Dozo, Place, fingerprints};

/// Tables with hard values of every type that is carried. With `payloads`, also NaNs with bits that no text keeps.
pub(crate) fn hard_values(major: u32, payloads: bool) -> String {
    let infinite_interval = if major >= 17 { "('infinity'), ('-infinity')," } else { "" };
    let nan_payload =
        if payloads { "INSERT INTO floats VALUES ('inf'::float8 - 'inf'::float8, 'inf'::float4 - 'inf'::float4);" } else { "" };
    format!(
        r#"
CREATE TYPE mood AS ENUM ('sad', 'o k', 'quo"te', 'com,ma', 'NULL', 'back\slash', 'ブレース{{}}');
CREATE DOMAIN small AS integer CHECK (value < 100);
CREATE DOMAIN smaller AS small;
CREATE DOMAIN moods AS mood[];
CREATE TABLE ints (b boolean, i2 smallint, i4 integer, i8 bigint, o oid, d smaller);
INSERT INTO ints VALUES (true, -32768, -2147483648, -9223372036854775808, 0, -5), (false, 32767, 2147483647, 9223372036854775807, 4294967295, 99), (NULL, NULL, NULL, NULL, NULL, NULL), (NULL, 0, 0, 0, 1, 0);
CREATE TABLE floats (f8 double precision, f4 real);
INSERT INTO floats VALUES ('-0', '-0'), ('0', '0'), ('NaN', 'NaN'), ('Infinity', '-Infinity'), (5e-324, 1e-45), (1.7976931348623157e308, 3.4028235e38), (0.1, 0.1), (NULL, NULL);
{nan_payload}
CREATE TABLE numerics (free numeric, two numeric(12,2), wide numeric(38,10), wider numeric(50,5), negative numeric(5,-2), tiny numeric(2,5), whole numeric(38,0), cash money);
INSERT INTO numerics VALUES (1.0, 1.0, 1, 1, 100, 0.00001, 1, 1), (1.00, 'NaN', 'NaN', 'NaN', 'NaN', 'NaN', 'NaN', -92233720368547758.08), ('Infinity', -0.01, -0.0000000001, 123456789012345678901234567890123456789012345.12345, 1234500, -0.00099, 99999999999999999999999999999999999999, 92233720368547758.07),
    ('-Infinity', 9999999999.99, 9999999999999999999999999999.9999999999, 0, -1234500, 0, -99999999999999999999999999999999999999, 0), (1e400, NULL, NULL, NULL, NULL, NULL, NULL, NULL), (1e-400, 0, 0, -1, 0, 0, 0, 0.01), ('NaN', 1, 1, 1, 0, 0, 1, 1), (-0.00012, 1, 1, 1, 0, 0, 1, 1);
CREATE TABLE times (d date, t time, tz timetz, ts timestamp, tstz timestamptz, iv interval);
INSERT INTO times (d) VALUES ('infinity'), ('-infinity'), ('4713-01-01 BC'), ('5874897-12-31'), ('0001-01-01'), ('0001-12-31 BC'), ('2024-02-29'), (NULL);
INSERT INTO times (t) VALUES ('00:00'), ('24:00:00'), ('23:59:59.999999');
INSERT INTO times (tz) VALUES ('12:00+02'), ('24:00:00-15:59:59'), ('00:00:00.000001+05:30'), ('12:34:56-00');
INSERT INTO times (ts) VALUES ('infinity'), ('-infinity'), ('4713-01-01 00:00:00 BC'), ('294276-12-31 23:59:59.999999'), ('294247-01-10 04:00:54.775807'), ('294247-01-10 04:00:54.775808'), ('2024-03-10 02:30:00');
INSERT INTO times (tstz) VALUES ('infinity'), ('-infinity'), ('4713-01-01 00:00:00+00 BC'), ('294276-12-31 23:59:59.999999+00'), ('2024-03-09 12:00-05'), ('1990-03-20 12:00-05'), ('1883-11-18 12:00:00.5+00');
INSERT INTO times (iv) VALUES {infinite_interval} ('3.0005 s'), ('-1 mon 2 days -3.000001 s'), ('178000000 years'), ('1 microsecond'), ('-9223372036854775808 microseconds'), ('0');
CREATE TABLE texts (t text, v varchar(10), c char(5), n name, ch "char", u uuid, j json, jb jsonb, by bytea, m mood);
INSERT INTO texts VALUES ('', '', '', '', '', '00000000-0000-0000-0000-000000000000', '{{"b": 1.50, "a" :  [ ], "b": 2}}', '{{"b": 1.50, "a": []}}', '', 'sad'), ('NULL', 'a', 'a', 'a', 'a', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'null', 'null', '\x00ff5c', 'NULL'),
    (E'tab\tnew\nline\r"quote" ''single'' \\N \\. back\\slash', '日本語', 'é ', '日本', '\', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '"\u00e9"', '1e100', '\xdeadbeef', 'back\slash'), (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), ('\N', '\.', '     ', 'x', 'z', NULL, '  1  ', '"x"', 'ab', 'ブレース{{}}');
CREATE TABLE arrays (i integer[], t text[], n numeric(10,2)[], f numeric[], d date[], ts timestamptz[], b bytea[], bo boolean[], f8 float8[], iv interval[], j jsonb[], u uuid[], m mood[], dm moods, c char(3)[], tz timetz[], mo money[]);
INSERT INTO arrays (i) VALUES ('{{}}'), ('{{1,NULL,-3}}'), ('{{NULL}}'), ('{{{{1,2}},{{3,NULL}}}}'), ('[0:2]={{1,2,3}}'), ('[-1:0][5:6]={{{{1,2}},{{3,4}}}}'), (NULL);
INSERT INTO arrays (t) VALUES ('{{}}'), (ARRAY['', 'NULL', 'null', NULL, '{{}}', 'a,b', 'q"q', 'b\s', ' x ', E'n\nl', '日本']), (ARRAY[['a','"'],['\',NULL]]), ('[2:3]={{x,y}}');
INSERT INTO arrays (n, f) VALUES ('{{1.10,NULL}}', '{{1.0,1.00,NaN,Infinity,1e50}}'), ('{{NaN,1}}', '{{{{1.0,NaN}}}}'), ('{{{{1.5}},{{2.5}}}}', '{{}}');
INSERT INTO arrays (d, ts, iv, tz, mo) VALUES ('{{2024-02-29,NULL}}', '{{"2024-01-01 00:00+00"}}', '{{"1 mon -2 days"}}', '{{12:00+02}}', '{{1.25,-1}}'), ('{{infinity,"0044-03-15 BC"}}', '{{infinity,"294276-12-31 00:00+00"}}', '{{{{"1 day","3.000001 s"}}}}', '{{{{12:00-03:30}}}}', '[3:3]={{5}}');
INSERT INTO arrays (b, bo, f8, j, u, c) VALUES ('{{"\\x00ff",NULL}}', '{{t,f,NULL}}', '{{0.1,-0,NaN,1e300}}', ARRAY['{{"a": "b,\"c"}}'::jsonb, 'null'], '{{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}}', '{{"a  ",bcd}}'), ('{{{{"\\x01"}}}}', '[0:0]={{t}}', '{{{{0.1,1e-7}},{{-Infinity,5e-324}}}}', ARRAY[['{{"x": 1}}'::jsonb]], '{{{{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}}}}', '{{{{"x "}}}}');
INSERT INTO arrays (m, dm) VALUES ('{{}}', '{{sad}}'), (ARRAY['sad', NULL, 'NULL', 'quo"te', 'com,ma', 'back\slash', 'ブレース{{}}', 'o k']::mood[], ARRAY['o k', NULL]::mood[]), (ARRAY[['sad','o k']]::mood[], '[0:0]={{sad}}'), (NULL, NULL);
-- A NULL element overwritten: the server keeps a bitmap that nobody needs.
CREATE TABLE idle (id integer, a integer[]);
INSERT INTO idle VALUES (1, '{{1,NULL}}'); UPDATE idle SET a[2] = 5;
CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
CREATE TABLE empty (id integer);
CREATE TABLE "Odd ""Name"" / . é" ("Foo" integer, foo integer, "FOO" text, "_dozo_exact" text, "select" date, "a ""b"" /~" numeric(3,1));
INSERT INTO "Odd ""Name"" / . é" VALUES (1, 2, '3', '{{"x":1}}', 'infinity', 'NaN'), (NULL, NULL, NULL, NULL, '2024-01-01', 1.5);
CREATE TABLE odd (id integer); CREATE TABLE "ODD" (id integer); INSERT INTO odd VALUES (1); INSERT INTO "ODD" VALUES (2);
CREATE SCHEMA "_dozo"; CREATE TABLE "_dozo"."_dozo" (id integer); INSERT INTO "_dozo"."_dozo" VALUES (7);
CREATE TABLE dropped (a integer, b text, c integer, d integer GENERATED ALWAYS AS (a * 2) STORED, e text); INSERT INTO dropped (a, b, c, e) VALUES (1, 'x', 2, 'y'); ALTER TABLE dropped DROP b; ALTER TABLE dropped ADD f integer DEFAULT 9;
-- Leaves with another column order than their root, several levels, a default partition.
CREATE TABLE tree (k integer NOT NULL, region text, v numeric) PARTITION BY LIST (region);
CREATE TABLE tree_eu (v numeric, region text, gone integer, k integer NOT NULL); ALTER TABLE tree_eu DROP gone; ALTER TABLE tree ATTACH PARTITION tree_eu FOR VALUES IN ('eu');
CREATE TABLE tree_asia PARTITION OF tree FOR VALUES IN ('asia') PARTITION BY HASH (k);
CREATE TABLE tree_asia_0 PARTITION OF tree_asia FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE tree_asia_1 PARTITION OF tree_asia FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE tree_rest PARTITION OF tree DEFAULT;
INSERT INTO tree SELECT i, (ARRAY['eu','asia','mars',NULL])[1 + i % 4], i / 3.0 FROM generate_series(1, 100) i;
CREATE TABLE parent (a integer); CREATE TABLE child (b integer) INHERITS (parent); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 3);
CREATE UNLOGGED TABLE unlogged (id integer GENERATED ALWAYS AS IDENTITY, s serial); INSERT INTO unlogged (s) VALUES (5);
"#
    )
}

#[test]
fn hard_values_come_back_bit_for_bit() {
    for major in majors() {
        let cluster = shared(major);
        let database = cluster.database("hard");
        database.psql(&hard_values(major, true));
        let mut dozo = Dozo::new(&database, Place::Local);
        let _ = dozo.backup();
        let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
        let copy = dozo.restore_into(cluster, "hard_copy");
        assert_eq!(fingerprints(&dozo, cluster, &database.name), fingerprints(&dozo, cluster, &copy));
        // The text of every table too: owes nothing to fingerprints.
        for table in [
            "ints",
            "floats",
            "numerics",
            "times",
            "texts",
            "arrays",
            "idle",
            "tree",
            "tree_eu",
            "dropped",
            "\"Odd \"\"Name\"\" / . é\"",
            "child",
            "unlogged",
        ] {
            let sql = format!("SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)), count(*) FROM {table} t");
            assert_eq!(cluster.psql(&database.name, &sql), cluster.psql(&copy, &sql), "{table} on {major}");
        }
        let manifest = dozo.manifest();
        let escaped = |table: &str, column: &str| {
            let dataset = manifest["datasets"].as_array().unwrap().iter().find(|d| d["name"] == table).unwrap();
            dataset["escaped"][column].as_u64().unwrap_or(0)
        };
        assert_eq!((escaped("times", "d"), escaped("times", "ts"), escaped("numerics", "two")), (2, 5, 1));
        assert_eq!(escaped("numerics", "free"), 0);
    }
}

#[test]
fn other_types_are_refused_before_copying_all_named() {
    let cluster = shared(15);
    let database = cluster.database("refused");
    database.psql("CREATE TYPE pair AS (a int, b int); CREATE DOMAIN d AS int; CREATE TABLE a (p pair, x int, n inet); CREATE TABLE b (r int4range, ds d[]); CREATE TABLE fine (id int);");
    let dozo = Dozo::new(&database, Place::Local);
    let run = dozo.run(&["backup", "shop"]).exits(1);
    for named in
        ["public.a.p (public.pair)", "public.a.n (inet)", "public.b.r (int4range)", "public.b.ds (public.d[])", "DOZO-E2116"]
    {
        assert!(run.stderr.contains(named), "{named}: {}", run.stderr);
    }
    assert!(!dozo.repository().join("data").exists(), "nothing was copied");
    let without = Dozo::with_url(&database.url(), cluster, Place::Local, "exclude = [\"public.a\", \"b\"]");
    let report = without.run(&["--json", "backup", "shop"]).exits(0).json();
    assert_eq!(report["tables"].as_array().unwrap().len(), 1);
    assert_eq!(report["left-out"].as_array().unwrap().len(), 2);
}
