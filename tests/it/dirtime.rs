//! `dirtime`: directories get their attributes back, and nothing else is touched.

use crate::hosts::Host;
use crate::support::*;
use std::fs;
use std::path::Path;

fn dirtime(source: &Path, target: &Path) -> Ran {
    run(treehaul().args(["dirtime", "--json"]).args([source, target]))
}

/// Gives every directory of a tree other times, modes, owners and attributes.
fn spoil(target: &Path) {
    sh(&format!(
        "find {0} -type d -exec touch -d 2020-02-02 {{}} + -exec chmod 0711 {{}} + -exec chown 7:8 {{}} + \
         -exec setfattr -n user.spoilt -v x {{}} +",
        q(target)
    ));
}

fn directories(root: &Path) -> u64 {
    sh(&format!("find {} -type d -printf . | wc -c", q(root))).trim().parse().unwrap()
}

#[test]
fn directories_get_their_attributes_back_and_files_are_not_touched() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 61, 900);
    copy_ok(&source, &target);
    let again = dirtime(&source, &target);
    assert_eq!((again.code, again.total("updated")), (0, 0), "{}", again.stdout);
    assert_eq!(again.total("unchanged"), directories(&source));
    let files = |root: &Path| {
        let mut all = snapshot(root);
        all.retain(|(path, ..)| !fs::symlink_metadata(path).unwrap().is_dir());
        all
    };
    let before = files(&target);
    spoil(&target);
    let ran = dirtime(&source, &target);
    assert_eq!((ran.code, ran.total("updated")), (0, directories(&source)), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.total("found"), directories(&source));
    assert_eq!(before, files(&target));
    assert_identical(&source, &target);
}

#[test]
fn what_is_left_out_stays_as_it_is() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir_all(source.join("d")).unwrap();
    copy_ok(&source, &target);
    spoil(&target);
    let ran = run(treehaul().args(["dirtime", "--json", "--no-owner", "--no-xattrs"]).args([&source, &target]));
    assert_eq!((ran.code, ran.total("updated")), (0, 2), "{}", ran.stderr);
    let shown = sh(&format!("cd {}; stat -c '%u %g %a' d; getfattr --only-values -n user.spoilt d", q(&target)));
    assert_eq!(shown, "7 8 755\nx");
    let times = |root: &Path| fs::metadata(root.join("d")).unwrap().modified().unwrap();
    assert_eq!(times(&source), times(&target));
}

#[test]
fn a_missing_directory_is_a_failure_of_its_own_and_the_rest_is_done() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    for dir in ["a/b/c", "d/e", "f/g"] {
        fs::create_dir_all(source.join(dir)).unwrap();
    }
    copy_ok(&source, &target);
    spoil(&target);
    sh(&format!("cd {}; rm -r a/b; rm -r f; echo x > f; ln -s /tmp a/b", q(&target)));
    let elsewhere = fs::metadata("/tmp").unwrap().modified().unwrap();
    let ran = dirtime(&source, &target);
    assert_eq!((ran.code, ran.total("failed")), (3, 4), "{}{}", ran.stdout, ran.stderr);
    let failures = ran.json()["failures"].clone();
    let mut failed: Vec<&str> = failures.as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    failed.sort_unstable();
    assert_eq!(failed, ["a/b", "a/b/c", "f", "f/g"]);
    assert_eq!(ran.total("updated"), 4, "the root, a, d, d/e");
    assert!(!target.join("a/b/c").exists() && target.join("f").is_file());
    assert!(fs::metadata("/tmp").unwrap().modified().unwrap() >= elsewhere);
    for dir in ["", "a", "d", "d/e"] {
        let time = |root: &Path| fs::metadata(root.join(dir)).unwrap().modified().unwrap();
        assert_eq!(time(&source), time(&target), "{dir}");
    }
}

#[test]
fn a_target_that_is_not_there_is_not_made() {
    let s = Scratch::new();
    fs::create_dir(s.join("src")).unwrap();
    let ran = dirtime(&s.join("src"), &s.join("dst"));
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(!s.join("dst").exists());
}

#[test]
fn three_workers_do_the_same() {
    assert_root();
    let host = Host::new("dirtime");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 63, 1500);
    copy_ok(&source, &target);
    spoil(&target);
    let _workers = ["a", "b", "c"].map(|n| host.worker(n));
    let ran = run(&mut host.pass("dirtime", &source, &target));
    assert_eq!((ran.code, ran.total("updated")), (0, directories(&source)), "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
}
