//! What is logged: lines for people and for machines, by module, with their job and task, harmless, and not without end.

use crate::brokers::until;
use crate::hosts::*;
use crate::support::*;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

/// A file name that would clear the screen, forge a line, forge fields, and turn the text around.
const EVIL: &[u8] = b"evil\x1b[2J\nERROR job=x \"q\"\xc2\x9b\xe2\x80\xae\xff";
const EVIL_SHOWN: &str = r#"evil\x1b[2J\nERROR job=x "q"\u{9b}\u{202e}\xff"#;

/// The program, in which no file gets its name.
fn faulty() -> Command {
    let usual = treehaul();
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=linkat:error=EIO", env!("CARGO_BIN_EXE_treehaul")]);
    for (name, value) in usual.get_envs() {
        match value {
            Some(value) => c.env(name, value),
            None => c.env_remove(name),
        };
    }
    c.env_remove("TREEHAUL_LOG").env_remove("TREEHAUL_LOG_FORMAT").stdin(Stdio::null());
    c
}

/// Files of such names.
fn tree(scratch: &Scratch, names: &[&[u8]]) -> [PathBuf; 2] {
    let source = scratch.join("src");
    fs::create_dir(&source).unwrap();
    for name in names {
        fs::write(source.join(OsStr::from_bytes(name)), "x").unwrap();
    }
    [source, scratch.join("dst")]
}

/// Every line is an object with what each has, and nothing in it could steer a terminal.
fn objects(stderr: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for line in stderr.lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON ({e}): {line}"));
        let fields = object.as_object().expect("an object");
        for name in ["timestamp", "level", "target", "message"] {
            assert!(fields[name].is_string(), "no {name}: {line}");
        }
        assert!(fields.values().all(|v| !v.is_object() && !v.is_array()), "it is flat: {line}");
        let time = fields["timestamp"].as_str().unwrap();
        assert!(time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{line}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&fields["level"].as_str().unwrap()), "{line}");
        let strings = fields.values().filter_map(Value::as_str);
        strings.for_each(assert_harmless);
        assert_harmless(line);
        all.push(object);
    }
    all
}

fn assert_harmless(text: &str) {
    let bad = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.chars().any(bad), "{text:?}");
}

fn with<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["message"].as_str().is_some_and(|m| m.starts_with(message))).collect()
}

fn count_level(lines: &[Value], level: &str) -> usize {
    lines.iter().filter(|line| line["level"] == level).count()
}

#[test]
fn a_failing_entry_says_its_job_and_its_task_in_both_formats() {
    assert_root();
    let s = Scratch::new();
    let [source, target] = tree(&s, &[EVIL, b"plain"]);
    let copy = |more: &[&str]| run(faulty().args(["copy", "--json", "-v"]).args(more).args([&source, &target]));
    let ran = copy(&["--log-format", "json"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    let (job, lines) = (ran.json()["job"].clone(), objects(&ran.stderr));
    let failed = with(&lines, "entry failed");
    assert_eq!(failed.len(), 2, "{}", ran.stderr);
    let evil = failed.iter().find(|line| line["path"] == EVIL_SHOWN).expect("the evil one");
    let task = evil["task"].as_str().expect("a task");
    assert_eq!((&evil["job"], &evil["level"], evil["errno"].as_i64()), (&job, &"DEBUG".into(), Some(5)));
    assert!(task.parse::<u64>().is_ok_and(|n| n > 0), "{task}");
    assert!(evil["target"].as_str().unwrap().starts_with("treehaul::pass"), "{evil}");
    let begun = with(&lines, "begins");
    assert!(begun.iter().all(|line| line["job"] == job) && begun.iter().any(|line| line["task"] == task), "{begun:?}");
    // What is said to people at the end is an object, too.
    assert!(lines.iter().any(|l| l["level"] == "ERROR" && l["message"].as_str().unwrap().contains(EVIL_SHOWN)));

    let ran = copy(&[]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert_harmless(&ran.stderr);
    let job = ran.json()["job"].as_str().unwrap().to_owned();
    let shown = format!(r#" path="{}" operation=link errno=5 job={job} task="#, EVIL_SHOWN.replace('"', "\\\""));
    let line = ran.stderr.lines().find(|line| line.contains(&shown)).unwrap_or_else(|| panic!("{}", ran.stderr));
    assert!(line.contains("Z DEBUG entry failed path="), "{line}");
}

#[test]
fn levels_are_chosen_by_module() {
    let s = Scratch::new();
    let [source, target] = tree(&s, &[b"a"]);
    let targets = |command: &mut Command| {
        let ran = run(command.args(["copy", "-q", "--log-format", "json"]).args([&source, &target]));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let all = objects(&ran.stderr);
        all.iter().map(|line| line["target"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(targets(&mut treehaul()).is_empty(), "nothing went wrong");
    let actors = targets(treehaul().args(["--log", "warn,treehaul::actor=debug"]));
    assert!(!actors.is_empty() && actors.iter().all(|t| t.starts_with("treehaul::actor")), "{actors:?}");
    assert_eq!(targets(treehaul().env("TREEHAUL_LOG", "treehaul::actor=debug")), actors, "the same in the environment");
    assert!(
        targets(treehaul().env("TREEHAUL_LOG", "debug").args(["--log", "treehaul=warn"])).is_empty(),
        "a flag wins"
    );
    assert!(targets(treehaul().env("TREEHAUL_LOG", "")).is_empty(), "an empty variable says nothing");
}

#[test]
fn what_cannot_be_understood_is_refused_and_named() {
    let s = Scratch::new();
    let [source, target] = tree(&s, &[b"a"]);
    for (levels, named) in [
        ("info,treehaul=lout", "treehaul=lout"),
        ("verbos", "verbos"),
        ("info,treehaul::brokr=debug", "treehaul::brokr=debug"),
    ] {
        let flag = run(treehaul().args(["copy", "--log", levels]).args([&source, &target]));
        let variable = run(treehaul().env("TREEHAUL_LOG", levels).arg("copy").args([&source, &target]));
        for ran in [flag, variable] {
            assert_eq!(ran.code, 2, "{}", ran.stderr);
            assert!(ran.stderr.contains(&format!("'{named}'")), "{}", ran.stderr);
        }
    }
    let ran = run(treehaul().args(["copy", "--log-format", "xml"]).args([&source, &target]));
    assert!(ran.code == 2 && ran.stderr.contains("xml"), "{}", ran.stderr);
    assert!(!target.exists(), "nothing was done");
    // What is refused later is an object.
    let ran = run(treehaul().args(["copy", "--log-format", "json"]).arg(s.join("no\u{1b}where")).arg(&target));
    let lines = objects(&ran.stderr);
    assert_eq!((ran.code, lines.len(), count_level(&lines, "ERROR")), (2, 1, 1), "{}", ran.stderr);
}

/// A worker whose lines go to a file.
fn worker(mut command: Command, host: &Host, name: &str, log: &Path) -> Worker {
    command.args(["worker", "--log-format", "json", "--name", name, "--broker", &host.url]);
    let log = fs::File::create(log).unwrap();
    Worker(command.stdout(Stdio::null()).stderr(log).process_group(0).spawn().expect("a worker starts"))
}

#[test]
fn a_worker_tells_its_life_and_each_line_its_job() {
    assert_root();
    let host = Host::new("logs");
    let s = Scratch::new();
    let log = s.join("log");
    let [source, target] = tree(&s, &[EVIL, b"plain"]);
    let mut command = faulty();
    command.env("TREEHAUL_LOG", "info,lapin=off,treehaul=debug");
    // strace ends with what it traces.
    let mut working = worker(command, &host, "w\u{202e}", &log);
    let ran = run(host.copy(&source, &target).args(["--log-format", "json"]));
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    objects(&ran.stderr);
    assert_eq!(run(treehaul().args(["stop", "--broker", &host.url])).code, 0);
    working.wait();
    let (job, lines) = (ran.json()["job"].clone(), objects(&fs::read_to_string(&log).unwrap()));
    for (message, has_job) in [
        ("working", false),
        ("serving a job", true),
        ("leads the job", true),
        ("the job is over", true),
        ("told to stop", false),
    ] {
        let found = with(&lines, message);
        assert_eq!(found.len(), 1, "{message}");
        assert_eq!((&found[0]["level"], found[0].get("job")), (&"INFO".into(), has_job.then_some(&job)), "{message}");
    }
    let working = with(&lines, "working")[0];
    assert_eq!((&working["name"], &working["file_actors"]), (&r"w\u{202e}".into(), &16.into()));
    let failed = with(&lines, "entry failed");
    assert_eq!(failed.len(), 2);
    for line in failed {
        assert_eq!(line["job"], job);
        let task = line["task"].as_str().expect("a task");
        let (message, number) = task.rsplit_once('.').expect("MESSAGE.NUMBER");
        let (run, which) = message.split_once(':').expect("RUN:MESSAGE");
        assert!(u64::from_str_radix(run, 16).is_ok() && u64::from_str_radix(which, 16).is_ok(), "{task}");
        assert!(number.parse::<u64>().is_ok(), "{task}");
        let begun = with(&lines, "begins").into_iter().filter(|begun| begun["task"] == task).count();
        assert_eq!(begun, 1, "no other task is called {task}");
    }
}

#[test]
fn the_same_again_and_again_is_summed_up() {
    const FOREIGN: usize = 50;
    assert_root();
    let host = Host::new("repeats");
    let s = Scratch::new();
    let [source, target] = tree(&s, &[b"a"]);
    let log = s.join("log");
    // Nobody takes what is in the queue of files yet.
    let _dirs = host.worker_with("dirs", &["--queues", "dirs"]);
    let started = run(treehaul().args(["start", "copy", "--broker", &host.url]).args([&source, &target]));
    assert_eq!(started.code, 0, "{}", started.stderr);
    let job = started.stdout.trim().to_owned();
    let mut queue = None;
    until("the job has its queues", PATIENCE, || {
        queue = host.queues_of(&job).into_iter().find(|name| name.ends_with("files"));
        queue.is_some()
    });
    for i in 0..FOREIGN {
        host.publish(queue.as_ref().unwrap(), &format!("garbage {i}"));
    }
    let files = worker(treehaul(), &host, "files", &log);
    let ran = run(treehaul().args(["follow", "--json", &job, "--broker", &host.url]));
    assert_eq!((ran.code, ran.total("failed")), (3, FOREIGN as u64), "nothing is lost but lines: {}", ran.stderr);
    // The summary comes also while nothing else is said.
    let read = || objects(&fs::read_to_string(&log).unwrap());
    until("it is summed up", PATIENCE, || {
        !with(&read(), "a message was set aside in the job's dead letters: ").is_empty()
    });
    let lines = read();
    let said: Vec<_> =
        with(&lines, "a message was set aside").into_iter().filter(|l| l.get("more").is_none()).collect();
    assert_eq!(said.len(), 20, "the first ones come out");
    assert!(said.iter().all(|line| line["level"] == "ERROR" && line["job"] == job.as_str()));
    let sums: Vec<_> = lines.iter().filter(|line| line.get("more").is_some()).collect();
    assert_eq!(sums.len(), 1, "{sums:?}");
    assert_eq!((sums[0]["more"].as_u64(), &sums[0]["level"]), (Some(FOREIGN as u64 - 20), &"ERROR".into()));
    assert!(sums[0]["message"].as_str().unwrap().contains("30 more of the same in "), "{}", sums[0]);
    assert_eq!(files.stop(), Some(0));
}

#[test]
fn who_asked_for_every_line_gets_it() {
    assert_root();
    let s = Scratch::new();
    let names: Vec<String> = (0..3000).map(|i| format!("f{i}")).collect();
    let [source, target] = tree(&s, &names.iter().map(|n| n.as_bytes()).collect::<Vec<_>>());
    let ran = run(faulty().args(["copy", "-vv", "--log-format", "json"]).args([&source, &target]));
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert_eq!(with(&objects(&ran.stderr), "entry failed").len(), names.len());
}
