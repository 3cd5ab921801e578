//! The list of a file set: JSON Lines, one [`FileEntry`] each, in the order of their paths.

use std::io::{BufRead, Read, Write};

use dozo_model::{FileEntry, FileKind, FilesContent};

use crate::{FilesError, Result};

/// Longest line that is read: paths and link targets of 4,096 bytes each, escaped, and what else stands in it.
const LINE_MAX: u64 = 1 << 16;

/// Writes a line.
///
/// # Errors
/// [`FilesError::Write`].
pub fn write_entry(out: &mut impl Write, entry: &FileEntry) -> Result<()> {
    serde_json::to_writer(&mut *out, entry).map_err(|e| FilesError::Write(e.into()))?;
    out.write_all(b"\n").map_err(FilesError::Write)
}

/// Reads a list and believes nothing in it: paths stay below the root and come once each, and every member that is named can be there.
///
/// # Errors
/// [`FilesError::Damaged`] says what it is that no backup writes.
pub fn read_list(mut input: impl BufRead, content: &FilesContent) -> Result<Vec<FileEntry>> {
    let damaged = |why: String| FilesError::Damaged(format!("`{}`: {why}", content.list));
    let mut entries: Vec<FileEntry> = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).map_err(|e| damaged(e.to_string()))?;
        if read == 0 {
            break;
        }
        let number = entries.len() + 1;
        if line.last() != Some(&b'\n') {
            return Err(damaged(format!("line {number} is cut off or too long")));
        }
        let entry: FileEntry = serde_json::from_slice(&line).map_err(|e| damaged(format!("line {number}: {e}")))?;
        if !entry.path.is_plain() {
            return Err(damaged(format!("line {number}: path `{}` leads out of the folder", entry.path)));
        }
        if let FileKind::Hardlink { target } = &entry.kind
            && !target.is_plain()
        {
            return Err(damaged(format!("line {number}: `{}` is a name of `{target}`, outside the folder", entry.path)));
        }
        let pack = usize::try_from(entry.pack).ok().and_then(|n| content.packs.get(n));
        if pack.is_none_or(|p| entry.member >= p.members) {
            let (pack, member) = (entry.pack, entry.member);
            return Err(damaged(format!("line {number}: there is no member {member} of tar object {pack}")));
        }
        entries.push(entry);
    }
    let mut paths: Vec<&[u8]> = entries.iter().map(|e| e.path.bytes()).collect();
    paths.sort_unstable();
    if let Some(twice) = paths.windows(2).find(|w| w[0] == w[1]) {
        return Err(damaged(format!("`{}` stands in it twice", String::from_utf8_lossy(twice[0]))));
    }
    if entries.len() as u64 != content.entries {
        return Err(damaged(format!("{} lines instead of {}", entries.len(), content.entries)));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use dozo_model::{Compression, FileMeta, FilePath, Pack};

    use super::*;

    fn content(entries: u64) -> FilesContent {
        FilesContent {
            root: "/srv".into(),
            root_meta: FileMeta::default(),
            compression: Compression::Zstd,
            restore_md: "r".into(),
            list: "files.jsonl.zst".into(),
            entries,
            files: 0,
            bytes: 0,
            packs: vec![Pack { object: "o".into(), members: 3, bytes: 10 }],
        }
    }

    fn line(path: &str, kind: FileKind, pack: u32, member: u32) -> String {
        let entry = FileEntry { path: FilePath::new(path), kind, meta: FileMeta::default(), pack, member };
        let mut out = Vec::new();
        write_entry(&mut out, &entry).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_in_a_list_is_believed() {
        let good = line("a", FileKind::Folder, 0, 0) + &line("a/b", FileKind::Fifo, 0, 2);
        assert_eq!(read_list(good.as_bytes(), &content(2)).unwrap().len(), 2);
        let outside = FileKind::Hardlink { target: FilePath::new("../x") };
        for (text, why) in [
            (line("../a", FileKind::Folder, 0, 0), "leads out"),
            (line("/etc/cron.d/x", FileKind::Fifo, 0, 0), "leads out"),
            (line("a", outside, 0, 0), "outside"),
            (line("a", FileKind::Folder, 1, 0), "tar object 1"),
            (line("a", FileKind::Folder, 0, 3), "no member 3"),
            (line("a", FileKind::Folder, 0, 0).repeat(2), "twice"),
            (good.clone() + &line("c", FileKind::Fifo, 0, 1), "3 lines instead of 2"),
            (good[..good.len() - 1].to_owned(), "cut off"),
            ("{}\n".to_owned(), "line 1"),
            (format!("{{\"path\":\"{}\"", "x".repeat(1 << 17)), "too long"),
        ] {
            let said = read_list(text.as_bytes(), &content(2)).unwrap_err().to_string();
            assert!(said.contains(why) && said.len() < 400, "{said}");
        }
    }
}
