//! Ten thousand backups of a million objects: that it is planned at all, and what that takes is printed.

use dozo_catalog::{BackupFacts, Facts};
use dozo_model::RetentionPolicy;
use jiff::ToSpan;

use crate::world::{at, backup, planned, source};

#[test]
fn ten_thousand_backups_of_a_million_objects() {
    let zero = at("2021-01-01T02:00:00Z");
    // Ten sources of a thousand nights; each night names 900 objects of the night before and 100 of its own.
    let mut backups = Vec::new();
    for s in 0..10_u32 {
        for night in 0..1000_u32 {
            let own = |n: u32| (s * 1000 + n) * 100..(s * 1000 + n + 1) * 100;
            let objects = (night.saturating_sub(9)..=night).flat_map(own).collect();
            let b = backup(usize::try_from(night).unwrap(), zero + (i64::from(night) * 24).hours());
            backups.push(BackupFacts { source: source(&format!("shop{s}")), objects, ..b });
        }
    }
    let facts = Facts { backups, objects: vec![1_000_000; 1_000_000], ..Facts::default() };
    let began = std::time::Instant::now();
    let plan = planned(&facts, &RetentionPolicy::default(), zero + (1000 * 24).hours());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    println!(
        "{} backups, {} objects planned in {:.2} s; {peak}",
        plan.backups.len(),
        facts.objects.len(),
        began.elapsed().as_secs_f64()
    );
    assert_eq!(plan.backups.len(), 10_000);
    let gone = plan.marks().count();
    assert!(gone > 9_000 && plan.frees > 0, "{gone} gone, {} bytes freed", plan.frees);
}
