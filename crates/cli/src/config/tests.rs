use super::*;

fn problems(text: &str) -> Vec<String> {
    match Config::parse(Path::new("/etc/dozo/dozo.toml"), text) {
        Err(ConfigError::Invalid(_, problems)) => {
            problems.iter().map(|p| format!("{}: {}: {}", p.line, p.key, p.reason)).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// `docs/config.toml` documents every key: it parses, and every key that the reader knows is in it.
#[test]
fn the_documented_configuration_parses() {
    let text = include_str!("../../../../docs/config.toml");
    let config = Config::parse(Path::new("/etc/dozo/dozo.toml"), text).unwrap_or_else(|e| panic!("{e}"));
    assert!(!config.sources.is_empty());
    let source = concat!(
        include_str!("read.rs"),
        include_str!("read/archive.rs"),
        include_str!("read/drill.rs"),
        include_str!("read/notify.rs"),
        include_str!("read/retention.rs"),
        include_str!("read/schedule.rs"),
        include_str!("read/source.rs")
    );
    let mut keys = 0;
    let calls = [
        "text",
        "texts",
        "count",
        "boolean",
        "rate",
        "one_of",
        "parsed::<ByteSize>",
        "parsed::<Span>",
        "parsed::<Percent>",
        "integer",
        "secret",
        "time_of_day",
    ];
    for call in calls {
        for rest in source.split(&format!("self.{call}(")).skip(1) {
            let call = rest.split(')').next().unwrap_or_default();
            let Some(key) = call.split('"').nth(1) else { continue };
            keys += 1;
            assert!(text.contains(&format!("{key} =")), "docs/config.toml does not show `{key}`");
        }
    }
    assert!(keys >= 45, "{keys} keys found");
}

#[test]
fn every_problem_at_once_with_its_line() {
    let text = "time-zone = \"Mars/Olympus\"\nunknown = 1\n[repository]\nurl = \"ftp://x\"\nregio = \"x\"\n[source.Shop]\nkind = \"postgres\"\nurl = \"postgres://u:hunter2@h/d\"\nlock-timeout = \"5m\"\nworkers = 0\n[source.b]\nkind = \"files\"\n[retention]\ndaily = \"3m\"\nweekly = \"1y\"\nmonthly = \"10d\"\nmin-keep = 0\nmonthl = \"1y\"\ntime-zone = \"Tokyo\"\n[drill.a]\n";
    let found = problems(text);
    assert!(!found.iter().any(|p| p.contains("hunter2")));
    for expected in [
        "1: time-zone: `Mars/Olympus` is not a time zone",
        "2: unknown: unknown key",
        "3: repository.url: repository `ftp://x` cannot be opened: scheme `ftp` is not supported (file://, s3://, gs:// or az://)",
        "5: repository.regio: unknown key",
        "6: source.Shop: `Shop` is not a source name (1 to 63 of a-z, 0-9, - and _, starting with a letter or digit)",
        "6: source.Shop.url: the URL of u@h:5432/d holds a password",
        "9: source.Shop.lock-timeout: `5m` is ambiguous: write `min` for minutes or `mo` for months",
        "10: source.Shop.workers: it must be a number from 1 to 64",
        "11: source.b.root: it is missing (the folder that all files lie below)",
        "14: retention.daily: `3m` is ambiguous: write `min` for minutes or `mo` for months",
        "13: retention.monthly: it keeps 10 days, which is shorter than weekly (1 year)",
        "17: retention.min-keep: it must be a number from 1 to 100000",
        "18: retention.monthl: unknown key",
        "13: retention.time-zone: `Tokyo` is not a time zone",
        "20: drill.a: it restores nothing: it needs sources, or archives",
    ] {
        assert!(found.iter().any(|p| p == expected), "{expected}\nin {found:#?}");
    }
    assert_eq!(found.len(), 15, "{found:#?}");
}

#[test]
fn drills_name_what_there_is() {
    let text = "[repository]\nurl = \"file://repo\"\n[source.shop]\nkind = \"postgres\"\nurl = \"file:shop.url\"\nrpo-column = \"orders.at\"\n[drill.a]\nsources = [\"shop\", \"crm\"]\narchives = [\"orders\"]\nserver = \"postgres://u:hunter2@h/d\"\ntables = [\"t\"]\nsample = \"0%\"\nincident = \"all\"\n[[drill.a.check]]\nquery = \"SELECT 1\"\n[[drill.a.check]]\nsource = \"dbt\"\ncommand = [\"true\"]\n";
    let found = problems(text);
    for expected in [
        "6: source.shop.rpo-column: `orders.at` is not schema.table.column",
        "7: drill.a.sources: `crm` is not a source",
        "7: drill.a.archives: `orders` is not an archive job",
        "7: drill.a.server: it is neither scratch nor a database: the URL of u@h:5432/d holds a password",
        "12: drill.a.sample: it must be above 0",
        "13: drill.a.incident: `all` is not minor, database or complete",
        "14: drill.a.check: it needs query and expect, or command",
        "16: drill.a.check.source: `dbt` is not one of the drill's sources",
    ] {
        assert!(found.iter().any(|p| p == expected), "{expected}\nin {found:#?}");
    }
    assert_eq!(found.len(), 8, "{found:#?}");
}

#[test]
fn syntax_errors_have_a_line() {
    assert!(problems("[repository]\nurl = \n")[0].starts_with("2: (file): "));
    assert!(problems("")[0].contains("[repository]"));
}

#[test]
fn defaults_and_relative_paths() {
    let text = "[repository]\nurl = \"file://repo\"\n[source.shop]\nkind = \"postgres\"\nurl = \"file:shop.url\"\n";
    let config = Config::parse(Path::new("/srv/dozo.toml"), text).unwrap();
    assert_eq!(config.repository.store().unwrap().url(), "file:///srv/repo");
    let shop = config.source("shop").unwrap();
    assert_eq!(shop.postgres().unwrap().url.to_string(), "file:/srv/shop.url");
    assert_eq!(shop.memory.0, 256_000_000);
    assert_eq!(shop.lock_timeout.as_secs(), 10);
    assert_eq!(shop.time_zone, "UTC");
    assert_eq!(shop.retention, dozo_model::RetentionPolicy::default());
}

#[test]
fn policies_of_the_repository_and_of_sources() {
    use dozo_model::Period;
    let source = |name: &str, more: &str| format!("[source.{name}]\nkind = \"postgres\"\nurl = \"file:shop.url\"\n{more}\n");
    let text = format!(
        "time-zone = \"Asia/Tokyo\"\n[repository]\nurl = \"file://repo\"\n[retention]\nweekly = \"6 months\"\ngrace = \"3d\"\n{}{}{}",
        source("shop", ""),
        source("crm", "retention = { daily = \"7d\" }"),
        source("all", "databases = [\"*\"]\n[source.all.retention]\nmonthly = \"forever\"\nweek-start = \"sunday\"")
    );
    let config = Config::parse(Path::new("/srv/dozo.toml"), &text).unwrap_or_else(|e| panic!("{e}"));
    let policy = |name: &str| config.policy(&dozo_model::SourceName::parse(name).unwrap()).clone();
    assert_eq!((policy("shop").daily, policy("shop").weekly), (Period::days(30), Period::Months(6)));
    assert_eq!(
        (policy("crm").daily, policy("crm").weekly, policy("crm").grace.as_secs()),
        (Period::days(7), Period::Months(6), 3 * 86_400)
    );
    // A database of a whole server, and a source that is not in the file any more: of that nothing goes.
    assert_eq!((policy("all-crm").monthly, policy("gone").daily), (Period::Forever, Period::Forever));
    assert_eq!((policy("all-crm").time_zone.as_str(), policy("gone").time_zone.as_str()), ("Asia/Tokyo", "Asia/Tokyo"));
}
