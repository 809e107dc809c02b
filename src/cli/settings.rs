//! Settings of a node: a flag counts more than the environment, that more than the configuration file, and that more
//! than the default.
//!
//! Invariant: [`KEYS`] is the one description of them. What is not in it is an error, wherever it is read.

use super::secret::{self, shown};
use super::worker::ACTORS;
use crate::broker::amqp::QueueType;

use anyhow::{Context, anyhow, bail, ensure};
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Read if no other file is named; it need not exist.
const USUAL_FILE: &str = "/etc/treehaul/config.toml";
/// Names another one; empty for none.
const ENV_FILE: &str = "TREEHAUL_CONFIG";
/// Names that differ in more than this share of their letters are not taken for misspelt.
const NEAR: f64 = 0.6;

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A word.
    Text,
    /// A broker's URL, which may have a password in it.
    Url,
    /// Never shown.
    Secret,
    /// A file, absolute in the configuration file.
    Path,
    /// Actors: 1 to 4096.
    Count,
    /// `quorum` or `classic`.
    QueueType,
    /// Absolute directories; only in the configuration file.
    Roots,
    /// `HOST:PORT`.
    Address,
}

/// A setting.
#[derive(Debug)]
pub struct Key {
    /// In the configuration file.
    pub name: &'static str,
    /// On the command line; none if empty.
    pub flag: &'static str,
    /// In the environment; none if empty.
    pub env: &'static str,
    /// What it looks like.
    pub shape: Shape,
    /// What holds if nobody says anything; nothing does if empty.
    pub default: fn() -> String,
}

fn none() -> String {
    String::new()
}

const fn key(name: &'static str, flag: &'static str, env: &'static str, shape: Shape, default: fn() -> String) -> Key {
    Key { name, flag, env, shape, default }
}

/// Where the broker is.
pub const BROKER: Key = key("broker", "--broker", "TREEHAUL_BROKER", Shape::Url, none);
/// How it keeps the queues of a job.
pub const QUEUES: Key =
    key("queue_type", "--queue-type", "TREEHAUL_QUEUE_TYPE", Shape::QueueType, || "quorum".to_owned());
/// The file with the fleet's key.
pub const KEY_FILE: Key = key("key_file", "--key-file", "TREEHAUL_KEY_FILE", Shape::Path, none);
/// The user that the broker knows.
pub const AMQP_USER: Key = key("amqp_user", "", "TREEHAUL_AMQP_USER", Shape::Text, none);
/// The user's password: in the environment alone.
pub const AMQP_PASSWORD: Key = key("", "", "TREEHAUL_AMQP_PASSWORD", Shape::Secret, none);
/// The file with the user's password.
pub const PASSWORD_FILE: Key =
    key("password_file", "--password-file", "TREEHAUL_AMQP_PASSWORD_FILE", Shape::Path, none);
/// Certificates to trust besides the system's.
pub const CA: Key = key("ca", "", "TREEHAUL_AMQP_CA", Shape::Path, none);
/// The client's certificate.
pub const CERT: Key = key("cert", "", "TREEHAUL_AMQP_CERT", Shape::Path, none);
/// The key of the client's certificate.
pub const CERT_KEY: Key = key("cert_key", "", "TREEHAUL_AMQP_CERT_KEY", Shape::Path, none);
/// What this worker is called.
pub const NAME: Key = key("name", "--name", "TREEHAUL_NAME", Shape::Text, || {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
});
/// Actors that list directories.
pub const DIR_ACTORS: Key =
    key("dir_actors", "--dir-actors", "TREEHAUL_DIR_ACTORS", Shape::Count, || ACTORS.to_string());
/// Actors that work on files.
pub const FILE_ACTORS: Key =
    key("file_actors", "--file-actors", "TREEHAUL_FILE_ACTORS", Shape::Count, || ACTORS.to_string());
/// A worker works at or below these alone.
pub const ALLOWED_ROOTS: Key = key("allowed_roots", "", "", Shape::Roots, none);

/// The memcached for counters.
pub const MEMCACHED: Key = key("memcached", "--memcached", "TREEHAUL_MEMCACHED", Shape::Address, none);
/// Where an exporter sends to, as Graphite takes it.
pub const GRAPHITE: Key = key("graphite", "--graphite", "TREEHAUL_GRAPHITE", Shape::Address, none);
/// Where an exporter sends to, as statsd takes it.
pub const STATSD: Key = key("statsd", "--statsd", "TREEHAUL_STATSD", Shape::Address, none);
/// Where an exporter is scraped.
pub const PROMETHEUS: Key = key("prometheus", "--prometheus", "TREEHAUL_PROMETHEUS", Shape::Text, none);
/// What an exporter's paths begin with.
pub const METRICS_PREFIX: Key =
    key("metrics_prefix", "--prefix", "TREEHAUL_METRICS_PREFIX", Shape::Text, || "treehaul".to_owned());

/// All of them.
pub const KEYS: [&Key; 18] = [
    &BROKER,
    &QUEUES,
    &KEY_FILE,
    &AMQP_USER,
    &AMQP_PASSWORD,
    &PASSWORD_FILE,
    &CA,
    &CERT,
    &CERT_KEY,
    &NAME,
    &DIR_ACTORS,
    &FILE_ACTORS,
    &ALLOWED_ROOTS,
    &MEMCACHED,
    &GRAPHITE,
    &STATSD,
    &PROMETHEUS,
    &METRICS_PREFIX,
];

/// Who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag(&'static str),
    /// A variable of the environment.
    Env(&'static str),
    /// The configuration file.
    File(PathBuf),
    /// Nobody.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Flag(name) => write!(f, "flag {name}"),
            Origin::Env(name) => write!(f, "environment {name}"),
            Origin::File(path) => write!(f, "file {}", shown(path)),
            Origin::Default => write!(f, "default"),
        }
    }
}

/// A flag's value, with its key.
pub type Flag = (&'static Key, OsString);

/// What holds.
pub struct Settings {
    /// In the order of [`KEYS`]; no value at all: it is not set, or is set to nothing.
    found: Vec<(Vec<OsString>, Origin)>,
}

impl Settings {
    /// Reads everything. `file` is the one named on the command line.
    ///
    /// # Errors
    /// A message that names what is wrong, where, and the way out; never a secret.
    pub fn load(file: Option<&Path>, flags: &[Flag]) -> anyhow::Result<Self> {
        Self::load_with(file, flags, |name| std::env::var_os(name))
    }

    fn load_with(file: Option<&Path>, flags: &[Flag], env: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Self> {
        let named = file.map(Path::to_owned).or_else(|| env(ENV_FILE).map(PathBuf::from));
        let (path, must_exist) = named.map_or_else(|| (PathBuf::from(USUAL_FILE), false), |path| (path, true));
        let table = if path.as_os_str().is_empty() { toml::Table::new() } else { read_file(&path, must_exist)? };
        let mut found = Vec::new();
        for key in KEYS {
            let flag = flags.iter().find(|(k, _)| k.name == key.name && k.env == key.env);
            let said = if let Some((_, value)) = flag {
                (vec![value.clone()], Origin::Flag(key.flag))
            } else if let Some(value) = Some(key.env).filter(|e| !e.is_empty()).and_then(&env) {
                (vec![value], Origin::Env(key.env))
            } else if let Some(value) = table.get(key.name) {
                let values = words(value).with_context(|| format!("{} in {}", key.name, shown(&path)))?;
                (values, Origin::File(path.clone()))
            } else {
                (vec![(key.default)().into()], Origin::Default)
            };
            found.push(checked(key, said)?);
        }
        Ok(Settings { found })
    }

    fn of(&self, key: &Key) -> &(Vec<OsString>, Origin) {
        // Every key is in the table, which `every_key_is_in_the_table` makes sure of.
        let at = KEYS.iter().position(|k| (k.name, k.env) == (key.name, key.env)).unwrap_or_default();
        &self.found[at]
    }

    /// Who said so.
    pub fn origin(&self, key: &Key) -> &Origin {
        &self.of(key).1
    }

    /// A value that is text.
    pub fn text(&self, key: &Key) -> Option<&str> {
        self.of(key).0.first().and_then(|value| value.to_str())
    }

    /// A value that is a path.
    pub fn path(&self, key: &Key) -> Option<&Path> {
        self.of(key).0.first().map(Path::new)
    }

    /// A value that is a number.
    pub fn count(&self, key: &Key) -> Option<usize> {
        self.text(key).and_then(|text| text.parse().ok())
    }

    /// Values of a list; none at all if nobody gave one.
    pub fn list(&self, key: &Key) -> Option<Vec<PathBuf>> {
        let (values, origin) = self.of(key);
        (*origin != Origin::Default).then(|| values.iter().map(PathBuf::from).collect())
    }

    /// A value as it may be shown.
    pub fn show(&self, key: &Key) -> String {
        let (values, _) = self.of(key);
        let shown: Vec<String> = values.iter().map(|value| masked(key.shape, value)).collect();
        match (key.shape, shown.as_slice()) {
            (Shape::Roots, shown) if self.list(key).is_some() => format!("[{}]", shown.join(", ")),
            (_, []) => "not set".to_owned(),
            (_, shown) => shown.join(", "),
        }
    }
}

fn masked(shape: Shape, value: &OsStr) -> String {
    let hidden = || "***".to_owned();
    match shape {
        Shape::Secret => hidden(),
        // One that is not understood may have its password anywhere.
        Shape::Url => match value.to_str().and_then(|text| url::Url::parse(text).ok()) {
            Some(mut url) if url.has_host() && !url.path().contains('@') => {
                if url.password().is_some() && url.set_password(Some("***")).is_err() {
                    return hidden();
                }
                crate::model::escaped(url.as_str().as_bytes())
            }
            _ => hidden(),
        },
        _ => crate::model::escaped(value.as_bytes()),
    }
}

/// Values as the file has them.
fn words(value: &toml::Value) -> anyhow::Result<Vec<OsString>> {
    match value {
        toml::Value::String(text) => Ok(vec![text.into()]),
        toml::Value::Integer(number) => Ok(vec![number.to_string().into()]),
        toml::Value::Array(values) => {
            let text = |v: &toml::Value| v.as_str().map(OsString::from).context("a list of strings is expected");
            values.iter().map(text).collect()
        }
        other => Err(anyhow!("{} is not expected", other.type_str())),
    }
}

/// Makes sure that a value has its key's shape. One that is empty is none.
fn checked(key: &Key, (mut values, origin): (Vec<OsString>, Origin)) -> anyhow::Result<(Vec<OsString>, Origin)> {
    let wrong = |what: &str| match &origin {
        Origin::File(path) => anyhow!("{} in {}: {what}", key.name, shown(path)),
        Origin::Env(name) => anyhow!("{name}: {what}"),
        Origin::Flag(name) => anyhow!("{name}: {what}"),
        Origin::Default => anyhow!("{}: {what}", key.name),
    };
    let is_file = matches!(origin, Origin::File(_));
    values.retain(|value| !value.is_empty());
    ensure!(key.shape == Shape::Roots || values.len() <= 1, wrong("one value is expected, not a list"));
    for value in &values {
        let text = || value.to_str().ok_or_else(|| wrong("it is not UTF-8"));
        let is_absolute = value.as_bytes().starts_with(b"/");
        match key.shape {
            Shape::Text | Shape::Url | Shape::Secret => drop(text()?),
            Shape::Path => ensure!(is_absolute || !is_file, wrong("give an absolute path")),
            Shape::Roots => ensure!(is_absolute, wrong("give absolute paths")),
            Shape::Address => {
                let (host, port) = text()?.rsplit_once(':').unwrap_or_default();
                ensure!(!host.is_empty() && port.parse::<u16>().is_ok(), wrong("give HOST:PORT"));
            }
            Shape::QueueType => drop(text()?.parse::<QueueType>().map_err(|e| wrong(&e))?),
            Shape::Count => {
                let number = text()?.parse::<u16>().ok().filter(|n| (1..=4096).contains(n));
                ensure!(number.is_some(), wrong("give a number from 1 to 4096"));
            }
        }
    }
    Ok((values, origin))
}

fn read_file(path: &Path, must_exist: bool) -> anyhow::Result<toml::Table> {
    if !must_exist && std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        return Ok(toml::Table::new());
    }
    let opened = secret::open_trusted(path).context("the configuration file")?;
    let is_shared = opened.is_shared;
    let text = String::from_utf8(opened.read(path)?).ok().with_context(|| format!("{} is not UTF-8", shown(path)))?;
    let table = text.parse::<toml::Table>().map_err(|e| {
        // Its own words would show the line, which may hold a secret.
        let line = e.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        anyhow!("{}, line {line}: {}", shown(path), crate::model::escaped(e.message().as_bytes()))
    })?;
    for name in table.keys() {
        if !KEYS.iter().any(|key| key.name == name.as_str() && !name.is_empty()) {
            bail!("{}: {}", shown(path), unknown(name));
        }
    }
    let url = table.get(BROKER.name).and_then(|v| v.as_str()).and_then(|text| url::Url::parse(text).ok());
    let secret = url.is_some_and(|url| url.password().is_some());
    ensure!(!(secret && is_shared), "{0} holds a password and can be read by others: chmod 600 {0}", shown(path));
    Ok(table)
}

fn unknown(name: &str) -> String {
    let names = KEYS.iter().map(|key| key.name).filter(|known| !known.is_empty());
    let nearness = |known: &str| strsim::normalized_damerau_levenshtein(known, name);
    let nearest = names.clone().max_by(|a, b| nearness(a).total_cmp(&nearness(b))).unwrap_or_default();
    let name = crate::model::escaped(name.as_bytes());
    if nearness(nearest) >= NEAR {
        format!("there is no key '{name}'; is '{nearest}' meant?")
    } else {
        let all: Vec<&str> = names.collect();
        format!("there is no key '{name}'; the nearest is '{nearest}', and all are {}", all.join(", "))
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
