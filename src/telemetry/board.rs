//! The board of one job: totals, the first failures, the phase. Whoever shows progress reads it.

use super::causes::{CauseCount, Causes};
use super::history::{History, Sample};
use super::ledger::{Ledger, Verdict};
use crate::model::fingerprint::{Salt, Sum};
use crate::model::outcome::Cause;
use crate::model::{Failure, Finding, Report, Slow, Slowest, Totals};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Failures, and findings, that are kept for the terminal; all go to the sink.
pub const SHOWN: usize = 20;

/// Directories that are told as the slowest.
const SLOWEST: usize = 20;
/// Directories that are kept to find them: one that is slow in many small steps must not be lost among others.
const SLOW_KEPT: usize = 500;
/// Workers whose share is kept; a name can be anything.
const WORKERS: usize = 1024;

/// What was written down so long ago is told as it happens: clocks of nodes differ, and whole seconds are written.
const SAME_TIME: Duration = Duration::from_secs(2);

/// What the sink of a board is told.
#[derive(Debug, Clone, Copy)]
pub enum Told<'a> {
    /// An entry failed.
    Failure(&'a Failure),
    /// Something was found out about an entry.
    Finding(&'a Finding),
    /// These failures, by their numbers from 1 in the order in which they were told, are tried again.
    TakenBack(&'a [u64]),
}

/// Takes every failure and finding as it happens.
pub type Sink = Box<dyn FnMut(Told<'_>) + Send>;

/// Things said once at the end or when they happen.
pub type Notes = Vec<String>;

/// Totals and failures of one job, added up from the reports of all its tasks.
pub struct Board {
    started: Instant,
    over: OnceLock<Instant>,
    state: Mutex<State>,
}

struct State {
    totals: Totals,
    /// Counted by tasks that are not done: shown, and not settled.
    in_progress: Totals,
    /// Failures that were told.
    told: u64,
    /// Numbers of the failures that are kept.
    numbers: Vec<u64>,
    failures: Vec<Failure>,
    /// The last failures, with their numbers.
    latest: VecDeque<(u64, Failure)>,
    findings: Vec<Finding>,
    kinds: BTreeMap<String, u64>,
    placed: BTreeMap<u32, u64>,
    sums: [Sum; 2],
    uncertain: bool,
    ledger: Ledger,
    /// The ledger could not be written.
    broken: Option<std::io::Error>,
    sink: Sink,
    walk_over: bool,
    /// When that was, since the job began.
    walk_over_at: Option<Duration>,
    /// When the first of what is told was written down, if somebody else did, in seconds since 1970.
    first_written: Option<u64>,
    /// How long the job had been going before this process began to hear of it.
    before: Duration,
    history: History,
    causes: Causes,
    slowest: Slowest,
    workers: BTreeMap<String, Share>,
    abort: Option<String>,
    notes: Notes,
}

/// What a worker told of its doings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Entries that it was done with.
    pub entries: u64,
    /// Bytes that it wrote, or read to compare them.
    pub bytes: u64,
    /// Entries that failed.
    pub failed: u64,
}

/// How a job went, for whoever writes it down at its end.
#[derive(Debug, Clone)]
pub struct Chronicle {
    /// How long it took; of a job that was followed, from the first that was written down of it.
    pub lasted: Duration,
    /// When everything had been found.
    pub walk_over_at: Option<Duration>,
    /// What was done, over that time.
    pub samples: Vec<Sample>,
    /// Failures by cause, the most frequent first.
    pub causes: Vec<CauseCount>,
    /// Where actors spent most time, the slowest first.
    pub slowest: Vec<Slow>,
    /// What each worker told; what was done twice is in it twice. None of a job that was done in this process.
    pub workers: BTreeMap<String, Share>,
}

/// A copy of the board at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Since the job began.
    pub elapsed: Duration,
    /// Counters.
    pub totals: Totals,
    /// The first failures.
    pub failures: Vec<Failure>,
    /// The first findings.
    pub findings: Vec<Finding>,
    /// How many findings there are of each kind.
    pub kinds: BTreeMap<String, u64>,
    /// Directories of levels that are placed by policy, by the MDT that they lie on.
    pub placed: BTreeMap<u32, u64>,
    /// Sums over the elements of the source and the target.
    pub sums: [Sum; 2],
    /// Something may have been added to the sums twice: a worker died.
    pub uncertain: bool,
    /// Everything has been found: `totals.found` is final.
    pub walk_over: bool,
    /// Why the job was ended early, if it was.
    pub abort: Option<String>,
    /// Said along the way.
    pub notes: Notes,
}

impl State {
    fn tell(&mut self, finding: Finding) {
        (self.sink)(Told::Finding(&finding));
        match self.kinds.get_mut(finding.kind()) {
            Some(n) => *n += 1,
            None => drop(self.kinds.insert(finding.kind().to_owned(), 1)),
        }
        if self.findings.len() < SHOWN {
            self.findings.push(finding);
        }
    }

    /// The totals with what is in progress.
    fn progress(&self) -> Totals {
        let mut totals = self.totals;
        totals.add(&self.in_progress);
        totals
    }

    /// How long the job has taken; `elapsed` is what this process saw of it.
    fn lasted(&self, elapsed: Duration) -> Duration {
        elapsed + self.before
    }

    fn sample(&self, elapsed: Duration) -> Sample {
        let totals = self.progress();
        let bytes = totals.bytes_copied.saturating_add(totals.bytes_read);
        Sample { at: self.lasted(elapsed), entries: totals.done(), bytes }
    }
}

impl Board {
    /// A board whose clock starts now.
    pub fn new(sink: Sink) -> Self {
        let state = State {
            totals: Totals::default(),
            in_progress: Totals::default(),
            told: 0,
            numbers: Vec::new(),
            failures: Vec::new(),
            latest: VecDeque::new(),
            findings: Vec::new(),
            kinds: BTreeMap::new(),
            placed: BTreeMap::new(),
            sums: Default::default(),
            uncertain: false,
            ledger: Ledger::new(),
            broken: None,
            sink,
            walk_over: false,
            walk_over_at: None,
            first_written: None,
            before: Duration::ZERO,
            history: History::default(),
            causes: Causes::default(),
            slowest: Slowest::of(SLOW_KEPT),
            workers: BTreeMap::new(),
            abort: None,
            notes: Notes::new(),
        };
        Board { started: Instant::now(), over: OnceLock::new(), state: Mutex::new(state) }
    }

    /// Since the job began, until it was over.
    fn elapsed(&self) -> Duration {
        self.over.get().map_or_else(|| self.started.elapsed(), |over| over.duration_since(self.started))
    }

    /// The job is over: what comes after it takes no time of it.
    pub fn stop_clock(&self) {
        let _ = self.over.set(Instant::now()); // it ends once
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what a task did.
    pub fn absorb(&self, report: Report) {
        let mut state = self.lock();
        state.totals.add(&report.totals);
        for failure in report.failures {
            (state.sink)(Told::Failure(&failure));
            state.told += 1;
            let number = state.told;
            state.causes.count(number, &failure);
            if state.failures.len() < SHOWN {
                state.numbers.push(number);
                state.failures.push(failure.clone());
            }
            if state.latest.len() == SHOWN {
                state.latest.pop_front();
            }
            state.latest.push_back((number, failure));
        }
        for finding in report.findings {
            state.tell(finding);
        }
        for slow in report.slow {
            state.slowest.add(slow);
        }
        for (mdt, directories) in report.placed {
            let all = state.placed.entry(mdt).or_default();
            *all = all.saturating_add(directories);
        }
        if let Some(evidence) = report.evidence {
            state.sums.iter_mut().zip(&evidence.sums).for_each(|(sum, more)| sum.add(more));
            state.uncertain |= evidence.uncertain;
            for mark in &evidence.marks {
                if state.broken.is_none() {
                    state.broken = state.ledger.put(mark).err();
                }
            }
        }
        if state.abort.is_none() {
            state.abort = report.abort;
        }
    }

    /// Judges what no task could judge alone, once a complete job has reported everything.
    ///
    /// # Errors
    /// The temporary directory's: nothing can be said of the two trees then.
    pub fn settle(&self, salt: &Salt) -> Result<(), String> {
        let mut state = self.lock();
        let ledger = std::mem::replace(&mut state.ledger, Ledger::new());
        let (mut sums, mut totals) = (state.sums, state.totals);
        let settled = match state.broken.take() {
            Some(e) => Err(e),
            None => {
                let mut finding = |f| state.tell(f);
                let mut verdict = Verdict { sums: &mut sums, totals: &mut totals, finding: &mut finding };
                ledger.settle(salt, &mut verdict)
            }
        };
        (state.sums, state.totals) = (sums, totals);
        settled.map_err(|e| {
            format!(
                "cannot keep hard links and pieces of files in the temporary directory ({e}): set TMPDIR to one with room"
            )
        })
    }

    /// What tasks that are not done have counted so far, all together.
    pub fn set_in_progress(&self, totals: Totals) {
        self.lock().in_progress = totals;
    }

    /// What is shown beside [`Snapshot::totals`]: the totals with what is in progress.
    pub fn progress(&self) -> Totals {
        self.lock().progress()
    }

    /// Remembers how it stands now, for the [`Chronicle`]. May be called at any time, as often as wanted.
    pub fn sample(&self) {
        let mut state = self.lock();
        let sample = state.sample(self.elapsed());
        state.history.take(sample);
    }

    /// What is told next was written down then, in seconds since 1970: it may be long ago.
    pub fn set_written(&self, seconds: u64) {
        let (mut state, elapsed) = (self.lock(), self.elapsed());
        // A clock that is ahead makes no time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(seconds, |now| now.as_secs());
        let seconds = seconds.min(now);
        let first = *state.first_written.get_or_insert(seconds);
        let before = Duration::from_secs(seconds.saturating_sub(first)).saturating_sub(elapsed);
        if before > state.before + SAME_TIME {
            state.before = before;
        }
    }

    /// Counts a worker's share.
    pub fn credit(&self, worker: &str, totals: &Totals) {
        let mut state = self.lock();
        if !state.workers.contains_key(worker) {
            if state.workers.len() >= WORKERS {
                return;
            }
            state.workers.insert(worker.to_owned(), Share::default());
        }
        if let Some(share) = state.workers.get_mut(worker) {
            share.entries = share.entries.saturating_add(totals.done());
            share.bytes = share.bytes.saturating_add(totals.bytes_copied).saturating_add(totals.bytes_read);
            share.failed = share.failed.saturating_add(totals.failed);
        }
    }

    /// How it went so far.
    pub fn chronicle(&self) -> Chronicle {
        let (state, elapsed) = (self.lock(), self.elapsed());
        let mut slowest = state.slowest.clone().into_list();
        slowest.truncate(SLOWEST);
        Chronicle {
            lasted: state.lasted(elapsed),
            walk_over_at: state.walk_over_at,
            samples: state.history.until(state.sample(elapsed)),
            causes: state.causes.list(),
            slowest,
            workers: state.workers.clone(),
        }
    }

    /// Some of what failed is tried again: what it had counted goes, and those failures, by cause and by their numbers
    /// from 1 in the order in which they were told.
    pub fn take_back(&self, totals: &Totals, causes: &[(Cause, u64)], failures: &[u64]) {
        let mut state = self.lock();
        state.totals.take_back(totals);
        state.causes.take_back(causes, failures);
        (state.sink)(Told::TakenBack(failures));
        let numbers = std::mem::take(&mut state.numbers);
        let kept = std::mem::take(&mut state.failures).into_iter().zip(numbers);
        (state.failures, state.numbers) = kept.filter(|(_, number)| !failures.contains(number)).unzip();
        state.latest.retain(|(number, _)| !failures.contains(number));
        (state.walk_over, state.walk_over_at) = (false, None);
        state.abort = None;
    }

    /// So many of the last failures, the newest last.
    pub fn latest_failures(&self, most: usize) -> Vec<Failure> {
        let state = self.lock();
        let skipped = state.latest.len().saturating_sub(most);
        state.latest.iter().skip(skipped).map(|(_, failure)| failure.clone()).collect()
    }

    /// The job's totals as they were sealed.
    pub fn set_totals(&self, totals: Totals) {
        let mut state = self.lock();
        (state.totals, state.in_progress) = (totals, Totals::default());
    }

    /// Everything has been found.
    pub fn set_walk_over(&self) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.walk_over, true) {
            state.walk_over_at = Some(state.lasted(self.elapsed()));
        }
    }

    /// Says something once.
    pub fn note(&self, text: &str) {
        let mut state = self.lock();
        if !state.notes.iter().any(|n| n == text) {
            state.notes.push(text.to_owned());
        }
    }

    /// A copy of everything.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        Snapshot {
            elapsed: self.elapsed(),
            totals: state.totals,
            failures: state.failures.clone(),
            findings: state.findings.clone(),
            kinds: state.kinds.clone(),
            placed: state.placed.clone(),
            sums: state.sums,
            uncertain: state.uncertain,
            walk_over: state.walk_over,
            abort: state.abort.clone(),
            notes: state.notes.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Operation;

    #[test]
    fn the_last_failures_are_known_until_they_are_tried_again() {
        let board = Board::new(Box::new(|_| ()));
        let failure = |n: usize| Failure::new(n.to_string().into(), Operation::Open, None, String::new());
        for n in 1..=SHOWN + 5 {
            board.absorb(Report { failures: vec![failure(n)], ..Report::default() });
        }
        let paths = |most| board.latest_failures(most).into_iter().map(|f| String::from_utf8(f.path).unwrap());
        assert_eq!(paths(3).collect::<Vec<_>>(), ["23", "24", "25"]);
        assert_eq!(paths(1000).next().as_deref(), Some("6"), "the last {SHOWN}");
        board.take_back(&Totals::default(), &[], &[24]);
        assert_eq!(paths(2).collect::<Vec<_>>(), ["23", "25"]);
    }
}
