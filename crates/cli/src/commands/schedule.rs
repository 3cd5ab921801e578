//! `dozo schedule`: the night's jobs as systemd timers, or as lines of a crontab.
//!
//! *Invariants*: only files that begin with our mark are replaced or removed; of a crontab only what stands between our marks.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dozo_engine::{SourceKind, SourceSettings};
use jiff::civil::Time;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::{Outcome, Session};
use crate::args::ScheduleArgs;
use crate::config::Config;
use crate::error::{CliError, Usage};

const MARK: &str = "# Written by dozo schedule; changes are lost when it is installed again.";
/// All jobs that there may be.
const NAMES: [&str; 5] = ["backup", "verify", "retention", "status", "drill"];
const BEGIN: &str = "# dozo schedule: begin";
const END: &str = "# dozo schedule: end";

/// A job of the night.
struct Job {
    name: &'static str,
    about: &'static str,
    at: Option<Time>,
    /// On the first of a month alone, instead of every day.
    monthly: bool,
    /// Arguments behind `--quiet --config FILE`.
    args: &'static str,
    /// Job that begins when this one has ended, however.
    then: Option<&'static str>,
}

/// A file to be written.
#[derive(Serialize)]
struct Unit {
    file: PathBuf,
    text: String,
}

pub(super) fn run(session: &Session, args: &ScheduleArgs) -> Outcome {
    let config = session.config()?;
    let jobs = jobs(&config);
    let command = Invocation::new(&config)?;
    if args.cron {
        let block = crontab(&config, &jobs, &command);
        if args.install || args.remove {
            change_crontab(&begin(&command), if args.install { Some(&block) } else { None })?;
            let said = if args.install {
                "the crontab of this user runs the jobs now"
            } else {
                "the crontab of this user has no job of dozo any more"
            };
            session.output.result(&serde_json::json!({ "crontab": block }), || said.into())?;
        } else {
            session.output.result(&serde_json::json!({ "crontab": block }), || block.clone())?;
        }
        return Ok(0);
    }
    let folder = match (&args.into, args.user) {
        (Some(folder), _) => folder.clone(),
        (None, false) => PathBuf::from("/etc/systemd/system"),
        (None, true) => user_units()?,
    };
    let units = units(&config, &jobs, &command, &folder);
    if !args.install && !args.remove && args.into.is_none() {
        session.output.result(&units, || {
            let all: Vec<String> = units.iter().map(|u| format!("# {}\n{}", u.file.display(), u.text)).collect();
            format!("{}\n# next: dozo schedule --install", all.join("\n"))
        })?;
        return Ok(0);
    }
    for unit in &units {
        refuse_foreign(unit, &command)?;
    }
    let files: Vec<PathBuf> = units.iter().map(|u| u.file.clone()).collect();
    // Jobs that were switched off since they were installed; when all are removed, the others, too.
    let mut going: Vec<PathBuf> =
        NAMES.iter().flat_map(|n| ["service", "timer"].map(|e| folder.join(format!("dozo-{n}.{e}")))).collect();
    going.retain(|file| !files.contains(file) && ours(file).is_ok_and(|ours| ours == Some(true)) && command.owns(file));
    going.extend(args.remove.then_some(files.clone()).into_iter().flatten());
    let started = args.into.is_none();
    let timers = timers(&going);
    if started && !timers.is_empty() {
        // What is not running cannot be stopped; its file is removed all the same.
        let _ = systemctl(args.user, &["disable", "--now"], &timers);
    }
    for file in &going {
        remove(file)?;
    }
    if !args.remove {
        for unit in &units {
            write(unit)?;
        }
    }
    if started {
        systemctl(args.user, &["daemon-reload"], &[])?;
    }
    if started && !args.remove {
        systemctl(args.user, &["enable", "--now"], &self::timers(&files))?;
    }
    session.output.result(&units, || {
        let files: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        let verb = if args.remove { "removed" } else { "wrote" };
        let next = if started && !args.remove { "\n  next: systemctl list-timers 'dozo-*'" } else { "" };
        format!("{verb} {}{next}", files.join(", "))
    })?;
    Ok(0)
}

fn jobs(config: &Config) -> Vec<Job> {
    let s = &config.schedule;
    let job = |name, about, at, args, then| Job { name, about, at, monthly: false, args, then };
    let mut all = vec![];
    if s.backup.is_some() {
        all.push(job("backup", "backup of all sources", s.backup, "backup --all", Some("verify")));
        let rotates = |s: &SourceSettings| matches!(&s.kind, SourceKind::Files(files) if files.rotate.is_some());
        let rotate = config.sources.iter().any(rotates).then_some("rotate");
        all.push(job("verify", "verification of the newest backups", None, "verify latest --all", rotate));
        if let Some(rotate) = rotate {
            all.push(job(rotate, "rotation of old files", None, "rotate apply", None));
        }
    }
    if s.retention.is_some() {
        all.push(job("retention", "retention", s.retention, "retention apply", None));
    }
    if s.status.is_some() && !config.receivers.is_empty() {
        all.push(job("status", "a look at everything", s.status, "status --notify", None));
    }
    if s.drill.is_some() && !config.drills.is_empty() {
        all.push(Job { monthly: true, ..job("drill", "restores for practice", s.drill, "drill --all", None) });
    }
    all
}

/// How dozo is called.
struct Invocation {
    program: String,
    config: String,
}

impl Invocation {
    /// Tells whether a unit belongs to this configuration: a timer, whether its service does.
    fn owns(&self, file: &Path) -> bool {
        let service = std::fs::read_to_string(file.with_extension("service")).unwrap_or_default();
        service.contains(&format!("--config {} ", quoted(&self.config)))
    }

    fn new(config: &Config) -> Result<Self, CliError> {
        let wrong = |text: String| CliError::Usage(Usage::Schedule, text, "scripts/install puts it into /usr/local/bin".into());
        let program = std::env::current_exe().map_err(|e| wrong(format!("the path of this program is not known: {e}")))?;
        let file = std::path::absolute(&config.file).unwrap_or_else(|_| config.file.clone());
        let text =
            |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| wrong(format!("{} is not UTF-8", path.display())));
        Ok(Self { program: text(&program)?, config: text(&file)? })
    }

    /// By the rules of systemd.exec(5): quoted, and no specifier or variable.
    fn systemd(&self, args: &str) -> String {
        format!("{} --quiet --config {} {args}", quoted(&self.program), quoted(&self.config))
    }

    /// By the rules of a shell, and of crontab(5): `%` ends a line there.
    fn cron(&self, args: &str) -> String {
        let quote = |text: &str| format!("'{}'", text.replace('\'', "'\\''")).replace('%', "\\%");
        format!("{} --quiet --config {} {args}", quote(&self.program), quote(&self.config))
    }
}

/// Quotes by the rules of systemd.exec(5).
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

fn units(config: &Config, jobs: &[Job], command: &Invocation, folder: &Path) -> Vec<Unit> {
    let s = &config.schedule;
    let mut all = Vec::new();
    for job in jobs {
        let then = job.then.map(|t| format!("OnSuccess=dozo-{t}.service\nOnFailure=dozo-{t}.service\n")).unwrap_or_default();
        let service = format!(
            "{MARK}\n[Unit]\nDescription=dozo: {}\nWants=network-online.target\nAfter=network-online.target\n{then}\n[Service]\nType=oneshot\nExecStart={}\n\
             # Variables for env:NAME in the configuration: NAME=value, a line each, mode 0600.\nEnvironmentFile=-/etc/dozo/environment\n\
             StateDirectory=dozo\nEnvironment=DOZO_STATE=%S/dozo\nTimeoutStartSec={}\nNice={}\nIOSchedulingClass=best-effort\nIOSchedulingPriority=7\n\
             MemoryMax={}\nNoNewPrivileges=yes\nPrivateTmp=yes\nProtectKernelTunables=yes\nProtectControlGroups=yes\n",
            job.about,
            command.systemd(job.args),
            s.timeout.as_secs(),
            s.nice,
            s.memory_max.0,
        );
        all.push(Unit { file: folder.join(format!("dozo-{}.service", job.name)), text: service });
        let Some(at) = job.at else { continue };
        let timer = format!(
            "{MARK}\n[Unit]\nDescription=dozo: {}, at {} {}\n\n[Timer]\nOnCalendar=*-*-{} {}:00 {}\n# A night that was missed is made up for.\nPersistent=true\nRandomizedDelaySec={}\nAccuracySec=1min\n\n[Install]\nWantedBy=timers.target\n",
            job.about,
            at.strftime("%H:%M"),
            s.time_zone,
            if job.monthly { "01" } else { "*" },
            at.strftime("%H:%M"),
            s.time_zone,
            s.random_delay.as_secs(),
        );
        all.push(Unit { file: folder.join(format!("dozo-{}.timer", job.name)), text: timer });
    }
    all
}

fn crontab(config: &Config, jobs: &[Job], command: &Invocation) -> String {
    let s = &config.schedule;
    let here = TimeZone::system();
    let name = here.iana_name().unwrap_or("the host's time zone").to_owned();
    let mut lines = vec![begin(command)];
    if name != s.time_zone {
        lines.push(format!("# Times are those of {name}, at today's distance from {}.", s.time_zone));
    }
    for job in jobs {
        let Some(at) = job.at else { continue };
        let local = here_time(at, &s.time_zone, &here).unwrap_or(at);
        let day = if job.monthly { "1" } else { "*" };
        let mut line = format!("{} {} {day} * * {}", local.minute(), local.hour(), command.cron(job.args));
        // Whatever became of the one before.
        let mut last = job;
        while let Some(then) = jobs.iter().find(|j| last.then == Some(j.name)) {
            line.push_str(&format!("; {}", command.cron(then.args)));
            last = then;
        }
        lines.push(line);
    }
    lines.push(END.to_owned());
    lines.join("\n")
}

/// Returns a time of day of another zone by this host's clock, as it is today.
fn here_time(at: Time, zone: &str, here: &TimeZone) -> Option<Time> {
    let today = jiff::Timestamp::now().in_tz(zone).ok()?.date();
    let there = today.to_datetime(at).in_tz(zone).ok()?;
    Some(there.with_time_zone(here.clone()).time())
}

fn user_units() -> Result<PathBuf, CliError> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|h| h.join(".config")));
    base.map(|b| b.join("systemd/user")).ok_or_else(|| failed("neither HOME nor XDG_CONFIG_HOME is set".into()))
}

/// Returns the names of the timers among some units.
fn timers(files: &[PathBuf]) -> Vec<String> {
    let timers = files.iter().filter(|f| f.extension().is_some_and(|e| e == "timer"));
    timers.filter_map(|f| Some(f.file_name()?.to_string_lossy().into_owned())).collect()
}

/// Refuses to replace the units of another configuration: its backups would stop.
fn refuse_foreign(unit: &Unit, command: &Invocation) -> Result<(), CliError> {
    match ours(&unit.file)? {
        None => return Ok(()),
        Some(false) => return Err(failed(format!("{} was not written by dozo", unit.file.display()))),
        Some(true) => {}
    }
    if unit.file.with_extension("service").exists() && !command.owns(&unit.file) {
        return Err(failed(format!("{} belongs to another configuration than {}", unit.file.display(), command.config)));
    }
    Ok(())
}

fn failed(text: String) -> CliError {
    CliError::Usage(Usage::Schedule, text, "print it with `dozo schedule`, and install it by hand".into())
}

/// Tells whether a file is ours; one that is not there is nobody's.
fn ours(file: &Path) -> Result<Option<bool>, CliError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.starts_with(MARK))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(format!("{} cannot be read: {e}", file.display()))),
    }
}

fn write(unit: &Unit) -> Result<(), CliError> {
    let wrong = |e: std::io::Error| failed(format!("{} cannot be written: {e}", unit.file.display()));
    if let Some(folder) = unit.file.parent() {
        std::fs::create_dir_all(folder).map_err(wrong)?;
    }
    std::fs::write(&unit.file, &unit.text).map_err(wrong)
}

fn remove(file: &Path) -> Result<(), CliError> {
    match ours(file)? {
        Some(true) => std::fs::remove_file(file).map_err(|e| failed(format!("{} cannot be removed: {e}", file.display()))),
        Some(false) => Err(failed(format!("{} was not written by dozo", file.display()))),
        None => Ok(()),
    }
}

fn systemctl(user: bool, args: &[&str], units: &[String]) -> Result<(), CliError> {
    let mut command = Command::new("systemctl");
    command.args(user.then_some("--user")).args(args).args(units);
    let out = command.output().map_err(|e| failed(format!("systemctl cannot be run: {e}")))?;
    if out.status.success() {
        return Ok(());
    }
    Err(failed(format!("systemctl {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim())))
}

/// Puts our block into the crontab of this user, in place of the one that stands there, or takes it out.
fn change_crontab(begin: &str, block: Option<&str>) -> Result<(), CliError> {
    let run = |e: std::io::Error| failed(format!("crontab cannot be run: {e}"));
    let listed = Command::new("crontab").arg("-l").output().map_err(run)?;
    let said = String::from_utf8_lossy(&listed.stderr).into_owned();
    let old = match (listed.status.success(), said.contains("no crontab")) {
        (true, _) => String::from_utf8(listed.stdout).map_err(|_| failed("the crontab is not UTF-8: it is left alone".into()))?,
        (false, true) => String::new(),
        (false, false) => return Err(failed(format!("crontab -l: {}", said.trim()))),
    };
    let new =
        replace_block(&old, begin, block).ok_or_else(|| failed(format!("the crontab has a line `{begin}` and none `{END}`")))?;
    let mut child = Command::new("crontab").arg("-").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(run)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(new.as_bytes()).map_err(run)?;
    }
    let out = child.wait_with_output().map_err(run)?;
    if out.status.success() {
        return Ok(());
    }
    Err(failed(format!("crontab: {}", String::from_utf8_lossy(&out.stderr).trim())))
}

/// The first line of a configuration's block.
fn begin(command: &Invocation) -> String {
    format!("{BEGIN} {}", command.config)
}

fn replace_block(old: &str, begin: &str, block: Option<&str>) -> Option<String> {
    let mut lines: Vec<&str> = old.lines().collect();
    if let Some(begin) = lines.iter().position(|l| *l == begin) {
        let end = begin + lines[begin..].iter().position(|l| *l == END)?;
        lines.drain(begin..=end);
    }
    lines.extend(block.into_iter().flat_map(str::lines));
    Some(lines.iter().map(|l| format!("{l}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_lines_of_a_crontab_change() {
        let begin = format!("{BEGIN} /etc/dozo.toml");
        let block = format!("{begin}\n0 2 * * * dozo\n{END}");
        let old = format!("MAILTO=me\n5 5 * * * mine\n{BEGIN} /etc/other.toml\n0 1 * * * dozo\n{END}\n");
        let with = replace_block(&old, &begin, Some(&block)).unwrap();
        assert_eq!(with, format!("{old}{block}\n"));
        let newer = format!("{begin}\n0 3 * * * dozo\n{END}");
        assert_eq!(replace_block(&with, &begin, Some(&newer)).unwrap(), format!("{old}{newer}\n"));
        assert_eq!(replace_block(&with, &begin, None).unwrap(), old);
        assert_eq!(replace_block(&format!("{begin}\n0 2 * * * cut"), &begin, None), None);
    }

    #[test]
    fn paths_are_quoted() {
        let odd = Invocation { program: "/opt/a b/dozo".into(), config: "/etc/100%$x'\".toml".into() };
        assert_eq!(odd.systemd("check"), "\"/opt/a b/dozo\" --quiet --config \"/etc/100%%$$x'\\\".toml\" check");
        assert_eq!(odd.cron("check"), "'/opt/a b/dozo' --quiet --config '/etc/100\\%$x'\\''\".toml' check");
    }
}
