//! The manifest: what a backup is. A backup exists only when its manifest does.
//!
//! The file is JSON, and its last line is `sha256:` with the SHA-256 of every byte before that line; nothing in it is
//! believed before that digest was checked. *Versioning*: `format` names the layout; readers ignore unknown fields
//! and refuse unknown versions (`min-reader`); whoever deletes obeys `min-deleter`. Every key that the backup needs
//! stands in the flat list `objects`, in every version, for ever.

mod command;
mod duckdb;
mod files;
mod head;

use std::collections::BTreeMap;

pub use command::CommandContent;
pub use duckdb::{Compression, DuckdbColumn, DuckdbContent, DuckdbFile, DuckdbForm, DuckdbPart, DuckdbTable, StoredFile};
pub use files::{FileData, FileEntry, FileKind, FileMeta, FilePath, FileTime, FilesContent, Pack};
pub use head::{ManifestForm, ManifestHead, ObjectSize, ServerHead};
use serde::{Deserialize, Serialize};

use crate::{
    Algorithm, BackupId, ChangeToken, DefinitionsByTable, Fingerprint, Loss, Operator, PgType, Profile, QualifiedName, ReplicaOf,
    Sha256Digest, SourceMatch, SourceName, Timestamp, Tool,
};

/// The format version that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// A manifest that cannot be believed or read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The trailing digest is missing or does not match.
    #[error("its bytes do not match its own sha256 line")]
    Digest,
    /// The bytes are intact but are not a manifest.
    #[error("it is not a manifest: {0}")]
    Syntax(#[source] serde_json::Error),
    /// Written by a newer dozo.
    #[error("it has format version {found}, this dozo reads up to {FORMAT_VERSION}")]
    TooNew {
        /// The version that a reader must know.
        found: u32,
    },
    /// It is a mark left by the garbage collector: the backup was aborted before it was committed.
    #[error("the backup was aborted before it was committed")]
    Aborted,
}

/// Everything about one backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// Layout version of this file.
    pub format: u32,
    /// Oldest format version a reader must understand.
    pub min_reader: u32,
    /// Oldest format version a program must understand to delete what this names.
    pub min_deleter: u32,
    /// Id of the repository it was written to.
    pub repository: String,
    /// Id.
    pub id: BackupId,
    /// Source.
    pub source: SourceName,
    /// Backup of another repository that it is a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_of: Option<ReplicaOf>,
    /// Backup whose objects it shares; none for a backup that copied everything.
    pub parent: Option<BackupId>,
    /// Program that wrote it.
    pub tool: Tool,
    /// Who ran it.
    pub operator: Operator,
    /// Whether everything that was asked for is in it. `false` = partial, never good.
    pub complete: bool,
    /// Start, by the server's clock.
    pub started: Timestamp,
    /// End of the data, by the server's clock.
    pub finished: Timestamp,
    /// Settings that shaped it.
    pub settings: Settings,
    /// Algorithm of all fingerprints in it.
    pub fingerprint: String,
    /// What was asked for but is not in it, or was excluded.
    pub left_out: Vec<LeftOut>,
    /// Tables that lost more than is likely: the backup is suspect, and not good until it is accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Loss>,
    /// Seconds per stage of the run.
    pub seconds: BTreeMap<String, f64>,
    /// Until when every object that it names is locked at least; none = they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
    /// How: `COMPLIANCE` or `GOVERNANCE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_mode: Option<String>,
    /// Kind of source, and what is in it.
    #[serde(flatten)]
    pub content: Content,
    /// Every object that the backup needs, in key order: data, schema files, `RESTORE.md`.
    pub objects: Vec<ObjectRef>,
}

/// What a backup holds, by the kind of its source; its fields stand beside those of the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Content {
    /// A Postgres database.
    Postgres(Box<PostgresContent>),
    /// DuckDB files.
    Duckdb(DuckdbContent),
    /// A file set.
    Files(FilesContent),
    /// What a command printed.
    Command(CommandContent),
}

/// What a backup of a Postgres database holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PostgresContent {
    /// The server it came from.
    pub server: ServerIdentity,
    /// The snapshot it shows.
    pub snapshot: SnapshotInfo,
    /// Tables and partitions.
    pub datasets: Vec<Dataset>,
    /// Partitioned tables: they have no rows of their own.
    pub partitioned: Vec<PartitionedTable>,
    /// Sequences and their values.
    pub sequences: Vec<SequenceValue>,
    /// Materialized views in dependency order.
    pub materialized_views: Vec<MaterializedView>,
    /// What belongs to the database itself.
    #[serde(default, skip_serializing_if = "DatabaseFacts::is_empty")]
    pub database: DatabaseFacts,
    /// Owners, grants and comments of large objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub large_objects: Vec<LargeObjects>,
    /// Roles that own or are granted something in it.
    pub roles: Vec<String>,
    /// Indexes, keys, checks, triggers, policies and rules of each table, with the digests of their definitions, as the source's
    /// catalogs have them: what a restore is compared with. None in older manifests and of archived partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definitions: Option<DefinitionsByTable>,
    /// The files beside the manifest.
    pub files: Files,
    /// Major version of the pg_dump that wrote `schema.dump`: its pg_restore must not be older.
    #[serde(default)]
    pub dump_version: u32,
}

impl Manifest {
    /// Serializes the manifest with its digest line.
    ///
    /// # Errors
    /// Only when a float is not finite; dozo writes none.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        with_digest(self)
    }

    /// Serializes a manifest that is a tree of JSON, with its digest line: what a copy of one has and this version does not know stays.
    ///
    /// # Errors
    /// None that is known.
    pub fn seal(tree: &serde_json::Value) -> Result<Vec<u8>, serde_json::Error> {
        with_digest(tree)
    }

    /// Checks the digest line, and reads the rest as a tree of JSON, with what this version does not know.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn tree(bytes: &[u8]) -> Result<serde_json::Value, ManifestError> {
        serde_json::from_slice(checked_body(bytes)?).map_err(ManifestError::Syntax)
    }

    /// Returns what it holds of a Postgres database; none = its source is of another kind.
    #[must_use]
    pub fn postgres(&self) -> Option<&PostgresContent> {
        match &self.content {
            Content::Postgres(content) => Some(content),
            Content::Duckdb(_) | Content::Files(_) | Content::Command(_) => None,
        }
    }

    /// Returns the tables and partitions of a Postgres database.
    #[must_use]
    pub fn datasets(&self) -> &[Dataset] {
        self.postgres().map_or(&[], |content| &content.datasets)
    }

    /// Returns the kind of its source.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.content {
            Content::Postgres(_) => "postgres",
            Content::Duckdb(_) => "duckdb",
            Content::Files(_) => "files",
            Content::Command(_) => "command",
        }
    }

    /// Returns the keys of the files beside the manifest.
    #[must_use]
    pub fn beside(&self) -> Vec<&str> {
        match &self.content {
            Content::Postgres(content) => {
                let Files { restore_md, schema_dump, schema_sql, globals_sql, script } = &content.files;
                let script = script.iter().flat_map(|s| [&s.before, &s.after, &s.last, &s.owners]);
                [restore_md, schema_dump, schema_sql].into_iter().chain(globals_sql).chain(script).map(String::as_str).collect()
            }
            Content::Duckdb(content) => {
                let schemas = content.files.iter().flat_map(|f| [&f.schema_sql, &f.after_sql]).filter_map(Option::as_deref);
                std::iter::once(content.restore_md.as_str()).chain(schemas).collect()
            }
            Content::Files(content) => vec![&content.restore_md, &content.list],
            Content::Command(content) => vec![&content.restore_md],
        }
    }

    /// Returns how many tables it holds.
    #[must_use]
    pub fn tables(&self) -> usize {
        match &self.content {
            Content::Postgres(content) => content.datasets.len(),
            Content::Duckdb(content) => content.tables().count(),
            Content::Files(_) | Content::Command(_) => 0,
        }
    }

    /// Returns rows over all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        match &self.content {
            Content::Postgres(content) => content.datasets.iter().map(|d| d.fingerprint.rows).sum(),
            Content::Duckdb(content) => content.tables().map(|(_, t)| t.fingerprint.rows).sum(),
            Content::Files(_) | Content::Command(_) => 0,
        }
    }

    /// Returns stored bytes over all objects.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.objects.iter().map(|o| o.bytes).sum()
    }
}

/// Serializes what stands at a manifest's key: JSON, then the digest of every byte before it.
pub(crate) fn with_digest(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    let digest = Sha256Digest::of(&bytes);
    bytes.extend_from_slice(format!("sha256:{digest}\n").as_bytes());
    Ok(bytes)
}

/// Returns the bytes that the last line vouches for.
pub(crate) fn checked_body(bytes: &[u8]) -> Result<&[u8], ManifestError> {
    let line_len = "sha256:".len() + 64 + 1;
    let split = bytes.len().checked_sub(line_len).ok_or(ManifestError::Digest)?;
    let (body, line) = bytes.split_at(split);
    let expected = format!("sha256:{}\n", Sha256Digest::of(body));
    if line == expected.as_bytes() { Ok(body) } else { Err(ManifestError::Digest) }
}

/// The server that a backup came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServerIdentity {
    /// `pg_control_system().system_identifier`; none where the server hides it.
    pub system_identifier: Option<String>,
    /// Timeline; none where a standby does not tell.
    pub timeline: Option<u32>,
    /// Database.
    pub database: String,
    /// OID of the database; 0 in older manifests.
    #[serde(default)]
    pub database_oid: u32,
    /// `server_version_num`.
    pub version_num: u32,
    /// `server_version`.
    pub version: String,
    /// Whether it was a standby.
    pub standby: bool,
    /// `pg_postmaster_start_time()`.
    pub postmaster_start: Timestamp,
    /// Encoding of the database.
    pub encoding: String,
    /// `datcollate`.
    pub collate: String,
    /// `datctype`.
    pub ctype: String,
    /// `libc`, `icu` or `builtin`.
    #[serde(default)]
    pub locale_provider: Option<String>,
    /// Locale of the provider, where it is not libc.
    #[serde(default)]
    pub locale: Option<String>,
    /// `lc_monetary`.
    pub lc_monetary: String,
}

/// The exported snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotInfo {
    /// `pg_current_snapshot()`.
    pub snapshot: String,
    /// WAL position before the snapshot was taken; approximate.
    pub lsn_from: Option<String>,
    /// WAL position after it was taken; approximate.
    pub lsn_to: Option<String>,
}

/// Settings that shaped a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// `parquet`.
    pub format: String,
    /// Include patterns.
    pub include: Vec<String>,
    /// Exclude patterns.
    pub exclude: Vec<String>,
    /// Connections on the snapshot.
    pub workers: usize,
    /// zstd level.
    pub zstd_level: i32,
    /// Time zone of the policy.
    pub time_zone: String,
}

/// What has rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetKind {
    /// A table of its own.
    Table,
    /// A leaf of a partition tree.
    Partition,
    /// Rows that users put into a table of an extension.
    Configuration,
    /// The bytes of large objects.
    LargeObjects,
}

impl DatasetKind {
    /// Tells whether it is a table of the user's, and not something that belongs to the database as a whole.
    #[must_use]
    pub fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Partition)
    }
}

/// Form in which the rows of a table are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum TableFormat {
    /// Apache Parquet.
    #[default]
    #[serde(rename = "parquet")]
    Parquet,
    /// What COPY writes as CSV, in gzip.
    #[serde(rename = "csv.gz")]
    CsvGz,
    /// COPY statements with their rows, in gzip: `psql` runs them.
    #[serde(rename = "sql.gz")]
    SqlGz,
}

impl TableFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Parquet, Self::CsvGz, Self::SqlGz];

    /// Returns its name in the configuration, which is also what the names of its objects end in.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::CsvGz => "csv.gz",
            Self::SqlGz => "sql.gz",
        }
    }

    /// Tells whether it is the one that goes without saying.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// One table or leaf partition in a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Dataset {
    /// Name.
    #[serde(flatten)]
    pub name: QualifiedName,
    /// Kind.
    pub kind: DatasetKind,
    /// Root of its partition tree.
    pub root: Option<QualifiedName>,
    /// Partitioned table right above it.
    #[serde(default)]
    pub parent: Option<QualifiedName>,
    /// Partition bound, as `pg_get_expr` prints it.
    pub bound: Option<String>,
    /// Which rows of an extension's table belong to users, as the extension says it; empty = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Form of its objects.
    #[serde(default, skip_serializing_if = "TableFormat::is_default")]
    pub format: TableFormat,
    /// Columns in the root table's order, generated ones last.
    pub columns: Vec<Column>,
    /// Rows and their digests.
    pub fingerprint: Fingerprint,
    /// Digest of names, types, labels and encodings: fingerprints are compared only where it is equal.
    pub shape: Sha256Digest,
    /// Least and greatest partition key.
    pub key_range: Option<KeyRange>,
    /// Where the rows are.
    pub parts: Vec<Part>,
    /// COPY bytes read.
    pub bytes_read: u64,
    /// Values per column that went to the exact column.
    pub escaped: BTreeMap<String, u64>,
    /// Columns of the primary key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// What stood in the table; none where no later backup may lean on this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_token: Option<ChangeToken>,
    /// Backup that copied the rows; none = this one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_by: Option<BackupId>,
    /// What the server's own fingerprint confirmed; none = it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_match: Option<SourceMatch>,
}

/// A partitioned table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PartitionedTable {
    /// Name.
    #[serde(flatten)]
    pub name: QualifiedName,
    /// Partitioned table right above it; none for the root of a tree.
    #[serde(default)]
    pub parent: Option<QualifiedName>,
}

/// Least and greatest value of a column, as ISO text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// Column.
    pub column: String,
    /// Least.
    pub min: String,
    /// Greatest.
    pub max: String,
}

/// A column of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Column {
    /// Name in Postgres.
    pub name: String,
    /// Name in Parquet: differs where names collide without case.
    pub parquet_name: String,
    /// Type as `format_type` prints it.
    pub type_name: String,
    /// How dozo carries it.
    pub wire: PgType,
    /// The Parquet type that holds it.
    pub parquet: String,
    /// `attnum` in the root table; the Parquet field id.
    pub attnum: i16,
    /// NOT NULL.
    pub not_null: bool,
    /// Generated: exported for readers, not part of the fingerprint, not loaded.
    pub generated: bool,
    /// No server reads back the text of such a value: exported for readers, not part of the fingerprint, not loaded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub text_only: bool,
    /// For whom it is written.
    #[serde(default, skip_serializing_if = "Profile::is_default")]
    pub profile: Profile,
    /// Labels of an enum in their order (also of the elements of an array).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

impl Algorithm {
    /// Returns the algorithm of the fingerprint of a table with these columns.
    #[must_use]
    pub fn of(columns: &[Column]) -> Self {
        let printed = |c: &Column| matches!(c.wire, PgType::Printed(_));
        if columns.iter().any(printed) { Self::T1 } else { Self::B1 }
    }
}

impl Column {
    /// Returns the column as a form that holds texts has it.
    #[must_use]
    pub fn printed(self) -> Self {
        let wire = match self.wire {
            PgType::Printed(_) => self.wire,
            wire => PgType::Printed(Box::new(wire)),
        };
        Self { parquet: String::new(), wire, ..self }
    }

    /// Returns the columns of a table as a form that holds texts has them: what is loaded is printed.
    #[must_use]
    pub fn printed_all(columns: Vec<Self>) -> Vec<Self> {
        columns.into_iter().map(|c| if c.loaded() { c.printed() } else { c }).collect()
    }

    /// Tells whether a restore loads it; then it is part of the fingerprint.
    #[must_use]
    pub fn loaded(&self) -> bool {
        !self.generated && !self.text_only
    }
}

/// Rows of a dataset in one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Part {
    /// Key of the object, one of `objects`.
    pub object: String,
    /// First row group and their number: an object may hold several small partitions of one tree.
    pub row_groups: (u32, u32),
    /// Rows and their digests.
    pub fingerprint: Fingerprint,
    /// Heap blocks that were read.
    pub blocks: BlockRange,
    /// Its first row in the object; none = it has the object for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_row: Option<u64>,
}

/// A range of heap blocks; without `to` it is open-ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRange {
    /// First block.
    pub from: u64,
    /// Block after the last; none for the end of the table.
    pub to: Option<u64>,
}

/// A sequence and its value, read after the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SequenceValue {
    /// Name.
    #[serde(flatten)]
    pub name: QualifiedName,
    /// `last_value`.
    pub last_value: i64,
    /// `is_called`.
    pub is_called: bool,
    /// Table that owns it.
    pub owned_by: Option<QualifiedName>,
}

/// A materialized view: its definition is in the schema, its rows are computed at restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MaterializedView {
    /// Name.
    #[serde(flatten)]
    pub name: QualifiedName,
    /// Whether it held rows; `WITH NO DATA` stays so.
    pub populated: bool,
    /// Its rows at the snapshot.
    pub rows: Option<u64>,
}

/// What belongs to a database itself, and to no schema.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DatabaseFacts {
    /// Settings of the database, and of roles in it.
    pub settings: Vec<DatabaseSetting>,
    /// Comment.
    pub comment: Option<String>,
    /// As those of large objects.
    pub grants: Option<Vec<String>>,
    /// Subscriptions, without passwords.
    pub subscriptions: Vec<Subscription>,
}

impl DatabaseFacts {
    /// Tells whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `ALTER DATABASE … SET`, or `ALTER ROLE … IN DATABASE … SET`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DatabaseSetting {
    /// Role; none = every role.
    pub role: Option<String>,
    /// Setting.
    pub name: String,
    /// Value, as `pg_db_role_setting` has it.
    pub value: String,
}

/// A subscription. A restore makes it switched off, without a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Subscription {
    /// Name.
    pub name: String,
    /// Owner.
    pub owner: String,
    /// Connection text without passwords; none = this role may not read it.
    pub connection: Option<String>,
    /// Publications.
    pub publications: Vec<String>,
    /// Options that differ from their defaults.
    pub options: BTreeMap<String, String>,
    /// Slot on the publisher.
    pub slot: Option<String>,
    /// Comment.
    pub comment: Option<String>,
}

/// Large objects with the same owner, grants and comment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LargeObjects {
    /// Owner.
    pub owner: String,
    /// Quoted role (or `PUBLIC`), privilege, and a star where it may be granted on; none = nothing was ever granted.
    pub grants: Option<Vec<String>>,
    /// Comment.
    pub comment: Option<String>,
    /// Their OIDs.
    pub oids: Vec<u32>,
}

/// Something that is not in the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LeftOut {
    /// What.
    #[serde(flatten)]
    pub name: QualifiedName,
    /// Why.
    pub reason: String,
    /// `true` when it was asked for: then the backup is partial.
    pub error: bool,
    /// Foreign keys and views that need it.
    pub needed_by: Vec<String>,
}

/// Keys of the files beside the manifest; all of them are in `objects` too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Files {
    /// How to restore without dozo.
    pub restore_md: String,
    /// Schema in pg_dump's custom format.
    pub schema_dump: String,
    /// Schema as SQL.
    pub schema_sql: String,
    /// Roles, where they could be read.
    pub globals_sql: Option<String>,
    /// Scripts around the rows; none in older manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptFiles>,
}

/// Keys of the scripts around the rows: what `psql` reads before and after them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ScriptFiles {
    /// Definitions that the rows need.
    pub before: String,
    /// Sequences, indexes, keys, triggers.
    pub after: String,
    /// Materialized views, statistics, event triggers.
    pub last: String,
    /// Owners and grants; they need the roles.
    pub owners: String,
}

/// One stored object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Key under the repository's URL.
    pub key: String,
    /// Size.
    pub bytes: u64,
    /// Digest of the stored bytes.
    pub sha256: Sha256Digest,
}

#[cfg(test)]
mod tests;
