//! A worker says how it is to those who watch over it.

use crate::brokers::{Options, OwnBroker, START, until};
use crate::hosts::Worker;
use crate::support::*;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A worker that answers at an address that its log tells.
struct Watched {
    worker: Worker,
    log: PathBuf,
}

impl Watched {
    fn start(mut command: Command, url: &str, log: &Path) -> Self {
        command.args(["worker", "--name", "w", "--health", "127.0.0.1:0", "--log-format", "json", "--broker", url]);
        let log_file = fs::File::create(log).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log_file).process_group(0).spawn().expect("a worker starts");
        Watched { worker: Worker(child), log: log.to_owned() }
    }

    fn address(&self) -> String {
        let mut address = None;
        until("it says where it answers", PATIENCE, || {
            let log = fs::read_to_string(&self.log).unwrap();
            let whole = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            address = whole.filter_map(|line| line["address"].as_str().map(str::to_owned)).next();
            address.is_some()
        });
        address.unwrap()
    }

    /// What a page answers: the code, and the reason.
    fn ask(&self, page: &str) -> (u16, String) {
        let url = format!("http://{}/{page}", self.address());
        let said = sh(&format!("curl -sS -m 10 -w '\n%{{http_code}}' {url}"));
        let (body, code) = said.rsplit_once('\n').expect("two lines");
        let body: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("no JSON ({e}): {said}"));
        let code: u16 = code.parse().unwrap();
        assert_eq!(body["status"], if code == 200 { "ok" } else { "unavailable" }, "{said}");
        assert_eq!(body["reason"].is_null(), code == 200, "{said}");
        (code, body["reason"].as_str().unwrap_or_default().to_owned())
    }

    fn await_ready(&self) {
        until("it is ready", START, || self.ask("readyz").0 == 200);
        assert_eq!(self.ask("healthz").0, 200);
    }

    /// It is alive, and is not ready for this reason.
    fn await_unready(&self, reason: &str) {
        until(reason, PATIENCE, || {
            let (code, why) = self.ask("readyz");
            code == 503 && why.contains(reason)
        });
        assert_eq!(self.ask("healthz"), (200, String::new()));
    }
}

#[test]
fn a_worker_is_ready_while_it_takes_tasks() {
    assert_root();
    let s = Scratch::new();
    let mut broker = OwnBroker::start(&Options::default());
    let fleet = |args: &[&str]| run(treehaul().args(args).args(["--broker", &broker.url()]));
    let watched = Watched::start(treehaul(), &broker.url(), &s.join("log"));
    watched.await_ready();
    until("it is paused", PATIENCE, || fleet(&["pause", "--node", "w"]).code == 0);
    watched.await_unready("paused");
    assert_eq!(fleet(&["resume", "--node", "w"]).code, 0);
    watched.await_ready();
    // RabbitMQ does not always recover a stream that it was never told to keep anything in.
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    assert_eq!(fleet(&["copy", source.to_str().unwrap(), target.to_str().unwrap()]).code, 0);
    broker.kill9();
    watched.await_unready("broker");
    broker.start_again();
    watched.await_ready();
    assert_eq!(watched.worker.stop(), Some(0));
}

#[test]
fn a_call_that_hangs_is_not_death_and_a_worker_that_drains_is_not_ready() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    let broker = OwnBroker::start(&Options::default());
    let fleet = |args: &[&str]| run(treehaul().args(args).args(["--broker", &broker.url()]));
    let mut slow = Command::new("strace");
    slow.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=linkat:delay_enter=15000000"]);
    slow.arg(env!("CARGO_BIN_EXE_treehaul")).env("TREEHAUL_CONFIG", "").env_remove("TREEHAUL_LOG");
    let mut watched = Watched::start(slow, &broker.url(), &s.join("log"));
    watched.await_ready();
    let start = fleet(&["start", "copy", source.to_str().unwrap(), target.to_str().unwrap()]);
    assert_eq!(start.code, 0, "{}", start.stderr);
    until("a file is copied", PATIENCE, || {
        let active = fleet(&["inspect", "active", "--format", "json"]);
        active.code == 0 && active.json()["active"].to_string().contains("files-")
    });
    watched.await_ready();
    let nodes = fleet(&["nodes", "--format", "json"]).json();
    let pid = nodes["nodes"][0]["pid"].as_i64().expect("a worker");
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("SIGTERM");
    watched.await_unready("draining");
    watched.worker.wait();
    assert_eq!(fs::read(target.join("file")).unwrap(), b"x", "what was in hand was finished");
}

#[test]
fn a_worker_without_a_broker_yet_is_alive() {
    let s = Scratch::new();
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://guest:guest@{}/%2f", silent.local_addr().unwrap());
    let watched = Watched::start(treehaul(), &url, &s.join("log"));
    watched.await_unready("connecting to the broker");
}

#[test]
fn an_address_that_is_taken_ends_a_worker() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = run(treehaul().args(["worker", "--broker", "amqp://guest:guest@127.0.0.1:1/%2f", "--health", &address]));
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains(&address) && ran.stderr.contains("--health"), "{}", ran.stderr);
}
