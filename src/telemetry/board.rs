//! The board of one job: totals, the first failures, the phase. Whoever shows progress reads it.

use super::ledger::{Ledger, Verdict};
use crate::model::fingerprint::{Salt, Sum};
use crate::model::{Failure, Finding, Report, Totals};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures, and findings, that are kept for the terminal; all go to the sink.
pub const SHOWN: usize = 20;

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
    findings: Vec<Finding>,
    kinds: BTreeMap<String, u64>,
    sums: [Sum; 2],
    uncertain: bool,
    ledger: Ledger,
    /// The ledger could not be written.
    broken: Option<std::io::Error>,
    sink: Sink,
    walk_over: bool,
    abort: Option<String>,
    notes: Notes,
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
            findings: Vec::new(),
            kinds: BTreeMap::new(),
            sums: Default::default(),
            uncertain: false,
            ledger: Ledger::new(),
            broken: None,
            sink,
            walk_over: false,
            abort: None,
            notes: Notes::new(),
        };
        Board { started: Instant::now(), state: Mutex::new(state) }
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
            if state.failures.len() < SHOWN {
                let number = state.told;
                state.numbers.push(number);
                state.failures.push(failure);
            }
        }
        for finding in report.findings {
            state.tell(finding);
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
        let state = self.lock();
        let mut totals = state.totals;
        totals.add(&state.in_progress);
        totals
    }

    /// Some of what failed is tried again: what it had counted goes, and those failures, by their numbers from 1 in the
    /// order in which they were told.
    pub fn take_back(&self, totals: &Totals, failures: &[u64]) {
        let mut state = self.lock();
        state.totals.take_back(totals);
        (state.sink)(Told::TakenBack(failures));
        let numbers = std::mem::take(&mut state.numbers);
        let kept = std::mem::take(&mut state.failures).into_iter().zip(numbers);
        (state.failures, state.numbers) = kept.filter(|(_, number)| !failures.contains(number)).unzip();
        state.walk_over = false;
        state.abort = None;
    }

    /// The job's totals as they were sealed.
    pub fn set_totals(&self, totals: Totals) {
        let mut state = self.lock();
        (state.totals, state.in_progress) = (totals, Totals::default());
    }

    /// Everything has been found.
    pub fn set_walk_over(&self) {
        self.lock().walk_over = true;
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
            elapsed: self.started.elapsed(),
            totals: state.totals,
            failures: state.failures.clone(),
            findings: state.findings.clone(),
            kinds: state.kinds.clone(),
            sums: state.sums,
            uncertain: state.uncertain,
            walk_over: state.walk_over,
            abort: state.abort.clone(),
            notes: state.notes.clone(),
        }
    }
}
