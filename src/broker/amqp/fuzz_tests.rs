//! A bounded fuzzer of everything that is read from the broker: valid messages, changed here and there and sealed again,
//! so that the decoder and not the seal meets them.
//!
//! `TREEHAUL_FUZZ_SEED` runs a seed again, `TREEHAUL_FUZZ_SECONDS` runs for longer.

use super::Seal;
use super::messages::{
    Baton, Control, Done, JobEvent, Origin, Part as ReportPart, Payload, Probe, Record, Reply, Results, Standing,
    Tally, Tasks, What,
};
use super::story::Story;
use crate::model::filter::{Matcher, Rule, Syntax};
use crate::model::fleet::JobEnd;
use crate::model::policy::DeletePolicy;
use crate::model::task::{Entry, Names, Part};
use crate::model::{
    Entries, Failure, Finding, JobId, JobSpec, Kind, Operation, Policy, Queue, RelPath, Report, RootIdentity, Task,
    Timestamp, Totals, check_name,
};
use crate::telemetry::Board;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Changed messages at most, unless a time is given.
const CASES: u64 = 300_000;
/// For so long at most, unless a time is given.
const USUAL: Duration = Duration::from_secs(8);
/// No message takes nearly as long.
const HANGS: Duration = Duration::from_secs(2);
/// Bytes that decoders take for something special: lengths of bincode, what paths must not hold.
const SPECIAL: &[u8] = &[0, 1, 2, 5, 0x7f, 0x80, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff, b'/', b'.'];

const ORIGIN: Origin = Origin { session: 1, number: 2, attempt: 3 };

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

fn all_tasks() -> Vec<Task> {
    let dir = RelPath::parse(b"some/where/d\xff/x".to_vec()).unwrap();
    let (mut names, mut name, mut entries) = (Names::default(), Names::default(), Entries::default());
    for (tag, text) in [(0, &b"a"[..]), (9, b"b\xff\n"), (255, &[b'L'; 255])] {
        names.push(tag, text).unwrap();
        entries.push(&Entry { name: text, kind: Some(Kind::File), metadata: None }).unwrap();
    }
    name.push(0, b"large").unwrap();
    let t = Timestamp { sec: -5, ns: 999_999_999 };
    let part = Part { key: 1 << 100, number: 2, size: 1 << 40, mtime: t, ctime: t, ino: 77, first: 3, count: 4 };
    vec![
        Task::root(),
        Task::Dirs { parent: dir.clone(), names: names.clone() },
        Task::Pick { dir: dir.clone(), names: names.clone() },
        Task::Batch { dir: dir.clone(), entries, tag: 3 },
        Task::Chunk { dir: dir.clone(), name, part },
        Task::Finish { parent: dir.clone(), names: names.clone() },
        Task::Remove { dir, names },
    ]
}

fn report() -> Report {
    let mut report = Report { abort: Some("why".to_owned()), ..Report::default() };
    report.totals.found = u64::MAX;
    let (path, message) = (b"p\xff".to_vec(), "m".to_owned());
    report.failures.push(Failure::new(path.clone(), Operation::Run, Some(-5), message));
    let word = || "size".to_owned();
    report.findings.push(Finding { path, what: word(), expected: word(), found: word() });
    report.placed = vec![(0, 12), (u32::MAX, u64::MAX)];
    report.evidence = Some(Box::default());
    report
}

fn spec(job: JobId) -> JobSpec {
    let rule = |syntax, pattern: &[u8]| Rule { include: false, syntax, pattern: pattern.to_vec() };
    let mut policy = Policy { since: Some(Timestamp::default()), ..Policy::default() };
    policy.filter.rules = vec![rule(Syntax::Glob, b"a/**/{b,[c-d]?}*"), rule(Syntax::Regex, b"(x|y)+[^z]*$")];
    policy.delete = Some(DeletePolicy { trash: Some(b"/trash".to_vec().into()), ..DeletePolicy::default() });
    JobSpec {
        id: job,
        pass: "sync".to_owned(),
        source: b"/source".to_vec(),
        target: b"file:///target".to_vec(),
        policy,
        submitted: Timestamp::default(),
        priority: 1,
        source_root: RootIdentity::default(),
        target_root: RootIdentity::default(),
    }
}

/// Valid bodies with the kinds that they are of.
fn corpus(seal: &Seal, job: JobId) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    let mut add = |kind: u8, message: Vec<u8>| all.push((kind, Seal::body(&message).to_vec()));
    for task in all_tasks() {
        let message = Tasks { job, origin: ORIGIN, attempts: 1, lost: 2, again: true, tasks: vec![task.clone(), task] };
        add(Tasks::KIND, seal.seal(&message).unwrap());
    }
    let done = Done { origin: ORIGIN, attempt: 4, queue: Queue::Files, posted: [1, 2, 3], report: report() };
    let results = Results {
        session: 1,
        number: 2,
        worker: "w".to_owned(),
        parts: vec![ReportPart { attempt: 5, report: report() }],
        done: vec![done],
        in_progress: Totals::default(),
        abort: Some("why".to_owned()),
        idle: true,
    };
    for what in [What::Results(Box::new(results)), What::Note("n".to_owned()), What::Posted([1, 2, 3]), What::Parks(7)]
    {
        add(Record::KIND, seal.seal(&Record { job, what }).unwrap());
    }
    add(Baton::KIND, seal.seal(&Baton { job, number: 3 }).unwrap());
    let (worker, why) = (|| "w".to_owned(), || "because".to_owned());
    for event in [
        JobEvent::Submitted(Box::new(spec(job))),
        JobEvent::Finishing(job),
        JobEvent::Removed(job),
        JobEvent::Led { job, worker: worker() },
        JobEvent::Cancel { job, why: why() },
        JobEvent::Quarantined { job, worker: worker(), why: why() },
        JobEvent::Finished { job, end: JobEnd::Aborted(why()), totals: Box::new(Totals::default()) },
    ] {
        add(JobEvent::KIND, seal.seal(&event).unwrap());
    }
    let probe = Probe { job, round: 3, reply_to: "treehaul.replies.1".to_owned(), deep: true, hungry: [1, 2] };
    add(Control::KIND, seal.seal(&Control::Probe(probe)).unwrap());
    for standing in [Standing::Unknown, Standing::Refused(why()), Standing::Works(Tally::default())] {
        add(Reply::KIND, seal.seal(&Reply { round: 1, worker: worker(), session: 9, standing }).unwrap());
    }
    all
}

/// One change.
fn change(body: &mut Vec<u8>, other: &[u8], r: &mut Random) {
    let at = r.below(body.len());
    let end = (at + 1 + r.below(16)).min(body.len());
    match r.below(9) {
        0 if !body.is_empty() => body[at] ^= 1 << r.below(8),
        1 if !body.is_empty() => body[at] = *r.pick(SPECIAL),
        2 if !body.is_empty() => body[at] = body[at].wrapping_add(if r.below(2) == 0 { 1 } else { 255 }),
        3 => body.insert(at, *r.pick(SPECIAL)),
        4 => drop(body.drain(at..end)),
        5 => body.truncate(at),
        6 => {
            let again = body[at..end].to_vec();
            body.splice(at..at, again);
        }
        7 => {
            let from = r.below(other.len());
            let to = (from + 1 + r.below(32)).min(other.len());
            body.splice(at..end, other[from..to].iter().copied());
        }
        _ => {
            // A length, as bincode writes large ones.
            let width = *r.pick(&[2, 4, 8]);
            let marker = match width {
                2 => 251,
                4 => 252,
                _ => 253,
            };
            let value = *r.pick(&[0x7fff_ffff_ffff_ffff, u64::MAX, 1 << 31, 1 << 22, 65_535, 300]);
            let length = [&[marker], &value.to_le_bytes()[..width]].concat();
            body.splice(at..(at + 1).min(body.len()), length);
        }
    }
}

fn is_name_list(names: &Names) -> bool {
    names.iter().count() == names.len() && names.iter().all(|(_, name)| check_name(name).is_ok())
}

/// What the decoder let through is what the rest of the program may rely on.
fn check_task(task: &Task) {
    assert!(RelPath::parse(task.directory().as_bytes().to_vec()).is_ok(), "{task:?}");
    let is_valid = match task {
        Task::Dirs { names, .. }
        | Task::Pick { names, .. }
        | Task::Finish { names, .. }
        | Task::Remove { names, .. }
        | Task::Chunk { name: names, .. } => is_name_list(names),
        Task::Batch { entries, .. } => {
            entries.iter().count() == entries.len() && entries.iter().all(|e| check_name(e.name).is_ok())
        }
    };
    assert!(is_valid, "{task:?}");
}

/// Reads a message; what is accepted is written and read again, and is the same then.
fn accepted<T: Payload + PartialEq + Debug>(seal: &Seal, bytes: &[u8]) -> Option<T> {
    let value: T = seal.open(bytes).ok()?;
    let again = seal.seal(&value).unwrap();
    assert_eq!(seal.open::<T>(&again).unwrap(), value);
    Some(value)
}

/// True if it was accepted.
fn meet(seal: &Seal, job: JobId, kind: u8, body: &[u8]) -> bool {
    let bytes = seal.seal_raw(kind, u64::MAX, body);
    match kind {
        Tasks::KIND => {
            let Some(tasks) = accepted::<Tasks>(seal, &bytes) else { return false };
            tasks.tasks.iter().for_each(check_task);
            for queue in Queue::ALL {
                let belongs = tasks.job == job && !tasks.tasks.is_empty();
                let fits = belongs && tasks.tasks.iter().all(|t| t.queue() == queue);
                assert_eq!(seal.open_tasks(&bytes, job, queue).is_ok(), fits);
            }
            true
        }
        Record::KIND => accepted::<Record>(seal, &bytes).is_some_and(|record| {
            let board = Arc::new(Board::new(Box::new(|_| {})));
            Story::new(job, board).take(record);
            true
        }),
        Baton::KIND => accepted::<Baton>(seal, &bytes).is_some(),
        JobEvent::KIND => accepted::<JobEvent>(seal, &bytes).is_some_and(|event| {
            if let JobEvent::Submitted(job) = event
                && job.policy.filter != spec(job.id).policy.filter
            {
                // A filter may be refused.
                let _ = Matcher::new(&job.policy.filter);
            }
            true
        }),
        Control::KIND => accepted::<Control>(seal, &bytes).is_some(),
        _ => accepted::<Reply>(seal, &bytes).is_some(),
    }
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn changed_messages_are_refused_or_valid() {
    let seed = from_env("TREEHAUL_FUZZ_SEED")
        .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64));
    println!("TREEHAUL_FUZZ_SEED={seed}");
    let wanted = from_env("TREEHAUL_FUZZ_SECONDS").map(Duration::from_secs);
    let (seal, job) = (Seal::new(Some([7; 32])), JobId::parse(b"0123456789abc").unwrap());
    let corpus = corpus(&seal, job);
    assert!(corpus.iter().all(|(kind, body)| meet(&seal, job, *kind, body)), "what is unchanged is accepted");
    let (budget, most) = wanted.map_or((USUAL, CASES), |wanted| (wanted, u64::MAX));
    let run = &|seed| fuzz(&seal, job, &corpus, seed, budget, most / 2);
    let [one, two] = std::thread::scope(|scope| {
        [seed, !seed].map(|seed| scope.spawn(move || run(seed))).map(|thread| thread.join().unwrap())
    });
    let (cases, taken) = (one.0 + two.0, one.1 + two.1);
    println!("{cases} changed messages, {taken} of them accepted");
    assert!(cases > 1000 && taken > cases / 100 && taken < cases, "{cases} cases, {taken} accepted");
}

/// Changed messages, and how many of them were accepted.
fn fuzz(seal: &Seal, job: JobId, corpus: &[(u8, Vec<u8>)], seed: u64, budget: Duration, most: u64) -> (u64, u64) {
    let (mut r, start, mut cases, mut taken) = (Random(seed), Instant::now(), 0, 0);
    while start.elapsed() < budget && cases < most {
        let (kind, mut body) = r.pick(corpus).clone();
        for _ in 0..=r.below(4) {
            let (_, other) = r.pick(corpus);
            change(&mut body, other, &mut r);
            if body.is_empty() {
                break;
            }
        }
        let began = Instant::now();
        taken += u64::from(meet(seal, job, kind, &body));
        assert!(began.elapsed() < HANGS, "seed {seed}, case {cases}: {body:?}");
        cases += 1;
    }
    (cases, taken)
}
