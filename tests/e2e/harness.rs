//! Runs the binary: an empty environment, a folder of its own, exit code and output together.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dozo_testkit::{Cluster, Database, Proxy, S3Server, shared_s3};
use serde_json::Value;

/// Where the repository of a test lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Local,
    S3,
}

/// A folder with a configuration, and the binary.
pub(crate) struct Dozo {
    pub(crate) folder: tempfile::TempDir,
    place: Place,
    prefix: String,
    path: String,
    variables: Vec<(String, String)>,
}

/// What a run printed.
#[derive(Debug)]
#[must_use]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Fails the test unless the exit code is this one.
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

impl Dozo {
    /// A source `shop` on `database`, with the tools of its server.
    pub(crate) fn new(database: &Database<'_>, place: Place) -> Self {
        Self::with_url(&database.url(), database.cluster, place, "")
    }

    pub(crate) fn with_url(url: &str, cluster: &Cluster, place: Place, more: &str) -> Self {
        let mut dozo =
            Self::without_database(place, &format!("[source.shop]\nkind = \"postgres\"\nurl = \"env:SHOP_URL\"\n{more}\n"));
        dozo.path = format!("{}:{}", cluster.tools().display(), dozo.path);
        dozo.set("SHOP_URL", url);
        dozo
    }

    /// Sources as they are written in the configuration.
    pub(crate) fn without_database(place: Place, sources: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("dozo-e2e").tempdir().unwrap();
        let prefix = format!("e2e/{}", folder.path().file_name().unwrap().to_string_lossy().replace('.', "x"));
        let repository = match place {
            Place::Local => "url = \"file://repo\"".to_owned(),
            Place::S3 => {
                let s3 = shared_s3();
                format!("url = \"s3://{}/{prefix}\"\nendpoint = \"{}\"\nregion = \"us-east-1\"", S3Server::BUCKET, s3.endpoint)
            }
        };
        let config = format!("time-zone = \"Asia/Tokyo\"\nworkers = 2\n[repository]\n{repository}\n{sources}");
        fs::write(folder.path().join("dozo.toml"), config).unwrap();
        let mut dozo = Self { folder, place, prefix, path: "/usr/bin:/bin".into(), variables: Vec::new() };
        if place == Place::S3 {
            dozo.set("AWS_ACCESS_KEY_ID", S3Server::KEY);
            dozo.set("AWS_SECRET_ACCESS_KEY", S3Server::SECRET);
        }
        dozo
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(n, _)| n != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn variables_without(&mut self, name: &str) {
        self.variables.retain(|(n, _)| n != name);
    }

    /// Changes the configuration.
    pub(crate) fn reconfigure(&self, change: impl FnOnce(String) -> String) {
        let config = self.folder.path().join("dozo.toml");
        fs::write(&config, change(fs::read_to_string(&config).unwrap())).unwrap();
    }

    /// Adds tables behind `[repository]`.
    pub(crate) fn add_to_repository(&self, tables: &str) {
        self.reconfigure(|text| text.replacen("[source.shop]", &format!("{tables}\n[source.shop]"), 1));
    }

    /// Reaches the S3 server through a proxy from now on, with more keys of `[repository]`.
    pub(crate) fn reach_through(&self, proxy: &Proxy, more: &str) {
        let direct = format!("endpoint = \"{}\"", shared_s3().endpoint);
        self.reconfigure(|text| {
            assert!(text.contains(&direct), "{text}");
            text.replace(&direct, &format!("endpoint = \"{}\"\n{more}", proxy.endpoint))
        });
    }

    /// The folder of the repository (local ones only).
    pub(crate) fn repository(&self) -> PathBuf {
        assert_eq!(self.place, Place::Local);
        self.folder.path().join("repo")
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dozo"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", &self.path)
            .env("HOME", self.folder.path())
            .env("USER", "tester");
        command.envs(self.variables.iter().map(|(n, v)| (n, v)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        let out = self.command(args).output().unwrap();
        Run {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8(out.stdout).unwrap(),
            stderr: String::from_utf8(out.stderr).unwrap(),
        }
    }

    /// Backs up `shop` and returns the id.
    pub(crate) fn backup(&self) -> String {
        let run = self.run(&["--json", "backup", "shop"]).exits(0);
        run.json()["id"].as_str().unwrap().to_owned()
    }

    /// Returns the manifest of the latest backup.
    pub(crate) fn manifest(&self) -> Value {
        self.run(&["--json", "show", "shop@latest"]).exits(0).json()["manifest"].clone()
    }

    /// Restores the latest backup into a new database, which must come out equal.
    pub(crate) fn restore_into(&mut self, cluster: &Cluster, name: &str) -> String {
        let target = format!("{name}_{}", fresh());
        self.set("COPY_URL", &cluster.url("postgres", &target));
        let _ = self.run(&["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"]).exits(0);
        target
    }
}

/// A number that no other test has.
pub(crate) fn fresh() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Tells whether the nightly tier runs.
pub(crate) fn nightly() -> bool {
    std::env::var_os("DOZO_TEST_NIGHTLY").is_some()
}

/// Returns every file below a folder, sorted.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Copies a folder.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
}

/// Fingerprints of every root and plain table, computed by psql with the SQL that dozo prints.
pub(crate) fn fingerprints(dozo: &Dozo, cluster: &Cluster, database: &str) -> Vec<String> {
    let url = cluster.url("postgres", database);
    let sql = dozo.run(&["fingerprint", &url, "--sql"]).exits(0).stdout;
    let lines: Vec<String> = cluster.psql(database, &sql).lines().map(str::to_owned).collect();
    assert!(!lines.is_empty());
    lines
}
