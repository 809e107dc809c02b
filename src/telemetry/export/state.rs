//! What was last seen, so that what came since can be told: kept in a file over restarts.
//!
//! Invariant: what is told once is never told again. The file says so before anybody is told.

use super::{Actor, Cycle, Part};
use crate::model::JobId;
use crate::model::latency::{Call, Histogram};
use crate::telemetry::counts::{COUNTED, COUNTERS};
use rustix::fs::FlockOperation;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The first line of the file.
const MAGIC: &str = "treehaul export 1";
/// Counters that were not seen for so long are gone: keys live no longer.
const FORGOTTEN_SECONDS: u64 = 24 * 3600;
/// Counters of so many actors are remembered; anybody can make up names.
const MAX_REMEMBERED: usize = 300_000;

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Two would tell everything twice.
    #[error("another exporter uses {0}: give this one another file by --state")]
    Taken(String),
    /// The system's word.
    #[error("cannot use {0}: {1}")]
    System(String, io::Error),
}

type ActorKey = (JobId, String, &'static str, u64);
type CallKey = (JobId, String, Call);

/// Values of the cycle before.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    /// Held as long as the state is.
    _lock: Option<File>,
    /// There was a cycle before.
    has_basis: bool,
    epoch: String,
    /// With the time at which it was last seen.
    actors: HashMap<ActorKey, (u64, [u64; COUNTED])>,
    /// Counts and nanoseconds.
    calls: HashMap<CallKey, (u64, [u64; 2])>,
}

/// What came since the cycle before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Increments; of histograms there is their number, in the first bucket, and their sum.
    pub parts: Vec<Part>,
    /// All counters began anew.
    pub is_reset: bool,
}

impl State {
    /// Reads a file, if there is one, and keeps others from it.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let shown = || crate::model::escaped(path.as_os_str().as_encoded_bytes());
        let failed = |e| StateError::System(shown(), e);
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        }
        let lock = private().open(beside(path, ".lock")).map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::Taken(shown())),
            Err(e) => return Err(failed(e.into())),
        }
        let mut state = State { path: path.to_owned(), _lock: Some(lock), ..State::none() };
        match std::fs::read(path) {
            Ok(bytes) => {
                if state.read(&String::from_utf8_lossy(&bytes)).is_none() {
                    tracing::warn!(
                        file = shown(),
                        "what was seen before cannot be read: counters are told from now on"
                    );
                    state = State { path: state.path, _lock: state._lock, ..State::none() };
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        Ok(state)
    }

    fn none() -> Self {
        State {
            path: PathBuf::new(),
            _lock: None,
            has_basis: false,
            epoch: String::new(),
            actors: HashMap::new(),
            calls: HashMap::new(),
        }
    }

    /// What came since the cycle before; of the very first one, nothing. A value below the last one began anew.
    pub fn advance(&mut self, cycle: &Cycle) -> Changes {
        let Some(epoch) = &cycle.epoch else { return Changes::default() };
        let mut had_basis = std::mem::replace(&mut self.has_basis, true);
        let is_reset = had_basis && *epoch != self.epoch;
        let is_full = !is_reset && self.actors.len() + self.calls.len() > MAX_REMEMBERED;
        if is_full {
            tracing::warn!(
                "there are too many counters to remember: what came with this look is not told as increments"
            );
            had_basis = false; // all would be told again
        }
        if is_reset || is_full {
            self.actors.clear();
            self.calls.clear();
        }
        self.epoch.clone_from(epoch);
        let mut parts: Vec<Part> = cycle.parts.iter().map(|part| self.part(part, cycle.at)).collect();
        if !had_basis {
            parts.clear();
        }
        let is_recent = |seen: u64| seen.saturating_add(FORGOTTEN_SECONDS) > cycle.at;
        self.actors.retain(|_, (seen, _)| is_recent(*seen));
        self.calls.retain(|_, (seen, _)| is_recent(*seen));
        Changes { parts, is_reset }
    }

    fn part(&mut self, part: &Part, at: u64) -> Part {
        let actors = part.actors.iter().map(|actor| {
            let key = (part.job, part.node.clone(), actor.pool, actor.number);
            let (_, before) = self.actors.insert(key, (at, actor.values)).unwrap_or((0, [0; COUNTED]));
            Actor { values: since(before, actor.values), ..*actor }
        });
        let actors = actors.collect();
        let calls = part.calls.iter().map(|(call, times)| {
            let now = [times.count(), times.sum_ns];
            let (_, before) = self.calls.insert((part.job, part.node.clone(), *call), (at, now)).unwrap_or_default();
            let [count, sum_ns] = since(before, now);
            let mut more = Histogram { sum_ns, ..Histogram::default() };
            more.counts[0] = count;
            (*call, more)
        });
        Part { job: part.job, node: part.node.clone(), actors, calls: calls.collect() }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The system's; the file is as it was.
    pub fn save(&self) -> Result<(), StateError> {
        let write = || {
            let fresh = beside(&self.path, ".new");
            let mut file = private().truncate(true).open(&fresh)?;
            file.write_all(self.write().as_bytes())?;
            file.sync_data()?;
            std::fs::rename(&fresh, &self.path)
        };
        write().map_err(|e| StateError::System(crate::model::escaped(self.path.as_os_str().as_encoded_bytes()), e))
    }

    fn write(&self) -> String {
        let names: Vec<&str> = COUNTERS.iter().map(|counter| counter.key).collect();
        let mut out = format!("{MAGIC}\n{}\n{}\n", self.epoch, names.join(","));
        // A String takes everything that is written.
        for ((job, node, pool, number), (seen, values)) in &self.actors {
            let values: Vec<String> = values.iter().map(u64::to_string).collect();
            let _ = writeln!(out, "a {job} {node} {pool} {number} {seen} {}", values.join(","));
        }
        for ((job, node, call), (seen, [count, sum])) in &self.calls {
            let _ = writeln!(out, "c {job} {node} {} {seen} {count},{sum}", call.word());
        }
        out + "end\n"
    }

    fn read(&mut self, text: &str) -> Option<()> {
        let mut lines = text.strip_suffix("end\n")?.lines();
        lines.next().filter(|line| *line == MAGIC)?;
        lines.next()?.clone_into(&mut self.epoch);
        // Another version may have counted other things.
        let names: Vec<&str> = lines.next()?.split(',').collect();
        let places: Vec<Option<usize>> =
            names.iter().map(|name| COUNTERS.iter().position(|counter| counter.key == *name)).collect();
        for line in lines {
            self.read_line(line, &places)?;
        }
        self.has_basis = true;
        Some(())
    }

    fn read_line(&mut self, line: &str, places: &[Option<usize>]) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let numbers: Vec<u64> = words.last()?.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let job = JobId::parse(words.get(1)?.as_bytes())?;
        match words.as_slice() {
            ["a", _, node, pool, number, seen, _] => {
                let pool = ["dirs", "files"].into_iter().find(|known| known == pool)?;
                let mut values = [0; COUNTED];
                places.iter().zip(&numbers).for_each(|(place, n)| {
                    if let Some(place) = place {
                        values[*place] = *n;
                    }
                });
                let key = (job, (*node).to_owned(), pool, number.parse().ok()?);
                self.actors.insert(key, (seen.parse().ok()?, values));
            }
            ["c", _, node, call, seen, _] => {
                let call = Call::ALL.iter().find(|known| known.word() == *call)?;
                self.calls.insert((job, (*node).to_owned(), *call), (seen.parse().ok()?, numbers.try_into().ok()?));
            }
            _ => return None,
        }
        Some(())
    }
}

/// Increments; a value below the last one is what came since it began anew.
fn since<const N: usize>(before: [u64; N], now: [u64; N]) -> [u64; N] {
    let mut more = now;
    more.iter_mut().zip(before).for_each(|(n, before)| *n = n.checked_sub(before).unwrap_or(*n));
    more
}

fn private() -> std::fs::OpenOptions {
    let mut options = File::options();
    options.write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::cycle;
    use super::*;

    fn told(changes: &Changes) -> (u64, u64) {
        let actors = changes.parts.iter().flat_map(|part| &part.actors).map(|actor| actor.values[0]).sum();
        let calls = changes.parts.iter().flat_map(|part| &part.calls).map(|(_, times)| times.count()).sum();
        (actors, calls)
    }

    /// What the cycle of the tests holds in all.
    const ALL: (u64, u64) = (26, 10);

    #[test]
    fn only_what_came_since_is_told_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/state");
        let mut now = cycle();
        let mut state = State::open(&path).unwrap();
        assert!(matches!(State::open(&path), Err(StateError::Taken(_))));
        assert_eq!(told(&state.advance(&now)), (0, 0), "the first one is the basis");
        now.parts[0].actors[0].values[0] += 5;
        assert_eq!(told(&state.advance(&now)), (5, 0));
        state.save().unwrap();
        drop(state);
        now.parts[1].actors[2].values[0] += 7;
        now.parts[1].calls[0].1.counts[3] += 2;
        let mut state = State::open(&path).unwrap();
        assert_eq!(told(&state.advance(&now)), (7, 2));
        assert_eq!(told(&state.advance(&now)), (0, 0));
        assert_eq!(told(&state.advance(&Cycle { epoch: None, ..Cycle::default() })), (0, 0));
        assert_eq!(told(&state.advance(&now)), (0, 0), "a cycle without counters changes nothing");
    }

    #[test]
    fn a_reset_is_told_from_zero() {
        let mut state = State::none();
        let mut now = cycle();
        state.advance(&now);
        now.parts[0].actors[0].values[0] = 0;
        assert_eq!(told(&state.advance(&now)), (0, 0), "evicted");
        now.parts[0].actors[0].values[0] = 3;
        assert_eq!(told(&state.advance(&now)), (3, 0));
        now.epoch = Some("another".into());
        now.parts[0].actors[0].values[0] = 1;
        let changes = state.advance(&now);
        assert!(changes.is_reset);
        assert_eq!(told(&changes), ALL, "though all have grown beyond what they were");
        now.parts.clear();
        assert_eq!(told(&state.advance(&now)), (0, 0));
        let again = Cycle { epoch: Some("another".into()), ..cycle() };
        assert_eq!(told(&state.advance(&again)), (0, 0), "a slot that was lost for a while is no reset");
    }

    #[test]
    fn too_many_names_tell_nothing_twice() {
        let mut state = State::none();
        state.advance(&cycle());
        let job = cycle().parts[0].job;
        for number in 0..=MAX_REMEMBERED as u64 {
            state.actors.insert((job, "made_up".into(), "dirs", number), (cycle().at, [1; COUNTED]));
        }
        assert_eq!(told(&state.advance(&cycle())), (0, 0));
        let mut now = cycle();
        now.parts[0].actors[0].values[0] += 5;
        assert_eq!(told(&state.advance(&now)), (5, 0));
    }

    #[test]
    fn what_expired_is_forgotten() {
        let mut state = State::none();
        state.advance(&cycle());
        let later = Cycle { at: cycle().at + FORGOTTEN_SECONDS + 1, parts: vec![], ..cycle() };
        state.advance(&later);
        assert!(state.actors.is_empty() && state.calls.is_empty());
    }

    #[test]
    fn a_damaged_file_is_no_basis() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        for text in ["", "end\n", "treehaul export 1\ne\nfound\na x\nend\n", "treehaul export 1\ne\nfound\n"] {
            std::fs::write(&path, text).unwrap();
            let mut state = State::open(&path).unwrap();
            assert_eq!(told(&state.advance(&cycle())), (0, 0), "{text:?}");
            state.save().unwrap();
        }
        let job = cycle().parts[0].job;
        let old = format!("{MAGIC}\n1-2-3\ngone,found\na {job} a dirs 0 5 9,1\nend\n");
        let mut state = State::none();
        assert_eq!(state.read(&old), Some(()), "of another version");
        assert_eq!(told(&state.advance(&cycle())), (ALL.0 - 1, ALL.1));
    }
}
