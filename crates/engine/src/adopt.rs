//! `retention adopt`: the tiers over dumps that other tools have left in a folder, by the time in their names.
//!
//! Place in the flow: folder → facts → the catalog's planner → renames. *Invariants*: what matches no pattern is never touched; links are
//! strangers; nothing is deleted at once. *Crash behaviour*: what is to go is moved into `.dozo-retired/<time>/` of the same folder, one rename
//! each, and deleted by a run after the grace; until then it is moved back by hand.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use dozo_catalog::{BackupFacts, Facts, Plan, plan};
use dozo_model::{BackupId, RetentionPolicy, SourceName, Timestamp};
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;
use regex::Regex;
use serde::Serialize;

use crate::{EngineError, Result};

/// Dumps that the next one is compared with.
const RECENT: usize = 7;
/// Where what is to go waits.
const RETIRED: &str = ".dozo-retired";
const RETIRED_FORMAT: &str = "%Y%m%dT%H%M%SZ";
/// A dump that has less than this percentage of the usual bytes is suspect.
const SHRINK_MAX: u64 = 50;

/// A naming scheme: `crm_{timestamp:%Y%m%d_%H%M%S}.sql.gz`, with `{name}` where one scheme holds several.
#[derive(Debug, Clone)]
pub struct NamePattern {
    text: String,
    regex: Regex,
    format: String,
}

impl NamePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`EngineError::Options`], with what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |reason: &str| EngineError::Options(format!("pattern `{text}`: {reason}"));
        let (mut regex, mut format, mut named, mut rest) = (String::from("^"), None, false, text);
        while let Some(open) = rest.find('{') {
            regex.push_str(&regex::escape(&rest[..open]));
            let close = rest[open..].find('}').map(|c| open + c).ok_or_else(|| bad("a `{` has no `}`"))?;
            match &rest[open + 1..close] {
                "name" if !named => {
                    named = true;
                    regex.push_str("(?P<name>.+?)");
                }
                part => {
                    let stamp = part.strip_prefix("timestamp:").filter(|_| format.is_none());
                    let stamp = stamp.ok_or_else(|| bad("it has one {timestamp:FORMAT}, and at most one {name}"))?;
                    regex.push_str(&format!(
                        "(?P<time>{})",
                        digits(stamp).ok_or_else(|| bad("the format knows %Y %y %m %d %H %M %S %j %b %s"))?
                    ));
                    format = Some(stamp.to_owned());
                }
            }
            rest = &rest[close + 1..];
        }
        regex.push_str(&regex::escape(rest));
        regex.push('$');
        let format = format.ok_or_else(|| bad("it has no {timestamp:FORMAT}"))?;
        let regex = Regex::new(&regex).map_err(|e| bad(&e.to_string()))?;
        Ok(Self { text: text.to_owned(), regex, format })
    }

    /// Returns the time in a file's name, and the part that tells several series apart.
    fn matches(&self, name: &str, zone: &TimeZone) -> Option<(Timestamp, String)> {
        let found = self.regex.captures(name)?;
        let parsed = BrokenDownTime::parse(&self.format, &found["time"]).ok()?;
        // A day without a time is its beginning.
        let at = parsed.to_timestamp().ok().or_else(|| {
            let date = parsed.to_date().ok()?;
            let time = parsed.to_time().unwrap_or(jiff::civil::Time::midnight());
            Some(date.to_datetime(time).to_zoned(zone.clone()).ok()?.timestamp())
        })?;
        // Two schemes with the same name in them are two series.
        let series = found.name("name").map_or_else(|| self.text.clone(), |m| self.text.replacen("{name}", m.as_str(), 1));
        Some((at, series))
    }
}

/// What a time format looks like in a name.
fn digits(format: &str) -> Option<String> {
    let mut regex = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            regex.push_str(&regex::escape(&c.to_string()));
            continue;
        }
        regex.push_str(match chars.next()? {
            'Y' => r"\d{4}",
            'y' | 'm' | 'd' | 'H' | 'M' | 'S' => r"\d{2}",
            'j' => r"\d{3}",
            'b' => "[A-Za-z]{3}",
            's' => r"\d{9,11}",
            '%' => "%",
            _ => return None,
        });
    }
    Some(regex)
}

/// A dump in the folder.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Dump {
    /// Its name.
    pub name: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Bytes, of a folder all that is in it.
    pub bytes: u64,
    /// Time in its name.
    pub time: Timestamp,
    /// Id under which it is in the plan.
    pub id: BackupId,
}

/// What is in a folder, and what is to become of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Adoption {
    /// Folder.
    pub folder: PathBuf,
    /// Dumps, oldest first.
    pub dumps: Vec<Dump>,
    /// The plan; its backups are dumps.
    pub plan: Plan,
    /// What matches no pattern: it is left alone.
    pub strangers: Vec<String>,
    /// What waits to be deleted, and what may be now.
    pub retired: Vec<Retired>,
}

/// What was moved aside.
#[derive(Debug, Clone, Serialize)]
pub struct Retired {
    /// Path under the folder.
    pub path: PathBuf,
    /// When its grace is over.
    pub due: Timestamp,
}

/// What was done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Adopted {
    /// Dumps moved aside.
    pub retired: Vec<String>,
    /// Where to.
    pub to: Option<PathBuf>,
    /// Dumps deleted, whose grace was over.
    pub deleted: Vec<PathBuf>,
}

/// Looks at a folder, and plans.
///
/// # Errors
/// [`EngineError::Folder`] when it cannot be read.
pub fn survey_dumps(folder: &Path, patterns: &[NamePattern], policy: &RetentionPolicy, now: Timestamp) -> Result<Adoption> {
    let wrong = EngineError::folder(folder);
    let zone = policy.zone();
    let (mut found, mut strangers) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == RETIRED {
            continue;
        }
        let kind = entry.file_type().map_err(wrong)?;
        let plain = kind.is_file() || kind.is_dir();
        match patterns.iter().find_map(|p| p.matches(&name, &zone)).filter(|_| plain && entry.file_name().to_str().is_some()) {
            Some((time, series)) => found.push((series, time, name, kind.is_dir())),
            None => strangers.push(name),
        }
    }
    found.sort();
    strangers.sort();
    let names = series_names(found.iter().map(|(series, ..)| series));
    let (mut facts, mut dumps) = (Facts::default(), Vec::new());
    let mut recent: HashMap<&SourceName, Vec<u64>> = HashMap::new();
    for (n, (series, time, name, is_folder)) in found.into_iter().enumerate() {
        let path = folder.join(&name);
        let bytes = size(&path).map_err(wrong)?;
        let source = &names[&series];
        let before = recent.entry(source).or_default();
        let whole = intact(&path, is_folder, bytes).map_err(wrong)?;
        let state = match (whole, median(before)) {
            (false, _) => "damaged",
            (true, Some(usual)) if bytes.saturating_mul(100) < usual.saturating_mul(100 - SHRINK_MAX) => "suspect",
            (true, _) => "complete",
        };
        let good = state == "complete";
        if whole {
            // Suspect ones, too: what stays small was meant to shrink.
            before.push(bytes);
        }
        let id = BackupId::parse(&format!("{}-{n:06}", time.strftime("%Y%m%dT%H%M%SZ")))?;
        facts.objects.push(bytes);
        // Nobody can verify what another tool has written: what looks whole counts.
        let whole = BackupFacts::good(source.clone(), id.clone(), time);
        let objects = vec![u32::try_from(facts.objects.len() - 1).unwrap_or(u32::MAX)];
        facts.backups.push(BackupFacts { state, good, verified: good, objects, ..whole });
        dumps.push(Dump { name, folder: is_folder, bytes, time, id });
    }
    let mut plan = plan(&facts, |_| policy, now);
    // Whoever reads the reasons knows files, not ids.
    let by_id: HashMap<&str, &str> = dumps.iter().map(|d| (d.id.as_str(), d.name.as_str())).collect();
    for reason in plan.backups.iter_mut().flat_map(|v| &mut v.reasons) {
        for (id, name) in &by_id {
            if reason.contains(id) {
                *reason = reason.replace(id, name);
            }
        }
    }
    dumps.sort_by(|a, b| (a.time, &a.name).cmp(&(b.time, &b.name)));
    let retired = retired(folder, patterns, policy).map_err(wrong)?;
    Ok(Adoption { folder: folder.to_owned(), dumps, plan, strangers, retired })
}

/// Moves aside what is to go, and deletes what was moved aside long enough ago.
///
/// # Errors
/// [`EngineError::TooManyDumps`], [`EngineError::Folder`] when something cannot be moved or deleted; what was moved by then stays moved.
pub fn retire_dumps(adoption: &Adoption, max_delete: Option<u8>, now: Timestamp) -> Result<Adopted> {
    let folder = &adoption.folder;
    for source in &adoption.plan.sources {
        let most = max_delete.unwrap_or(source.policy.max_delete);
        if source.exceeds(most) {
            let (deletes, standing) = (source.deletes, source.standing);
            return Err(EngineError::TooManyDumps { folder: folder.clone(), deletes, standing, max_delete: most });
        }
    }
    let mut done = Adopted::default();
    for old in adoption.retired.iter().filter(|r| r.due <= now) {
        let path = folder.join(&old.path);
        let gone = if is_real_folder(&path) { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(EngineError::folder(&path))?;
        done.deleted.push(old.path.clone());
        // Its folder goes with the last of them.
        let _ = path.parent().map(fs::remove_dir);
    }
    let going: BTreeSet<&BackupId> = adoption.plan.marks().map(|v| &v.id).collect();
    let root = folder.join(RETIRED);
    if fs::symlink_metadata(&root).is_ok_and(|m| !m.is_dir()) {
        return Err(EngineError::Folder { folder: root, reason: "it is not a folder of ours".into() });
    }
    let aside = folder.join(RETIRED).join(now.strftime(RETIRED_FORMAT).to_string());
    for dump in adoption.dumps.iter().filter(|d| going.contains(&d.id)) {
        fs::create_dir_all(&aside).map_err(EngineError::folder(&aside))?;
        let (from, to) = (folder.join(&dump.name), aside.join(&dump.name));
        if to.exists() {
            return Err(EngineError::folder(&to)(std::io::ErrorKind::AlreadyExists.into()));
        }
        fs::rename(&from, &to).map_err(EngineError::folder(&from))?;
        done.retired.push(dump.name.clone());
        done.to = Some(aside.clone());
    }
    Ok(done)
}

fn is_real_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())
}

fn retired(folder: &Path, patterns: &[NamePattern], policy: &RetentionPolicy) -> std::io::Result<Vec<Retired>> {
    let (mut all, zone) = (Vec::new(), policy.zone());
    let root = folder.join(RETIRED);
    if !is_real_folder(&root) {
        return Ok(all);
    }
    for entry in fs::read_dir(&root)? {
        let entry = entry?;
        // Links lead elsewhere: nothing behind them was put there by us.
        if !is_real_folder(&entry.path()) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let at = jiff::civil::DateTime::strptime(RETIRED_FORMAT, &name).ok();
        // What else is in there was not put there by us.
        let Some(at) = at.and_then(|d| d.to_zoned(TimeZone::UTC).ok()) else { continue };
        let due = at.timestamp().checked_add(policy.grace).unwrap_or(Timestamp::MAX);
        for inner in fs::read_dir(entry.path())? {
            let inner = inner?.file_name();
            // What matches no pattern was put there by somebody else.
            if inner.to_str().is_some_and(|n| patterns.iter().any(|p| p.matches(n, &zone).is_some())) {
                all.push(Retired { path: Path::new(RETIRED).join(&name).join(inner), due });
            }
        }
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// Makes a name of a source for each series.
fn series_names<'a>(all: impl Iterator<Item = &'a String>) -> HashMap<String, SourceName> {
    let mut names: HashMap<String, SourceName> = HashMap::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for series in all {
        if names.contains_key(series) {
            continue;
        }
        // Of a pattern, what stands before the time.
        let words = series.split('{').next().filter(|w| !w.is_empty()).unwrap_or(series);
        let slug: String =
            words.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(50).collect();
        let slug = slug.trim_matches('-');
        let slug = if slug.is_empty() { "dumps" } else { slug };
        let mut name = slug.to_owned();
        for n in 2.. {
            if taken.insert(name.clone()) {
                break;
            }
            name = format!("{slug}-{n}");
        }
        if let Ok(name) = SourceName::parse(&name) {
            names.insert(series.clone(), name);
        }
    }
    names
}

/// Returns the usual size of the last ones.
fn median(sizes: &[u64]) -> Option<u64> {
    let mut last = sizes[sizes.len().saturating_sub(RECENT)..].to_vec();
    last.sort_unstable();
    last.get(last.len() / 2).copied()
}

fn size(path: &Path) -> std::io::Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        bytes += size(&entry?.path())?;
    }
    Ok(bytes)
}

/// Tells whether a dump looks whole from outside: not empty, and with the first bytes of what its name says it is.
fn intact(path: &Path, is_folder: bool, bytes: u64) -> std::io::Result<bool> {
    if bytes == 0 || is_folder {
        return Ok(bytes > 0);
    }
    let magic: &[u8] = match path.extension().and_then(|e| e.to_str()) {
        Some("gz" | "tgz") => &[0x1f, 0x8b],
        Some("zst") => &[0x28, 0xb5, 0x2f, 0xfd],
        Some("bz2") => b"BZh",
        Some("xz") => &[0xfd, b'7', b'z', b'X', b'Z'],
        _ => return Ok(true),
    };
    let mut head = vec![0; magic.len()];
    let read = fs::File::open(path)?.read_exact(&mut head);
    Ok(read.is_ok() && head == magic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_time() {
        let tokyo = TimeZone::get("Asia/Tokyo").unwrap();
        let at = |pattern: &str, name: &str| NamePattern::parse(pattern).unwrap().matches(name, &tokyo);
        let found = at("crm_{timestamp:%Y%m%d_%H%M%S}.sql.gz", "crm_20261117_020000.sql.gz").unwrap();
        assert_eq!(found.0, "2026-11-16T17:00:00Z".parse().unwrap());
        let found = at("{name}_{timestamp:%Y%m%d}", "dbt_project_20260101").unwrap();
        assert_eq!((found.0, found.1.as_str()), ("2025-12-31T15:00:00Z".parse().unwrap(), "dbt_project_{timestamp:%Y%m%d}"));
        assert!(at("x-{timestamp:%s}.tar", "x-1700000000.tar").is_some());
        for stranger in ["crm_2026111_020000.sql.gz", "crm_20261341_020000.sql.gz", "crm_20261117_020000.sql.gz.tmp", "README"] {
            assert!(at("crm_{timestamp:%Y%m%d_%H%M%S}.sql.gz", stranger).is_none(), "{stranger}");
        }
        for bad in [
            "crm.sql",
            "{timestamp:%Q}",
            "{timestamp:%Y",
            "{name}",
            "{name}{name}{timestamp:%Y%m%d}",
            "{timestamp:%Y}{timestamp:%m}",
        ] {
            assert!(NamePattern::parse(bad).is_err(), "{bad}");
        }
    }
}
