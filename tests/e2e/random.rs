//! Random tables: at least three columns of two families, fifty rows with extremes, NULLs, arrays; backed up, verified, restored
//! and compared by fingerprint and by the whole text of pg_dump.
//!
//! The seed of a run is printed; `DOZO_TEST_SEED` repeats it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use dozo_testkit::{majors, shared};

use crate::harness::{Dozo, Place, fingerprints, nightly};
use crate::types::difference;

/// SplitMix64 (Steele, Lea, Flood 2014): enough for a test, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn between(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.next() % u64::try_from(high - low + 1).unwrap()).unwrap()
    }
}

/// A type, its family, values that are hard, and a way to make others.
struct Kind {
    name: &'static str,
    family: &'static str,
    hard: &'static [&'static str],
    make: fn(&mut Random) -> String,
    since: u32,
}

const fn kind(name: &'static str, family: &'static str, hard: &'static [&'static str], make: fn(&mut Random) -> String) -> Kind {
    Kind { name, family, hard, make, since: 15 }
}

fn text(r: &mut Random) -> String {
    const PIECES: [&str; 16] = ["a", "B", "é", "日本", " ", "\"", "''", "\\\\", "\\n", "\\t", ",", "{", "}", "(", ")", "NULL"];
    let n = r.below(8);
    let body: String = (0..n).map(|_| *r.pick(&PIECES)).collect();
    format!("E'{body}'")
}

fn digits(r: &mut Random, most: usize) -> String {
    let n = 1 + r.below(most);
    (0..n).map(|_| char::from(b'0' + u8::try_from(r.below(10)).unwrap())).collect()
}

const KINDS: &[Kind] = &[
    kind("boolean", "bool", &["true", "false"], |r| (r.below(2) == 0).to_string()),
    kind("smallint", "int", &["-32768", "32767", "0"], |r| r.between(-32768, 32767).to_string()),
    kind("integer", "int", &["-2147483648", "2147483647"], |r| r.between(-2_147_483_648, 2_147_483_647).to_string()),
    kind("bigint", "int", &["'-9223372036854775808'", "9223372036854775807"], |r| format!("'{}'", r.next().cast_signed())),
    kind("oid", "int", &["0", "4294967295"], |r| format!("'{}'", r.between(0, 4_294_967_295))),
    kind("xid", "int", &["'0'", "'4294967295'"], |r| format!("'{}'", r.between(0, 4_294_967_295))),
    kind("real", "float", &["'-0'", "'NaN'", "'Infinity'", "'1e-45'", "'3.4028235e38'"], |r| {
        format!("'{}e{}'", digits(r, 9), r.between(-40, 28))
    }),
    kind("double precision", "float", &["'-0'", "'NaN'", "'-Infinity'", "'5e-324'", "'1.7976931348623157e308'"], |r| {
        format!("'{}{}e{}'", if r.below(2) == 0 { "-" } else { "" }, digits(r, 17), r.between(-300, 280))
    }),
    kind("numeric", "numeric", &["'NaN'", "'Infinity'", "'-Infinity'", "1.0", "1.00", "1e300", "1e-300"], |r| {
        format!("{}{}.{}", if r.below(2) == 0 { "-" } else { "" }, digits(r, 40), digits(r, 30))
    }),
    kind("numeric(12,3)", "numeric", &["'NaN'", "999999999.999", "0"], |r| format!("{}.{}", digits(r, 9), digits(r, 3))),
    kind("numeric(5,-2)", "numeric", &["'NaN'", "1234500"], |r| format!("{}00", digits(r, 5))),
    kind("numeric(2,5)", "numeric", &["0.00099", "-0.00001"], |r| format!("0.000{}", digits(r, 2))),
    kind("numeric(38,19)", "numeric", &["'NaN'", "9999999999999999999.9999999999999999999"], |r| {
        format!("{}.{}", digits(r, 19), digits(r, 19))
    }),
    kind("numeric(60,10)", "numeric", &["'NaN'"], |r| format!("{}.{}", digits(r, 50), digits(r, 10))),
    kind("money", "numeric", &["'-92233720368547758.08'", "'92233720368547758.07'"], |r| {
        format!("{}.{:02}", r.between(-9_999_999, 9_999_999), r.below(100))
    }),
    kind("text", "text", &["''", "'NULL'", "E'\\\\N'", "E'\\\\.'"], text),
    kind("varchar(200)", "text", &["''"], text),
    kind("char(12)", "text", &["''", "'     '"], |r| format!("left({}, 12)", text(r))),
    kind("name", "text", &["''"], |r| format!("left({}, 20)", text(r))),
    kind("\"char\"", "text", &["''", "'x'"], |r| format!("'{}'", char::from(b'a' + u8::try_from(r.below(26)).unwrap()))),
    kind("bytea", "bytes", &["''", "'\\x00ff5c'"], |r| format!("decode('{:016x}', 'hex')", r.next())),
    kind("uuid", "bytes", &["'00000000-0000-0000-0000-000000000000'"], |r| format!("'{:016x}{:016x}'", r.next(), r.next())),
    kind("bit(9)", "bits", &["B'000000000'", "B'111111111'"], |r| format!("B'{:09b}'", r.below(512))),
    kind("bit varying", "bits", &["B''"], |r| format!("B'{:b}'", r.next())),
    kind("date", "time", &["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'"], |r| {
        format!("date '2000-01-01' + {}", r.between(-700_000, 700_000))
    }),
    kind("time", "time", &["'24:00'", "'00:00:00.000001'"], |r| {
        format!("time '00:00' + {} * interval '1 microsecond'", r.between(0, 86_399_999_999))
    }),
    kind("timetz", "time", &["'24:00:00-15:59:59'", "'00:00+05:30'"], |r| {
        format!("'{:02}:{:02}:01.5{:+03}'", r.below(24), r.below(60), r.between(-12, 12))
    }),
    kind("timestamp", "time", &["'infinity'", "'294276-12-31 23:59:59.999999'", "'4713-01-01 BC'"], |r| {
        format!(
            "timestamp '2000-01-01' + {} * interval '1 microsecond'",
            r.between(-60_000_000_000_000_000, 60_000_000_000_000_000)
        )
    }),
    kind("timestamptz", "time", &["'-infinity'", "'294276-12-31 23:59:59.999999+00'"], |r| {
        format!(
            "timestamptz '2000-01-01 00:00+00' + {} * interval '1 microsecond'",
            r.between(-60_000_000_000_000_000, 60_000_000_000_000_000)
        )
    }),
    kind("interval", "time", &["'0'", "'-1 mon 2 days -3.000001 s'", "'178000000 years'"], |r| {
        format!(
            "make_interval(months => {}, days => {}, secs => {}::float8 / 1000000)",
            r.between(-9999, 9999),
            r.between(-9999, 9999),
            r.between(-999_999_999_999, 999_999_999_999)
        )
    }),
    Kind { since: 17, ..kind("interval", "time", &["'infinity'", "'-infinity'"], |r| format!("'{} days'", r.between(-99, 99))) },
    kind("json", "json", &["'null'", "'{\"b\":1,  \"a\":[ ],\"b\":1.50}'"], |r| {
        format!("json_build_object({}, {})::json", text(r), r.between(-9, 9))
    }),
    kind("jsonb", "json", &["'null'", "'{\"b\": 1.50, \"a\": []}'"], |r| {
        format!("jsonb_build_array({}, {}::numeric)", text(r), digits(r, 30))
    }),
    kind("inet", "net", &["'::'", "'0.0.0.0/0'", "'::ffff:1.2.3.4'"], |r| {
        format!("'{}.{}.{}.{}/{}'", r.below(256), r.below(256), r.below(256), r.below(256), r.below(33))
    }),
    kind("cidr", "net", &["'10.0.0.0/8'", "'::/0'"], |r| {
        format!("set_masklen('{:x}:{:x}::{:x}'::cidr, {})", r.below(65536), r.below(65536), r.below(65536), r.below(129))
    }),
    kind("macaddr", "net", &["'ff:ff:ff:ff:ff:ff'"], |r| format!("'{:012x}'", r.next() >> 16)),
    kind("macaddr8", "net", &["'00:00:00:00:00:00:00:00'"], |r| format!("'{:016x}'", r.next())),
    kind("int4range", "range", &["'empty'", "'(,)'"], |r| {
        let a = r.between(-99, 99);
        format!("int4range({a}, {})", a + r.between(0, 9))
    }),
    kind("numrange", "range", &["'empty'", "'[1.0,1.00]'"], |r| format!("numrange(-{}.5, {})", digits(r, 3), digits(r, 20))),
    kind("tstzrange", "range", &["'[-infinity,infinity]'", "'(,)'"], |r| {
        format!("tstzrange(NULL, timestamptz '2000-01-01 00:00+00' + {} * interval '1 s')", r.between(-999_999, 999_999))
    }),
    kind("datemultirange", "range", &["'{}'", "'{(,)}'"], |r| {
        format!("datemultirange(daterange('2024-01-01', date '2024-01-01' + {}))", r.below(100))
    }),
    kind("tsvector", "search", &["''"], |r| format!("to_tsvector('english', {})", text(r))),
    kind("tsquery", "search", &["'a & !b'"], |r| format!("plainto_tsquery('simple', 'x{} y')", r.below(99))),
    kind("jsonpath", "search", &["'$'"], |r| format!("'$.a[{}] ? (@ > 1)'", r.below(9))),
    kind("pg_lsn", "search", &["'0/0'", "'FFFFFFFF/FFFFFFFF'"], |r| format!("'{:X}/{:X}'", r.next() >> 32, r.next() >> 32)),
    kind("xid8", "search", &["'18446744073709551615'"], |r| format!("'{}'", r.next())),
    kind("point", "shape", &["'(NaN,-0)'"], |r| format!("point({}, {})", digits(r, 5), digits(r, 17))),
    kind("path", "shape", &["'[(0,0),(1,1)]'", "'((0,0),(1,1))'"], |r| {
        format!("'[(0,0),({},1e{})]'", digits(r, 5), r.between(-99, 99))
    }),
    kind("box", "shape", &["'(1,1),(0,0)'"], |r| format!("box(point(0,0), point({}, 1))", digits(r, 3))),
    kind("mood", "enum", &["'sad'", "'quo\"te'", "'NULL'"], |r| {
        (*r.pick(&["'sad'", "'o k'", "'com,ma'", "'back\\slash'"])).to_string()
    }),
    kind("small", "domain", &["-99", "99"], |r| r.between(-99, 99).to_string()),
    kind("code", "domain", &["''"], |r| format!("'{}'", digits(r, 4))),
    kind("regtype", "reg", &["'numeric(5,2)[]'", "'mood'"], |r| (*r.pick(&["'integer'", "'text[]'", "'small'"])).to_string()),
    kind("hstore", "extension", &["''", "'\"a\"=>NULL'"], |r| format!("hstore({}, {})", text(r), text(r))),
    kind("citext", "extension", &["''"], text),
    kind("ltree", "extension", &["''"], |r| format!("'a.b{}'", r.below(99))),
];

const TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'o k', 'quo\"te', 'com,ma', 'NULL', 'back\\slash');
    CREATE DOMAIN small AS integer CHECK (value < 100); CREATE DOMAIN code AS varchar(9); CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;";

/// Writes a value as SQL.
type Value = Box<dyn Fn(&mut Random) -> String>;

/// A column: its type as SQL, and how one value is written.
struct Column {
    sql: String,
    family: String,
    value: Value,
}

fn scalar(r: &mut Random, major: u32) -> (&'static Kind, Value) {
    let kind = loop {
        let kind = r.pick(KINDS);
        if kind.since <= major {
            break kind;
        }
    };
    let value = move |r: &mut Random| {
        if r.below(3) == 0 {
            format!("({})::{}", r.pick(kind.hard), kind.name)
        } else {
            format!("({})::{}", (kind.make)(r), kind.name)
        }
    };
    (kind, Box::new(value))
}

fn or_null(r: &mut Random, value: &dyn Fn(&mut Random) -> String) -> String {
    if r.below(6) == 0 { "NULL".into() } else { value(r) }
}

fn column(r: &mut Random, major: u32, table: usize, n: usize, before: &mut String) -> Column {
    match r.below(10) {
        0..=5 => {
            let (kind, value) = scalar(r, major);
            Column { sql: kind.name.into(), family: kind.family.into(), value }
        }
        6..=7 => {
            let (kind, element) = scalar(r, major);
            let name = format!("{}[]", kind.name);
            let array = name.clone();
            let value = move |r: &mut Random| {
                let mut list = |n: usize| (0..n).map(|_| or_null(r, element.as_ref())).collect::<Vec<_>>().join(", ");
                match list(1).len() % 6 {
                    0 => format!("'{{}}'::{array}"),
                    1 => format!("ARRAY[ARRAY[{}], ARRAY[{}]]::{array}", list(2), list(2)),
                    2 => format!("array_fill({}, ARRAY[2], ARRAY[0])::{array}", element(r)),
                    _ => format!("ARRAY[{}]::{array}", list(3)),
                }
            };
            Column { sql: name, family: format!("array of {}", kind.family), value: Box::new(value) }
        }
        _ => {
            let name = format!("pair_{table}_{n}");
            let fields: Vec<_> = (0..1 + r.below(3)).map(|_| scalar(r, major)).collect();
            let listed: Vec<String> = fields.iter().enumerate().map(|(i, (kind, _))| format!("f{i} {}", kind.name)).collect();
            let _ = writeln!(before, "CREATE TYPE {name} AS ({});", listed.join(", "));
            let cast = name.clone();
            let value = move |r: &mut Random| {
                let values: Vec<String> = fields.iter().map(|(_, value)| or_null(r, value.as_ref())).collect();
                format!("ROW({})::{cast}", values.join(", "))
            };
            Column { sql: name, family: "composite".into(), value: Box::new(value) }
        }
    }
}

fn table(r: &mut Random, major: u32, number: usize, kinds: &mut BTreeMap<String, usize>) -> String {
    let mut sql = String::new();
    let mut columns: Vec<Column> = Vec::new();
    let wanted = 3 + r.below(6);
    while columns.len() < wanted || columns.iter().all(|c| c.family == columns[0].family) {
        let column = column(r, major, number, columns.len(), &mut sql);
        *kinds.entry(column.family.clone()).or_default() += 1;
        columns.push(column);
    }
    let listed: Vec<String> = columns.iter().enumerate().map(|(i, c)| format!("c{i} {}", c.sql)).collect();
    let _ = writeln!(sql, "CREATE TABLE t_{number} ({});", listed.join(", "));
    for _ in 0..50 {
        let values: Vec<String> = columns.iter().map(|c| or_null(r, c.value.as_ref())).collect();
        let _ = writeln!(sql, "INSERT INTO t_{number} VALUES ({});", values.join(", "));
    }
    sql
}

#[test]
fn random_tables_come_back() {
    let wanted = if nightly() { 1000 } else { 60 };
    let seed = std::env::var("DOZO_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        u64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() & 0xffff_ffff)
            .unwrap()
    });
    println!("DOZO_TEST_SEED={seed}");
    let mut random = Random(seed);
    let (mut kinds, mut escaped, mut values) = (BTreeMap::new(), 0, 0);
    let majors = majors();
    let batches = majors.len() * if nightly() { 4 } else { 1 };
    for batch in 0..batches {
        let major = majors[batch % majors.len()];
        let cluster = shared(major);
        let database = cluster.database("random");
        let mut sql = format!("SET lc_monetary = 'C'; SET TimeZone = 'UTC'; {TYPES}\nBEGIN;\n");
        for number in (0..wanted).filter(|n| n % batches == batch) {
            sql.push_str(&table(&mut random, major, number, &mut kinds));
        }
        sql.push_str("COMMIT;");
        if let Err(e) = cluster.try_psql(&database.name, &sql) {
            panic!("seed {seed}: the tables cannot be made: {e}");
        }
        let mut dozo = Dozo::new(&database, Place::Local);
        let report = dozo.run(&["--json", "backup", "shop", "--prove", "100%"]);
        assert_eq!(report.code, 0, "seed {seed}, PostgreSQL {major}: {}", report.stderr);
        let verified = dozo.run(&["verify", "shop@latest"]);
        assert_eq!(verified.code, 0, "seed {seed}, PostgreSQL {major}: {}", verified.stderr);
        let copy = dozo.restore_into(cluster, "random_copy");
        assert_eq!(
            fingerprints(&dozo, cluster, &database.name),
            fingerprints(&dozo, cluster, &copy),
            "seed {seed}, PostgreSQL {major}"
        );
        let (source, restored) = (cluster.dump(&database.name), cluster.dump(&copy));
        assert!(source == restored, "seed {seed}, PostgreSQL {major}: {}", difference(&source, &restored));
        for dataset in dozo.manifest()["datasets"].as_array().unwrap() {
            values += 50 * dataset["columns"].as_array().unwrap().len() as u64;
            escaped += dataset["escaped"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>();
        }
    }
    assert!(kinds.values().sum::<usize>() >= 3 * wanted && kinds.len() > 10);
    assert!(escaped > 0 && escaped < values / 2, "{escaped} of {values} values escaped");
    println!("{wanted} tables, {escaped} of {values} values escaped; columns by family: {kinds:?}");
}
