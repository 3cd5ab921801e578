//! The project's own rules: who may import whom, one arrow, files of readable size, documents that are true.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use cargo_metadata::{DependencyKind, MetadataCommand};

fn root() -> PathBuf {
    // At run time: checkouts that share a target folder share this program, too.
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..")
}

fn normal_dependencies() -> BTreeMap<String, Vec<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".into()])
        .exec()
        .unwrap();
    metadata
        .packages
        .iter()
        .map(|p| {
            let names = p.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal).map(|d| d.name.clone());
            (p.name.to_string(), names.collect())
        })
        .collect()
}

/// Siblings never import each other, with one sideways edge: catalog → store. Nothing imports the binary.
#[test]
fn crates_import_only_what_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("dozo-digest", &[][..]),
        ("dozo-model", &["dozo-digest"]),
        ("dozo-postgres", &["dozo-model"]),
        ("dozo-duckdb", &["dozo-model"]),
        ("dozo-files", &["dozo-model"]),
        ("dozo-encode", &["dozo-model"]),
        ("dozo-store", &["dozo-model"]),
        ("dozo-catalog", &["dozo-model", "dozo-store"]),
        (
            "dozo-engine",
            &[
                "dozo-digest",
                "dozo-model",
                "dozo-postgres",
                "dozo-duckdb",
                "dozo-encode",
                "dozo-files",
                "dozo-store",
                "dozo-catalog",
            ],
        ),
        ("dozo-notify", &["dozo-model"]),
        // The binary names dozo-duckdb for its feature `bundled` alone.
        ("dozo", &["dozo-model", "dozo-engine", "dozo-notify", "dozo-duckdb"]),
        ("dozo-testkit", &[]),
    ]);
    let found = normal_dependencies();
    assert_eq!(found.len(), allowed.len(), "{:?}", found.keys());
    for (name, dependencies) in found {
        for dependency in dependencies.iter().filter(|d| d.starts_with("dozo")) {
            assert!(allowed[name.as_str()].contains(&dependency.as_str()), "{name} must not import {dependency}");
        }
    }
}

/// Some libraries are named by one crate only.
#[test]
fn libraries_stay_behind_their_crate() {
    let owners = [
        ("tokio-postgres", "dozo-postgres"),
        ("postgres-protocol", "dozo-postgres"),
        ("duckdb", "dozo-duckdb"),
        ("parquet", "dozo-encode"),
        ("tar", "dozo-files"),
        ("zstd", "dozo-encode"),
        ("flate2", "dozo-encode"),
        ("libdeflater", "dozo-encode"),
        ("object_store", "dozo-store"),
        ("clap", "dozo"),
        ("lettre", "dozo-notify"),
        ("reqwest", "dozo-notify"),
        ("indicatif", "dozo"),
    ];
    let found = normal_dependencies();
    for (library, owner) in owners {
        for (name, dependencies) in &found {
            assert!(name == owner || !dependencies.iter().any(|d| d == library), "{name} must not name {library}");
        }
    }
    assert!(!found["dozo-model"].iter().any(|d| d.starts_with("tokio")), "model has no I/O");
}

/// Returns the commands that a text names in code.
fn commands(text: &str) -> std::collections::BTreeSet<String> {
    let is_command = |code: &str| code.starts_with("dozo ") || code.starts_with("scripts/");
    let mut found = std::collections::BTreeSet::new();
    // Odd pieces stand between fences, and what is a run is not repeated in another language.
    for (i, piece) in text.split("```").enumerate() {
        let lines: Vec<&str> = match i % 2 {
            1 if piece.starts_with("console") => continue,
            1 => piece.lines().map(|line| line.split("  #").next().unwrap_or(line).trim()).collect(),
            _ => piece.split('`').skip(1).step_by(2).collect(),
        };
        found.extend(lines.into_iter().filter(|code| is_command(code)).map(str::to_owned));
    }
    found
}

#[test]
fn both_readmes_name_the_same_commands() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let (english, japanese) = (commands(&read("README.md")), commands(&read("README.ja.md")));
    assert!(english.len() >= 20, "{english:?}");
    assert_eq!(english, japanese);
}

#[test]
fn one_arrow_major() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for package in ["arrow-array", "arrow-schema", "parquet", "object_store", "rustls"] {
        assert_eq!(lock.matches(&format!("name = \"{package}\"\n")).count(), 1, "{package}");
    }
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join("crates"), root().join("tests")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50);
    found
}

#[test]
fn files_are_short_and_open_with_their_purpose() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() <= 800, "{} is longer than 800 lines", path.display());
        let inner = path.ends_with("tests.rs");
        assert!(inner || text.starts_with("//! "), "{} does not say what it is for", path.display());
    }
}

/// Every error code is used once, and `docs/errors.md` is what the code says.
#[test]
fn error_codes_are_documented() {
    let out = std::process::Command::new("python3").arg(root().join("scripts/errors-md")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let generated = String::from_utf8(out.stdout).unwrap();
    assert_eq!(fs::read_to_string(root().join("docs/errors.md")).unwrap(), generated, "run scripts/errors-md > docs/errors.md");
    let mut codes: Vec<String> = Vec::new();
    for path in sources().iter().filter(|p| p.components().any(|c| c.as_os_str() == "src")) {
        let text = fs::read_to_string(path).unwrap();
        codes.extend(text.split("DOZO-E").skip(1).map(|rest| rest[..4].to_owned()));
    }
    codes.sort();
    codes.dedup();
    assert!(codes.len() > 50);
    for code in codes {
        assert!(generated.contains(&format!("| DOZO-E{code} |")), "DOZO-E{code} belongs to no variant");
    }
}

/// The README's run is what the demo prints: the commands are in the script, and its words are those of the program.
#[test]
fn the_readme_shows_a_real_run() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let demo = fs::read_to_string(root().join("scripts/demo")).unwrap();
    let run = readme.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    let commands: Vec<&str> = run.lines().filter_map(|l| l.strip_prefix("$ dozo ")).collect();
    assert!(commands.len() >= 4, "{commands:?}");
    for command in commands {
        let verb = command.split(' ').next().unwrap();
        assert!(demo.contains(&format!("\nrun {verb}")), "the demo does not run `{command}`");
    }
    for name in ["scripts/demo", "scripts/test", "docs/format.md", "docs/architecture.md", "docs/config.toml", "docs/errors.md"] {
        assert!(readme.contains(name), "README does not mention {name}");
        assert!(root().join(name).exists());
    }
}

/// The table of `docs/types.md` is what the code says. A variant that is added to the types does not compile here until it is
/// in the table.
#[test]
fn types_are_documented() {
    use dozo_model::{CompositeField, NumericMod, PgType, Profile};
    fn row_of(wire: &PgType) -> &'static str {
        match wire {
            PgType::Bool => "boolean",
            PgType::Int2 => "smallint",
            PgType::Int4 => "integer",
            PgType::Int8 => "bigint",
            PgType::Oid => "oid",
            PgType::Xid => "xid",
            PgType::Cid => "cid",
            PgType::Float4 => "real",
            PgType::Float8 => "double precision",
            PgType::Numeric(Some(NumericMod { precision: 12, .. })) => "numeric(12,2)",
            PgType::Numeric(Some(NumericMod { precision: 5, .. })) => "numeric(5,-2)",
            PgType::Numeric(Some(NumericMod { precision: 2, .. })) => "numeric(2,5)",
            PgType::Numeric(Some(_)) => "numeric(50,5)",
            PgType::Numeric(None) => "numeric",
            PgType::Money { .. } => "money",
            PgType::Text => "text",
            PgType::Varchar => "character varying",
            PgType::Bpchar => "character",
            PgType::Name => "name",
            PgType::Char => "\"char\"",
            PgType::Bytea => "bytea",
            PgType::Date => "date",
            PgType::Time => "time",
            PgType::Timetz => "timetz",
            PgType::Timestamp => "timestamp",
            PgType::Timestamptz => "timestamptz",
            PgType::Interval => "interval",
            PgType::Uuid => "uuid",
            PgType::Json => "json",
            PgType::Jsonb => "jsonb",
            PgType::Inet => "inet",
            PgType::Cidr => "cidr",
            PgType::Macaddr => "macaddr",
            PgType::Macaddr8 => "macaddr8",
            PgType::Bit => "bit",
            PgType::Varbit => "bit varying",
            PgType::Enum => "enums",
            PgType::Citext => "citext",
            PgType::Hstore => "hstore",
            PgType::Vector => "vector, halfvec",
            PgType::Sparsevec => "sparsevec",
            PgType::Geometry { .. } => "geometry, geography",
            PgType::Composite(_) => "composites",
            PgType::Array(inner) if **inner == PgType::Enum => "arrays of enums, composites, extension types",
            PgType::Array(_) => "arrays",
            PgType::DomainArray(_) => "arrays of domains",
            PgType::Xml | PgType::AsText => "every other type",
            PgType::Raw(_) => "texts of a SQL_ASCII database",
            PgType::Printed(_) => "any type, kept as text",
        }
    }
    let numeric = |precision, scale| PgType::Numeric(Some(NumericMod { precision, scale }));
    let field = |name: &str, wire| CompositeField { name: name.into(), wire };
    let boxed = |wire| Box::new(wire);
    #[rustfmt::skip]
    let all = [
        PgType::Bool, PgType::Int2, PgType::Int4, PgType::Int8, PgType::Oid, PgType::Xid, PgType::Cid, PgType::Float4, PgType::Float8,
        numeric(12, 2), numeric(5, -2), numeric(2, 5), numeric(50, 5), PgType::Numeric(None), PgType::Money { scale: 2 }, PgType::Text,
        PgType::Varchar, PgType::Bpchar, PgType::Name, PgType::Char, PgType::Bytea, PgType::Date, PgType::Time, PgType::Timetz,
        PgType::Timestamp, PgType::Timestamptz, PgType::Interval, PgType::Uuid, PgType::Json, PgType::Jsonb, PgType::Inet, PgType::Cidr,
        PgType::Macaddr, PgType::Macaddr8, PgType::Bit, PgType::Varbit, PgType::Enum, PgType::Citext, PgType::Hstore, PgType::Vector,
        PgType::Sparsevec, PgType::Geometry { srid: 0 },
        PgType::Composite(vec![field("a", PgType::Int4), field("u", PgType::Uuid)]), PgType::Array(boxed(PgType::Int4)),
        PgType::Array(boxed(PgType::Enum)), PgType::DomainArray(boxed(PgType::Int4)), PgType::AsText, PgType::Raw(boxed(PgType::Text)),
        PgType::Printed(boxed(PgType::Int4)),
    ];
    let text = fs::read_to_string(root().join("docs/types.md")).unwrap();
    let rows: Vec<Vec<&str>> =
        text.lines().filter(|l| l.starts_with("| ")).skip(1).map(|l| l.split('|').map(str::trim).collect()).collect();
    for wire in &all {
        let travels = if wire.travels_as_text() { "text" } else { "binary" };
        let wanted = [row_of(wire), &wire.parquet(Profile::Lake), &wire.parquet(Profile::Native), travels];
        assert!(rows.iter().any(|r| r[1..5] == wanted), "docs/types.md lacks {wanted:?}");
    }
    assert_eq!(rows.len(), all.len(), "a row for each, and none besides");
}
