//! Where the time of actors goes: directories that took long.
//!
//! Invariant: a list of them is short, however many directories there are. It says where to look, and proves nothing:
//! what took little is left out, and what was done twice took its time twice.

use serde::{Deserialize, Serialize};

/// Most directories in a [`Slowest`] that is told to others.
pub const TOLD: usize = 64;

/// A directory, and what actors did in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slow {
    /// Path relative to the root, as bytes.
    #[serde(with = "serde_bytes")]
    pub directory: Vec<u8>,
    /// What was done there.
    pub spent: Spent,
}

/// Time of actors, side by side or one after the other, and what they did in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// In microseconds.
    pub micros: u64,
    /// Entries that were done with.
    pub entries: u64,
    /// Bytes that were written, or read to be compared.
    pub bytes: u64,
}

impl Spent {
    /// Adds another's.
    pub fn add(&mut self, more: Spent) {
        self.micros = self.micros.saturating_add(more.micros);
        self.entries = self.entries.saturating_add(more.entries);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// The directories that took longest, of all that were told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slowest {
    most: usize,
    list: Vec<Slow>,
}

impl Slowest {
    /// Keeps so many at least, and twice as many at most.
    pub fn of(most: usize) -> Self {
        Slowest { most, list: Vec::new() }
    }

    /// Adds what was done in a directory.
    pub fn add(&mut self, more: Slow) {
        if let Some(known) = self.list.iter_mut().find(|known| known.directory == more.directory) {
            return known.spent.add(more.spent);
        }
        self.list.push(more);
        if self.list.len() > 2 * self.most {
            self.sort();
            self.list.truncate(self.most);
        }
    }

    fn sort(&mut self) {
        self.list.sort_by(|a, b| (b.spent.micros, &a.directory).cmp(&(a.spent.micros, &b.directory)));
    }

    /// They, the slowest first.
    pub fn into_list(mut self) -> Vec<Slow> {
        self.sort();
        self.list.truncate(self.most);
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(name: u64, micros: u64) -> Slow {
        Slow { directory: name.to_be_bytes().to_vec(), spent: Spent { micros, entries: 1, bytes: 2 } }
    }

    #[test]
    fn the_slowest_stay_and_the_list_is_short() {
        let mut slowest = Slowest::of(3);
        for n in 0..10_000 {
            slowest.add(slow(n, n % 100));
            slowest.add(slow(77, 50));
            assert!(slowest.list.len() <= 6);
        }
        let list = slowest.into_list();
        assert_eq!(list.len(), 3);
        let spent = Spent { micros: 10_000 * 50 + 77, entries: 10_001, bytes: 20_002 };
        assert_eq!(list[0], Slow { spent, ..slow(77, 0) });
        assert_eq!((list[1].spent.micros, list[2].spent.micros), (99, 99));
    }
}
