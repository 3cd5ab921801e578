//! Why a backup stays: for programs, for people, and until when.

use dozo_model::{BackupId, Period, Tier, Timestamp};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::facts::BackupFacts;

/// Why a backup stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "because")]
pub enum Kept {
    /// It is the newest good one.
    NewestGood,
    /// It is the newest one, good or not.
    Newest,
    /// There is no good one that could replace it.
    NoGood,
    /// It is one of so many newest good ones.
    Least {
        /// How many.
        least: usize,
    },
    /// Its tier keeps it.
    Tier {
        /// Tier.
        tier: Tier,
        /// Week, month or year that it is the first good one of.
        period: Option<String>,
        /// How long.
        kept: Period,
    },
    /// It is not good, and young.
    Young {
        /// How long it stays.
        kept: Period,
    },
    /// The first of its week, month or year is not verified yet.
    Stands {
        /// That one.
        representative: BackupId,
        /// Week, month or year.
        period: String,
    },
    /// Somebody holds it.
    Held {
        /// Why.
        reason: String,
        /// Who.
        by: String,
        /// Until when.
        until: Option<Timestamp>,
    },
    /// Another one that stays needs it.
    NeededBy {
        /// That one.
        id: BackupId,
    },
    /// It is dated in the future.
    Future,
    /// What stands beside it cannot be read.
    Unknown,
    /// Point-in-time recovery starts from it.
    Window,
}

pub(super) fn day(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d").to_string()
}

/// Returns when the last reason ends, if each of them ends by itself.
pub(super) fn goes(kept: &[Kept], b: &BackupFacts, zone: &TimeZone) -> Option<Timestamp> {
    let mut last = None;
    for reason in kept {
        let until = match reason {
            Kept::Tier { kept, .. } | Kept::Young { kept } => kept.until(b.started, zone)?,
            Kept::Held { until, .. } => (*until)?,
            // As backups go on, others take its place.
            Kept::NewestGood | Kept::Newest | Kept::Least { .. } => continue,
            Kept::NoGood | Kept::Stands { .. } | Kept::NeededBy { .. } | Kept::Future | Kept::Unknown | Kept::Window => {
                return None;
            }
        };
        last = last.max(Some(until));
    }
    last
}

impl Kept {
    /// Says it for people.
    pub(super) fn words(&self, b: &BackupFacts, zone: &TimeZone) -> String {
        match self {
            Self::NewestGood => format!("newest good backup of {}", b.source),
            Self::Newest => {
                format!("newest backup of {}, though it is {}", b.source, if b.good { "not verified" } else { b.state })
            }
            Self::NoGood => format!("{} has no good backup that could replace it", b.source),
            Self::Least { least } => format!("one of the newest {least} good ones"),
            Self::Tier { tier, period: None, kept } => format!("{tier}: kept {kept}"),
            Self::Tier { tier, period: Some(period), kept } => format!("{tier}: first good one of {period}, kept {kept}"),
            Self::Young { kept } => format!("{}, and younger than {kept}", if b.good { "not verified" } else { b.state }),
            Self::Stands { representative, period } => format!("{representative} of {period} is not verified yet"),
            Self::Held { reason, by, until } => {
                let until = until.map(|u| format!(" until {}", day(u, zone))).unwrap_or_default();
                format!("held by {by}{until}: {reason}")
            }
            Self::NeededBy { id } => format!("{id} needs it"),
            Self::Future => "dated in the future".into(),
            Self::Unknown => "what stands beside it cannot be read".into(),
            Self::Window => "point-in-time recovery starts from it".into(),
        }
    }
}
