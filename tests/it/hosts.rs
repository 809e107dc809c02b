//! A broker's virtual host for one test, and workers on it.

use crate::support::*;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A virtual host of the test's own on the broker, so that no other test's workers take its tasks.
pub struct Host {
    name: String,
    pub url: String,
}

impl Host {
    pub fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let management = management_url();
        sh(&format!(
            "curl -fsS -X PUT {management}/api/vhosts/{name}; curl -fsS -X PUT -H 'content-type: application/json' \
             -d '{{\"configure\":\".*\",\"write\":\".*\",\"read\":\".*\"}}' {management}/api/permissions/{name}/guest"
        ));
        let (server, _) =
            amqp_url().rsplit_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a URL with a host");
        Host { url: format!("{server}/{name}"), name }
    }

    pub fn worker(&self, name: &str) -> Worker {
        self.worker_with(name, &[])
    }

    /// A worker with further arguments.
    pub fn worker_with(&self, name: &str, more: &[&str]) -> Worker {
        let mut c = treehaul();
        c.args(["worker", "-q", "--name", name, "--broker", &self.url]).args(more).stdout(Stdio::null());
        Worker(c.process_group(0).spawn().expect("a worker starts"))
    }

    pub fn copy(&self, source: &Path, target: &Path) -> Command {
        self.pass("copy", source, target)
    }

    /// `treehaul PASS --json SOURCE TARGET` over the broker.
    pub fn pass(&self, pass: &str, source: &Path, target: &Path) -> Command {
        let mut c = treehaul();
        c.args([pass, "--json", "--broker", &self.url]).args([source, target]);
        c
    }

    /// A worker that kills itself at its n-th call of a kind, whatever it has in hand.
    pub fn doomed_worker(&self, call: &str, n: u32) -> Worker {
        let mut c = Command::new("strace");
        c.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={call}:signal=SIGKILL:when={n}")]);
        c.args([env!("CARGO_BIN_EXE_treehaul"), "worker", "-q", "--name", "doomed", "--broker", &self.url]);
        Worker(c.stdout(Stdio::null()).process_group(0).spawn().expect("a worker starts"))
    }

    /// Publishes what is no message of ours.
    pub fn publish(&self, queue: &str, text: &str) {
        let body = format!(
            "{{\"properties\":{{}},\"routing_key\":\"{queue}\",\"payload\":\"{text}\",\"payload_encoding\":\"string\"}}"
        );
        let said = sh(&format!(
            "curl -fsS -X POST -H 'content-type: application/json' -d '{body}' \
             {}/api/exchanges/{}/amq.default/publish",
            management_url(),
            self.name
        ));
        assert!(said.contains("true"), "it is routed: {said}");
    }

    /// Queues of a job that the broker still has.
    pub fn queues_of(&self, job: &str) -> Vec<String> {
        let listed = sh(&format!("curl -fsS {}/api/queues/{}", management_url(), self.name));
        let all: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        let names = all.as_array().expect("a list").iter().filter_map(|q| q["name"].as_str());
        names.filter(|n| n.contains(job)).map(str::to_owned).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("curl")
            .args(["-fsS", "-X", "DELETE"])
            .arg(format!("{}/api/vhosts/{}", management_url(), self.name))
            .status();
    }
}

fn management_url() -> String {
    std::env::var("TREEHAUL_TEST_AMQP_MANAGEMENT").expect("run `make test`, it starts RabbitMQ")
}

/// A worker process that is stopped at the end.
pub struct Worker(pub Child);

impl Worker {
    pub fn kill(mut self) {
        self.0.kill().expect("SIGKILL");
        self.0.wait().expect("it dies");
    }

    /// Waits until it is dead.
    pub fn wait(&mut self) {
        self.0.wait().expect("it dies");
    }

    /// SIGTERM; the exit code.
    pub fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("SIGTERM");
        self.0.wait().expect("it ends").code()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The whole group: killing a tracer would leave what it traces.
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Entries below a directory, as far as they can be seen.
pub fn count(root: &Path) -> usize {
    let Ok(entries) = fs::read_dir(root) else { return 0 };
    entries.filter_map(Result::ok).map(|e| 1 + if e.path().is_dir() { count(&e.path()) } else { 0 }).sum()
}
