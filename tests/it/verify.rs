//! `verify` and its certificates: what is the same is said to be, what differs is found and named, nothing is written.

use crate::hosts::{Host, Worker};
use crate::support::*;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `treehaul verify --json ARGS`.
fn verify<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    run(treehaul().args(["verify", "--json"]).args(args))
}

fn check(certificate: &Path, tree: &Path) -> Ran {
    run(treehaul().args(["certificate", "check"]).args([certificate, tree]))
}

/// Both fingerprints.
fn fingerprints(ran: &Ran) -> [String; 2] {
    ["source", "target"].map(|side| ran.json()["fingerprint"][side].as_str().expect("a fingerprint").to_owned())
}

/// Every entry is accounted for.
fn assert_adds_up(ran: &Ran) {
    let sum: u64 = ["same", "different", "failed", "vanished", "filtered"].map(|n| ran.total(n)).iter().sum();
    assert_eq!(ran.total("found"), sum, "{}", ran.stdout);
}

fn assert_same(ran: &Ran) {
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    let [source, target] = fingerprints(ran);
    assert_eq!((source, ran.total("same")), (target, ran.total("found")), "{}", ran.stdout);
}

#[test]
fn a_fresh_copy_is_the_same_is_certified_and_nothing_is_touched() {
    assert_root();
    let s = Scratch::new();
    let (source, target, second, certificate) = (s.join("src"), s.join("dst"), s.join("copy"), s.join("cert.json"));
    exotic_tree(&source, 51, 2500);
    copy_ok(&source, &target);
    let before = (snapshot(&source), snapshot(&target));
    let ran = verify([&source, &target, Path::new("--content"), Path::new("--certificate"), &certificate]);
    assert_same(&ran);
    assert!(ran.total("bytes_read") > 10 << 20, "contents were read: {}", ran.stdout);
    assert_eq!(ran.json()["certificate"], true);
    assert_eq!(fs::metadata(&certificate).unwrap().permissions().mode() & 0o7777, 0o644);
    assert_same(&verify([&source, &target]));
    assert_eq!(check(&certificate, &target).code, 0);
    assert_eq!(check(&certificate, &source).code, 0);
    assert!(before == (snapshot(&source), snapshot(&target)), "something was touched");
    assert_no_leftovers(s.path());

    copy_ok(&target, &second);
    let ran = check(&certificate, &second);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("is the certified tree"), "{}", ran.stdout);
    sh(&format!("setfattr -n user.extra -v 1 {}", q(&second)));
    assert_eq!(check(&certificate, &second).code, 1, "a root's attribute counts");
    fs::remove_file(second.join("middle")).unwrap();
    let ran = check(&certificate, &second);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(ran.stdout.contains("is not the certified tree") && ran.stdout.contains("  files: "), "{}", ran.stdout);
}

/// A small tree with one of everything, and its copy.
fn pair(s: &Scratch) -> (PathBuf, PathBuf) {
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    sh(&format!(
        "cd {}; mkdir d empty; echo contents > file; echo below > d/below; ln -s there link; mkfifo fifo
         mknod dev c 1 3; echo linked > one; ln one two; echo a > alone; cp alone alike; setfattr -n user.note -v hi file
         setfacl -m u:1000:r file; setfacl -d -m u:1000:rx d; truncate -s 10M sparse; chmod 640 alone",
        q(&source)
    ));
    copy_ok(&source, &target);
    (source, target)
}

#[test]
fn every_kind_of_difference_is_found_named_and_counted_once() {
    assert_root();
    // What is done to the target, in its directory; which entry differs, and in what.
    let cases = [
        ("chmod 600 alone", "alone", "mode"),
        (
            "chown 7 file; setfattr -x system.posix_acl_access file; setfacl --set u::rw,u:1000:r,g::r,o::r,m::r file; touch -r $SRC/file file",
            "file",
            "owner",
        ),
        ("chgrp -h 7 link", "link", "group"),
        ("touch -d \"$(stat -c %y file) + 0.000000001 sec\" file", "file", "mtime"),
        ("touch -h -d 2001-01-01 link", "link", "mtime"),
        ("touch -d 2001-01-01 d", "d", "mtime"),
        ("touch -d 2001-01-01 .", "", "mtime"),
        ("echo longer >> file; touch -r $SRC/file file", "file", "size"),
        ("printf X | dd of=file bs=1 seek=3 conv=notrunc status=none; touch -r $SRC/file file", "file", "contents"),
        ("ln -sfn here link; touch -h -r $SRC/link link; touch -r $SRC .", "link", "target"),
        ("rm dev; mknod dev c 1 5; touch -r $SRC/dev dev; touch -r $SRC .", "dev", "device"),
        ("setfattr -n user.note -v ho file", "file", "xattr user.note"),
        ("setfattr -x user.note file", "file", "xattr user.note"),
        ("setfattr -n trusted.more -v x fifo", "fifo", "xattr trusted.more"),
        ("setfacl -m u:1000:r,u:1001:r file", "file", "access ACL"),
        ("setfacl -d -m u:1001:rx d", "d", "default ACL"),
        ("rm d/below; touch -r $SRC/d d", "d/below", "missing"),
        ("rmdir empty; touch -r $SRC .", "empty", "missing"),
        ("touch d/new; touch -r $SRC/d d", "d/new", "extra"),
        ("rm fifo; mkdir fifo; touch -r $SRC .", "fifo", "kind"),
        ("rm -r empty; touch empty; touch -r $SRC .", "empty", "kind"),
        ("rm fifo; touch fifo; touch -r $SRC .", "fifo", "kind"),
        (
            "printf x | dd of=sparse bs=1 seek=7777777 conv=notrunc status=none; touch -r $SRC/sparse sparse",
            "sparse",
            "contents",
        ),
    ];
    for (change, path, what) in cases {
        let s = Scratch::new();
        let (source, target) = pair(&s);
        assert_same(&verify([&source, &target]));
        sh(&format!("cd {}; SRC={}; {change}", q(&target), q(&source)));
        let report = s.join("report");
        let before = (snapshot(&source), snapshot(&target));
        let ran = verify([&source, &target, Path::new("--content"), Path::new("--report"), &report]);
        assert_eq!((ran.code, ran.total("different")), (1, 1), "{change}: {}\n{}", ran.stdout, ran.stderr);
        assert_adds_up(&ran);
        let [one, other] = fingerprints(&ran);
        assert_ne!(one, other, "{change}");
        let lines = fs::read_to_string(&report).unwrap();
        assert_eq!(lines.lines().count(), 1, "{change}: {lines}");
        let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!((line["path"].as_str(), line["what"].as_str()), (Some(path), Some(what)), "{change}");
        assert_ne!(line["expected"], line["found"], "{change}");
        assert_eq!(verify([&source, &target]).code, i32::from(what != "contents"), "{change}: without contents");
        assert!(before == (snapshot(&source), snapshot(&target)), "{change}: something was touched");
    }
}

#[test]
fn split_and_merged_hard_links_are_found_unless_they_are_not_asked_for() {
    assert_root();
    for (change, paths) in [
        ("cp -p two three; mv three two; touch -r $SRC .", ["one", "two"]),
        ("touch -r alone alike; ln -f alone alike; touch -r $SRC/alone alone; touch -r $SRC .", ["alike", "alone"]),
    ] {
        let s = Scratch::new();
        let (source, target) = pair(&s);
        // Two files of their own that differ in nothing but their inode.
        sh(&format!("cd {}; chmod 640 alike; touch -r alone alike", q(&source)));
        sh(&format!("cd {}; chmod 640 alike; touch -r alone alike; SRC={}; {change}", q(&target), q(&source)));
        let ran = verify([&source, &target]);
        assert_eq!((ran.code, ran.total("different")), (1, 2), "{change}: {}", ran.stdout);
        assert_adds_up(&ran);
        let mut found: Vec<(String, String)> = ran.json()["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| (f["path"].as_str().unwrap().to_owned(), f["what"].as_str().unwrap().to_owned()))
            .collect();
        found.sort();
        assert_eq!(found, paths.map(|p| (p.to_owned(), "hard links".to_owned())), "{change}");
        let [one, other] = fingerprints(&ran);
        assert_ne!(one, other, "{change}");
        let ran = verify([source.as_os_str(), target.as_os_str(), "--no-hard-links".as_ref()]);
        assert_same(&ran);
    }
}

#[test]
fn holes_and_zeros_are_the_same_and_a_terabyte_of_hole_takes_no_time() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    sh(&format!("cd {}; truncate -s 3M f; printf x | dd of=f bs=1 seek=1500000 conv=notrunc status=none", q(&source)));
    fs::File::create(source.join("vast")).unwrap().set_len(1 << 40).unwrap();
    sh(&format!(
        "cp -a {} {2}; cd {2}; cp --sparse=never {1}/f f; touch -r {1}/f f",
        q(&source),
        q(&source),
        q(&target)
    ));
    let ran = verify([source.as_os_str(), target.as_os_str(), "--content".as_ref()]);
    assert_same(&ran);
    assert!(ran.total("bytes_read") < 16 << 20, "{}", ran.stdout);
    assert!(ran.json()["elapsed_seconds"].as_f64().unwrap() < 5.0, "{}", ran.stdout);
}

#[test]
fn a_large_file_is_compared_in_pieces_and_counts_once() {
    assert_root();
    let s = Scratch::new();
    let (source, target, certificate) = (s.join("src"), s.join("dst"), s.join("c"));
    fs::create_dir(&source).unwrap();
    let file = fs::File::create(source.join("large")).unwrap();
    file.set_len(2 << 30).unwrap();
    // 256 MiB a piece.
    let places = [5, (256 << 20) + 1, (1 << 30) - 1, 1 << 30, (2 << 30) - 1];
    places.iter().for_each(|at| file.write_all_at(b"x", *at).unwrap());
    fs::hard_link(source.join("large"), source.join("name")).unwrap();
    copy_ok(&source, &target);
    let ran = verify([&source, &target, Path::new("--content"), Path::new("--certificate"), &certificate]);
    assert_same(&ran);
    assert_eq!(check(&certificate, &target).code, 0);
    for at in places {
        let change = |byte: &[u8]| {
            let file = fs::File::options().write(true).open(target.join("large")).unwrap();
            file.write_all_at(byte, at).unwrap();
            sh(&format!("touch -r {} {}", q(&source.join("large")), q(&target.join("large"))));
        };
        change(b"y");
        let ran = verify([source.as_os_str(), target.as_os_str(), "--content".as_ref()]);
        assert_eq!((ran.code, ran.total("different")), (1, 2), "both names, each once: {}", ran.stdout);
        assert_adds_up(&ran);
        assert!(ran.stdout.contains(&format!("others from byte {at} on")), "{}", ran.stdout);
        assert_eq!(check(&certificate, &target).code, 1);
        change(b"x");
    }
    assert_eq!(check(&certificate, &target).code, 0);
}

#[test]
fn a_sample_is_read_and_the_same_one_by_a_later_check() {
    let s = Scratch::new();
    let (source, target, certificate) = (s.join("src"), s.join("dst"), s.join("c"));
    fs::create_dir(&source).unwrap();
    (0..2000).for_each(|i| fs::write(source.join(format!("f{i}")), "abcd").unwrap());
    copy_ok(&source, &target);
    let ran = run(treehaul().args(["verify", "--json", "--content", "--sample", "10%", "--certificate"]).args([
        &certificate,
        &source,
        &target,
    ]));
    assert_same(&ran);
    let read = ran.total("bytes_read") / 8;
    assert!((100..400).contains(&read), "about 200 of 2000 files were read: {read}");
    assert_eq!(check(&certificate, &target).code, 0);
    sh(&format!("cd {}; for f in f*; do printf efgh > $f; touch -r {}/$f $f; done", q(&target), q(&source)));
    let ran = verify(["--content".as_ref(), "--sample=10".as_ref(), source.as_os_str(), target.as_os_str()]);
    assert!((100..400).contains(&ran.total("different")), "{}", ran.stdout);
    assert_eq!(check(&certificate, &target).code, 1);
}

#[test]
fn without_the_cache_nothing_is_left_in_memory() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), vec![7; 3_000_001]).unwrap();
    fs::write(source.join("small"), "x").unwrap();
    copy_ok(&source, &target);
    let cached = || {
        let files = [&source, &target].map(|root| format!("{0}/f {0}/small", q(root))).join(" ");
        sh(&format!("fincore -n -b -o PAGES {files}"))
            .split_whitespace()
            .map(|n| n.parse::<u64>().unwrap())
            .sum::<u64>()
    };
    assert_same(&verify([source.as_os_str(), target.as_os_str(), "--content".as_ref()]));
    assert!(cached() > 1000, "they were read into memory");
    let traced = s.join("trace");
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-e", "trace=fadvise64,fdatasync,pread64", "-y", "-o"]).arg(&traced);
    let ran =
        run(c.arg(env!("CARGO_BIN_EXE_treehaul")).args(["verify", "--content", "--no-cache"]).args([&source, &target]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let calls = fs::read_to_string(&traced).unwrap();
    let first = |call: &str| calls.lines().position(|l| l.contains(call) && l.contains("/src/")).expect(call);
    assert!(first("fdatasync(") < first("POSIX_FADV_DONTNEED") && first("POSIX_FADV_DONTNEED") < first("pread64("));
    assert_eq!(cached(), 0, "nothing is left in memory");
}

#[test]
fn a_read_only_mount_can_be_verified_and_checked() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = pair(&s);
    let (binary, dst) = (env!("CARGO_BIN_EXE_treehaul"), q(&target));
    let line = format!(
        "mount --bind {dst} {dst}; mount -o remount,bind,ro {dst}; touch {dst}/x 2>/dev/null && exit 9
         {binary} verify --content --certificate {1} {0} {dst} && {binary} certificate check {1} {dst}",
        q(&source),
        q(&s.join("c"))
    );
    let ran = run(Command::new("unshare").args(["-m", "bash", "-c", &line]).env_remove("TREEHAUL_BROKER"));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("the same: ") && ran.stdout.contains("is the certified tree"), "{}", ran.stdout);
}

#[test]
fn times_are_compared_at_the_granularity_that_is_asked_for() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    sh(&format!(
        "mkdir {0} {1}; touch -d '2020-01-01 00:00:01.9' {0}/f; touch -d '2020-01-01 00:00:01.1' {1}/f
         touch -d '2020-01-01 00:00:00.5' {0}; touch -d '2020-01-01 00:00:01.5' {1}",
        q(&source),
        q(&target)
    ));
    let different = |args: &[&str]| {
        verify(args.iter().map(AsRef::as_ref).chain([source.as_os_str(), target.as_os_str()])).total("different")
    };
    assert_eq!(different(&[]), 2);
    assert_eq!(different(&["--modify-window", "1"]), 1);
    assert_eq!(different(&["--modify-window", "2"]), 0);
    assert_eq!(different(&["--no-times"]), 0);
}

#[test]
fn only_failures_are_exit_3_and_what_can_be_compared_is() {
    assert_root();
    let s = Scratch::new();
    let (source, target, certificate) = (s.join("src"), s.join("dst"), s.join("c"));
    fs::create_dir(&source).unwrap();
    (0..30).for_each(|i| fs::write(source.join(format!("f{i}")), "x").unwrap());
    copy_ok(&source, &target);
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=pread64:error=EIO:when=7", env!("CARGO_BIN_EXE_treehaul")]);
    c.args(["verify", "--json", "--content", "--file-actors", "1", "--certificate"]);
    let ran = run(c.args([&certificate, &source, &target]));
    assert_eq!((ran.code, ran.total("failed"), ran.total("same")), (3, 1, 30), "{}{}", ran.stdout, ran.stderr);
    assert_adds_up(&ran);
    assert!(ran.stderr.contains("read: Input/output error"), "{}", ran.stderr);
    assert!(ran.stderr.contains("no certificate was written: 1 entries could not be compared"), "{}", ran.stderr);
    assert!(!certificate.exists());
    // A listing that is not complete makes nothing extra or missing.
    let mut c = Command::new("strace");
    c.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "inject=getdents64:error=EIO:when=1",
        env!("CARGO_BIN_EXE_treehaul"),
    ]);
    let ran = run(c.args(["verify", "--json"]).args([&source, &target]));
    assert_eq!((ran.code, ran.total("failed"), ran.total("same")), (3, 1, 30), "{}{}", ran.stdout, ran.stderr);
    assert_adds_up(&ran);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_read() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    let refused = |ran: &Ran, words: &str| {
        assert_eq!(ran.code, 2, "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(words) && ran.stdout.is_empty(), "{words}: {}{}", ran.stdout, ran.stderr);
    };
    refused(&verify([&source, &target]), "no such directory");
    assert!(!target.exists());
    copy_ok(&source, &target);
    let with = |certificate: &Path| verify([Path::new("--certificate"), certificate, &source, &target]);
    refused(&with(&s.join("no/such/c")), "cannot write the certificate");
    refused(&with(&target.join("c")), "outside the trees");
    refused(&with(&s.join("src")), "this is a directory");
    refused(
        &verify(["--sample".as_ref(), "200".as_ref(), "--content".as_ref(), source.as_os_str(), target.as_os_str()]),
        "percentage",
    );

    let certificate = s.join("c");
    assert_eq!(with(&certificate).code, 0);
    refused(&check(&certificate, &s.join("absent")), "no such");
    refused(&check(&s.join("nothing"), &target), "cannot read");
    refused(&check(&target.join("f"), &target), "is no certificate");
    let text = fs::read_to_string(&certificate).unwrap();
    for (from, to, words) in [
        ("\"version\": 1", "\"version\": 2", "use a newer one"),
        ("\"entries\": 2", "\"entries\": 3", "damaged"),
        ("\"owner\": true", "\"owner\": false", "damaged"),
        ("treehaul certificate", "shopping list", "is no certificate"),
        ("\n}", "", "is no certificate, or is damaged"),
    ] {
        assert!(text.contains(from));
        let other = s.join("other");
        fs::write(&other, text.replacen(from, to, 1)).unwrap();
        refused(&check(&other, &target), words);
    }
    assert_eq!(check(&certificate, &target).code, 0);
}

#[test]
fn a_directory_larger_than_memory_allows_is_compared_exactly() {
    let s = Scratch::new();
    let (source, target, report) = (s.join("src"), s.join("dst"), s.join("r"));
    let make = "import os,sys
for root in sys.argv[1:]:
    os.mkdir(root)
    d = os.open(root, os.O_RDONLY)
    for i in range(300000): os.close(os.open('entry-with-a-name-%d' % i, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=d))
    for i in range(50): os.mkdir('dir%d' % i, dir_fd=d)
    os.utime(root, (1, 1))
";
    assert_eq!(run(Command::new("python3").args(["-c", make]).args([&source, &target])).code, 0);
    sh(&format!(
        "cd {}; rm entry-with-a-name-7; rmdir dir7; touch new; mkdir newdir; touch newdir/f; rm entry-with-a-name-9
         mkdir entry-with-a-name-9; rmdir dir9; touch dir9",
        q(&target)
    ));
    let mut c = Command::new("/usr/bin/time");
    c.args(["-f", "%M", env!("CARGO_BIN_EXE_treehaul"), "verify", "--json", "--no-times", "--report"]);
    let ran = run(c.args([&report, &source, &target]).env_remove("TREEHAUL_BROKER"));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let lines = fs::read_to_string(&report).unwrap();
    let mut found: Vec<String> = lines
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {}", line["path"].as_str().unwrap(), line["what"].as_str().unwrap())
        })
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            "dir7 missing",
            "dir9 kind",
            "entry-with-a-name-7 missing",
            "entry-with-a-name-9 kind",
            "new extra",
            "newdir extra",
            "newdir/f extra",
        ]
    );
    assert_eq!((ran.total("different"), ran.total("found")), (7, 300_000 + 50 + 1 + 3));
    assert_adds_up(&ran);
    let kib: u64 = ran.stderr.lines().last().and_then(|l| l.trim().parse().ok()).expect("time's figure");
    assert!(kib <= 64 << 10, "{} MiB", kib >> 10);
}

#[test]
fn three_workers_see_what_one_process_sees() {
    assert_root();
    let host = Host::new("verify");
    let s = Scratch::new();
    let (source, target, certificate) = (s.join("src"), s.join("dst"), s.join("c"));
    exotic_tree(&source, 52, 2500);
    copy_ok(&source, &target);
    let workers = ["v1", "v2", "v3"].map(|n| host.worker(n));
    let fleet = |args: &[&OsStr]| {
        run(treehaul()
            .args(["verify", "--json", "--content", "--broker", &host.url])
            .args([&source, &target])
            .args(args))
    };
    let ran = fleet(&["--certificate".as_ref(), certificate.as_os_str()]);
    assert_same(&ran);
    // The same salt, alone: the same fingerprint.
    assert_eq!(check(&certificate, &target).code, 0);
    let ran = run(treehaul().args(["certificate", "check", "--broker", &host.url]).args([&certificate, &target]));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    sh(&format!("cd {}; rm middle; cp -a hole again", q(&target)));
    let (ran, alone) = (fleet(&[]), verify([source.as_os_str(), target.as_os_str(), "--content".as_ref()]));
    assert_eq!((ran.code, alone.code), (1, 1), "{}{}", ran.stdout, ran.stderr);
    assert_adds_up(&ran);
    assert_eq!(ran.json()["differences"], alone.json()["differences"]);
    assert_eq!(check(&certificate, &target).code, 1);
    drop::<[Worker; 3]>(workers);
}

#[test]
fn a_worker_that_dies_costs_nothing_not_even_the_certificate() {
    assert_root();
    let host = Host::new("verify-killed");
    let s = Scratch::new();
    let (source, target, certificate) = (s.join("src"), s.join("dst"), s.join("c"));
    exotic_tree(&source, 53, 2000);
    copy_ok(&source, &target);
    let verify = || {
        let mut c = treehaul();
        c.args(["verify", "--json", "--content", "--broker", &host.url, "--certificate"]);
        c.args([&certificate, &source, &target]);
        c
    };
    for n in [5, 100] {
        let mut doomed = host.doomed_worker("flistxattr", n);
        let job = verify().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        doomed.wait();
        let _healthy = host.worker("healthy");
        let ran = Ran::of(job.wait_with_output().unwrap());
        // Of what was done twice only one report counts.
        assert_same(&ran);
        assert_eq!(ran.json()["fingerprint"]["certain"], true);
        assert_eq!(check(&certificate, &target).code, 0);
        fs::remove_file(&certificate).unwrap();
    }
}

#[test]
fn a_certificate_replaces_nothing_but_a_certificate_and_never_lies_in_a_tree() {
    let s = Scratch::new();
    let (source, target) = pair(&s);
    fs::write(s.join("notes"), "somebody's").unwrap();
    std::os::unix::fs::symlink("notes", s.join("link")).unwrap();
    let before = snapshot(&target);
    let url = |path: &Path| format!("file://{}", path.display());
    for file in [s.join("notes"), s.join("link"), target.join("c.json")] {
        let ran = run(treehaul().args(["verify", &url(&source), &url(&target), "--certificate"]).arg(&file));
        assert_eq!(ran.code, 2, "{}: {}{}", file.display(), ran.stdout, ran.stderr);
    }
    assert_eq!(fs::read_to_string(s.join("notes")).unwrap(), "somebody's");
    assert_eq!(snapshot(&target), before);
    for _ in 0..2 {
        let ran =
            run(treehaul().args(["verify", "-q", "--certificate"]).arg(s.join("c.json")).args([&source, &target]));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
}
