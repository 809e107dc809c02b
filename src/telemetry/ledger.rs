//! What no task can judge alone: groups of hard links, and files that several tasks look at.
//!
//! A group is the names of one inode inside the tree, two or more of them; it must be the same set of names on both
//! sides. An entry whose verdict depends on others is counted here, once. Invariant: a mark that comes twice changes
//! nothing.

use super::partitions::Partitions;
use crate::model::fingerprint::{Salt, Sum, encode_group};
use crate::model::{Finding, Half, Mark, State, Totals, escaped};
use std::io;

const HALVES: [Half; 2] = [Half::Source, Half::Target];
const STATES: [State; 5] = [State::Pending, State::OneSided, State::Differs, State::Vanished, State::Failed];
/// Half, device and inode number before the path.
const INODE_BYTES: usize = 17;
/// Before the path of a group's record: half, group, number of names.
const GROUP_BYTES: usize = 1 + 32 + 8;

fn inode_of(record: &[u8]) -> &[u8] {
    &record[..INODE_BYTES.min(record.len())]
}

/// A path's record begins with the path, after its length.
fn path_of(record: &[u8]) -> &[u8] {
    let Some((length, rest)) = record.split_first_chunk::<4>() else { return record };
    &record[..4 + (u32::from_le_bytes(*length) as usize).min(rest.len())]
}

/// Marks of a job, on disk.
pub(super) struct Ledger {
    links: Partitions,
    paths: Partitions,
    empty: bool,
}

/// What the marks come to.
pub(super) struct Verdict<'a> {
    pub sums: &'a mut [Sum; 2],
    pub totals: &'a mut Totals,
    pub finding: &'a mut dyn FnMut(Finding),
}

impl Ledger {
    pub fn new() -> Self {
        Ledger { links: Partitions::new(inode_of), paths: Partitions::new(path_of), empty: true }
    }

    /// Takes note of a mark.
    pub fn put(&mut self, mark: &Mark) -> io::Result<()> {
        self.empty = false;
        match mark {
            Mark::Link { half, dev, ino, path } => {
                let mut record = Vec::with_capacity(INODE_BYTES + path.len());
                record.push(*half as u8);
                record.extend_from_slice(&dev.to_be_bytes());
                record.extend_from_slice(&ino.to_be_bytes());
                record.extend_from_slice(path);
                self.links.put(&record)
            }
            Mark::State { path, state } => {
                let state = STATES.iter().position(|s| s == state).map_or(0, |p| p as u8);
                self.paths.put(&path_record(path, &[b'S', state]))
            }
        }
    }

    /// Judges everything.
    pub fn settle(self, salt: &Salt, verdict: &mut Verdict<'_>) -> io::Result<()> {
        if self.empty {
            return Ok(());
        }
        let Ledger { links, mut paths, .. } = self;
        let mut element = Vec::new();
        links.drain(&mut |names| {
            if names.len() > 1 {
                encode_group(&group_of(salt, names), &mut element);
                verdict.sums[usize::from(names[0][0])].add_element(salt, &element);
                put_group(&mut paths, salt, names)?;
            }
            Ok(())
        })?;
        paths.drain(&mut |records| {
            judge(records, verdict);
            Ok(())
        })
    }
}

fn path_record(path: &[u8], rest: &[u8]) -> Vec<u8> {
    [&(path.len() as u32).to_le_bytes(), path, rest].concat()
}

/// What stands for a set of names, in order.
fn group_of(salt: &Salt, names: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(salt);
    for name in names {
        let path = &name[INODE_BYTES..];
        hasher.update(&(path.len() as u64).to_le_bytes()).update(path);
    }
    *hasher.finalize().as_bytes()
}

/// Tells each name which group it belongs to, and one other name of it.
fn put_group(paths: &mut Partitions, salt: &Salt, names: &[&[u8]]) -> io::Result<()> {
    let group = group_of(salt, names);
    for (i, name) in names.iter().enumerate() {
        let other = &names[usize::from(i == 0)][INODE_BYTES..];
        let count = (names.len() as u64).to_le_bytes();
        let rest = [&[b'L', name[0]], &group[..], &count, other].concat();
        paths.put(&path_record(&name[INODE_BYTES..], &rest))?;
    }
    Ok(())
}

/// A name's place in a group.
#[derive(Clone, Copy)]
struct Place<'a> {
    group: &'a [u8],
    count: u64,
    other: &'a [u8],
}

impl<'a> Place<'a> {
    fn parse(record: &'a [u8]) -> Option<(Half, Self)> {
        let (head, other) = record.split_at_checked(GROUP_BYTES)?;
        let (half, rest) = head.split_first()?;
        let (group, count) = rest.split_at_checked(32)?;
        let count = u64::from_le_bytes(count.try_into().ok()?);
        Some((*HALVES.get(usize::from(*half))?, Place { group, count, other }))
    }

    fn words(place: Option<Self>) -> String {
        place.map_or_else(
            || "a name of its own inode".into(),
            |p| format!("one of {} names of an inode, as {}", p.count, escaped(p.other)),
        )
    }
}

/// Judges one path.
fn judge(records: &[&[u8]], verdict: &mut Verdict<'_>) {
    let Some(path) = records.first().map(|r| path_of(r)) else { return };
    let mut places = [None; 2];
    let mut seen = [false; STATES.len()];
    for record in records {
        match record[path.len()..].split_first() {
            Some((b'S', [state])) => seen[usize::from(*state)] = true,
            Some((b'L', rest)) => {
                if let Some((half, place)) = Place::parse(rest) {
                    places[half as usize] = Some(place);
                }
            }
            _ => {}
        }
    }
    let [pending, one_sided, differs, vanished, failed] = seen;
    let split = !one_sided && places[0].map(|p| p.group) != places[1].map(|p| p.group);
    if split {
        (verdict.finding)(Finding {
            path: path[4..].to_vec(),
            what: "hard links".into(),
            expected: Place::words(places[0]),
            found: Place::words(places[1]),
        });
    }
    if pending {
        let totals = &mut *verdict.totals;
        *(if failed {
            &mut totals.failed
        } else if vanished {
            &mut totals.vanished
        } else if differs || split {
            &mut totals.different
        } else {
            &mut totals.same
        }) += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(half: Half, ino: u64, path: &str) -> Mark {
        Mark::Link { half, dev: 0, ino, path: path.into() }
    }

    fn state(path: &str, state: State) -> Mark {
        Mark::State { path: path.into(), state }
    }

    fn settle(marks: &[Mark]) -> (Totals, Vec<String>, bool) {
        let mut ledger = Ledger::new();
        marks.iter().chain(marks).for_each(|m| ledger.put(m).unwrap());
        let (mut sums, mut totals, mut found) = ([Sum::default(); 2], Totals::default(), Vec::new());
        let mut finding = |f: Finding| found.push(format!("{}: {}", String::from_utf8(f.path).unwrap(), f.what));
        ledger.settle(&[5; 32], &mut Verdict { sums: &mut sums, totals: &mut totals, finding: &mut finding }).unwrap();
        found.sort();
        (totals, found, sums[0] == sums[1])
    }

    #[test]
    fn equal_groups_are_the_same_whatever_their_inodes() {
        use Half::{Source, Target};
        let mut marks = Vec::new();
        for name in ["a", "d/b", "c"] {
            marks.extend([link(Source, 1, name), link(Target, 9, name), state(name, State::Pending)]);
        }
        let (totals, found, equal) = settle(&marks);
        assert_eq!((totals.same, totals.different, found.len(), equal), (3, 0, 0, true));
    }

    #[test]
    fn a_split_group_and_a_merged_one_name_every_path_once() {
        use Half::{Source, Target};
        let marks = [
            link(Source, 1, "a"),
            link(Source, 1, "b"),
            link(Target, 7, "c"),
            link(Target, 7, "d"),
            state("a", State::Pending),
            state("b", State::Pending),
            state("c", State::Pending),
            // "d" differed otherwise and is counted.
        ];
        let (totals, found, equal) = settle(&marks);
        assert_eq!(found, ["a: hard links", "b: hard links", "c: hard links", "d: hard links"]);
        assert_eq!((totals.same, totals.different, equal), (0, 3, false));
    }

    #[test]
    fn a_file_in_pieces_counts_once_and_by_the_worst_that_happened() {
        let marks = [
            state("same", State::Pending),
            state("different", State::Pending),
            state("different", State::Differs),
            state("failed", State::Pending),
            state("failed", State::Differs),
            state("failed", State::Failed),
            state("gone", State::Vanished),
            state("gone", State::Pending),
            state("counted", State::Differs),
            link(Half::Source, 3, "only"),
            link(Half::Source, 3, "only too"),
            state("only", State::OneSided),
            state("only too", State::OneSided),
        ];
        let (totals, found, _) = settle(&marks);
        assert_eq!((totals.same, totals.different, totals.failed, totals.vanished), (1, 1, 1, 1));
        assert!(found.is_empty(), "{found:?}");
    }
}
