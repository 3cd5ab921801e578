//! One file per verb: arguments in, engine called, result rendered, exit code out.

mod accept;
mod adopt;
mod archive;
mod backup;
mod canary;
mod check;
mod compare;
pub(crate) mod drill;
mod fingerprint;
mod gc;
mod hold;
mod init;
mod list;
mod metrics;
mod notify;
mod partitions;
mod replicate;
mod report;
mod restore;
mod retention;
mod rotate;
mod schedule;
mod show;
mod simulate;
mod source;
mod sql;
mod status;
mod verify;

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::CommandFactory;
use dozo_engine::{ClockDoubts, ConnInfo, Context, UrlRef};
use dozo_model::{Clock, FixedClock, Severity, SystemClock};
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::{Cli, Global, Verb};
use crate::config::Config;
use crate::error::{CliError, Usage};
use crate::notify::{MAY_TELL, PHASE, TELLING, TOLD};
use crate::operator::this_operator;
use crate::output::Output;
use crate::reporter::reporter;

/// Outcome of a verb that did not fail: 0, 3, 4 or 6.
pub(crate) type Outcome = Result<u8, CliError>;

/// What every verb is given.
pub(crate) struct Session {
    pub(crate) global: Global,
    pub(crate) output: Output,
    pub(crate) ctx: Context,
    severity: Cell<Severity>,
}

impl Session {
    /// Makes what becomes of this at least so bad for whoever is told of it.
    pub(crate) fn raise(&self, severity: Severity) {
        self.severity.set(self.severity.get().max(severity));
    }

    /// Returns how the clock is doubted: a time that was given is no clock's.
    pub(crate) fn clock_doubts(&self, trusted: bool) -> ClockDoubts {
        match (trusted, self.ctx.clock.fixed()) {
            (true, _) => ClockDoubts::None,
            (false, Some(_)) => ClockDoubts::Records,
            (false, None) => ClockDoubts::All,
        }
    }

    pub(crate) fn severity(&self) -> Severity {
        self.severity.get()
    }

    pub(crate) fn config(&self) -> Result<Config, CliError> {
        let mut config = Config::load(self.global.config.as_deref()).map_err(CliError::Config)?;
        if let Some(name) = &self.global.replica {
            let replica = config.repository.replicas.iter().find(|r| &r.name == name);
            config.repository = replica.ok_or_else(|| unknown_replica(&config, name))?.repository.clone();
        }
        Ok(config)
    }
}

/// Runs a verb and returns the exit code.
pub(crate) async fn run(cli: Cli, output: &Output, cancel: CancellationToken, uploads: TaskTracker, cleanups: TaskTracker) -> u8 {
    let clock: Arc<dyn Clock> = match cli.global.now {
        Some(now) => Arc::new(FixedClock(now)),
        None => Arc::new(SystemClock),
    };
    let progress = reporter(output.quiet());
    let ctx = Context { progress, clock, cancel, operator: this_operator(), uploads, cleanups };
    let session = Session { global: cli.global, output: *output, ctx, severity: Cell::new(Severity::Info) };
    let job = crate::notify::job(&cli.verb);
    if job.is_some() && !session.global.no_notify {
        PHASE.store(MAY_TELL, Ordering::Relaxed);
    }
    let verb = async {
        match cli.verb {
            Verb::Init(args) => init::run(&session, args).await,
            Verb::Check(args) => check::run(&session, args).await,
            Verb::Backup(args) => backup::run(&session, args).await,
            Verb::List(args) => list::run(&session, args).await,
            Verb::Show(args) => show::run(&session, args).await,
            Verb::Status(args) => status::run(&session, args).await,
            Verb::Verify(args) => verify::run(&session, args).await,
            Verb::Accept(args) => accept::run(&session, args).await,
            Verb::Replicate(args) => replicate::run(&session, args).await,
            Verb::Restore(args) => restore::run(&session, args).await,
            Verb::Drill(args) => drill::run(&session, args).await,
            Verb::Canary(args) => canary::run(&session, args).await,
            Verb::Report(args) => report::run(&session, args).await,
            Verb::Compare(args) => compare::run(&session, args).await,
            Verb::Fingerprint(args) => fingerprint::run(&session, args).await,
            Verb::Sql(args) => sql::run(&session, args).await,
            Verb::Archive(args) => archive::run(&session, args).await,
            Verb::Partitions(args) => partitions::run(&session, args).await,
            Verb::Retention(args) => retention::run(&session, args).await,
            Verb::Rotate(args) => rotate::run(&session, args).await,
            Verb::Hold(args) => hold::run(&session, args).await,
            Verb::Source(args) => source::run(&session, args).await,
            Verb::Notify(args) => notify::run(&session, args).await,
            Verb::Schedule(args) => schedule::run(&session, &args),
            Verb::Gc(args) => gc::run(&session, args).await,
            Verb::Completions { shell } => {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "dozo", &mut text);
                Output::print(&String::from_utf8_lossy(&text)).map(|()| 0)
            }
            Verb::Man => {
                let mut text = Vec::new();
                let made = clap_mangen::Man::new(Cli::command()).render(&mut text).map_err(CliError::Output);
                made.and_then(|()| Output::print(&String::from_utf8_lossy(&text))).map(|()| 0)
            }
        }
    };
    let code = match AssertUnwindSafe(verb).catch_unwind().await {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            output.error(&error);
            error.exit_code()
        }
        Err(_) => {
            output.message("error[DOZO-E6099]: internal error\n  next: please report this with the command and its output");
            70
        }
    };
    if let Some(job) = job {
        PHASE.store(TELLING, Ordering::Relaxed);
        // Whatever becomes of that, the job is as it is.
        let _ = AssertUnwindSafe(crate::notify::tell(&session, job, code)).catch_unwind().await;
        PHASE.store(TOLD, Ordering::Relaxed);
    }
    code
}

/// Returns the connection of a source of the configuration, or of `env:`, `file:`, a URL.
pub(crate) fn database(session: &Session, text: &str) -> Result<ConnInfo, CliError> {
    let looks_like_url = text.contains(':') || text.contains('=');
    if looks_like_url {
        let base = std::env::current_dir().unwrap_or_default();
        return Ok(UrlRef::parse(text, &base)?.resolve()?);
    }
    let config = session.config()?;
    match config.source(text) {
        Some(source) => match source.postgres() {
            Some(settings) => Ok(settings.url.resolve()?),
            None => Err(CliError::Usage(
                Usage::NoDatabase,
                format!("source `{text}` is not a Postgres database"),
                "name a source of kind postgres, or env:NAME".into(),
            )),
        },
        None => Err(unknown_source(&config, text)),
    }
}

/// Says which replicas there are.
pub(crate) fn unknown_replica(config: &Config, name: &str) -> CliError {
    let known: Vec<&str> = config.repository.replicas.iter().map(|r| r.name.as_str()).collect();
    CliError::Usage(
        Usage::UnknownReplica,
        format!("replica `{name}` is not in {}", config.file.display()),
        if known.is_empty() { "add [[repository.replica]]".into() } else { format!("use one of: {}", known.join(", ")) },
    )
}

/// Says which sources there are.
pub(crate) fn unknown_source(config: &Config, name: &str) -> CliError {
    let known: Vec<String> = config.names().iter().map(ToString::to_string).collect();
    CliError::Usage(
        Usage::UnknownSource,
        format!("source `{name}` is not in {}", config.file.display()),
        if known.is_empty() { "add [source.NAME]".into() } else { format!("use one of: {}", known.join(", ")) },
    )
}

/// Shows a time for people.
pub(crate) fn when(time: Option<dozo_model::Timestamp>) -> String {
    time.map_or_else(|| "-".into(), |t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// Shows an age for people.
pub(crate) fn age(seconds: Option<i64>) -> String {
    match seconds.and_then(|s| u64::try_from(s).ok()) {
        Some(s) => dozo_model::human_duration(std::time::Duration::from_secs(s)),
        None => "-".into(),
    }
}
