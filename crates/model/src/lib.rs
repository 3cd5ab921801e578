//! The vocabulary that all of dozo shares: ids, fingerprints, manifests, units, errors.
//!
//! Place in the flow: below everything. *Invariants*: no I/O, no clock of its own (see `clock.rs`),
//! no async runtime; every type that reaches the repository is versioned and documented in `docs/format.md`.

mod archive;
mod change;
mod clock;
mod digest;
mod drill;
mod error;
mod events;
mod fingerprint;
mod ids;
mod manifest;
mod names;
mod pgtype;
mod policy;
mod progress;
mod severity;
mod units;

pub use archive::{UnitEvent, UnitPlan, UnitState};
pub use change::{Acceptance, ChangeToken, Loss, LossUnit, RowVersions, SourceMatch};
pub use clock::{Clock, FixedClock, SystemClock, Timestamp, civil};
pub use digest::{Sha256Digest, Sha256Hasher};
pub use drill::{
    DefinitionsByTable, DrillCheck, DrillEvent, DrillItem, DrillLink, DrillRecord, DrillScope, Estimate, Incident, Measured,
    MeasuredRpo, Objectives, Runbook,
};
pub use error::{ErrorClass, Explain};
pub use events::{
    Ability, AbortRecord, Capabilities, CheckEvent, FateRecord, FateState, Finding, FindingKind, HoldRecord, HoldState, Intent,
    LeaseHolder, LeaseRecord, LeaseState, Operator, RebindRecord, ReplicaOf, RepositoryMarker, SkippedObject, Tool, Verdict,
    VerifyLevel,
};
pub use fingerprint::{Algorithm, Fingerprint, FingerprintError, RowDigester};
pub use ids::{BackupId, IdError, SourceName, random_suffix};
pub use manifest::{
    BlockRange, Column, CommandContent, Compression, Content, DatabaseFacts, DatabaseSetting, Dataset, DatasetKind, DuckdbColumn,
    DuckdbContent, DuckdbFile, DuckdbForm, DuckdbPart, DuckdbTable, FORMAT_VERSION, FileData, FileEntry, FileKind, FileMeta,
    FilePath, FileTime, Files, FilesContent, KeyRange, LargeObjects, LeftOut, Manifest, ManifestError, ManifestForm,
    ManifestHead, MaterializedView, ObjectRef, ObjectSize, Pack, Part, PartitionedTable, PostgresContent, ScriptFiles,
    SequenceValue, ServerHead, ServerIdentity, Settings, SnapshotInfo, StoredFile, Subscription, TableFormat,
};
pub use names::{QualifiedName, quote_ident, quote_literal};
pub use pgtype::{CompositeField, NumericMod, PgType, Profile};
pub use policy::{Period, RetentionPolicy, Tier, weekday_name};
pub use progress::{NoProgress, Progress, Stage};
pub use severity::Severity;
pub use units::{ByteSize, Percent, Span, UnitError, human_bytes, human_count, human_duration};
