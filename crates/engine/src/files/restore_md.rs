//! Writes `RESTORE.md` of a backup of a file set: how to restore exactly this one with Python's standard library, or with tar.
//!
//! The `sh` block runs as it stands; tests execute it.

use std::fmt::Write as _;

use dozo_model::{Compression, Content, FileMeta, Manifest, Sha256Digest, human_bytes, human_count};

use crate::restore_md::plain;

/// What the block gives to Python: everything that the list says, and nothing that it does not say.
const SCRIPT: &str = r#"import hashlib, json, os, subprocess, sys, tarfile
repo, target = os.environ["REPO"], os.fsencode(os.environ["TARGET"])
def unpack(key):
    return subprocess.Popen(UNPACK + [os.path.join(repo, key)], stdout=subprocess.PIPE)
def text(path):
    return path.encode("utf-8") if isinstance(path, str) else bytes.fromhex(path["hex"])
def place(entry):
    path = text(entry["path"])
    assert all(name not in (b"", b".", b"..") for name in path.split(b"/")), path
    return os.path.join(target, path)
def describe(entry, at=None):
    at, link = at or place(entry), entry.get("type") == "symlink"
    if os.geteuid() == 0:
        os.chown(at, entry["uid"], entry["gid"], follow_symlinks=False)
    if not link:
        os.chmod(at, int(entry["mode"], 8))
    seconds, nanos = entry["mtime"].split(".")
    time = int(seconds) * 10**9 + int(nanos)
    os.utime(at, ns=(time, time), follow_symlinks=not link)
assert hashlib.sha256(open(os.path.join(repo, LIST), "rb").read()).hexdigest() == SHA256, LIST
lines = subprocess.run(UNPACK + [os.path.join(repo, LIST)], stdout=subprocess.PIPE, check=True).stdout
entries = [json.loads(line) for line in lines.splitlines()]
assert len(entries) == ENTRIES, "the list is cut off"
made = not os.path.exists(target)
if made:
    os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    os.mkdir(target, 0o700)
of = lambda kind: [e for e in entries if e["type"] == kind]
for entry in of("folder"):
    os.makedirs(place(entry), mode=0o700, exist_ok=True)
for number, key in enumerate(PACKS):
    wanted = {e["member"]: e for e in of("file") if e["pack"] == number}
    if not wanted:
        continue
    tool = unpack(key)
    with tarfile.open(fileobj=tool.stdout, mode="r|") as archive:
        for member, info in enumerate(archive):
            entry = wanted.pop(member, None)
            if entry is None:
                continue
            os.makedirs(os.path.dirname(place(entry)), exist_ok=True)
            digest, data = hashlib.sha256(), archive.extractfile(info)
            with open(place(entry), "xb") as out:
                while block := data.read(1 << 20):
                    digest.update(block)
                    out.write(block)
            assert digest.hexdigest() == entry["sha256"], entry["path"]
            describe(entry)
    while tool.stdout.read(1 << 20):
        pass
    assert tool.wait() == 0 and not wanted, (key, wanted)
for entry in of("hardlink"):
    os.link(place({"path": entry["target"]}), place(entry))
for entry in of("symlink"):
    os.symlink(text(entry["target"]), place(entry))
    describe(entry)
for entry in of("fifo"):
    os.mkfifo(place(entry))
    describe(entry)
for entry in reversed(of("folder")):
    describe(entry)
if made:
    describe(ROOT, target)
print(len(of("file")), "files, every sha256 as in the backup")"#;

/// Returns the text.
pub(super) fn write(manifest: &Manifest, list_sha256: Sha256Digest, url: &str) -> String {
    let mut out = String::new();
    let Content::Files(content) = &manifest.content else { return out };
    let (tool, unpack, flag) = match content.compression {
        Compression::Zstd => ("zstd", "[\"zstd\", \"-dc\"]", "--zstd"),
        Compression::Gzip => ("gzip", "[\"gzip\", \"-dc\"]", "--gzip"),
    };
    let packs: Vec<String> = content.packs.iter().map(|p| format!("    {:?},\n", p.object)).collect();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "# Restore backup {source}@{id} without dozo

{files} files ({bytes}) that lay below `{root}` at {started}. Needed: Python 3.8 or newer, and {tool}.

Set these first; the repository was at `{url}`. If it lies in a bucket, copy the keys listed under *Objects* to a folder first,
keeping their paths (for example with `aws s3 cp --recursive`).

    export REPO=/path/to/the/repository    # the folder that holds dozo-repository.json
    export TARGET=/path/to/a/new/folder

The list `{list}` (JSON Lines, one line for each file: path, size, mtime, sha256, owner, mode) says which member of which tar
object holds a file. This restores all of them and compares every digest; run as root, it restores owners, too:

```sh
set -eu
python3 - <<'DOZO'
UNPACK = {unpack}
LIST = {list:?}
SHA256 = \"{list_sha256}\"
ENTRIES = {entries}
ROOT = {root_meta}
PACKS = [
{packs}]
{SCRIPT}
DOZO
```

A single file is taken out by its name: `tar {flag} -tvf` and `-xf` read every tar object; where several hold a file of that
name, the list says which of them this backup means.
",
        source = manifest.source,
        id = manifest.id,
        files = human_count(content.files),
        bytes = human_bytes(content.bytes),
        root = plain(&content.root),
        started = manifest.started,
        list = content.list,
        entries = content.entries,
        root_meta = python(&content.root_meta),
        packs = packs.concat(),
    );
    if !manifest.left_out.is_empty() {
        let _ = writeln!(out, "\n## Not in this backup\n");
        for left in &manifest.left_out {
            let _ = writeln!(out, "- {}", plain(&format!("{}: {}", left.name, left.reason)));
        }
    }
    let _ =
        writeln!(out, "\n## Objects\n\nSizes and SHA-256 stand in `manifest.json` under `objects`. Beside `{}`:\n", content.list);
    for pack in &content.packs {
        let _ = writeln!(out, "- `{}`", pack.object);
    }
    out
}

/// What Python needs to know of the root folder.
fn python(meta: &FileMeta) -> String {
    let FileMeta { mode, uid, gid, mtime, .. } = meta;
    format!("{{\"mode\": \"{mode:04o}\", \"uid\": {uid}, \"gid\": {gid}, \"mtime\": \"{mtime}\"}}")
}
