//! `[schedule]`: when the night's jobs run; `[prices]`: what storage costs.

use std::collections::BTreeMap;
use std::time::Duration;

use dozo_model::{ByteSize, Span};
use jiff::civil::{Time, time};
use toml::de::DeValue;

use super::{Reader, Table};
use crate::config::Schedule;

const RANDOM_DELAY: Duration = Duration::from_secs(600);
const TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// Four times what a run takes by default.
const MEMORY_MAX: ByteSize = ByteSize(1_000_000_000);

impl<'t> Reader<'t> {
    pub(super) fn schedule(&mut self, root: &mut Table<'t>, time_zone: &str) -> Schedule {
        let usual = Schedule {
            backup: Some(time(2, 0, 0, 0)),
            retention: Some(time(4, 0, 0, 0)),
            status: Some(time(8, 0, 0, 0)),
            drill: Some(time(9, 0, 0, 0)),
            time_zone: time_zone.to_owned(),
            random_delay: RANDOM_DELAY,
            timeout: TIMEOUT,
            nice: 10,
            memory_max: MEMORY_MAX,
        };
        let Some((line, value)) = self.take(root, "schedule") else { return usual };
        let DeValue::Table(inner) = value else {
            self.problem(line, "schedule", "it must be a table, like backup = \"02:00\"".into());
            return usual;
        };
        let mut table = self.table("schedule".into(), inner);
        let found = Schedule {
            backup: self.time_of_day(&mut table, "backup", usual.backup),
            retention: self.time_of_day(&mut table, "retention", usual.retention),
            status: self.time_of_day(&mut table, "status", usual.status),
            drill: self.time_of_day(&mut table, "drill", usual.drill),
            time_zone: usual.time_zone,
            random_delay: self.parsed::<Span>(&mut table, "random-delay").map_or(usual.random_delay, |s| s.0),
            timeout: self.parsed::<Span>(&mut table, "timeout").map_or(usual.timeout, |s| s.0),
            nice: self.integer(&mut table, "nice", -20..=19).unwrap_or(usual.nice),
            memory_max: self.parsed::<ByteSize>(&mut table, "memory-max").unwrap_or(usual.memory_max),
        };
        self.no_more(&table);
        found
    }

    /// Reads `[prices]`.
    pub(super) fn prices(&mut self, root: &mut Table<'t>) -> BTreeMap<String, f64> {
        let Some((line, value)) = self.take(root, "prices") else { return BTreeMap::new() };
        let DeValue::Table(inner) = value else {
            self.problem(line, "prices", "it must be a table, like STANDARD = 0.025".into());
            return BTreeMap::new();
        };
        let table = self.table("prices".into(), inner);
        let mut prices = BTreeMap::new();
        for (class, line, value) in table.entries {
            let number = match value.get_ref() {
                DeValue::Float(f) => f.as_str().parse::<f64>().ok(),
                DeValue::Integer(n) => n.as_str().parse().ok(),
                _ => None,
            };
            match number.filter(|n| n.is_finite() && *n >= 0.0) {
                Some(price) => {
                    prices.insert(class, price);
                }
                None => {
                    self.problem(line, &format!("prices.{class}"), "it must be a number, the price of a GB for a month".into());
                }
            }
        }
        prices
    }

    /// Reads a time of day; `never` is none.
    fn time_of_day(&mut self, table: &mut Table<'t>, key: &str, usual: Option<Time>) -> Option<Time> {
        let Some(line) = table.entries.iter().find(|(k, ..)| k == key).map(|e| e.1) else { return usual };
        match self.text(table, key)?.as_str() {
            "never" => None,
            text => {
                // Hours and minutes: nothing else is meant by people.
                let parsed = Time::strptime("%H:%M", text).ok();
                if parsed.is_none() {
                    self.problem(
                        line,
                        &Self::dotted(table, key),
                        format!("`{text}` is not a time of day (like 02:00), or never"),
                    );
                }
                parsed
            }
        }
    }
}
