//! What somebody should hear of although it fails nothing: a source that fell silent, a night unlike the others, a disk that fills.
//!
//! *Invariant*: alarms decide nothing. Whether a backup is good is decided by `shrink-max` and verification alone.

use std::time::Duration;

use dozo_model::{Manifest, RetentionPolicy, Severity, Timestamp, human_bytes, human_count, human_duration};
use dozo_postgres::canary_name;
use serde::Serialize;

/// Rules of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlarmRules {
    /// Fewer rows more than in the backup before are too few.
    pub rows_added_min: Option<i64>,
    /// More rows more are too many.
    pub rows_added_max: Option<i64>,
    /// A backup that takes longer takes too long.
    pub duration_max: Option<Duration>,
    /// Percent by which a backup may be smaller than the one before.
    pub size_drop_max: Option<u8>,
}

/// Something that somebody should hear of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub text: String,
}

impl Alarm {
    pub(crate) fn new(severity: Severity, text: impl Into<String>) -> Self {
        Self { severity, text: text.into() }
    }
}

impl AlarmRules {
    /// Compares a backup with the good one before it.
    #[must_use]
    pub fn of(&self, manifest: &Manifest, before: Option<&Manifest>) -> Vec<Alarm> {
        let mut all = Vec::new();
        let mut warn = |text: String| all.push(Alarm::new(Severity::Warning, text));
        if let Some(before) = before {
            // The canary comes and goes by itself.
            let canary = canary_name();
            let rows_of = |m: &Manifest| {
                let own: u64 = m.datasets().iter().filter(|d| d.name == canary).map(|d| d.fingerprint.rows).sum();
                i128::from(m.rows().saturating_sub(own))
            };
            let added = rows_of(manifest) - rows_of(before);
            let said = format!("{} rows, {added:+} since the backup before", human_count(manifest.rows()));
            if let Some(min) = self.rows_added_min.filter(|min| added < i128::from(*min)) {
                warn(format!("{said}: less than rows-added.min = {min}"));
            }
            if let Some(max) = self.rows_added_max.filter(|max| added > i128::from(*max)) {
                warn(format!("{said}: more than rows-added.max = {max}"));
            }
            let (bytes, was) = (manifest.stored_bytes(), before.stored_bytes());
            let least = |drop: u8| u128::from(was) * u128::from(100 - drop.min(100)) / 100;
            if let Some(drop) = self.size_drop_max.filter(|drop| u128::from(bytes) < least(*drop)) {
                warn(format!(
                    "{} instead of {}: smaller by more than size-drop-max = \"{drop}%\"",
                    human_bytes(bytes),
                    human_bytes(was)
                ));
            }
        }
        let took = manifest.seconds.get("total").copied().unwrap_or_default();
        if let Some(max) = self.duration_max.filter(|max| took > max.as_secs_f64()) {
            let took = human_duration(Duration::from_secs_f64(took));
            warn(format!("it took {took}: longer than duration-max = {}", human_duration(max)));
        }
        all
    }
}

/// Tells whether a source has fallen silent.
pub(crate) fn silent(newest_good: Option<Timestamp>, any: bool, policy: &RetentionPolicy, now: Timestamp) -> Option<Alarm> {
    let critical = |text: String| Some(Alarm::new(Severity::Critical, text));
    match newest_good {
        None if any => critical("it has no good backup".into()),
        None => critical("it has never been backed up".into()),
        Some(at) if policy.late(newest_good, now) => {
            let age = human_duration(now.duration_since(at).unsigned_abs());
            critical(format!("its newest good backup is {age} old, more than {}", human_duration(policy.max_age)))
        }
        Some(_) => None,
    }
}

/// Tells whether a disk is fuller than it should be. `levels` in percent: tell, warn, alarm.
pub(crate) fn disk(free: u64, total: u64, levels: [u8; 3]) -> Option<Alarm> {
    let used = u128::from(total.saturating_sub(free)) * 100 / u128::from(total.max(1));
    let reached = |level: u8| level > 0 && used >= u128::from(level);
    let severities = [Severity::Info, Severity::Warning, Severity::Critical];
    let (severity, level) = severities.into_iter().zip(levels).rev().find(|(_, level)| reached(*level))?;
    Some(Alarm::new(
        severity,
        format!("the repository's disk is {used} % full ({} free), at or above {level} %", human_bytes(free)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_have_three_levels() {
        let level = |used: u64| disk(1000 - used, 1000, [70, 80, 85]).map(|a| a.severity);
        assert_eq!(level(699), None);
        assert_eq!(level(700), Some(Severity::Info));
        assert_eq!(level(800), Some(Severity::Warning));
        assert_eq!(level(1000), Some(Severity::Critical));
        assert_eq!(disk(0, 0, [70, 80, 85]), None);
    }

    #[test]
    fn a_silent_source_is_critical() {
        let (policy, now) = (RetentionPolicy::default(), "2026-11-21T12:00:00Z".parse().unwrap());
        let at = |text: &str| Some(text.parse().unwrap());
        assert!(silent(at("2026-11-20T10:00:00Z"), true, &policy, now).is_none());
        assert!(silent(at("2026-11-20T09:59:59Z"), true, &policy, now).is_some_and(|a| a.text.contains("1 d 2 h old")));
        assert!(silent(None, false, &policy, now).is_some_and(|a| a.text.contains("never")));
        assert!(silent(None, true, &policy, now).is_some_and(|a| a.severity == Severity::Critical));
    }
}
