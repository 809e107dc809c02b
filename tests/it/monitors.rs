//! What draws and what alerts, of a test's own: carbon with graphite-web, Prometheus; and the exporter that feeds them.
//!
//! Invariant: whatever was started here carries a mark in its environment and is gone soon after this process is,
//! however that ended: the reaper of `tests/with-services.sh` waits at the end of a pipe that only this process holds.

use crate::brokers::{START, free_port, until};
use crate::hosts::{Host, Worker};
use crate::support::*;
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// A file of `ops/`.
pub fn ops(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ops").join(name)
}

/// Its text.
pub fn ops_text(name: &str) -> String {
    fs::read_to_string(ops(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A directory of services, and the process that takes both away.
struct Den {
    dir: PathBuf,
    children: Vec<(String, Child)>,
    reaper: Child,
    alive: Option<ChildStdin>,
}

impl Den {
    fn new() -> Self {
        assert_root();
        let temporary = tempfile::Builder::new().prefix("treehaul-monitors-").tempdir().expect("a temporary directory");
        let dir = temporary.keep();
        let mut reaper = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/with-services.sh"));
        reaper.arg("--reap").arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null());
        // Out of reach of the terminal's signals.
        let mut reaper = reaper.process_group(0).spawn().expect("the reaper starts");
        let alive = reaper.stdin.take();
        Den { dir, children: Vec::new(), reaper, alive }
    }

    /// Writes a file of settings.
    fn file(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).expect("write");
    }

    /// The beginning of a command that runs as nobody and carries the mark.
    fn nobody(&self) -> Command {
        let mut c = Command::new("setpriv");
        c.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        c.env("TREEHAUL_SERVICES", &self.dir).env("HOME", &self.dir).current_dir(&self.dir).stdin(Stdio::null());
        c
    }

    /// Everything in it is nobody's from now on.
    fn give_away(&self) {
        sh(&format!("chown -R 65534:65534 {}", q(&self.dir)));
    }

    fn start(&mut self, name: &str, mut command: Command) {
        let out = fs::File::create(self.dir.join(format!("{name}.out"))).expect("create");
        command.stdout(out.try_clone().expect("a descriptor")).stderr(out).process_group(0);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}: run ops/install-test-deps.sh"));
        self.children.push((name.to_owned(), child));
    }

    /// Waits until something holds, while everything that was started lives.
    fn until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        let (dir, children) = (&self.dir, &mut self.children);
        until(what, START, || {
            for (name, child) in children.iter_mut() {
                let ended = child.try_wait().expect("a child");
                let said = || fs::read_to_string(dir.join(format!("{name}.out"))).unwrap_or_default();
                assert!(ended.is_none(), "{name} ended, {ended:?}: {}", said());
            }
            holds()
        });
    }
}

impl Drop for Den {
    fn drop(&mut self) {
        self.alive = None;
        let _ = self.reaper.wait();
        self.children.iter_mut().for_each(|(_, child)| drop(child.wait()));
    }
}

/// What a GET answers, if it is a success.
fn get(url: &str) -> Option<Vec<u8>> {
    let ran =
        Command::new("curl").args(["-gfsS", "--max-time", "30", url]).stderr(Stdio::null()).output().expect("curl");
    ran.status.success().then_some(ran.stdout)
}

fn get_json(url: &str) -> Option<Value> {
    serde_json::from_slice(&get(url)?).ok()
}

/// carbon and graphite-web, with what `ops/graphite` says of keeping; but for every second.
pub struct Graphite {
    den: Den,
    /// Where plaintext goes.
    pub carbon: u16,
    web: u16,
}

impl Graphite {
    pub fn start() -> Self {
        let den = Den::new();
        let [carbon, pickle, query, web] = [free_port(), free_port(), free_port(), free_port()];
        let dir = den.dir.display();
        den.file(
            "carbon.conf",
            &format!(
                "[cache]\nSTORAGE_DIR = {dir}\nLOCAL_DATA_DIR = {dir}/whisper\nCONF_DIR = {dir}\nLOG_DIR = {dir}\nPID_DIR = {dir}\n\
                 USER =\nMAX_CREATES_PER_MINUTE = inf\nMAX_UPDATES_PER_SECOND = inf\nENABLE_TAGS = False\nWHISPER_SPARSE_CREATE = True\n\
                 LINE_RECEIVER_INTERFACE = 127.0.0.1\nLINE_RECEIVER_PORT = {carbon}\n\
                 PICKLE_RECEIVER_INTERFACE = 127.0.0.1\nPICKLE_RECEIVER_PORT = {pickle}\n\
                 CACHE_QUERY_INTERFACE = 127.0.0.1\nCACHE_QUERY_PORT = {query}\n"
            ),
        );
        let schemas = ops_text("graphite/storage-schemas.conf");
        assert!(schemas.contains("retentions = 10s:"));
        den.file("storage-schemas.conf", &schemas.replace("retentions = 10s:", "retentions = 1s:"));
        den.file("storage-aggregation.conf", &ops_text("graphite/storage-aggregation.conf"));
        den.file(
            "monitors_settings.py",
            &format!(
                "SECRET_KEY='of a test'; ALLOWED_HOSTS=['*']; TIME_ZONE='UTC'; DEBUG=False; LOG_ROTATION=False\n\
                 GRAPHITE_ROOT='/usr/share/graphite-web'; STATIC_ROOT='/usr/share/graphite-web/static'\n\
                 CONF_DIR=STORAGE_DIR=LOG_DIR='{dir}'; INDEX_FILE='{dir}/index'\n\
                 WHISPER_DIR='{dir}/whisper'; STANDARD_DIRS=[WHISPER_DIR]; FUNCTION_PLUGINS=[]; MEMCACHE_HOSTS=[]\n\
                 CARBONLINK_HOSTS=['127.0.0.1:{query}:a']\n\
                 DATABASES={{'default': {{'NAME': '{dir}/graphite.db', 'ENGINE': 'django.db.backends.sqlite3'}}}}\n"
            ),
        );
        fs::create_dir(den.dir.join("whisper")).expect("mkdir");
        den.give_away();
        let mut graphite = Graphite { den, carbon, web };
        graphite.run(query);
        graphite
    }

    fn run(&mut self, query: u16) {
        let mut cache = self.den.nobody();
        cache.args(["/usr/bin/carbon-cache", "--nodaemon"]);
        cache.arg(format!("--config={}", self.den.dir.join("carbon.conf").display()));
        cache.arg(format!("--pidfile={}", self.den.dir.join("carbon.pid").display())).arg("start");
        self.den.start("carbon", cache);
        let ran = run(self.manage().args(["migrate", "--run-syncdb"]));
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        let mut web = self.manage();
        web.args(["runserver", "--noreload", &format!("127.0.0.1:{}", self.web)]);
        self.den.start("graphite-web", web);
        let carbon = self.carbon;
        let find = self.url("/metrics/find?query=*");
        let is_open = |port: u16| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        self.den.until("Graphite answers", || is_open(carbon) && is_open(query) && get(&find).is_some());
    }

    /// graphite-web's own manager; the distribution's Python knows its modules.
    fn manage(&self) -> Command {
        let mut c = self.den.nobody();
        c.env("GRAPHITE_SETTINGS_MODULE", "monitors_settings").env("DJANGO_SETTINGS_MODULE", "graphite.settings");
        c.env("PYTHONPATH", &self.den.dir).env("PYTHONWARNINGS", "ignore");
        c.args(["/usr/bin/python3", "/usr/bin/graphite-manage"]);
        c
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.web)
    }

    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        get(&self.url(path))
    }

    /// Every path that there is.
    pub fn paths(&self) -> Vec<String> {
        let all = get_json(&self.url("/metrics/index.json")).unwrap_or_default();
        let names = all.as_array().into_iter().flatten().filter_map(Value::as_str);
        names.map(|name| name.trim_start_matches('.').to_owned()).filter(|name| !name.starts_with("carbon.")).collect()
    }

    /// Numbers of a `/render?` query: name and values of each series, gaps left out.
    pub fn numbers(&self, query: &str) -> Vec<(String, Vec<f64>)> {
        let answer = get_json(&self.url(&format!("{query}&format=json")));
        let answer = answer.unwrap_or_else(|| panic!("no JSON: {query}\n{}", self.said()));
        let series = answer.as_array().expect("a list").iter();
        series
            .map(|one| {
                let points = one["datapoints"].as_array().into_iter().flatten();
                (one["target"].as_str().unwrap_or_default().to_owned(), points.filter_map(|p| p[0].as_f64()).collect())
            })
            .collect()
    }

    /// Saves a dashboard, as its page does; what the page is then given.
    pub fn save_dashboard(&self, file: &Path) -> Value {
        let save = self.url("/dashboard/save/treehaul");
        let said = sh(&format!("curl -fsS --data-urlencode state@{} '{save}'", q(file)));
        assert!(said.contains("\"success\": true"), "{said}");
        get_json(&self.url("/dashboard/load/treehaul")).expect("it is kept")["state"].clone()
    }

    /// How a path is kept: what `whisper-info` says of it.
    pub fn kept(&self, path: &str) -> String {
        let file = self.den.dir.join("whisper").join(path.replace('.', "/")).with_extension("wsp");
        sh(&format!("whisper-info {} | grep -E 'aggregationMethod|xFilesFactor|secondsPerPoint|retention'", q(&file)))
    }

    fn said(&self) -> String {
        fs::read_to_string(self.den.dir.join("graphite-web.out")).unwrap_or_default()
    }
}

/// Prometheus, with `ops/prometheus`; but every second, and with a target of the test's.
pub struct Prometheus {
    _den: Den,
    port: u16,
}

impl Prometheus {
    pub fn start(target: u16) -> Self {
        let mut den = Den::new();
        let port = free_port();
        let conf = ops_text("prometheus/prometheus.yml");
        assert!(conf.contains("\"127.0.0.1:9464\"") && conf.contains("interval: 10s"));
        let conf =
            conf.replace("127.0.0.1:9464", &format!("127.0.0.1:{target}")).replace("interval: 10s", "interval: 1s");
        den.file("prometheus.yml", &conf);
        den.file("treehaul.rules.yml", &ops_text("prometheus/treehaul.rules.yml"));
        den.give_away();
        let mut prometheus = den.nobody();
        prometheus.args(["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"]);
        prometheus.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        den.start("prometheus", prometheus);
        den.until("Prometheus answers", || get(&format!("http://127.0.0.1:{port}/-/ready")).is_some());
        Prometheus { _den: den, port }
    }

    /// What a query gives now: an error, or one value a series, by its labels.
    pub fn query(&self, expr: &str) -> Result<Vec<(Value, f64)>, String> {
        let mut c = Command::new("curl");
        c.args(["-sS", "--data-urlencode", &format!("query={expr}")])
            .arg(format!("http://127.0.0.1:{}/api/v1/query", self.port));
        let answer = run(&mut c).json();
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        let result = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |one: &Value| one["value"][1].as_str().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
        Ok(result.iter().map(|one| (one["metric"].clone(), value(one))).collect())
    }

    /// All rules, as it has read them.
    pub fn rules(&self) -> Vec<Value> {
        let answer = get_json(&format!("http://127.0.0.1:{}/api/v1/rules", self.port)).expect("an answer");
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }
}

/// A memcached that nobody else counts in, and its address.
fn memcached() -> (Den, String) {
    let (mut den, port) = (Den::new(), free_port());
    den.give_away();
    let mut memcached = den.nobody();
    memcached.args(["memcached", "-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()]);
    den.start("memcached", memcached);
    den.until("memcached answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    (den, format!("127.0.0.1:{port}"))
}

/// Takes from a list what is done with, and shows what is left whenever that changed. True if nothing is.
pub fn dwindle<T: std::fmt::Debug>(what: &str, left: &mut Vec<T>, is_done: impl Fn(&T) -> bool) -> bool {
    let before = left.len();
    left.retain(|one| !is_done(one));
    if left.len() < before {
        println!("{what}: {left:?}");
    }
    left.is_empty()
}

/// A fleet at work on a long job, with an exporter.
pub struct Busy {
    /// Where `/metrics` is.
    pub metrics: u16,
    // What uses the others goes first.
    _follower: Worker,
    _exporter: Worker,
    _workers: [Worker; 2],
    _memcached: Den,
    _host: Host,
    _scratch: Scratch,
}

impl Busy {
    /// `more` are further arguments of the exporter.
    pub fn start(name: &str, more: &[&str]) -> Self {
        let (host, scratch) = (Host::new(name), Scratch::new());
        let (den, memcached) = memcached();
        let metrics = free_port();
        let workers = ["one", "two"].map(|n| host.worker_with(&format!("{name}-{n}"), &["--memcached", &memcached]));
        let target = scratch.join("dst");
        // A tree that nobody had to make and that takes longer than any test.
        let mut copy = host.copy(Path::new("synth://?entries=3000000"), &target);
        copy.args(["--ops-limit", "3000"]).stdout(Stdio::null()).stderr(Stdio::null());
        let follower = Worker(copy.process_group(0).spawn().expect("a job starts"));
        let mut export = treehaul();
        export.args(["export", "--broker", &host.url, "--memcached", &memcached, "--every", "1s"]);
        export.args(["--prometheus", &format!("127.0.0.1:{metrics}")]).args(more);
        export.env("TREEHAUL_STATE_DIR", scratch.path()).stdout(Stdio::null());
        let exporter = Worker(export.process_group(0).spawn().expect("an exporter starts"));
        Busy {
            metrics,
            _follower: follower,
            _exporter: exporter,
            _workers: workers,
            _memcached: den,
            _host: host,
            _scratch: scratch,
        }
    }

    /// What the exporter serves now.
    pub fn text(&self) -> Option<String> {
        String::from_utf8(get(&format!("http://127.0.0.1:{}/metrics", self.metrics))?).ok()
    }
}
