//! `status --prometheus`: metrics in Prometheus' text format (exposition format 0.0.4), for the node exporter's textfile collector.

use std::fmt::Write;

use dozo_engine::{DrillStatus, SourceStatus, Status, tool};
use dozo_model::{Severity, Timestamp};

/// Metrics of each source: name, help, value.
type Gauge = (&'static str, &'static str, fn(&SourceStatus) -> Option<f64>);

/// Metrics of each drill, as [`Gauge`].
type DrillGauge = (&'static str, &'static str, fn(&DrillStatus) -> Option<f64>);

#[expect(clippy::cast_precision_loss, reason = "bytes and counts of backups fit")]
const SOURCE: [Gauge; 15] = [
    ("backups", "Committed backups.", |s| Some(s.backups as f64)),
    ("newest_timestamp_seconds", "Start of the newest committed backup.", |s| at(s.newest.as_ref()?.started)),
    ("newest_good_timestamp_seconds", "Start of the newest good backup.", |s| at(s.newest_good.as_ref()?.started)),
    ("verified_timestamp_seconds", "Start of the newest backup whose content was verified.", |s| at(s.newest_verified)),
    ("proven_timestamp_seconds", "Start of the newest backup that was verified and matched with its source.", |s| {
        at(s.newest_proven)
    }),
    ("drilled_timestamp_seconds", "When a backup was last restored as a whole in a drill, and equal.", |s| at(s.drilled)),
    ("rpo_seconds", "Age of the newest good backup: what would be lost now.", |s| {
        s.newest_good.as_ref()?.age_seconds.map(|n| n as f64)
    }),
    ("stored_bytes", "Bytes of all objects that committed backups need.", |s| Some(s.bytes as f64)),
    ("rows", "Rows of the newest committed backup.", |s| Some(s.newest.as_ref()?.rows as f64)),
    ("duration_seconds", "Seconds that the newest committed backup took.", |s| s.seconds),
    ("not_good", "Committed backups that are not good.", |s| Some(s.not_good.values().sum::<usize>() as f64)),
    ("held", "Backups that somebody holds.", |s| Some(s.held as f64)),
    ("marked", "Backups that are marked for deletion.", |s| Some(s.marked as f64)),
    ("next_deletion_timestamp_seconds", "When the next backup goes, if backups go on.", |s| {
        at(Some(s.next_deletion.as_ref()?.at))
    }),
    ("fewest_copies", "Physical copies of the rows of the table that has the fewest.", |s| {
        Some(s.fewest_copies.as_ref()?.1 as f64)
    }),
];

fn at(time: Option<Timestamp>) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
    time.map(|t| t.as_second() as f64)
}

/// Returns the text.
#[expect(clippy::cast_precision_loss, reason = "bytes fit")]
pub(super) fn render(status: &Status) -> String {
    let mut out = String::new();
    let mut family = |name: &str, help: &str, samples: Vec<(String, f64)>| {
        if samples.is_empty() {
            return;
        }
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP dozo_{name} {help}\n# TYPE dozo_{name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(out, "dozo_{name}{labels} {value}");
        }
    };
    let label = |pairs: &[(&str, &str)]| {
        let all: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
        format!("{{{}}}", all.join(","))
    };
    family("build_info", "Version of dozo.", vec![(label(&[("version", &tool().version)]), 1.0)]);
    family("status_timestamp_seconds", "When this was looked at.", vec![(String::new(), status.at.as_second() as f64)]);
    for (name, help, value) in SOURCE {
        let samples = status.sources.iter().filter_map(|s| Some((label(&[("source", s.source.as_str())]), value(s)?)));
        family(&format!("source_{name}"), help, samples.collect());
    }
    let tiers = status.sources.iter().flat_map(|s| {
        s.tiers.iter().map(|(tier, n)| (label(&[("source", s.source.as_str()), ("tier", tier)]), *n as f64)).collect::<Vec<_>>()
    });
    family("source_tier_backups", "Backups that serve a tier.", tiers.collect());
    let states = status.sources.iter().filter_map(|s| {
        let state = s.newest.as_ref()?.state;
        Some((label(&[("source", s.source.as_str()), ("state", state)]), 1.0))
    });
    family("source_newest_state", "State of the newest committed backup.", states.collect());
    let replicas: Vec<_> = status.sources.iter().flat_map(|s| s.replicas.iter().map(move |r| (s, r))).collect();
    let of =
        |(s, r): &(&SourceStatus, &dozo_engine::ReplicaLag)| label(&[("source", s.source.as_str()), ("replica", &r.replica)]);
    let reached = replicas.iter().map(|pair| (of(pair), if pair.1.unreachable.is_none() { 1.0 } else { 0.0 }));
    family("replica_reached", "Whether a replica could be asked.", reached.collect());
    let missing = replicas.iter().filter_map(|pair| Some((of(pair), pair.1.missing? as f64)));
    family("replica_missing_backups", "Backups that a replica lacks.", missing.collect());
    let lag = replicas.iter().filter_map(|pair| Some((of(pair), pair.1.lag_seconds? as f64)));
    family("replica_lag_seconds", "Seconds between the newest backup and the newest that a replica holds.", lag.collect());
    let of_drill = |d: &DrillStatus| label(&[("drill", &d.drill)]);
    family("drill_timestamp_seconds", "When the drill last ended.", {
        status.drills.iter().map(|d| (of_drill(d), d.at.as_second() as f64)).collect()
    });
    let verdicts = status.drills.iter().map(|d| (label(&[("drill", &d.drill), ("verdict", d.verdict.as_str())]), 1.0));
    family("drill_verdict", "Outcome of the last run of the drill.", verdicts.collect());
    let measured: [DrillGauge; 4] = [
        ("rto_seconds", "Recovery time that the drill last measured.", |d| d.rto_seconds),
        ("rto_objective_seconds", "Recovery time objective of the drill.", |d| Some(d.rto_objective_seconds as f64)),
        ("rpo_seconds", "Age of the newest row that the drill last brought back.", |d| d.rpo_seconds),
        ("rpo_objective_seconds", "Recovery point objective of the drill.", |d| Some(d.rpo_objective_seconds as f64)),
    ];
    for (name, help, value) in measured {
        family(&format!("drill_{name}"), help, status.drills.iter().filter_map(|d| Some((of_drill(d), value(d)?))).collect());
    }
    if let Some(disk) = status.disk {
        let kinds = [("free", disk.free), ("total", disk.total)];
        family("repository_disk_bytes", "The repository's disk.", kinds.map(|(k, n)| (label(&[("kind", k)]), n as f64)).to_vec());
    }
    let alarms = [Severity::Info, Severity::Warning, Severity::Critical].map(|severity| {
        let count = status.all_alarms().filter(|(_, a)| a.severity == severity).count();
        (label(&[("severity", severity.as_str())]), count as f64)
    });
    family("alarms", "What somebody should hear of.", alarms.to_vec());
    out
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
