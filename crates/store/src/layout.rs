//! The keys of a repository (format version 1, `docs/format.md`), made in one place and checked in one place.
//!
//! *Invariants*: a key of a user's name is encoded so that no part starts with `_` or `.`, two names that differ
//! stay different also where the file system ignores case, and no key read from a manifest leads anywhere else.

use dozo_model::{BackupId, QualifiedName, SourceName};

/// Makes and checks keys.
#[derive(Debug, Clone, Copy)]
pub struct Layout;

impl Layout {
    /// The marker that makes a folder a repository.
    pub const MARKER: &'static str = "dozo-repository.json";
    /// Folder of all backups.
    pub const BACKUPS: &'static str = "backups";
    /// Folder of all data.
    pub const DATA: &'static str = "data";
    /// Folder of all archives.
    pub const ARCHIVE: &'static str = "archive";
    /// Folder of all leases.
    pub const LEASES: &'static str = "leases";
    /// Folder of the records of drills.
    pub const DRILLS: &'static str = "drills";
    /// What the names of data objects end in.
    pub const SUFFIXES: [&'static str; 9] =
        ["parquet", "csv.gz", "sql.gz", "duckdb.zst", "duckdb.gz", "tar.zst", "tar.gz", "zst", "gz"];
    /// Folder of what is said about sources as such.
    pub const SOURCES: &'static str = "sources";

    /// Folder of a source's backups.
    #[must_use]
    pub fn source(source: &SourceName) -> String {
        format!("{}/{source}", Self::BACKUPS)
    }

    /// Folder of a backup.
    #[must_use]
    pub fn backup(source: &SourceName, id: &BackupId) -> String {
        format!("{}/{source}/{id}", Self::BACKUPS)
    }

    /// A file of a backup: `manifest.json`, `intent.json`, `RESTORE.md`, …
    #[must_use]
    pub fn file(source: &SourceName, id: &BackupId, name: &str) -> String {
        format!("{}/{name}", Self::backup(source, id))
    }

    /// Folder of the checks of a backup.
    #[must_use]
    pub fn checks(source: &SourceName, id: &BackupId) -> String {
        Self::file(source, id, "checks")
    }

    /// Folder of the drills that a backup was restored in.
    #[must_use]
    pub fn drilled(source: &SourceName, id: &BackupId) -> String {
        Self::file(source, id, "drills")
    }

    /// Key of the record of a drill, or of its page; `suffix` is `json` or `html`.
    #[must_use]
    pub fn drill(number: u64, suffix: &str) -> String {
        format!("{}/{number:06}.{suffix}", Self::DRILLS)
    }

    /// Folder of the holds of a backup.
    #[must_use]
    pub fn holds(source: &SourceName, id: &BackupId) -> String {
        Self::file(source, id, "holds")
    }

    /// Folder of what is said about a source as such.
    #[must_use]
    pub fn about(source: &SourceName) -> String {
        format!("{}/{source}", Self::SOURCES)
    }

    /// Folder of a source's lease.
    #[must_use]
    pub fn lease(source: &SourceName) -> String {
        format!("{}/{source}", Self::LEASES)
    }

    /// Key of a data object of `table` (the root of a tree), of one `partition` of it or of several; `suffix` is one of
    /// [`Layout::SUFFIXES`].
    #[must_use]
    pub fn data(
        source: &SourceName,
        table: &QualifiedName,
        partition: Option<&str>,
        chunk: usize,
        id: &BackupId,
        random: &str,
        suffix: &str,
    ) -> String {
        let mut key = format!("{}/{source}/{}/{}", Self::DATA, encode_name(&table.schema), encode_name(&table.name));
        if let Some(partition) = partition {
            key.push('/');
            key.push_str(&encode_name(partition));
        }
        format!("{key}/{chunk:05}-{id}-{random}.{suffix}")
    }

    /// Key of rows of a table of the DuckDB file `file`.
    #[must_use]
    pub fn table_data(
        source: &SourceName,
        file: &str,
        table: &QualifiedName,
        chunk: usize,
        id: &BackupId,
        random: &str,
    ) -> String {
        let (schema, name) = (encode_name(&table.schema), encode_name(&table.name));
        format!("{}/{source}/{}/{schema}/{name}/{chunk:05}-{id}-{random}.parquet", Self::DATA, encode_name(file))
    }

    /// Key of the tar object number `chunk` that a backup of a file set writes; `suffix` is one of [`Layout::SUFFIXES`].
    #[must_use]
    pub fn pack(source: &SourceName, chunk: usize, id: &BackupId, random: &str, suffix: &str) -> String {
        format!("{}/{source}/files/{chunk:05}-{id}-{random}.{suffix}", Self::DATA)
    }

    /// Key of a file that is stored as a whole; `suffix` is one of [`Layout::SUFFIXES`], without the point.
    #[must_use]
    pub fn file_data(source: &SourceName, file: &str, id: &BackupId, random: &str, suffix: &str) -> String {
        format!("{}/{source}/{}/00000-{id}-{random}.{suffix}", Self::DATA, encode_name(file))
    }

    /// Folder of the archive of a partition tree.
    #[must_use]
    pub fn archive(source: &SourceName, table: &QualifiedName) -> String {
        format!("{}/{source}/{}/{}", Self::ARCHIVE, encode_name(&table.schema), encode_name(&table.name))
    }

    /// Key of an object of a unit before it is published: no reader looks into a folder that begins with `_`.
    #[must_use]
    pub fn staged(source: &SourceName, table: &QualifiedName, chunk: usize, unit: &BackupId, random: &str) -> String {
        format!("{}/_staging/{unit}/{chunk:05}-{unit}-{random}.parquet", Self::archive(source, table))
    }

    /// Folder of what the ledger says about a unit.
    #[must_use]
    pub fn ledger(source: &SourceName, table: &QualifiedName, unit: &BackupId) -> String {
        format!("{}/_ledger/{unit}", Self::archive(source, table))
    }

    /// Key under which a staged object is published: below `root` (`v1`), in the folder `label`.
    #[must_use]
    pub fn published(staged: &str, root: &str, label: &str) -> Option<String> {
        let (archive, rest) = staged.split_once("/_staging/")?;
        let (_, name) = rest.split_once('/')?;
        Some(format!("{archive}/{root}/{label}/{name}"))
    }

    /// Tells whether the manifest of a unit may name `key`.
    #[must_use]
    pub fn may_archive(source: &SourceName, table: &QualifiedName, unit: &BackupId, key: &str) -> bool {
        let staging = format!("{}/_staging/{unit}/", Self::archive(source, table));
        let plain = |name: &str| {
            !name.starts_with('.') && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        };
        match key.strip_prefix(&staging) {
            Some(name) => plain(name) && Self::owner(key).as_ref() == Some(unit),
            None => {
                let beside = key.strip_prefix(&Self::ledger(source, table, unit)).and_then(|k| k.strip_prefix('/'));
                beside.is_some_and(|name| ["schema.dump", "schema.sql"].contains(&name))
            }
        }
    }

    /// Takes the suffix from the name of a data object.
    fn stem(name: &str) -> Option<(&str, &'static str)> {
        Self::SUFFIXES.iter().find_map(|suffix| Some((name.strip_suffix(suffix)?.strip_suffix('.')?, *suffix)))
    }

    /// Tells whether dozo puts something under `key`.
    #[must_use]
    pub fn is_own(key: &str) -> bool {
        let parts: Vec<&str> = key.split('/').collect();
        let numbered = |name: &str, prefix: &str| {
            let number = name.strip_prefix(prefix).and_then(|n| n.strip_suffix(".json"));
            number.is_some_and(|n| !n.is_empty() && n.bytes().all(|c| c.is_ascii_digit()))
        };
        let source = parts.get(1).is_some_and(|s| SourceName::parse(s).is_ok());
        match parts.as_slice() {
            [name] => *name == Self::MARKER,
            [Self::DRILLS, n] => numbered(n, "") || n.strip_suffix(".html").is_some_and(|n| numbered(&format!("{n}.json"), "")),
            [Self::LEASES | Self::SOURCES, _, n] => source && numbered(n, ""),
            [Self::ARCHIVE, _, _, _, "_ledger", unit, _] => source && BackupId::parse(unit).is_ok(),
            [Self::DATA, ..]
            | [Self::ARCHIVE, _, _, _, "_staging" | "v1", _, _]
            | [Self::ARCHIVE, _, _, _, "copy", "v1", _, _] => source && Self::owner(key).is_some(),
            [Self::BACKUPS, _, id, rest @ ..] if source && BackupId::parse(id).is_ok() => match rest {
                ["checks" | "holds" | "drills", n] => numbered(n, ""),
                [name] => {
                    ["intent.json", "manifest.json", "accepted.json"].contains(name)
                        || Self::is_beside(name)
                        || numbered(name, "fate-")
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Tells whether a file of this name lies beside a manifest that names it.
    fn is_beside(name: &str) -> bool {
        let number = name.strip_prefix("schema-").or_else(|| name.strip_prefix("after-")).and_then(|n| n.strip_suffix(".sql"));
        const NAMES: [&str; 10] = [
            "RESTORE.md",
            "schema.dump",
            "schema.sql",
            "globals.sql",
            "before.sql.gz",
            "after.sql.gz",
            "last.sql.gz",
            "owners.sql.gz",
            "files.jsonl.zst",
            "files.jsonl.gz",
        ];
        NAMES.contains(&name) || number.is_some_and(|n| n.len() == 5 && n.bytes().all(|b| b.is_ascii_digit()))
    }

    /// Returns the backup that wrote a data object, by its key.
    #[must_use]
    pub fn owner(key: &str) -> Option<BackupId> {
        let (name, _) = Self::stem(key.rsplit('/').next()?)?;
        let (_, rest) = name.split_once('-')?;
        BackupId::parse(rest.get(..23)?).ok()
    }

    /// Returns the key of a copy of the data object `key` that backup `id` writes; `mark` tells its bytes.
    #[must_use]
    pub fn copied(key: &str, id: &BackupId, mark: &str) -> Option<String> {
        let (folder, name) = key.rsplit_once('/')?;
        let (chunk, _) = name.split_once('-')?;
        let (_, suffix) = Self::stem(name)?;
        Self::owner(key).map(|_| format!("{folder}/{chunk}-{id}-{mark}.{suffix}"))
    }

    /// Tells whether `key` is one that a manifest of `source` may name.
    #[must_use]
    pub fn may_name(source: &SourceName, id: &BackupId, key: &str) -> bool {
        let clean = key.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with(['.', '_'])
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        });
        let data = key
            .strip_prefix(&format!("{}/{source}/", Self::DATA))
            .is_some_and(|rest| (2..=4).contains(&rest.split('/').count()) && Self::stem(rest).is_some());
        let beside = key.strip_prefix(&format!("{}/", Self::backup(source, id))).is_some_and(Self::is_beside);
        clean && (data || beside)
    }
}

/// Encodes a user's name as one part of a key: `a-z`, `0-9`, `_` and `.` stand for themselves (the last two not in
/// front), every other byte is `-` and two hex digits.
#[must_use]
pub fn encode_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (i, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'_' | b'.' if i > 0 => out.push(char::from(byte)),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.push('-');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_never_hide_and_never_collide() {
        let names =
            ["orders", "Orders", "ORDERS", "_dozo", ".git", "a.b_c", "a_b.c", "a/b", "a b", "注文", "-", "a-2d", "..", "a\n"];
        let encoded: HashSet<String> = names.iter().map(|n| encode_name(n).to_lowercase()).collect();
        assert_eq!(encoded.len(), names.len());
        assert!(encoded.iter().all(|e| !e.starts_with(['_', '.']) && !e.contains('/')));
        assert_eq!(encode_name("Orders"), "-4frders");
    }

    #[test]
    fn only_own_keys_may_be_named() {
        let source = SourceName::parse("shop").unwrap();
        let id = BackupId::parse("20261121T020000Z-k3x9qa").unwrap();
        let table = QualifiedName::new("public", "Orders_é");
        for key in [
            Layout::data(&source, &table, None, 0, &id, "abcdefgh", "parquet"),
            Layout::data(&source, &table, None, 1, &id, "abcdefgh", "sql.gz"),
            Layout::file(&source, &id, "before.sql.gz"),
            Layout::data(&source, &table, Some("注文"), 12, &id, "abcdefgh", "csv.gz"),
            Layout::file(&source, &id, "RESTORE.md"),
            Layout::file(&source, &id, "schema-00000.sql"),
            Layout::file(&source, &id, "after-00012.sql"),
            Layout::table_data(&source, "data/Lake.duckdb", &table, 3, &id, "abcdefgh"),
            Layout::file_data(&source, "データ/lake.duckdb", &id, "abcdefgh", "duckdb.gz"),
            Layout::file_data(&source, "logs", &id, "abcdefgh", "zst"),
            Layout::pack(&source, 17, &id, "abcdefgh", "tar.zst"),
            Layout::file(&source, &id, "files.jsonl.gz"),
        ] {
            assert!(Layout::may_name(&source, &id, &key), "{key}");
        }
        let key = Layout::data(&source, &table, Some("p"), 7, &id, "abcdefgh", "parquet");
        assert_eq!(Layout::owner(&key), Some(id.clone()));
        let other = BackupId::parse("20261122T020000Z-abcdef").unwrap();
        let copy = Layout::copied(&key, &other, "0011").unwrap();
        assert!(
            Layout::may_name(&source, &other, &copy) && copy.ends_with("/p/00007-20261122T020000Z-abcdef-0011.parquet"),
            "{copy}"
        );
        let whole = Layout::file_data(&source, "lake.duckdb", &id, "abcdefgh", "duckdb.zst");
        let copied = Layout::copied(&whole, &other, "0011").unwrap();
        assert!(Layout::owner(&whole) == Some(id.clone()) && copied.ends_with("-abcdef-0011.duckdb.zst"), "{copied}");
        assert_eq!(Layout::owner("data/shop/public/x/notes.parquet"), None);
        let folder = "backups/shop/20261121T020000Z-k3x9qa";
        let own = [copy.as_str(), "dozo-repository.json", "leases/shop/000000000001.json"];
        let beside = ["intent.json", "checks/000000.json", "fate-0.json", "accepted.json"].map(|n| format!("{folder}/{n}"));
        assert!(own.into_iter().chain(beside.iter().map(String::as_str)).all(Layout::is_own));
        for foreign in
            ["notes.txt", "data/shop/notes.txt", "leases/shop/x.json", &format!("{folder}/notes"), "backups/shop/x/intent.json"]
        {
            assert!(!Layout::is_own(foreign), "{foreign}");
        }
        let staged = Layout::staged(&source, &table, 0, &id, "abcdefgh");
        let published = Layout::published(&staged, "v1", "ordered_at_month=2023-01").unwrap();
        assert!(published.contains("/v1/ordered_at_month=2023-01/00000-20261121T020000Z-k3x9qa-abcdefgh.parquet"), "{published}");
        let schema = format!("{}/schema.dump", Layout::ledger(&source, &table, &id));
        assert!([&staged, &schema].into_iter().all(|key| Layout::may_archive(&source, &table, &id, key)));
        assert!([&staged, &schema, &published].into_iter().all(|key| Layout::is_own(key)));
        for key in [&published, &staged.replace("_staging", "v1"), &schema.replace("schema.dump", "../x"), &copy] {
            assert!(!Layout::may_archive(&source, &table, &id, key), "{key}");
        }
        for key in [
            "data/shop/../../etc/passwd.parquet",
            "data/crm/public/orders/0.parquet",
            "data/shop/public/_x/0.parquet",
            "/data/shop/public/x/0.parquet",
            "data/shop/public/x/0.csv",
            "backups/shop/20261121T020000Z-k3x9qa/manifest.json",
            "backups/shop/20261122T020000Z-k3x9qa/schema.dump",
            "backups/shop/20261121T020000Z-k3x9qa/schema-1.sql",
            "backups/shop/20261121T020000Z-k3x9qa/after-0000x.sql",
            "",
        ] {
            assert!(!Layout::may_name(&source, &id, key), "{key}");
        }
    }
}
