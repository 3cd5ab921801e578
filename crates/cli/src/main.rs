//! The binary: arguments, configuration, rendering, progress, signals, exit codes. Everything else is in the engine.
//!
//! `main` parses, runs one verb, and turns its outcome into an exit code (`docs/errors.md`). Results go to stdout,
//! everything else to stderr; a closed pipe on stdout is not an error.

mod args;
mod commands;
mod config;
mod error;
mod log;
mod notify;
mod operator;
mod output;
mod report;
mod reporter;

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::Cli;
use crate::error::{CliError, Usage};
use crate::log::Level;
use crate::output::Output;

/// After a signal the work has this long to stop by itself.
const STOP_WITHIN: Duration = Duration::from_millis(800);
/// What a run has made for itself alone is taken down within this.
const TAKE_DOWN_WITHIN: Duration = Duration::from_secs(60);
/// A job that a supervisor has stopped, and that somebody wants to hear of, has so much longer.
const TELL_WITHIN: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let code = if e.use_stderr() { 2 } else { 0 };
            // A closed pipe is the only way this fails.
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let output = Output::new(cli.global.json, cli.global.quiet);
    if let Some(path) = &cli.global.log_file
        && let Err(e) = log::open(path)
    {
        let text = format!("the log file {} cannot be opened: {e}", path.display());
        let error = CliError::Usage(Usage::LogFile, text, "check the path and its permissions".into());
        output.error(&error);
        return ExitCode::from(error.exit_code());
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            output.message(&format!("error: the runtime cannot be started: {e}"));
            return ExitCode::from(70);
        }
    };
    let cancel = CancellationToken::new();
    let (uploads, cleanups) = (TaskTracker::new(), TaskTracker::new());
    runtime.spawn(stop_on_signal(cancel.clone(), cleanups.clone()));
    let code = runtime.block_on(commands::run(cli, &output, cancel.clone(), uploads.clone(), cleanups));
    // Uploads that were stopped abort what they began. The signal's own deadline ends this, too.
    uploads.close();
    let _ = runtime.block_on(async { tokio::time::timeout(STOP_WITHIN, uploads.wait()).await });
    log::line(Level::End, &format!("exit {code}"));
    runtime.shutdown_timeout(Duration::from_millis(100));
    ExitCode::from(code)
}

async fn stop_on_signal(cancel: CancellationToken, cleanups: TaskTracker) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => notify::TERMINATED.store(true, Ordering::Relaxed),
    }
    cancel.cancel();
    tokio::time::sleep(STOP_WITHIN).await;
    // A throw-away server and its folder go with the run that made them. Whoever does not want to wait for that sends another signal.
    let began = std::time::Instant::now();
    while !cleanups.is_empty() && began.elapsed() < TAKE_DOWN_WITHIN {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    // Somebody is to be told of a job that a supervisor has stopped: the job has a moment to end, and each receiver its timeout. Whoever
    // does not want to wait for that sends another signal.
    if notify::TERMINATED.load(Ordering::Relaxed) {
        let began = std::time::Instant::now();
        loop {
            match notify::PHASE.load(Ordering::Relaxed) {
                notify::TOLD => return,
                notify::TELLING => {}
                notify::MAY_TELL if began.elapsed() < TELL_WITHIN => {}
                _ => break,
            }
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    }
    log::line(Level::End, "interrupted, exit 130");
    // Something does not stop: nothing is committed by now, and what is left behind is listed by `gc plan`.
    #[expect(clippy::exit, reason = "a signal must end the process within a second")]
    std::process::exit(130);
}
