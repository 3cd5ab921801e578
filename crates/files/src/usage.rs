//! Which files are open for writing, as `/proc` says it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `PF_KTHREAD` of Linux' `include/linux/sched.h`: threads of the kernel hold no files of anybody.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// `PROC_PID_INIT_INO` of Linux' `include/linux/proc_ns.h`: the namespace that sees all processes.
const ALL_PROCESSES: &str = "pid:[4026531836]";

/// What is done about processes that cannot be looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnseenWriters {
    /// Each of them may have any file open.
    #[default]
    Hold,
    /// None of them has.
    Ignore,
}

/// Who writes what.
#[derive(Debug, Clone, Default)]
pub struct Writers {
    /// Process and its command, by device and inode.
    files: HashMap<(u64, u64), (u32, String)>,
    /// Why not all of them are known.
    unseen: Option<String>,
}

impl Writers {
    /// Looks at all processes.
    ///
    /// # Errors
    /// When there is no `/proc`.
    pub fn look() -> io::Result<Self> {
        let mut found = Self::default();
        let mounted = fs::read_to_string("/proc/self/mountinfo")?;
        if fs::read_link("/proc/self/ns/pid")?.as_os_str() != ALL_PROCESSES {
            found.unseen = Some("processes outside of this container".into());
        } else if mounted.lines().any(|l| l.contains(" - proc ") && l.contains("hidepid=") && !l.contains("hidepid=0"))
            && !rustix::process::geteuid().is_root()
        {
            found.unseen = Some("processes of other users".into());
        }
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                match found.process(pid, &entry.path()) {
                    // It has ended meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(3) => {}
                    // The first process hands files to services and keeps none of them.
                    Err(_) if pid == 1 => {}
                    Err(_) => drop(found.unseen.get_or_insert_with(|| format!("process {pid} of another user"))),
                    Ok(()) => {}
                }
            }
        }
        Ok(found)
    }

    fn process(&mut self, pid: u32, folder: &Path) -> io::Result<()> {
        let stat = fs::read_to_string(folder.join("stat"))?;
        // The command stands in parentheses, and may hold any of them.
        let (head, rest) = stat.rsplit_once(") ").unwrap_or_default();
        let command = head.split_once('(').map(|(_, name)| name.to_owned()).unwrap_or_default();
        let flags: u64 = rest.split(' ').nth(6).and_then(|f| f.parse().ok()).unwrap_or(0);
        let ended = rest.starts_with('Z');
        if flags & KERNEL_THREAD != 0 || ended {
            return Ok(());
        }
        for entry in fs::read_dir(folder.join("fd"))? {
            let entry = entry?;
            let info = match fs::read_to_string(folder.join("fdinfo").join(entry.file_name())) {
                Ok(info) => info,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).and_then(|f| u32::from_str_radix(f.trim(), 8).ok());
            // O_ACCMODE: 0 = for reading alone.
            if flags.is_some_and(|f| f & 0o3 == 0) {
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(file) if file.is_file() => {
                    self.files.entry((file.dev(), file.ino())).or_insert_with(|| (pid, command.clone()));
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Returns who has a file open for writing, or may have.
    #[must_use]
    pub fn of(&self, file: &fs::Metadata, unseen: UnseenWriters) -> Option<String> {
        if let Some((pid, command)) = self.files.get(&(file.dev(), file.ino())) {
            return Some(format!("process {pid} ({command}) has it open for writing"));
        }
        let unseen = self.unseen.as_ref().filter(|_| unseen == UnseenWriters::Hold)?;
        Some(format!(
            "{unseen} may write to it, and cannot be seen: run this as root on the host, or set unseen-writers = \"ignore\""
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_is_written_is_known_by_its_writer() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "a line").unwrap();
        let looked = Writers::look().unwrap();
        let found = looked.of(&file.as_file().metadata().unwrap(), UnseenWriters::Ignore).unwrap();
        assert!(found.contains(&std::process::id().to_string()) && found.contains("open for writing"), "{found}");
        let path = file.into_temp_path();
        let read = fs::File::open(&path).unwrap();
        let looked = Writers::look().unwrap();
        let meta = read.metadata().unwrap();
        assert_eq!(looked.of(&meta, UnseenWriters::Ignore), None);
        let blind = Writers { unseen: Some("process 7 of another user".into()), ..looked };
        assert!(blind.of(&meta, UnseenWriters::Hold).unwrap().contains("process 7"));
        assert_eq!(blind.of(&meta, UnseenWriters::Ignore), None);
    }
}
