//! Compresses a stream in blocks, on several threads or on the caller's: each block is a gzip member (RFC 1952) or a zstd frame (RFC 8878) of its own.
//!
//! Members and frames may be concatenated by both formats: `gunzip`, `zstd -d` and every library read the whole as one stream. Blocks
//! are compressed independently, in any order, and written in theirs. *Memory*: two blocks of 1 MiB, raw and compressed, per thread; one
//! of 4 MiB on the caller's.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use dozo_model::{Compression, Sha256Digest, Sha256Hasher};

use crate::sink::{DigestingWriter, PartSink};
use crate::{EncodeError, Result};

/// Bytes that are compressed at a time by threads of their own: enough that starting anew costs less than a hundredth, few enough to
/// be held several times for each thread.
const BLOCK: usize = 1 << 20;
/// Bytes that are compressed at a time on the caller's thread, which holds one block.
const INLINE_BLOCK: usize = 4 << 20;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compressed {
    /// Stored size.
    pub bytes: u64,
    /// Digest of what is stored.
    pub sha256: Sha256Digest,
    /// Size before.
    pub raw_bytes: u64,
    /// Digest of what was compressed.
    pub raw_sha256: Sha256Digest,
}

type Answer = io::Result<Vec<u8>>;
/// A block, and where its answer goes.
type Job = (Vec<u8>, SyncSender<Answer>);

/// Compresses what is written to it.
pub struct BlockWriter<S: PartSink> {
    out: DigestingWriter<S>,
    /// Bytes that are compressed at a time.
    block: usize,
    pending: Vec<u8>,
    hasher: Sha256Hasher,
    raw_bytes: u64,
    /// Compresses on the caller's thread; else the threads do.
    own: Option<Compressor>,
    jobs: Option<SyncSender<Job>>,
    answers: VecDeque<Receiver<Answer>>,
    threads: Vec<JoinHandle<()>>,
}

impl<S: PartSink> BlockWriter<S> {
    /// Begins a stream that is compressed on the caller's thread; `part_bytes` is the size of the parts that go to the sink.
    pub fn inline(compression: Compression, level: i32, part_bytes: usize, sink: S) -> Self {
        Self::begin(Some(Compressor::new(compression, level)), None, Vec::new(), part_bytes, sink)
    }

    /// Begins a stream that is compressed on `threads` threads of its own.
    pub fn new(compression: Compression, level: i32, threads: usize, part_bytes: usize, sink: S) -> Self {
        let threads = threads.max(1);
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        let work = move |queue: Arc<Mutex<Receiver<Job>>>| {
            let mut compressor = Compressor::new(compression, level);
            loop {
                // The lock is given back before the work begins.
                let job = queue.lock().ok().and_then(|q| q.recv().ok());
                let Some((block, answer)) = job else { return };
                // Nobody waits any more only when the stream was given up.
                let _ = answer.send(compressor.block(&block));
            }
        };
        let threads = (0..threads)
            .map(|n| {
                let queue = Arc::clone(&queue);
                let thread = std::thread::Builder::new().name(format!("dozo compress {n}"));
                thread.spawn(move || work(queue)).expect("the system can start a thread")
            })
            .collect();
        Self::begin(None, Some(jobs), threads, part_bytes, sink)
    }

    fn begin(
        own: Option<Compressor>,
        jobs: Option<SyncSender<Job>>,
        threads: Vec<JoinHandle<()>>,
        part_bytes: usize,
        sink: S,
    ) -> Self {
        Self {
            out: DigestingWriter::new(sink, part_bytes),
            block: if own.is_some() { INLINE_BLOCK } else { BLOCK },
            pending: Vec::new(),
            hasher: Sha256Hasher::default(),
            raw_bytes: 0,
            own,
            jobs,
            answers: VecDeque::new(),
            threads,
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        if let Some(compressor) = &mut self.own {
            let bytes = compressor.block(&self.pending)?;
            self.pending.clear();
            return self.out.write_all(&bytes);
        }
        let block = std::mem::take(&mut self.pending);
        let (sender, answer) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        jobs.send((block, sender)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.answers.push_back(answer);
        while self.answers.len() > 2 * self.threads.len() {
            self.collect()?;
        }
        Ok(())
    }

    fn collect(&mut self) -> io::Result<()> {
        let Some(answer) = self.answers.pop_front() else { return Ok(()) };
        let bytes = answer.recv().map_err(|_| io::Error::other("a compressing thread panicked"))??;
        self.out.write_all(&bytes)
    }

    /// Ends the stream. A stream of nothing is one empty member.
    ///
    /// # Errors
    /// [`EncodeError::Closed`] when the sink is gone.
    pub fn finish(mut self) -> Result<(S, Compressed)> {
        if !self.pending.is_empty() || self.raw_bytes == 0 {
            self.submit().map_err(|e| EncodeError::stream(&e))?;
        }
        while !self.answers.is_empty() {
            self.collect().map_err(|e| EncodeError::stream(&e))?;
        }
        let (sink, hasher, bytes) = self.out.close().map_err(|_| EncodeError::Closed)?;
        let raw_sha256 = std::mem::take(&mut self.hasher).finish();
        Ok((sink, Compressed { bytes, sha256: hasher.finish(), raw_bytes: self.raw_bytes, raw_sha256 }))
    }
}

impl<S: PartSink> Write for BlockWriter<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.block - self.pending.len());
        let now = &bytes[..taken];
        self.hasher.update(now);
        self.raw_bytes += now.len() as u64;
        self.pending.extend_from_slice(now);
        if self.pending.len() == self.block {
            self.submit()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: PartSink> Drop for BlockWriter<S> {
    fn drop(&mut self) {
        self.jobs = None;
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl EncodeError {
    /// Tells what an error of a [`BlockWriter`] means to whoever writes an object.
    #[must_use]
    pub fn stream(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            kind => Self::Compress(io::Error::new(kind, error.to_string())),
        }
    }
}

enum Compressor {
    Zstd(io::Result<zstd::bulk::Compressor<'static>>),
    Gzip(libdeflater::Compressor),
}

impl Compressor {
    fn new(compression: Compression, level: i32) -> Self {
        match compression {
            Compression::Zstd => Self::Zstd(zstd::bulk::Compressor::new(level).and_then(|mut c| {
                c.include_checksum(true)?;
                Ok(c)
            })),
            Compression::Gzip => {
                let level = libdeflater::CompressionLvl::new(level.clamp(1, 12)).unwrap_or_default();
                Self::Gzip(libdeflater::Compressor::new(level))
            }
        }
    }

    fn block(&mut self, block: &[u8]) -> Answer {
        match self {
            Self::Zstd(Ok(compressor)) => compressor.compress(block),
            Self::Zstd(Err(e)) => Err(io::Error::new(e.kind(), e.to_string())),
            Self::Gzip(compressor) => {
                let mut out = vec![0; compressor.gzip_compress_bound(block.len())];
                let size = compressor.gzip_compress(block, &mut out).map_err(|e| io::Error::other(format!("{e:?}")))?;
                out.truncate(size);
                Ok(out)
            }
        }
    }
}

/// Reads a compressed stream.
///
/// # Errors
/// When a zstd context cannot be made.
pub fn decompress<'a>(compression: Compression, input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(input)?),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(1 << 17, input))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: usize) -> Vec<u8> {
        (0..bytes / 8).flat_map(|i| format!("{:07} ", i * 7919 % 100_003).into_bytes()).collect()
    }

    #[test]
    fn streams_come_back_whatever_their_size() {
        for compression in [Compression::Zstd, Compression::Gzip] {
            for size in [0, 1, BLOCK - 8, BLOCK, BLOCK + 8, INLINE_BLOCK, 5 * BLOCK + 4000] {
                for threads in [0, 1, 3] {
                    let raw = if size == 1 { vec![7] } else { text(size) };
                    let mut writer = match threads {
                        0 => BlockWriter::inline(compression, 3, 100_000, Vec::new()),
                        _ => BlockWriter::new(compression, 3, threads, 100_000, Vec::new()),
                    };
                    writer.write_all(&raw).unwrap();
                    let (stored, done) = writer.finish().unwrap();
                    assert_eq!((done.raw_bytes, done.raw_sha256), (raw.len() as u64, Sha256Digest::of(&raw)));
                    assert_eq!((done.bytes, done.sha256), (stored.len() as u64, Sha256Digest::of(&stored)));
                    let mut back = Vec::new();
                    decompress(compression, stored.as_slice()).unwrap().read_to_end(&mut back).unwrap();
                    assert!(back == raw, "{compression:?} {size} {threads}");
                }
            }
        }
    }

    #[test]
    fn a_damaged_stream_is_an_error() {
        for compression in [Compression::Zstd, Compression::Gzip] {
            let mut writer = BlockWriter::new(compression, 3, 2, 100_000, Vec::new());
            writer.write_all(&text(300_000)).unwrap();
            let stored = writer.finish().unwrap().0;
            let mut damaged = stored.clone();
            damaged[stored.len() / 2] ^= 1;
            for broken in [&damaged[..], &stored[..stored.len() - 9]] {
                let mut back = Vec::new();
                assert!(decompress(compression, broken).unwrap().read_to_end(&mut back).is_err(), "{compression:?}");
            }
        }
    }
}
