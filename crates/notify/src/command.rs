//! A command that passes the message on: JSON on its standard input, the essentials in its environment.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::message::Message;
use crate::{NotifyError, Result};

pub(crate) async fn run(argv: &[String], message: &Message) -> Result<()> {
    let Some((program, args)) = argv.split_first() else {
        return Err(NotifyError::Setup("the command is empty".into()));
    };
    let body = serde_json::to_vec(message).map_err(|e| NotifyError::Setup(e.to_string()))?;
    let mut child = Command::new(program)
        .args(args)
        .env("DOZO_SEVERITY", message.severity.as_str())
        .env("DOZO_JOB", &message.job)
        .env("DOZO_EXIT", message.exit.to_string())
        .env("DOZO_SUMMARY", &message.summary)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Whoever takes longer than the receiver's timeout is ended.
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| NotifyError::Setup(format!("`{program}` cannot be run: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input is none the worse for it.
        let _ = stdin.write_all(&body).await;
    }
    let out = child.wait_with_output().await.map_err(|e| NotifyError::Unreached(format!("`{program}`: {e}")))?;
    if out.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&out.stderr).trim().chars().take(200).collect();
    Err(NotifyError::Unreached(format!("`{program}` ended with {}: {said}", out.status)))
}
