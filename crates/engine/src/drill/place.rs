//! The folder of a drill, and the way everything goes that was made for it, also by a run that was killed.
//!
//! *Layout*: `<folder>/dozo-drill-<random>/owner.json` names the process; beside it a folder for each item. *Invariant*: only what carries
//! the mark of a dead process of this host is touched: processes by `DOZO_DRILL` in their environment, servers by their data folder.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dozo_catalog::{lives, this_process};
use dozo_model::{LeaseHolder, random_suffix};
use dozo_postgres::end_server_of;
use rustix::process::{Pid, Signal, kill_process};

use crate::workers::blocking;

/// What the names of drills' folders begin with.
const PREFIX: &str = "dozo-drill-";
/// Variable in the environment of everything that runs for a drill.
pub(super) const MARK: &str = "DOZO_DRILL";
/// A folder without an owner may be one that is being made.
const BEING_MADE: Duration = Duration::from_secs(3600);
/// How long processes are waited for.
const ENDS_WITHIN: u32 = 100;

/// The folder of a running drill.
#[derive(Debug)]
pub(crate) struct WorkFolder {
    path: PathBuf,
    name: String,
}

impl WorkFolder {
    /// Makes it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make(folder: &Path) -> io::Result<Self> {
        let name = format!("{PREFIX}{}", random_suffix(&mut rand::rng(), 8));
        let path = std::path::absolute(folder)?.join(&name);
        // A server of another user goes through it into its own.
        fs::DirBuilder::new().mode(0o711).create(&path)?;
        let owner = serde_json::to_vec(&this_process())?;
        fs::write(path.join("owner.json"), owner)?;
        Ok(Self { path, name })
    }

    /// Returns the folder of an item.
    pub(super) fn of(&self, number: usize) -> PathBuf {
        self.path.join(number.to_string())
    }

    /// Returns its name, which everything carries that runs for it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Ends what runs for it, and removes it. Returns what could not be removed.
    pub(super) async fn remove(&self) -> Option<String> {
        take_down(self.path.clone()).await.err()
    }
}

/// Ends and removes what killed drills have left in a folder. Returns what could not be.
pub(super) async fn sweep(folder: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && abandoned(&path) {
            warnings.extend(take_down(path).await.err());
        }
    }
    warnings
}

/// Tells whether a folder was made by this user, and its process is surely dead. What somebody else has put there is left alone.
fn abandoned(path: &Path) -> bool {
    let ours = |m: fs::Metadata| m.is_dir() && m.uid() == rustix::process::geteuid().as_raw();
    if !path.symlink_metadata().is_ok_and(ours) {
        return false;
    }
    let owner = fs::read(path.join("owner.json")).ok().and_then(|b| serde_json::from_slice::<LeaseHolder>(&b).ok());
    match owner {
        Some(owner) => {
            let me = this_process();
            let rebooted = owner.host == me.host && owner.boot_id != me.boot_id && !owner.boot_id.is_empty();
            rebooted || lives(&owner) == Some(false)
        }
        None => {
            let made = fs::metadata(path).and_then(|m| m.modified()).ok();
            made.and_then(|t| SystemTime::now().duration_since(t).ok()).is_some_and(|age| age > BEING_MADE)
        }
    }
}

async fn take_down(path: PathBuf) -> Result<(), String> {
    let shown = path.display().to_string();
    let done = blocking(move || {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let end_servers = || fs::read_dir(&path).into_iter().flatten().flatten().for_each(|item| end_server_of(&item.path()));
        // A server that is asked to stop gives its shared memory back; whatever starts one is killed.
        end_servers();
        end_marked(&name);
        end_servers();
        Ok(remove(&path))
    });
    match done.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(format!("{shown} could not be removed: {e}")),
        Err(e) => Err(format!("{shown} could not be removed: {e}")),
    }
}

/// Removes a folder; restored folders may forbid even their owner to write.
fn remove(path: &Path) -> io::Result<()> {
    for _ in 0..10 {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => open_up(path),
            // A process that is ending has made another file.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
            Ok(()) => return Ok(()),
        }
    }
    fs::remove_dir_all(path)
}

fn open_up(path: &Path) {
    let is_folder = path.symlink_metadata().is_ok_and(|m| m.is_dir());
    if is_folder {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        fs::read_dir(path).into_iter().flatten().flatten().for_each(|e| open_up(&e.path()));
    }
}

/// Kills every process that carries a mark in its environment, and waits until they are gone.
fn end_marked(name: &str) {
    let mark = format!("{MARK}={name}");
    for _ in 0..ENDS_WITHIN {
        let marked = marked(mark.as_bytes());
        if marked.is_empty() {
            return;
        }
        for pid in marked {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn marked(mark: &[u8]) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let carries = |pid: &i32| {
        // Of another user's process nobody is told; it is not ours then. A zombie has none any more.
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|e| e.split(|b| *b == 0).any(|variable| variable == mark))
    };
    ids.filter(carries).filter_map(Pid::from_raw).collect()
}
