//! Quota projects, on real filesystems that keep them; and `--fsync`.

use crate::support::{Ran, Scratch, assert_identical, assert_root, copy, copy_ok, q, run, sh, snapshot, treehaul};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A filesystem of its own, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    /// One that keeps projects. Not every kernel counts by them, so only a root of a project says that they are in use.
    fn xfs(scratch: &Scratch) -> Self {
        let image = scratch.join("image");
        sh(&format!("truncate -s 320M {0}; mkfs.xfs -q {0}", q(&image)));
        Self::mount(scratch.join("xfs"), &format!("-o loop {}", q(&image)))
    }

    /// One that does not.
    fn tmpfs(scratch: &Scratch) -> Self {
        Self::mount(scratch.join("memory"), "-t tmpfs none")
    }

    fn mount(at: PathBuf, what: &str) -> Self {
        assert_root();
        sh(&format!("mkdir {0}; mount {what} {0}", q(&at)));
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Project and inherit flag of everything that can be opened, by path: read without a line of treehaul.
fn projects(root: &Path) -> Vec<(String, u32, bool)> {
    let script = r#"
import fcntl, os, stat, struct, sys
root = sys.argv[1]
for d, ds, fs in os.walk(root):
    for p in [d] + [os.path.join(d, f) for f in fs]:
        if not stat.S_ISREG(os.lstat(p).st_mode) and not stat.S_ISDIR(os.lstat(p).st_mode): continue
        fd = os.open(p, os.O_RDONLY | os.O_NOFOLLOW)
        flags, _, _, project, _ = struct.unpack('IIIII8x', fcntl.ioctl(fd, 0x801c581f, bytes(28)))
        os.close(fd)
        print(os.path.relpath(p, root), project, int(flags & 0x200 != 0))
"#;
    let ran = run(Command::new("python3").args(["-c", script]).arg(root));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let mut all: Vec<_> = ran
        .stdout
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut next = || words.next().unwrap();
            (next().to_owned(), next().parse().unwrap(), next() == "1")
        })
        .collect();
    all.sort();
    all
}

fn verify(args: &[&str], source: &Path, target: &Path) -> Ran {
    run(treehaul().args(["verify", "--json"]).args(args).args([source, target]))
}

/// A directory that hands a project down, one that does not, files of others' projects in both, hard links.
fn tree(at: &Path) {
    sh(&format!(
        "cd {}; mkdir -p s/handed/below s/plain s/none
        chattr -p 7 s/handed; chattr +P s/handed; chattr -p 8 s/handed/below; chattr +P s/handed/below
        echo a > s/handed/its; echo b > s/handed/other; chattr -p 9 s/handed/other
        echo n > s/handed/nobodys; chattr -p 0 s/handed/nobodys
        echo c > s/handed/below/deep; echo d > s/plain/one; ln s/plain/one s/plain/two; chattr -p 4000000000 s/plain/one
        head -c 3000000 /dev/urandom > s/handed/large; head -c 3000000 /dev/urandom > s/plain/large; chattr -p 12 s/plain/large
        echo e > s/none/e; chattr -p 2 s; chattr -p 11 s/plain; mkfifo s/handed/fifo; ln -s x s/handed/link; touch -d 2001-02-03 s/*/*",
        q(at)
    ));
}

#[test]
fn projects_and_their_inheritance_are_copied_compared_and_mended() {
    let scratch = Scratch::new();
    let fs = Mounted::xfs(&scratch);
    tree(&fs.0);
    let (source, target) = (fs.0.join("s"), fs.0.join("t"));
    let chunked = ["--chunk-from", "1M", "--chunk-size", "1M"].map(Into::into);
    let ran = copy(chunked.into_iter().chain([source.clone().into_os_string(), target.clone().into_os_string()]));
    assert_eq!((ran.code, ran.total("lost_projects"), ran.total("lost_hard_links")), (0, 0, 0), "{}", ran.stdout);
    assert_identical(&source, &target);
    let wanted = projects(&source);
    assert!(
        wanted.contains(&("plain/two".into(), 4_000_000_000, false)) && wanted.contains(&("handed".into(), 7, true))
    );
    assert_eq!(projects(&target), wanted);
    assert_eq!(verify(&[], &source, &target).code, 0);

    // Nothing to do: nothing is touched.
    let before = snapshot(&target);
    copy_ok(&source, &target);
    assert_eq!(snapshot(&target)[1..], before[1..], "the root held the names of hard links meanwhile");

    // Each kind of difference is found, said and mended.
    sh(&format!("cd {}; chattr -p 1 handed/its; chattr -P handed/below; chattr -p 3 plain", q(&target)));
    let ran = verify(&[], &source, &target);
    assert_eq!((ran.code, ran.json()["differences"]["project"].as_u64()), (1, Some(3)), "{}", ran.stdout);
    assert_eq!(ran.json()["fingerprint"]["source"], ran.json()["fingerprint"]["target"], "it is not in it");
    assert_eq!(verify(&["--no-projects"], &source, &target).code, 0);
    let kept = copy([&"--no-projects".into(), &source, &target] as [&PathBuf; 3]);
    assert_eq!((kept.code, kept.total("updated")), (0, 0), "{}", kept.stdout);
    let dry = copy([&"--dry-run".into(), &source, &target] as [&PathBuf; 3]);
    assert_eq!((dry.code, dry.total("lost_projects")), (0, 0), "{}", dry.stdout);
    assert_ne!(projects(&target), wanted);
    let mended = copy_ok(&source, &target);
    assert_eq!((mended.total("updated"), mended.total("copied")), (3, 0), "{}", mended.stdout);
    assert_eq!(projects(&target), wanted);
}

#[test]
fn what_is_new_where_another_project_is_handed_down_gets_its_own_all_the_same() {
    let scratch = Scratch::new();
    let fs = Mounted::xfs(&scratch);
    tree(&fs.0);
    let (source, target) = (fs.0.join("s"), fs.0.join("t"));
    copy_ok(&source, &target);
    // No name in such a directory goes to what belongs to another project: neither by rename nor by link.
    sh(&format!("cd {}; rm handed/other handed/nobodys handed/its; chattr -p 5 .; chattr +P .", q(&target)));
    sh(&format!("cd {}; echo f > handed/more; chattr -p 20 handed/more; ln plain/one plain/three", q(&source)));
    let ran = copy_ok(&source, &target);
    assert_eq!((ran.total("lost_projects"), ran.total("lost_hard_links")), (0, 0), "{}", ran.stdout);
    let mut expected = projects(&source);
    expected.iter_mut().filter(|(path, ..)| path == "handed/nobodys").for_each(|nobodys| nobodys.1 = 7);
    assert_eq!(projects(&target), expected);
    assert_identical(&source, &target);
}

#[test]
fn what_is_of_no_project_gets_what_the_target_hands_down() {
    let scratch = Scratch::new();
    let fs = Mounted::xfs(&scratch);
    let (source, target) = (fs.0.join("s"), fs.0.join("t"));
    sh(&format!(
        "mkdir -p {0}/d {1}/d; echo a > {0}/d/f; head -c 3000000 /dev/urandom > {0}/d/large; echo b > {0}/d/its
        chattr -p 7 {0}/d/its; chattr -p 2 {0}; chattr -p 42 {1}/d; chattr +P {1}/d",
        q(&source),
        q(&target)
    ));
    let chunked = ["--chunk-from", "1M", "--chunk-size", "1M"].map(Into::into);
    let ran = copy(chunked.into_iter().chain([source.clone().into_os_string(), target.clone().into_os_string()]));
    assert_eq!((ran.code, ran.total("lost_projects")), (0, 0), "{}", ran.stdout);
    let expected = [(".", 2, false), ("d", 42, true), ("d/f", 42, false), ("d/its", 7, false), ("d/large", 42, false)];
    let expected = expected.map(|(path, id, inherit)| (path.to_owned(), id, inherit));
    assert_eq!(projects(&target), expected);
    assert_identical(&source, &target);
    assert_eq!(verify(&[], &source, &target).code, 0);
    assert_eq!(copy_ok(&source, &target).total("updated"), 0);
    assert_eq!(projects(&target), expected);
}

#[test]
fn a_target_that_was_given_a_project_keeps_it_if_the_source_has_none() {
    let scratch = Scratch::new();
    let fs = Mounted::xfs(&scratch);
    let (source, target) = (fs.0.join("s"), fs.0.join("t"));
    sh(&format!("mkdir -p {0}/d {1}; echo a > {0}/d/f; chattr -p 42 {1}; chattr +P {1}", q(&source), q(&target)));
    copy_ok(&source, &target);
    let expected = [(".", 42, true), ("d", 42, true), ("d/f", 42, false)];
    assert_eq!(projects(&target), expected.map(|(path, id, inherit)| (path.to_owned(), id, inherit)));
    assert_identical(&source, &target);
    assert_eq!(verify(&[], &source, &target).code, 0);
}

#[test]
fn a_side_without_projects_costs_nothing_and_is_no_difference() {
    let scratch = Scratch::new();
    let keeps = Mounted::xfs(&scratch);
    let lacks = Mounted::tmpfs(&scratch);
    tree(&keeps.0);
    let (source, target) = (keeps.0.join("s"), lacks.0.join("t"));
    let ran = copy_ok(&source, &target);
    assert_eq!(ran.total("lost_projects"), 0, "{}", ran.stdout);
    assert_identical(&source, &target);
    assert_eq!(copy_ok(&source, &target).total("updated"), 0);
    assert!(ran.stdout.contains("the target keeps no quota projects: they are lost"), "{}", ran.stdout);
    assert_eq!(verify(&[], &source, &target).code, 0);
}

#[test]
fn with_fsync_the_tree_is_the_same() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.join("s"), scratch.join("t"));
    crate::support::exotic_tree(&source, 5, 300);
    let options = ["--fsync", "files", "--chunk-from", "1M", "--chunk-size", "1M"].map(Into::into);
    let ran = copy(options.into_iter().chain([source.clone().into_os_string(), target.clone().into_os_string()]));
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
    let wrong = copy(["--fsync", "all", "/no/such", "/no/such"]);
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
}

#[test]
fn filters_by_place_need_a_lustre_source_and_nothing_is_made_without_one() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.join("s"), scratch.join("t"));
    sh(&format!("mkdir {0}; echo a > {0}/f", q(&source)));
    for option in [["--on-ost", "1"], ["--on-mdt", "0"], ["--pool", "flash"]] {
        for pass in ["copy", "sync", "verify", "delete"] {
            if matches!(pass, "verify" | "delete") {
                sh(&format!("mkdir -p {}", q(&target)));
            }
            let ran = run(treehaul().arg(pass).args(option).args([&source, &target]));
            let said = format!("{} needs a Lustre source; {} is ", option[0], source.display());
            assert!(ran.code == 2 && ran.stderr.contains(&said), "{pass}: {} {}", ran.code, ran.stderr);
            assert!(!target.join("f").exists() && (target.exists() == matches!(pass, "verify" | "delete")), "{pass}");
        }
        sh(&format!("rmdir {}", q(&target)));
        let ran = run(treehaul().arg("copy").args(option).args([source.join("f"), scratch.join("g")]));
        assert!(ran.code == 2 && !scratch.join("g").exists(), "{}", ran.stderr);
    }
}
