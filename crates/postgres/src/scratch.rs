//! A throw-away server: made, started, and gone again, to prove that a backup comes back.
//!
//! *Invariant*: it reaches nothing but the folder that it lies in. It listens on a socket there and nowhere else, archives nothing, follows
//! nobody, runs no scheduled job, loads no library that the backup asks for, and where the system allows it has no network at all
//! (`unshare --net`). *Crash behaviour*: the server is one process tree below [`Scratch`], killed when that goes; whoever finds the folder
//! of a killed run ends it by `postmaster.pid` ([`end_server_of`]).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};

use crate::conninfo::ConnInfo;
use crate::error::PgError;
use crate::session::Session;
use crate::tools::usual_folders;

/// How long a server may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a server may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a socket's path that the kernel takes (unix(7)), without the name of the socket.
const SOCKET_FOLDER_MAX: usize = 107 - "/.s.PGSQL.5432".len();
/// Lines of its log that a message quotes.
const QUOTED: usize = 3;

/// What keeps it from reaching anything (PostgreSQL, "Server Configuration"), and what makes a load quick without making its time a lie:
/// it syncs to disk as a real one does.
const SETTINGS: [&str; 21] = [
    "listen_addresses=",
    "port=5432",
    "archive_mode=off",
    "primary_conninfo=",
    "max_logical_replication_workers=0",
    "max_wal_senders=0",
    "wal_level=replica",
    "shared_preload_libraries=",
    "session_preload_libraries=",
    "local_preload_libraries=",
    "cron.launch_active_jobs=off",
    "logging_collector=off",
    "log_destination=stderr",
    "autovacuum=off",
    "max_connections=50",
    "max_locks_per_transaction=1024",
    "max_wal_size=4GB",
    "shared_buffers=128MB",
    "maintenance_work_mem=128MB",
    "log_min_messages=warning",
    "restart_after_crash=off",
];

/// How a throw-away server is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScratchOptions {
    /// Folder of `initdb` and `postgres`; none = searched.
    pub programs: Option<PathBuf>,
    /// OS user that it runs as where dozo is root; none = `postgres`, or `nobody`.
    pub run_as: Option<String>,
}

/// Programs of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPrograms {
    /// Folder.
    pub folder: PathBuf,
    /// Major version.
    pub major: u32,
}

impl ServerPrograms {
    /// Finds the programs of this major version, or of the oldest one that is newer.
    ///
    /// # Errors
    /// [`PgError::Tool`] when there are none.
    pub async fn find(options: &ScratchOptions, major: u32) -> Result<Self, PgError> {
        let folders = options.programs.clone().map_or_else(usual_folders, |f| vec![f]);
        let mut found: Vec<Self> = Vec::new();
        for folder in folders.into_iter().filter(|f| f.join("postgres").is_file() && f.join("initdb").is_file()) {
            // "postgres (PostgreSQL) 17.10"
            let out = Command::new(folder.join("postgres")).arg("--version").env_clear().stdin(Stdio::null()).output().await;
            let Ok(out) = out else { continue };
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let digits: String =
                text.split_whitespace().nth(2).unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
            found.extend(digits.parse().ok().map(|major| Self { folder, major }));
        }
        let seen: Vec<String> = found.iter().map(|p| p.major.to_string()).collect();
        found.sort_by_key(|p| p.major);
        found.into_iter().find(|p| p.major >= major).ok_or_else(|| PgError::Tool {
            program: "postgres".into(),
            reason: match (&options.programs, seen.is_empty()) {
                (Some(folder), true) => format!("{} has no initdb and postgres", folder.display()),
                (None, true) => "no server programs (initdb, postgres) are in any of the usual folders".into(),
                (_, false) => format!("found servers of version {}, the backup is of {major}", seen.join(", ")),
            },
        })
    }
}

/// Who a server runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerUser {
    uid: u32,
    gid: u32,
}

impl ServerUser {
    /// Finds the user: none where dozo is not root, because a server runs as whoever starts it then.
    ///
    /// # Errors
    /// [`PgError::Tool`] when there is no such user.
    pub fn find(options: &ScratchOptions) -> Result<Option<Self>, PgError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let unusable = |reason: String| PgError::Tool { program: "postgres".into(), reason };
        let passwd = fs::read_to_string("/etc/passwd").map_err(|e| unusable(format!("/etc/passwd: {e}")))?;
        let names = options.run_as.as_deref().map_or(vec!["postgres", "nobody"], |name| vec![name]);
        let entry = |name: &&str| passwd.lines().find(|l| l.split(':').next() == Some(name));
        let fields: Option<Vec<&str>> = names.iter().find_map(entry).map(|l| l.split(':').collect());
        let ids = fields.and_then(|f| Some(Self { uid: f.get(2)?.parse().ok()?, gid: f.get(3)?.parse().ok()? }));
        match ids {
            Some(Self { uid: 0, .. }) => Err(unusable(format!("a server does not run as {}: set run-as", names.join(" or ")))),
            Some(user) => Ok(Some(user)),
            None => Err(unusable(format!("there is no user {} for it to run as: set run-as", names.join(" or ")))),
        }
    }

    /// Gives a folder to the user.
    ///
    /// # Errors
    /// What the system says.
    pub fn own(self, folder: &Path) -> io::Result<()> {
        chown(folder, Some(self.uid), Some(self.gid))
    }
}

/// A running throw-away server.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    server: Child,
    /// Its programs.
    pub programs: ServerPrograms,
    /// Whether it has no network at all.
    pub without_network: bool,
}

impl Scratch {
    /// Makes and starts a server in a new folder below `folder`, which its user must be able to enter. `mark` is put into the environment
    /// of everything that runs for it.
    ///
    /// # Errors
    /// [`PgError::Scratch`], with the server's own words.
    pub async fn start(
        programs: ServerPrograms,
        user: Option<ServerUser>,
        folder: &Path,
        mark: (&str, &str),
    ) -> Result<Self, PgError> {
        let fail = |reason: String| PgError::Scratch { folder: folder.to_owned(), reason };
        if folder.as_os_str().len() > SOCKET_FOLDER_MAX {
            return Err(fail(format!("its path is too long for a socket (at most {SOCKET_FOLDER_MAX} bytes)")));
        }
        fs::DirBuilder::new().mode(0o700).create(folder).map_err(|e| fail(e.to_string()))?;
        if let Some(user) = user {
            user.own(folder).map_err(|e| fail(e.to_string()))?;
        }
        let data = folder.join("data");
        let mut initdb = base_command(false, user, &programs.folder.join("initdb"));
        set_up(&mut initdb, folder, mark);
        initdb.args(["--no-sync", "--encoding=UTF8", "--locale=C", "--username=postgres", "--auth=trust", "-D"]).arg(&data);
        let made = initdb.output().await.map_err(|e| fail(format!("initdb: {e}")))?;
        if !made.status.success() {
            return Err(fail(format!("initdb: {}", last_lines(&String::from_utf8_lossy(&made.stderr)))));
        }
        let mut settings: Vec<String> = SETTINGS.map(str::to_owned).to_vec();
        if programs.major >= 15 {
            settings.push("archive_library=".into());
        }
        settings.push(format!("unix_socket_directories={}", folder.display()));
        settings.push("unix_socket_permissions=0700".into());
        settings.push(format!("hba_file={}", beside(folder, "hba").display()));
        // Beside the folder, not in it: that is its user's, who could lead us elsewhere.
        let write = |path: &Path, text: &str| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
            file.write_all(text.as_bytes())?;
            Ok::<_, io::Error>(file)
        };
        write(&beside(folder, "hba"), "local all all trust\n").map_err(|e| fail(e.to_string()))?;
        let log = write(&beside(folder, "log"), "").map_err(|e| fail(e.to_string()))?;
        let without_network = can_unshare(user.is_none()).await;
        let mut command = base_command(without_network, user, &programs.folder.join("postgres"));
        set_up(&mut command, folder, mark);
        command.arg("-D").arg(&data).args(settings.iter().flat_map(|s| ["-c", s])).stdout(Stdio::null()).stderr(log);
        // Asked to stop it gives its shared memory back; killed it does not.
        command.kill_on_drop(false);
        let server = command.spawn().map_err(|e| fail(format!("postgres: {e}")))?;
        let mut scratch = Self { folder: folder.to_owned(), server, programs, without_network };
        scratch.ready().await?;
        Ok(scratch)
    }

    /// Waits until it answers.
    async fn ready(&mut self) -> Result<(), PgError> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.ended() {
                return Err(self.failed(&format!("it ended ({status})")));
            }
            match Session::connect_as(&self.info("postgres"), "dozo drill").await {
                Ok(_) => return Ok(()),
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(e) => return Err(self.failed(&e.to_string())),
            }
        }
    }

    /// Returns how it is connected.
    #[must_use]
    pub fn info(&self, database: &str) -> ConnInfo {
        ConnInfo::on_socket(&self.folder, "postgres", database)
    }

    /// Returns how it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.server.try_wait().ok().flatten()
    }

    /// Returns the last words of its log, as an error.
    #[must_use]
    pub fn failed(&self, what: &str) -> PgError {
        let log = fs::read_to_string(beside(&self.folder, "log")).unwrap_or_default();
        let said = last_lines(&log);
        let reason = if said.is_empty() { what.to_owned() } else { format!("{what}: {said}") };
        PgError::Scratch { folder: self.folder.clone(), reason }
    }

    /// Stops it; what it holds is not needed any more.
    pub async fn stop(mut self) {
        if let Some(pid) = self.server.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            // "Immediate Shutdown": nothing is to be kept.
            let _ = kill_process(pid, Signal::QUIT);
            if tokio::time::timeout(STOP_WITHIN, self.server.wait()).await.is_err() {
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = self.server.wait().await;
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // One that was stopped has no id any more; of one that is killed the children notice.
        if let Some(pid) = self.server.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::QUIT);
        }
    }
}

/// Begins a command that runs a program as the server's user, without a network where that is possible: only root may make a network of its
/// own by itself, others do it as the root of a user namespace in which they are themselves.
fn base_command(without_network: bool, user: Option<ServerUser>, program: &Path) -> Command {
    let mut command = match (without_network, user) {
        (false, user) => {
            let mut command = Command::new(program);
            if let Some(user) = user {
                command.uid(user.uid).gid(user.gid);
            }
            return command;
        }
        (true, _) => Command::new("/usr/bin/unshare"),
    };
    match user {
        Some(user) => {
            command.args(["--net", "--", "/usr/bin/setpriv", "--clear-groups"]);
            command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid)).arg("--")
        }
        None => command.args(["--user", "--map-current-user", "--net", "--"]),
    };
    command.arg(program);
    command
}

/// Gives a command next to nothing of our environment.
fn set_up(command: &mut Command, folder: &Path, mark: (&str, &str)) {
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").env(mark.0, mark.1);
    // What connects from within by libpq finds nobody: an address goes before any host or socket that it names, and there is no network.
    for (name, value) in
        [("PGHOST", "/nonexistent"), ("PGHOSTADDR", "127.0.0.1"), ("PGPORT", "1"), ("PGPASSFILE", "/nonexistent")]
    {
        command.env(name, value);
    }
    command
        .env("PGSERVICEFILE", "/nonexistent")
        .env("HOME", "/nonexistent")
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .process_group(0);
}

/// Returns the path of a file beside a server's folder.
fn beside(folder: &Path, what: &str) -> PathBuf {
    folder.with_extension(what)
}

/// Tells whether this user may run something without a network: the kernel or a container may refuse.
async fn can_unshare(own_user: bool) -> bool {
    let mut command = Command::new("/usr/bin/unshare");
    if own_user {
        command.args(["--user", "--map-current-user", "--net", "--", "/bin/true"]);
    } else {
        command.args(["--net", "--", "/usr/bin/setpriv", "--clear-groups", "--", "/bin/true"]);
    }
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|s| s.success())
}

/// Ends the server of a folder that a killed run has left, if it still runs.
pub fn end_server_of(folder: &Path) {
    let data = folder.join("data");
    // A link would lead to somebody else's server.
    if ![folder, &data].iter().all(|path| path.symlink_metadata().is_ok_and(|m| m.is_dir())) {
        return;
    }
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return };
    // Of a server that initdb runs for itself the number is negative (`miscinit.c`).
    let number = text.lines().next().and_then(|l| l.trim().trim_start_matches('-').parse::<i32>().ok());
    let Some(pid) = number.and_then(Pid::from_raw) else { return };
    // The number may be another process' by now: a server works in its data folder.
    let works_there = || {
        let cwd = fs::metadata(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
        cwd.is_ok_and(|c| fs::metadata(&data).is_ok_and(|d| (c.dev(), c.ino()) == (d.dev(), d.ino())))
    };
    for (signal, patience) in [(Signal::QUIT, 100), (Signal::KILL, 100)] {
        if !works_there() {
            return;
        }
        let _ = kill_process(pid, signal);
        for _ in 0..patience {
            if !works_there() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Returns the last lines that say something went wrong, or the last ones.
fn last_lines(text: &str) -> String {
    let bad = |l: &&str| ["FATAL", "PANIC", "ERROR", "error", "No space"].iter().any(|w| l.contains(w));
    let mut lines: Vec<&str> = text.lines().filter(bad).collect();
    if lines.is_empty() {
        lines = text.lines().filter(|l| !l.trim().is_empty()).collect();
    }
    lines[lines.len().saturating_sub(QUOTED)..].join("; ")
}
