//! This node, and the servers that it talks to.

use super::{About, Row, Verdict};
use crate::broker::amqp::AmqpConfig;
use crate::model::escaped;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Open files that a node with many actors needs.
const ENOUGH_FILES: u64 = 4096;
/// Longest answer of a server that is looked at, in bytes.
const ANSWER_BYTES: u64 = 256;

pub(super) fn node_rows() -> Vec<Row> {
    let row = |topic: &str, verdict, found: String, advice: &str| Row::new(About::Node, topic, verdict, found, advice);
    let uid = rustix::process::geteuid();
    let user = if uid.is_root() {
        row("user", Verdict::Ok, "root".into(), "")
    } else {
        let advice = "owners, devices, trusted.* and what others may not read need root";
        row("user", Verdict::Lost, format!("uid {}", uid.as_raw()), advice)
    };
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let found = files.map_or_else(|| "any number".to_owned(), |n| format!("{n} at once"));
    let verdict = if files.is_none_or(|n| n >= ENOUGH_FILES) { Verdict::Ok } else { Verdict::Note };
    vec![user, row("open files", verdict, found, "raise the limit for many actors: ulimit -n 65536")]
}

/// Asks the broker as a job would, and touches no job.
pub(super) fn broker_row(config: &AmqpConfig) -> Row {
    match crate::broker::amqp::jobs(config).map(drop).map_err(crate::node::NodeError::Broker) {
        Ok(()) => Row::new(About::Node, "broker", Verdict::Ok, format!("{config} answers"), ""),
        Err(e) => Row::new(About::Node, "broker", Verdict::Fails, e.to_string(), "jobs over this broker cannot start"),
    }
}

pub(super) fn memcached_row(address: &str) -> Row {
    let shown = escaped(address.as_bytes());
    let advice = "counters for dashboards are lost; jobs are none the worse";
    match ask_version(address) {
        Ok(version) => Row::new(About::Node, "memcached", Verdict::Ok, format!("{shown} answers: {version}"), ""),
        Err(e) => Row::new(About::Node, "memcached", Verdict::Fails, format!("{shown}: {e}"), advice),
    }
}

/// The server's version, by the text protocol.
fn ask_version(address: &str) -> std::io::Result<String> {
    let none = || std::io::Error::new(std::io::ErrorKind::NotFound, "no such host");
    let mut stream = TcpStream::connect_timeout(&address.to_socket_addrs()?.next().ok_or_else(none)?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"version\r\n")?;
    let mut answer = Vec::new();
    BufReader::new(std::io::Read::take(stream, ANSWER_BYTES)).read_until(b'\n', &mut answer)?;
    match answer.strip_prefix(b"VERSION ") {
        Some(version) => Ok(escaped(version.trim_ascii())),
        None => Err(std::io::Error::other("what answers there is no memcached")),
    }
}
