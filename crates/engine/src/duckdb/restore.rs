//! `restore` of DuckDB files into a folder.
//!
//! Each file is made under a hidden name beside its place, opened again, every table's fingerprint compared, and only then given its
//! name. *Crash behaviour*: what was not finished has a name that begins with a point, and the same command makes it anew.

use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use dozo_catalog::Repository;
use dozo_duckdb::{DuckFile, DuckdbError, NewFile, OpenOptions, SchemaScript, StoredTable, companions};
use dozo_model::{DuckdbContent, DuckdbFile, DuckdbTable, Manifest, Sha256Digest, Stage};

use super::verify::fingerprints;
use crate::context::Context;
use crate::intact::Digests;
use crate::restore::{FolderOptions, FolderReport, RestoredFile};
use crate::workers::blocking;
use crate::{EngineError, Result};

/// Restores the files of a backup.
///
/// # Errors
/// See [`EngineError`]; files that were finished before it stay.
pub(crate) async fn restore(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    content: &DuckdbContent,
    folder: &Path,
    options: &FolderOptions,
) -> Result<FolderReport> {
    let began = Instant::now();
    std::fs::create_dir_all(folder).map_err(EngineError::folder(folder))?;
    let mut places = Vec::new();
    for file in &content.files {
        places.push((file, place(folder, &file.path)?));
    }
    // A link that leads nowhere takes the place, too; a WAL would be taken for part of the restored file.
    let taken = |p: &PathBuf| p.symlink_metadata().is_ok() || !companions(p).is_empty();
    let there: Vec<String> = places.iter().filter(|(_, p)| taken(p)).map(|(f, _)| f.path.clone()).collect();
    if !there.is_empty() && !options.replace {
        return Err(EngineError::FolderOccupied { folder: folder.to_owned(), files: there });
    }
    for (_, path) in places.iter().filter(|(_, p)| p.is_file()) {
        unheld(path).await?;
    }
    ctx.progress.stage(Stage::Data, manifest.rows(), manifest.stored_bytes());
    let job = Job { ctx, repository, objects: Digests::of(manifest), options };
    let mut files = Vec::new();
    for (file, path) in places {
        let parent = path.parent().unwrap_or(folder).to_owned();
        let exists = parent.ancestors().find(|a| a.symlink_metadata().is_ok()).unwrap_or(folder);
        inside(folder, exists)?;
        std::fs::create_dir_all(&parent).map_err(EngineError::folder(&parent))?;
        files.push(job.one(file, &path, &parent).await?);
    }
    Ok(FolderReport {
        backup: format!("{}@{}", manifest.source, manifest.id),
        target: folder.display().to_string(),
        outcome: if manifest.complete { "done" } else { "partial" },
        files,
        set: None,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Makes sure that nobody uses a file that is to be replaced.
async fn unheld(path: &Path) -> Result<()> {
    let path = path.to_owned();
    blocking(move || {
        let temp = tempfile::tempdir().map_err(EngineError::folder(&std::env::temp_dir()))?;
        let options = OpenOptions { lock_timeout: Duration::ZERO, memory: 64 << 20, temp: temp.path().to_owned() };
        match DuckFile::open(&path, &options, || false) {
            Err(e @ DuckdbError::Locked { .. }) => Err(e.into()),
            // A file that does not open is replaced all the more.
            Ok(_) | Err(_) => Ok(()),
        }
    })
    .await
}

/// Returns where a file of the backup comes to lie; never outside the folder.
pub(crate) fn place(folder: &Path, path: &str) -> Result<PathBuf> {
    let relative = Path::new(path);
    let plain = !path.is_empty() && relative.components().all(|c| matches!(c, Component::Normal(_)));
    if plain {
        return Ok(folder.join(relative));
    }
    Err(EngineError::Damaged { object: path.to_owned(), reason: "its path leads out of the folder".into() })
}

/// Makes sure that no link leads a folder out of the target.
fn inside(folder: &Path, parent: &Path) -> Result<()> {
    let real = |path: &Path| path.canonicalize().map_err(EngineError::folder(path));
    if real(parent)?.starts_with(real(folder)?) {
        return Ok(());
    }
    let reason = format!("it lies behind a link that leads out of {}", folder.display());
    Err(EngineError::Damaged { object: parent.display().to_string(), reason })
}

struct Job<'a> {
    ctx: &'a Context,
    repository: &'a Repository,
    objects: Digests,
    options: &'a FolderOptions,
}

impl Job<'_> {
    async fn one(&self, file: &DuckdbFile, path: &Path, parent: &Path) -> Result<RestoredFile> {
        let temp = tempfile::Builder::new().prefix(".dozo-restore-").tempdir_in(parent);
        let temp = temp.map_err(EngineError::folder(parent))?;
        let name = path.file_name().unwrap_or_default();
        let made = temp.path().join(name);
        match &file.stored {
            Some(stored) => {
                let data = self.objects.fetch(self.ctx, self.repository, &stored.object).await?;
                let (stored, made, cancel) = (stored.clone(), made.clone(), self.ctx.cancel.clone());
                let wrong = blocking(move || Ok((super::unpack_to(data, &stored, &made, &cancel)?, stored.object))).await?;
                if let (Some(reason), object) = wrong {
                    return Err(EngineError::Damaged { object, reason });
                }
            }
            None => self.load(file, &made, path, temp.path()).await?,
        }
        let (checked, folder, memory) = (made.clone(), temp.path().to_owned(), self.options.memory);
        let cancel = self.ctx.cancel.clone();
        let verdict = if self.options.verify {
            self.ctx.progress.stage(Stage::Verify, 0, 0);
            let found = blocking(move || Ok(fingerprints(&checked, &folder, memory, || cancel.is_cancelled())?)).await?;
            let same = |t: &DuckdbTable| found.get(&(t.schema.clone(), t.name.clone())) == Some(&t.fingerprint);
            if file.tables.iter().all(same) { "equal" } else { "differs" }
        } else {
            "not run"
        };
        if verdict == "differs" {
            // It must not be taken for what it should be.
            let reason = "the restored tables have other fingerprints than the manifest".into();
            return Err(EngineError::Damaged { object: file.path.clone(), reason });
        }
        let io = EngineError::folder(path);
        std::fs::File::open(&made).and_then(|f| f.sync_all()).map_err(io)?;
        let bytes = std::fs::metadata(&made).map_err(io)?.len();
        for stale in companions(path) {
            std::fs::remove_file(&stale).map_err(EngineError::folder(&stale))?;
        }
        std::fs::rename(&made, path).map_err(io)?;
        std::fs::File::open(parent).and_then(|f| f.sync_all()).map_err(EngineError::folder(parent))?;
        Ok(RestoredFile {
            path: file.path.clone(),
            bytes,
            tables: file.tables.len(),
            rows: file.tables.iter().map(|t| t.fingerprint.rows).sum(),
            verdict,
        })
    }

    /// Makes a file from its schema and rows.
    async fn load(&self, file: &DuckdbFile, made: &Path, named: &Path, temp: &Path) -> Result<()> {
        let (key, after) = (file.schema_sql.as_deref().unwrap_or_default(), file.after_sql.as_deref().unwrap_or_default());
        let script = SchemaScript::parse(&self.text(key).await?, &self.text(after).await?);
        let version = file.storage_version.clone();
        let (made, named, temp, options) = (made.to_owned(), named.to_owned(), temp.to_owned(), self.options.clone());
        let (mut new, order, script) = blocking(move || {
            let new = NewFile::create(&made, &named, &script, Some(&version), options.threads, options.memory, &temp)?;
            new.before_rows(&script)?;
            let order = new.order()?;
            Ok((new, order, script))
        })
        .await?;
        // A table that others refer to was made before them.
        let at = |t: &DuckdbTable| order.iter().position(|(s, n)| s == &t.schema && n == &t.name).unwrap_or(usize::MAX);
        let mut tables: Vec<&DuckdbTable> = file.tables.iter().collect();
        tables.sort_by_key(|t| at(t));
        for table in tables {
            let mut stored = StoredTable::new(table);
            for part in &table.parts {
                stored.add(super::file_of(self.objects.fetch(self.ctx, self.repository, &part.object).await?)?);
            }
            let began = Instant::now();
            new = blocking(move || {
                new.load(&stored)?;
                Ok(new)
            })
            .await?;
            let (name, rows) = (table.full_name(&file.path), table.fingerprint.rows);
            self.ctx.progress.advance(&name, rows, 0);
            self.ctx.progress.done(&name, rows, began.elapsed().as_secs_f64());
        }
        let left = blocking(move || {
            let left = new.after_rows(&script)?;
            new.finish()?;
            Ok(left)
        })
        .await?;
        left.iter().for_each(|why| self.ctx.progress.warn(&format!("{}: not made again: {why}", file.path)));
        Ok(())
    }

    async fn text(&self, key: &str) -> Result<String> {
        let bytes = self.repository.store().get(key).await?;
        self.objects.check(key, bytes.len() as u64, Sha256Digest::of(&bytes))?;
        String::from_utf8(bytes.to_vec()).map_err(|e| EngineError::Damaged { object: key.to_owned(), reason: e.to_string() })
    }
}
