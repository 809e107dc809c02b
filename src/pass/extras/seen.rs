//! The names of one directory, as hashes.
//!
//! Invariant: a name that was added is never said to be absent; two names with one hash only make an entry stay that
//! could have gone. Memory is bounded, however wide the directory is.

use crate::fs::aside;
use crate::model::RelPath;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Names that are remembered; of more, only how many there are and the sum of their hashes. 1 MiB.
const MAX_NAMES: usize = 128 << 10;

/// Is it a working file of some job, or the hidden directory? Those are nobody's data.
pub fn is_ours(dir: &RelPath, name: &[u8]) -> bool {
    aside::is_working_file(name) || (dir.is_root() && name == aside::WORK_DIR)
}

/// Names of a directory while it is listed.
#[derive(Debug, Clone)]
pub struct SeenNames {
    hashes: Vec<u64>,
    count: u64,
    /// Of all hashes, wrapping.
    sum: u64,
    in_root: bool,
}

impl SeenNames {
    /// None of `dir` yet.
    pub fn of(dir: &RelPath) -> Self {
        SeenNames { hashes: Vec::new(), count: 0, sum: 0, in_root: dir.is_root() }
    }

    /// Adds a name; working files are left out.
    pub fn add(&mut self, name: &[u8]) {
        if aside::is_working_file(name) || self.in_root && name == aside::WORK_DIR {
            return;
        }
        let hash = hash(name);
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
        if self.hashes.len() < MAX_NAMES {
            self.hashes.push(hash);
        }
    }

    /// The listing is complete.
    pub fn seal(mut self) -> SealedNames {
        let too_many = self.count > self.hashes.len() as u64;
        if too_many {
            self.hashes = Vec::new();
        }
        self.hashes.sort_unstable();
        SealedNames { hashes: self.hashes, count: self.count, sum: self.sum, too_many }
    }
}

/// Names of a directory that has been listed to its end.
#[derive(Debug, Clone)]
pub struct SealedNames {
    /// In order; none if there were too many.
    hashes: Vec<u64>,
    count: u64,
    sum: u64,
    too_many: bool,
}

impl SealedNames {
    /// Was the name there, perhaps? None if there were too many to remember.
    pub fn holds(&self, name: &[u8]) -> Option<bool> {
        (!self.too_many).then(|| self.hashes.binary_search(&hash(name)).is_ok())
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Are the names of `target` all among these? True only if nothing can be told to be missing here.
    pub fn covers(&self, target: &SealedNames) -> bool {
        if (self.count, self.sum) == (target.count, target.sum) {
            return true;
        }
        if self.too_many || target.too_many {
            return false;
        }
        let mut ours = self.hashes.iter();
        target.hashes.iter().all(|theirs| ours.by_ref().find(|h| *h >= theirs) == Some(theirs))
    }
}

/// With a key that nobody outside this process knows, so that nobody can make names that collide.
fn hash(name: &[u8]) -> u64 {
    static KEY: OnceLock<u64> = OnceLock::new();
    // RandomState is seeded from the operating system's randomness.
    let key = *KEY.get_or_init(|| std::hash::RandomState::new().build_hasher().finish());
    xxh3_64_with_seed(name, key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn sealed(names: &BTreeSet<u32>) -> SealedNames {
        let mut seen = SeenNames::of(&RelPath::root());
        names.iter().for_each(|n| seen.add(&n.to_le_bytes().map(|b| b | 128)));
        seen.seal()
    }

    proptest! {
        #[test]
        fn covering_is_having_every_name(
            a in proptest::collection::btree_set(0_u32..40, 0..40), b in proptest::collection::btree_set(0_u32..40, 0..40),
        ) {
            prop_assert_eq!(sealed(&a).covers(&sealed(&b)), a.is_superset(&b));
        }
    }

    #[test]
    fn what_was_added_is_held_and_nothing_else() {
        let mut seen = SeenNames::of(&RelPath::root());
        for name in [&b"a"[..], b"b", b".treehaul", b".treehaul-0123456789abc-0123456789abc-1f"] {
            seen.add(name);
        }
        let seen = seen.seal();
        assert_eq!([&b"a"[..], b"b", b"c", b".treehaul"].map(|n| seen.holds(n)), [true, true, false, false].map(Some));
        assert_eq!(seen.count(), 2);
    }

    #[test]
    fn of_too_many_names_only_their_equality_is_known() {
        let many = |names: std::ops::Range<u32>| {
            let mut seen = SeenNames::of(&RelPath::root());
            names.for_each(|n| seen.add(n.to_string().as_bytes()));
            seen.seal()
        };
        let n = MAX_NAMES as u32 + 1;
        let (all, again, other) = (many(0..n), many(0..n), many(1..n + 1));
        assert_eq!(all.holds(b"0"), None);
        assert!(all.covers(&again));
        assert!(!all.covers(&other) && !all.covers(&many(0..5)));
        assert_eq!(many(0..n - 1).holds(b"x"), Some(false), "as many as fit are remembered");
    }
}
