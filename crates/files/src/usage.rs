//! Which files are open for writing, as `/proc` says it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `PF_KTHREAD` of Linux' `include/linux/sched.h`: threads of the kernel hold no files of anybody.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Who writes what.
#[derive(Debug, Clone, Default)]
pub struct Writers {
    /// Process and its command, by device and inode.
    files: HashMap<(u64, u64), (u32, String)>,
    /// Processes that may not be looked into, and whose they are.
    unseen: Vec<(u32, u32)>,
}

impl Writers {
    /// Looks at all processes.
    ///
    /// # Errors
    /// When there is no `/proc`.
    pub fn look() -> io::Result<Self> {
        let mut found = Self::default();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                match found.process(pid, &entry.path()) {
                    // It has ended meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(3) => {}
                    // The first process hands files to services and keeps none of them.
                    Err(_) if pid == 1 => {}
                    Err(_) => found.unseen.extend(entry.metadata().map(|m| (pid, m.uid()))),
                    Ok(()) => {}
                }
            }
        }
        found.unseen.sort_unstable();
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

    /// Counts processes of other users that may not be looked into: only root sees what they write.
    #[must_use]
    pub fn unseen(&self) -> usize {
        self.unseen.len()
    }

    /// Returns who has a file open for writing, or may have: a process of its owner that may not be looked into.
    #[must_use]
    pub fn of(&self, file: &fs::Metadata) -> Option<String> {
        if let Some((pid, command)) = self.files.get(&(file.dev(), file.ino())) {
            return Some(format!("process {pid} ({command}) has it open for writing"));
        }
        let (pid, _) = self.unseen.iter().find(|(_, uid)| *uid == file.uid())?;
        Some(format!("whether process {pid} of its owner writes to it cannot be seen: run this as root"))
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
        let found = looked.of(&file.as_file().metadata().unwrap()).unwrap();
        assert!(found.contains(&std::process::id().to_string()) && found.contains("open for writing"), "{found}");
        let path = file.into_temp_path();
        let read = fs::File::open(&path).unwrap();
        let looked = Writers { unseen: Vec::new(), ..Writers::look().unwrap() };
        assert_eq!(looked.of(&read.metadata().unwrap()), None);
        let meta = read.metadata().unwrap();
        let blind = Writers { unseen: vec![(6, meta.uid() + 1), (7, meta.uid())], ..looked };
        assert!(blind.of(&meta).unwrap().contains("process 7") && blind.unseen() == 2);
    }
}
