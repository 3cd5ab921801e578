//! What people see when something is wrong: one clear error, the documented exit code, no secret. Snapshots of both.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use dozo_testkit::{Cluster, ClusterOptions, shared};

use crate::harness::{Dozo, Place, Run};

const SECRET: &str = "hunter2-secret";

fn shown(dozo: &Dozo, run: &Run) -> String {
    let text = format!("exit {}\n--- stdout\n{}\n--- stderr\n{}", run.code, run.stdout.trim_end(), run.stderr.trim_end());
    assert!(!text.contains(SECRET), "{text}");
    let folder = dozo.folder.path().canonicalize().unwrap();
    text.replace(&folder.display().to_string(), "[folder]")
}

macro_rules! snapshot {
    ($name:literal, $dozo:expr, $run:expr) => {{
        let text = shown(&$dozo, &$run);
        insta::with_settings!({ filters => vec![
            (r"127\.0\.0\.1:\d+", "127.0.0.1:[port]"),
            (r"\d{8}T\d{6}Z-[a-z0-9]{6}", "[id]"),
            (r"[a-z]+_\d+_\d+", "[name]"),
            (r"dozo-e2e[A-Za-z0-9]+", "[temp]"),
        ], snapshot_path => "../snapshots", prepend_module_to_snapshot => false }, { insta::assert_snapshot!($name, text) });
    }};
}

#[test]
fn connections() {
    let cluster = Cluster::start(
        15,
        &ClusterOptions { hba: vec!["host all guarded 127.0.0.1/32 scram-sha-256".into()], ..ClusterOptions::default() },
    );
    let database = cluster.database("guarded");
    database.psql(&format!("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{SECRET}'; CREATE TABLE a (id int)"));
    let port = cluster.port();
    let mut dozo = Dozo::new(&database, Place::Local);
    dozo.set("SHOP_URL", &format!("postgres://guarded:{SECRET}@127.0.0.1:{port}/{}", database.name));
    let _ = dozo.backup();
    // Nothing that was stored holds the password.
    for file in crate::harness::files(&dozo.repository()) {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()), "{}", file.display());
    }
    dozo.set("SHOP_URL", &format!("postgres://guarded:{SECRET}-wrong@127.0.0.1:{port}/{}", database.name));
    snapshot!("wrong-password", dozo, dozo.run(&["backup", "shop"]).exits(1));
    dozo.set("SHOP_URL", &format!("postgres://guarded@127.0.0.1:{port}/{}", database.name));
    snapshot!("no-password", dozo, dozo.run(&["backup", "shop"]).exits(1));
    // A password file is found by PGPASSFILE.
    let passfile = dozo.folder.path().join("pgpass");
    fs::write(&passfile, format!("127.0.0.1:{port}:*:guarded:{SECRET}\n")).unwrap();
    dozo.set("PGPASSFILE", passfile.to_str().unwrap());
    let _ = dozo.backup();
    dozo.set("SHOP_URL", &format!("postgres://guarded:{SECRET}@127.0.0.1:{port}/nowhere"));
    snapshot!("unknown-database", dozo, dozo.run(&["backup", "shop"]).exits(1));
    dozo.set("SHOP_URL", &format!("postgres://guarded:{SECRET}@127.0.0.1:1/nowhere"));
    snapshot!("unreachable-host", dozo, dozo.run(&["backup", "shop"]).exits(1));
    // The second of two hosts answers.
    dozo.set(
        "SHOP_URL",
        &format!("postgres://guarded:{SECRET}@127.0.0.1:1,127.0.0.1:{port}/{}?target_session_attrs=read-write", database.name),
    );
    let _ = dozo.backup();
    dozo.set("SHOP_URL", &format!("mysql://guarded:{SECRET}@127.0.0.1/x"));
    snapshot!("not-postgres", dozo, dozo.run(&["backup", "shop"]).exits(2));
    dozo.variables_without("SHOP_URL");
    snapshot!("variable-not-set", dozo, dozo.run(&["backup", "shop"]).exits(2));
    let url = format!("postgres://guarded:{SECRET}@127.0.0.1:{port}/{}", database.name);
    snapshot!("init-with-a-password", dozo, dozo.run(&["init", "--from", &url, "other.toml"]).exits(2));
}

#[test]
fn configuration_and_arguments() {
    let cluster = shared(15);
    let database = cluster.database("config");
    database.psql("CREATE TABLE a (id int)");
    let dozo = Dozo::new(&database, Place::Local);
    snapshot!("no-repository", dozo, dozo.run(&["list"]).exits(1));
    snapshot!("nothing-to-verify", dozo, dozo.run(&["verify", "shop@latest"]).exits(1));
    let first = dozo.backup();
    let _ = dozo.backup();
    snapshot!("unknown-source", dozo, dozo.run(&["backup", "crm"]).exits(2));
    snapshot!("unknown-backup", dozo, dozo.run(&["show", "shop@19990101"]).exits(2));
    snapshot!("ambiguous-backup", dozo, dozo.run(&["show", &first[..3]]).exits(2));
    snapshot!("bad-selector", dozo, dozo.run(&["show", "shop@../x"]).exits(2));
    snapshot!("bad-flag", dozo, dozo.run(&["backup", "--nonsense"]).exits(2));
    snapshot!("bad-flag-json", dozo, dozo.run(&["--json", "show", "shop@19990101"]).exits(2));
    // By the random part alone.
    let _ = dozo.run(&["show", &first[17..]]).exits(0);

    let original = fs::read_to_string(dozo.folder.path().join("dozo.toml")).unwrap();
    let with = |text: &str| fs::write(dozo.folder.path().join("dozo.toml"), text).unwrap();
    with(&original.replace("time-zone", "timezone").replace("[source.shop]", "[source.shop]\nexlude = [\"x\"]"));
    snapshot!("unknown-keys", dozo, dozo.run(&["backup", "shop"]).exits(2));
    with(&format!("{original}\ninclude = [\"sales.*\"]"));
    snapshot!("pattern-matches-nothing", dozo, dozo.run(&["backup", "shop"]).exits(2));
    with(&format!("{original}\npg-tools = \"/nowhere\""));
    snapshot!("no-tools", dozo, dozo.run(&["backup", "shop"]).exits(1));
    with(&original);
    fs::remove_file(dozo.folder.path().join("dozo.toml")).unwrap();
    let run = dozo.run(&["list"]).exits(2);
    assert!(run.stderr.contains("there is no configuration file") && run.stderr.contains("dozo init"), "{}", run.stderr);
}

#[test]
fn repositories() {
    let cluster = shared(15);
    let database = cluster.database("repos");
    database.psql("CREATE TABLE a (id int); INSERT INTO a VALUES (1)");
    let dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    let marker = dozo.repository().join("dozo-repository.json");
    let original = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, original.replace("\"min-reader\": 1", "\"min-reader\": 2")).unwrap();
    snapshot!("newer-repository", dozo, dozo.run(&["backup", "shop"]).exits(1));
    fs::write(&marker, "{").unwrap();
    snapshot!("damaged-marker", dozo, dozo.run(&["list"]).exits(3));
    fs::write(&marker, original).unwrap();

    // Read-only: as another user than root, whom permissions do not stop.
    fs::set_permissions(dozo.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = dozo.repository().join("backups");
    assert!(file.is_dir());
    let read_only = |args: &[&str]| {
        let binary = dozo.folder.path().join("dozo-copy");
        // By a process of its own: a child of another test must not hold the file open for writing.
        assert!(std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_dozo")).arg(&binary).status().unwrap().success());
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let template = dozo.command(args);
        let mut command = if rustix::process::getuid().is_root() {
            let mut c = std::process::Command::new("setpriv");
            c.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
            c
        } else {
            std::process::Command::new(&binary)
        };
        command
            .args(args)
            .current_dir(dozo.folder.path())
            .env_clear()
            .envs(template.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let out = command.output().unwrap();
        Run {
            code: out.status.code().unwrap(),
            stdout: String::from_utf8(out.stdout).unwrap(),
            stderr: String::from_utf8(out.stderr).unwrap(),
        }
    };
    if !rustix::process::getuid().is_root() {
        for path in [dozo.repository(), dozo.repository().join("backups/shop"), dozo.repository().join("leases/shop")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
        }
    }
    let run = read_only(&["backup", "shop"]).exits(1);
    assert!(run.stderr.contains("DOZO-E3003") && run.stderr.contains("permission denied"), "{}", run.stderr);
    // It can be read and verified all the same; that the result was not recorded is said.
    let run = read_only(&["verify", "shop@latest"]).exits(0);
    assert!(run.stderr.contains("could not be recorded"), "{}", run.stderr);
    let check = read_only(&["check"]).exits(1);
    assert!(check.stdout.contains("fail  repository writable"), "{}", check.stdout);
}
