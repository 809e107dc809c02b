//! The dashboard, in a real browser: it shows what goes on, whatever files are called, and does what it is told by those
//! who may.

use crate::brokers::{Options, OwnBroker};
use crate::hosts::*;
use crate::support::*;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

const TOKEN: &str = "a-token-that-nobody-guesses";
const PATIENCE: Duration = Duration::from_secs(90);

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
    }
}

/// A process that is ended with the test.
struct Process(Option<Child>);

impl Process {
    fn terminate(&mut self) -> Option<i32> {
        let mut child = self.0.take().expect("once");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("SIGTERM");
        child.wait().expect("it ends").code()
    }

    fn end(mut self) -> Ran {
        Ran::of(self.0.take().expect("once").wait_with_output().expect("it ends"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `treehaul dashboard`, and where it is.
struct Dashboard {
    process: Process,
    url: String,
}

impl Dashboard {
    fn start(broker: &str, token: Option<&str>, more: &[&str]) -> Self {
        let mut c = treehaul();
        c.args(["dashboard", "--listen", "127.0.0.1:0", "--broker", broker]).args(more).stdout(Stdio::piped());
        match token {
            Some(token) => c.env("TREEHAUL_DASHBOARD_TOKEN", token),
            None => c.env_remove("TREEHAUL_DASHBOARD_TOKEN"),
        };
        let mut child = c.spawn().expect("it starts");
        let mut url = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut url).expect("a line");
        Dashboard { process: Process(Some(child)), url: url.trim().to_owned() }
    }

    fn state(&self) -> Value {
        let (code, body) = http(&self.url, "GET /api/state", &[], "");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// The job that it shows.
    fn job(&self) -> Value {
        self.state()["jobs"][0].clone()
    }

    fn wait_for_work(&self) {
        until("work", || self.job()["done"].as_u64() > Some(3));
    }
}

/// One request: "GET /path", further headers. The status and the body.
fn http(url: &str, request: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let authority = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(authority).expect("it listens");
    let mut text = format!("{request} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "Host") {
        text.push_str(&format!("Host: {authority}\r\n"));
    }
    headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
    stream.write_all(format!("{text}\r\n{body}").as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (code, body.to_owned())
}

/// Where pictures of pages go, for those who want to look.
fn pictures() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pictures");
    fs::create_dir_all(&dir).expect("mkdir");
    dir
}

/// Has a browser go through a scenario of tests/web/browse.mjs. What it saw; nothing went wrong on the page.
fn browse(scenario: &str, url: &str, more: Value) -> Value {
    browser(scenario, url, more).finish()
}

struct Browser(Process, String);

fn browser(scenario: &str, url: &str, more: Value) -> Browser {
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/web");
    let installed = run(&mut Command::new(web.join("install.sh")));
    assert_eq!(installed.code, 0, "{}", installed.stderr);
    let mut args = json!({ "url": url, "token": TOKEN, "pictures": pictures(), "name": scenario });
    args.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let mut c = Command::new("node");
    c.arg(web.join("browse.mjs")).args([scenario, &args.to_string()]).process_group(0);
    c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Browser(Process(Some(c.spawn().expect("node starts"))), scenario.to_owned())
}

impl Browser {
    fn finish(self) -> Value {
        let Browser(process, scenario) = self;
        let ran = process.end();
        assert_eq!(ran.code, 0, "{scenario}: {}{}", ran.stdout, ran.stderr);
        let saw = ran.json();
        assert_eq!(saw["wrong"], json!([]), "{scenario}: on the console");
        assert_eq!((&saw["loaded"], &saw["assets"]), (&json!(200), &json!(true)));
        saw
    }

    /// Waits until it says that it has come so far.
    fn wait_for(&mut self, word: &str) {
        let stderr: &mut ChildStderr = self.0.0.as_mut().and_then(|child| child.stderr.as_mut()).expect("piped");
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(word) {
            let mut byte = [0];
            assert_eq!(stderr.read(&mut byte).expect("it says"), 1, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
    }
}

fn list<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    value[name].as_array().expect("a list").iter().map(|one| one.as_str().expect("text")).collect()
}

fn slow_copy(host: &Host, source: &Path, target: &Path, operations: u32) -> Process {
    let mut c = host.copy(source, target);
    c.args(["--ops-limit", &operations.to_string()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    Process(Some(c.spawn().expect("it starts")))
}

#[test]
fn the_page_follows_a_copy_of_a_fleet_to_its_end() {
    assert_root();
    let host = Host::new("dash-watch");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 51, 500);
    let dashboard = Dashboard::start(&host.url, None, &[]);
    let _workers = [host.worker("alpha"), host.worker("beta")];
    let job = slow_copy(&host, &source, &target, 400);
    let saw = browse("watch", &dashboard.url, json!({"pictured_after": 4}));
    let ran = job.end();
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);

    let seen = saw["seen"].as_array().unwrap();
    let bars: Vec<f64> = seen.iter().map(|one| one["bar"].as_f64().unwrap()).collect();
    assert!(bars.iter().filter(|bar| **bar > 0.0 && **bar < 1.0).count() >= 3, "it moves: {seen:?}");
    let last = seen.last().unwrap();
    assert_eq!((&last["standing"], &last["percent"]), (&json!("complete"), &json!("100 %")), "{last}");
    let found = ran.total("found").to_string();
    let line = last["line"].as_str().unwrap().replace(',', "");
    assert!(line.starts_with(&format!("{found} of {found} entries")), "the totals are those of the job: {line}");
    assert!(saw["pictured"] == true && saw["buttons"] == 0, "without a token there is nothing to press: {saw}");
    assert!(saw["plots"].as_array().unwrap().iter().all(|points| points.as_u64() >= Some(4)), "{saw}");
    assert_eq!((&saw["live"], &saw["trouble"]), (&json!("live"), &json!("")));
    let mut process = dashboard.process;
    assert_eq!(process.terminate(), Some(0), "being told to end is how it ends");
}

/// Symbolic links whose names would do something on a careless page.
fn hostile_tree(source: &Path) -> Vec<&'static str> {
    let dir = source.join("<script>window.touched=1<");
    fs::create_dir_all(&dir).unwrap();
    let names: [&[u8]; 7] = [
        b"<img src=x onerror=window.touched=1>",
        b"\" autofocus onfocus=\"window.touched=1",
        b"&lt;b&gt;",
        b"red\x1b[31m\x07\n",
        "\u{202e}gnp.exe".as_bytes(),
        b"bad\xff\xfe",
        b"{{constructor.constructor('window.touched=1')()}}",
    ];
    names.iter().for_each(|name| symlink("nowhere", source.join(OsStr::from_bytes(name))).unwrap());
    symlink("nowhere", dir.join("script>")).unwrap();
    fs::create_dir(source.join("big")).unwrap();
    fs::write(source.join("big/<svg onload=window.touched=1>"), vec![1; 1_200_000]).unwrap();
    vec![
        "<script>window.touched=1</script>",
        "<img src=x onerror=window.touched=1>",
        "\" autofocus onfocus=\"window.touched=1",
        "&lt;b&gt;",
        "red\\x1b[31m\\x07\\n",
        "\\u{202e}gnp.exe",
        "bad\\xff\\xfe",
        "{{constructor.constructor('window.touched=1')()}}",
    ]
}

#[test]
fn hostile_names_are_shown_and_do_nothing_and_what_failed_is_tried_again_by_a_button() {
    assert_root();
    let host = Host::new("dash-hostile");
    let s = Scratch::new();
    let (source, target) = (s.join("src <b>&amp;"), s.join("dst"));
    let names = hostile_tree(&source);
    let dashboard = Dashboard::start(&host.url, Some(TOKEN), &[]);
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=symlinkat:error=EIO"]);
    c.args([env!("CARGO_BIN_EXE_treehaul"), "worker", "-q", "--name", "<i>faulty<br>", "--broker", &host.url]);
    c.args(["--file-actors", "2", "--dir-actors", "2"]);
    let faulty = Worker(c.stdout(Stdio::null()).process_group(0).spawn().unwrap());
    // It looks on from the beginning.
    let browser = browser("hostile", &dashboard.url, json!({"failures": names.len(), "working": "<svg"}));
    let mut c = host.copy(&source, &target);
    c.args(["--bwlimit", "100K"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let job = Process(Some(c.spawn().unwrap()));
    let saw = browser.finish();

    let mut paths = list(&saw, "paths");
    paths.sort_unstable();
    let mut wanted = names.clone();
    wanted.sort_unstable();
    assert_eq!(paths, wanted, "each is shown, escaped once and as text");
    assert!(list(&saw, "active").contains(&"big/<svg onload=window.touched=1>"), "{}", saw["active"]);
    assert_eq!((&saw["touched"], &saw["inside"], &saw["scripts"]), (&json!(false), &json!(0), &json!(1)), "{saw}");
    assert_eq!(saw["images"], json!(["/icon.svg"]));
    let text = saw["text"].as_str().unwrap();
    assert!(text.contains("src <b>&amp;") && text.contains("<i>faulty<br>"), "{text}");
    assert!(!text.chars().any(|c| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}'), "{text:?}");

    let ran = job.end();
    assert_eq!((ran.code, ran.total("failed")), (3, names.len() as u64), "{}{}", ran.stdout, ran.stderr);
    drop(faulty);
    let _sound = host.worker("sound");
    let saw = browse("retry", &dashboard.url, json!({}));
    assert_eq!(saw["job"]["percent"], "100 %", "{saw}");
    assert_identical(&source, &target);
}

#[test]
fn a_worker_that_is_killed_is_not_forgotten() {
    let host = Host::new("dash-lost");
    let dashboard = Dashboard::start(&host.url, None, &[]);
    let (alpha, _beta) = (host.worker("alpha"), host.worker("beta"));
    until("both workers", || dashboard.state()["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2));
    assert_eq!(dashboard.state()["lost"], json!([]));
    alpha.kill();
    until("the loss", || dashboard.state()["lost"][0]["node"] == "alpha");
    let state = dashboard.state();
    assert_eq!((&state["lost"][0]["state"], &state["nodes"][0]["node"]), (&json!("lost"), &json!("beta")), "{state}");
    let _alpha = host.worker("alpha");
    until("its return", || dashboard.state()["lost"] == json!([]));
}

#[test]
fn who_may_not_act_changes_nothing() {
    let host = Host::new("dash-refused");
    let s = Scratch::new();
    let _worker = host.worker("alpha");
    let dashboard = Dashboard::start(&host.url, Some(TOKEN), &[]);
    let _job = slow_copy(&host, Path::new("synth://?entries=100000&size=0"), &s.join("dst"), 100);
    dashboard.wait_for_work();
    let job = dashboard.job()["job"].as_str().unwrap().to_owned();
    let cancel = json!({ "action": "cancel", "job": job }).to_string();
    let right = format!("Bearer {TOKEN}");
    let post = |headers: &[(&str, &str)], body: &str| http(&dashboard.url, "POST /api/action", headers, body).0;
    let as_json = ("Content-Type", "application/json");
    let with_token = ("Authorization", right.as_str());

    assert_eq!(post(&[as_json], &cancel), 401, "without a token");
    let began = Instant::now();
    assert_eq!(post(&[as_json, ("Authorization", "Bearer a-token-that-somebody-guesses")], &cancel), 401);
    assert!(began.elapsed() >= Duration::from_millis(900), "a wrong one is slow");
    assert_eq!(post(&[as_json, ("Authorization", &format!("Basic {TOKEN}"))], &cancel), 401);
    assert_eq!(post(&[as_json, with_token, ("Origin", "http://evil.example")], &cancel), 403);
    assert_eq!(post(&[as_json, with_token, ("Origin", "null")], &cancel), 403);
    assert_eq!(post(&[as_json, with_token, ("Sec-Fetch-Site", "cross-site")], &cancel), 403);
    assert_eq!(
        post(&[as_json, with_token, ("Host", "evil.example")], &cancel),
        403,
        "a name that was made to point here"
    );
    for kind in ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"] {
        assert_eq!(post(&[("Content-Type", kind), with_token], &cancel), 415, "{kind}");
    }
    assert_eq!(post(&[with_token], &cancel), 415);
    assert_eq!(http(&dashboard.url, "GET /api/action", &[with_token], "").0, 405);
    assert_eq!(post(&[as_json, with_token], &"x".repeat(5000)), 413);
    for body in ["", "{}", "[]", r#"{"action":"cancel","job":"*"}"#, r#"{"action":"stop","node":"alpha"}"#] {
        assert_eq!(post(&[as_json, with_token], body), 400, "{body}");
    }
    let unknown = r#"{"action":"cancel","job":"0000000000001"}"#;
    assert_eq!(post(&[as_json, with_token], unknown), 404);
    assert_eq!(post(&[as_json, with_token], r#"{"action":"pause","node":"al*"}"#), 404, "a name is no glob");
    // Reading is for everybody on this machine, and for no page of another site.
    assert_eq!(http(&dashboard.url, "GET /api/state", &[("Sec-Fetch-Site", "cross-site")], "").0, 403);
    assert_eq!(http(&dashboard.url, "GET /api/state", &[("Host", "evil.example")], "").0, 403);

    let done = dashboard.job()["done"].as_u64();
    until("it goes on", || dashboard.job()["done"].as_u64() > done);
    let now = dashboard.job();
    assert_eq!((&now["standing"], &now["paused"]), (&json!("walking"), &json!(false)), "nothing of that was done");
    let own = dashboard.url.trim_end_matches('/');
    assert_eq!(post(&[as_json, with_token, ("Origin", own), ("Sec-Fetch-Site", "same-origin")], &cancel), 200);
    until("it ends", || dashboard.job()["standing"].as_str().is_some_and(|standing| standing.starts_with("cancelled")));

    let open = Dashboard::start(&host.url, None, &[]);
    assert_eq!(http(&open.url, "POST /api/action", &[as_json, with_token], &cancel).0, 403, "nobody can act there");
}

#[test]
fn buttons_steer_a_job_and_a_node_of_a_fleet() {
    let host = Host::new("dash-steer");
    let s = Scratch::new();
    let dashboard = Dashboard::start(&host.url, Some(TOKEN), &[]);
    let _worker = host.worker_with("alpha", &["--file-actors", "3", "--dir-actors", "2"]);
    let _job = slow_copy(&host, Path::new("synth://?entries=100000&size=0"), &s.join("dst"), 200);
    dashboard.wait_for_work();
    assert_steered(&browse("steer", &dashboard.url, json!({"mode": "fleet"})));
    let nodes = run(treehaul().args(["nodes", "--format", "json", "--broker", &host.url])).json();
    assert_eq!(nodes["nodes"][0]["actors"], json!({"dirs": 2, "files": 4}), "{nodes}");
    until("it ends", || dashboard.job()["standing"] == "cancelled: cancelled on the dashboard");
}

fn assert_steered(saw: &Value) {
    assert_eq!((&saw["readOnly"], &saw["afterWrong"]), (&json!(0), &json!(0)), "no buttons without the token: {saw}");
    let still = saw["still"].as_array().unwrap();
    assert!(still.iter().all(|look| look["done"] == still[0]["done"] && look["standing"] == "paused"), "{still:?}");
    assert!(saw["before"].as_str().unwrap().ends_with("of 3 busy"), "{saw}");
    assert!(saw["after"].as_str().unwrap().ends_with("of 4 busy"), "{saw}");
    assert!(saw["question"].as_str().unwrap().contains("synth://"), "it says what would be cancelled: {saw}");
    assert_eq!(saw["spared"], "walking", "no is no");
}

/// `treehaul copy` alone, with a page; and where that is.
fn copy_alone(source: &Path, target: &Path, more: &[&str]) -> (Process, String) {
    let mut c = treehaul();
    c.args(["copy", "--json", "--dashboard", "127.0.0.1:0"]).args(more).args([source, target]);
    c.env("TREEHAUL_DASHBOARD_TOKEN", TOKEN).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = c.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("dashboard: ").unwrap_or_else(|| panic!("no address: {line}")).to_owned();
    // It must not wait for whoever reads what it says.
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    (Process(Some(child)), url)
}

#[test]
fn a_run_alone_has_a_page_that_ends_with_it() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 52, 400);
    let (copy, url) = copy_alone(&source, &target, &["--ops-limit", "300", "--file-actors", "3", "--dir-actors", "2"]);
    let saw = browse("watch", &url, json!({"name": "alone", "pictured_after": 5}));
    let ran = copy.end();
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
    let seen = saw["seen"].as_array().unwrap();
    assert!(seen.iter().filter(|one| one["bar"].as_f64() < Some(1.0)).count() >= 3, "it moves: {seen:?}");
    let last = seen.last().unwrap();
    assert_eq!((&last["standing"], &last["percent"]), (&json!("complete"), &json!("100 %")), "{last}");
    assert_eq!((&saw["live"], &saw["trouble"]), (&json!("over"), &json!("The run is over: this is how it ended.")));
    assert!(TcpStream::connect(url.trim_start_matches("http://").trim_end_matches('/')).is_err(), "it is gone");
}

#[test]
fn buttons_steer_a_run_alone() {
    let s = Scratch::new();
    let source = Path::new("synth://?entries=100000&size=0");
    let (copy, url) =
        copy_alone(source, &s.join("dst"), &["--ops-limit", "200", "--file-actors", "3", "--dir-actors", "2"]);
    assert_steered(&browse("steer", &url, json!({"mode": "alone", "name": "steer-alone"})));
    let ran = copy.end();
    assert_eq!(ran.code, 4, "{}", ran.stdout);
    assert!(ran.stdout.contains("cancelled on the dashboard"), "{}", ran.stdout);
    assert_no_leftovers(&s.join("dst"));
}

#[test]
fn every_control_is_reached_by_keyboard_and_no_phone_scrolls_sideways() {
    let host = Host::new("dash-keys");
    let s = Scratch::new();
    let long = s.join("a-name-without-any-place-to-break-it-".repeat(6));
    let dashboard = Dashboard::start(&host.url, Some(TOKEN), &[]);
    let _workers = [host.worker(&"n".repeat(60)), host.worker("alpha")];
    let _job = slow_copy(&host, Path::new("synth://?entries=100000&size=0"), &long, 100);
    dashboard.wait_for_work();
    let saw = browse("keyboard", &dashboard.url, json!({}));
    let (names, reached) = (list(&saw, "names"), list(&saw, "reached"));
    assert!(names.len() >= 13, "a link, a lock, two for the job, five for each node: {names:?}");
    for name in names {
        assert!(reached.contains(&name), "{name}: {reached:?}");
    }
    assert_eq!(saw["invisible"], json!([]), "the focus is seen");
    assert_eq!(saw["unnamed"], 0, "tables have captions and heads");
    assert_eq!((&saw["wide"], &saw["narrower"]), (&json!(false), &json!(false)), "{saw}");
}

#[test]
fn the_page_outlives_a_broker_that_goes_and_comes_back() {
    let mut broker = OwnBroker::start(&Options::default());
    let dashboard = Dashboard::start(&broker.url(), None, &[]);
    until("it is ready", || http(&dashboard.url, "GET /readyz", &[], "").0 == 200);
    broker.kill9();
    let mut browser = browser("away", &dashboard.url, json!({}));
    browser.wait_for("away");
    assert_eq!(http(&dashboard.url, "GET /healthz", &[], "").0, 200, "it lives");
    assert!(!dashboard.state()["trouble"].is_null());
    broker.start_again();
    let saw = browser.finish();
    assert_eq!(saw["after"], false, "{saw}");
}

#[test]
fn where_others_could_read_the_token_is_needed() {
    let host = Host::new("dash-private");
    let s = Scratch::new();
    let file = s.join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let closed = Dashboard::start(&host.url, None, &["--private", "--token-file", file.to_str().unwrap()]);
    for path in ["/api/state", "/events"] {
        assert_eq!(http(&closed.url, &format!("GET {path}"), &[], "").0, 401, "{path}");
    }
    let authorized = [("Authorization", format!("Bearer {TOKEN}"))].map(|(name, value)| (name, value.leak() as &str));
    assert_eq!(http(&closed.url, "GET /api/state", &authorized, "").0, 200);
    assert_eq!(http(&closed.url, "GET /healthz", &[], "").0, 200, "that says nothing");
    let saw = browse("closed", &closed.url, json!({}));
    assert_eq!((&saw["before"], &saw["kept"]), (&json!(0), &json!("1 0 ")), "kept for this tab alone: {saw}");

    let refused = |args: &[&str], token: &str| {
        let mut c = treehaul();
        c.args(["dashboard", "--broker", &host.url]).args(args).env("TREEHAUL_DASHBOARD_TOKEN", token);
        let ran = run(&mut c);
        assert_eq!(ran.code, 2, "{args:?}: {}{}", ran.stdout, ran.stderr);
        assert!(!ran.stderr.contains(TOKEN), "no secret is said: {}", ran.stderr);
        ran.stderr
    };
    assert!(refused(&["--listen", "0.0.0.0:0"], "").contains("names of files"));
    assert!(refused(&["--listen", "127.0.0.1:0", "--private"], "").contains("names of files"));
    assert!(refused(&["--listen", "127.0.0.1:0"], "short").contains("16 bytes"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&["--listen", "127.0.0.1:0", "--token-file", file.to_str().unwrap()], "").contains("chmod 600"));
    let start =
        run(treehaul().args(["start", "copy", "/a", "/b", "--dashboard", "127.0.0.1:0", "--broker", &host.url]));
    assert_eq!(start.code, 2, "{}", start.stderr);
}
