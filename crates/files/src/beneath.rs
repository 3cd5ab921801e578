//! Opens paths below a folder, name by name.
//!
//! *Invariant*: no link on the way is followed, whoever puts it there and whenever: a path leads nowhere but below the folder's descriptor.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use dozo_model::FilePath;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Opens the folder that holds the last name of a path, and returns it with that name. With `make`, folders that are missing are made,
/// for their owner alone.
pub(crate) fn parent<'a>(root: &OwnedFd, path: &'a FilePath, make: bool) -> Result<(OwnedFd, &'a OsStr), Errno> {
    if !path.is_plain() {
        return Err(Errno::INVAL);
    }
    let mut names: Vec<&OsStr> = path.names().collect();
    let last = names.pop().ok_or(Errno::INVAL)?;
    let mut folder = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
    for name in names {
        folder = match step(&folder, name) {
            Err(Errno::NOENT) if make => {
                match rustix::fs::mkdirat(&folder, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
                step(&folder, name)?
            }
            opened => opened?,
        };
    }
    Ok((folder, last))
}

fn step(folder: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(folder, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a path for reading, and nothing that is a link; a pipe is not waited for.
pub(crate) fn open(root: &OwnedFd, path: &FilePath, more: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    if path.bytes().is_empty() {
        return rustix::fs::openat(root, ".", flags, Mode::empty());
    }
    let (folder, name) = parent(root, path, false)?;
    rustix::fs::openat(&folder, name, flags, Mode::empty())
}
