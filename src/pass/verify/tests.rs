use super::*;
use crate::broker::Ticket;
use crate::fs::{Options, Side, posix};
use crate::model::task::{Entries, Entry};
use crate::model::{JobId, Kind, Queue, Timestamp};
use std::path::Path;

/// Keeps what is posted.
#[derive(Default)]
struct Posted(Vec<Task>);

impl Ticket for Posted {
    fn post(&mut self, task: Task) -> Result<(), Stopped> {
        self.0.push(task);
        Ok(())
    }
    fn is_hungry(&self, _: Queue) -> bool {
        false
    }
    fn report(&mut self, _: Report) {}
    fn finish(self: Box<Self>) {}
    fn give_back(self: Box<Self>, _: &str) {}
}

fn pass(source: &Path, target: &Path) -> VerifyPass {
    let id = JobId::random();
    let open = |path: &Path| posix::open(path.as_os_str().as_encoded_bytes(), Side::Source, &Options::new(id)).unwrap();
    let roots = Roots { source: open(source), target: open(target) };
    let policy = Policy::default();
    let (source_root, target_root) = (roots.source.identity().unwrap(), roots.target.identity().unwrap());
    let (source, target, submitted) = (Vec::new(), Vec::new(), Timestamp::default());
    let pass = "verify".into();
    let spec = JobSpec { id, pass, source, target, policy, priority: 10, submitted, source_root, target_root };
    VerifyPass::new(&spec, &roots, false).unwrap()
}

fn done(pass: &VerifyPass, task: &Task, redelivered: bool) -> (Report, Vec<Task>) {
    let mut posted = Posted::default();
    let mut run = Run::new(&mut posted, redelivered);
    pass.run(task, &mut run).unwrap();
    (run.report, posted.0)
}

fn batch(names: &[&str], tag: u8) -> Task {
    let mut entries = Entries::default();
    for name in names {
        entries.push(&Entry { name: name.as_bytes(), kind: Some(Kind::File), metadata: None }).unwrap();
    }
    Task::Batch { dir: RelPath::root(), entries, tag }
}

fn roots() -> (tempfile::TempDir, tempfile::TempDir) {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (name, at) in [("both", [true, true]), ("source", [true, false]), ("target", [false, true])] {
        for (root, _) in [&source, &target].into_iter().zip(at).filter(|(_, at)| *at) {
            let file = std::fs::File::create(root.path().join(name)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
    }
    (source, target)
}

#[test]
fn what_was_delivered_before_makes_the_sums_uncertain_and_nothing_else_does() {
    let (source, target) = roots();
    let pass = pass(source.path(), target.path());
    let uncertain = |redelivered| done(&pass, &batch(&["both"], 0), redelivered).0.evidence.unwrap().uncertain;
    assert!(uncertain(true));
    assert!(!uncertain(false));
}

#[test]
fn what_is_gone_when_its_turn_comes_is_vanished_or_missing_by_side() {
    let (source, target) = roots();
    let pass = pass(source.path(), target.path());
    let (report, _) = done(&pass, &batch(&["both", "source", "target", "neither"], 0), false);
    let t = report.totals;
    assert_eq!((t.same, t.different, t.vanished, t.failed), (1, 1, 2, 0));
    assert_eq!((&report.findings[0].path[..], &report.findings[0].what[..]), (&b"source"[..], "missing"));
}

#[test]
fn what_may_be_extra_is_looked_up_in_the_source_and_counted_only_if_it_is() {
    let (source, target) = roots();
    let pass = pass(source.path(), target.path());
    let (report, _) = done(&pass, &batch(&["both", "target"], tag::EXTRA | tag::UNSURE), false);
    let t = report.totals;
    assert_eq!((t.found, t.same, t.different, t.extra), (1, 0, 1, 1));
}

#[test]
fn what_became_a_directory_is_walked_as_one_and_told_if_it_is_one_on_one_side_only() {
    let (source, target) = roots();
    for (root, name) in [(&source, "dirs"), (&target, "dirs"), (&source, "mixed")] {
        std::fs::create_dir(root.path().join(name)).unwrap();
    }
    std::fs::write(target.path().join("mixed"), "x").unwrap();
    let pass = pass(source.path(), target.path());
    let (report, posted) = done(&pass, &batch(&["dirs"], 0), false);
    assert_eq!((report.totals.done(), posted), (0, vec![list_one(&RelPath::root(), b"dirs", Scope::BOTH)]));
    let (report, posted) = done(&pass, &batch(&["mixed"], 0), false);
    assert_eq!((report.totals.different, &report.findings[0].what[..]), (1, "kind"));
    let counted = posted.iter().map(|task| done(&pass, task, false).0);
    let again: Vec<Report> = counted.collect();
    assert!(again.iter().all(|r| r.totals.done() == 0 && r.findings.is_empty()), "{again:?}");
    assert_eq!(again.len(), 2, "each side goes its way, for its fingerprint");
}
