//! Servers of a source: after an upgrade by dump and restore, or a fresh cluster, backups come from another system identifier. They form
//! a group of their own, of which the newest is kept, until somebody says that the one continues the other.

use std::collections::BTreeMap;

use dozo_model::{RebindRecord, SourceName, Timestamp};
use dozo_store::Layout;
use serde::Serialize;

use super::facts::Facts;
use crate::Result;
use crate::repository::Repository;

/// A server that backups of a source came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Incarnation {
    /// System identifier; none where servers do not tell it.
    pub server: Option<String>,
    /// Committed backups.
    pub backups: usize,
    /// Start of the first.
    pub first: Timestamp,
    /// Start of the newest.
    pub newest: Timestamp,
    /// Other servers that it continues, or that continue it.
    pub joined: Vec<String>,
}

impl Repository {
    /// Says that the backups of these servers continue each other.
    ///
    /// # Errors
    /// What the store says.
    pub async fn rebind(&self, source: &SourceName, record: &RebindRecord) -> Result<()> {
        self.append(&Layout::about(source), record).await
    }

    /// Returns the sets of servers that continue each other.
    ///
    /// # Errors
    /// What the store says.
    pub async fn joined(&self, source: &SourceName) -> Result<Vec<Vec<String>>> {
        let listed = self.store().list(&Layout::about(source)).await?.into_iter().map(|o| o.key);
        let keys: Vec<String> = listed.filter(|key| Layout::is_own(key)).collect();
        let records: Vec<RebindRecord> = self.records(&keys).await?;
        Ok(merged(records.into_iter().map(|r| r.servers)))
    }
}

/// Merges sets that have something in common.
fn merged(sets: impl Iterator<Item = Vec<String>>) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = Vec::new();
    for mut set in sets {
        let (common, apart): (Vec<_>, Vec<_>) = all.into_iter().partition(|other| other.iter().any(|s| set.contains(s)));
        set.extend(common.into_iter().flatten());
        set.sort();
        set.dedup();
        all = apart;
        all.push(set);
    }
    all.sort();
    all
}

impl Facts {
    /// Returns the servers of a source, oldest first.
    #[must_use]
    pub fn incarnations(&self, source: &SourceName) -> Vec<Incarnation> {
        let mut found: BTreeMap<Option<&String>, (usize, Timestamp, Timestamp)> = BTreeMap::new();
        for b in self.backups.iter().filter(|b| &b.source == source) {
            let entry = found.entry(b.incarnation.as_ref()).or_insert((0, b.started, b.started));
            *entry = (entry.0 + 1, entry.1.min(b.started), entry.2.max(b.started));
        }
        let joined = |server: &String| {
            let sets = self.joined.get(source).into_iter().flatten().filter(|set| set.contains(server));
            sets.flatten().filter(|s| *s != server).cloned().collect()
        };
        let mut all: Vec<Incarnation> = found
            .into_iter()
            .map(|(server, (backups, first, newest))| Incarnation {
                server: server.cloned(),
                backups,
                first,
                newest,
                joined: server.map(joined).unwrap_or_default(),
            })
            .collect();
        all.sort_by_key(|i| i.first);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::merged;

    #[test]
    fn sets_with_a_common_server_are_one() {
        let set = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let sets = [set("a b"), set("c d"), set("e"), set("d a")];
        assert_eq!(merged(sets.into_iter()), [set("a b c d"), set("e")]);
    }
}
