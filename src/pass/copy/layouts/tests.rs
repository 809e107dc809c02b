use super::*;
use crate::broker::{Stopped, Ticket};
use crate::fs::layers::faulty::{Fault, Faults, faulty};
use crate::fs::layers::striped::{Servants, plain, striped};
use crate::fs::{self, Options, Side};
use crate::model::lustre::HsmPolicy;
use crate::model::task::{Entries, Entry, tag};
use crate::model::{DeletePolicy, JobId, Operation, Policy, Queue, Report, Task, Timestamp};
use crate::pass::{Run, row};
use proptest::prelude::*;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

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

/// Two trees on filesystems of several servers each.
struct Job {
    at: tempfile::TempDir,
    roots: Roots,
    source: Servants,
    target: Servants,
    policy: Policy,
    /// How many chunks the first large file was cut into.
    chunks: u64,
}

const MIB: u32 = 1 << 20;

impl Job {
    fn new(script: &str) -> Self {
        Self::with_faults(script, Vec::new()).0
    }

    /// One on whose source these operations fail.
    fn with_faults(script: &str, faults: Vec<Fault>) -> (Self, Arc<Faults>) {
        let at = tempfile::tempdir().unwrap();
        sh(at.path(), &format!("mkdir source target; cd source; {script}"));
        let options = Options::new(JobId::random());
        let open =
            |name: &str, side| fs::open(at.path().join(name).as_os_str().as_encoded_bytes(), side, &options).unwrap();
        let (source, faults) = faulty(open("source", Side::Source), faults);
        let ((source, theirs), (target, ours)) = (striped(source), striped(open("target", Side::Target)));
        let mut policy = Policy::default();
        policy.chunks.from_bytes = 3 << 20;
        policy.chunks.chunk_bytes = 1 << 20;
        let roots = Roots { source, target };
        (Job { at, roots, source: theirs, target: ours, policy, chunks: 0 }, faults)
    }

    /// Works on everything.
    fn run(&mut self, pass: &str) -> Report {
        self.run_from(pass, vec![Task::root()])
    }

    /// Works on these tasks and on all that come of them.
    fn run_from(&mut self, pass: &str, first: Vec<Task>) -> Report {
        let mut spec = JobSpec {
            priority: 1,
            id: JobId::random(),
            pass: pass.into(),
            source: Vec::new(),
            target: Vec::new(),
            policy: self.policy.clone(),
            submitted: Timestamp::default(),
            source_root: self.roots.source.identity().unwrap(),
            target_root: self.roots.target.identity().unwrap(),
        };
        spec.policy.verify.sample_ppm = 1_000_000;
        let pass = row(pass).unwrap().prepare(&spec, self.roots.clone(), true).unwrap();
        let mut all = Report::default();
        let (mut now, mut later) = (first, Vec::new());
        for is_walk in [true, false] {
            while let Some(task) = now.pop() {
                if is_walk && task.queue() == Queue::Finish {
                    later.push(task);
                    continue;
                }
                if let Task::Chunk { part, .. } = &task
                    && self.chunks == 0
                {
                    self.chunks = part.count;
                }
                let mut ticket = Posted::default();
                let mut run = Run::new(&mut ticket, false);
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

    fn copy(&mut self) -> Report {
        self.run("copy")
    }

    fn ino(&self, path: &str) -> u64 {
        std::fs::symlink_metadata(self.at.path().join(path)).unwrap().ino()
    }

    /// Lays out a file of the source, or gives a directory a default.
    fn lay_out(&self, name: &str, layout: &Layout) {
        let mut known = self.source.lock().unwrap();
        let ino = self.ino(&format!("source/{name}"));
        if self.at.path().join("source").join(name).is_dir() {
            known.defaults.insert(ino, layout.clone());
        } else {
            known.layouts.insert(ino, layout.clone());
        }
    }

    fn release(&self, name: &str) {
        let ino = self.ino(&format!("source/{name}"));
        self.source.lock().unwrap().released.insert(ino);
    }

    /// The layout of a file of the target, or a directory's default.
    fn laid_out(&self, name: &str) -> Option<Layout> {
        let known = self.target.lock().unwrap();
        let ino = self.ino(&format!("target/{name}"));
        known.layouts.get(&ino).or_else(|| known.defaults.get(&ino)).cloned()
    }

    fn is_laid_out_as(&self, name: &str, wanted: &Layout) -> bool {
        self.laid_out(name).is_some_and(|have| have.is_as(wanted))
    }

    fn is_same(&self, name: &str) -> bool {
        let read = |side: &str| std::fs::read(self.at.path().join(side).join(name)).ok();
        read("source").is_some() && read("source") == read("target")
    }
}

fn sh(at: &Path, script: &str) {
    assert!(std::process::Command::new("bash").args(["-ec", script]).current_dir(at).status().unwrap().success());
}

/// A small file, an empty one, one of two names, and a large one.
const FILES: &str = "mkdir d; echo small > d/small; touch empty; echo linked > d/one; ln d/one two
    head -c 5000000 /dev/urandom > large; touch -d 2001-01-01 d . ";
const NAMES: [&str; 5] = ["d/small", "empty", "d/one", "two", "large"];

fn files(layout: &Layout) -> Job {
    let job = Job::new(FILES);
    NAMES.iter().for_each(|name| job.lay_out(name, layout));
    job
}

#[test]
fn every_file_is_laid_out_as_in_the_source_before_its_first_byte() {
    for direct in [false, true] {
        let mut job = files(&plain(4, 2 * MIB, None));
        job.policy.direct = direct;
        let t = job.copy().totals;
        assert_eq!((t.failed, t.lost_layouts, t.lost_pools), (0, 0, 0));
        for name in NAMES {
            assert!(job.is_same(name) && job.is_laid_out_as(name, &plain(4, 2 * MIB, None)), "{name}");
        }
        assert_eq!(job.ino("target/d/one"), job.ino("target/two"));
        let inos = ["d/small", "two", "large"].map(|name| job.ino(&format!("target/{name}")));
        let known = job.target.lock().unwrap();
        for ino in inos {
            let mut written = known.written.iter().filter(|(written, _)| *written == ino).peekable();
            assert!(written.peek().is_some() && written.all(|(_, had)| *had));
        }
        drop(known);
        let t = job.copy().totals;
        assert_eq!((t.copied, t.updated), (0, 0));
    }
}

#[test]
fn a_target_on_one_server_gets_the_data_and_nobody_asks_for_layouts() {
    let mut job = files(&plain(4, 2 * MIB, None));
    let options = Options::new(JobId::random());
    let target = job.at.path().join("target");
    job.roots.target = fs::open(target.as_os_str().as_encoded_bytes(), Side::Target, &options).unwrap();
    let t = job.copy().totals;
    assert_eq!((t.failed, t.lost_layouts, job.source.lock().unwrap().asked), (0, 0, 0));
    assert!(NAMES.iter().all(|name| job.is_same(name)));
}

#[test]
fn a_right_file_is_written_anew_for_its_layout_only_if_that_was_asked_for() {
    let (old, new) = (plain(1, MIB, None), plain(4, 2 * MIB, None));
    let mut job = files(&old);
    assert_eq!(job.copy().totals.failed, 0);
    NAMES.iter().for_each(|name| job.lay_out(name, &new));
    job.source.lock().unwrap().asked = 0;
    let t = job.copy().totals;
    assert_eq!((t.copied, t.updated, job.source.lock().unwrap().asked), (0, 0, 0));
    assert!(NAMES.iter().all(|name| job.is_laid_out_as(name, &old)));

    job.policy.lustre.relayout = true;
    let t = job.copy().totals;
    assert_eq!((t.copied, t.hard_links, t.failed), (5, 1, 0));
    assert!(NAMES.iter().all(|name| job.is_same(name) && job.is_laid_out_as(name, &new)));
    assert_eq!(job.ino("target/d/one"), job.ino("target/two"));
    let t = job.copy().totals;
    assert_eq!((t.copied, t.updated, t.failed), (0, 0, 0));
}

#[test]
fn a_file_whose_source_has_no_layout_is_never_written_anew_for_one() {
    let mut job = Job::new(FILES);
    assert_eq!(job.copy().totals.failed, 0);
    job.target.lock().unwrap().layouts.clear();
    job.policy.lustre.relayout = true;
    assert_eq!(job.copy().totals.copied, 0);
}

#[test]
fn pools_that_the_target_has_not_are_counted_and_others_kept() {
    let mut job = Job::new("echo 1 > fast; echo 2 > slow; head -c 5000000 /dev/zero > large");
    job.policy.holes = false;
    job.target.lock().unwrap().pools = vec!["flash".into()];
    job.lay_out("fast", &plain(2, MIB, Some("flash")));
    job.lay_out("slow", &plain(2, MIB, Some("tape")));
    job.lay_out("large", &plain(2, MIB, Some("tape")));
    let report = job.copy();
    let t = &report.totals;
    assert_eq!((t.failed, t.lost_pools, t.lost_layouts), (0, 2, 0));
    let told: Vec<_> = report.findings.iter().map(|f| (&f.what[..], &f.expected[..])).collect();
    assert_eq!(told, [("lost pool", "tape")]);
    assert!(job.is_laid_out_as("fast", &plain(2, MIB, Some("flash"))));
    assert!(job.is_laid_out_as("slow", &plain(2, MIB, None)) && job.is_laid_out_as("large", &plain(2, MIB, None)));
    assert_eq!(job.copy().totals.lost_pools, 0);
}

#[test]
fn a_target_that_takes_no_layouts_gets_the_data_and_the_loss_is_counted_a_file() {
    let mut job = files(&plain(4, 2 * MIB, None));
    job.lay_out("d", &plain(4, 2 * MIB, None));
    job.target.lock().unwrap().refuses = true;
    let t = job.copy().totals;
    // Four inodes and a directory.
    assert_eq!((t.failed, t.lost_layouts), (0, 5));
    assert!(NAMES.iter().all(|name| job.is_same(name)));
}

#[test]
fn chunks_end_where_stripes_end() {
    let mut job = Job::new("head -c 10000000 /dev/urandom > large");
    job.lay_out("large", &plain(2, 3 * MIB, None));
    assert_eq!(job.copy().totals.failed, 0);
    assert!(job.is_same("large"));
    assert_eq!(job.chunks, 4);
}

#[test]
fn the_part_file_of_a_killed_job_is_of_no_use_if_it_is_laid_out_otherwise() {
    for (stripes, is_used) in [(2, false), (4, true)] {
        let faults = vec![(Operation::Read, "large", libc::EIO)];
        let (mut job, faults) = Job::with_faults("head -c 5000000 /dev/urandom > large", faults);
        job.lay_out("large", &plain(stripes, MIB, None));
        assert_eq!(job.copy().totals.failed, 1);
        let part = std::fs::read_dir(job.at.path().join("target")).unwrap().map(|e| e.unwrap());
        let part = part.filter(|e| e.file_type().unwrap().is_file()).map(|e| e.ino()).next().unwrap();
        faults.repair();
        job.lay_out("large", &plain(4, MIB, None));
        let t = job.copy().totals;
        assert_eq!((t.failed, t.lost_layouts), (0, 0));
        assert!(job.is_same("large") && job.is_laid_out_as("large", &plain(4, MIB, None)));
        assert_eq!(job.ino("target/large") == part, is_used);
    }
}

fn messages(report: &Report) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut all: Vec<_> = report.failures.iter().map(|f| (text(&f.path), f.message.clone())).collect();
    all.sort();
    all
}

#[test]
fn released_files_fail_each_with_the_way_out_and_nothing_is_read() {
    let mut job = files(&plain(1, MIB, None));
    sh(job.at.path(), "echo there > source/there");
    NAMES.iter().for_each(|name| job.release(name));
    let report = job.copy();
    let t = &report.totals;
    assert_eq!((t.failed, t.released, t.filtered, t.bytes_copied), (5, 0, 0, 6));
    let said = messages(&report);
    assert_eq!(
        said.iter().map(|(path, _)| &path[..]).collect::<Vec<_>>(),
        ["d/one", "d/small", "empty", "large", "two"]
    );
    assert!(said.iter().all(|(_, m)| m.contains("HSM released") && m.contains("--hsm copy")), "{said:?}");
    assert!(job.is_same("there"));
    // Recalled, they are copied.
    job.source.lock().unwrap().released.clear();
    assert_eq!(job.copy().totals.failed, 0);
    assert!(NAMES.iter().all(|name| job.is_same(name)));
}

#[test]
fn released_files_are_left_out_and_counted_if_that_is_wanted() {
    let mut job = files(&plain(1, MIB, None));
    job.policy.lustre.hsm = HsmPolicy::Skip;
    NAMES.iter().for_each(|name| job.release(name));
    for _ in 0..2 {
        let t = job.copy().totals;
        assert_eq!((t.failed, t.released, t.filtered, t.files, t.bytes_copied), (0, 5, 5, 0, 0));
        assert_eq!(t.done(), t.found);
    }
    assert!(!job.at.path().join("target/large").exists() && job.at.path().join("target/d").exists());
}

#[test]
fn a_released_file_that_is_right_already_needs_no_data() {
    let mut job = files(&plain(1, MIB, None));
    assert_eq!(job.copy().totals.failed, 0);
    NAMES.iter().for_each(|name| job.release(name));
    sh(job.at.path(), "chmod 600 source/d/small");
    for hsm in [HsmPolicy::Fail, HsmPolicy::Skip] {
        job.policy.lustre.hsm = hsm;
        let t = job.copy().totals;
        assert_eq!((t.failed, t.released, t.copied), (0, 0, 0));
        assert_eq!(t.updated, u64::from(hsm == HsmPolicy::Fail));
    }
    // Somebody took the directory for new, and it is not: nobody needs the data all the same.
    let mut entries = Entries::default();
    entries.push(&Entry { name: b"small", kind: Some(Kind::File), metadata: None }).unwrap();
    let dir = RelPath::parse(b"d".to_vec()).unwrap();
    let t = job.run_from("copy", vec![Task::Batch { dir, entries, tag: tag::FRESH | tag::ALL }]).totals;
    assert_eq!((t.released, t.unchanged), (0, 1));
    // Its contents cannot be compared without it.
    (job.policy.checksum, job.policy.lustre.hsm) = (true, HsmPolicy::Fail);
    assert_eq!(job.copy().totals.failed, 5);
}

#[test]
fn what_is_released_in_the_source_stays_in_the_target_when_the_rest_is_removed() {
    let mut job = files(&plain(1, MIB, None));
    assert_eq!(job.copy().totals.failed, 0);
    sh(job.at.path(), "echo changed > source/d/small; touch target/extra");
    job.release("d/small");
    (job.policy.delete, job.policy.lustre.hsm) = (Some(DeletePolicy::default()), HsmPolicy::Skip);
    let t = job.run("sync").totals;
    assert_eq!((t.failed, t.released, t.deleted), (0, 1, 1));
    assert_eq!(std::fs::read(job.at.path().join("target/d/small")).unwrap(), b"small\n");
}

#[test]
fn a_released_file_is_verified_by_its_attributes_and_its_contents_are_not_claimed_to_be_right() {
    let mut job = files(&plain(1, MIB, None));
    assert_eq!(job.copy().totals.failed, 0);
    job.release("d/small");
    let t = job.run("verify").totals;
    assert_eq!((t.failed, t.different), (0, 0));
    job.policy.verify.content = true;
    let report = job.run("verify");
    assert_eq!((report.totals.failed, report.totals.different), (1, 0));
    let (path, message) = &messages(&report)[0];
    assert!(path == "d/small" && message.contains("HSM released") && message.contains("(source)"), "{message}");
}

#[test]
fn default_layouts_of_directories_are_carried_changed_and_removed() {
    let mut job = Job::new("mkdir -p a/b c; touch -d 2001-01-01 a/b a c .");
    job.lay_out("a", &plain(2, MIB, None));
    job.lay_out("c", &plain(3, MIB, Some("tape")));
    let t = job.copy().totals;
    assert_eq!((t.failed, t.lost_layouts, t.lost_pools), (0, 0, 1));
    assert!(job.is_laid_out_as("a", &plain(2, MIB, None)) && job.is_laid_out_as("c", &plain(3, MIB, None)));
    assert_eq!(job.laid_out("a/b"), None);
    let t = job.copy().totals;
    assert_eq!((t.updated, t.copied), (0, 0));

    let a = job.ino("source/a");
    job.source.lock().unwrap().defaults.remove(&a);
    job.lay_out("a/b", &plain(5, MIB, None));
    assert_eq!(job.copy().totals.updated, 2);
    assert_eq!(job.laid_out("a"), None);
    assert!(job.is_laid_out_as("a/b", &plain(5, MIB, None)));
    assert_eq!(job.run("dirtime").totals.updated, 0);
    assert_eq!(job.copy().totals.updated, 0);
}

#[test]
fn the_targets_root_keeps_its_default_layout_and_so_does_what_has_it_from_there() {
    let mut job = Job::new("mkdir a b; touch -d 2001-01-01 a b .");
    job.lay_out("a", &plain(2, MIB, None));
    let own = plain(7, MIB, None);
    sh(job.at.path(), "mkdir target/b");
    for name in ["target", "target/b"] {
        let ino = job.ino(name);
        job.target.lock().unwrap().defaults.insert(ino, own.clone());
    }
    assert_eq!(job.copy().totals.failed, 0);
    assert_eq!((job.laid_out(""), job.laid_out("b")), (Some(own.clone()), Some(own)));
    assert!(job.is_laid_out_as("a", &plain(2, MIB, None)));
    assert_eq!(job.copy().totals.updated, 0);
}

proptest! {
    #[test]
    fn borders_of_chunks_are_borders_of_stripes(mib in 1_u64..5000, stripe in 1_u64..=65_536) {
        let (chunk, stripe) = (mib << 20, stripe << 16);
        let bytes = aligned(chunk, stripe);
        prop_assert!(bytes >= chunk && bytes.is_multiple_of(CHUNK_ALIGN_BYTES));
        let common = (1..).map(|n| n * stripe).find(|n| n.is_multiple_of(CHUNK_ALIGN_BYTES)).unwrap();
        if common <= MAX_ALIGN_BYTES {
            prop_assert!(bytes.is_multiple_of(stripe) && bytes < chunk + common);
        } else {
            prop_assert_eq!(bytes, chunk);
        }
    }
}
