//! PostgreSQL clusters and databases.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::{free_port, root, services};

/// How a cluster is set up.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// Lines for `postgresql.conf`.
    pub settings: Vec<String>,
    /// Lines for `pg_hba.conf`, before the usual ones.
    pub hba: Vec<String>,
    /// `fsync = on`, for tests about durability.
    pub durable: bool,
}

/// A running server, stopped when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// Major version.
    pub major: u32,
    folder: PathBuf,
    port: u16,
    server: Mutex<Option<Child>>,
}

static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The user that servers run as: not root.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
    let line = ["postgres:", "nobody:"].iter().find_map(|u| passwd.lines().find(|l| l.starts_with(u)));
    let fields: Vec<&str> = line.expect("user postgres or nobody exists").split(':').collect();
    Some((fields[2].parse().expect("a uid"), fields[3].parse().expect("a gid")))
}

fn as_server_user(command: &mut Command) -> &mut Command {
    if let Some((uid, gid)) = unprivileged() {
        command.uid(uid).gid(gid);
    }
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").current_dir("/")
}

impl Cluster {
    /// Makes and starts a cluster.
    ///
    /// # Panics
    /// When the server is not installed or does not start.
    #[must_use]
    pub fn start(major: u32, options: &ClusterOptions) -> Self {
        let folder = std::env::temp_dir().join(format!("dozo-pg{major}-{}-{}", std::process::id(), free_port()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        if let Some((uid, gid)) = unprivileged() {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).expect("chown as root");
        }
        let cluster = Self { major, port: free_port(), server: Mutex::new(None), folder };
        let data = cluster.data();
        let made = as_server_user(&mut Command::new(cluster.bin("initdb")))
            .args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres", "--auth=trust", "-D"])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut settings = vec![
            format!("port = {}", cluster.port),
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("unix_socket_directories = '{}'", cluster.folder.display()),
            "shared_buffers = 128MB".into(),
            "max_connections = 100".into(),
            "max_locks_per_transaction = 256".into(),
            "max_wal_size = 4GB".into(),
            "logging_collector = off".into(),
        ];
        if !options.durable {
            settings.extend(["fsync = off", "full_page_writes = off", "synchronous_commit = off"].map(str::to_owned));
        }
        settings.extend(options.settings.iter().cloned());
        cluster.append("postgresql.conf", &settings);
        if !options.hba.is_empty() {
            let usual = fs::read_to_string(data.join("pg_hba.conf")).expect("pg_hba.conf");
            fs::write(data.join("pg_hba.conf"), format!("{}\n{usual}", options.hba.join("\n"))).expect("pg_hba.conf");
        }
        cluster.run();
        cluster
    }

    /// Makes a standby of this cluster and starts it.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn standby(&self) -> Self {
        let folder = std::env::temp_dir().join(format!("dozo-pg{}-{}-{}s", self.major, std::process::id(), free_port()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        if let Some((uid, gid)) = unprivileged() {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).expect("chown as root");
        }
        let standby = Self { major: self.major, port: free_port(), server: Mutex::new(None), folder };
        let made = as_server_user(&mut Command::new(self.bin("pg_basebackup")))
            .args([
                "--no-sync",
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
                "-U",
                "postgres",
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-D",
            ])
            .arg(standby.data())
            .output()
            .expect("pg_basebackup runs");
        assert!(made.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&made.stderr));
        standby.append(
            "postgresql.conf",
            &[format!("port = {}", standby.port), format!("unix_socket_directories = '{}'", standby.folder.display())],
        );
        standby.run();
        standby
    }

    fn append(&self, file: &str, lines: &[String]) {
        let mut file = fs::OpenOptions::new().append(true).open(self.data().join(file)).expect("the configuration");
        writeln!(file, "{}", lines.join("\n")).expect("the configuration can be written");
    }

    /// Starts the server of an existing data folder.
    ///
    /// # Panics
    /// When it does not answer within a minute.
    pub fn run(&self) {
        let log = fs::File::create(self.folder.join("log")).expect("a log file");
        let mut command = Command::new(self.bin("postgres"));
        as_server_user(&mut command).arg("-D").arg(self.data()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        *self.server.lock().expect("no test panicked here") = Some(command.spawn().expect("postgres starts"));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.psql_output("postgres", "SELECT 1").status.success() {
            assert!(Instant::now() < deadline, "the server does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the end of the server's log.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        text.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Stops the server: `TERM` smart, `INT` fast, `QUIT` immediate, as postgres(1) has it.
    pub fn stop(&self, signal: rustix::process::Signal) {
        if let Some(mut child) = self.server.lock().expect("no test panicked here").take() {
            if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
                let _ = rustix::process::kill_process(pid, signal);
            }
            let _ = child.wait();
        }
    }

    fn bin(&self, program: &str) -> PathBuf {
        services().join(format!("pg{}/bin/{program}", self.major))
    }

    /// Returns the folder of the client programs.
    #[must_use]
    pub fn tools(&self) -> PathBuf {
        services().join(format!("pg{}/bin", self.major))
    }

    /// Returns the data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Returns the folder of the cluster.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns a URL without a password (the cluster trusts everybody on this machine).
    #[must_use]
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL with psql and returns what it printed, unaligned.
    ///
    /// # Panics
    /// When psql fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|e| panic!("psql: {e}\n{sql}"))
    }

    /// Runs SQL with psql and returns what it printed, unaligned, or what it complained about.
    ///
    /// # Errors
    /// What psql says.
    ///
    /// # Panics
    /// When psql prints what is not UTF-8.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let out = self.psql_output(database, sql);
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned());
        }
        Ok(String::from_utf8(out.stdout).expect("UTF-8").trim_end().to_owned())
    }

    /// Returns the whole database as `pg_dump` writes it, without the lines that differ from run to run.
    ///
    /// # Panics
    /// When `pg_dump` fails.
    #[must_use]
    pub fn dump(&self, database: &str) -> String {
        let out = Command::new(self.bin("pg_dump"))
            .args(["-U", "postgres", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-d", database])
            .output()
            .expect("pg_dump starts");
        assert!(out.status.success(), "pg_dump: {}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).expect("UTF-8");
        let lines = text.lines().filter(|l| !l.starts_with("\\restrict ") && !l.starts_with("\\unrestrict "));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn psql_output(&self, database: &str, sql: &str) -> Output {
        let mut child = Command::new(self.bin("psql"))
            .env("PGCONNECT_TIMEOUT", "5")
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "postgres",
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-d",
                database,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql starts");
        let mut input = child.stdin.take().expect("it is piped");
        let sql = sql.to_owned();
        let feeder = std::thread::spawn(move || {
            // psql may stop reading: its status tells.
            let _ = input.write_all(sql.as_bytes());
        });
        let out = child.wait_with_output().expect("psql ends");
        feeder.join().expect("the feeder ends");
        out
    }

    /// Makes a database of its own for a test.
    #[must_use]
    pub fn database(&self, name: &str) -> Database<'_> {
        let name = format!("{name}_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE \"{name}\" TEMPLATE template0"));
        Database { cluster: self, name }
    }

    /// Makes a database with the sample `shop` at a scale. The first one of a scale is made by the generator, the others are
    /// copies of it.
    #[must_use]
    pub fn shop(&self, scale: &str) -> Database<'_> {
        static MAKING: Mutex<()> = Mutex::new(());
        let template = format!("shop_template_{}", scale.replace('.', "_"));
        {
            let _one = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let there = self.psql("postgres", &format!("SELECT count(*) FROM pg_database WHERE datname = '{template}'"));
            if there == "0" {
                let sql =
                    Command::new("python3").arg(root().join("fixtures/shop.sql.py")).arg(scale).output().expect("python3 runs");
                assert!(sql.status.success(), "{}", String::from_utf8_lossy(&sql.stderr));
                self.psql("postgres", &format!("CREATE DATABASE making_{template} TEMPLATE template0"));
                self.psql(&format!("making_{template}"), &String::from_utf8(sql.stdout).expect("UTF-8"));
                self.psql("postgres", &format!("ALTER DATABASE making_{template} RENAME TO {template}"));
            }
        }
        let name = format!("shop_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}"));
        Database { cluster: self, name }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop(rustix::process::Signal::INT);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A database of a test.
#[derive(Debug)]
pub struct Database<'a> {
    /// Its server.
    pub cluster: &'a Cluster,
    /// Its name.
    pub name: String,
}

impl Database<'_> {
    /// Runs SQL with psql.
    pub fn psql(&self, sql: &str) -> String {
        self.cluster.psql(&self.name, sql)
    }

    /// Returns a URL for a role.
    #[must_use]
    pub fn url_as(&self, user: &str) -> String {
        self.cluster.url(user, &self.name)
    }

    /// Returns the superuser's URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_as("postgres")
    }
}

/// Returns the shared cluster of a major version. It is stopped when the test process ends.
pub fn shared(major: u32) -> &'static Cluster {
    static CLUSTERS: OnceLock<Mutex<BTreeMap<u32, &'static Cluster>>> = OnceLock::new();
    let mut clusters = CLUSTERS.get_or_init(Mutex::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    clusters.entry(major).or_insert_with(|| {
        let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start(major, &ClusterOptions::default())));
        watch(cluster.server.lock().expect("just started").as_ref().expect("it runs").id(), &cluster.folder);
        cluster
    })
}

/// A shared server lives in a static, which is never dropped: a small shell waits for this process to end, then stops the
/// server by its process id and removes its folder.
#[expect(clippy::zombie_processes, reason = "it outlives this process by design")]
pub(crate) fn watch(pid: u32, folder: &Path) {
    let script = "while kill -0 $1 2>/dev/null; do sleep 0.5; done; kill -INT $2 2>/dev/null; sleep 2; kill -KILL $2 2>/dev/null; rm -rf \"$3\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", &std::process::id().to_string(), &pid.to_string()]).arg(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().expect("sh starts");
}
