//! One suite of behaviours for every adapter, asked through the port alone.
//!
//! A new adapter adds a row to [`sources`] or [`targets`], or to both. What a target that forgets cannot show is left
//! out by its `traits().forgets` and nothing else; a target that shows its tree to `std::fs` is compared with that too.

mod made_up;
mod null;
mod part;
mod placing;
mod replacing;
mod source;
mod target;

use super::*;
use crate::model::JobId;
use crate::model::policy::Limits;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Source {
    adapter: &'static str,
    fs: Arc<dyn Filesystem>,
    /// Every path in it, where that is known ahead.
    paths: Option<Vec<Vec<u8>>>,
    _keep: Option<TempDir>,
}

struct Target {
    adapter: &'static str,
    fs: Arc<dyn Filesystem>,
    /// Where `std::fs` sees it.
    seen_at: Option<PathBuf>,
    _keep: Option<TempDir>,
}

fn options() -> Options {
    Options::new(JobId::random())
}

fn open_root(root: &[u8], side: Side) -> Arc<dyn Filesystem> {
    open(root, side, &options()).unwrap_or_else(|e| panic!("{e}"))
}

fn sources() -> Vec<Source> {
    let synth =
        |url: &str| Source { adapter: "synth", fs: open_root(url.as_bytes(), Side::Source), paths: None, _keep: None };
    let (dir, paths) = tree_on_disk();
    let fs = open_root(dir.path().as_os_str().as_bytes(), Side::Source);
    let made_up = open_root(b"synth://?entries=200&seed=4", Side::Source);
    vec![
        synth("synth://?entries=500&seed=3"),
        synth("synth://?entries=300&files=0-3&dirs=1-2&depth=40&size=0-300000&sizes=log"),
        synth("synth://?entries=0"),
        Source { adapter: "throttled", fs: throttled(&fs), paths: Some(paths.clone()), _keep: None },
        Source { adapter: "metered", fs: metered(&fs), paths: Some(paths.clone()), _keep: None },
        Source { adapter: "metered", fs: metered(&made_up), paths: None, _keep: None },
        Source { adapter: "file", fs, paths: Some(paths), _keep: Some(dir) },
    ]
}

fn targets() -> Vec<Target> {
    let dir = TempDir::new().unwrap();
    let at = dir.path().join("target");
    let file = open_root(at.as_os_str().as_bytes(), Side::Target);
    let slow_dir = TempDir::new().unwrap();
    let slow_at = slow_dir.path().join("target");
    let slow = throttled(&open_root(slow_at.as_os_str().as_bytes(), Side::Target));
    let timed_dir = TempDir::new().unwrap();
    let timed_at = timed_dir.path().join("target");
    let timed = metered(&open_root(timed_at.as_os_str().as_bytes(), Side::Target));
    vec![
        Target { adapter: "null", fs: open_root(b"null://", Side::Target), seen_at: None, _keep: None },
        Target { adapter: "file", fs: file, seen_at: Some(at), _keep: Some(dir) },
        Target { adapter: "throttled", fs: slow, seen_at: Some(slow_at), _keep: Some(slow_dir) },
        Target { adapter: "metered", fs: timed, seen_at: Some(timed_at), _keep: Some(timed_dir) },
    ]
}

/// Within limits that nobody meets: the layer must not show.
fn throttled(fs: &Arc<dyn Filesystem>) -> Arc<dyn Filesystem> {
    let limits = Limits { bytes_per_second: Some(1 << 50), operations_per_second: Some(1 << 40) };
    super::layers::throttle::throttled(Arc::clone(fs), &[Arc::new(super::layers::Limiter::new(limits))])
}

/// Timed by nobody's clock but the layer's own.
fn metered(fs: &Arc<dyn Filesystem>) -> Arc<dyn Filesystem> {
    super::layers::metered::metered(Arc::clone(fs), Some(&crate::model::timings::Timings::new()))
}

/// A tree with one of everything that an unprivileged user can make.
fn tree_on_disk() -> (TempDir, Vec<Vec<u8>>) {
    let dir = TempDir::new().unwrap();
    let at = dir.path();
    let long = [b'n'; 255];
    let names: [&[u8]; 5] = [b"plain", b"new\nline", b"not \xff utf-8", &long, b"-rf"];
    for (i, name) in names.iter().enumerate() {
        let data: Vec<u8> = (0..i * 70_000).map(|n| (n * n % 251) as u8).collect();
        fs::write(at.join(OsStr::from_bytes(name)), data).unwrap();
    }
    let mut sparse = fs::File::create(at.join("sparse")).unwrap();
    for offset in [1 << 20, 3 << 20] {
        sparse.seek(std::io::SeekFrom::Start(offset)).unwrap();
        sparse.write_all(&[7; 5000]).unwrap();
    }
    sparse.set_len(5 << 20).unwrap();
    fs::File::create(at.join("hole")).unwrap().set_len(1 << 40).unwrap();
    fs::create_dir_all(at.join("a/b/c")).unwrap();
    fs::write(at.join("a/b/c/leaf"), "leaf").unwrap();
    fs::create_dir(at.join("empty")).unwrap();
    symlink("a/b", at.join("to-dir")).unwrap();
    symlink("plain", at.join("to-file")).unwrap();
    symlink("nowhere", at.join("to-nothing")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap();
    let mut paths = on_disk(at).into_keys().collect::<Vec<_>>();
    paths.sort();
    (dir, paths)
}

/// What an entry shows: enough to tell that it is the right one.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Other(Kind),
}

/// A tree as `std::fs` sees it. Files too large to read are shown as empty.
fn on_disk(root: &Path) -> BTreeMap<Vec<u8>, Shown> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let shown = if kind.is_dir() {
                pending.push(path.clone());
                Shown::Directory
            } else if kind.is_symlink() {
                Shown::Symlink(fs::read_link(&path).unwrap().into_os_string().as_bytes().to_vec())
            } else if kind.is_file() {
                Shown::File(if meta.len() < 1 << 30 { fs::read(&path).unwrap() } else { Vec::new() })
            } else {
                Shown::Other(if kind.is_fifo() { Kind::Fifo } else { Kind::Socket })
            };
            found.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), shown);
        }
    }
    found
}

/// A tree as the port shows it.
fn through_port(fs: &dyn Filesystem) -> BTreeMap<Vec<u8>, Shown> {
    let mut found = BTreeMap::new();
    for (path, dir) in directories(fs) {
        for (name, _) in listed(&*dir) {
            let meta = dir.stat(&name).unwrap();
            let shown = match meta.kind {
                Kind::Directory => Shown::Directory,
                Kind::File => Shown::File(read_all(&*dir.open_file(&name).unwrap())),
                Kind::Symlink => Shown::Symlink(dir.read_link(&name).unwrap()),
                other => Shown::Other(other),
            };
            found.insert(path.join(&name).unwrap().as_bytes().to_vec(), shown);
        }
    }
    found
}

impl Target {
    fn root(&self) -> Box<dyn Dir> {
        self.fs.open_dir(&RelPath::root()).unwrap()
    }

    /// Asserts that the tree is this and nothing else; a target that forgets has nothing in it.
    fn holds(&self, want: &[(&str, Shown)]) {
        let got = through_port(&*self.fs);
        if self.fs.traits().forgets {
            assert!(got.is_empty(), "{}: {got:?}", self.adapter);
            return;
        }
        if let Some(at) = &self.seen_at {
            assert_eq!(got, on_disk(at), "{}", self.adapter);
        }
        let got: Vec<_> = got.iter().map(|(path, shown)| (String::from_utf8_lossy(path), shown)).collect();
        let want: Vec<_> = want.iter().map(|(path, shown)| (String::from_utf8_lossy(path.as_bytes()), shown)).collect();
        assert_eq!(got, want, "{}", self.adapter);
    }

    /// Makes an entry the way a copy does.
    fn put(&self, name: &str, what: New<'_>, contents: &str, replace: bool) -> Made {
        let dir = self.root();
        let mut new = dir.create(name.as_bytes(), what, false).unwrap();
        if what == New::File {
            new.fill_from(&Bytes::of(contents), true, &|_| ()).unwrap();
        }
        new.seal().unwrap();
        new.publish(replace).unwrap_or_else(|e| panic!("{}: {name} {what:?}: {e}", self.adapter))
    }
}

fn file(contents: &str) -> Shown {
    Shown::File(contents.as_bytes().to_vec())
}

fn to(target: &str) -> Shown {
    Shown::Symlink(target.as_bytes().to_vec())
}

const FIFO: New<'static> = New::Node(Kind::Fifo, 0);

/// A file in memory, to fill others from; blocks of zeros are its holes.
struct Bytes {
    data: Vec<u8>,
    says_size: u64,
}

const HOLE_BYTES: usize = 4096;

impl Bytes {
    fn of(text: &str) -> Self {
        Bytes::new(text.as_bytes().to_vec())
    }

    fn new(data: Vec<u8>) -> Self {
        Bytes { says_size: data.len() as u64, data }
    }
}

impl SourceFile for Bytes {
    fn drop_cache(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    fn metadata(&self) -> Result<Metadata> {
        let zero = Timestamp::default();
        let (kind, mode, size) = (Kind::File, 0o644, self.says_size);
        let (nlink, blocks_512) = (1, 0);
        let (uid, gid, dev, ino, rdev) = (0, 0, 1, 1, 0);
        Ok(Metadata {
            kind,
            mode,
            uid,
            gid,
            size,
            blocks_512,
            nlink,
            dev,
            ino,
            rdev,
            atime: zero,
            mtime: zero,
            ctime: zero,
        })
    }

    fn xattrs(&self) -> Result<Xattrs> {
        Ok(Xattrs::new())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = self.data.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
        let is_data = |at: usize| self.data[at..self.data.len().min(at + HOLE_BYTES)].iter().any(|b| *b != 0);
        let first = offset as usize / HOLE_BYTES * HOLE_BYTES;
        let mut blocks = (first..(size as usize).min(self.data.len())).step_by(HOLE_BYTES).filter(|at| is_data(*at));
        Ok(blocks.next().map(|at| ((at as u64).max(offset), size.min((at + HOLE_BYTES) as u64))))
    }
}

type Listed = (Option<Kind>, Option<Metadata>);

fn listed(dir: &dyn Dir) -> BTreeMap<Vec<u8>, Listed> {
    let mut names = BTreeMap::new();
    let listing = dir.list(&mut |e| {
        let before = names.insert(e.name.to_vec(), (e.kind, e.metadata));
        assert_eq!(before, None, "listed twice: {}", crate::model::escaped(e.name));
    });
    listing.unwrap();
    names
}

/// Every directory, opened by name from the one above.
fn directories(fs: &dyn Filesystem) -> Vec<(RelPath, Box<dyn Dir>)> {
    let mut found = vec![(RelPath::root(), fs.open_dir(&RelPath::root()).unwrap())];
    let mut next = 0;
    while next < found.len() {
        let (path, dir) = &found[next];
        let names = listed(&**dir).into_keys();
        let below: Vec<_> = names
            .filter(|name| dir.stat(name).unwrap().kind == Kind::Directory)
            .map(|name| (path.join(&name).unwrap(), dir.open_dir(&name).unwrap()))
            .collect();
        found.extend(below);
        next += 1;
    }
    found
}

/// Calls `f` with every entry of a source: its directory, its path and its name.
fn each_entry(source: &Source, mut f: impl FnMut(&dyn Dir, &RelPath, &[u8])) {
    for (path, dir) in directories(&*source.fs) {
        for name in listed(&*dir).into_keys() {
            f(&*dir, &path.join(&name).unwrap(), &name);
        }
    }
}

/// Contents of a file; empty for one that is too large to hold.
fn read_all(file: &dyn SourceFile) -> Vec<u8> {
    let size = file.metadata().unwrap().size;
    if size >= 1 << 30 {
        return Vec::new();
    }
    let mut data = vec![0; size as usize + 1];
    let n = file.read_at(0, &mut data).unwrap();
    assert_eq!(n as u64, size, "fewer bytes than asked for only at the end");
    data.truncate(n);
    data
}

fn class<T>(result: Result<T>) -> Option<Class> {
    result.err().map(|e| e.class())
}

#[test]
fn every_adapter_is_in_the_suite() {
    let rows: Vec<_> = sources().iter().map(|s| s.adapter).chain(targets().iter().map(|t| t.adapter)).collect();
    for adapter in ADAPTERS {
        assert!(rows.contains(&adapter.scheme), "{}:// has no row here", adapter.scheme);
    }
}

#[test]
fn a_root_on_the_wrong_side_is_refused() {
    for (root, side) in [(&b"synth://"[..], Side::Target), (b"null://", Side::Source)] {
        let refused = open(root, side, &options()).err();
        assert!(matches!(refused, Some(RootError::WrongSide(_))), "{refused:?}");
    }
    assert!(matches!(open(b"null://x", Side::Target, &options()).err(), Some(RootError::BadUrl(_))));
}
