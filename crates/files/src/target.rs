//! The folder that a restore writes into, and nothing outside it.
//!
//! *Invariants*: every path is walked from the folder's own descriptor, name by name, and a link on the way is an error, whoever put it
//! there and whenever; nothing that exists is written on: a file gets a hidden name, and its own by a rename when it is whole.
//! *Crash behaviour*: what was not finished has a name that begins with `.dozo-restore-`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use dozo_model::{FileKind, FileMeta, FilePath, FileTime, random_suffix};
use nix::unistd::{Group, User};
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::{FilesError, Result, beneath};

/// What is done about owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// They are those of the list, by name where there is such a name, else by number. Only root can do that.
    Restore,
    /// Everything belongs to whoever restores.
    Ours,
    /// They are those of the list, by number, or it fails.
    Kept,
}

/// A folder that files are restored into.
#[derive(Debug)]
pub struct Target {
    root: OwnedFd,
    path: PathBuf,
    owners: Owners,
    replace: bool,
    us: u32,
    group: u32,
    made: bool,
    /// Of this host, by name.
    users: Numbers,
    groups: Numbers,
}

/// Numbers of users or groups by their names, as far as they were asked for; none = there is no such name.
type Numbers = Mutex<HashMap<String, Option<u32>>>;

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    Folder,
    Other,
}

/// Whether something stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupied {
    /// Nothing, or a folder where a folder comes.
    No,
    /// Something that a file may replace.
    Yes,
    /// A folder where none comes, or something else where one does: nothing replaces these.
    ByAnotherKind,
}

/// A file that is being made.
#[derive(Debug)]
pub struct NewFile {
    /// Where its content goes.
    pub file: File,
    folder: OwnedFd,
    hidden: OsString,
    kept: bool,
}

impl Target {
    /// Opens a folder, and makes it where it is not there. With `replace`, what stands at a file's place gives way to it.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn open(path: &Path, owners: Owners, replace: bool) -> Result<Self> {
        if let Some(above) = path.parent() {
            std::fs::create_dir_all(above).map_err(FilesError::file(above))?;
        }
        // What comes into it may be for its owner alone.
        let made = match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(FilesError::file(path)(e)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(FilesError::system(path))?;
        // Of a file system without locks nobody knows who else is there.
        if let Err(Errno::WOULDBLOCK) = rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive) {
            return Err(FilesError::Busy { path: path.to_owned() });
        }
        let (us, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let (users, groups) = (Numbers::default(), Numbers::default());
        Ok(Self { root, path: path.to_owned(), owners, replace, us, group, made, users, groups })
    }

    /// Tells whether the folder was not there before.
    #[must_use]
    pub fn made(&self) -> bool {
        self.made
    }

    /// Gives the folder itself owner, mode and times.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn describe_root(&self, meta: &FileMeta) -> Result<()> {
        let here = FilePath::new(".");
        self.describe_at(&self.root, here.path().as_os_str(), meta, false).map_err(FilesError::system(&self.path))
    }

    /// Deletes what an interrupted run has left in a folder. Nobody else writes into the target meanwhile.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn sweep(&self, path: &FilePath) -> Result<()> {
        let failed = self.failed(path);
        let folder = match beneath::open(&self.root, path, OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::ACCESS) => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        for entry in Dir::read_from(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let ours = is_hidden(name.to_bytes())
                && rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|found| found.st_uid == self.us && FileType::from_raw_mode(found.st_mode) != FileType::Directory);
            if ours {
                rustix::fs::unlinkat(&folder, name, AtFlags::empty()).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn failed<'a>(&self, path: &'a FilePath) -> impl Fn(Errno) -> FilesError + Copy + use<'a, '_> {
        move |e| {
            let full = self.path.join(path.path());
            match e {
                Errno::LOOP | Errno::NOTDIR => FilesError::InTheWay { path: full },
                e => FilesError::system(&full)(e),
            }
        }
    }

    fn parent<'a>(&self, path: &'a FilePath, make: bool) -> std::result::Result<(OwnedFd, &'a OsStr), Errno> {
        beneath::parent(&self.root, path, make)
    }

    fn there(&self, path: &FilePath) -> Result<There> {
        let failed = self.failed(path);
        let (folder, name) = match self.parent(path, false) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(There::Nothing),
            Err(e) => return Err(failed(e)),
        };
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => Ok(There::Folder),
            Ok(_) => Ok(There::Other),
            Err(Errno::NOENT) => Ok(There::Nothing),
            Err(e) => Err(failed(e)),
        }
    }

    /// Tells whether something stands where a path is to be restored; folders may stand where folders come.
    ///
    /// # Errors
    /// [`FilesError::File`], also when a link stands in the way.
    pub fn occupied(&self, path: &FilePath, comes_folder: bool) -> Result<Occupied> {
        Ok(match (self.there(path)?, comes_folder) {
            (There::Nothing, _) | (There::Folder, true) => Occupied::No,
            (There::Other, false) => Occupied::Yes,
            (There::Folder, false) | (There::Other, true) => Occupied::ByAnotherKind,
        })
    }

    /// Opens a regular file of ours that stands there, also one that not even we may read: it has its mode again before this returns.
    /// None = it is something else, or somebody else's.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn unlocked(&self, path: &FilePath) -> Result<Option<File>> {
        if let Some(file) = self.existing(path)? {
            return Ok(Some(file));
        }
        let failed = self.failed(path);
        let (folder, name) = self.parent(path, false).map_err(failed)?;
        let found = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        if !regular || found.st_uid != self.us || found.st_mode & 0o400 != 0 {
            return Ok(None);
        }
        let with = |mode| rustix::fs::chmodat(&folder, name, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(failed);
        with(found.st_mode | 0o400)?;
        let opened = self.existing(path);
        with(found.st_mode)?;
        opened
    }

    /// Opens a regular file that stands there; none = it is something else, or may not be read.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn existing(&self, path: &FilePath) -> Result<Option<File>> {
        let failed = self.failed(path);
        match beneath::open(&self.root, path, OFlags::empty()) {
            Ok(fd) => {
                let file = File::from(fd);
                let regular = file.metadata().map_err(FilesError::file(path.path()))?.is_file();
                Ok(regular.then_some(file))
            }
            Err(Errno::LOOP | Errno::NXIO | Errno::ACCESS) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Tells whether a link or a pipe stands there as it is to be.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn is(&self, path: &FilePath, kind: &FileKind) -> Result<bool> {
        let failed = self.failed(path);
        let (folder, name) = self.parent(path, false).map_err(failed)?;
        let found = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        Ok(match kind {
            FileKind::Symlink { target } => {
                rustix::fs::readlinkat(&folder, name, Vec::new()).is_ok_and(|says| says.to_bytes() == target.bytes())
            }
            FileKind::Hardlink { target } => {
                let other = self.parent(target, false);
                let other = other.and_then(|(folder, name)| rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW));
                other.is_ok_and(|other| (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino))
            }
            FileKind::Fifo => FileType::from_raw_mode(found.st_mode) == FileType::Fifo,
            FileKind::File(_) | FileKind::Folder => false,
        })
    }

    /// Deletes a file.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn remove(&self, path: &FilePath) -> Result<()> {
        let failed = self.failed(path);
        let (folder, name) = self.parent(path, false).map_err(failed)?;
        rustix::fs::unlinkat(&folder, name, AtFlags::empty()).map_err(failed)
    }

    /// Makes a folder, for its owner alone until [`Target::describe`].
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn folder(&self, path: &FilePath) -> Result<()> {
        let failed = self.failed(path);
        let (folder, name) = self.parent(path, true).map_err(failed)?;
        match rustix::fs::mkdirat(&folder, name, Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let found = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
                    return Err(failed(Errno::EXIST));
                }
                // One of ours that an earlier restore has closed: it is closed again in the end.
                if found.st_uid == self.us && found.st_mode & 0o700 != 0o700 {
                    let mode = Mode::from_raw_mode(found.st_mode | 0o700);
                    rustix::fs::chmodat(&folder, name, mode, AtFlags::empty()).map_err(failed)?;
                }
                Ok(())
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// Begins a file.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn begin(&self, path: &FilePath) -> Result<NewFile> {
        let failed = self.failed(path);
        let (folder, _) = self.parent(path, true).map_err(failed)?;
        let hidden = hidden();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&folder, &hidden, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        Ok(NewFile { file: File::from(fd), folder, hidden, kept: false })
    }

    /// Opens a file that is being made, to read what was written.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn read_back(&self, new: &NewFile) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&new.folder, &new.hidden, flags, Mode::empty());
        opened.map(File::from).map_err(FilesError::system(&self.path))
    }

    /// Gives a file that is whole its owner, mode, times and name.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn finish(&self, mut new: NewFile, path: &FilePath, meta: &FileMeta) -> Result<()> {
        let failed = self.failed(path);
        self.describe_at(&new.folder, &new.hidden, meta, false).map_err(failed)?;
        let (_, name) = self.parent(path, false).map_err(failed)?;
        self.rename(&new.folder, &new.hidden, name).map_err(failed)?;
        new.kept = true;
        Ok(())
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn symlink(&self, path: &FilePath, target: &FilePath, meta: &FileMeta) -> Result<()> {
        self.put(path, |folder, hidden| {
            rustix::fs::symlinkat(target.path(), folder, hidden)?;
            self.describe_at(folder, hidden, meta, true)
        })
    }

    /// Gives a file that was restored another name.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn hardlink(&self, path: &FilePath, target: &FilePath) -> Result<()> {
        let (from, name) = self.parent(target, false).map_err(self.failed(target))?;
        // Two names of one file are not renamed over each other: the new one is the place itself where nothing stands there.
        if self.there(path)? == There::Nothing {
            let failed = self.failed(path);
            let (folder, last) = self.parent(path, true).map_err(failed)?;
            return rustix::fs::linkat(&from, name, &folder, last, AtFlags::empty()).map_err(failed);
        }
        self.put(path, |folder, hidden| rustix::fs::linkat(&from, name, folder, hidden, AtFlags::empty()))
    }

    /// Makes a named pipe.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn fifo(&self, path: &FilePath, meta: &FileMeta) -> Result<()> {
        self.put(path, |folder, hidden| {
            rustix::fs::mknodat(folder, hidden, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            self.describe_at(folder, hidden, meta, false)
        })
    }

    /// Gives what stands there owner, mode and times; folders when everything in them is there.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn describe(&self, path: &FilePath, meta: &FileMeta) -> Result<()> {
        let failed = self.failed(path);
        let (folder, name) = self.parent(path, false).map_err(failed)?;
        let found = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
        self.describe_at(&folder, name, meta, link).map_err(failed)
    }

    /// Brings everything to the disk.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.root).map_err(FilesError::system(&self.path))
    }

    fn put(&self, path: &FilePath, make: impl FnOnce(&OwnedFd, &OsStr) -> std::result::Result<(), Errno>) -> Result<()> {
        let failed = self.failed(path);
        let (folder, name) = self.parent(path, true).map_err(failed)?;
        let hidden = hidden();
        let made = make(&folder, &hidden).and_then(|()| self.rename(&folder, &hidden, name));
        if made.is_err() {
            // It may not have come so far.
            let _ = rustix::fs::unlinkat(&folder, &hidden, AtFlags::empty());
        }
        made.map_err(failed)
    }

    fn rename(&self, folder: &OwnedFd, hidden: &OsStr, name: &OsStr) -> std::result::Result<(), Errno> {
        if self.replace {
            rustix::fs::renameat(folder, hidden, folder, name)?;
            // Two names of the same file: nothing was renamed.
            return match rustix::fs::unlinkat(folder, hidden, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(e) => Err(e),
            };
        }
        match rustix::fs::renameat_with(folder, hidden, folder, name, RenameFlags::NOREPLACE) {
            // The file system does not know that: look, then rename.
            Err(Errno::INVAL | Errno::NOSYS) => match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => rustix::fs::renameat(folder, hidden, folder, name),
                Ok(_) => Err(Errno::EXIST),
                Err(e) => Err(e),
            },
            renamed => renamed,
        }
    }

    fn describe_at(&self, folder: &OwnedFd, name: &OsStr, meta: &FileMeta, link: bool) -> std::result::Result<(), Errno> {
        let mut mode = meta.mode;
        let (uid, gid) = self.ids(meta);
        if self.owners == Owners::Ours {
            // What ran as its owner or group must not run as another one.
            mode &= if uid == self.us { 0o7777 } else { !0o4000 };
            mode &= if gid == self.group { 0o7777 } else { !0o2000 };
        } else {
            // Also without root: whoever owns a file may give it to each of his groups.
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if !link {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(folder, name, flags, Mode::empty())?;
            // A descriptor of a path cannot be changed; its name below /proc can, and no link is followed there.
            let through = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened.as_fd()));
            rustix::fs::chmod(through, Mode::from_raw_mode(mode))?;
        }
        let times = Timestamps { last_access: timespec(meta.mtime), last_modification: timespec(meta.mtime) };
        rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Owner and group on this host: by name where there is such a name.
    fn ids(&self, meta: &FileMeta) -> (u32, u32) {
        if self.owners != Owners::Restore {
            return (meta.uid, meta.gid);
        }
        let user = |name: &str| User::from_name(name).ok().flatten().map(|u| u.uid.as_raw());
        let group = |name: &str| Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw());
        let user = meta.user.as_deref().and_then(|name| known(&self.users, name, user));
        let group = meta.group.as_deref().and_then(|name| known(&self.groups, name, group));
        (user.unwrap_or(meta.uid), group.unwrap_or(meta.gid))
    }
}

/// Returns the number of a name, which is asked for once.
fn known(numbers: &Numbers, name: &str, ask: impl Fn(&str) -> Option<u32>) -> Option<u32> {
    match numbers.lock() {
        Ok(mut numbers) => *numbers.entry(name.to_owned()).or_insert_with(|| ask(name)),
        Err(_) => ask(name),
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            // What is given up leaves nothing behind; after a crash it lies there under its hidden name.
            let _ = rustix::fs::unlinkat(&self.folder, &self.hidden, AtFlags::empty());
        }
    }
}

/// What the names of unfinished files begin with, and how many letters and digits follow.
const HIDDEN: (&str, usize) = (".dozo-restore-", 10);

fn hidden() -> OsString {
    format!("{}{}", HIDDEN.0, random_suffix(&mut rand::rng(), HIDDEN.1)).into()
}

/// Tells whether a name is that of an unfinished file.
pub(crate) fn is_hidden(name: &[u8]) -> bool {
    let rest = name.strip_prefix(HIDDEN.0.as_bytes());
    rest.is_some_and(|r| r.len() == HIDDEN.1 && r.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
}

fn timespec(time: FileTime) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn meta(mode: u32) -> FileMeta {
        FileMeta {
            mode,
            uid: 4_000_000,
            gid: 4_000_000,
            mtime: FileTime { seconds: 1_000_000_000, nanos: 7 },
            ..FileMeta::default()
        }
    }

    fn write(target: &Target, path: &str, mode: u32) -> Result<()> {
        let path = FilePath::new(path);
        let mut new = target.begin(&path)?;
        new.file.write_all(b"content").unwrap();
        target.finish(new, &path, &meta(mode))
    }

    #[test]
    fn files_get_what_the_list_says() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(&folder.path().join("new"), Owners::Ours, false).unwrap();
        target.folder(&FilePath::new("a/b")).unwrap();
        write(&target, "a/b/f", 0o6755).unwrap();
        target.hardlink(&FilePath::new("a/g"), &FilePath::new("a/b/f")).unwrap();
        target.symlink(&FilePath::new("a/s"), &FilePath::new("../../etc"), &meta(0o777)).unwrap();
        target.fifo(&FilePath::new("a/p"), &meta(0o600)).unwrap();
        target.describe(&FilePath::new("a"), &meta(0o500)).unwrap();
        let at = |name: &str| folder.path().join("new").join(name);
        let found = fs::metadata(at("a/b/f")).unwrap();
        // The bits that would make it run as another owner are gone.
        assert_eq!((found.mode() & 0o7777, found.mtime(), found.mtime_nsec(), found.nlink()), (0o755, 1_000_000_000, 7, 2));
        assert_eq!(fs::read_link(at("a/s")).unwrap(), Path::new("../../etc"));
        assert_eq!(fs::symlink_metadata(at("a/s")).unwrap().mtime(), 1_000_000_000);
        assert_eq!(fs::metadata(at("a")).unwrap().permissions().mode() & 0o777, 0o500);
        let names: Vec<_> = fs::read_dir(at("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(write(&target, "a/b/f", 0o600).is_err());
        drop(target.begin(&FilePath::new("given-up")).unwrap());
        assert_eq!(fs::read_dir(at("")).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_written_behind_a_link_or_above_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (outside, inside) = (folder.path().join("outside"), folder.path().join("inside"));
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(&inside).unwrap();
        fs::write(outside.join("victim"), "old").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink(outside.join("victim"), inside.join("file")).unwrap();
        for replace in [false, true] {
            let target = Target::open(&inside, Owners::Ours, replace).unwrap();
            for path in ["link/new", "link/victim", "../outside/new", "/etc/new", "link/a/b"] {
                assert!(write(&target, path, 0o644).is_err(), "{path}");
                let path = FilePath::new(path);
                assert!(target.folder(&path).is_err() && target.fifo(&path, &meta(0o600)).is_err());
                assert!(
                    target.symlink(&path, &FilePath::new("x"), &meta(0o600)).is_err()
                        && target.describe(&path, &meta(0)).is_err()
                );
            }
            assert!(target.folder(&FilePath::new("link")).is_err());
            // Where a link stands for a file, it gives way, or nothing does.
            assert_eq!(write(&target, "file", 0o600).is_ok(), replace);
        }
        assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "old");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(inside.join("file")).unwrap(), "content");
    }
}
