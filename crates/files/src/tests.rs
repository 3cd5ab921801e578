//! Into an archive and out of it again, also by other tools, and files that do not stand still.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use dozo_model::{FileData, FileEntry, FileKind, FilePath, Sha256Digest};
use proptest::prelude::*;

use crate::{Added, ContentSink, FilesError, Item, PackWriter, Root, Rules, copy_content, members, walk};

/// Collects a file, and how much of it were holes.
#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    holes: u64,
}

impl ContentSink<FilesError> for Collected {
    fn data(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn hole(&mut self, bytes: u64) -> Result<(), FilesError> {
        self.bytes.resize(self.bytes.len() + usize::try_from(bytes).unwrap(), 0);
        self.holes += bytes;
        Ok(())
    }
}

fn walked(root: &Path) -> Vec<Item> {
    let walked = walk(&Root::open(root).unwrap(), &Rules::new(&[], &[]).unwrap(), &[], || false).unwrap();
    assert_eq!(walked.problems, []);
    walked.items
}

fn packed(root: &Path) -> (Vec<u8>, Vec<FileEntry>) {
    let mut writer = PackWriter::new(Vec::new());
    let mut entries = Vec::new();
    for item in walked(root) {
        match writer.add::<FilesError>(&Root::open(root).unwrap(), &item, |_| Ok(())).unwrap() {
            Added::Stored(entry) => entries.push(*entry),
            other => panic!("{other:?}"),
        }
    }
    let (archive, count, bytes) = writer.finish().unwrap();
    assert_eq!((count as usize, bytes as usize), (entries.len(), archive.len()));
    (archive, entries)
}

fn unpacked(archive: &[u8], entries: &[FileEntry]) -> BTreeMap<String, Collected> {
    let mut found = BTreeMap::new();
    let count = members(archive, archive.len() as u64, |member| {
        let entry = entries.iter().find(|e| e.member == member.number).unwrap();
        if let FileKind::File(data) = &entry.kind {
            let mut collected = Collected::default();
            let sha256 = copy_content(member, data, &mut collected)?;
            assert_eq!((sha256, Sha256Digest::of(&collected.bytes)), (data.sha256, data.sha256), "{}", entry.path);
            found.insert(entry.path.to_string(), collected);
        }
        Ok::<(), FilesError>(())
    })
    .unwrap();
    assert_eq!(count as usize, entries.len());
    found
}

fn with_holes(path: &Path, size: u64, data: &[(u64, u64)]) {
    let mut file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, length) in data {
        file.seek(SeekFrom::Start(*at)).unwrap();
        file.write_all(&vec![7; usize::try_from(*length).unwrap()]).unwrap();
    }
}

fn zoo(root: &Path) {
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(200));
    fs::create_dir_all(root.join("d".repeat(90))).unwrap();
    for (path, size) in
        [("empty", 0), ("small", 1000), ("a block", 512), ("large", 3_000_001), (long.as_str(), 5), ("改行\nと\"引用\"", 9)]
    {
        fs::write(root.join(path), (0..size).map(|i| (i % 251) as u8).collect::<Vec<_>>()).unwrap();
    }
    with_holes(&root.join("holes"), 10 << 20, &[(1 << 20, 5000), (8 << 20, 1)]);
    with_holes(&root.join("hole at the end"), 1 << 20, &[(0, 10)]);
    with_holes(&root.join("nothing but a hole"), 5_000_000, &[]);
    fs::hard_link(root.join("small"), root.join("small too")).unwrap();
    symlink("../elsewhere//x/", root.join("link")).unwrap();
    symlink("x".repeat(300), root.join("long link")).unwrap();
}

#[test]
fn what_goes_in_comes_out() {
    let folder = tempfile::tempdir().unwrap();
    zoo(folder.path());
    let (archive, entries) = packed(folder.path());
    let found = unpacked(&archive, &entries);
    assert_eq!(found.len(), 9);
    for (path, collected) in &found {
        assert!(collected.bytes == fs::read(folder.path().join(path)).unwrap(), "{path}");
    }
    let sparse = |e: &FileEntry| matches!(&e.kind, FileKind::File(FileData { sparse: true, .. }));
    assert_eq!(entries.iter().filter(|e| sparse(e)).count(), 3, "the file system of the temporary folder has no holes");
    assert!(found["holes"].holes > 9 << 20 && archive.len() < 4_000_000, "{}", archive.len());
}

/// What GNU tar and Python make of an archive is what it was made of.
#[test]
fn other_tools_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let (from, archive) = (folder.path().join("from"), folder.path().join("a.tar"));
    fs::create_dir(&from).unwrap();
    zoo(&from);
    fs::write(&archive, packed(&from).0).unwrap();
    let by_python = "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='fully_trusted')";
    for (name, program, arguments) in
        [("gnu", "tar", vec!["-xpf", "A", "-C", "T"]), ("python", "python3", vec!["-c", by_python, "A", "T"])]
    {
        let to = folder.path().join(name);
        fs::create_dir(&to).unwrap();
        let fill = |a: &str| match a {
            "A" => archive.display().to_string(),
            "T" => to.display().to_string(),
            other => other.to_owned(),
        };
        let out = Command::new(program).args(arguments.iter().map(|a| fill(a))).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        for item in walked(&from) {
            let (a, b) = (from.join(item.path.path()), to.join(item.path.path()));
            let (meta, other) = (a.symlink_metadata().unwrap(), b.symlink_metadata().unwrap());
            assert_eq!(
                (meta.mode(), meta.len() * u64::from(!meta.is_dir())),
                (other.mode(), other.len() * u64::from(!meta.is_dir())),
                "{name} {}",
                item.path
            );
            if meta.is_file() {
                assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{name} {}", item.path);
                assert_eq!(meta.mtime(), other.mtime());
            }
        }
        assert_eq!(fs::metadata(to.join("small")).unwrap().ino(), fs::metadata(to.join("small too")).unwrap().ino());
        assert!(fs::metadata(to.join("holes")).unwrap().blocks() < 10_000, "{name}");
    }
}

/// Reads a file while somebody writes to it. Returns what is stored of it, its bytes, and how many members there are.
fn read_beside(folder: &Path, write: impl Fn(&mut File) + Sync) -> (FileData, Vec<u8>, u32) {
    let path = folder.join("log");
    let items = walked(folder);
    let going = AtomicBool::new(true);
    let mut writer = PackWriter::new(Vec::new());
    let added = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = File::options().write(true).open(&path).unwrap();
            while going.load(Ordering::Relaxed) {
                write(&mut log);
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
        });
        // Whoever writes is at it while it is read.
        let added = writer.add::<FilesError>(&Root::open(folder).unwrap(), &items[0], |_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            Ok(())
        });
        going.store(false, Ordering::Relaxed);
        added.unwrap()
    });
    let Added::Stored(entry) = added else { panic!("{added:?}") };
    let (archive, count, _) = writer.finish().unwrap();
    assert_eq!(entry.member + 1, count);
    let FileKind::File(data) = entry.kind else { panic!() };
    let mut collected = Collected::default();
    members(archive.as_slice(), archive.len() as u64, |member| {
        if member.number == entry.member {
            assert_eq!(copy_content(member, &data, &mut collected)?, data.sha256);
        }
        Ok::<(), FilesError>(())
    })
    .unwrap();
    (data, collected.bytes, count)
}

#[test]
fn what_a_file_had_before_it_grew_was_all_there_and_what_never_stands_still_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for size in [10_000, 5_000_000] {
        fs::write(folder.path().join("log"), vec![1; size]).unwrap();
        let (data, bytes, count) = read_beside(folder.path(), |log| {
            log.seek(SeekFrom::End(0)).unwrap();
            log.write_all(&[2; 100]).unwrap();
        });
        assert!(!data.changed && count == 1, "{data:?} {count}");
        assert!(bytes.len() >= size && fs::read(folder.path().join("log")).unwrap().starts_with(&bytes));
        fs::write(folder.path().join("log"), vec![1; size]).unwrap();
        let (data, bytes, count) = read_beside(folder.path(), |log| {
            log.seek(SeekFrom::Start(0)).unwrap();
            // At its beginning and its end: never both in one reading.
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos().to_le_bytes();
            log.write_all(&now).unwrap();
            log.seek(SeekFrom::Start(size as u64 - 16)).unwrap();
            log.write_all(&now).unwrap();
        });
        assert_eq!(bytes.len(), size);
        if size > 1 << 20 {
            assert!(data.changed && count == 3, "{data:?} {count}");
        }
    }
}

#[test]
fn a_file_that_is_gone_or_lies_behind_a_link_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let (set, outside) = (folder.path().join("set"), folder.path().join("outside"));
    fs::create_dir_all(set.join("q")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(set.join("q/file"), "in").unwrap();
    fs::write(outside.join("file"), "out").unwrap();
    let items = walked(&set);
    let root = Root::open(&set).unwrap();
    let vanished = || {
        let added = PackWriter::new(Vec::new()).add::<FilesError>(&root, &items[1], |_| Ok(())).unwrap();
        assert!(matches!(added, Added::Vanished), "{added:?}");
    };
    fs::remove_file(set.join("q/file")).unwrap();
    vanished();
    symlink(outside.join("file"), set.join("q/file")).unwrap();
    vanished();
    fs::rename(set.join("q"), folder.path().join("old")).unwrap();
    symlink(&outside, set.join("q")).unwrap();
    vanished();
}

proptest! {
    /// Whatever bytes an archive has: an error or members, and never more read than there is.
    #[test]
    fn damaged_archives_are_errors(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), cut in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        with_holes(&folder.path().join("holes"), 1 << 20, &[(4096, 5000)]);
        fs::write(folder.path().join("f".repeat(150)), "content").unwrap();
        let (mut archive, entries) = packed(folder.path());
        for (at, byte) in flips {
            let at = at.index(archive.len());
            archive[at] ^= byte;
        }
        archive.truncate(cut.index(archive.len()).max(archive.len() / 2));
        let mut wrong = 0;
        let read = members(archive.as_slice(), archive.len() as u64, |member| {
            let Some(entry) = entries.iter().find(|e| e.member == member.number) else { return Ok(()) };
            let FileKind::File(data) = &entry.kind else { return Ok(()) };
            match copy_content::<FilesError>(member, data, &mut Collected::default()) {
                Ok(sha256) => wrong += usize::from(sha256 != data.sha256),
                Err(FilesError::Damaged(_)) => wrong += 1,
                Err(e) => return Err(e),
            }
            Ok(())
        });
        prop_assert!(wrong <= entries.len());
        prop_assert!(matches!(read, Ok(_) | Err(FilesError::Damaged(_))));
    }

    #[test]
    fn any_name_comes_back(bytes in prop::collection::vec(1u8..=255, 1..200)) {
        prop_assume!(!bytes.contains(&b'/') && bytes != b"." && bytes != b"..");
        let folder = tempfile::tempdir().unwrap();
        let path = FilePath::new(bytes);
        fs::write(folder.path().join(path.path()), path.bytes()).unwrap();
        let (archive, entries) = packed(folder.path());
        prop_assert_eq!(&entries[0].path, &path);
        prop_assert_eq!(unpacked(&archive, &entries).len(), 1);
    }
}
