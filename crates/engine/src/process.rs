//! Commands of other people: started in a group of their own, and never outliving what waits for them.

use std::io;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// Bytes of its output that are quoted.
const QUOTED: usize = 400;

/// A command that runs, and whatever it has started: killed when this goes.
pub(crate) struct Running {
    pub(crate) child: Child,
    group: Option<Pid>,
}

impl Running {
    /// Starts a command.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        // Its own group, so that a shell's children die with it.
        let child = command.stdin(Stdio::null()).process_group(0).kill_on_drop(true).spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, group })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // Most have ended, and took their group with them.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Returns the end of what a command said.
pub(crate) fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let count = text.trim().chars().count();
    text.trim().chars().skip(count.saturating_sub(QUOTED)).collect()
}
