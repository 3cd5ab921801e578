//! How full the disk of a server's data is: looked at where it is this host's, else told by a command.

use std::process::Stdio;
use std::time::Duration;

use dozo_postgres::{Session, data_folder};

use crate::{EngineError, Result};

/// A command that takes longer tells nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns how many percent of the data disk are in use; none where nobody can tell.
///
/// # Errors
/// What became of the command; what the server says.
pub(crate) async fn used(session: &Session, command: &[String]) -> Result<Option<u8>> {
    if let Some((program, arguments)) = command.split_first() {
        let failed = |reason: String| EngineError::Command { program: program.clone(), reason };
        let mut child = tokio::process::Command::new(program);
        child.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let out = match tokio::time::timeout(PATIENCE, child.output()).await {
            Ok(out) => out.map_err(|e| failed(e.to_string()))?,
            Err(_) => return Err(failed("it did not end within a minute".into())),
        };
        let text = String::from_utf8_lossy(&out.stdout).trim().trim_end_matches('%').to_owned();
        if !out.status.success() {
            return Err(failed(out.status.to_string()));
        }
        return match text.parse::<u8>() {
            Ok(percent) if percent <= 100 => Ok(Some(percent)),
            _ => Err(failed(format!("it printed `{text}`, which is no number from 0 to 100"))),
        };
    }
    // A folder of that name is the server's only behind a socket of this host; behind its own address, if a server runs in it.
    let hosts = || session.info().hosts.iter().map(|(host, _)| host.as_str());
    let (socket, own) = (hosts().all(|h| h.starts_with('/')), hosts().all(|h| ["localhost", "127.0.0.1", "::1"].contains(&h)));
    let runs_here = |folder: &String| socket || std::path::Path::new(folder).join("postmaster.pid").exists();
    let folder = if socket || own { data_folder(session).await?.filter(runs_here) } else { None };
    let Some(stat) = folder.and_then(|folder| rustix::fs::statvfs(folder).ok()) else { return Ok(None) };
    let taken = stat.f_blocks.saturating_sub(stat.f_bfree);
    let all = (taken + stat.f_bavail).max(1);
    Ok(u8::try_from(taken * 100 / all).ok())
}
