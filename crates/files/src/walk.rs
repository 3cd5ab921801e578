//! Finds the files of a set.
//!
//! *Invariants*: links are never followed, other kinds of files never opened; what cannot be looked at is told, what vanished
//! meanwhile is not there. The result is in the order of paths, each folder before what is in it.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use dozo_model::{FileMeta, FilePath, FileTime};

use crate::{FilesError, Result, Rules};

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

/// Looks at everything below a root. `skip` is a folder that is never looked into, such as the repository itself.
///
/// # Errors
/// [`FilesError::File`] when the root is no folder or cannot be read; [`FilesError::Cancelled`].
pub fn walk(root: &Path, rules: &Rules, skip: Option<&Path>, stopped: impl Fn() -> bool) -> Result<Walked> {
    let mut walker = Walker {
        root,
        rules,
        skip,
        stopped: &stopped,
        names: Names::default(),
        first: HashMap::new(),
        open: Vec::new(),
        found: Walked::default(),
    };
    let listed = walker.list(root).map_err(FilesError::file(root))?;
    walker.folder(&FilePath::new(""), listed)?;
    Ok(walker.found)
}

struct Walker<'a> {
    root: &'a Path,
    rules: &'a Rules,
    skip: Option<&'a Path>,
    stopped: &'a dyn Fn() -> bool,
    names: Names,
    /// Where a file with several names was found first, by device and inode.
    first: HashMap<(u64, u64), FilePath>,
    /// Folders above what is looked at that are not taken yet: they are once something in them is.
    open: Vec<Item>,
    found: Walked,
}

impl Walker<'_> {
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = fs::read_dir(folder)?.map(|e| Ok(PathBuf::from(e?.file_name()))).collect::<io::Result<Vec<_>>>()?;
        names.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
        Ok(names)
    }

    fn folder(&mut self, folder: &FilePath, names: Vec<PathBuf>) -> Result<()> {
        for name in names {
            if (self.stopped)() {
                return Err(FilesError::Cancelled);
            }
            let mut bytes = folder.bytes().to_vec();
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(name.as_os_str().as_bytes());
            self.one(FilePath::new(bytes))?;
        }
        Ok(())
    }

    fn one(&mut self, path: FilePath) -> Result<()> {
        let full = self.root.join(path.path());
        let found = match full.symlink_metadata() {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => {
                // Without knowing what it is: a folder's patterns match, too.
                if self.rules.takes(path.path(), false) || self.rules.takes(path.path(), true) {
                    self.problem(path, &e);
                }
                return Ok(());
            }
        };
        let kind = found.file_type();
        if kind.is_dir() {
            return self.inner(&path, &full, &found);
        }
        if !self.rules.takes(path.path(), false) {
            return Ok(());
        }
        let kind = if kind.is_symlink() {
            match fs::read_link(&full) {
                Ok(target) => ItemKind::Symlink(FilePath::new(target.as_os_str().as_bytes())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => {
                    self.problem(path, &e);
                    return Ok(());
                }
            }
        } else if kind.is_file() {
            match self.first.get(&(found.dev(), found.ino())) {
                Some(first) if found.nlink() > 1 => ItemKind::Hardlink(first.clone()),
                _ => {
                    if found.nlink() > 1 {
                        self.first.insert((found.dev(), found.ino()), path.clone());
                    }
                    ItemKind::File(found.len())
                }
            }
        } else if kind.is_fifo() {
            ItemKind::Fifo
        } else {
            let what = if kind.is_socket() { "a socket" } else { "a device" };
            self.found.problems.push(Problem { path, reason: format!("it is {what}"), error: false });
            return Ok(());
        };
        let meta = self.names.meta(&found);
        self.take(Item { path, kind, meta });
        Ok(())
    }

    /// Looks into a folder.
    fn inner(&mut self, path: &FilePath, full: &Path, found: &Metadata) -> Result<()> {
        if self.rules.leaves_out(path.path(), true) || self.skip == Some(full) {
            return Ok(());
        }
        let item = Item { path: path.clone(), kind: ItemKind::Folder, meta: self.names.meta(found) };
        let taken = self.rules.takes(path.path(), true);
        if taken {
            self.take(item);
        } else {
            self.open.push(item);
        }
        match self.list(full) {
            Ok(names) => self.folder(path, names)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // Whether something in it belongs to the set cannot be known.
            Err(e) => self.problem(path.clone(), &e),
        }
        self.open.pop_if(|f| &f.path == path);
        Ok(())
    }

    fn take(&mut self, item: Item) {
        self.found.items.append(&mut self.open);
        self.found.items.push(item);
    }

    fn problem(&mut self, path: FilePath, error: &io::Error) {
        self.found.problems.push(Problem { path, reason: error.to_string(), error: true });
    }
}

/// Names of users and groups, each asked for once.
#[derive(Debug, Default)]
struct Names {
    users: HashMap<u32, Option<String>>,
    groups: HashMap<u32, Option<String>>,
}

impl Names {
    fn meta(&mut self, found: &Metadata) -> FileMeta {
        let (uid, gid) = (found.uid(), found.gid());
        // A name service that does not answer leaves the number.
        let user = |uid| nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|u| u.name);
        let group = |gid| nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid)).ok().flatten().map(|g| g.name);
        let user = self.users.entry(uid).or_insert_with(|| user(uid)).clone();
        let group = self.groups.entry(gid).or_insert_with(|| group(gid)).clone();
        FileMeta { user, group, ..bare_meta(found) }
    }
}

/// What the system says, without names.
#[must_use]
pub fn bare_meta(found: &Metadata) -> FileMeta {
    let time = |seconds, nanos| FileTime { seconds, nanos: u32::try_from(nanos).unwrap_or(0) };
    FileMeta {
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        user: None,
        group: None,
        mtime: time(found.mtime(), found.mtime_nsec()),
        ctime: time(found.ctime(), found.ctime_nsec()),
        inode: found.ino(),
    }
}

#[cfg(test)]
mod tests {
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
        let walked = walk(root, &rules, Some(&root.join("repo")), || false).unwrap();
        assert_eq!(paths(&walked), ["a", "a/b", "a/b/one.csv", "a/two.csv", "etc.csv", "z.csv"]);
        let kind = |i: usize| walked.items[i].kind.clone();
        assert_eq!(kind(3), ItemKind::Hardlink(FilePath::new("a/b/one.csv")));
        assert_eq!(kind(4), ItemKind::Symlink(FilePath::new("/etc")));
        let all = walk(root, &Rules::new(&[], &[]).unwrap(), None, || false).unwrap();
        assert!(paths(&all).contains(&"a/empty".to_owned()) && all.items.len() == 14, "{:?}", paths(&all));
        assert!(walk(&root.join("z.csv"), &rules, None, || false).is_err());
        assert!(matches!(walk(root, &rules, None, || true), Err(FilesError::Cancelled)));
    }
}
