//! `synth://`: a source tree of any size, computed from a seed and never stored.
//!
//! `synth://?entries=100000000&seed=7&size=0-4096`; every key may be left out, none may be given twice:
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `entries` | `1000000` | entries below the root, files and directories; a walk finds exactly that many |
//! | `seed` | `0` | the same seed and keys give the same tree on every machine; another seed gives another one |
//! | `files` | `32-96` | files in a directory: a number, or a range from which each directory draws |
//! | `dirs` | `4-12` | child directories of a directory that needs any: a number or a range; `0` puts all files into the root |
//! | `depth` | `64` | directories so far below the root hold only files, however many are left; `0` is one directory |
//! | `size` | `0-2048` | bytes in a file: a number or a range; the default keeps a file's bytes cheaper than its entry |
//! | `sizes` | `uniform` | how a range of sizes is drawn from: `uniform`, or `log`: every power of two is as likely as the others |
//! | `latency` | `0` | each operation waits so long, as for a server that is asked: `2ms`, `500us`, `1s`; a listing does so every 128 entries |
//!
//! Entries are called `d0`, `d1` ... and `f0`, `f1` ... Files have mode 0644 or 0755, directories 0755; owners, times
//! and contents vary. There are no symlinks, no hard links, no holes and no extended attributes.
//!
//! Invariant: what an entry is depends on the URL and its path alone. Any worker may open any path at any time, at
//! a cost that grows with the path's depth and not with the tree.

mod contents;
mod tree;
mod url;

use super::latency::round_trip;
use super::{
    Dir, Edit, Filesystem, FsError, Made, New, NewEntry, Options, Result, RootError, Side, SourceFile, Traits, Usage,
    Xattrs,
};
use crate::model::{Kind, Metadata, Operation, RelPath, RootIdentity, task::Entry};
use contents::Contents;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tree::{Node, Split, Tree};

/// Entries that one round trip of a listing brings, where there is a latency.
const ENTRIES_PER_ROUND_TRIP: u64 = 128;
/// Longest name: a letter and the 20 digits of a `u64`.
const NAME_BYTES: usize = 21;

/// Opens a tree from what stands after `synth://`.
///
/// # Errors
/// [`RootError::BadUrl`] names the key; [`RootError::WrongSide`] as a target.
pub fn open(rest: &[u8], side: Side, _options: &Options) -> std::result::Result<Arc<dyn Filesystem>, RootError> {
    let spec = url::parse(rest)?;
    match side {
        Side::Source => Ok(Arc::new(Synth(Arc::new(Tree::new(spec))))),
        Side::Target | Side::Trial => Err(RootError::WrongSide(
            "synth:// is computed and cannot be written: use it as the source, and a directory or null:// as the target"
                .to_owned(),
        )),
    }
}

struct Synth(Arc<Tree>);

impl Filesystem for Synth {
    fn traits(&self) -> Traits {
        Traits::default()
    }

    fn open_dir(&self, path: &RelPath) -> Result<Box<dyn Dir>> {
        let mut node = self.0.root();
        if !path.is_root() {
            for name in path.as_bytes().split(|b| *b == b'/') {
                node = child_dir(&self.0, node, &self.0.split(node), name)?;
            }
        }
        Ok(open_node(&self.0, node))
    }

    /// Equal trees are equal roots, however their URLs are written.
    fn identity(&self) -> Result<RootIdentity> {
        let tree = url::Spec { latency: Duration::ZERO, ..self.0.spec.clone() };
        let ino = xxhash_rust::xxh3::xxh3_64(format!("{tree:?}").as_bytes());
        Ok(RootIdentity { ino, device: b"synth://".to_vec(), ..RootIdentity::default() })
    }

    /// Entries are exact, the root among them; bytes are what the distribution leads to expect.
    fn usage(&self) -> Option<Usage> {
        let spec = &self.0.spec;
        let files = if spec.dirs.max == 0 || spec.depth == 0 {
            spec.entries
        } else {
            let mean = u128::from(spec.files.mean());
            (u128::from(spec.entries) * mean / (mean + 1)) as u64
        };
        Some(Usage { entries: spec.entries + 1, bytes: files.saturating_mul(self.0.mean_size()), whole: true })
    }
}

struct SynthDir {
    tree: Arc<Tree>,
    node: Node,
    split: Split,
}

/// What a name in a directory stands for.
enum Child {
    File(u64),
    Dir(Node),
}

fn open_node(tree: &Arc<Tree>, node: Node) -> Box<dyn Dir> {
    round_trip(tree.spec.latency);
    Box::new(SynthDir { tree: Arc::clone(tree), node, split: tree.split(node) })
}

fn child(tree: &Tree, node: Node, split: &Split, name: &[u8]) -> Option<Child> {
    let (letter, digits) = name.split_first()?;
    let index = index_of(digits)?;
    match letter {
        b'f' if index < split.files => Some(Child::File(Tree::file(node, index))),
        b'd' if index < split.dirs => Some(Child::Dir(tree.dir(node, split, index))),
        _ => None,
    }
}

fn child_dir(tree: &Tree, node: Node, split: &Split, name: &[u8]) -> Result<Node> {
    match child(tree, node, split, name) {
        Some(Child::Dir(node)) => Ok(node),
        Some(Child::File(_)) => Err(error(Operation::OpenDirectory, libc::ENOTDIR)),
        None => Err(error(Operation::OpenDirectory, libc::ENOENT)),
    }
}

/// Reads a number as [`Name`] writes it: digits only, no leading zero.
fn index_of(digits: &[u8]) -> Option<u64> {
    let canonical = !digits.is_empty() && (digits.len() == 1 || digits[0] != b'0');
    if !canonical {
        return None;
    }
    digits.iter().try_fold(0_u64, |n, b| {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        n.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// A name that counts up in place: cheaper than formatting each number.
struct Name {
    bytes: [u8; NAME_BYTES],
    len: usize,
}

impl Name {
    fn first(letter: u8) -> Self {
        let mut bytes = [b'0'; NAME_BYTES];
        bytes[0] = letter;
        Name { bytes, len: 2 }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn advance(&mut self) {
        for digit in self.bytes[1..self.len].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
        // All were nines: one digit more, and the first of them a one.
        self.bytes[1] = b'1';
        self.bytes[self.len] = b'0';
        self.len += 1;
    }
}

fn error(operation: Operation, errno: i32) -> FsError {
    FsError { operation, errno }
}

fn read_only<T>(operation: Operation) -> Result<T> {
    Err(error(operation, libc::EROFS))
}

impl SynthDir {
    fn child(&self, name: &[u8]) -> Option<Child> {
        child(&self.tree, self.node, &self.split, name)
    }
}

impl Dir for SynthDir {
    fn metadata(&self) -> Result<Metadata> {
        Ok(self.tree.dir_metadata(self.node))
    }

    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> Result<()> {
        let mut listed = 0;
        let mut trip = || {
            if listed % ENTRIES_PER_ROUND_TRIP == 0 {
                round_trip(self.tree.spec.latency);
            }
            listed += 1;
        };
        let mut name = Name::first(b'd');
        for i in 0..self.split.dirs {
            trip();
            let metadata = self.tree.dir_metadata(self.tree.dir(self.node, &self.split, i));
            each(Entry { name: name.as_bytes(), kind: Some(Kind::Directory), metadata: Some(metadata) });
            name.advance();
        }
        let mut name = Name::first(b'f');
        for i in 0..self.split.files {
            trip();
            let metadata = self.tree.file_metadata(Tree::file(self.node, i));
            each(Entry { name: name.as_bytes(), kind: Some(Kind::File), metadata: Some(metadata) });
            name.advance();
        }
        Ok(())
    }

    fn stat(&self, name: &[u8]) -> Result<Metadata> {
        round_trip(self.tree.spec.latency);
        match self.child(name) {
            Some(Child::File(number)) => Ok(self.tree.file_metadata(number)),
            Some(Child::Dir(node)) => Ok(self.tree.dir_metadata(node)),
            None => Err(error(Operation::Stat, libc::ENOENT)),
        }
    }

    fn open_dir(&self, name: &[u8]) -> Result<Box<dyn Dir>> {
        let node = child_dir(&self.tree, self.node, &self.split, name)?;
        Ok(open_node(&self.tree, node))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>> {
        let latency = self.tree.spec.latency;
        round_trip(latency);
        match self.child(name) {
            Some(Child::File(number)) => {
                let contents = Contents::new(self.tree.contents_key(number));
                Ok(Box::new(SynthFile { metadata: self.tree.file_metadata(number), contents, latency }))
            }
            Some(Child::Dir(_)) => Err(error(Operation::Open, libc::ELOOP)),
            None => Err(error(Operation::Open, libc::ENOENT)),
        }
    }

    fn read_link(&self, name: &[u8]) -> Result<Vec<u8>> {
        let errno = if self.child(name).is_some() { libc::EINVAL } else { libc::ENOENT };
        Err(error(Operation::ReadLink, errno))
    }

    fn xattrs(&self, name: &[u8]) -> Result<Xattrs> {
        match self.child(name) {
            Some(_) => Ok(Xattrs::new()),
            None => Err(error(Operation::ListXattrs, libc::ENOENT)),
        }
    }

    fn xattrs_self(&self) -> Result<Xattrs> {
        Ok(Xattrs::new())
    }

    fn make_dir(&self, _name: &[u8]) -> Result<Made> {
        read_only(Operation::MakeDirectory)
    }

    fn make_new_dir(&self, _name: &[u8]) -> Result<Made> {
        read_only(Operation::MakeDirectory)
    }

    fn create(&self, _name: &[u8], _what: New<'_>, _direct: bool) -> Result<Box<dyn NewEntry>> {
        read_only(Operation::Create)
    }

    fn edit(&self, _name: &[u8]) -> Result<Box<dyn Edit>> {
        read_only(Operation::Open)
    }

    fn edit_self(&self) -> Result<Box<dyn Edit>> {
        read_only(Operation::Open)
    }

    fn link(&self, _name: &[u8], _from: &dyn Dir, _from_name: &[u8], _replace: bool) -> Result<()> {
        read_only(Operation::Link)
    }

    fn remove(&self, _name: &[u8]) -> Result<()> {
        read_only(Operation::Remove)
    }

    fn unlink(&self, _name: &[u8]) -> Result<()> {
        read_only(Operation::Remove)
    }

    fn remove_empty_dir(&self, _name: &[u8]) -> Result<bool> {
        read_only(Operation::Remove)
    }

    fn move_to(&self, _name: &[u8], _to: &dyn Dir, _to_name: &[u8]) -> Result<Made> {
        read_only(Operation::Rename)
    }

    fn lock(&self, _exclusive: bool) -> Result<Option<Box<dyn Send + Sync>>> {
        Err(error(Operation::Lock, libc::EOPNOTSUPP))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct SynthFile {
    metadata: Metadata,
    contents: Contents,
    latency: Duration,
}

impl SourceFile for SynthFile {
    fn drop_cache(&self, _: u64, _: u64) -> Result<()> {
        Ok(()) // there is none
    }

    fn metadata(&self) -> Result<Metadata> {
        round_trip(self.latency);
        Ok(self.metadata)
    }

    fn at_open(&self) -> Result<Metadata> {
        Ok(self.metadata)
    }

    fn xattrs(&self) -> Result<Xattrs> {
        Ok(Xattrs::new())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        round_trip(self.latency);
        let left = self.metadata.size.saturating_sub(offset);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        self.contents.fill(offset, &mut buf[..len]);
        Ok(len)
    }

    fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
        let end = size.min(self.metadata.size);
        Ok((offset < end).then_some((offset, end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::JobId;

    #[test]
    fn names_count_up_and_read_back() {
        let mut name = Name::first(b'f');
        for i in 0..12_345 {
            assert_eq!(name.as_bytes(), format!("f{i}").as_bytes());
            assert_eq!(index_of(&name.as_bytes()[1..]), Some(i));
            name.advance();
        }
    }

    #[test]
    fn a_number_that_is_not_canonical_is_no_name() {
        for digits in ["", "00", "01", "+1", "1a", "18446744073709551616"] {
            assert_eq!(index_of(digits.as_bytes()), None, "{digits}");
        }
    }

    #[test]
    fn a_target_is_refused_with_the_way_out() {
        let refused = open(b"", Side::Target, &Options::new(JobId::random())).err();
        assert!(matches!(refused, Some(RootError::WrongSide(why)) if why.contains("as the source")));
    }

    #[test]
    fn a_latency_is_felt_once_an_operation() {
        let fs = open(b"?entries=10&depth=0&latency=20ms", Side::Source, &Options::new(JobId::random())).unwrap();
        let start = std::time::Instant::now();
        let dir = fs.open_dir(&RelPath::root()).unwrap();
        dir.stat(b"f0").unwrap();
        dir.list(&mut |_| ()).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(60));
    }
}
