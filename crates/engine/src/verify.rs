//! `verify`: are the stored bytes what the manifest says, do they decode, are the rows the same.
//!
//! All findings are collected, not only the first. The result is an event beside the manifest. A check that could not run
//! is *not run*, never green. *Memory*: one object per worker; large remote ones are spooled to a temporary file.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dozo_catalog::{BackupEntry, BackupState, Repository, tool};
use dozo_encode::{EncodeError, ParquetInput, ParquetReader};
use dozo_model::{
    CheckEvent, Content, Dataset, DatasetKind, DuckdbForm, FORMAT_VERSION, Finding, FindingKind, Fingerprint, Manifest,
    ObjectRef, Part, RowDigester, SkippedObject, Stage, StoredFile, TableFormat, Timestamp, Verdict, VerifyLevel,
};
use dozo_postgres::{LARGE_OBJECT_PIECE, RowEncoder, arrow_schema};
use dozo_store::{Fetched, Layout, ObjectData, StoreError};
use futures::StreamExt;
use serde::Serialize;

use crate::context::Context;
use crate::error::chain;
use crate::stored::unpack;
use crate::{EngineError, Result, duckdb, files, texts};

/// Rows decoded at a time, unless they are wide.
const BATCH_ROWS: u64 = 8192;
/// Bytes decoded at a time, by the average row of the table.
const BATCH_BYTES: u64 = 8 << 20;
/// HEAD requests at the same time.
const LOOKS: usize = 16;

/// What a verification found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VerifyReport {
    /// Source.
    pub source: String,
    /// The event that was recorded.
    #[serde(flatten)]
    pub check: CheckEvent,
    /// Seconds.
    pub seconds: f64,
}

/// Verifies one backup and records the result. `not_again` as in [`examine`].
///
/// # Errors
/// When the work is interrupted. What is wrong with the backup is in the report, never an error.
pub async fn verify(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    level: VerifyLevel,
    not_again: Option<Duration>,
) -> Result<VerifyReport> {
    let began = std::time::Instant::now();
    let check = examine(ctx, repository, manifest, level, not_again).await?;
    if let Err(e) = repository.record_check(&manifest.source, &check).await {
        // A repository that only may be read can be verified all the same.
        ctx.progress.warn(&format!("the result could not be recorded: {e}"));
    }
    Ok(VerifyReport { source: manifest.source.to_string(), check, seconds: began.elapsed().as_secs_f64() })
}

/// Reads what a manifest names, and says what is wrong. With `not_again`, an object of an earlier backup is only looked for, not read,
/// if a check read its content within that time; the backup's own objects are always read.
///
/// # Errors
/// When the work is interrupted. What is wrong with the backup is in the report, never an error.
pub(crate) async fn examine(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    level: VerifyLevel,
    not_again: Option<Duration>,
) -> Result<CheckEvent> {
    let skipped = match not_again {
        Some(within) if level > VerifyLevel::Exists && manifest.parent.is_some() => {
            read_not_long_ago(ctx, repository, manifest, within).await?
        }
        _ => BTreeMap::new(),
    };
    let data: u64 = manifest.stored_bytes();
    ctx.progress.stage(Stage::Verify, manifest.rows(), data);
    let mut uses = uses(manifest);
    let mut findings = contradictions(manifest);
    let mut not_run = Vec::new();
    if let (Content::Files(content), VerifyLevel::Content) = (&manifest.content, level) {
        match files::uses(repository, manifest, content).await {
            Ok(found) => uses.extend(found.into_iter().map(|(key, used)| (key, Use::Files(used)))),
            Err(e @ (EngineError::Damaged { .. } | EngineError::Files(_))) => findings.push(Finding {
                kind: FindingKind::Decode,
                object: content.list.clone(),
                tables: vec!["(list)".into()],
                detail: chain(&e),
            }),
            Err(e) => not_run.push(format!("{}: {}", content.list, chain(&e))),
        }
    }
    let (mut bytes, mut rows) = (0, 0);
    let parallel =
        if level == VerifyLevel::Exists { LOOKS } else { std::thread::available_parallelism().map_or(2, usize::from).min(4) };
    let (uses, left_alone) = (&uses, &skipped);
    let mut looks = futures::stream::iter(&manifest.objects)
        .map(|object| async move {
            let level = if left_alone.contains_key(&object.key) { VerifyLevel::Exists } else { level };
            (object, look(ctx, repository, object, uses.get(object.key.as_str()), level).await)
        })
        .buffer_unordered(parallel);
    loop {
        let next = tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(EngineError::Cancelled),
            next = looks.next() => next,
        };
        let Some((object, looked)) = next else { break };
        match looked {
            Ok(look) => {
                bytes += look.bytes;
                rows += look.rows;
                findings.extend(look.findings);
                ctx.progress.advance(&object.key, look.rows, look.bytes);
            }
            Err(e) => not_run.push(format!("{}: {}", object.key, chain(&e))),
        }
    }
    drop(looks);
    match hidden(repository, manifest, uses).await {
        Ok(found) => findings.extend(found),
        Err(e) => not_run.push(format!("versions: {}", chain(&e))),
    }
    findings.sort_by(|a, b| (&a.object, a.kind).cmp(&(&b.object, b.kind)));
    not_run.sort();
    let verdict = match (findings.is_empty(), not_run.is_empty()) {
        (false, _) => Verdict::Failed,
        (true, false) => Verdict::NotRun,
        (true, true) => Verdict::Passed,
    };
    Ok(CheckEvent {
        format: FORMAT_VERSION,
        backup: manifest.id.clone(),
        level,
        verdict,
        at: ctx.clock.now(),
        objects: manifest.objects.len() as u64,
        bytes,
        rows,
        findings,
        not_run,
        skipped: skipped.into_iter().map(|(object, checked)| SkippedObject { object, checked }).collect(),
        tool: tool(),
        operator: ctx.operator.clone(),
    })
}

/// Finds what somebody put a delete marker or another version over. Our reads see the object all the same; others do not.
async fn hidden(repository: &Repository, manifest: &Manifest, uses: &Uses<'_>) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for folder in [format!("{}/{}", Layout::DATA, manifest.source), Layout::backup(&manifest.source, &manifest.id)] {
        for tampered in repository.store().tampered(&folder).await? {
            let own = tampered.key.ends_with("/manifest.json") || manifest.objects.iter().any(|o| o.key == tampered.key);
            if own {
                let detail = format!(
                    "{} delete markers and {} further versions lie over it, the newest since {}: it is still there as its first version",
                    tampered.markers, tampered.versions, tampered.newest
                );
                let tables = uses.get(tampered.key.as_str()).map(Use::tables).unwrap_or_default();
                found.push(Finding { kind: FindingKind::Versions, object: tampered.key, tables, detail });
            }
        }
    }
    Ok(found)
}

/// Returns the objects of earlier backups whose content was read within a time, and when.
async fn read_not_long_ago(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    within: Duration,
) -> Result<BTreeMap<String, Timestamp>> {
    let history = repository.history(&manifest.source).await?;
    let (checked, distrusted) = (history.content_checked(), history.distrusted());
    let foreign = |key: &&str| Layout::owner(key).is_some_and(|owner| owner != manifest.id);
    let shared = manifest.objects.iter().map(|o| o.key.as_str()).filter(foreign);
    let now = ctx.clock.now();
    let recent = shared.filter(|key| !distrusted.contains(key)).filter_map(|key| {
        let at = *checked.get(key)?;
        (now.duration_since(at).unsigned_abs() < within).then(|| (key.to_owned(), at))
    });
    Ok(recent.collect())
}

/// Verifies whatever a listing shows: an unreadable manifest is a finding of its own.
///
/// # Errors
/// As [`verify`].
pub async fn verify_entry(
    ctx: &Context,
    repository: &Repository,
    entry: &BackupEntry,
    level: VerifyLevel,
) -> Result<Option<VerifyReport>> {
    let detail = match &entry.state {
        BackupState::Committed(manifest) => return Ok(Some(verify(ctx, repository, manifest, level, None).await?)),
        // It was verified once, so it was committed once.
        BackupState::Uncommitted(_) if !repository.checks(&entry.source, &entry.id).await?.is_empty() => {
            "it is missing, but the backup was verified before".into()
        }
        BackupState::Uncommitted(_) | BackupState::Aborted | BackupState::Doomed(_) => return Ok(None),
        BackupState::Unreadable(why) => why.clone(),
    };
    let object = dozo_store::Layout::file(&entry.source, &entry.id, "manifest.json");
    let check = CheckEvent {
        format: FORMAT_VERSION,
        backup: entry.id.clone(),
        level,
        verdict: Verdict::Failed,
        at: ctx.clock.now(),
        objects: 1,
        bytes: 0,
        rows: 0,
        findings: vec![Finding { kind: FindingKind::Manifest, object, tables: vec![], detail }],
        not_run: vec![],
        skipped: vec![],
        tool: tool(),
        operator: ctx.operator.clone(),
    };
    Ok(Some(VerifyReport { source: entry.source.to_string(), check, seconds: 0.0 }))
}

/// What an object holds.
enum Use<'a> {
    /// Rows of tables and partitions of a Postgres database.
    Parts(Vec<(&'a Dataset, &'a Part)>),
    /// Rows of a DuckDB table, or a DuckDB file.
    Duckdb(duckdb::Use),
    /// Files of a set.
    Files(files::Use),
    /// What a command printed.
    Stored(&'a StoredFile),
}

impl Use<'_> {
    fn tables(&self) -> Vec<String> {
        match self {
            Self::Parts(parts) => parts.iter().map(|(d, _)| d.name.to_string()).collect(),
            Self::Duckdb(used) => used.tables(),
            Self::Files(used) => used.names(),
            Self::Stored(_) => vec!["(output)".into()],
        }
    }
}

type Uses<'a> = HashMap<&'a str, Use<'a>>;

fn uses(manifest: &Manifest) -> Uses<'_> {
    let mut parts: HashMap<&str, Vec<(&Dataset, &Part)>> = HashMap::new();
    for dataset in manifest.datasets() {
        for part in &dataset.parts {
            parts.entry(&part.object).or_default().push((dataset, part));
        }
    }
    let parts = parts.into_iter().map(|(key, parts)| (key, Use::Parts(parts)));
    let stored = match &manifest.content {
        Content::Command(content) => Some((content.stored.object.as_str(), Use::Stored(&content.stored))),
        _ => None,
    };
    parts.chain(duckdb::uses(manifest).into_iter().map(|(key, used)| (key, Use::Duckdb(used)))).chain(stored).collect()
}

/// What the manifest says about itself must fit together.
fn contradictions(manifest: &Manifest) -> Vec<Finding> {
    let known: HashMap<&str, &ObjectRef> = manifest.objects.iter().map(|o| (o.key.as_str(), o)).collect();
    let finding = |object: &str, tables: Vec<String>, detail: String| Finding {
        kind: FindingKind::Manifest,
        object: object.to_owned(),
        tables,
        detail,
    };
    let mut findings = Vec::new();
    for dataset in manifest.datasets() {
        let sum: Fingerprint = dataset.parts.iter().map(|p| p.fingerprint).sum();
        if sum != dataset.fingerprint {
            findings.push(finding(
                "manifest.json",
                vec![dataset.name.to_string()],
                format!("its parts add up to {sum}, not {}", dataset.fingerprint),
            ));
        }
        for part in dataset.parts.iter().filter(|p| !known.contains_key(p.object.as_str())) {
            findings.push(finding(&part.object, vec![dataset.name.to_string()], "it is not in the list of objects".into()));
        }
    }
    if let Content::Duckdb(content) = &manifest.content {
        for (file, table) in content.tables() {
            let sum: Fingerprint = table.parts.iter().map(|p| p.fingerprint).sum();
            if content.form == DuckdbForm::Parquet && sum != table.fingerprint {
                let detail = format!("its parts add up to {}, not {}", sum, table.fingerprint);
                findings.push(finding("manifest.json", vec![table.full_name(file)], detail));
            }
        }
        let stored = content.files.iter().filter_map(|f| f.stored.as_ref()).map(|s| &s.object);
        for key in content.tables().flat_map(|(_, t)| &t.parts).map(|p| &p.object).chain(stored) {
            if !known.contains_key(key.as_str()) {
                findings.push(finding(key, vec![], "it is not in the list of objects".into()));
            }
        }
    }
    let packs = match &manifest.content {
        Content::Files(content) => content.packs.iter().map(|p| p.object.as_str()).collect(),
        Content::Command(content) => vec![content.stored.object.as_str()],
        Content::Postgres(_) | Content::Duckdb(_) => Vec::new(),
    };
    for key in manifest.beside().into_iter().chain(packs) {
        if !known.contains_key(key) {
            findings.push(finding(key, vec![], "it is not in the list of objects".into()));
        }
    }
    findings
}

#[derive(Default)]
struct Look {
    bytes: u64,
    rows: u64,
    findings: Vec<Finding>,
}

async fn look(
    ctx: &Context,
    repository: &Repository,
    object: &ObjectRef,
    used: Option<&Use<'_>>,
    level: VerifyLevel,
) -> Result<Look> {
    let tables = used.map_or_else(|| vec!["(schema)".into()], Use::tables);
    let finding = |kind, detail: String| Finding { kind, object: object.key.clone(), tables: tables.clone(), detail };
    let mut look = Look::default();
    if level == VerifyLevel::Exists {
        match repository.store().size(&object.key).await? {
            None => look.findings.push(finding(FindingKind::Missing, "it is missing".into())),
            Some(size) if size != object.bytes => {
                look.findings.push(finding(FindingKind::Size, format!("{size} bytes instead of {}", object.bytes)));
            }
            Some(_) => {}
        }
        return Ok(look);
    }
    let fetched = match repository.store().fetch(&object.key).await {
        Ok(fetched) => fetched,
        Err(StoreError::NotFound { .. }) => {
            look.findings.push(finding(FindingKind::Missing, "it is missing".into()));
            return Ok(look);
        }
        Err(e) => return Err(e.into()),
    };
    look.bytes = fetched.bytes;
    if fetched.bytes != object.bytes {
        look.findings.push(finding(FindingKind::Size, format!("{} bytes instead of {}", fetched.bytes, object.bytes)));
    } else if fetched.sha256 != object.sha256 {
        look.findings.push(finding(FindingKind::Digest, format!("sha256 {} instead of {}", fetched.sha256, object.sha256)));
    }
    if level < VerifyLevel::Content {
        return Ok(look);
    }
    let (key, cancel) = (object.key.clone(), ctx.cancel.clone());
    let joined = |e: tokio::task::JoinError| EngineError::Internal(e.to_string());
    match used {
        None => {}
        Some(Use::Parts(parts)) => {
            let work: Vec<(Dataset, Part)> = parts.iter().map(|(d, p)| ((*d).clone(), (*p).clone())).collect();
            let decoded = tokio::task::spawn_blocking(move || decode(&key, fetched, &work, &cancel)).await.map_err(joined)?;
            look.rows = decoded.iter().map(|d| d.0).sum();
            look.findings.extend(decoded.into_iter().filter_map(|(_, finding)| finding));
        }
        // Bytes that are not what was written need not be looked at any closer.
        Some(_) if !look.findings.is_empty() => {}
        Some(Use::Duckdb(used)) => {
            let used = used.clone();
            let decoded = tokio::task::spawn_blocking(move || duckdb::decode(&key, fetched, &used, &cancel));
            let (rows, findings) = decoded.await.map_err(joined)??;
            look.rows = rows;
            look.findings.extend(findings);
        }
        Some(Use::Files(used)) => {
            let used = used.clone();
            let decoded = tokio::task::spawn_blocking(move || files::decode(fetched, &used, &cancel));
            look.findings.extend(decoded.await.map_err(joined)??);
        }
        Some(Use::Stored(stored)) => {
            let stored = (*stored).clone();
            let decoded = tokio::task::spawn_blocking(move || unpack(fetched.data, &stored, &cancel, |_| Ok(())));
            match decoded.await.map_err(joined)? {
                Ok(wrong) => look.findings.extend(wrong.map(|why| finding(FindingKind::Content, why))),
                Err(e @ EngineError::Damaged { .. }) => look.findings.push(finding(FindingKind::Decode, chain(&e))),
                Err(e) => return Err(e),
            }
        }
    }
    Ok(look)
}

fn decode(
    key: &str,
    fetched: Fetched,
    work: &[(Dataset, Part)],
    cancel: &tokio_util::sync::CancellationToken,
) -> Vec<(u64, Option<Finding>)> {
    if let [(dataset, part)] = work
        && dataset.format != TableFormat::Parquet
    {
        let found = texts::fingerprint(fetched.data, dataset, part, cancel).map_err(|e| chain(&e));
        return vec![judge(key, dataset, part, found)];
    }
    let mut readers: BTreeMap<String, std::result::Result<Arc<ParquetReader>, String>> = BTreeMap::new();
    let mut data = Some(fetched.data);
    let mut results = Vec::new();
    for (dataset, part) in work {
        // All partitions in one object have the same columns.
        let reader = readers.entry(key.to_owned()).or_insert_with(|| match data.take() {
            Some(data) => open(data, dataset).map(Arc::new).map_err(|e| chain(&e)),
            None => Err("the object was opened twice".into()),
        });
        let outcome = match reader {
            Err(why) => Err(why.clone()),
            Ok(reader) => fingerprint_part(reader, dataset, part, cancel).map_err(|e| chain(&e)),
        };
        results.push(judge(key, dataset, part, outcome));
    }
    results
}

/// Compares what a part holds with what the manifest says; returns its rows, and what is wrong.
fn judge(key: &str, dataset: &Dataset, part: &Part, outcome: std::result::Result<Fingerprint, String>) -> (u64, Option<Finding>) {
    let finding = |kind, detail| Finding { kind, object: key.to_owned(), tables: vec![dataset.name.to_string()], detail };
    match outcome {
        Err(why) => (0, Some(finding(FindingKind::Decode, why))),
        Ok(found) if found.rows != part.fingerprint.rows => {
            let detail = format!("{} rows instead of {}", found.rows, part.fingerprint.rows);
            (found.rows, Some(finding(FindingKind::Rows, detail)))
        }
        Ok(found) if found != part.fingerprint => {
            (found.rows, Some(finding(FindingKind::Content, format!("fingerprint {found} instead of {}", part.fingerprint))))
        }
        Ok(found) => (found.rows, None),
    }
}

/// Returns how many rows of a table are decoded at a time.
pub(crate) fn batch_rows(dataset: &Dataset) -> usize {
    // Small large objects come first and whole pieces of large ones last: an average says nothing of these.
    let average = match dataset.kind {
        DatasetKind::LargeObjects => LARGE_OBJECT_PIECE,
        _ => dataset.bytes_read / dataset.fingerprint.rows.max(1),
    };
    usize::try_from((BATCH_BYTES / average.max(1)).clamp(1, BATCH_ROWS)).unwrap_or(1)
}

/// Opens a fetched object with the columns of a dataset.
pub(crate) fn open(data: ObjectData, dataset: &Dataset) -> std::result::Result<ParquetReader, EncodeError> {
    let input = match data {
        ObjectData::Memory(bytes) => ParquetInput::Memory(bytes),
        ObjectData::File(file) => ParquetInput::File(file),
    };
    ParquetReader::open(input, &arrow_schema(&dataset.columns))
}

fn fingerprint_part(
    reader: &ParquetReader,
    dataset: &Dataset,
    part: &Part,
    cancel: &tokio_util::sync::CancellationToken,
) -> Result<Fingerprint> {
    let encode = |source| EngineError::Encode { object: part.object.clone(), source };
    let mut encoder = RowEncoder::for_digest(&dataset.columns);
    let mut digester = RowDigester::default();
    let mut sum = Fingerprint::EMPTY;
    for batch in reader.rows(part.row_groups, batch_rows(dataset)).map_err(encode)? {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        sum += encoder.fingerprint(&batch.map_err(encode)?, &mut digester)?;
    }
    Ok(sum)
}
