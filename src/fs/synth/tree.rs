//! The tree's shape: which entries there are, computed from a directory's number alone.
//!
//! Invariant: entries are numbered in preorder. The directory `number` owns the numbers
//! `number + 1 ..= number + below`: first its files, then one run for each child directory. So counts are
//! exact, numbers are unique, and a child is found from its parent without looking at its siblings.

use super::url::{Range, Spec};
use crate::model::{Kind, Metadata, Timestamp};

/// Number of the root; inode numbers are these numbers.
const ROOT: u64 = 1;
/// 2000-01-01, the earliest time that an entry carries, in seconds.
const FIRST_MTIME_SEC: i64 = 946_684_800;
/// Times spread over so many seconds: 20 years, so that none lies ahead.
const MTIME_SPREAD_SEC: u64 = 20 * 365 * 86_400;
/// Owners and groups are this and the following ones.
const FIRST_ID: u32 = 1000;
/// Device number in the attributes; any constant does.
const DEVICE: u64 = 0x5359;

/// What a number is mixed with, so that its properties are independent of each other.
#[derive(Clone, Copy)]
enum Salt {
    Attributes = 1,
    Times = 2,
    Size = 3,
    Files = 4,
    Dirs = 5,
    Contents = 6,
    /// One for each pair of child directories: this and the following ones.
    Pair = 7,
}

/// A directory: its number, the entries in its subtree, its distance from the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Its number in preorder.
    pub number: u64,
    /// Entries in its subtree, without itself.
    pub below: u64,
    /// 0 for the root.
    pub depth: u32,
}

/// How a directory's entries are divided.
#[derive(Debug, Clone, Copy)]
pub struct Split {
    /// Files directly in it.
    pub files: u64,
    /// Directories directly in it.
    pub dirs: u64,
    /// Each child directory has so many entries below it, on average and rounded down.
    share: u64,
    /// The first so many have one more.
    extra: u64,
}

/// The shape for one [`Spec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// What the URL asked for.
    pub spec: Spec,
    key: u64,
}

impl Tree {
    /// Nothing is computed ahead.
    pub fn new(spec: Spec) -> Self {
        let key = finish(spec.seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
        Tree { spec, key }
    }

    /// The root directory.
    pub fn root(&self) -> Node {
        Node { number: ROOT, below: self.spec.entries, depth: 0 }
    }

    /// Divides a directory's entries among files and child directories.
    pub fn split(&self, node: Node) -> Split {
        let only_files = Split { files: node.below, dirs: 0, share: 0, extra: 0 };
        if node.depth >= self.spec.depth || self.spec.dirs.max == 0 {
            return only_files;
        }
        let files = pick(self.spec.files, self.hash(node.number, Salt::Files as u64)).min(node.below);
        let rest = node.below - files;
        if rest == 0 {
            return only_files;
        }
        // No more directories than the rest fills, or the leaves would be nearly empty.
        let filled = rest.div_ceil(1 + self.spec.files.mean());
        let dirs = pick(self.spec.dirs, self.hash(node.number, Salt::Dirs as u64)).min(filled).max(1);
        let below = rest - dirs;
        Split { files, dirs, share: below / dirs, extra: below % dirs }
    }

    /// Number of the file `index` of a directory.
    pub fn file(node: Node, index: u64) -> u64 {
        node.number + 1 + index
    }

    /// The child directory `index`, which must be below `split.dirs`.
    pub fn dir(&self, node: Node, split: &Split, index: u64) -> Node {
        let before = index * (1 + split.share) + index.min(split.extra);
        let below = split.share + u64::from(index < split.extra);
        // Two neighbours trade up to half of a share, so that subtrees differ and sums stay exact.
        let trade = if index | 1 < split.dirs {
            self.hash(node.number, Salt::Pair as u64 + index / 2) % (split.share / 2 + 1)
        } else {
            0
        };
        let first = node.number + 1 + split.files + before;
        let (number, below) =
            if index.is_multiple_of(2) { (first, below + trade) } else { (first + trade, below - trade) };
        Node { number, below, depth: node.depth + 1 }
    }

    /// Attributes of a file.
    pub fn file_metadata(&self, number: u64) -> Metadata {
        let attributes = self.hash(number, Salt::Attributes as u64);
        let mode = if attributes & 7 == 0 { 0o755 } else { 0o644 };
        let size = self.size(number);
        self.metadata(number, attributes, Kind::File, mode, size, 1)
    }

    /// Attributes of a directory.
    pub fn dir_metadata(&self, node: Node) -> Metadata {
        let attributes = self.hash(node.number, Salt::Attributes as u64);
        let names = u32::try_from(self.split(node).dirs).unwrap_or(u32::MAX);
        self.metadata(node.number, attributes, Kind::Directory, 0o755, 4096, names.saturating_add(2))
    }

    fn metadata(&self, number: u64, attributes: u64, kind: Kind, mode: u32, size: u64, nlink: u32) -> Metadata {
        let times = self.hash(number, Salt::Times as u64);
        let mtime = Timestamp {
            sec: FIRST_MTIME_SEC + scaled(times, MTIME_SPREAD_SEC) as i64,
            ns: scaled(times << 32, 1_000_000_000) as u32,
        };
        let atime = Timestamp { sec: mtime.sec + i64::from(attributes as u16), ns: mtime.ns };
        Metadata {
            kind,
            mode,
            uid: FIRST_ID + (attributes >> 16 & 15) as u32,
            gid: FIRST_ID + (attributes >> 20 & 3) as u32,
            size,
            blocks_512: size.div_ceil(512),
            nlink,
            dev: DEVICE,
            ino: number,
            rdev: 0,
            atime,
            mtime,
            ctime: mtime,
        }
    }

    fn size(&self, number: u64) -> u64 {
        let range = self.spec.size;
        let random = self.hash(number, Salt::Size as u64);
        if !self.spec.log {
            return pick(range, random);
        }
        // A length in bits first, each as likely as the others, then a number of that length. Integers only:
        // every machine of a fleet must come to the same size.
        let bits = |n: u64| u64::from(u64::BITS - n.leading_zeros());
        let length = pick(Range { min: bits(range.min), max: bits(range.max) }, random);
        pick(of_length(range, length), finish(random))
    }

    /// Bytes that a file has on average, by the distribution.
    pub fn mean_size(&self) -> u64 {
        let range = self.spec.size;
        if !self.spec.log {
            return range.mean();
        }
        let bits = |n: u64| u64::BITS - n.leading_zeros();
        let lengths = bits(range.min)..=bits(range.max);
        let count = u128::from(bits(range.max) - bits(range.min) + 1);
        let sum: u128 = lengths.map(|length| u128::from(of_length(range, length.into()).mean())).sum();
        (sum / count) as u64
    }

    /// The key of a file's contents.
    pub fn contents_key(&self, number: u64) -> u64 {
        self.hash(number, Salt::Contents as u64)
    }

    fn hash(&self, number: u64, salt: u64) -> u64 {
        finish(
            self.key
                ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt.wrapping_mul(0xd1b5_4a32_d192_ed03)),
        )
    }
}

/// The last steps of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub fn finish(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// A random number brought below `bound`.
fn scaled(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

/// The part of a range whose numbers have so many bits; the range must hold some.
fn of_length(range: Range, bits: u64) -> Range {
    let shortest = if bits == 0 { 0 } else { 1 << (bits - 1) };
    let longest = if bits == 0 { 0 } else { shortest * 2 - 1 };
    Range { min: shortest.max(range.min), max: longest.min(range.max) }
}

fn pick(range: Range, random: u64) -> u64 {
    range.min + scaled(random, range.max - range.min + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn specs()(
            entries in 0_u64..5000, seed: u64, files in (0_u64..40, 0_u64..40), dirs in (0_u64..12, 0_u64..12), depth in 0_u32..12,
        ) -> Spec {
            let range = |(min, more)| Range { min, max: min + more };
            Spec { entries, seed, files: range(files), dirs: range(dirs), depth, ..Spec::default() }
        }
    }

    fn walk(tree: &Tree, node: Node, seen: &mut Vec<u64>) {
        assert!(node.depth <= tree.spec.depth);
        let split = tree.split(node);
        seen.extend((0..split.files).map(|i| Tree::file(node, i)));
        for i in 0..split.dirs {
            let child = tree.dir(node, &split, i);
            seen.push(child.number);
            walk(tree, child, seen);
        }
    }

    proptest! {
        #[test]
        fn every_number_belongs_to_exactly_one_entry(spec in specs()) {
            let tree = Tree::new(spec);
            let mut seen = Vec::new();
            walk(&tree, tree.root(), &mut seen);
            seen.sort_unstable();
            prop_assert_eq!(seen, (ROOT + 1..=ROOT + tree.spec.entries).collect::<Vec<_>>());
        }

        #[test]
        fn sizes_stay_in_their_range(min in 0_u64..5000, more in 0_u64..1 << 40, log: bool, number: u64) {
            let size = Range { min, max: min + more };
            let tree = Tree::new(Spec { size, log, ..Spec::default() });
            let got = tree.file_metadata(number).size;
            prop_assert!((size.min..=size.max).contains(&got));
        }
    }

    #[test]
    fn a_log_distribution_has_as_many_small_files_as_large_ones() {
        let tree = Tree::new(Spec { size: Range { min: 1, max: (1 << 20) - 1 }, log: true, ..Spec::default() });
        let small = (0..10_000).filter(|n| tree.file_metadata(*n).size < 1 << 10).count();
        assert!((4500..5500).contains(&small), "{small}");
    }

    #[test]
    fn the_default_mean_size_is_about_one_kibibyte() {
        let tree = Tree::new(Spec::default());
        let bytes: u64 = (0..10_000).map(|n| tree.file_metadata(n).size).sum();
        assert!((1000..1050).contains(&(bytes / 10_000)), "{bytes}");
    }
}
