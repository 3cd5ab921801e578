//! Commands before and after a source.
//!
//! A hook gets an environment without secrets: `PATH`, `HOME`, `LANG` and what dozo tells it. *Cancellation*: it is killed
//! after its limit, with everything that it started; what it leaves behind when it ends well is left alone.

use std::collections::BTreeMap;
use std::process::Stdio;

use crate::context::Hook;
use crate::process::{Listener, Running};
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
    let mut running = Running::start(&mut command, Stdio::null()).map_err(|e| failed(e.to_string()))?;
    let listener = Listener::to(running.child.stderr.take());
    match tokio::time::timeout(hook.timeout, running.wait()).await {
        Err(_) => Err(failed(format!("it did not end within {}", dozo_model::human_duration(hook.timeout)))),
        Ok(Err(e)) => Err(failed(e.to_string())),
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => {
            let said = listener.said().await;
            Err(failed(if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }))
        }
    }
}
