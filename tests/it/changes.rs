//! A copy over an older copy.

use crate::support::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

fn pair() -> (Scratch, std::path::PathBuf, std::path::PathBuf) {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    (s, source, target)
}

#[test]
fn only_what_changed_is_copied() {
    let (_s, source, target) = pair();
    for i in 0..100 {
        fs::write(source.join(format!("f{i}")), vec![1; 3000]).unwrap();
    }
    copy_ok(&source, &target);
    fs::write(source.join("f7"), "new contents").unwrap();
    fs::write(source.join("f100"), "new file").unwrap();
    sh(&format!("chmod 640 {}", q(&source.join("f8"))));
    let inode = fs::metadata(target.join("f8")).unwrap().ino();
    let ran = copy_ok(&source, &target);
    assert_eq!((ran.total("copied"), ran.total("updated")), (2, 2), "{}", ran.stdout); // f8 and the root
    assert_eq!(fs::metadata(target.join("f8")).unwrap().ino(), inode, "attributes alone are set in place");
    assert_identical(&source, &target);
}

#[test]
fn a_changed_type_is_replaced_in_every_direction() {
    assert_root();
    type Make = fn(&Path);
    let kinds: [(&str, Make); 5] = [
        ("file", |p| fs::write(p, "file").unwrap()),
        ("directory", |p| {
            fs::create_dir_all(p.join("a/b/c")).unwrap();
            fs::write(p.join("a/b/f"), "x").unwrap();
        }),
        ("empty", |p| fs::create_dir(p).unwrap()),
        ("symlink", |p| symlink("/nowhere", p).unwrap()),
        ("fifo", |p| drop(sh(&format!("mkfifo {}", q(p))))),
    ];
    let (_s, source, target) = pair();
    fs::create_dir(&target).unwrap();
    for (from, make_old) in kinds {
        for (to, make_new) in kinds {
            let name = format!("{from}-{to}");
            make_old(&target.join(&name));
            make_new(&source.join(&name));
        }
    }
    // A directory that stays one keeps what only the target has: copy never deletes.
    sh(&format!("cd {}; rm -r directory-directory directory-empty", q(&target)));
    let ran = copy_ok(&source, &target);
    assert_eq!(ran.total("failed"), 0, "{}", ran.stderr);
    assert_identical(&source, &target);
    assert_eq!(copy_ok(&source, &target).total("copied"), 0);
}

#[test]
fn what_only_the_target_has_stays() {
    let (_s, source, target) = pair();
    fs::create_dir_all(target.join("extra")).unwrap();
    fs::write(target.join("extra/f"), "mine").unwrap();
    fs::write(source.join("f"), "x").unwrap();
    copy_ok(&source, &target);
    assert_eq!(fs::read_to_string(target.join("extra/f")).unwrap(), "mine");
}

#[test]
fn checksum_finds_what_size_and_time_hide() {
    let (_s, source, target) = pair();
    fs::write(source.join("f"), vec![b'a'; 500_000]).unwrap();
    copy_ok(&source, &target);
    sh(&format!(
        "printf X | dd of={0}/f conv=notrunc bs=1 seek=499999 status=none; touch -r {1}/f {0}/f",
        q(&target),
        q(&source)
    ));
    assert_eq!(copy_ok(&source, &target).total("copied"), 0);
    let ran = copy(["--checksum".as_ref(), source.as_os_str(), target.as_os_str()]);
    assert_eq!((ran.code, ran.total("copied")), (0, 1), "{}", ran.stderr);
    assert_identical(&source, &target);
}

#[test]
fn attributes_that_went_are_taken_away_too() {
    assert_root();
    let (_s, source, target) = pair();
    fs::create_dir(source.join("d")).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    sh(&format!(
        "cd {}; setfattr -n user.a -v b f; setfacl -m u:33:r f; setfacl -d -m u:33:r d; setfattr -n trusted.x -v 1 d",
        q(&source)
    ));
    copy_ok(&source, &target);
    assert_identical(&source, &target);
    sh(&format!(
        "cd {}; setfattr -x user.a f; setfacl -b f; setfacl -k d; setfattr -x trusted.x d; setfattr -n user.c -v d f",
        q(&source)
    ));
    let ran = copy_ok(&source, &target);
    assert_eq!(ran.total("copied"), 0, "{}", ran.stdout);
    assert_identical(&source, &target);
}

#[test]
fn hard_links_are_kept_through_growing_splitting_and_replacing() {
    let (_s, source, target) = pair();
    for dir in ["a", "b"] {
        fs::create_dir(source.join(dir)).unwrap();
    }
    let link = |from: &str, to: &str| fs::hard_link(source.join(from), source.join(to)).unwrap();
    fs::write(source.join("a/1"), "one").unwrap();
    link("a/1", "b/2");
    link("a/1", "3");
    symlink("elsewhere", source.join("s")).unwrap();
    link("s", "b/s2");
    let ran = copy_ok(&source, &target);
    assert_eq!(ran.total("hard_links"), 3, "{}", ran.stdout);
    assert_identical(&source, &target);

    link("a/1", "b/grown");
    // Which name comes first is chance; the group is whole in any case.
    assert!((1..=3).contains(&copy_ok(&source, &target).total("hard_links")));
    assert_identical(&source, &target);

    // One name becomes a file of its own, with the same size and time.
    sh(&format!("cd {}; cp -p 3 tmp; mv tmp 3", q(&source)));
    copy_ok(&source, &target);
    assert_identical(&source, &target);

    // The whole group gets new contents.
    fs::write(source.join("a/1"), "new contents").unwrap();
    copy_ok(&source, &target);
    assert_identical(&source, &target);

    // The target's names were torn apart by somebody.
    sh(&format!("cd {}; cp -p b/2 tmp; mv tmp b/2", q(&target)));
    copy_ok(&source, &target);
    assert_identical(&source, &target);
    assert_eq!(copy_ok(&source, &target).total("copied"), 0);
}

#[test]
fn a_source_that_was_a_target_once_does_not_hand_on_working_files() {
    let (_s, source, target) = pair();
    fs::create_dir(source.join(".treehaul")).unwrap();
    fs::write(source.join(".treehaul-0123456789abc-0123456789abc-1f"), "left by a killed run").unwrap();
    fs::write(source.join(".treehaul-notes"), "a user's own").unwrap();
    let ran = copy_ok(&source, &target);
    assert_eq!(ran.total("filtered"), 2);
    assert!(target.join(".treehaul-notes").exists());
    assert!(!target.join(".treehaul").exists());
}

#[test]
fn leftovers_of_a_dead_run_are_removed_and_those_of_a_living_one_are_not() {
    let (_s, source, target) = pair();
    fs::create_dir(source.join("d")).unwrap();
    fs::write(source.join("d/f"), "x").unwrap();
    copy_ok(&source, &target);
    let (dead, alive) = ("0123456789abc", "0123456789abd");
    let left = |job: &str| target.join(format!("d/.treehaul-{job}-0123456789abc-1f"));
    fs::write(left(dead), "half a file").unwrap();
    fs::write(left(alive), "half a file").unwrap();
    fs::create_dir_all(target.join(format!(".treehaul/{dead}"))).unwrap();
    fs::create_dir_all(target.join(format!(".treehaul/{alive}"))).unwrap();
    let lock = fs::File::open(target.join(format!(".treehaul/{alive}"))).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).unwrap();
    let ran = copy_ok(&source, &target);
    assert_eq!(ran.total("leftovers_removed"), 1);
    assert!(!left(dead).exists() && left(alive).exists());
    assert!(target.join(format!(".treehaul/{alive}")).exists());
    drop(lock);
    copy_ok(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn a_hidden_directory_that_somebody_else_prepared_is_not_trusted() {
    assert_root();
    let (_s, source, target) = pair();
    fs::write(source.join("a"), "x").unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    sh(&format!("mkdir -p {0}/.treehaul; chown 1000:1000 {0}/.treehaul; chmod 777 {0}/.treehaul", q(&target)));
    let ran = copy_ok(&source, &target);
    assert_eq!((ran.total("copied"), ran.total("lost_hard_links")), (2, 2), "{}", ran.stdout);
    assert_eq!(fs::read_to_string(target.join("b")).unwrap(), "x");
    assert!(ran.stderr.contains("hard links"), "the loss is said: {}", ran.stderr);
}

#[test]
fn a_source_that_is_taken_away_is_no_success() {
    let (_s, source, target) = pair();
    for d in 0..40 {
        let dir = source.join(format!("d{d}"));
        fs::create_dir(&dir).unwrap();
        (0..20).for_each(|i| fs::write(dir.join(format!("f{i}")), "x").unwrap());
    }
    let mut c = treehaul();
    c.args(["copy", "--json", "--ops-limit", "400"]).args([&source, &target]);
    let mut job = c.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while job.try_wait().unwrap().is_none() && !target.join("d1").exists() {
        std::thread::yield_now();
    }
    fs::remove_dir_all(&source).unwrap();
    let ran = Ran::of(job.wait_with_output().unwrap());
    assert_eq!(ran.code, 4, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("is not what it was"), "{}", ran.stderr);
}
