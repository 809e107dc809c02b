//! Where a page has its figures from: a fleet behind a broker, or the job of this process.

use super::state::unix_ms;
use crate::broker::amqp::{AmqpConfig, AmqpError, Answers, JobState, Office, replay};
use crate::model::filter::NameGlobs;
use crate::model::fleet::{Activity, Answer, JobLatencies, JobProgress, Order};
use crate::model::{JobId, escaped};
use crate::node::{JobLook, Live, Look};
use crate::telemetry::Board;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A worker that does not answer must not hold a look up for longer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Once somebody did not answer, the further questions of a look wait only so long.
const SHORT_PATIENCE: Duration = Duration::from_millis(300);
/// Jobs that ended under the eyes of the page and are not on the broker any more, at most.
const ENDED_KEPT: usize = 5;
/// Reports of jobs that found more are not read again: that would take too long. `treehaul failed` does.
const RECALLED_ENTRIES: u64 = 100_000;
/// Failures of a job that is over, the last ones.
const FAILURES: usize = 20;
/// Looks that are no further apart tell how long a job took that ended between them.
const FOLLOWED: Duration = Duration::from_secs(15);
/// Why, where a job is ended from the page.
const CANCELLED: &str = "cancelled on the dashboard";

/// What there was at one moment.
pub struct Seen {
    /// Jobs, queues, nodes.
    pub look: Look,
    /// What each actor does, with its node.
    pub active: Vec<(String, Activity)>,
    /// How long calls took, with the node.
    pub latencies: Vec<(String, JobLatencies)>,
}

/// What the page asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Nobody takes a task of the job.
    Pause(JobId),
    /// The job goes on.
    Resume(JobId),
    /// It is ended early.
    Cancel(JobId),
    /// A node is told something. Its name is as it was shown, thus escaped.
    Tell(String, Order),
}

impl Deed {
    /// What is asked for, and of which job or node.
    pub fn words(&self) -> String {
        match self {
            Deed::Pause(job) => format!("pause job {job}"),
            Deed::Resume(job) => format!("resume job {job}"),
            Deed::Cancel(job) => format!("cancel job {job}"),
            Deed::Tell(node, order) => format!("{order:?} node {node}"),
        }
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// There is no such job or node.
    Unknown(String),
    /// It does not go now.
    Not(String),
    /// Nobody answers.
    Away(String),
}

/// Where figures come from, and orders go. Calls block.
pub trait Source: Send {
    /// Looks.
    ///
    /// # Errors
    /// Why nothing can be seen now; a later look may.
    fn look(&mut self) -> Result<Seen, String>;

    /// Does something, and says what holds now.
    ///
    /// # Errors
    /// [`Refused`].
    fn act(&mut self, deed: &Deed) -> Result<String, Refused>;
}

/// The fleet of a broker.
pub struct Fleet {
    config: AmqpConfig,
    office: Option<Office>,
    /// Names of nodes, as of the last look.
    names: Vec<String>,
    /// Jobs that were there at the last look.
    before: Vec<JobLook>,
    /// Jobs that ended since, and that the broker has forgotten.
    ended: Vec<JobLook>,
    /// Jobs whose reports were read again, or could not be.
    recalled: HashSet<JobId>,
    /// When the last look was taken.
    looked: Option<Instant>,
}

impl Fleet {
    /// Behind this broker, which need not be there yet.
    pub fn new(config: AmqpConfig) -> Self {
        let (names, before, ended) = (Vec::new(), Vec::new(), Vec::new());
        Fleet { config, office: None, names, before, ended, recalled: HashSet::new(), looked: None }
    }

    /// Does something with a connection; one that failed is not used again.
    fn with<T>(&mut self, act: impl FnOnce(&mut Self, &Office) -> Result<T, AmqpError>) -> Result<T, AmqpError> {
        let office = match self.office.take() {
            Some(office) => office,
            None => Office::connect(&self.config)?,
        };
        let result = act(self, &office);
        if result.is_ok() {
            self.office = Some(office);
        }
        result
    }

    fn look_through(&mut self, office: &Office) -> Result<Seen, AmqpError> {
        let mut look = Look::take(office, &[], PATIENCE)?;
        let patience = if look.answers.silent > 0 { SHORT_PATIENCE } else { PATIENCE };
        let (mut active, mut latencies) = (Vec::new(), Vec::new());
        if !look.nodes.is_empty() {
            for (name, answer) in office.ask(&[], &Order::Active, patience)?.answers {
                if let Answer::Active(all) = answer {
                    active.extend(all.into_iter().map(|one| (name.clone(), one)));
                }
            }
            for (name, answer) in office.ask(&[], &Order::Latencies, patience)?.answers {
                if let Answer::Latencies(all) = answer {
                    latencies.extend(all.into_iter().map(|one| (name.clone(), one)));
                }
            }
        }
        self.names = look.nodes.iter().map(|(name, _)| name.clone()).collect();
        self.remember(office, &mut look)?;
        Ok(Seen { look, active, latencies })
    }

    /// A job of which nothing is kept when it is over stays on the page, with what the log says of its end.
    fn remember(&mut self, office: &Office, look: &mut Look) -> Result<(), AmqpError> {
        let is_there = |job: &JobLook| look.jobs.iter().any(|other| other.state.spec.id == job.state.spec.id);
        self.ended.retain(|job| !is_there(job));
        let before = std::mem::take(&mut self.before);
        let last = self.looked.replace(look.at);
        let is_followed = last.is_some_and(|last| look.at.saturating_duration_since(last) < FOLLOWED);
        let gone: Vec<JobLook> = before.iter().filter(|job| !is_there(job)).cloned().collect();
        if !gone.is_empty() {
            let states = office.jobs()?;
            for mut job in gone {
                let id = job.state.spec.id;
                let Some(state) = states.iter().find(|state| state.spec.id == id) else { continue };
                job.close(state.clone());
                self.ended.push(job);
            }
            self.ended.drain(..self.ended.len().saturating_sub(ENDED_KEPT));
        }
        for job in look.jobs.iter_mut().filter(|job| job.progress.is_none()) {
            // Nobody leads it now: what its leader said last, failures among it, still holds.
            let id = job.state.spec.id;
            job.progress = before.iter().find(|old| old.state.spec.id == id).and_then(|old| old.progress.clone());
            if let (Some(progress), Some((_, totals))) = (&mut job.progress, &job.state.end) {
                (progress.totals, progress.walk_over) = (*totals, true);
            }
        }
        look.jobs.iter_mut().filter(|_| is_followed).for_each(|job| time(job, &before));
        self.recalled.retain(|id| look.jobs.iter().any(|job| job.state.spec.id == *id));
        if let Some(job) = look.jobs.iter_mut().find(|job| self.is_to_be_recalled(job)) {
            self.recall(job);
        }
        self.before = look.jobs.iter().filter(|job| !job.state.removed).cloned().collect();
        look.jobs.extend(self.ended.iter().cloned());
        // Some began and ended unseen.
        let is_shown = |look: &Look, state: &JobState| look.jobs.iter().any(|job| job.state.spec.id == state.spec.id);
        let unseen: Vec<JobState> = look.gone.iter().filter(|state| !is_shown(look, state)).cloned().collect();
        let newest = unseen.len().saturating_sub(ENDED_KEPT.saturating_sub(self.ended.len()));
        for state in unseen.into_iter().skip(newest) {
            look.jobs.push(JobLook { state, progress: None, queues: Vec::new(), unsettled: 0, leader: None });
        }
        Ok(())
    }

    /// What failed may have been told only when the job ended, and nobody leads it any more.
    fn is_to_be_recalled(&self, job: &JobLook) -> bool {
        let Some((_, totals)) = job.state.end.as_ref().filter(|_| !job.state.removed) else { return false };
        let knows = job.progress.as_ref().is_some_and(|progress| !progress.failures.is_empty());
        let is_small = totals.found <= RECALLED_ENTRIES;
        !knows && is_small && totals.failed > 0 && !self.recalled.contains(&job.state.spec.id)
    }

    /// A job's reports are read, once, one job a look: without them the rest is shown all the same.
    fn recall(&mut self, job: &mut JobLook) {
        let Some((_, totals)) = job.state.end.as_ref() else { return };
        let (id, board) = (job.state.spec.id, Arc::new(Board::new(Box::new(|_| {}))));
        self.recalled.insert(id);
        if let Err(error) = replay(&self.config, id, Arc::clone(&board)) {
            tracing::debug!(job = %id, %error, "its reports cannot be read");
            return;
        }
        let elapsed_ms = job.progress.as_ref().map_or(0, |progress| progress.elapsed_ms);
        let failures = board.latest_failures(FAILURES);
        let notes = job.progress.take().map(|progress| progress.notes).unwrap_or_default();
        let progress = JobProgress { job: id, totals: *totals, walk_over: true, elapsed_ms, notes, failures };
        job.progress = Some(progress);
    }

    fn steer(&mut self, job: JobId, deed: &Deed) -> Result<String, Refused> {
        let done = self.with(|_, office| {
            match office.jobs()?.iter().find(|state| state.spec.id == job) {
                None => return Ok(Err(Refused::Unknown(format!("the broker knows no job {job}")))),
                Some(state) if state.is_over() => return Ok(Err(Refused::Not(format!("job {job} is over")))),
                Some(_) => {}
            }
            match deed {
                Deed::Pause(_) => office.pause_job(job).map(|()| Ok("paused")),
                Deed::Resume(_) => office.resume_job(job).map(|()| Ok("goes on")),
                _ => office.cancel_job(job, CANCELLED).map(|()| Ok("asked to end")),
            }
        });
        done.map_err(|e| Refused::Away(e.to_string()))?.map(|what| format!("job {job}: {what}"))
    }

    fn tell(&mut self, shown: &str, order: &Order) -> Result<String, Refused> {
        let unknown = || Refused::Unknown("there is no such node".to_owned());
        let name = self.names.iter().find(|name| escaped(name.as_bytes()) == shown).cloned().ok_or_else(unknown)?;
        let glob = glob_of(&name).ok_or_else(|| Refused::Not("a node of that name cannot be addressed".to_owned()))?;
        let answers = self.with(|_, office| office.ask(std::slice::from_ref(&glob), order, PATIENCE));
        let Answers { answers, .. } = answers.map_err(|e| Refused::Away(e.to_string()))?;
        match answers.into_iter().find(|(who, _)| *who == name) {
            Some((_, Answer::Done(what))) => Ok(format!("{shown}: {}", escaped(what.as_bytes()))),
            Some((_, Answer::Refused(why))) => Err(Refused::Not(format!("{shown}: {}", escaped(why.as_bytes())))),
            _ => Err(Refused::Away(format!("{shown} does not answer"))),
        }
    }
}

/// A job that was not over at the look before took until now, where nobody said how long.
fn time(job: &mut JobLook, before: &[JobLook]) {
    let id = job.state.spec.id;
    let Some((_, totals)) = job.state.end.as_ref() else { return };
    let was_over = before.iter().any(|old| old.state.spec.id == id && old.state.is_over());
    if was_over || job.progress.as_ref().is_some_and(|progress| progress.elapsed_ms > 0) {
        return;
    }
    let submitted = job.state.spec.submitted;
    let since = u64::try_from(submitted.sec).unwrap_or(0).saturating_mul(1000);
    let elapsed_ms = unix_ms().saturating_sub(since.saturating_add(u64::from(submitted.ns) / 1_000_000));
    let (notes, failures) = (Vec::new(), Vec::new());
    let new = JobProgress { job: id, totals: *totals, walk_over: true, elapsed_ms, notes, failures };
    job.progress.get_or_insert(new).elapsed_ms = elapsed_ms;
}

/// A glob that means this name alone.
fn glob_of(name: &str) -> Option<String> {
    let mut glob = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | ',' | '\\') {
            glob.push('\\');
        }
        glob.push(c);
    }
    let globs = NameGlobs::new(std::slice::from_ref(&glob)).ok()?;
    globs.matches(name).then_some(glob)
}

impl Source for Fleet {
    fn look(&mut self) -> Result<Seen, String> {
        self.with(Fleet::look_through).map_err(|e| e.to_string())
    }

    fn act(&mut self, deed: &Deed) -> Result<String, Refused> {
        match deed {
            Deed::Pause(job) | Deed::Resume(job) | Deed::Cancel(job) => self.steer(*job, deed),
            Deed::Tell(node, order) => self.tell(node, order),
        }
    }
}

/// The job of this process.
pub struct Alone(pub Arc<Live>);

impl Source for Alone {
    fn look(&mut self) -> Result<Seen, String> {
        Ok(Seen { look: self.0.look(), active: self.0.active(), latencies: self.0.latencies() })
    }

    fn act(&mut self, deed: &Deed) -> Result<String, Refused> {
        let look = self.0.look();
        let order = match deed {
            Deed::Pause(job) | Deed::Resume(job) | Deed::Cancel(job)
                if look.jobs.iter().all(|known| known.state.spec.id != *job) =>
            {
                return Err(Refused::Unknown(format!("there is no job {job} here")));
            }
            Deed::Tell(node, _) if look.nodes.iter().all(|(name, _)| escaped(name.as_bytes()) != *node) => {
                return Err(Refused::Unknown("there is no such node".to_owned()));
            }
            Deed::Cancel(_) => return self.0.cancel(CANCELLED).map(|()| "is ending".to_owned()).map_err(Refused::Not),
            Deed::Pause(_) => Order::Pause,
            Deed::Resume(_) => Order::Resume,
            Deed::Tell(_, order) => order.clone(),
        };
        match self.0.obey(order) {
            Answer::Done(what) => Ok(what),
            Answer::Refused(why) => Err(Refused::Not(why)),
            _ => Err(Refused::Not("it says something else".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_addressed_by_its_name_alone() {
        for name in ["node1", "a*b", "x?", "[1-3]", "{a,b}", "back\\slash", "beta\u{202e}"] {
            let glob = glob_of(name).unwrap();
            let globs = NameGlobs::new(&[glob]).unwrap();
            assert!(globs.matches(name), "{name}");
            assert!(!globs.matches("a") && !globs.matches("aab") && !globs.matches("2"), "{name}");
        }
        assert_eq!(glob_of("a/b"), None);
    }
}
