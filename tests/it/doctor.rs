//! `treehaul doctor`: what a target keeps is found out on real filesystems, and nothing of it stays.

use crate::support::*;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A filesystem of its own, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, options: &str) -> Self {
        fs::create_dir(at).unwrap();
        sh(&format!("mount -t tmpfs -o {options} tmpfs {}", q(at)));
        Mounted(at.to_owned())
    }

    /// A directory seen through a filesystem that leaves things out.
    fn bindfs(options: &str, from: &Path, at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        sh(&format!("bindfs {options} {} {}", q(from), q(at)));
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn doctor(args: &[&str], source: &Path, target: &Path) -> Ran {
    let mut c = treehaul();
    c.env_remove("TREEHAUL_MEMCACHED").args(["doctor", "--json"]).args(args).args([source, target]);
    run(&mut c)
}

/// Verdict and what was found.
fn row(ran: &Ran, topic: &str) -> (String, String) {
    let all = ran.json();
    let rows = all["rows"].as_array().expect("rows");
    let row = rows.iter().rev().find(|r| r["topic"] == topic).unwrap_or_else(|| panic!("no {topic}: {}", ran.stdout));
    let text = |key: &str| row[key].as_str().expect("text").to_owned();
    (text("verdict"), text("found"))
}

fn verdict(ran: &Ran, topic: &str) -> String {
    row(ran, topic).0
}

fn pair(s: &Scratch) -> (PathBuf, PathBuf) {
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(source.join("f"), vec![1; 3 << 20]).unwrap();
    (source, target)
}

/// With access times, which listing may change.
fn times(path: &Path) -> String {
    sh(&format!("stat -c '%x %y' {}", q(path)))
}

#[test]
fn a_target_that_keeps_everything_is_healthy_and_left_as_it_was() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = pair(&s);
    fs::write(target.join("old"), "x").unwrap();
    let look = || (snapshot(&source), snapshot(&target.join("old")));
    let seen = look();
    let before = (times(&target), times(&source));
    let ran = doctor(&[], &source, &target);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    for topic in ["hard links", "owners", "modes", "capabilities", "POSIX ACLs", "holes", "user.* attributes", "times"]
    {
        assert_eq!(verdict(&ran, topic), "ok", "{topic}");
    }
    let told = |what: &str| ran.json()["rows"].as_array().is_some_and(|rows| rows.iter().any(|r| r["topic"] == what));
    assert!(told("user.* attributes") && !told("MDTs") && !told("mount: flock") && !told("HSM"), "{}", ran.stdout);
    assert_eq!((times(&target), times(&source)), before);
    assert!(look() == seen, "something was touched");
    assert_no_leftovers(&target);
}

#[test]
fn a_target_that_is_still_to_be_made_is_judged_by_its_parent() {
    assert_root();
    let s = Scratch::new();
    let (source, _) = pair(&s);
    let before = times(s.path());
    let ran = doctor(&[], &source, &s.join("new"));
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    assert!(!s.join("new").exists());
    assert_eq!(times(s.path()), before);
    assert_no_leftovers(s.path());
    let ran = doctor(&[], &source, &s.join("no/such/place"));
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("parent"), "{}", ran.stderr);
}

#[test]
fn what_a_target_does_not_keep_is_named_and_said_once_by_copy() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = pair(&s);
    fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let poor = Mounted::bindfs("--chown-ignore --chmod-ignore --xattr-none", &target, &s.join("poor"));
    let ran = doctor(&[], &source, &poor.0);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    for topic in ["owners", "modes", "user.* attributes", "trusted.* attributes", "capabilities", "POSIX ACLs"] {
        assert_eq!(verdict(&ran, topic), "lost", "{topic}: {}", ran.stdout);
    }
    for topic in ["writing", "symlinks", "fifos", "upper and lower case"] {
        assert_eq!(verdict(&ran, topic), "ok", "{topic}: {}", ran.stdout);
    }
    assert_no_leftovers(&target);
    let shown = run(treehaul().arg("doctor").args([&source, &poor.0]));
    assert!(shown.stdout.contains("  lost   owners"), "{}", shown.stdout);
    assert!(shown.stdout.trim_end().ends_with("something would be lost"), "{}", shown.stdout);
    assert!(shown.stdout.lines().all(|l| l.chars().count() <= 80), "{}", shown.stdout);
    assert!(!shown.stdout.contains('\x1b'), "no colours where there is no terminal");
    let copied = copy([&source, &poor.0]);
    assert_eq!(copied.stderr.matches("keeps no user.* extended attributes").count(), 1, "{}", copied.stderr);
    let quiet = run(treehaul().args(["copy", "-q"]).args([&source, &poor.0]));
    assert!(!quiet.stderr.contains("keeps no"), "{}", quiet.stderr);
}

#[test]
fn a_read_only_target_fails() {
    assert_root();
    let s = Scratch::new();
    let (source, _) = pair(&s);
    let mounted = Mounted::tmpfs(&s.join("ro"), "size=8m");
    sh(&format!("mount -o remount,ro {}", q(&mounted.0)));
    let ran = doctor(&[], &source, &mounted.0);
    assert_eq!((ran.code, verdict(&ran, "writing").as_str()), (3, "fails"), "{}", ran.stdout);
    assert!(ran.stdout.contains("remount,rw"), "{}", ran.stdout);
}

#[test]
fn a_target_that_is_too_small_fails() {
    assert_root();
    let s = Scratch::new();
    let (source, _) = pair(&s);
    let whole = Mounted::tmpfs(&s.join("whole"), "size=16m");
    fs::write(whole.0.join("f"), vec![1; 4 << 20]).unwrap();
    let small = Mounted::tmpfs(&s.join("small"), "size=1m");
    let ran = doctor(&[], &whole.0, &small.0);
    assert_eq!((ran.code, verdict(&ran, "space").as_str()), (3, "fails"), "{}", ran.stdout);
    // A part of a filesystem is judged only when it is counted.
    let ran = doctor(&[], &source, &small.0);
    assert_eq!((ran.code, verdict(&ran, "space").as_str()), (0, "note"), "{}", ran.stdout);
    let ran = doctor(&["--size-check"], &source, &small.0);
    assert_eq!((ran.code, verdict(&ran, "space").as_str()), (3, "fails"), "{}", ran.stdout);
    fs::write(source.join("f"), "small").unwrap();
    let ran = doctor(&["--size-check"], &source, &small.0);
    assert_eq!((ran.code, verdict(&ran, "space").as_str()), (0, "ok"), "{}", ran.stdout);
    let noted = run(treehaul().arg("copy").args([&whole.0, &small.0.join("d")]));
    assert!(noted.stderr.contains("and the source takes 4.0 MiB"), "{}", noted.stderr);
}

#[test]
fn too_few_inodes_fail() {
    assert_root();
    let s = Scratch::new();
    let (source, _) = pair(&s);
    (0..200).for_each(|i| fs::write(source.join(format!("x{i}")), "").unwrap());
    let few = Mounted::tmpfs(&s.join("few"), "size=100m,nr_inodes=150");
    let ran = doctor(&["--size-check"], &source, &few.0);
    assert_eq!((ran.code, verdict(&ran, "inodes").as_str()), (3, "fails"), "{}", ran.stdout);
}

#[test]
fn a_normal_user_is_told_what_takes_root() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = pair(&s);
    sh(&format!("chmod 755 {} && chown -R 1000 {}", q(s.path()), q(&target)));
    let mut c = treehaul();
    c.args(["doctor", "--json"]).args([&source, &target]).uid(1000).gid(1000);
    let ran = run(&mut c);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(row(&ran, "user"), ("lost".to_owned(), "uid 1000".to_owned()));
    assert_eq!(verdict(&ran, "owners"), "lost");
    assert_eq!(verdict(&ran, "trusted.* attributes"), "unknown");
    sh(&format!("chown root {} && chmod 755 {}", q(&target), q(&target)));
    let ran = run(&mut c);
    assert_eq!((ran.code, verdict(&ran, "writing").as_str()), (3, "fails"), "{}", ran.stdout);
}

#[test]
fn what_a_killed_trial_left_is_removed_and_other_work_stays() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = pair(&s);
    let dead = target.join(".treehaul/doctor-0000000000000/deep/er");
    fs::create_dir_all(&dead).unwrap();
    fs::write(dead.join("f"), "x").unwrap();
    assert_eq!(doctor(&[], &source, &target).code, 0);
    assert_no_leftovers(&target);
    let job = target.join(".treehaul/0123456789abc");
    fs::create_dir_all(&job).unwrap();
    assert_eq!(doctor(&[], &source, &target).code, 0);
    assert!(job.exists(), "somebody else's folder");
    fs::remove_dir(&job).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let ran = doctor(&[], &source, &target);
                assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
            });
        }
    });
    sh(&format!("find {} -name '.treehaul*' -prune -exec rmdir {{}} + ", q(&target)));
}

#[test]
fn roots_that_a_job_would_refuse_are_refused() {
    let s = Scratch::new();
    let (source, _) = pair(&s);
    fs::create_dir(source.join("inside")).unwrap();
    for (source, target, word) in [
        (source.clone(), source.clone(), "the same"),
        (source.clone(), source.join("inside"), "inside the source"),
        (s.join("nothing"), s.join("dst"), "no such file"),
        (PathBuf::from("gopher://x"), s.join("dst"), "unknown scheme"),
    ] {
        let ran = doctor(&[], &source, &target);
        assert_eq!(ran.code, 2, "{word}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
    assert_no_leftovers(s.path());
}

#[test]
fn services_that_are_down_fail_and_those_that_are_up_do_not() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (source, target) = (Path::new("synth://?entries=10"), Path::new("null://"));
    let down =
        doctor(&["--broker", &format!("amqp://{nobody}/%2f"), "--memcached", &nobody.to_string()], source, target);
    assert_eq!(down.code, 3, "{}", down.stdout);
    assert_eq!((verdict(&down, "broker").as_str(), verdict(&down, "memcached").as_str()), ("fails", "fails"));
    let memcached = std::env::var("TREEHAUL_TEST_MEMCACHED").expect("run `make test`, it starts memcached");
    let up = doctor(&["--broker", &amqp_url(), "--memcached", &memcached], source, target);
    assert_eq!((verdict(&up, "broker").as_str(), verdict(&up, "memcached").as_str()), ("ok", "ok"), "{}", up.stdout);
    assert!(!up.stdout.contains("guest:guest"), "no password is shown");
    let swapped = amqp_url().rsplit_once('@').expect("a host").1.split('/').next().expect("host and port").to_owned();
    let wrong = doctor(&["--memcached", &swapped], source, target);
    assert_eq!(verdict(&wrong, "memcached"), "fails", "a broker is no memcached: {}", wrong.stdout);
}
