//! Objects that hold a compressed stream: how they are read, and whether what comes out is what went in.

use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dozo_encode::{PartSink, SinkClosed, decompress};
use dozo_files::FilesError;
use dozo_model::{Compression, Sha256Digest, Sha256Hasher, StoredFile};
use dozo_store::ObjectData;
use tokio_util::sync::CancellationToken;

use crate::{EngineError, Result};

/// gzip level: the fastest whose files are no larger than those of `gzip`, whatever is in them (docs/benchmarks.md).
pub(crate) const GZIP_LEVEL: i32 = 6;

/// Returns the level to compress with.
pub(crate) fn level_of(compression: Compression, zstd_level: i32) -> i32 {
    match compression {
        Compression::Zstd => zstd_level,
        Compression::Gzip => GZIP_LEVEL,
    }
}

/// Returns a reader of what a fetched object holds, decompressed.
///
/// # Errors
/// [`EngineError::Damaged`].
pub(crate) fn reader(key: &str, data: ObjectData, compression: Compression) -> Result<Box<dyn Read + Send>> {
    let input: Box<dyn Read + Send> = match data {
        ObjectData::Memory(bytes) => Box::new(Cursor::new(bytes)),
        ObjectData::File(file) => Box::new(file),
    };
    decompress(compression, input).map_err(damaged(key))
}

fn damaged(key: &str) -> impl Fn(std::io::Error) -> EngineError + use<'_> {
    move |e| EngineError::Damaged { object: key.to_owned(), reason: e.to_string() }
}

/// Decompresses a stored file; `out` is given the bytes. Returns what is wrong with them.
///
/// # Errors
/// [`EngineError::Damaged`]; [`EngineError::Cancelled`]; what `out` says.
pub(crate) fn unpack(
    data: ObjectData,
    stored: &StoredFile,
    cancel: &CancellationToken,
    mut out: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Option<String>> {
    let mut input = reader(&stored.object, data, stored.compression)?;
    let mut hasher = Sha256Hasher::default();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let n = input.read(&mut buffer).map_err(damaged(&stored.object))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
        out(&buffer[..n])?;
    }
    let sha256 = hasher.finish();
    Ok(match (bytes == stored.bytes, sha256 == stored.sha256) {
        (true, true) => None,
        (false, _) => Some(format!("{bytes} bytes, decompressed, instead of {}", stored.bytes)),
        (true, false) => Some(format!("sha256 {sha256}, decompressed, instead of {}", stored.sha256)),
    })
}

/// Reads to the end, and returns the digest of what there was. `path` is what an error names.
///
/// # Errors
/// [`EngineError::Files`]; [`EngineError::Cancelled`].
pub(crate) fn digest(mut input: impl Read, path: &Path, cancel: &CancellationToken) -> Result<Sha256Digest> {
    let mut hasher = Sha256Hasher::default();
    let mut buffer = vec![0; 1 << 17];
    loop {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        match input.read(&mut buffer).map_err(FilesError::file(path))? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Writes parts into a file.
pub(crate) struct FileSink {
    file: File,
    failed: Failed,
}

/// What went wrong with a [`FileSink`], which can only say that it is closed.
#[derive(Clone, Default)]
pub(crate) struct Failed(Arc<Mutex<Option<std::io::Error>>>);

impl Failed {
    pub(crate) fn take(&self) -> Option<std::io::Error> {
        self.0.lock().ok().and_then(|mut failed| failed.take())
    }
}

impl FileSink {
    pub(crate) fn new(file: File) -> (Self, Failed) {
        let failed = Failed::default();
        (Self { file, failed: failed.clone() }, failed)
    }
}

impl PartSink for FileSink {
    fn part(&mut self, part: Bytes) -> std::result::Result<(), SinkClosed> {
        self.file.write_all(&part).map_err(|e| {
            if let Ok(mut failed) = self.failed.0.lock() {
                failed.get_or_insert(e);
            }
            SinkClosed
        })
    }
}
