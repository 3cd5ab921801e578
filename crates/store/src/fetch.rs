//! Reads an object as a whole, digesting it, and hands it out for random access.
//!
//! *Memory*: objects above [`MEMORY_MAX`] from a remote store are spooled to an unlinked temporary file; local ones are
//! opened where they lie.

use std::fs::File;
use std::io::{Read, Seek, Write};

use bytes::Bytes;
use dozo_model::{Sha256Digest, Sha256Hasher};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectStoreExt};

use crate::{Operation, Result, Store};

/// Objects up to this size are held in memory.
const MEMORY_MAX: u64 = 16 << 20;

/// An object that was read to its end.
#[derive(Debug)]
pub struct Fetched {
    /// Size.
    pub bytes: u64,
    /// Digest of all bytes.
    pub sha256: Sha256Digest,
    /// The bytes.
    pub data: ObjectData,
}

/// Bytes for random access.
#[derive(Debug)]
pub enum ObjectData {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File(File),
}

impl Store {
    /// Reads the object `key` to its end.
    ///
    /// # Errors
    /// [`crate::StoreError::NotFound`], or what the store or the temporary folder says.
    pub async fn fetch(&self, key: &str) -> Result<Fetched> {
        let path = self.path(key)?;
        let fetched = self.again(Operation::Get, || self.fetch_once(&path)).await;
        fetched.map_err(|e| self.error("read", key, e))
    }

    async fn fetch_once(&self, path: &Path) -> object_store::Result<Fetched> {
        let got = self.inner.get(path).await?;
        let io = |e: std::io::Error| object_store::Error::Generic { store: "local", source: e.into() };
        if let GetResultPayload::File(mut file, _) = got.payload {
            return tokio::task::spawn_blocking(move || {
                let mut hasher = Sha256Hasher::default();
                let mut buffer = vec![0; 1 << 18];
                let mut bytes = 0;
                loop {
                    let n = file.read(&mut buffer)?;
                    if n == 0 {
                        break;
                    }
                    hasher.update(&buffer[..n]);
                    bytes += n as u64;
                }
                file.rewind()?;
                Ok(Fetched { bytes, sha256: hasher.finish(), data: ObjectData::File(file) })
            })
            .await?
            .map_err(io);
        }
        let mut spool = (got.meta.size > MEMORY_MAX).then(tempfile::tempfile).transpose().map_err(io)?;
        let mut memory = Vec::new();
        let mut hasher = Sha256Hasher::default();
        let mut bytes = 0;
        let mut stream = got.into_stream();
        while let Some(chunk) = stream.try_next().await? {
            hasher.update(&chunk);
            bytes += chunk.len() as u64;
            match &mut spool {
                Some(file) => file.write_all(&chunk).map_err(io)?,
                None => memory.extend_from_slice(&chunk),
            }
        }
        let data = match spool {
            Some(mut file) => {
                file.rewind().map_err(io)?;
                ObjectData::File(file)
            }
            None => ObjectData::Memory(memory.into()),
        };
        Ok(Fetched { bytes, sha256: hasher.finish(), data })
    }
}
