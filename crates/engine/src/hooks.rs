//! Commands before and after a source.
//!
//! A hook gets an environment without secrets: `PATH`, `HOME`, `LANG` and what dozo tells it. *Cancellation*: it is killed
//! after its limit, with everything that it started.

use std::collections::BTreeMap;
use std::process::Stdio;

use tokio::io::AsyncReadExt;

use crate::context::Hook;
use crate::process::{Running, tail};
use crate::{EngineError, Result};

/// Runs a hook; `facts` become `DOZO_…` variables.
///
/// # Errors
/// [`EngineError::Hook`].
pub async fn run(name: &'static str, hook: &Hook, facts: &[(&str, String)]) -> Result<()> {
    let failed =
        |reason: String| EngineError::Hook { hook: name, command: hook.command.first().cloned().unwrap_or_default(), reason };
    let Some((program, arguments)) = hook.command.split_first() else { return Err(failed("it is empty".into())) };
    let kept = ["PATH", "HOME", "LANG", "TZ"].into_iter().filter_map(|k| Some((k.to_owned(), std::env::var(k).ok()?)));
    let told = facts.iter().map(|(k, v)| (format!("DOZO_{k}"), v.clone()));
    let environment: BTreeMap<String, String> = kept.chain(told).collect();
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env_clear().envs(environment).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = Running::start(&mut command).map_err(|e| failed(e.to_string()))?;
    let mut output = running.child.stderr.take();
    let read = async {
        let mut text = Vec::new();
        if let Some(pipe) = &mut output {
            // What cannot be read is only missing from the message.
            let _ = pipe.read_to_end(&mut text).await;
        }
        text
    };
    let work = async { tokio::join!(read, running.child.wait()) };
    match tokio::time::timeout(hook.timeout, work).await {
        Err(_) => Err(failed(format!("it did not end within {}", dozo_model::human_duration(hook.timeout)))),
        Ok((_, Err(e))) => Err(failed(e.to_string())),
        Ok((_, Ok(status))) if status.success() => Ok(()),
        Ok((text, Ok(status))) => {
            let tail = tail(&text);
            Err(failed(if tail.is_empty() { status.to_string() } else { format!("{status}: {tail}") }))
        }
    }
}
