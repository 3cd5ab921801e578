//! What of a file set is stored, and what is named where an earlier backup stored it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use dozo_files::{Item, ItemKind};
use dozo_model::{
    BackupId, Compression, Content, FileEntry, FileKind, FileMeta, FilePath, FileTime, FilesContent, ObjectRef, Pack, Timestamp,
};

use super::list_of;
use crate::backup::{Frame, Offers, newest, stands};
use crate::error::chain;
use crate::{EngineError, Result};

/// Bytes of files that become one tar object, unless one alone has more.
const PACK_BYTES: u64 = 64 << 20;
/// Members of one tar object, at most.
const PACK_MEMBERS: usize = 50_000;
/// What a member takes beside its content.
const MEMBER_BYTES: u64 = 512;
/// A tar object that is needed by less than this share is left behind: what is needed of it is stored again.
const PACK_NEEDED: u64 = 50;
/// So many tar objects below a size become one.
const SMALL_PACKS: usize = 32;
const SMALL_PACK: u64 = 8 << 20;
/// A change within this many seconds before the last backup's start may have the times of what that backup read: file systems count in
/// steps of up to two.
const RACY: i64 = 2;

/// What the last backup holds.
pub(super) struct Before {
    pub(super) id: BackupId,
    /// When it began: what changed since shows.
    started: Timestamp,
    content: FilesContent,
    entries: HashMap<FilePath, FileEntry>,
    offers: Offers,
}

impl Before {
    /// Looks for a backup to lean on, or says why there is none. `now` is the start of this one.
    pub(super) async fn find(
        frame: &Frame<'_>,
        compression: Compression,
        now: Timestamp,
    ) -> Result<std::result::Result<Self, String>> {
        let (repository, source) = (frame.repository, frame.source);
        let manifest = match newest(source, &frame.history, now, frame.options.full)? {
            Ok(manifest) => manifest,
            Err(why) => return Ok(Err(why)),
        };
        let Content::Files(content) = &manifest.content else {
            return Ok(Err("the last backup is of another kind of source".into()));
        };
        if content.compression != compression {
            return Ok(Err("the last backup has another format".into()));
        }
        if let Err(why) = stands(repository, manifest).await? {
            return Ok(Err(why));
        }
        let entries = match list_of(repository, manifest, content).await {
            Ok(entries) => entries,
            Err(e @ (EngineError::Damaged { .. } | EngineError::Files(_))) => {
                return Ok(Err(format!("the list of the last backup cannot be read: {}", chain(&e))));
            }
            Err(e) => return Err(e),
        };
        // What was just stored counts until the first verification is due.
        let unverified: Duration = source.reuse_max_age;
        let offers = Offers::of(repository, source, &frame.history, manifest, now, unverified).await?;
        let entries = entries.into_iter().map(|e| (e.path.clone(), e)).collect();
        Ok(Ok(Self { id: manifest.id.clone(), started: manifest.started, content: content.clone(), entries, offers }))
    }

    /// Returns what the last backup holds at an item's path, where that can be named again.
    fn entry(&self, item: &Item) -> Option<&FileEntry> {
        let entry = self.entries.get(&item.path)?;
        let pack = self.content.packs.get(entry.pack as usize)?;
        self.offers.get(&pack.object).ok().map(|_| entry)
    }

    /// Returns the tar objects of which so little is needed that it is better stored again.
    pub(super) fn unneeded(&self, entries: &[FileEntry]) -> HashSet<u32> {
        let whole = |number: u32| self.content.packs.get(number as usize).map_or(0, |p| p.bytes);
        let mut needed: BTreeMap<u32, u64> = BTreeMap::new();
        for entry in entries {
            let bytes = match &entry.kind {
                // How much of it is data only its member knows.
                FileKind::File(data) if data.sparse => whole(entry.pack),
                FileKind::File(data) => data.size,
                _ => 0,
            };
            *needed.entry(entry.pack).or_default() += bytes + MEMBER_BYTES;
        }
        let small: Vec<u32> = needed.keys().copied().filter(|n| whole(*n) < SMALL_PACK).collect();
        let hardly = needed.iter().filter(|(n, bytes)| whole(**n) >= SMALL_PACK && **bytes * 100 < whole(**n) * PACK_NEEDED);
        let mut again: HashSet<u32> = hardly.map(|(n, _)| *n).collect();
        if small.len() >= SMALL_PACKS {
            again.extend(small);
        }
        again
    }

    /// Gives the tar objects that are still needed new numbers, and returns them.
    pub(super) fn named_again(&self, entries: &mut [FileEntry]) -> Result<(Vec<Pack>, Vec<ObjectRef>)> {
        let mut numbers: Vec<u32> = entries.iter().map(|e| e.pack).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let (mut packs, mut objects) = (Vec::new(), Vec::new());
        for number in &numbers {
            let pack = self.content.packs.get(*number as usize);
            let found = pack.and_then(|p| Some((p, self.offers.get(&p.object).ok()?)));
            let (pack, object) = found.ok_or_else(|| EngineError::Internal(format!("tar object {number} is not known")))?;
            packs.push(pack.clone());
            objects.push(object.clone());
        }
        for entry in entries {
            let at = numbers.binary_search(&entry.pack).unwrap_or_default();
            entry.pack = u32::try_from(at).map_err(|e| EngineError::Internal(e.to_string()))?;
        }
        Ok((packs, objects))
    }
}

/// What was found, by what becomes of it.
#[derive(Default)]
pub(super) struct Sorted {
    /// Unchanged; numbers of tar objects are those of the last backup.
    pub(super) entries: Vec<FileEntry>,
    /// Unchanged, if their bytes are.
    pub(super) maybe: Vec<(Item, FileEntry)>,
    /// To be stored.
    pub(super) store: Vec<Item>,
}

impl Sorted {
    pub(super) fn new(items: Vec<Item>, before: Option<&Before>) -> Self {
        let mut sorted = Self::default();
        for item in items {
            let known = before.and_then(|b| Some((b, b.entry(&item)?)));
            let Some((before, entry)) = known else {
                sorted.store.push(item);
                continue;
            };
            let same_target = match (&item.kind, &entry.kind) {
                (ItemKind::File(size), FileKind::File(data)) if *size == data.size && !data.changed => {
                    if untouched(&item.meta, &entry.meta, before.started) {
                        sorted.entries.push(FileEntry { meta: item.meta, ..entry.clone() });
                    } else {
                        sorted.maybe.push((item, entry.clone()));
                    }
                    continue;
                }
                (ItemKind::Folder, FileKind::Folder) | (ItemKind::Fifo, FileKind::Fifo) => true,
                (ItemKind::Symlink(now), FileKind::Symlink { target })
                | (ItemKind::Hardlink(now), FileKind::Hardlink { target }) => now == target,
                _ => false,
            };
            if same_target && looks(&item.meta) == looks(&entry.meta) {
                sorted.entries.push(FileEntry { meta: item.meta, ..entry.clone() });
            } else {
                sorted.store.push(item);
            }
        }
        sorted
    }
}

/// Owner, mode and time of change.
fn looks(meta: &FileMeta) -> (u32, u32, u32, &Option<String>, &Option<String>, FileTime) {
    (meta.mode, meta.uid, meta.gid, &meta.user, &meta.group, meta.mtime)
}

/// Tells by the file system's word that a file's bytes are what they were. `read` is when they were read at the earliest.
fn untouched(now: &FileMeta, then: &FileMeta, read: Timestamp) -> bool {
    let young = |time: FileTime| time.seconds >= read.as_second() - RACY;
    (now.mtime, now.ctime, now.inode) == (then.mtime, then.ctime, then.inode) && !young(then.mtime) && !young(then.ctime)
}

pub(crate) fn size_of(item: &Item) -> u64 {
    match item.kind {
        ItemKind::File(size) => size,
        _ => 0,
    }
}

/// An entry as it would have been found.
pub(super) fn item_of(entry: FileEntry) -> Item {
    let kind = match entry.kind {
        FileKind::File(data) => ItemKind::File(data.size),
        FileKind::Folder => ItemKind::Folder,
        FileKind::Symlink { target } => ItemKind::Symlink(target),
        FileKind::Hardlink { target } => ItemKind::Hardlink(target),
        FileKind::Fifo => ItemKind::Fifo,
    };
    Item { path: entry.path, kind, meta: entry.meta }
}

/// Members of one tar object.
pub(super) struct Unit {
    pub(super) chunk: usize,
    /// Threads that compress it.
    pub(super) threads: usize,
    pub(super) items: Vec<Item>,
}

/// Groups items into tar objects: in the order of paths, second names of files behind them all. `first` is the number of the first one.
pub(super) fn units(mut items: Vec<Item>, workers: usize, first: usize) -> Vec<Unit> {
    let second = |item: &Item| matches!(item.kind, ItemKind::Hardlink(_));
    items.sort_by(|a, b| (second(a), &a.path).cmp(&(second(b), &b.path)));
    let mut groups: Vec<Vec<Item>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let more = size_of(&item) + MEMBER_BYTES;
        match groups.last_mut() {
            Some(group) if bytes + more <= PACK_BYTES && group.len() < PACK_MEMBERS => {
                group.push(item);
                bytes += more;
            }
            _ => {
                groups.push(vec![item]);
                bytes = more;
            }
        }
    }
    let threads = (workers / groups.len().clamp(1, workers)).max(1);
    groups.into_iter().enumerate().map(|(n, items)| Unit { chunk: first + n, threads, items }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &str, kind: ItemKind) -> Item {
        Item { path: FilePath::new(path), kind, meta: FileMeta::default() }
    }

    #[test]
    fn large_files_have_tar_objects_of_their_own_and_second_names_come_last() {
        let items = vec![
            item("a", ItemKind::Hardlink(FilePath::new("z"))),
            item("b", ItemKind::File(PACK_BYTES * 3)),
            item("c", ItemKind::File(10)),
            item("d", ItemKind::File(PACK_BYTES / 2)),
            item("e", ItemKind::File(PACK_BYTES / 2)),
            item("z", ItemKind::File(1)),
        ];
        let units = units(items, 4, 0);
        let names: Vec<Vec<String>> = units.iter().map(|u| u.items.iter().map(|i| i.path.to_string()).collect()).collect();
        assert_eq!(names, [vec!["b"], vec!["c", "d"], vec!["e", "z", "a"]]);
        assert_eq!(units[0].threads, 1);
        assert_eq!(super::units(vec![item("b", ItemKind::File(1))], 4, 7)[0].threads, 4);
        assert!(super::units(vec![], 4, 0).is_empty());
    }

    #[test]
    fn a_file_that_changed_in_the_second_it_was_read_in_is_read_again() {
        let read: Timestamp = "2026-11-22T02:00:00Z".parse().unwrap();
        let at = |seconds| FileMeta {
            mtime: FileTime { seconds: read.as_second() + seconds, nanos: 1 },
            ctime: FileTime { seconds: read.as_second() + seconds, nanos: 2 },
            inode: 7,
            ..FileMeta::default()
        };
        assert!(untouched(&at(-3), &at(-3), read));
        assert!(!untouched(&at(-2), &at(-2), read) && !untouched(&at(5), &at(5), read));
        for change in [
            FileMeta { inode: 8, ..at(-3) },
            FileMeta { mtime: FileTime::default(), ..at(-3) },
            FileMeta { ctime: FileTime { seconds: at(-3).ctime.seconds, nanos: 3 }, ..at(-3) },
        ] {
            assert!(!untouched(&change, &at(-3), read));
        }
    }
}
