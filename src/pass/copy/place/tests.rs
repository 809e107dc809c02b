use super::*;
use crate::broker::Ticket;
use crate::fs::layers::faulty::faulty;
use crate::fs::layers::pretend::{self, Mdts};
use crate::fs::{self, Options, Side};
use crate::model::task::{Entry, tag};
use crate::model::{Entries, JobId, JobSpec, Operation, Policy, Queue, Report, Task, Timestamp};
use crate::pass::{Pass, Roots, retry};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keeps what is posted and told, and has the worker die after so many posts.
#[derive(Default)]
struct Posted {
    tasks: Vec<Task>,
    told: Report,
    dies_after: Option<usize>,
}

impl Ticket for Posted {
    fn post(&mut self, task: Task) -> Result<(), Stopped> {
        if self.dies_after == Some(self.tasks.len()) {
            return Err(Stopped);
        }
        self.tasks.push(task);
        Ok(())
    }
    fn is_hungry(&self, _: Queue) -> bool {
        false
    }
    fn report(&mut self, report: Report) {
        self.told.add(report);
    }
    fn finish(self: Box<Self>) {}
    fn give_back(self: Box<Self>, _: &str) {}
}

/// A job between two directories, whose target pretends to have these MDTs.
struct Job {
    at: tempfile::TempDir,
    mdts: Arc<Mdts>,
    roots: Roots,
    spec: JobSpec,
}

impl Job {
    /// `source` is what bash makes in the source.
    fn new(indices: &[u32], source: &str) -> Self {
        let at = tempfile::tempdir().unwrap();
        let script = format!("mkdir source target; cd source; {source}");
        let done = std::process::Command::new("bash").args(["-ec", &script]).current_dir(at.path()).status().unwrap();
        assert!(done.success());
        let options = Options::new(JobId::random());
        let open =
            |name: &str, side| fs::open(at.path().join(name).as_os_str().as_encoded_bytes(), side, &options).unwrap();
        let mdts = Mdts::new(indices);
        let target = pretend::over(open("target", Side::Target), &mdts);
        let roots = Roots { source: pretend::over(open("source", Side::Source), &Mdts::new(&[0])), target };
        let spec = JobSpec {
            priority: 1,
            id: options.job,
            pass: "copy".into(),
            source: Vec::new(),
            target: Vec::new(),
            policy: Policy::default(),
            submitted: Timestamp::default(),
            source_root: roots.source.identity().unwrap(),
            target_root: roots.target.identity().unwrap(),
        };
        Job { at, mdts, roots, spec }
    }

    fn pass(&self) -> CopyPass {
        CopyPass::new(&self.spec, self.roots.clone(), true).unwrap()
    }

    /// Works on these tasks and on all that come of them; the first may have been begun with before.
    fn work(&self, first: Vec<Task>, mut redelivered: bool) -> Report {
        let pass = self.pass();
        let mut all = Report::default();
        let (mut now, mut later) = (first, Vec::new());
        for is_walk in [true, false] {
            while let Some(task) = now.pop() {
                if is_walk && task.queue() == Queue::Finish {
                    later.push(task);
                    continue;
                }
                let mut ticket = Posted::default();
                let mut run = Run::new(&mut ticket, std::mem::take(&mut redelivered));
                pass.run(&task, &mut run).unwrap();
                let report = run.report;
                all.add(report);
                all.add(ticket.told);
                now.append(&mut ticket.tasks);
            }
            now.append(&mut later);
        }
        pass.conclude(&mut all);
        all
    }

    fn whole(&self) -> Report {
        self.work(vec![Task::root()], false)
    }

    /// A worker dies with the root in its hands, after so many posts.
    fn die(&self, posts: usize) {
        let mut ticket = Posted { dies_after: Some(posts), ..Posted::default() };
        let mut run = Run::new(&mut ticket, false);
        assert!(self.pass().run(&Task::root(), &mut run).is_err(), "it has done everything");
    }

    /// Where directories lie, less the job's own.
    fn table(&self) -> BTreeMap<String, u32> {
        let all = self.mdts.table().into_iter().map(|(path, mdt)| (String::from_utf8(path).unwrap(), mdt));
        all.filter(|(path, _)| !path.starts_with(".treehaul")).collect()
    }
}

fn table<'a>(rows: impl IntoIterator<Item = (&'a str, u32)>) -> BTreeMap<String, u32> {
    rows.into_iter().map(|(path, mdt)| (path.to_owned(), mdt)).collect()
}

#[test]
fn first_level_directories_alternate_in_the_order_of_their_names() {
    let job = Job::new(&[0, 1], "mkdir -p f c a/x/y e d b; touch aa cc ee a/file");
    let report = job.whole();
    let first = table([("a", 0), ("b", 1), ("c", 0), ("d", 1), ("e", 0), ("f", 1)]);
    let mut all = first.clone();
    all.extend(table([("a/x", 0), ("a/x/y", 0)]));
    assert_eq!(job.table(), all);
    assert_eq!((report.placed, report.totals.misplaced), (vec![(0, 3), (1, 3)], 0));
    let asked: Vec<_> = job.mdts.asked().into_iter().map(|path| String::from_utf8(path).unwrap()).collect();
    assert_eq!(asked, first.into_keys().collect::<Vec<_>>(), "no other directory is placed");

    let again = job.whole();
    assert_eq!(again.placed, [(0, 3), (1, 3)], "where they lie is told by a run that changes nothing, too");
    assert_eq!((again.totals.copied, again.totals.updated), (0, 0));
    assert_eq!(job.table(), all);
}

#[test]
fn indices_may_be_sparse() {
    let job = Job::new(&[0, 2, 7], "mkdir a b c d");
    let report = job.whole();
    assert_eq!(job.table(), table([("a", 0), ("b", 2), ("c", 7), ("d", 0)]));
    assert_eq!(report.placed, [(0, 2), (2, 1), (7, 1)]);
}

#[test]
fn what_a_dead_worker_had_half_done_ends_where_it_would_have() {
    let names = "mkdir {1..200} {a..z}; touch {1..200}/file";
    let undisturbed = Job::new(&[0, 1, 3], names);
    let expected = undisturbed.whole();
    for posts in 0..6 {
        let job = Job::new(&[0, 1, 3], names);
        job.die(posts);
        let left = job.table().len();
        assert!((1..226).contains(&left), "{posts}: {left} were made");
        let report = job.work(vec![Task::root()], true);
        assert_eq!(job.table(), undisturbed.table(), "{posts}");
        assert_eq!((report.placed, report.totals.misplaced), (expected.placed.clone(), 0), "{posts}");

        let job = Job::new(&[0, 1, 3], names);
        job.die(posts);
        let report = job.whole();
        assert_eq!(
            (job.table(), report.placed),
            (undisturbed.table(), expected.placed.clone()),
            "another job: {posts}"
        );
    }
}

#[test]
fn a_directory_that_is_there_stays_and_is_counted_where_it_lies() {
    let job = Job::new(&[0, 1], "mkdir a b c d");
    job.roots.target.open_dir(&RelPath::root()).unwrap().make_dir(b"b").unwrap();
    let report = job.whole();
    assert_eq!(job.table(), table([("a", 0), ("b", 0), ("c", 0), ("d", 1)]));
    assert_eq!((report.placed, report.totals.misplaced), (vec![(0, 3), (1, 1)], 0));
}

#[test]
fn the_levels_below_are_placed_as_far_as_is_asked_for() {
    let mut job = Job::new(&[0, 1], "mkdir -p {a,b}/{w,x,y,z}/deep/deeper");
    job.spec.policy.lustre.mdt_depth = 2;
    let report = job.whole();
    let table = job.table();
    let on = |mdt: u32, above: &str| {
        let below = format!("{above}/");
        let is_child = |path: &str| path.strip_prefix(&below).is_some_and(|rest| !rest.contains('/'));
        table.iter().filter(|(path, on)| is_child(path) && **on == mdt).count()
    };
    assert_eq!((table["a"], table["b"]), (0, 1));
    for above in ["a", "b"] {
        assert_eq!((on(0, above), on(1, above)), (2, 2), "{table:?}");
    }
    for path in table.keys().filter(|path| path.ends_with("deep")) {
        assert_eq!(table[path], table[path.strip_suffix("/deep").unwrap()], "{path} is left to the target");
    }
    assert_eq!(job.mdts.asked().len(), 2 + 8);
    assert_eq!(report.placed, [(0, 5), (1, 5)]);
}

#[test]
fn nothing_gathers_where_nothing_is_placed() {
    let job = Job::new(&[0, 1], "mkdir -p a/b");
    assert_eq!(job.whole().totals.failed, 0);
    let pass = job.pass();
    let gathers = |path: &[u8]| {
        let pair = pass.open_pair(&RelPath::parse(path.to_vec()).unwrap()).unwrap_or_else(|_| panic!());
        pass.gather(&pair).is_some()
    };
    assert!(gathers(b"") && !gathers(b"a"));
    for (indices, mdt, dry_run) in [
        (&[0][..], MdtPolicy::RoundRobin, false),
        (&[0, 1], MdtPolicy::Off, false),
        (&[0, 1], MdtPolicy::RoundRobin, true),
    ] {
        let mut job = Job::new(indices, "mkdir a b");
        (job.spec.policy.lustre.mdt, job.spec.policy.dry_run) = (mdt, dry_run);
        let report = job.whole();
        assert_eq!((job.mdts.asked().len(), report.placed), (0, vec![]));
    }
}

#[test]
fn directories_follow_the_one_above_them_if_they_shall() {
    let mut job = Job::new(&[0, 1], "mkdir -p a/x b/y");
    job.mdts.refuse(&[]);
    assert_eq!(job.whole().totals.failed, 0);
    (job.spec.policy.lustre.mdt, job.spec.policy.lustre.mdt_depth) = (MdtPolicy::Inherit, 2);
    for path in ["source/a/new", "source/b/new", "source/new"] {
        std::fs::create_dir(job.at.path().join(path)).unwrap();
    }
    let report = job.whole();
    let table = job.table();
    assert_eq!((table["a/new"], table["b/new"], table["new"]), (0, 1, 0));
    assert_eq!((report.placed, report.totals.misplaced), (vec![(0, 4), (1, 3)], 0));
}

#[test]
fn what_an_mdt_does_not_take_goes_to_the_next_and_is_counted() {
    let job = Job::new(&[0, 1, 2], "mkdir a b c d e f");
    job.mdts.refuse(&[1]);
    let report = job.whole();
    assert_eq!(job.table(), table([("a", 0), ("b", 2), ("c", 2), ("d", 0), ("e", 2), ("f", 2)]));
    assert_eq!((report.placed, report.totals.misplaced, report.totals.failed), (vec![(0, 2), (2, 4)], 2, 0));

    job.mdts.refuse(&[]);
    let again = job.whole();
    assert_eq!((again.placed, again.totals.misplaced), (vec![(0, 2), (2, 4)], 0), "this run misplaced none");
}

#[test]
fn what_a_dead_worker_misplaced_is_counted_by_who_does_it_again() {
    let mut job = Job::new(&[0, 1], "mkdir {10..99}");
    job.spec.submitted = Timestamp { ns: 0, ..Timestamp::now() };
    job.mdts.refuse(&[1]);
    job.die(0);
    job.mdts.refuse(&[]);
    let wrong = job.table().iter().filter(|(name, mdt)| name.parse::<u32>().unwrap() % 2 != **mdt).count();
    assert!(wrong > 0, "{:?}", job.table());
    assert_eq!(job.work(vec![Task::root()], true).totals.misplaced, wrong as u64);
}

#[test]
fn a_directory_that_no_mdt_takes_has_failed_and_costs_no_other() {
    let job = Job::new(&[0, 1], "mkdir a; touch file");
    job.mdts.refuse(&[0, 1]);
    let report = job.whole();
    let failed: Vec<_> = report.failures.iter().map(|f| (f.path.as_slice(), f.operation)).collect();
    assert_eq!(failed, [(&b"a"[..], Operation::MakeDirectory)]);
    assert!(job.at.path().join("target/file").exists());
    assert_eq!((report.placed, report.totals.misplaced), (vec![], 0));
}

#[test]
fn what_failed_and_is_tried_again_is_counted_once() {
    let mut job = Job::new(&[0, 1], "mkdir -p a/x b/x c/x");
    for operation in [Operation::List, Operation::OpenDirectory] {
        let (source, faults) = faulty(job.roots.source.clone(), vec![(operation, "b", libc::EIO)]);
        let sound = std::mem::replace(&mut job.roots.source, source);
        let mut report = job.whole();
        faults.repair();
        assert_eq!((report.failures.len(), &report.placed), (1, &vec![(0, 2)]), "{operation}");
        let again = report.failures.iter().map(|failure| retry::again(failure).unwrap()).collect();
        report.add(job.work(again, false));
        assert_eq!((report.placed, report.totals.misplaced), (vec![(0, 2), (1, 1)], 0), "{operation}");
        job.roots.source = sound;
    }
}

#[test]
fn a_directory_that_went_missing_is_made_where_its_name_says() {
    let job = Job::new(&[0, 1], "mkdir {1..40}");
    let mut ticket = Posted::default();
    job.pass().run(&Task::root(), &mut Run::new(&mut ticket, false)).unwrap();
    let first = job.table();
    let mut tables = Vec::new();
    for _ in 0..2 {
        for name in first.keys() {
            std::fs::remove_dir(job.at.path().join("target").join(name)).unwrap();
        }
        let report = job.work(ticket.tasks.clone(), false);
        assert_eq!((report.totals.failed, report.totals.misplaced), (0, 0));
        tables.push(job.table());
        let on: Vec<u64> = report.placed.iter().map(|(_, n)| *n).collect();
        assert!(on.len() == 2 && on.iter().all(|n| *n >= 8) && on[0] + on[1] == 40, "{on:?}");
    }
    assert_eq!(tables[0], tables[1]);
}

#[test]
fn a_listing_without_end_is_placed_piece_by_piece() {
    let job = Job::new(&[0, 1], "mkdir {1..9}");
    let pass = job.pass();
    let pair = pass.open_pair(&RelPath::root()).unwrap_or_else(|_| panic!());
    let mut ticket = Posted::default();
    let mut run = Run::new(&mut ticket, false);
    let mut out = Outbox::new(&pair.path, 0, 0);
    let mut gathered = Gathered { most: 3, ..pass.gather(&pair).unwrap() };
    for name in ["9", "7", "8", "3", "1", "2", "5"] {
        pass.gather_dir(&mut gathered, name.as_bytes(), &mut out, &mut run).unwrap();
    }
    assert_eq!(job.table(), table([("7", 0), ("8", 1), ("9", 0), ("1", 1), ("2", 0), ("3", 1)]));
    pass.make_gathered(&mut gathered, &mut out, &mut run).unwrap();
    assert_eq!(job.table()["5"], 0);
}

/// When something last happened to an entry.
fn changed(path: &std::path::Path) -> i64 {
    std::os::unix::fs::MetadataExt::ctime(&std::fs::metadata(path).unwrap())
}

/// The task of one entry, of which nothing is known.
fn batch(dir: &[u8], tag: u8) -> Task {
    let mut entries = Entries::default();
    entries.push(&Entry { name: b"file", kind: None, metadata: None }).unwrap();
    Task::Batch { dir: RelPath::parse(dir.to_vec()).unwrap(), entries, tag }
}

#[test]
fn what_changed_in_the_second_of_the_moment_is_looked_at_where_times_are_whole_seconds() {
    let mut job = Job::new(&[0], "mkdir dir; echo a > dir/file");
    assert_eq!(job.whole().totals.failed, 0);
    std::fs::write(job.at.path().join("source/dir/file"), "other").unwrap();
    std::fs::write(job.at.path().join("source/dir/new"), "").unwrap();
    let second = |name: &str| changed(&job.at.path().join("source/dir").join(name));
    let seconds = (second("file"), second("."));
    let target = job.at.path().join("target/dir");
    let mut work = |sec, task| {
        job.spec.policy.since = Some(Timestamp { sec, ns: 999_999_999 });
        assert_eq!(job.work(vec![task], false).totals.failed, 0);
    };
    let is_copied = || std::fs::read(target.join("file")).unwrap() == b"other";
    work(seconds.0 + 1, batch(b"dir", 0));
    assert!(!is_copied(), "it changed before");
    work(seconds.0, batch(b"dir", 0));
    assert!(is_copied());
    work(seconds.1 + 1, Task::root());
    assert!(!target.join("new").exists(), "the directory changed before");
    work(seconds.1, Task::root());
    assert!(target.join("new").exists());
}

#[test]
fn what_a_dead_worker_copied_in_the_second_of_the_submission_counts_as_copied() {
    let mut job = Job::new(&[0], "echo a > file");
    assert_eq!(job.whole().totals.copied, 1);
    let second = changed(&job.at.path().join("target/file"));
    let mut copied = |sec| {
        job.spec.submitted = Timestamp { sec, ns: 999_999_999 };
        job.work(vec![batch(b"", tag::ALL)], true).totals.copied
    };
    assert_eq!((copied(second), copied(second + 1)), (1, 0));
}

#[test]
fn under_a_moment_directories_are_counted_that_nobody_looks_at() {
    let mut job = Job::new(&[0, 1], "mkdir a b c");
    assert_eq!(job.whole().placed, [(0, 2), (1, 1)]);
    job.spec.policy.since = Some(Timestamp { sec: 1 << 40, ns: 0 });
    let report = job.whole();
    assert_eq!((report.totals.updated, report.placed), (0, vec![(0, 2), (1, 1)]));
}
