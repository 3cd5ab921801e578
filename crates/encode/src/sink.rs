//! The writer's far end: bytes are counted and digested as they are emitted, then cut into parts.

use std::io::{self, Write};

use bytes::Bytes;
use dozo_model::Sha256Hasher;

/// Whoever took the parts is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkClosed;

/// Takes the parts of an object in order.
pub trait PartSink: Send {
    /// Takes the next part; blocks while too much is on its way.
    ///
    /// # Errors
    /// [`SinkClosed`] when nobody takes parts any more.
    fn part(&mut self, part: Bytes) -> Result<(), SinkClosed>;
}

/// Collects parts in memory.
impl PartSink for Vec<u8> {
    fn part(&mut self, part: Bytes) -> Result<(), SinkClosed> {
        self.extend_from_slice(&part);
        Ok(())
    }
}

pub(crate) struct DigestingWriter<S> {
    sink: Option<S>,
    part_bytes: usize,
    pending: Vec<u8>,
    hasher: Sha256Hasher,
    bytes: u64,
}

impl<S: PartSink> DigestingWriter<S> {
    pub(crate) fn new(sink: S, part_bytes: usize) -> Self {
        Self { sink: Some(sink), part_bytes, pending: Vec::new(), hasher: Sha256Hasher::default(), bytes: 0 }
    }

    /// Hands out what is pending and returns the sink; nothing can be written after that.
    pub(crate) fn close(&mut self) -> Result<(S, Sha256Hasher, u64), SinkClosed> {
        let mut sink = self.sink.take().ok_or(SinkClosed)?;
        if !self.pending.is_empty() {
            sink.part(std::mem::take(&mut self.pending).into())?;
        }
        Ok((sink, std::mem::take(&mut self.hasher), self.bytes))
    }
}

impl<S: PartSink> Write for DigestingWriter<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        let mut rest = bytes;
        while self.pending.len() + rest.len() >= self.part_bytes {
            let (now, later) = rest.split_at(self.part_bytes - self.pending.len());
            self.pending.extend_from_slice(now);
            let full = std::mem::take(&mut self.pending);
            let sink = self.sink.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            sink.part(full.into()).map_err(|SinkClosed| io::ErrorKind::BrokenPipe)?;
            rest = later;
        }
        self.pending.extend_from_slice(rest);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
