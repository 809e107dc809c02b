//! `--html-report`: one page that says how a job went, and that nothing in it can hurt.

use crate::brokers::until;
use crate::hosts::*;
use crate::support::*;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Parses a page as XML and prints its text, if it has nothing in it that runs or is loaded from elsewhere.
const CHECK: &str = r#"
import html.parser, sys, xml.etree.ElementTree as tree
page = open(sys.argv[1], 'rb').read().decode('utf-8')
root = tree.fromstring(page.split('\n', 1)[1])
assert page.startswith('<!DOCTYPE html>\n')
allowed = set('html head meta title style body header main section footer h1 h2 h3 p dl div dt dd ul li b span code '
              'table thead tbody tr th td svg path rect text details summary'.split())
for e in root.iter():
    assert e.tag in allowed, e.tag
    for key, value in e.attrib.items():
        assert key not in ('src', 'href', 'style', 'action', 'data', 'srcset') and not key.startswith('on'), (e.tag, key)
        assert 'url(' not in value and '//' not in value, (e.tag, key, value)
    if e.tag == 'style':
        assert 'url(' not in e.text and '@import' not in e.text and '//' not in e.text
policy = [e.get('content') for e in root.iter('meta') if e.get('http-equiv') == 'Content-Security-Policy']
assert policy and policy[0].startswith("default-src 'none'"), policy
class Same(html.parser.HTMLParser):
    tags = []
    def handle_starttag(self, tag, attrs): self.tags.append(tag)
same = Same()
same.feed(page)
assert sorted(same.tags) == sorted(e.tag for e in root.iter()), 'HTML and XML see different elements'
print('\n'.join(t.strip() for e in root.iter() if e.tag != 'style' for t in e.itertext() if t.strip()))
"#;

/// The text of a page that is as it should be.
fn text_of(page: &Path) -> String {
    let ran = run(Command::new("python3").args(["-c", CHECK]).arg(page));
    assert_eq!(ran.code, 0, "{}\n{}", ran.stderr, fs::read_to_string(page).unwrap());
    let mode = fs::metadata(page).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "it names what is in somebody's directories");
    let left = fs::read_dir(page.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.as_bytes().starts_with(b".treehaul")).collect();
    assert!(left.is_empty(), "working files are left: {left:?}");
    ran.stdout
}

fn assert_says(text: &str, words: &[&str]) {
    let missing: Vec<_> = words.iter().filter(|words| !text.contains(**words)).collect();
    assert!(missing.is_empty(), "{missing:?} not in the page:\n{text}");
}

/// Counts files by size and age as the summary does, without the program.
fn spread_of(root: &Path) -> Value {
    let script = r#"
import json, os, stat, sys, time
now, sizes, ages, newer = time.time(), {}, {}, [0, 0]
limits = [0] + [1 << bits for bits in range(10, 42, 2)]
days = [1, 7, 30, 90, 180, 365, 730, 1825, 3650]
for d, _, names in os.walk(os.fsencode(sys.argv[1])):
    for name in names:
        m = os.lstat(os.path.join(d, name))
        if not stat.S_ISREG(m.st_mode): continue
        size = next((n for n in limits if m.st_size <= n), None)
        age = next((n for n in days if now - m.st_mtime <= n * 86400), None)
        places = [sizes.setdefault(size, [0, 0]), newer if m.st_mtime > now else ages.setdefault(age, [0, 0])]
        for place in places: place[0] += 1; place[1] += m.st_size
most = lambda item: (item[0] is None, item[0])
rows = lambda table, key: [{key: k, 'files': n, 'bytes': b} for k, (n, b) in sorted(table.items(), key=most)]
print(json.dumps({'sizes': rows(sizes, 'up_to_bytes'), 'ages': rows(ages, 'up_to_days'),
                  'newer_than_the_job': {'files': newer[0], 'bytes': newer[1]}}))
"#;
    let ran = run(Command::new("python3").args(["-c", script]).arg(root));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.json()
}

/// A tree of files of all ages and sizes, with names that want to run.
fn hostile_tree(root: &Path) {
    exotic_tree(root, 51, 400);
    let hostile = root.join("<img src=x onerror=alert(1)>");
    fs::create_dir(&hostile).unwrap();
    for name in
        [&b"<script>alert(1)<"[..], b"\x1b]0;title\x07", b"\xff\xfe", b"'\"&lt;", b"]]>", "\u{202e}\u{ffff}".as_bytes()]
    {
        fs::write(hostile.join(OsStr::from_bytes(name)), name).unwrap();
        symlink("x", hostile.join(OsStr::from_bytes(&[b"link ", name].concat()))).unwrap();
    }
}

/// treehaul under strace, with system calls that fail.
fn faulty(inject: &str) -> Command {
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", inject, env!("CARGO_BIN_EXE_treehaul")]);
    c.env("TREEHAUL_CONFIG", "").env("TREEHAUL_STATE_DIR", env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null());
    c
}

#[test]
fn a_page_tells_of_a_copy_alone_and_counts_every_file_once() {
    assert_root();
    let s = Scratch::new();
    let (source, target, page) = (s.join("src"), s.join("dst"), s.join("page.html"));
    hostile_tree(&source);
    fs::write(&page, "an older page").unwrap();
    let ran = copy([
        source.as_os_str(),
        target.as_os_str(),
        "--no-acls".as_ref(),
        "--html-report".as_ref(),
        page.as_os_str(),
    ]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.json()["spread"], spread_of(&source));
    let text = text_of(&page);
    let job = ran.json()["job"].as_str().unwrap().to_owned();
    assert_says(&text, &[&job, "Complete", "0, complete", source.to_str().unwrap(), target.to_str().unwrap()]);
    assert_says(&text, &["Throughput", "Files by size", "Files by age", "up to 1 TiB", "newer than the job"]);
    assert_says(&text, &["POSIX ACLs\nleft alone", "Owner and group\nkept", env!("CARGO_PKG_VERSION")]);
    assert!(!text.contains("Failures by cause") && !text.contains("Workers"), "{text}");
    // What is right already is as old and as large.
    let again = copy([source.as_os_str(), target.as_os_str(), "--no-acls".as_ref()]);
    assert_eq!((again.total("copied"), &again.json()["spread"]), (0, &ran.json()["spread"]), "{}", again.stdout);
}

#[test]
fn a_single_file_has_its_page() {
    let s = Scratch::new();
    let [source, target, page] = ["one", "two", "page"].map(|name| s.join(name));
    fs::write(&source, vec![1; 5000]).unwrap();
    let ran = copy([source.as_os_str(), target.as_os_str(), "--html-report".as_ref(), page.as_os_str()]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.json()["spread"]["sizes"][0]["up_to_bytes"], 16384);
    assert_says(&text_of(&page), &["Complete", "up to 16 KiB"]);
}

#[test]
fn failures_stand_by_cause_and_names_in_them_are_inert() {
    assert_root();
    let s = Scratch::new();
    let (source, target, page) = (s.join("src"), s.join("dst"), s.join("page.html"));
    hostile_tree(&source);
    let mut c = faulty("inject=symlinkat:error=EIO");
    c.args(["copy", "--json", "--html-report"]).args([&page, &source, &target]);
    let ran = run(&mut c);
    let failed = ran.total("failed");
    assert!(ran.code == 3 && failed > 10, "{}{}", ran.stdout, ran.stderr);
    let text = text_of(&page);
    assert_says(&text, &["Complete with failed entries", "3, complete with failed entries", "Failures by cause"]);
    assert_says(&text, &["make symlink: Input/output error", &format!("and {} more", failed - 5)]);
    // A browser that draws it sees the same, runs nothing, and prints it.
    let seen = chromium(&page, &s.join("profile"), &["--dump-dom"]);
    assert!(seen.contains("Failures by cause") && !seen.contains("<script") && !seen.contains("<img"), "{seen}");
    let pdf = s.join("page.pdf");
    chromium(&page, &s.join("profile"), &["--no-pdf-header-footer", &format!("--print-to-pdf={}", pdf.display())]);
    let printed = fs::read(&pdf).unwrap();
    assert!(printed.starts_with(b"%PDF-") && printed.len() > 20_000, "{} bytes", printed.len());
}

fn chromium(page: &Path, profile: &Path, args: &[&str]) -> String {
    let mut c = Command::new("timeout");
    c.args(["--kill-after=5", "120", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]);
    c.args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    c.arg(format!("--user-data-dir={}", profile.display())).args(args).arg(format!("file://{}", page.display()));
    let ran = run(c.stdin(Stdio::null()));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout
}

#[test]
fn hostile_names_stand_in_a_proof_and_in_a_dry_run() {
    assert_root();
    let s = Scratch::new();
    let (source, target, page) = (s.join("src"), s.join("dst"), s.join("page.html"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    let names = [&b"<script>alert(1)<"[..], b"\x1b[31m\xff", b"&amp;\"'", "\u{202e}\u{fffe}".as_bytes()];
    names.iter().for_each(|name| fs::write(source.join(OsStr::from_bytes(name)), "x").unwrap());
    fs::write(source.join("both"), "long").unwrap();
    fs::write(target.join("both"), "short").unwrap();
    let page_of = |pass: &[&str], code: i32| {
        let ran = run(treehaul().args(pass).arg("--html-report").args([&page, &source, &target]));
        assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
        text_of(&page)
    };
    let dry = page_of(&["copy", "--dry-run"], 0);
    let shown = ["<script>alert(1)<", "\\x1b[31m\\xff", "&amp;\"'", "\\u{202e}\\u{fffe}"];
    assert_says(&dry, &["dry run", "Dry run", "would copy", "Nothing was changed"]);
    assert_says(&dry, &shown);
    let proof = page_of(&["verify"], 1);
    assert_says(
        &proof,
        &["Different", "1, differences found", "Only in the source\n4", "Different size", "Fingerprints"],
    );
    assert_says(&proof, &shown);
    assert_eq!(count(&target), 1, "nothing was copied");
    assert_says(&page_of(&["copy", "-q"], 0), &["Complete", "0, complete"]);
}

#[test]
fn an_interrupted_job_has_its_page() {
    let s = Scratch::new();
    let (source, target, page) = (s.join("src"), s.join("dst"), s.join("page.html"));
    fs::create_dir(&source).unwrap();
    (0..200).for_each(|i| fs::write(source.join(format!("f{i}")), vec![1; 100_000]).unwrap());
    let mut c = treehaul();
    c.args(["copy", "-q", "--bwlimit", "1M", "--html-report"]).args([&page, &source, &target]);
    let job = c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("something is there", std::time::Duration::from_secs(60), || count(&target) > 3);
    assert!(!page.exists(), "it is written at the end");
    sh(&format!("kill -TERM {}", job.id()));
    let output = job.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    assert_says(&text_of(&page), &["Interrupted", "143, terminated", "the same command goes on", "1 MiB a second"]);
}

#[test]
fn where_no_page_can_be_written_nothing_is_touched() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    symlink(&source, s.join("link")).unwrap();
    let before = snapshot(s.path());
    let refused = |page: PathBuf, why: &str| {
        let ran = copy([source.as_os_str(), target.as_os_str(), "--html-report".as_ref(), page.as_os_str()]);
        assert_eq!(ran.code, 2, "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    };
    refused(s.join("dst/page.html"), "a part of the target");
    refused(s.join("src/../dst/deep/page.html"), "a part of the target");
    refused(s.join("src/page.html"), "a part of the source");
    refused(s.join("link/page.html"), "a part of the source");
    refused(s.join("nowhere/page.html"), "cannot write the HTML report");
    refused(s.path().to_owned(), "no regular file");
    refused("/dev/null".into(), "no regular file");
    assert!(snapshot(s.path()) == before, "something was touched");
    let ran = run(treehaul()
        .args(["start", "copy", "--html-report", "x", "--broker", "amqp://localhost:1"])
        .args([&source, &target]));
    assert!(ran.code == 2 && ran.stderr.contains("treehaul follow"), "{}", ran.stderr);
}

#[test]
fn a_page_that_cannot_be_written_any_more_is_an_error() {
    let s = Scratch::new();
    let (source, target, gone) = (s.join("src"), s.join("dst"), s.join("gone"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&gone).unwrap();
    (0..100).for_each(|i| fs::write(source.join(format!("f{i}")), vec![1; 50_000]).unwrap());
    let mut c = treehaul();
    c.args(["copy", "-q", "--bwlimit", "2M", "--html-report"]).args([&gone.join("page"), &source, &target]);
    let job = c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("something is there", std::time::Duration::from_secs(60), || count(&target) > 3);
    fs::remove_dir(&gone).unwrap();
    let output = job.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("cannot write the HTML report"), "{said}");
    assert_identical(&source, &target);
}

#[test]
fn a_fleet_counts_every_file_once_and_a_retry_takes_causes_back() {
    assert_root();
    let host = Host::new("html");
    let s = Scratch::new();
    let (source, target, page) = (s.join("src"), s.join("dst"), s.join("page.html"));
    hostile_tree(&source);
    let expected = spread_of(&source);
    let mut c = faulty("inject=symlinkat,mknodat:error=EIO");
    c.args(["worker", "-q", "--name", "<b>faulty", "--broker", &host.url]).stdout(Stdio::null());
    let sick = Worker(c.process_group(0).spawn().unwrap());
    let ran = run(host.copy(&source, &target).arg("--html-report").arg(&page));
    assert_eq!((ran.code, &ran.json()["spread"]), (3, &expected), "{}{}", ran.stdout, ran.stderr);
    let failed = ran.total("failed");
    let text = text_of(&page);
    assert_says(&text, &["a fleet: 1 worker", "Workers", "<b>faulty", "make symlink: Input/output error", "make node"]);
    drop(sick);

    // Whoever comes later reads the same.
    let job = ran.json()["job"].as_str().unwrap().to_owned();
    let fleet = |args: &[&str]| {
        let ran = run(treehaul().args(args).args([&job, "--json", "--broker", &host.url, "--html-report"]).arg(&page));
        (ran, text_of(&page))
    };
    let (followed, later) = fleet(&["follow"]);
    assert_eq!((followed.code, followed.total("failed")), (3, failed), "{}", followed.stderr);
    let causes = |text: &str| {
        let from = text.find("Failures by cause").unwrap();
        text[from..from + text[from..].find("Totals").unwrap()].to_owned()
    };
    assert_eq!(causes(&later), causes(&text));
    let _workers = ["w1", "w2"].map(|name| host.worker(name));
    let symlinks: Vec<String> = ids(&host, &job, "make symlink");
    let ran = run(treehaul()
        .args(["retry", &job])
        .args(&symlinks)
        .args(["--json", "--broker", &host.url, "--html-report"])
        .arg(&page));
    assert_eq!((ran.code, ran.total("failed")), (3, failed - symlinks.len() as u64), "{}{}", ran.stdout, ran.stderr);
    let text = text_of(&page);
    assert!(!text.contains("make symlink") && text.contains("make node"), "{text}");
    let ran =
        run(treehaul().args(["retry", &job, "--all", "--json", "--broker", &host.url, "--html-report"]).arg(&page));
    assert_eq!((ran.code, &ran.json()["spread"]), (0, &expected), "{}{}", ran.stdout, ran.stderr);
    let text = text_of(&page);
    assert!(!text.contains("Failures by cause"), "{text}");
    // One of the two may have found nothing to do.
    assert!(["a fleet: 2 workers", "a fleet: 3 workers"].iter().any(|fleet| text.contains(fleet)), "{text}");
    assert_identical(&source, &target);
}

/// Numbers of the failures of an operation.
fn ids(host: &Host, job: &str, operation: &str) -> Vec<String> {
    let ran = run(treehaul().args(["failed", job, "--format", "jsonl", "--broker", &host.url]));
    let failures = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    failures.filter(|f| f["operation"] == operation).map(|f| f["id"].to_string()).collect()
}

#[test]
fn workers_that_die_do_not_change_what_a_page_counts() {
    assert_root();
    let host = Host::new("html-dead");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 52, 1500);
    let _workers = [host.doomed_worker("linkat", 20), host.doomed_worker("linkat", 50), host.worker("sound")];
    let ran = run(&mut host.copy(&source, &target));
    assert_eq!((ran.code, &ran.json()["spread"]), (0, &spread_of(&source)), "{}{}", ran.stdout, ran.stderr);
}
