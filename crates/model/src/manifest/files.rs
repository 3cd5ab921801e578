//! What a backup of a file set holds: a list of everything in it, and the tar objects that its contents lie in.
//!
//! The list is JSON Lines, compressed as the tar objects are, beside the manifest: one [`FileEntry`] a line, by path. What did not change
//! is named where an earlier backup put it, by tar object and number in it. *Invariant*: the list alone says what a restore makes, and
//! where; names in a tar object are for people who restore without dozo.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Compression;
use crate::Sha256Digest;

/// What a backup of a file set holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FilesContent {
    /// Folder that all paths count from, as it was called.
    pub root: String,
    /// Owner, mode and times of that folder.
    pub root_meta: FileMeta,
    /// How the tar objects and the list are compressed.
    pub compression: Compression,
    /// Key of the description of a restore without dozo.
    pub restore_md: String,
    /// Key of the list.
    pub list: String,
    /// Lines of the list.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes in these.
    pub bytes: u64,
    /// Tar objects that the list names, by its numbers.
    pub packs: Vec<Pack>,
}

/// A tar object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pack {
    /// Key of the object, one of `objects`.
    pub object: String,
    /// Members in it, needed or not.
    pub members: u32,
    /// Size of the archive, decompressed.
    pub bytes: u64,
}

/// A path below a root: names joined by `/`, any bytes but NUL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(Vec<u8>);

impl FilePath {
    /// Takes the bytes of a path.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Returns its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns it as the system has it.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Returns its text; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Returns its names, outermost first.
    pub fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.0.split(|b| *b == b'/').map(OsStr::from_bytes)
    }

    /// Returns the folders above it, outermost first, without the root.
    pub fn above(&self) -> impl Iterator<Item = Self> {
        self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| Self::new(&self.0[..at]))
    }

    /// Tells whether it stays below its root whatever lies there: names only, none of them empty, `.` or `..`.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let plain = |name: &[u8]| !name.is_empty() && name != b"." && name != b".." && name.len() <= 255 && !name.contains(&0);
        self.0.split(|b| *b == b'/').all(plain)
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// A text, or `{"hex": "…"}` where the bytes are not UTF-8.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathForm<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Bytes { hex: Cow<'a, str> },
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let hex: String = self.0.iter().map(|b| format!("{b:02x}")).collect();
                PathForm::Bytes { hex: hex.into() }.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match PathForm::deserialize(deserializer)? {
            PathForm::Text(text) => text.into_owned().into_bytes(),
            PathForm::Bytes { hex } => {
                let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
                let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(pair).collect();
                bytes.ok_or_else(|| D::Error::custom("it is not hex"))?
            }
        }))
    }
}

/// A time of a file: seconds since 1970-01-01 UTC, and nanoseconds after that second. Its text is `seconds.nanoseconds`, nine digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FileTime {
    /// Seconds; before 1970 they are negative.
    pub seconds: i64,
    /// Nanoseconds after the second.
    pub nanos: u32,
}

impl fmt::Display for FileTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds, self.nanos)
    }
}

impl Serialize for FileTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let parsed = text.split_once('.').filter(|(_, nanos)| nanos.len() == 9).and_then(|(seconds, nanos)| {
            Some(Self { seconds: seconds.parse().ok()?, nanos: nanos.parse().ok().filter(|n| *n < 1_000_000_000)? })
        });
        parsed.ok_or_else(|| D::Error::custom(format!("`{text}` is not seconds.nanoseconds")))
    }
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileEntry {
    /// Path below the root.
    pub path: FilePath,
    /// What it is.
    #[serde(flatten)]
    pub kind: FileKind,
    /// Owner, mode and times.
    #[serde(flatten)]
    pub meta: FileMeta,
    /// Tar object that holds it: a number of [`FilesContent::packs`].
    pub pack: u32,
    /// Which member of it, counted from 0, headers of headers not counted.
    pub member: u32,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FileKind {
    /// A regular file.
    File(FileData),
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink {
        /// What it says, whether that exists or not.
        target: FilePath,
    },
    /// Another name of a regular file of the list.
    Hardlink {
        /// Path of that file, below the root.
        target: FilePath,
    },
    /// A named pipe.
    Fifo,
}

/// Content of a regular file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileData {
    /// Size in bytes, holes included.
    pub size: u64,
    /// Digest of its bytes, those of holes included.
    pub sha256: Sha256Digest,
    /// Whether it has holes: then its member says where (GNU sparse format 1.0).
    #[serde(default, skip_serializing_if = "is_false")]
    pub sparse: bool,
    /// Whether it changed each time that it was read: what is stored was never all there at one moment.
    #[serde(default, skip_serializing_if = "is_false")]
    pub changed: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What a file system knows of a file beside its content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileMeta {
    /// Permissions, as octal digits.
    #[serde(with = "octal")]
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Name of the owner, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name of the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Last change of its content.
    pub mtime: FileTime,
    /// Last change of anything about it: nobody can set this back.
    pub ctime: FileTime,
    /// Number of its inode.
    pub inode: u64,
}

mod octal {
    use std::borrow::Cow;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    pub(super) fn serialize<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|m| *m <= 0o7777)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is no mode")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back() {
        let meta = FileMeta {
            mode: 0o640,
            uid: 1000,
            user: Some("dbt".into()),
            mtime: FileTime { seconds: -3, nanos: 5 },
            inode: u64::MAX,
            ..FileMeta::default()
        };
        let data = FileData { size: 7, sha256: Sha256Digest::of(b"content"), sparse: true, changed: false };
        for (path, kind) in [
            ("sources/customers.csv".as_bytes(), FileKind::File(data)),
            ("文書/\u{7}\n".as_bytes(), FileKind::Folder),
            (b"\x83\x65.txt", FileKind::Symlink { target: FilePath::new("../\u{1F600}") }),
            (b"b", FileKind::Hardlink { target: FilePath::new("a") }),
            (b"pipe", FileKind::Fifo),
        ] {
            let entry = FileEntry { path: FilePath::new(path), kind, meta: meta.clone(), pack: 1, member: 2 };
            let line = serde_json::to_string(&entry).unwrap();
            assert!(
                !line.contains('\n') && line.contains(r#""mode":"0640""#) && line.contains(r#""mtime":"-3.000000005""#),
                "{line}"
            );
            assert_eq!(serde_json::from_str::<FileEntry>(&line).unwrap(), entry);
        }
        assert!(serde_json::to_string(&FilePath::new(*b"\x83\x65")).unwrap().contains(r#"{"hex":"8365"}"#));
    }

    #[test]
    fn only_names_stay_below_a_root() {
        for plain in ["a", "a/b", "...", "a/ ", "-rf"] {
            assert!(FilePath::new(plain).is_plain(), "{plain}");
        }
        for not in ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b", &"x".repeat(256)] {
            assert!(!FilePath::new(not).is_plain(), "{not}");
        }
    }
}
