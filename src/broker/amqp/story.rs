//! What a job's stream tells: read from its beginning, everybody who reads it knows the same.
//!
//! Invariant: the board follows from the entries alone, in their order.

use super::accounts::Accounts;
use super::messages::{Record, Results, What};
use crate::model::fleet::JobEnd;
use crate::model::{JobId, Totals, escaped};
use crate::telemetry::Board;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A job, as far as its stream has been read.
pub(super) struct Story {
    job: JobId,
    pub board: Arc<Board>,
    pub accounts: Accounts,
    /// The last report of each run.
    pub absorbed: HashMap<u64, u64>,
    /// Runs that park deliveries in queues of their own.
    pub parks: BTreeSet<u64>,
    /// Who reads along.
    pub readers: BTreeSet<u64>,
    /// What each worker did and what of it failed.
    pub by_worker: BTreeMap<String, Totals>,
    pub walk_over: bool,
    pub concluded: bool,
    pub abort: Option<String>,
    pub sealed: Option<Sealed>,
    /// A worker said that it has nothing left.
    pub hinted: bool,
    /// The last mark that was met, and how many there were.
    pub mark: Option<u64>,
    pub marks: u64,
    /// How often failed entries were posted again.
    pub retries: u64,
}

/// The end of a job.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub end: JobEnd,
    pub totals: Totals,
    pub letters: u32,
    pub reply_to: String,
}

impl Story {
    pub fn new(job: JobId, board: Arc<Board>) -> Self {
        Story {
            job,
            board,
            accounts: Accounts::default(),
            absorbed: HashMap::new(),
            parks: BTreeSet::new(),
            readers: BTreeSet::new(),
            by_worker: BTreeMap::new(),
            walk_over: false,
            concluded: false,
            abort: None,
            sealed: None,
            hinted: false,
            mark: None,
            marks: 0,
            retries: 0,
        }
    }

    /// Takes in the next entry.
    pub fn take(&mut self, record: Record) {
        if record.job != self.job {
            return self.board.note(&format!("an entry of job {} was found in the job's stream", record.job));
        }
        match record.what {
            What::Posted(posted) => self.accounts.seed(posted),
            What::Results(results) => self.take_results(*results),
            What::Mark(mark) => {
                self.mark = Some(mark);
                self.marks += 1;
            }
            What::Note(note) => self.board.note(&note),
            What::WalkOver => {
                self.walk_over = true;
                self.board.set_walk_over();
            }
            What::Parks(session) => drop(self.parks.insert(session)),
            What::Concluded(report) => {
                self.concluded = true;
                self.board.absorb(*report);
            }
            What::Follows(reader) => drop(self.readers.insert(reader)),
            What::Leaves(reader) => drop(self.readers.remove(&reader)),
            What::Retried { posted, back, causes, failures } => {
                self.accounts.seed(posted);
                self.board.take_back(&back, &causes, &failures);
                (self.walk_over, self.concluded) = (false, false);
                (self.abort, self.sealed) = (None, None);
                // Whoever read it then has read the end.
                self.readers.clear();
                self.by_worker.clear();
                self.retries += 1;
            }
            What::Aborts(why) => {
                self.abort.get_or_insert(why);
            }
            What::Sealed { end, totals, letters, reply_to } => {
                self.sealed = Some(Sealed { end, totals: *totals, letters, reply_to });
            }
        }
    }

    fn take_results(&mut self, results: Results) {
        let Results { session, number, worker, parts, done, in_progress, abort, idle } = results;
        let last = self.absorbed.entry(session).or_default();
        if number <= *last {
            return;
        }
        *last = number;
        let mut did = Totals::default();
        done.iter().for_each(|done| did.add(&done.report.totals));
        self.board.credit(&worker, &did);
        self.by_worker.entry(worker).or_default().add(&did);
        if self.abort.is_none() {
            self.abort = abort.map(|why| escaped(why.as_bytes()));
        }
        self.hinted |= idle;
        let mut report = self.accounts.take(session, number, parts, done, in_progress);
        // Of what was delivered twice only one report is in here.
        report.evidence.iter_mut().for_each(|e| e.uncertain = false);
        report.abort = self.abort.clone();
        self.board.absorb(report);
        self.board.set_in_progress(self.accounts.provisional());
        self.board.sample();
    }

    /// Is everything that was posted in these queues, the first of [`crate::model::Queue::ALL`], done?
    pub fn is_balanced(&self, queues: usize) -> bool {
        self.accounts.is_balanced(queues)
    }
}
