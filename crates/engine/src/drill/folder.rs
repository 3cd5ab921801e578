//! Files come back: a file set, DuckDB files, what a command printed; into a folder, read again from its disk, and gone again.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dozo_model::{Content, DrillItem, FileEntry, FileKind, Sha256Digest, Sha256Hasher, Verdict};

use super::choose::Chosen;
use super::{Bench, Draft};
use crate::context::SourceSettings;
use crate::files::list_files;
use crate::restore::{FolderOptions, restore_folder};
use crate::workers::blocking;
use crate::{EngineError, Result};

/// Memory for files of a source that is not configured any more.
const MEMORY: u64 = 256_000_000;
/// Bytes that are read at a time.
const READ: usize = 1 << 18;

impl Bench<'_> {
    /// Restores files.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`]. Everything else is in the item.
    pub(super) async fn files(&self, chosen: &Chosen) -> Result<DrillItem> {
        let mut draft = Draft::new(chosen, self.started, "folder".into());
        let folder = self.work.of(self.number);
        let worked = tokio::select! {
            biased;
            () = self.ctx.cancel.cancelled() => Err(EngineError::Cancelled),
            done = self.file_steps(&mut draft, chosen, &folder) => done,
        };
        match worked {
            Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
            Err(e) => draft.stop("restore", &e, false, None),
            Ok(()) => {}
        }
        let began = Instant::now();
        let _ = blocking(move || Ok(std::fs::remove_dir_all(folder))).await;
        draft.phase("teardown", began.elapsed().as_secs_f64());
        Ok(draft.done())
    }

    async fn file_steps(&self, draft: &mut Draft, chosen: &Chosen, folder: &Path) -> Result<()> {
        let Some(manifest) = &chosen.manifest else {
            draft.stopped = true;
            draft.check("backup", Verdict::NotRun, chosen.not_run.clone().unwrap_or_default());
            return Ok(());
        };
        self.room(chosen)?;
        std::fs::create_dir(folder).map_err(EngineError::folder(folder))?;
        let source = SourceSettings::of(self.sources, &chosen.source);
        let options = FolderOptions {
            replace: false,
            verify: true,
            paths: vec![],
            no_owner: false,
            threads: self.job.workers,
            memory: source.map_or(MEMORY, |s| s.memory.0),
        };
        let began = Instant::now();
        let report = restore_folder(self.ctx, self.repository, manifest, folder, &options).await?;
        draft.phase("load", began.elapsed().as_secs_f64());
        if !manifest.complete {
            for lost in manifest.left_out.iter().filter(|l| l.error) {
                draft.check("backup", Verdict::Failed, format!("{} is not in it ({})", lost.name, lost.reason));
            }
        }
        let began = Instant::now();
        match &manifest.content {
            Content::Files(content) => {
                let entries = list_files(self.repository, manifest).await?;
                let (root, count) = (folder.to_owned(), content.files);
                let wrong = blocking(move || Ok(differing(&root, &entries))).await?;
                draft.item.restored = count;
                draft.item.equal = count.saturating_sub(wrong.len() as u64);
                draft.item.bytes = content.bytes;
                for one in &wrong {
                    draft.check("sha256", Verdict::Failed, one.clone());
                }
                if wrong.is_empty() {
                    draft.check(
                        "sha256",
                        Verdict::Passed,
                        format!("{count} files, read again from the disk, have the digests of the list"),
                    );
                }
                draft
                    .item
                    .not_checked
                    .push("owners, modes, times, links and folders: made without an error, not compared".into());
            }
            Content::Duckdb(_) | Content::Command(_) => {
                let (tables, rows) = report.files.iter().fold((0, 0), |(t, n), f| (t + f.tables, n + f.rows));
                draft.item.restored = report.files.len() as u64;
                draft.item.equal = report.files.iter().filter(|f| f.verdict == "equal").count() as u64;
                (draft.item.rows, draft.item.bytes) = (rows, report.files.iter().map(|f| f.bytes).sum());
                let name = if tables > 0 { "fingerprint" } else { "sha256" };
                let text = match tables {
                    0 => format!("{} files have the digests of the manifest", report.files.len()),
                    _ => format!("{tables} tables of {} files equal the manifest, {rows} rows", report.files.len()),
                };
                let unknown = report.files.iter().filter(|f| f.verdict != "equal").map(|f| f.path.as_str());
                let unknown: Vec<&str> = unknown.collect();
                if unknown.is_empty() {
                    draft.check(name, Verdict::Passed, text);
                } else {
                    draft.stopped = true;
                    draft.check(name, Verdict::NotRun, format!("not compared: {}", unknown.join(", ")));
                }
            }
            Content::Postgres(_) => return Err(EngineError::other_kind(manifest, "files")),
        }
        draft.phase("verify", began.elapsed().as_secs_f64());
        draft.item.rto_seconds = Some(["load", "verify"].iter().filter_map(|p| draft.item.seconds.get(*p)).sum());
        draft.item.not_checked.push("age of the newest row: of files only the age of the backup is known".into());
        let began = Instant::now();
        self.own_checks(draft, None, folder).await?;
        draft.phase("checks", began.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Reads every file again, and says which are not those of the list.
fn differing(root: &Path, entries: &[FileEntry]) -> Vec<String> {
    let wrong = |entry: &FileEntry| {
        let FileKind::File(data) = &entry.kind else { return None };
        let path: PathBuf = root.join(entry.path.path());
        match digest(&path) {
            Ok(found) if found == data.sha256 => None,
            Ok(_) => Some(format!("{} has another digest than in the list", entry.path)),
            Err(e) => Some(format!("{} cannot be read: {e}", entry.path)),
        }
    };
    entries.iter().filter_map(wrong).collect()
}

fn digest(path: &Path) -> std::io::Result<Sha256Digest> {
    let (mut file, mut hasher, mut piece) = (File::open(path)?, Sha256Hasher::default(), vec![0; READ]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&piece[..n]),
        }
    }
}
