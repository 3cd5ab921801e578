//! Writes members of a tar object, and digests what it reads.
//!
//! GNU format, long names as `L` and `K` headers, files with holes in the PAX format 1.0 of GNU tar: GNU tar, bsdtar and Python's
//! `tarfile` read all of it (<https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html>). *Invariant*: what is told of a
//! file is what was stored of it: mode, times and size are those of the moment between whose two looks its bytes were read. One that
//! changed between them is read again; the members of the attempts before stay, and no list names them.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::time::Duration;

use dozo_model::{FileData, FileEntry, FileKind, FileMeta, FilePath, Sha256Digest, Sha256Hasher};
use rustix::fs::{OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::unpack::RANGES_MAX;
use crate::walk::bare_meta;
use crate::{FilesError, Item, ItemKind, Result, Root, beneath};

/// Files up to this size are read before anything of them is written.
const SMALL: u64 = 1 << 20;
const BUFFER: usize = 1 << 17;
/// How often a file that changes is read, and the pause before each further time.
const ATTEMPTS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(250)];
/// Files above this size are not stored again because they changed while they were read.
const AGAIN: u64 = 64 << 20;
/// Bytes of a hole that are digested at a time.
const HOLE: u64 = 16 << 20;
/// Size of a tar block.
const BLOCK: u64 = 512;

/// What became of an item.
#[derive(Debug)]
pub enum Added {
    /// It is a member; its number in the list of tar objects is left to the caller.
    Stored(Box<FileEntry>),
    /// It was gone, or something else, when it was read.
    Vanished,
    /// It could not be read.
    Unreadable(io::Error),
}

/// Writes a tar object.
pub struct PackWriter<W: Write> {
    builder: Builder<Counter<W>>,
    members: u32,
}

struct Counter<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A range of a file that holds data.
type Extent = (u64, u64);

impl<W: Write> PackWriter<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Self { builder: Builder::new(Counter { out, bytes: 0 }), members: 0 }
    }

    /// Ends it. Returns what it was written to, how many members it has, and its size.
    ///
    /// # Errors
    /// [`FilesError::Write`].
    pub fn finish(self) -> Result<(W, u32, u64)> {
        let Counter { out, bytes } = self.builder.into_inner().map_err(FilesError::Write)?;
        Ok((out, self.members, bytes))
    }

    /// Adds an item; `advance` is told of bytes as they are read.
    ///
    /// # Errors
    /// [`FilesError::Write`], and what `advance` says. What is wrong with the item itself is in [`Added`].
    pub fn add<E: From<FilesError>>(
        &mut self,
        root: &Root,
        item: &Item,
        mut advance: impl FnMut(u64) -> std::result::Result<(), E>,
    ) -> std::result::Result<Added, E> {
        let (entry_type, kind) = match &item.kind {
            ItemKind::File(_) => return self.file(root, item, &mut advance),
            ItemKind::Folder => (EntryType::Directory, FileKind::Folder),
            ItemKind::Symlink(target) => (EntryType::Symlink, FileKind::Symlink { target: target.clone() }),
            ItemKind::Hardlink(target) => (EntryType::Link, FileKind::Hardlink { target: target.clone() }),
            ItemKind::Fifo => (EntryType::Fifo, FileKind::Fifo),
        };
        let mut header = header_of(&item.meta, entry_type);
        if let FileKind::Symlink { target } | FileKind::Hardlink { target } = &kind
            && header.set_link_name_literal(target.bytes()).is_err()
        {
            self.long(EntryType::GNULongLink, target.bytes())?;
        }
        match kind {
            // Its name ends in a slash there.
            FileKind::Folder => self.member(&mut header, &[item.path.bytes(), b"/"].concat(), io::empty())?,
            _ => self.member(&mut header, item.path.bytes(), io::empty())?,
        }
        Ok(Added::Stored(Box::new(self.entry(item, kind, item.meta.clone()))))
    }

    /// Writes a member as it is called: the library tidies names, and refuses long ones that are not UTF-8.
    fn member(&mut self, header: &mut Header, name: &[u8], data: impl Read) -> Result<()> {
        let field = &mut header.as_old_mut().name;
        let shown = name.len().min(field.len());
        field[..shown].copy_from_slice(&name[..shown]);
        if name.len() > shown {
            self.long(EntryType::GNULongName, name)?;
        }
        header.set_cksum();
        self.builder.append(header, data).map_err(FilesError::Write)
    }

    /// Writes a name that the header of the next member has no room for.
    fn long(&mut self, kind: EntryType, name: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(name.len() as u64 + 1);
        header.set_cksum();
        self.builder.append(&header, name.chain([0].as_slice())).map_err(FilesError::Write)
    }

    fn entry(&mut self, item: &Item, kind: FileKind, meta: FileMeta) -> FileEntry {
        self.members += 1;
        FileEntry { path: item.path.clone(), kind, meta, pack: 0, member: self.members - 1 }
    }

    fn file<E: From<FilesError>>(
        &mut self,
        root: &Root,
        item: &Item,
        advance: &mut impl FnMut(u64) -> std::result::Result<(), E>,
    ) -> std::result::Result<Added, E> {
        let mut entry = None;
        for (i, pause) in ATTEMPTS.into_iter().enumerate() {
            std::thread::sleep(pause);
            let opened = match open(root, &item.path) {
                Ok(Some(opened)) => opened,
                Ok(None) => return Ok(Added::Vanished),
                Err(e) => return Ok(Added::Unreadable(e)),
            };
            let found = match Attempt::begin(opened, item) {
                Ok(attempt) => self.attempt(attempt, item, i + 1 == ATTEMPTS.len(), advance)?,
                Err(e) => Tried::Unreadable(e),
            };
            match found {
                Tried::Stored(stored) => return Ok(Added::Stored(stored)),
                Tried::Changed(stored) => entry = stored,
                Tried::Unreadable(e) => return Ok(Added::Unreadable(e)),
            }
        }
        Ok(entry.map_or(Added::Vanished, Added::Stored))
    }

    fn attempt<E: From<FilesError>>(
        &mut self,
        mut attempt: Attempt,
        item: &Item,
        last: bool,
        advance: &mut impl FnMut(u64) -> std::result::Result<(), E>,
    ) -> std::result::Result<Tried, E> {
        let size = attempt.size;
        if size <= SMALL && attempt.extents.is_none() {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            if let Err(e) = (&attempt.file).take(size).read_to_end(&mut bytes) {
                return Ok(Tried::Unreadable(e));
            }
            advance(bytes.len() as u64)?;
            let mut hasher = Sha256Hasher::default();
            hasher.update(&bytes);
            let sha256 = hasher.finish();
            let changed = match attempt.changed(bytes.len() as u64) {
                Ok(changed) => changed && !attempt.grew(sha256, advance)?,
                Err(e) => return Ok(Tried::Unreadable(e)),
            };
            if changed && !last {
                return Ok(Tried::Changed(None));
            }
            // It shrank: what there was of it is what is stored.
            attempt.size = bytes.len() as u64;
            let mut header = header_of(&attempt.meta, EntryType::Regular);
            header.set_size(attempt.size);
            self.member(&mut header, item.path.bytes(), bytes.as_slice())?;
            let data = FileData { size: attempt.size, sha256, sparse: false, changed };
            let entry = Box::new(self.entry(item, FileKind::File(data), attempt.meta));
            return Ok(Tried::Stored(entry));
        }
        let sparse = attempt.extents.is_some();
        let mut reader = Content::new(&attempt, advance);
        let empty = if sparse { Header::new_ustar() } else { Header::new_gnu() };
        let mut header = described(empty, &attempt.meta, EntryType::Regular);
        let left = reader.left;
        let mut buffered = BufReader::with_capacity(BUFFER, &mut reader);
        let written = match &attempt.extents {
            None => {
                header.set_size(left);
                self.member(&mut header, item.path.bytes(), &mut buffered)
            }
            Some(extents) => {
                let map = sparse_map(extents, size);
                header.set_size(left + map.len() as u64);
                // GNU tar looks for such maps behind POSIX headers alone. The true name stands before it.
                self.builder
                    .append_pax_extensions([
                        ("GNU.sparse.major", b"1".as_slice()),
                        ("GNU.sparse.minor", b"0"),
                        ("GNU.sparse.name", item.path.bytes()),
                        ("GNU.sparse.realsize", size.to_string().as_bytes()),
                    ])
                    .map_err(FilesError::Write)
                    .and_then(|()| self.member(&mut header, b"GNUSparseFile.0/file", map.as_slice().chain(&mut buffered)))
            }
        };
        let (read, failed, stopped) = (reader.read, reader.failed.take(), reader.stopped.take());
        if let Some(stopped) = stopped {
            return Err(stopped);
        }
        written?;
        let sha256 = reader.finish(size)?;
        // The member is there, filled with zeros where nothing could be read; only a list makes it count.
        let changed = match (failed, attempt.changed(read)) {
            (Some(e), _) | (None, Err(e)) => {
                self.members += 1;
                return Ok(Tried::Unreadable(e));
            }
            (None, Ok(changed)) => changed && !attempt.grew(sha256, advance)?,
        };
        // What is large is not stored again and again for that.
        let last = last || size > AGAIN;
        let data = FileData { size, sha256, sparse, changed };
        let entry = Box::new(self.entry(item, FileKind::File(data), attempt.meta.clone()));
        Ok(if changed && !last { Tried::Changed(Some(entry)) } else { Tried::Stored(entry) })
    }
}

/// Reads a file and tells whether its content is `data`: then, what the system says of it.
///
/// # Errors
/// What `advance` says, which is told of bytes as they are read. A file that cannot be read is another one.
pub fn same_content<E: From<FilesError>>(
    root: &Root,
    item: &Item,
    data: &FileData,
    mut advance: impl FnMut(u64) -> std::result::Result<(), E>,
) -> std::result::Result<Option<FileMeta>, E> {
    let attempt = match open(root, &item.path).and_then(|file| file.map(|f| Attempt::begin(f, item)).transpose()) {
        Ok(Some(attempt)) if attempt.size == data.size => attempt,
        _ => return Ok(None),
    };
    let Some((read, sha256)) = attempt.digest(&mut advance)? else { return Ok(None) };
    let stood = attempt.changed(read).is_ok_and(|changed| !changed);
    Ok((stood && sha256 == data.sha256).then_some(attempt.meta))
}

enum Tried {
    Stored(Box<FileEntry>),
    /// It is to be read again.
    Changed(Option<Box<FileEntry>>),
    Unreadable(io::Error),
}

/// A file that is being read.
struct Attempt {
    file: File,
    meta: FileMeta,
    size: u64,
    /// Where its data is; none = all of it.
    extents: Option<Vec<Extent>>,
}

impl Attempt {
    fn begin(file: File, item: &Item) -> io::Result<Self> {
        let found = rustix::fs::fstat(&file)?;
        let (size, blocks) = (size_of(&found), u64::try_from(found.st_blocks).unwrap_or(0));
        // What is shorter on the disk than it says has holes, or is compressed by the file system, which has none.
        let extents = if blocks * BLOCK < size { extents(&file, size)? } else { None };
        let meta = FileMeta { user: item.meta.user.clone(), group: item.meta.group.clone(), ..bare_meta(&found) };
        Ok(Self { file, meta, size, extents })
    }

    /// Tells whether what was read still stands at the beginning of a file that only grew: then it was all there at one moment.
    fn grew<E>(
        &self,
        sha256: Sha256Digest,
        advance: &mut impl FnMut(u64) -> std::result::Result<(), E>,
    ) -> std::result::Result<bool, E> {
        let still = self.file.metadata().is_ok_and(|found| found.len() >= self.size);
        if !still || self.extents.is_some() || (&self.file).seek(io::SeekFrom::Start(0)).is_err() {
            return Ok(false);
        }
        Ok(self.digest(advance)? == Some((self.size, sha256)))
    }

    /// Reads it to its end. Returns how many bytes it gave, and their digest with that of its holes; none = it cannot be read.
    fn digest<E>(
        &self,
        advance: &mut impl FnMut(u64) -> std::result::Result<(), E>,
    ) -> std::result::Result<Option<(u64, Sha256Digest)>, E> {
        let mut reader = Content::new(self, advance);
        let copied = io::copy(&mut BufReader::with_capacity(BUFFER, &mut reader), &mut io::sink());
        if let Some(stopped) = reader.stopped.take() {
            return Err(stopped);
        }
        let (read, whole) = (reader.read, copied.is_ok() && reader.failed.is_none());
        let sha256 = reader.finish(self.size)?;
        Ok(whole.then_some((read, sha256)))
    }

    /// Tells whether the file is another one than when it was opened, or gave fewer bytes than it has.
    fn changed(&self, read: u64) -> io::Result<bool> {
        let found = rustix::fs::fstat(&self.file)?;
        let now = bare_meta(&found);
        let expected = self.extents.as_ref().map_or(self.size, |extents| extents.iter().map(|(_, length)| length).sum());
        Ok(read < expected || (now.mtime, now.ctime, size_of(&found)) != (self.meta.mtime, self.meta.ctime, self.size))
    }
}

fn size_of(found: &Stat) -> u64 {
    u64::try_from(found.st_size).unwrap_or(0)
}

/// Opens a regular file for reading, and nothing else: a link is not followed, a pipe not waited for.
fn open(root: &Root, path: &FilePath) -> io::Result<Option<File>> {
    let file = match beneath::open(&root.folder, path, OFlags::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Returns where a file has data; none = it has no holes, or its file system does not tell.
fn extents(file: &File, size: u64) -> io::Result<Option<Vec<Extent>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let from = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(from) => from.min(size),
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let to = rustix::fs::seek(file, SeekFrom::Hole(from))?.min(size);
        if to <= from {
            break;
        }
        found.push((from, to - from));
        at = to;
    }
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    // More of them than a reader takes are stored as if there were none.
    let too_many = found.len() as u64 >= RANGES_MAX;
    Ok((found != [(0, size)] && !too_many).then_some(found))
}

/// The map before the data of a file with holes: numbers, one a line, to the end of a block.
fn sparse_map(extents: &[Extent], size: u64) -> Vec<u8> {
    // GNU tar ends with an empty range, so that a hole at the end has its size.
    let ranges = extents.iter().copied().chain([(size, 0)]);
    let mut text = format!("{}\n", extents.len() + 1);
    ranges.for_each(|(offset, length)| text.push_str(&format!("{offset}\n{length}\n")));
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn header_of(meta: &FileMeta, kind: EntryType) -> Header {
    described(Header::new_gnu(), meta, kind)
}

fn described(mut header: Header, meta: &FileMeta, kind: EntryType) -> Header {
    header.set_entry_type(kind);
    header.set_mode(meta.mode);
    header.set_uid(meta.uid.into());
    header.set_gid(meta.gid.into());
    header.set_mtime(u64::try_from(meta.mtime.seconds).unwrap_or(0));
    // A name that is too long for the header stands in the list.
    let _ = meta.user.as_deref().map(|name| header.set_username(name));
    let _ = meta.group.as_deref().map(|name| header.set_groupname(name));
    header.set_size(0);
    header
}

/// The data of a file, exactly as many bytes as its header says, digested with its holes.
struct Content<'a, E, F> {
    file: &'a File,
    whole: [Extent; 1],
    extents: Option<&'a [Extent]>,
    next: usize,
    /// Bytes of the range that is being read, and of all ranges, that are still to come.
    in_range: u64,
    left: u64,
    /// Where the digest has come to.
    digested: u64,
    hasher: Sha256Hasher,
    /// Bytes that the file gave.
    read: u64,
    ended: bool,
    failed: Option<io::Error>,
    stopped: Option<E>,
    advance: &'a mut F,
}

impl<'a, E, F: FnMut(u64) -> std::result::Result<(), E>> Content<'a, E, F> {
    fn new(attempt: &'a Attempt, advance: &'a mut F) -> Self {
        let whole = [(0, attempt.size)];
        let extents = attempt.extents.as_deref();
        let left = extents.map_or(attempt.size, |e| e.iter().map(|(_, length)| length).sum());
        Self {
            file: &attempt.file,
            whole,
            extents,
            next: 0,
            in_range: 0,
            left,
            digested: 0,
            hasher: Sha256Hasher::default(),
            read: 0,
            ended: false,
            failed: None,
            stopped: None,
            advance,
        }
    }

    fn zeros_to(&mut self, offset: u64) -> std::result::Result<(), E> {
        let advance = &mut *self.advance;
        // Holes are not read: they only take time.
        zeros(&mut self.hasher, offset.saturating_sub(self.digested), |_| advance(0))?;
        self.digested = self.digested.max(offset);
        Ok(())
    }

    /// Returns the digest of all `size` bytes.
    fn finish(mut self, size: u64) -> std::result::Result<Sha256Digest, E> {
        self.zeros_to(size)?;
        Ok(self.hasher.finish())
    }

    fn some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.in_range == 0 {
            let ranges: &[Extent] = self.extents.unwrap_or(&self.whole);
            let Some((offset, length)) = ranges.get(self.next).copied() else { return Ok(0) };
            self.next += 1;
            self.in_range = length;
            if let Err(stopped) = self.zeros_to(offset) {
                self.stopped = Some(stopped);
                return Err(io::Error::other("stopped"));
            }
            if !self.ended {
                rustix::fs::seek(self.file, SeekFrom::Start(offset))?;
            }
        }
        let most = usize::try_from(self.in_range).unwrap_or(usize::MAX).min(buffer.len()).min(BUFFER);
        let buffer = &mut buffer[..most];
        let n = if self.ended { 0 } else { self.file.read(buffer)? };
        if n == 0 {
            // It is shorter than it was: the header's promise is kept with zeros.
            self.ended = true;
            buffer.fill(0);
            return Ok(most);
        }
        self.read += n as u64;
        Ok(n)
    }
}

impl<E, F: FnMut(u64) -> std::result::Result<(), E>> Read for Content<'_, E, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = match self.some(buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) if self.stopped.is_some() => return Err(e),
            Err(e) => {
                self.failed = Some(e);
                self.ended = true;
                self.some(buffer)?
            }
        };
        self.hasher.update(&buffer[..n]);
        self.digested += n as u64;
        self.in_range -= n as u64;
        self.left -= n as u64;
        if let Err(stopped) = (self.advance)(n as u64) {
            self.stopped = Some(stopped);
            return Err(io::Error::other("stopped"));
        }
        Ok(n)
    }
}

/// Digests so many zeros; `each` is told of them, a few milliseconds' worth at a time.
pub(crate) fn zeros<E>(
    hasher: &mut Sha256Hasher,
    mut count: u64,
    mut each: impl FnMut(u64) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    while count > 0 {
        let some = count.min(HOLE);
        let mut left = some;
        while left > 0 {
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            hasher.update(&ZEROS[..n]);
            left -= n as u64;
        }
        each(some)?;
        count -= some;
    }
    Ok(())
}
