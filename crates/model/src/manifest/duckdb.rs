//! What a backup of DuckDB files holds: each file, its tables, their rows.
//!
//! In the *parquet* form the tables are Parquet objects and the schema is SQL; in the *file* form the whole file is one compressed
//! object. The fingerprint of a table is `t1` in both: the same framing as `b1`, over each column's text (`docs/format.md`).

use serde::{Deserialize, Serialize};

use crate::{Fingerprint, Sha256Digest};

/// What a backup of DuckDB files holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DuckdbContent {
    /// Version of the DuckDB that read them.
    pub engine: String,
    /// How they are stored.
    pub form: DuckdbForm,
    /// Key of the description of a restore without dozo.
    pub restore_md: String,
    /// The files, by path.
    pub files: Vec<DuckdbFile>,
}

impl DuckdbContent {
    /// Returns all tables, each with the path of its file.
    pub fn tables(&self) -> impl Iterator<Item = (&str, &DuckdbTable)> {
        self.files.iter().flat_map(|f| f.tables.iter().map(|t| (f.path.as_str(), t)))
    }
}

/// How a DuckDB file is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DuckdbForm {
    /// Tables as Parquet, the schema as SQL.
    Parquet,
    /// The file itself, compressed.
    File,
}

/// A DuckDB file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DuckdbFile {
    /// Path below the folder that the source's patterns count from, with `/`.
    pub path: String,
    /// Size when it was read, without its WAL.
    pub bytes: u64,
    /// Oldest DuckDB that reads its storage format, as DuckDB says it.
    pub storage_version: String,
    /// Version that wrote its header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_by: Option<String>,
    /// Key of its schema as SQL, as far as it comes before the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_sql: Option<String>,
    /// Key of what comes after them: views, indexes, triggers, comments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_sql: Option<String>,
    /// The file itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<StoredFile>,
    /// Its tables, in the order in which they were made.
    pub tables: Vec<DuckdbTable>,
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// zstd.
    Zstd,
    /// gzip: one or more members.
    Gzip,
}

impl Compression {
    /// Returns the command that writes what a file holds to its standard output.
    #[must_use]
    pub fn unpacker(self) -> &'static str {
        match self {
            Self::Zstd => "zstd -dc",
            Self::Gzip => "gunzip -c",
        }
    }

    /// Returns the suffix of file names, without the dot.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => "zst",
            Self::Gzip => "gz",
        }
    }
}

/// A file in one compressed object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoredFile {
    /// Key of the object, one of `objects`.
    pub object: String,
    /// How it is compressed.
    pub compression: Compression,
    /// Size of what was compressed.
    pub bytes: u64,
    /// Digest of what was compressed.
    pub sha256: Sha256Digest,
}

/// A table of a DuckDB file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DuckdbTable {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Columns in the table's order, generated ones left out.
    pub columns: Vec<DuckdbColumn>,
    /// Rows and their digests, by the algorithm of the manifest.
    pub fingerprint: Fingerprint,
    /// Digest of the columns' names and types: fingerprints are compared only where it is equal.
    pub shape: Sha256Digest,
    /// Where the rows are, in the parquet form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<DuckdbPart>,
}

impl DuckdbTable {
    /// Returns `file:schema.table`.
    #[must_use]
    pub fn full_name(&self, file: &str) -> String {
        format!("{file}:{}.{}", self.schema, self.name)
    }
}

/// A column of a DuckDB table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DuckdbColumn {
    /// Name.
    pub name: String,
    /// Name in Parquet: differs where names collide without case.
    pub parquet_name: String,
    /// Type, as DuckDB writes it.
    pub type_name: String,
}

/// Rows of a DuckDB table in one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DuckdbPart {
    /// Key of the object, one of `objects`.
    pub object: String,
    /// Rows and their digests.
    pub fingerprint: Fingerprint,
}
