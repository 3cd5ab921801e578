//! Scratch servers for tests: PostgreSQL of several versions, an S3 server, sample databases.
//!
//! Servers are started in temporary folders on free ports, as a user other than root, and stopped by process id; they are
//! shared by all tests of a binary, with a database for each test. A missing server is a failure, never a skip:
//! `scripts/services` installs them.

mod postgres;
mod proxy;
mod s3;
mod sink;
mod zoo;

use std::path::{Path, PathBuf};

pub use postgres::{Cluster, ClusterOptions, Database, shared};
pub use proxy::{Fault, Proxy, Seen};
pub use s3::{S3Server, shared_s3};
pub use sink::{HttpSink, MailServer, Received};
pub use zoo::{CAPABILITIES, capabilities};

/// Returns the folder of the installed servers.
///
/// # Panics
/// When `scripts/services` was not run.
#[must_use]
pub fn services() -> PathBuf {
    // As scripts/lib.sh: root's home is closed to the user that servers run as.
    let default = || {
        if rustix::process::getuid().is_root() {
            return Some(PathBuf::from("/var/cache"));
        }
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)
    };
    let cache = std::env::var_os("DOZO_CACHE").map(PathBuf::from).or_else(|| default().map(|c| c.join("dozo")));
    let folder = std::env::var_os("DOZO_SERVICES").map(PathBuf::from).or(cache.map(|c| c.join("services")));
    let folder = folder.expect("HOME is set");
    assert!(folder.join("duckdb").exists(), "{} is not complete: run scripts/services", folder.display());
    folder
}

/// Returns the major versions of PostgreSQL that are installed, oldest first.
///
/// # Panics
/// When fewer than the three supported ones are there.
#[must_use]
pub fn majors() -> Vec<u32> {
    let mut found: Vec<u32> = std::fs::read_dir(services())
        .expect("the services folder can be read")
        .filter_map(|e| e.ok()?.file_name().to_str()?.strip_prefix("pg")?.parse().ok())
        .collect();
    found.sort_unstable();
    assert!(found.len() >= 3, "only {found:?} are installed: run scripts/services");
    found
}

/// Returns the project's root folder.
#[must_use]
pub fn root() -> PathBuf {
    // Asked at run time: checkouts that share a target folder share this compiled crate, too.
    let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("tests are run by cargo");
    Path::new(&crate_folder).join("../..").canonicalize().expect("the project's folder exists")
}

/// Returns a free port on 127.0.0.1.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
