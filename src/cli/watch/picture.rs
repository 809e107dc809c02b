//! What is to be seen: text and fractions, ready to be drawn.
//!
//! Invariant: every text in a [`Picture`] is escaped.

use super::super::reach::{silent_text, stranger_text};
use super::super::status::{failure_text, progress_text, queues_text};
use crate::model::fleet::NodeInfo;
use crate::model::{JobId, Totals, escaped};
use crate::node::json::{load_of, state_of};
use crate::node::{JobLook, Look};
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Failures and notes of each job that are shown.
const SAID_EACH: usize = 2;
/// Weight of the newest look in a rate: what one look brings alone jumps about.
const NEWEST: f64 = 0.4;

/// The last look, and what the ones before it tell about rates.
#[derive(Default)]
pub struct Looks {
    last: Option<Look>,
    rates: HashMap<JobId, Rate>,
    /// Why there is no newer look.
    lost: Option<String>,
}

struct Rate {
    at: Instant,
    done: u64,
    bytes: u64,
    /// Entries and bytes a second.
    pace: Option<[f64; 2]>,
}

fn moved(totals: &Totals) -> u64 {
    totals.bytes_copied + totals.bytes_read
}

impl Looks {
    /// Another look, or why there is none.
    pub fn add(&mut self, look: Result<Look, String>) {
        match look {
            Ok(look) => self.take_in(look),
            Err(why) => self.lost = Some(why),
        }
    }

    fn take_in(&mut self, look: Look) {
        let mut rates = HashMap::new();
        for job in &look.jobs {
            let Some(progress) = &job.progress else { continue };
            let id = job.state.spec.id;
            let (done, bytes) = (progress.totals.done(), moved(&progress.totals));
            let pace = self.rates.get(&id).and_then(|before| before.pace_until(look.at, done, bytes));
            rates.insert(id, Rate { at: look.at, done, bytes, pace });
        }
        (self.rates, self.lost, self.last) = (rates, None, Some(look));
    }
}

impl Rate {
    fn pace_until(&self, at: Instant, done: u64, bytes: u64) -> Option<[f64; 2]> {
        let seconds = at.checked_duration_since(self.at)?.as_secs_f64();
        if seconds <= 0.0 {
            return self.pace;
        }
        // A new leader counts anew.
        let now = [done.saturating_sub(self.done), bytes.saturating_sub(self.bytes)].map(|n| n as f64 / seconds);
        let Some(before) = self.pace else { return Some(now) };
        Some([0, 1].map(|i| before[i] * (1.0 - NEWEST) + now[i] * NEWEST))
    }
}

/// A whole screen.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// The first line.
    pub head: String,
    /// Jobs, in the order of the list.
    pub jobs: Vec<JobRow>,
    /// Which of them keys are about.
    pub selected: usize,
    /// Workers.
    pub nodes: Vec<NodeRow>,
    /// What went wrong.
    pub said: Vec<String>,
}

/// A job.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// Its name.
    pub id: JobId,
    /// It is paused.
    pub paused: bool,
    /// What it is and how it stands.
    pub title: String,
    /// How much of it is done, if that can be said.
    pub fraction: Option<f64>,
    /// How much that is, how fast it goes, how long it takes.
    pub counts: String,
    /// What waits.
    pub queues: String,
}

/// A worker.
#[derive(Debug, Clone)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: &'static str,
    /// Busy actors and all, of dirs and files.
    pub actors: [(u32, u32); 2],
    /// Load and memory.
    pub load: String,
}

impl Picture {
    /// Of what was seen last.
    pub fn new(broker: &str, looks: &Looks, selected: usize) -> Self {
        let Some(look) = &looks.last else {
            let why = looks.lost.as_ref().map(|why| escaped(why.as_bytes()));
            let head = format!("treehaul  {}  looking ...", escaped(broker.as_bytes()));
            return Picture { head, said: why.into_iter().collect(), ..Picture::default() };
        };
        let row = |job: &JobLook| JobRow::new(job, looks.rates.get(&job.state.spec.id).and_then(|rate| rate.pace));
        let jobs: Vec<JobRow> = look.jobs.iter().map(row).collect();
        Picture {
            head: head(broker, look),
            selected: selected.min(jobs.len().saturating_sub(1)),
            jobs,
            nodes: look.nodes.iter().map(|(name, info)| NodeRow::new(name, info)).collect(),
            said: said(look, looks.lost.as_deref()),
        }
    }

    /// The job that keys are about, and whether it is paused.
    pub fn selected_job(&self) -> Option<(JobId, bool)> {
        self.jobs.get(self.selected).map(|job| (job.id, job.paused))
    }
}

fn head(broker: &str, look: &Look) -> String {
    let under_way = look.jobs.iter().filter(|job| !job.state.is_over()).count();
    let busy: u32 = look.nodes.iter().flat_map(|(_, info)| info.busy).sum();
    let actors: u32 = look.nodes.iter().flat_map(|(_, info)| info.actors).sum();
    format!(
        "treehaul  {}  {}  {under_way} jobs, {} workers, {busy}/{actors} actors busy",
        escaped(broker.as_bytes()),
        clock(),
        look.nodes.len(),
    )
}

/// The time of day here.
fn clock() -> String {
    jiff::Zoned::now().strftime("%H:%M:%S").to_string()
}

fn said(look: &Look, lost: Option<&str>) -> Vec<String> {
    let mut said: Vec<String> = lost.map(|why| escaped(why.as_bytes())).into_iter().collect();
    said.extend(look.answers.strangers.iter().map(stranger_text));
    if look.answers.silent > 0 {
        said.push(silent_text(look.answers.silent));
    }
    for (name, info) in &look.nodes {
        let refused = info.jobs.iter().filter_map(|job| Some((job.job, job.refused.as_ref()?)));
        said.extend(refused.map(|(job, why)| {
            format!("{} takes no part in {job}: {}", escaped(name.as_bytes()), escaped(why.as_bytes()))
        }));
    }
    for job in &look.jobs {
        let (id, progress) = (job.state.spec.id, job.progress.iter());
        for (node, why) in &job.state.quarantined {
            said.push(format!("{id}: {} is out: {}", escaped(node.as_bytes()), escaped(why.as_bytes())));
        }
        for progress in progress {
            let failures = progress.failures.iter().rev().take(SAID_EACH);
            said.extend(failures.map(|failure| format!("{id}: failed: {}", failure_text(failure))));
            let notes = progress.notes.iter().rev().take(SAID_EACH);
            said.extend(notes.map(|note| format!("{id}: {}", escaped(note.as_bytes()))));
        }
    }
    said
}

impl JobRow {
    fn new(job: &JobLook, pace: Option<[f64; 2]>) -> Self {
        let spec = &job.state.spec;
        let (pass, source, target) = (escaped(spec.pass.as_bytes()), escaped(&spec.source), escaped(&spec.target));
        let progress = job.progress.as_ref();
        let totals = progress.map(|p| p.totals).or_else(|| job.state.end.as_ref().map(|(_, totals)| *totals));
        let fraction = totals.filter(|t| t.found > 0).map(|t| t.done() as f64 / t.found as f64);
        let counts = match (progress, totals) {
            (Some(p), _) => {
                let left = p.totals.found.saturating_sub(p.totals.done());
                let left = if p.walk_over { left_text(left, pace) } else { String::new() };
                format!("{}{}{left}", progress_text(p), pace_text(pace))
            }
            (None, Some(t)) => format!("{} of {} entries", HumanCount(t.done()), HumanCount(t.found)),
            (None, None) => "its leader says nothing yet".to_owned(),
        };
        let queues = if job.state.is_over() { "over".to_owned() } else { queues_text(job) };
        JobRow {
            id: spec.id,
            paused: job.state.paused,
            title: format!("{} {}: {pass} {source} -> {target}", spec.id, job.standing()),
            fraction: fraction.map(|f| f.clamp(0.0, 1.0)),
            counts,
            queues,
        }
    }
}

fn pace_text(pace: Option<[f64; 2]>) -> String {
    let Some([entries, bytes]) = pace else { return String::new() };
    format!(", {} entries/s, {}/s", HumanCount(entries as u64), HumanBytes(bytes as u64))
}

fn left_text(left: u64, pace: Option<[f64; 2]>) -> String {
    match pace {
        Some([entries, _]) if entries > 0.0 && left > 0 => {
            let time = Duration::from_secs_f64((left as f64 / entries).min(1e9));
            format!(", about {} left", HumanDuration(time))
        }
        _ => String::new(),
    }
}

impl NodeRow {
    fn new(name: &str, info: &NodeInfo) -> Self {
        NodeRow {
            name: escaped(name.as_bytes()),
            state: state_of(info),
            actors: [0, 1].map(|i| (info.busy[i], info.actors[i])),
            load: format!("{} {}", load_of(info), HumanBytes(info.rss_bytes)),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::broker::amqp::{Answers, JobState, QueueDepth, Stranger};
    use crate::model::fleet::{JobPhase, JobProgress, NodeJob};
    use crate::model::{Failure, JobSpec, Operation, Policy, Timestamp};

    /// Text that would take over a terminal.
    pub const EVIL: &str = "no\x1b[2J\u{202e}de";

    fn hostile_job(id: JobId) -> JobLook {
        let evil = || EVIL.as_bytes().to_vec();
        let spec = JobSpec {
            id,
            pass: EVIL.into(),
            source: evil(),
            target: evil(),
            policy: Policy::default(),
            submitted: Timestamp::default(),
            priority: 1,
            source_root: crate::model::RootIdentity::default(),
            target_root: crate::model::RootIdentity::default(),
        };
        let failure = Failure::new(evil(), Operation::Run, None, EVIL.into());
        let totals = Totals { found: 10, copied: 5, ..Totals::default() };
        let (notes, failures) = (vec![EVIL.into()], vec![failure]);
        let progress = JobProgress { job: id, totals, walk_over: true, elapsed_ms: 1000, notes, failures };
        let state = JobState {
            spec,
            phase: JobPhase::Walking,
            paused: false,
            leader: Some(EVIL.into()),
            quarantined: vec![(EVIL.into(), EVIL.into())],
            cancel: None,
            end: None,
            removed: false,
        };
        let queues = vec![QueueDepth { name: "dirs", ready: 3, consumers: 1 }];
        JobLook { state, progress: Some(progress), queues, unsettled: 2, leader: Some(EVIL.into()) }
    }

    /// Everything that comes from elsewhere is hostile.
    pub fn hostile() -> Look {
        let id = JobId::random();
        let refused = NodeJob { job: id, refused: Some(EVIL.into()), unsettled: 0, leads: false, target: None };
        let info = NodeInfo { version: EVIL.into(), host: EVIL.into(), jobs: vec![refused], ..NodeInfo::default() };
        let stranger = Stranger { name: EVIL.into(), version: EVIL.into(), wire: 9, key: true, clock: true };
        let answers = Answers { strangers: vec![stranger], silent: 1, ..Answers::default() };
        Look {
            at: Instant::now(),
            jobs: vec![hostile_job(id)],
            gone: vec![],
            nodes: vec![(EVIL.into(), info)],
            answers,
        }
    }

    #[test]
    fn everything_in_a_picture_is_escaped() {
        let mut looks = Looks::default();
        looks.add(Ok(hostile()));
        looks.add(Err(EVIL.into()));
        let picture = Picture::new(EVIL, &looks, 9);
        assert_eq!(picture.selected, 0, "there is but one job");
        let (job, node) = (&picture.jobs[0], &picture.nodes[0]);
        let escaped = r"no\x1b[2J\u{202e}de";
        assert!(job.title.ends_with(&format!("walking: {escaped} {escaped} -> {escaped}")), "{}", job.title);
        assert!(job.counts.starts_with("5 of 10 entries, 0 B"), "{}", job.counts);
        assert_eq!((job.queues.as_str(), job.fraction), ("3 dirs, 2 unacknowledged", Some(0.5)));
        assert_eq!(node.name, escaped);
        let said = picture.said.len();
        assert_eq!(said, 7, "lost, stranger, silence, refusal, quarantine, failure, note: {:?}", picture.said);
        assert!(!format!("{}{:?}", picture.head, picture.said).contains(['\x1b', '\u{202e}']));
        let texts = [&picture.head, &job.title, &job.counts, &job.queues, &node.name, &node.load];
        assert!(texts.into_iter().chain(&picture.said).all(|text| !text.contains(['\x1b', '\u{202e}'])));
        let status = super::super::super::status::text(looks.last.as_ref().unwrap());
        assert!(status.contains(escaped) && !status.contains(['\x1b', '\u{202e}']), "{status}");
        let json = looks.last.as_ref().unwrap().json();
        assert_eq!((json["jobs"][0]["leader"].as_str(), json["silent"].as_u64()), (Some(escaped), Some(1)));
        assert!(!json["jobs"][0]["source"].as_str().unwrap().contains('\x1b'));
    }

    #[test]
    fn a_rate_follows_what_was_done_between_looks() {
        let start = Instant::now();
        let first = Rate { at: start, done: 100, bytes: 1000, pace: None };
        let at = start + Duration::from_secs(2);
        assert_eq!(first.pace_until(at, 300, 5000), Some([100.0, 2000.0]));
        let second = Rate { at: start, done: 100, bytes: 0, pace: Some([50.0, 0.0]) };
        let [entries, _] = second.pace_until(at, 300, 0).unwrap();
        assert!((entries - 70.0).abs() < 1e-9, "{entries}");
        assert_eq!(first.pace_until(start, 300, 0), None, "no time passed");
        assert_eq!(first.pace_until(at, 0, 0), Some([0.0, 0.0]), "a new leader counts anew");
        assert_eq!(left_text(50, Some([10.0, 0.0])), ", about 5 seconds left");
        assert_eq!(left_text(50, Some([0.0, 0.0])), "");
    }
}
