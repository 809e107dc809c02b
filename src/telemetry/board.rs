//! The board of one job: totals, the first failures, the phase. Whoever shows progress reads it.

use crate::model::{Failure, Finding, Report, Totals};
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
    failures: Vec<Failure>,
    findings: Vec<Finding>,
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
    /// Everything has been found: `totals.found` is final.
    pub walk_over: bool,
    /// Why the job was ended early, if it was.
    pub abort: Option<String>,
    /// Said along the way.
    pub notes: Notes,
}

impl Board {
    /// A board whose clock starts now.
    pub fn new(sink: Sink) -> Self {
        let state = State {
            totals: Totals::default(),
            failures: Vec::new(),
            findings: Vec::new(),
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
            if state.failures.len() < SHOWN {
                state.failures.push(failure);
            }
        }
        for finding in report.findings {
            (state.sink)(Told::Finding(&finding));
            if state.findings.len() < SHOWN {
                state.findings.push(finding);
            }
        }
        if state.abort.is_none() {
            state.abort = report.abort;
        }
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
            walk_over: state.walk_over,
            abort: state.abort.clone(),
            notes: state.notes.clone(),
        }
    }
}
