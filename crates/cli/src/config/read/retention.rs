//! `[retention]`, of the repository and of a source, and what raises an alarm.

use std::time::Duration;

use dozo_engine::{AlarmRules, LockMode, LockPolicy};
use dozo_model::{Percent, Period, RetentionPolicy, Span, Tier};
use toml::de::DeValue;

use super::{Reader, Table};

impl<'t> Reader<'t> {
    /// Reads a policy of retention, of which the rest is `usual`.
    pub(super) fn retention(&mut self, parent: &mut Table<'t>, usual: RetentionPolicy) -> RetentionPolicy {
        let path = Self::dotted(parent, "retention");
        let Some((line, value)) = self.take(parent, "retention") else { return usual };
        let DeValue::Table(inner) = value else {
            self.problem(line, &path, "it must be a table, like { daily = \"7d\" }".into());
            return usual;
        };
        let mut table = self.table(path, inner);
        let tiers = Tier::ALL.map(|tier| (tier, self.parsed::<Period>(&mut table, tier.as_str())));
        let named = |tier: Tier| tiers.iter().find(|(t, _)| *t == tier).and_then(|(_, period)| *period);
        // A tier that is not longer than a finer one keeps nothing of its own: written down together, one of them is a slip.
        let written: Vec<(Tier, Period)> =
            tiers.iter().filter_map(|(tier, period)| Some((*tier, (*period)?))).filter(|(_, p)| !p.is_off()).collect();
        for pair in written.windows(2) {
            let ((finer, short), (tier, long)) = (pair[0], pair[1]);
            if long.shorter_than(short) {
                let key = Self::dotted(&table, tier.as_str());
                self.problem(line, &key, format!("it keeps {long}, which is shorter than {finer} ({short})"));
            }
        }
        let keep_last = self.integer(&mut table, "keep-last", 0..=100_000).and_then(|n| usize::try_from(n).ok());
        let min_keep = self.integer(&mut table, "min-keep", 1..=100_000).and_then(|n| usize::try_from(n).ok());
        let mut span = |key: &str, usual: Duration| self.parsed::<Span>(&mut table, key).map_or(usual, |s| s.0);
        let (wal, max_age, grace) = (span("wal", usual.wal), span("max-age", usual.max_age), span("grace", usual.grace));
        let require_verified = self.boolean(&mut table, "require-verified").unwrap_or(usual.require_verified);
        let max_delete = self.parsed::<Percent>(&mut table, "max-delete").map_or(usual.max_delete, |p| p.0);
        let time_zone = self.text(&mut table, "time-zone").unwrap_or_else(|| usual.time_zone.clone());
        if jiff::tz::TimeZone::get(&time_zone).is_err() {
            let key = Self::dotted(&table, "time-zone");
            self.problem(line, &key, format!("`{time_zone}` is not a time zone"));
        }
        let week_start = if table.entries.iter().any(|(k, ..)| k == "week-start") {
            use jiff::civil::Weekday::{Monday, Saturday, Sunday};
            self.one_of(&mut table, "week-start", [("monday", Monday), ("sunday", Sunday), ("saturday", Saturday)])
        } else {
            usual.week_start
        };
        self.no_more(&table);
        RetentionPolicy {
            daily: named(Tier::Daily).unwrap_or(usual.daily),
            weekly: named(Tier::Weekly).unwrap_or(usual.weekly),
            monthly: named(Tier::Monthly).unwrap_or(usual.monthly),
            yearly: named(Tier::Yearly).unwrap_or(usual.yearly),
            keep_last: keep_last.unwrap_or(usual.keep_last),
            min_keep: min_keep.unwrap_or(usual.min_keep),
            wal,
            require_verified,
            max_age,
            max_delete,
            grace,
            time_zone,
            week_start,
        }
    }

    /// Reads `[repository.lock]`.
    pub(super) fn lock(&mut self, parent: &mut Table<'t>) -> Option<LockPolicy> {
        let path = Self::dotted(parent, "lock");
        let (line, value) = self.take(parent, "lock")?;
        let DeValue::Table(inner) = value else {
            self.problem(line, &path, "it must be a table, like mode = \"compliance\"".into());
            return None;
        };
        let mut table = self.table(path, inner);
        if !table.entries.iter().any(|(k, ..)| k == "mode") {
            self.problem(line, &Self::dotted(&table, "mode"), "it is missing (governance or compliance)".into());
        }
        let modes = [("governance", LockMode::Governance), ("compliance", LockMode::Compliance)];
        let mode = self.one_of(&mut table, "mode", modes);
        let tier = self.one_of(&mut table, "tier", Tier::ALL.map(|tier| (tier.as_str(), tier)));
        self.no_more(&table);
        Some(LockPolicy { mode, tier })
    }

    /// Reads the rules of a source.
    pub(super) fn alarms(&mut self, table: &mut Table<'t>) -> AlarmRules {
        let duration_max = self.parsed::<Span>(table, "duration-max").map(|s| s.0);
        let size_drop_max = self.parsed::<Percent>(table, "size-drop-max").map(|p| p.0);
        let path = Self::dotted(table, "rows-added");
        let (mut rows_added_min, mut rows_added_max) = (None, None);
        match self.take(table, "rows-added") {
            None => {}
            Some((_, DeValue::Table(inner))) => {
                let mut inner = self.table(path, inner);
                rows_added_min = self.integer(&mut inner, "min", i64::MIN..=i64::MAX);
                rows_added_max = self.integer(&mut inner, "max", i64::MIN..=i64::MAX);
                self.no_more(&inner);
            }
            Some((line, _)) => self.problem(line, &path, "it must be a table, like { min = 1, max = 1000 }".into()),
        }
        AlarmRules { rows_added_min, rows_added_max, duration_max, size_drop_max }
    }
}
