//! The zoo: databases with at least one hard case of every type and object, by what a server can do.
//!
//! *Invariant*: what a server is said to be able to do is asked of it; a capability that no server has fails the suite.

use std::fs;
use std::sync::Mutex;

use crate::postgres::{Cluster, Database};
use crate::root;

/// A part of the zoo that needs something of the server, the servers that have it, and a statement that tells.
pub const CAPABILITIES: [(&str, &[u32], &str); 8] = [
    ("xml", &[15, 17], "SELECT '<a/>'::xml IS NOT NULL"),
    ("icu", &[15], "SELECT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')"),
    ("lz4", &[15, 17], "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"),
    ("postgis", &[15], "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'postgis')"),
    ("config", &[15], "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'address_standardizer_data_us')"),
    ("vector", &[18], "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')"),
    ("v17", &[17, 18], "SELECT current_setting('server_version_num')::int >= 170000"),
    ("v18", &[18], "SELECT current_setting('server_version_num')::int >= 180000"),
];

/// Returns what a server can do, and makes sure that it is so.
///
/// # Panics
/// When a server lacks what it is said to have.
#[must_use]
pub fn capabilities(cluster: &Cluster) -> Vec<&'static str> {
    let has = |(name, majors, sql): &(&'static str, &[u32], &str)| {
        let declared = majors.contains(&cluster.major);
        let found = cluster.try_psql("postgres", sql).is_ok_and(|answer| answer == "t");
        assert!(!declared || found, "PostgreSQL {} has no {name}", cluster.major);
        declared.then_some(*name)
    };
    CAPABILITIES.iter().filter_map(has).collect()
}

impl Cluster {
    /// Makes the roles of the zoo, which belong to the whole server.
    pub fn zoo_roles(&self) {
        static ROLES: Mutex<()> = Mutex::new(());
        let _one = ROLES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (role, how) in [("zoo_owner", ""), ("zoo_reader", "LOGIN")] {
            let there = self.psql("postgres", &format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}'"));
            if there == "0" {
                self.psql("postgres", &format!("CREATE ROLE {role} {how}"));
            }
        }
    }

    /// Makes a database with everything of the zoo that this server can hold. With `payloads`, also NaNs whose bits no text
    /// keeps.
    ///
    /// # Panics
    /// When a part cannot be loaded.
    #[must_use]
    pub fn zoo(&self, payloads: bool) -> Database<'_> {
        self.zoo_roles();
        let database = self.database("zoo");
        let mut parts = vec!["types", "more-types", "tables", "objects"];
        parts.extend(capabilities(self));
        parts.extend(payloads.then_some("nan"));
        for part in parts {
            let file = root().join(format!("fixtures/zoo/{part}.sql"));
            let sql = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            database.psql(&sql);
        }
        database
    }
}
