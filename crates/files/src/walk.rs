//! Finds the files of a set.
//!
//! *Invariants*: links are never followed, also not on the way, other kinds of files never opened; what cannot be looked at is told, what
//! vanished meanwhile is not there. The result is in the order of paths, each folder before what is in it. *Memory*: the paths; folders
//! may be nested as deep as they are.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use dozo_model::{FileMeta, FilePath, FileTime};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::target::is_hidden;
use crate::{FilesError, Result, Rules, beneath};

/// Something that belongs to a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Path below the root.
    pub path: FilePath,
    /// What it is.
    pub kind: ItemKind,
    /// Owner, mode and times.
    pub meta: FileMeta,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemKind {
    /// A regular file of so many bytes.
    File(u64),
    /// A folder.
    Folder,
    /// A symbolic link, and what it says.
    Symlink(FilePath),
    /// Another name of the file at that path.
    Hardlink(FilePath),
    /// A named pipe.
    Fifo,
}

/// Something that belongs to a set and is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path below the root.
    pub path: FilePath,
    /// Why.
    pub reason: String,
    /// Whether it should have been: sockets and devices hold nothing that could be stored.
    pub error: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walked {
    /// What is taken.
    pub items: Vec<Item>,
    /// What is not.
    pub problems: Vec<Problem>,
}

/// Where a file set lies.
#[derive(Debug)]
pub struct Root {
    pub(crate) folder: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens a folder.
    ///
    /// # Errors
    /// [`FilesError::File`] when it is none, or cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(FilesError::system(path))?;
        Ok(Self { folder, path: path.to_owned() })
    }

    /// Returns its owner, mode and times.
    ///
    /// # Errors
    /// [`FilesError::File`].
    pub fn meta(&self) -> Result<FileMeta> {
        let found = rustix::fs::fstat(&self.folder).map_err(FilesError::system(&self.path))?;
        Ok(Names::default().meta(&found))
    }
}

/// Looks at everything below a root. Folders in `skip` are never looked into: repositories, above all.
///
/// # Errors
/// [`FilesError::File`] when the root cannot be read; [`FilesError::Cancelled`].
pub fn walk(root: &Root, rules: &Rules, skip: &[PathBuf], stopped: impl Fn() -> bool) -> Result<Walked> {
    let identity = |path: &PathBuf| rustix::fs::stat(path).ok().map(|s| (s.st_dev, s.st_ino));
    let mut walker = Walker {
        root,
        rules,
        skip: skip.iter().filter_map(identity).collect(),
        names: Names::default(),
        names_of: HashMap::new(),
        folders: HashMap::new(),
        found: Walked::default(),
    };
    let mut open = vec![FilePath::new("")];
    while let Some(folder) = open.pop() {
        if stopped() {
            return Err(FilesError::Cancelled);
        }
        match walker.folder(&folder, &mut open) {
            Err(e) if folder.bytes().is_empty() => return Err(FilesError::system(&root.path)(e)),
            // Or it went, or became something else, while it was looked at.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            // Whether something in it belongs to the set cannot be known.
            Err(e) => walker.problem(folder, e),
        }
    }
    Ok(walker.finish())
}

struct Walker<'a> {
    root: &'a Root,
    rules: &'a Rules,
    /// By device and inode.
    skip: Vec<(u64, u64)>,
    names: Names,
    /// Paths of files with several names, by device and inode.
    names_of: HashMap<(u64, u64), Vec<FilePath>>,
    /// Folders that are not taken by themselves: they are where something in them is.
    folders: HashMap<FilePath, FileMeta>,
    found: Walked,
}

impl Walker<'_> {
    fn folder(&mut self, folder: &FilePath, open: &mut Vec<FilePath>) -> std::result::Result<(), Errno> {
        let fd = beneath::open(&self.root.folder, folder, OFlags::DIRECTORY)?;
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let mut bytes = folder.bytes().to_vec();
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(name);
            self.one(&fd, entry.file_name(), FilePath::new(bytes), open);
        }
        Ok(())
    }

    fn one(&mut self, folder: &OwnedFd, name: &CStr, path: FilePath, open: &mut Vec<FilePath>) {
        let found = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return,
            Err(e) => {
                // Without knowing what it is: a folder's patterns match, too.
                if self.rules.takes(path.path(), false) || self.rules.takes(path.path(), true) {
                    self.problem(path, e);
                }
                return;
            }
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind == FileType::Directory {
            if self.rules.leaves_out(path.path(), true) || self.skip.contains(&(found.st_dev, found.st_ino)) {
                return;
            }
            let meta = self.names.meta(&found);
            if self.rules.takes(path.path(), true) {
                self.found.items.push(Item { path: path.clone(), kind: ItemKind::Folder, meta });
            } else {
                self.folders.insert(path.clone(), meta);
            }
            open.push(path);
            return;
        }
        // What an interrupted restore has left.
        let ours = kind == FileType::RegularFile && is_hidden(name.to_bytes());
        if ours || !self.rules.takes(path.path(), false) {
            return;
        }
        let kind = match kind {
            FileType::Symlink => match rustix::fs::readlinkat(folder, name, Vec::new()) {
                Ok(target) => ItemKind::Symlink(FilePath::new(target.into_bytes())),
                Err(Errno::NOENT | Errno::INVAL) => return,
                Err(e) => return self.problem(path, e),
            },
            FileType::RegularFile => {
                if found.st_nlink > 1 {
                    self.names_of.entry((found.st_dev, found.st_ino)).or_default().push(path.clone());
                }
                ItemKind::File(u64::try_from(found.st_size).unwrap_or(0))
            }
            FileType::Fifo => ItemKind::Fifo,
            other => {
                let what = if other == FileType::Socket { "a socket" } else { "a device" };
                self.found.problems.push(Problem { path, reason: format!("it is {what}"), error: false });
                return;
            }
        };
        let meta = self.names.meta(&found);
        self.found.items.push(Item { path, kind, meta });
    }

    /// Of several names of a file the first is the file; folders above what is taken are taken.
    fn finish(mut self) -> Walked {
        let mut first: HashMap<FilePath, FilePath> = HashMap::new();
        for names in self.names_of.values_mut() {
            names.sort_unstable();
            first.extend(names.iter().skip(1).map(|name| (name.clone(), names[0].clone())));
        }
        let mut above = Vec::new();
        for item in &mut self.found.items {
            if let Some(first) = first.remove(&item.path) {
                item.kind = ItemKind::Hardlink(first);
            }
            for path in item.path.above() {
                if let Some(meta) = self.folders.remove(&path) {
                    above.push(Item { path, kind: ItemKind::Folder, meta });
                }
            }
        }
        self.found.items.extend(above);
        self.found.items.sort_by(|a, b| a.path.cmp(&b.path));
        self.found.problems.sort_by(|a, b| a.path.cmp(&b.path));
        self.found
    }

    fn problem(&mut self, path: FilePath, error: Errno) {
        self.found.problems.push(Problem { path, reason: io::Error::from(error).to_string(), error: true });
    }
}

/// Names of users and groups, each asked for once.
#[derive(Debug, Default)]
struct Names {
    users: HashMap<u32, Option<String>>,
    groups: HashMap<u32, Option<String>>,
}

impl Names {
    fn meta(&mut self, found: &Stat) -> FileMeta {
        let (uid, gid) = (found.st_uid, found.st_gid);
        // A name service that does not answer leaves the number.
        let user = |uid| nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|u| u.name);
        let group = |gid| nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid)).ok().flatten().map(|g| g.name);
        let user = self.users.entry(uid).or_insert_with(|| user(uid)).clone();
        let group = self.groups.entry(gid).or_insert_with(|| group(gid)).clone();
        FileMeta { user, group, ..bare_meta(found) }
    }
}

/// What the system says of an open file, without names.
///
/// # Errors
/// What the system says.
pub fn meta_of(file: &File) -> io::Result<FileMeta> {
    Ok(bare_meta(&rustix::fs::fstat(file)?))
}

pub(crate) fn bare_meta(found: &Stat) -> FileMeta {
    let nanos = |n| u32::try_from(n).unwrap_or(0);
    FileMeta {
        mode: found.st_mode & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
        user: None,
        group: None,
        mtime: FileTime { seconds: found.st_mtime, nanos: nanos(found.st_mtime_nsec) },
        ctime: FileTime { seconds: found.st_ctime, nanos: nanos(found.st_ctime_nsec) },
        inode: found.st_ino,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn paths(walked: &Walked) -> Vec<String> {
        walked.items.iter().map(|i| i.path.to_string()).collect()
    }

    #[test]
    fn folders_come_with_what_is_taken_in_them_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in ["a/b/one.csv", "a/empty/x.txt", "z.csv", "repo/data/1.csv", "a/b/skipped/2.csv"] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), path).unwrap();
        }
        fs::hard_link(root.join("a/b/one.csv"), root.join("a/two.csv")).unwrap();
        symlink("/etc", root.join("etc.csv")).unwrap();
        symlink("..", root.join("a/loop")).unwrap();
        let rules = Rules::new(&["*.csv".into()], &["skipped/".into()]).unwrap();
        let opened = Root::open(root).unwrap();
        let walked = walk(&opened, &rules, &[root.join("repo")], || false).unwrap();
        assert_eq!(paths(&walked), ["a", "a/b", "a/b/one.csv", "a/two.csv", "etc.csv", "z.csv"]);
        let kind = |i: usize| walked.items[i].kind.clone();
        assert_eq!(kind(3), ItemKind::Hardlink(FilePath::new("a/b/one.csv")));
        assert_eq!(kind(4), ItemKind::Symlink(FilePath::new("/etc")));
        let all = walk(&opened, &Rules::new(&[], &[]).unwrap(), &[], || false).unwrap();
        assert!(paths(&all).contains(&"a/empty".to_owned()) && all.items.len() == 14, "{:?}", paths(&all));
        assert!(Root::open(&root.join("z.csv")).is_err());
        assert!(matches!(walk(&opened, &rules, &[], || true), Err(FilesError::Cancelled)));
    }

    #[test]
    fn folders_may_be_nested_deeper_than_any_path_is_long() {
        let folder = tempfile::tempdir().unwrap();
        let script = "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(2000):\n    os.mkdir('deep')\n    os.chdir('deep')\nopen('f', 'w').write('x')";
        let made = std::process::Command::new("python3").args(["-c", script]).arg(folder.path()).status().unwrap();
        assert!(made.success());
        let rules = Rules::new(&["f".into()], &[]).unwrap();
        let walked = walk(&Root::open(folder.path()).unwrap(), &rules, &[], || false).unwrap();
        assert_eq!((walked.items.len(), walked.problems.len()), (2001, 0));
        let removed = std::process::Command::new("rm").arg("-rf").arg(folder.path().join("deep")).status().unwrap();
        assert!(removed.success());
    }
}
