use super::*;
use crate::broker::{Stopped, Ticket};
use crate::fs::layers::faulty::{Fault, faulty};
use crate::fs::{self, Options, Side};
use crate::model::{DeletePolicy, JobId, JobSpec, Operation, Policy, Queue, Timestamp};
use crate::pass::turn::Turn;
use crate::pass::{Roots, row};
use std::path::Path;

/// Keeps what is posted and told.
#[derive(Default)]
struct Posted {
    tasks: Vec<Task>,
    told: Report,
}

impl Ticket for Posted {
    fn post(&mut self, task: Task) -> Result<(), Stopped> {
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

struct Job {
    spec: JobSpec,
    roots: Roots,
    /// Every turn is over when it is looked at first.
    hurried: bool,
    tasks: u64,
}

impl Job {
    fn new(pass: &str, at: &Path) -> Self {
        let options = Options::new(JobId::random());
        let open = |name: &str, side| fs::open(at.join(name).as_os_str().as_encoded_bytes(), side, &options).unwrap();
        let side = row(pass).unwrap().access.side();
        let roots = Roots { source: open("source", Side::Source), target: open("target", side) };
        let mut policy = Policy { delete: Some(DeletePolicy::default()), ..Policy::default() };
        policy.chunks.from_bytes = 3 << 20;
        policy.chunks.chunk_bytes = 1 << 20;
        policy.verify.content = true;
        policy.fsync = true;
        let spec = JobSpec {
            priority: 1,
            id: options.job,
            pass: pass.into(),
            source: Vec::new(),
            target: Vec::new(),
            policy,
            submitted: Timestamp::default(),
            source_root: roots.source.identity().unwrap(),
            target_root: roots.target.identity().unwrap(),
        };
        Job { spec, roots, hurried: false, tasks: 0 }
    }

    /// Works on these tasks and on all that come of them.
    fn run(&mut self, first: Vec<Task>) -> Report {
        let pass = row(&self.spec.pass).unwrap().prepare(&self.spec, self.roots.clone(), true).unwrap();
        let mut all = Report::default();
        let (mut now, mut later) = (first, Vec::new());
        for is_walk in [true, false] {
            while let Some(task) = now.pop() {
                if is_walk && task.queue() == Queue::Finish {
                    later.push(task);
                    continue;
                }
                self.tasks += 1;
                assert!(self.tasks < 5000, "it goes round and round: {task:?}");
                let mut ticket = Posted::default();
                let mut run = Run::new(&mut ticket, false);
                if self.hurried {
                    run.turn = Turn::of_looks(1);
                }
                pass.run(&task, &mut run).unwrap();
                let report = run.report;
                all.add(report);
                all.add(ticket.told);
                now.append(&mut ticket.tasks);
            }
            if is_walk {
                pass.may_finish(&all.totals).unwrap();
                now.append(&mut later);
            }
        }
        pass.conclude(&mut all);
        all
    }

    fn whole(&mut self) -> Report {
        self.run(vec![Task::root()])
    }
}

/// Directories, files, hard links, a symlink, a fifo, a large file; things that only the target has.
fn trees(copied: bool) -> tempfile::TempDir {
    let at = tempfile::tempdir().unwrap();
    let script = "mkdir -p source/d/sub/deep source/e target/gone/sub target/d
        for i in 1 2 3 4 5; do echo $i > source/d/f$i; echo $i > source/d/sub/g$i; echo $i > source/d/sub/deep/h$i; done
        ln source/d/f1 source/e/linked; ln -s x source/d/link; mkfifo source/e/fifo
        head -c 5000000 /dev/urandom > source/e/large
        touch target/gone/x target/gone/y target/gone/sub/z target/d/extra
        setfattr -n user.a -v b source/d/sub
        touch -d 2001-01-01 source/d/sub/deep source/d/sub source/d source/e source";
    let done = std::process::Command::new("bash").args(["-ec", script]).current_dir(at.path()).status().unwrap();
    assert!(done.success());
    if copied {
        assert_eq!(Job::new("copy", at.path()).whole().totals.failed, 0);
    }
    at
}

/// What must be the same as if nothing had failed.
fn kept(t: &Totals) -> [(&'static str, u64); 13] {
    [
        ("found", t.found),
        ("done", t.done()),
        ("failed", t.failed),
        ("files", t.files),
        ("symlinks", t.symlinks),
        ("specials", t.specials),
        ("directories", t.directories),
        ("bytes_found", t.bytes_found),
        ("extra", t.extra),
        ("deleted", t.deleted),
        ("target_found", t.target_found),
        ("different", t.different),
        ("lost_xattrs", t.lost_xattrs),
    ]
}

const S: bool = true;
const T: bool = false;

/// Runs a pass with faults of one side, then tries again what failed when they are gone.
fn is_made_good(pass: &str, copied: bool, in_source: bool, faults: &[Fault], failures: &[(&str, Phase)]) {
    let quiet = trees(copied);
    let undisturbed = Job::new(pass, quiet.path()).whole();
    assert_eq!(undisturbed.totals.failed, 0, "{pass}: {:?}", undisturbed.failures);

    let at = trees(copied);
    let mut job = Job::new(pass, at.path());
    let side = if in_source { &mut job.roots.source } else { &mut job.roots.target };
    let (fs, broken) = faulty(side.clone(), faults.to_vec());
    *side = fs;
    let mut first = job.whole();
    let mut failed: Vec<_> =
        first.failures.iter().map(|f| (String::from_utf8_lossy(&f.path).into_owned(), f.phase)).collect();
    failed.sort_by(|a, b| a.0.cmp(&b.0));
    let expected: Vec<_> = failures.iter().map(|(path, phase)| ((*path).to_owned(), *phase)).collect();
    assert_eq!(failed, expected, "{pass} {faults:?}");
    assert_eq!(first.totals.failed, failures.len() as u64, "{pass} {faults:?}");

    broken.repair();
    for failure in &first.failures {
        first.totals.take_back(failure.counted.as_ref().unwrap());
    }
    let second = job.run(first.failures.iter().map(|failure| again(failure).unwrap()).collect());
    assert_eq!(second.failures, [], "{pass} {faults:?}");
    first.totals.add(&second.totals);
    assert_eq!(kept(&first.totals), kept(&undisturbed.totals), "{pass} {faults:?}");
    if pass == "sync" {
        let left = Job::new("verify", at.path()).whole();
        assert_eq!((left.totals.different, left.totals.failed), (0, 0), "{faults:?}: {:?}", left.findings);
    }
}

use Operation::{Create, Flush, List, ListXattrs, MakeDirectory, Open, OpenDirectory, Read, ReadLink, SetTimes, Stat};
use Phase::{Dress, Finish, RemoveDirectory, Walk};
use libc::{EACCES, EIO, ENOTDIR};

#[test]
fn an_entry_that_failed_and_is_copied_later_counts_as_if_it_had_not_failed() {
    for pass in ["copy", "sync"] {
        for (side, operation, path) in [
            (S, Open, "d/f3"),
            (S, Read, "d/f3"),
            (T, Create, "d/f3"),
            (S, ReadLink, "d/link"),
            (S, Stat, "e/linked"),
            (S, Read, "e/large"),
        ] {
            is_made_good(pass, false, side, &[(operation, path, EIO)], &[(path, Walk)]);
        }
        is_made_good(pass, true, T, &[(Stat, "d/f3", EIO)], &[("d/f3", Walk)]);
        let two = [(Open, "d/f2", EIO), (Open, "d/sub/g4", EACCES)];
        is_made_good(pass, false, S, &two, &[("d/f2", Walk), ("d/sub/g4", Walk)]);
    }
}

#[test]
fn a_directory_that_failed_and_is_gone_through_later_counts_as_if_it_had_not_failed() {
    for pass in ["copy", "sync"] {
        for copied in [false, true] {
            is_made_good(pass, copied, S, &[(OpenDirectory, "d/sub", EACCES)], &[("d/sub", Walk)]);
            is_made_good(pass, copied, S, &[(List, "d/sub", EIO)], &[("d/sub", Walk)]);
            is_made_good(pass, copied, T, &[(MakeDirectory, "d/sub", ENOTDIR)], &[("d/sub", Walk)]);
        }
        // What is in it is gone through all the same.
        is_made_good(pass, true, S, &[(ListXattrs, "d/sub", EIO)], &[("d/sub", Dress)]);
        is_made_good(pass, true, T, &[(ListXattrs, "d/sub", EIO)], &[("d/sub", Dress)]);
        is_made_good(pass, false, T, &[(SetTimes, "d/sub", EIO)], &[("d/sub", Finish)]);
    }
    is_made_good("copy", true, T, &[(List, "d/sub", EIO)], &[("d/sub", Dress)]);
    is_made_good("copy", false, S, &[(List, "", EIO)], &[("", Walk)]);
    is_made_good("copy", true, T, &[(List, "", EIO)], &[("", Finish)]);
}

#[test]
fn a_removal_that_failed_and_is_done_later_counts_as_if_it_had_not_failed() {
    let remove = Operation::Remove;
    for pass in ["delete", "sync"] {
        for (path, phase) in [("gone/x", Phase::Remove), ("gone/sub", RemoveDirectory)] {
            is_made_good(pass, true, T, &[(remove, path, EIO)], &[(path, phase)]);
        }
        is_made_good(pass, true, S, &[(Stat, "d/extra", EIO)], &[("d/extra", Walk)]);
        is_made_good(pass, true, T, &[(List, "gone", EIO)], &[("gone", Walk)]);
        is_made_good(pass, true, T, &[(OpenDirectory, "gone/sub", EACCES)], &[("gone/sub", Walk)]);
    }
    is_made_good("delete", true, S, &[(List, "d/sub", EIO)], &[("d/sub", Walk)]);
    is_made_good("delete", true, S, &[(OpenDirectory, "d/sub", EACCES)], &[("d/sub", Walk)]);
}

#[test]
fn directories_that_are_dressed_or_compared_later_count_as_if_they_had_not_failed() {
    for (side, faults, phase) in [
        (T, (SetTimes, "d/sub", EIO), Dress),
        (S, (OpenDirectory, "d/sub", EACCES), Walk),
        (S, (List, "d/sub", EIO), Walk),
        (S, (ListXattrs, "d/sub", EIO), Dress),
    ] {
        is_made_good("dirtime", true, side, &[faults], &[("d/sub", phase)]);
    }
    let both = [(ListXattrs, "d/sub", EIO), (List, "d/sub", EIO)];
    is_made_good("dirtime", true, S, &both, &[("d/sub", Walk)]);
    is_made_good("verify", true, S, &[(Open, "d/f3", EIO)], &[("d/f3", Walk)]);
    is_made_good("verify", true, T, &[(Read, "d/f3", EIO)], &[("d/f3", Walk)]);
}

#[test]
fn a_file_that_cannot_be_synced_gets_no_name_until_it_can() {
    for pass in ["copy", "sync"] {
        for path in ["d/f3", "d/sub/deep/h1"] {
            is_made_good(pass, false, T, &[(Flush, path, EIO)], &[(path, Walk)]);
        }
        is_made_good(pass, false, T, &[(Flush, "e/PART", EIO)], &[("e/large", Walk)]);
    }
    let copied = |fsync| {
        let at = trees(false);
        let mut job = Job::new("copy", at.path());
        job.spec.policy.fsync = fsync;
        let faults = [(Flush, "d/f3", EIO), (Flush, "e/PART", EIO), (Flush, "", EIO)].to_vec();
        job.roots.target = faulty(job.roots.target.clone(), faults).0;
        let report = job.whole();
        let there = ["d/f3", "e/large", "d/f2"].map(|path| at.path().join("target").join(path).exists());
        let failures = report.failures.into_iter().map(|f| (f.path, f.operation, f.phase, f.message));
        (failures.collect::<Vec<_>>(), there)
    };
    assert_eq!(copied(false), (Vec::new(), [true; 3]), "nothing is synced that nobody asked for");
    let (mut failures, there) = copied(true);
    failures.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(there, [false, false, true]);
    let paths: Vec<_> = failures.iter().map(|f| (f.0.as_slice(), f.1, f.2)).collect();
    assert_eq!(paths, [(&b""[..], Flush, Phase::Whole), (b"d/f3", Flush, Walk), (b"e/large", Flush, Walk)]);
    assert!(failures[0].3.ends_with("run the same command again"), "{}", failures[0].3);
}

#[test]
fn what_nothing_can_try_again_by_itself_has_no_task() {
    let failure = |path: &[u8], phase| {
        let failure = Failure::new(path.to_vec(), Operation::Run, None, String::new());
        again(&Failure { phase, ..failure })
    };
    assert_eq!(failure(b"a/b", Phase::Whole), None);
    assert_eq!(failure(b"a/../b", Walk), None, "a name that no task may have");
    assert_eq!(failure(b"", RemoveDirectory), None);
    assert_eq!(failure(b"", Walk), Some(Task::root()));
    assert!(matches!(failure(b"a/b", Walk), Some(Task::Pick { dir, .. }) if dir.as_bytes() == b"a"));
}

#[test]
fn tasks_that_are_cut_short_all_the_time_do_the_same_in_more_of_them() {
    for (pass, copied) in [("copy", false), ("sync", false), ("delete", true), ("dirtime", true), ("verify", true)] {
        let (quiet, at) = (trees(copied), trees(copied));
        let mut usual = Job::new(pass, quiet.path());
        let undisturbed = usual.whole();
        let mut job = Job::new(pass, at.path());
        job.hurried = true;
        let hurried = job.whole();
        assert_eq!((hurried.failures, kept(&hurried.totals)), (vec![], kept(&undisturbed.totals)), "{pass}");
        assert_eq!(hurried.totals.hard_links, undisturbed.totals.hard_links, "{pass}");
        assert!(job.tasks > usual.tasks, "{pass}: {} and {}", job.tasks, usual.tasks);
        if pass == "sync" {
            let left = Job::new("verify", at.path()).whole();
            assert_eq!((left.totals.different, left.totals.failed), (0, 0), "{:?}", left.findings);
        }
    }
}

#[test]
fn the_rest_of_a_cut_task_is_compared_as_the_task_was_whatever_its_times_say() {
    let run = |hurried| {
        let at = trees(false);
        let mut job = Job::new("copy", at.path());
        // Everything is older, so that only what is new in the target is looked at.
        job.spec.policy.since = Some(Timestamp { sec: 1 << 40, ns: 0 });
        job.hurried = hurried;
        let report = job.whole();
        assert!(at.path().join("target/e/fifo").exists() && at.path().join("target/e/large").exists());
        report.totals
    };
    let (usual, hurried) = (run(false), run(true));
    assert_eq!((hurried.copied, hurried.unchanged), (usual.copied, usual.unchanged));
}
