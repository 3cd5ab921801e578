//! `verify` of stored DuckDB files: the rows of each object are decoded as a restore would, by DuckDB, and digested again.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use dozo_duckdb::{DuckFile, DuckdbError, OpenOptions, StoredTable};
use dozo_model::{Content, DuckdbFile, DuckdbPart, DuckdbTable, Finding, FindingKind, Fingerprint, Manifest};
use dozo_store::Fetched;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::{EngineError, Result};

/// Memory of the DuckDB that decodes an object.
const MEMORY: u64 = 256 << 20;

/// What an object holds.
#[derive(Debug, Clone)]
pub(crate) enum Use {
    /// Rows of a table of a file.
    Rows(String, Box<DuckdbTable>, DuckdbPart),
    /// A whole file.
    File(Box<DuckdbFile>),
}

impl Use {
    /// Returns the names of the tables in it.
    pub(crate) fn tables(&self) -> Vec<String> {
        match self {
            Self::Rows(file, table, _) => vec![table.full_name(file)],
            Self::File(file) => file.tables.iter().map(|t| t.full_name(&file.path)).collect(),
        }
    }
}

/// Returns what the objects of a backup hold.
pub(crate) fn uses(manifest: &Manifest) -> HashMap<&str, Use> {
    let Content::Duckdb(content) = &manifest.content else { return HashMap::new() };
    let mut uses = HashMap::new();
    for file in &content.files {
        uses.extend(file.stored.as_ref().map(|s| (s.object.as_str(), Use::File(Box::new(file.clone())))));
        for table in &file.tables {
            let bare = DuckdbTable { parts: Vec::new(), ..table.clone() };
            for part in &table.parts {
                uses.insert(part.object.as_str(), Use::Rows(file.path.clone(), Box::new(bare.clone()), part.clone()));
            }
        }
    }
    uses
}

/// Decodes an object and compares its rows with the manifest. Returns how many there are, and what is wrong.
pub(crate) fn decode(key: &str, fetched: Fetched, used: &Use, cancel: &CancellationToken) -> Result<(u64, Vec<Finding>)> {
    let finding = |kind, table: String, detail| Finding { kind, object: key.to_owned(), tables: vec![table], detail };
    let compare = |table: String, expected: Fingerprint, found: Fingerprint| {
        let (rows, wanted) = (found.rows, expected.rows);
        match found == expected {
            true => None,
            false if rows != wanted => Some(finding(FindingKind::Rows, table, format!("{rows} rows instead of {wanted}"))),
            false => Some(finding(FindingKind::Content, table, format!("fingerprint {found} instead of {expected}"))),
        }
    };
    let stopped = || cancel.is_cancelled();
    match used {
        Use::Rows(file, table, part) => {
            let mut stored = StoredTable::new(table);
            stored.add(super::file_of(fetched.data)?);
            let name = table.full_name(file);
            match stored.fingerprint(MEMORY, stopped) {
                Ok(found) => Ok((found.rows, compare(name, part.fingerprint, found).into_iter().collect())),
                Err(DuckdbError::Cancelled) => Err(EngineError::Cancelled),
                Err(e) => Ok((0, vec![finding(FindingKind::Decode, name, e.to_string())])),
            }
        }
        Use::File(described) => {
            let Some(stored) = &described.stored else { return Ok((0, Vec::new())) };
            let folder = tempfile::tempdir().map_err(EngineError::folder(&std::env::temp_dir()))?;
            let path = folder.path().join(Path::new(&described.path).file_name().unwrap_or_default());
            let whole = described.path.clone();
            match super::unpack_to(fetched.data, stored, &path, cancel) {
                Ok(None) => {}
                Ok(Some(why)) => return Ok((0, vec![finding(FindingKind::Content, whole, why)])),
                Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
                Err(e @ EngineError::Folder { .. }) => return Err(e),
                Err(e) => return Ok((0, vec![finding(FindingKind::Decode, whole, chain(&e))])),
            }
            let (mut rows, mut findings) = (0, Vec::new());
            match fingerprints(&path, folder.path(), MEMORY, stopped) {
                Err(DuckdbError::Cancelled) => return Err(EngineError::Cancelled),
                Err(e) => findings.push(finding(FindingKind::Decode, whole, e.to_string())),
                Ok(found) => {
                    for table in &described.tables {
                        let name = table.full_name(&described.path);
                        match found.get(&(table.schema.clone(), table.name.clone())) {
                            None => findings.push(finding(FindingKind::Content, name, "the table is not in it".into())),
                            Some(print) => {
                                rows += print.rows;
                                findings.extend(compare(name, table.fingerprint, *print));
                            }
                        }
                    }
                }
            }
            Ok((rows, findings))
        }
    }
}

/// Computes the fingerprints of all tables of a file.
pub(super) fn fingerprints(
    path: &Path,
    temp: &Path,
    memory: u64,
    stopped: impl Fn() -> bool,
) -> std::result::Result<HashMap<(String, String), Fingerprint>, DuckdbError> {
    let options = OpenOptions { lock_timeout: Duration::from_secs(10), memory, temp: temp.to_owned() };
    let file = DuckFile::open(path, &options, &stopped)?;
    let reader = file.reader()?;
    let mut found = HashMap::new();
    for table in file.tables()? {
        let print = reader.fingerprint(&table, table.all(), &stopped)?;
        found.insert((table.schema.clone(), table.name.clone()), print);
    }
    Ok(found)
}
