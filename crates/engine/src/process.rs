//! Commands of other people: started in a group of their own, and never outliving what waits for them.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinHandle;

/// Bytes of its standard error that are kept.
const SAID_MAX: usize = 1 << 16;
/// How long the rest of it is waited for once a command has ended.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of its output that are quoted.
const QUOTED: usize = 400;

/// A command that runs, and whatever it has started: killed when this goes before it has ended.
pub(crate) struct Running {
    pub(crate) child: Child,
    group: Option<Pid>,
}

impl Running {
    /// Starts a command.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start(command: &mut Command, stdin: Stdio) -> io::Result<Self> {
        // Its own group, so that a shell's children die with it.
        let child = command.stdin(stdin).process_group(0).kill_on_drop(true).spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, group })
    }

    /// Waits for its end. What it has left behind on purpose then is left alone, and its number may be another process'.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.group = None;
        Ok(status)
    }

    /// Tells whether it has ended, although it was not waited for.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Kills it, and whatever it has started.
    pub(crate) fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the end of what a command said.
fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let count = text.trim().chars().count();
    text.trim().chars().skip(count.saturating_sub(QUOTED)).collect()
}

/// What a command says on standard error, the end of it at least.
pub(crate) struct Listener {
    said: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Begins to listen: a command whose pipe is full would wait for ever.
    pub(crate) fn to(stderr: Option<ChildStderr>) -> Self {
        Self::listen(stderr)
    }

    /// As [`Listener::to`], to what it prints.
    pub(crate) fn out(stdout: Option<ChildStdout>) -> Self {
        Self::listen(stdout)
    }

    fn listen(pipe: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let said: Arc<Mutex<Vec<u8>>> = Arc::default();
        let kept = Arc::clone(&said);
        let task = tokio::spawn(async move {
            let Some(mut pipe) = pipe else { return };
            let mut piece = Vec::new();
            // What cannot be read is only missing from the message.
            while pipe.read_buf(&mut piece).await.is_ok_and(|n| n > 0) {
                if let Ok(mut said) = kept.lock() {
                    said.append(&mut piece);
                    let over = said.len().saturating_sub(SAID_MAX);
                    said.drain(..over);
                }
            }
        });
        Self { said, task }
    }

    /// Returns what was said. A process that the command has left behind may hold the pipe: it is not waited for.
    pub(crate) async fn said(mut self) -> String {
        if tokio::time::timeout(LINGER, &mut self.task).await.is_err() {
            self.task.abort();
        }
        self.said.lock().map(|said| tail(&said)).unwrap_or_default()
    }
}
