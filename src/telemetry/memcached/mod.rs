//! Counters of a fleet in a memcached: every node adds what it counted, whoever wants to know reads.
//!
//! Invariant: a memcached that is gone, slow, restarted or full costs numbers in a picture and nothing else. Nothing is
//! ever added twice; nothing that is read there is believed before it was looked at.
//!
//! # Keys
//!
//! All are text, live for 24 hours after they were last written, and begin with `treehaul.`; a node's part is
//! [`node_part`] of its name.
//!
//! | key | value |
//! |---|---|
//! | `treehaul.epoch` | which life of this memcached it is: its process, start and flushes |
//! | `treehaul.index` | how many slots there are |
//! | `treehaul.index.<n>` | a slot, from 1: `<job> <node> dirs=0-15 files=0-15 calls=open,stat`, or `- <node>` for a node as such |
//! | `treehaul.<job>.<node>.<kind>_<n>.<counter>` | a counter of an actor: [`COUNTERS`](super::counts::COUNTERS) |
//! | `treehaul.<job>.<node>.latency.<call>.<bucket>` | calls that took so long: a bucket of [`Histogram`](crate::model::latency::Histogram) |
//! | `treehaul.<job>.<node>.latency.<call>.sum_ns` | all their durations, in nanoseconds |
//! | `treehaul.node.<node>.gauges` | `at=<seconds since 1970> actors_dirs=16 ...`: what the node does now |
//!
//! A counter that is still 0 has no key. Slots are found, not guessed: a node that counts for a job takes the first
//! that is free, looks each time whether it is still its own, and takes one anew after a restart or an eviction. The epoch
//! is the same however often its key is lost, so that only a real restart, or a flush, is seen as one.
//!
//! With other tools, on a node with `nc`:
//!
//! ```sh
//! printf 'get treehaul.index\r\nquit\r\n' | nc HOST 11211
//! printf 'get treehaul.index.1 treehaul.index.2\r\nquit\r\n' | nc HOST 11211
//! printf 'get treehaul.JOB.NODE.files_0.bytes\r\nquit\r\n' | nc HOST 11211
//! ```

mod keys;
mod reader;
mod writer;

pub use keys::node_part;
pub use reader::{MemcachedReader, NodeCounts, Snapshot};
pub use writer::Memcached;

use memcache::exp::{Error, Get, GetResult, MetaClient, Operation, Set, Ttl};
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How long a connection, or the answer to one batch, may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long keys live after they were last written.
const LIFE_SECONDS: u32 = 24 * 3600;
/// Operations of one exchange: what is asked and what is answered fits into the buffers of a connection.
const BATCH: usize = 512;
/// Slots at most: nobody has so many nodes and jobs in a day.
const MAX_SLOTS: u64 = 16_384;

/// Why a memcached could not be used.
#[derive(Debug, thiserror::Error)]
#[error("the memcached {address}: {why}")]
pub struct MemcachedError {
    address: String,
    why: String,
    nothing_written: bool,
}

impl MemcachedError {
    /// Nothing of what was to be added was added, for certain: the same may be sent again.
    pub fn is_nothing_written(&self) -> bool {
        self.nothing_written
    }
}

fn life() -> Ttl {
    Ttl::secs(LIFE_SECONDS)
}

/// A memcached: connected to when it is needed, and looked up anew after it was away.
#[derive(Debug)]
struct Server {
    address: String,
    client: Option<Client>,
    /// Nothing is asked after this.
    deadline: Option<Instant>,
}

struct Client(MetaClient);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Server {
    fn new(address: &str) -> Result<Self, MemcachedError> {
        let server = Server { address: address.to_owned(), client: None, deadline: None };
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        if host.is_empty() || port.parse::<u16>().is_err() || address.contains([',', ' ', '/']) {
            return Err(server.error("give one HOST:PORT"));
        }
        Ok(server)
    }

    /// An error before anything was written.
    fn error(&self, why: impl std::fmt::Display) -> MemcachedError {
        let shown = |text: &str| crate::model::escaped(text.as_bytes());
        MemcachedError { address: shown(&self.address), why: shown(&why.to_string()), nothing_written: true }
    }

    fn client(&mut self) -> Result<&MetaClient, MemcachedError> {
        if self.client.is_none() {
            let builder = MetaClient::builder().connect_timeout(Some(PATIENCE)).io_timeout(Some(PATIENCE)).max_idle(1);
            let client = builder.connect(self.address.as_str()).map_err(|e| self.error(e))?;
            self.client = Some(Client(client));
        }
        self.client.as_ref().map(|client| &client.0).ok_or_else(|| self.error("there is no client"))
    }

    /// Runs operations in batches; stops at the first batch of which one got no answer.
    fn run<O: Operation>(
        &mut self,
        operations: impl IntoIterator<Item = O>,
        mut each: impl FnMut(Result<O::Output, Error>),
    ) -> Result<(), MemcachedError> {
        let mut operations = operations.into_iter().peekable();
        let mut nothing_written = true;
        while operations.peek().is_some() {
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(MemcachedError { nothing_written, ..self.error("it takes too long to answer") });
            }
            let batch: Vec<O> = operations.by_ref().take(BATCH).collect();
            let results = self.client()?.run_many(batch).map_err(|e| self.error(e))?;
            let mut failed = None;
            for result in results {
                match &result {
                    Ok(_) => nothing_written = false,
                    Err(error) if is_refusal(error) => {}
                    Err(error) => {
                        nothing_written &= !error.is_ambiguous();
                        failed.get_or_insert_with(|| error.to_string());
                    }
                }
                each(result);
            }
            if let Some(why) = failed {
                self.client = None;
                return Err(MemcachedError { nothing_written, ..self.error(why) });
            }
        }
        Ok(())
    }

    /// Reads keys; in their order, none for what is missing.
    fn get(&mut self, gets: impl IntoIterator<Item = Get>) -> Result<Vec<Option<GetResult>>, MemcachedError> {
        let mut values = Vec::new();
        self.look(gets, |found| values.push(found))?;
        Ok(values)
    }

    /// Reads keys one by one. One that is refused is an error: whether it is there is not known.
    fn look(
        &mut self,
        gets: impl IntoIterator<Item = Get>,
        mut each: impl FnMut(Option<GetResult>),
    ) -> Result<(), MemcachedError> {
        let mut refused = None;
        self.run(gets, |result| match result {
            Ok(found) => each(Some(found).filter(GetResult::hit)),
            Err(e) => {
                refused.get_or_insert_with(|| e.to_string());
                each(None);
            }
        })?;
        refused.map_or(Ok(()), |why| Err(self.error(why)))
    }

    /// Stores something; false if it is there already, or is another's by now.
    fn set(&mut self, set: Set) -> Result<bool, MemcachedError> {
        let mut stored = false;
        self.run([set], |result| stored = result.is_ok_and(|result| result.applied()))?;
        Ok(stored)
    }

    /// Which life of the memcached this is. Whoever looks first says so for all.
    fn epoch(&mut self) -> Result<String, MemcachedError> {
        for _ in 0..3 {
            let found = self.get([Get::new(keys::EPOCH).touch(life())])?;
            if let Some(text) = found.into_iter().flatten().next().as_ref().and_then(keys::text) {
                return Ok(text);
            }
            let made = self.identity().unwrap_or_else(|| format!("{}", crate::model::JobId::random()));
            self.set(Set::new(keys::EPOCH, made).add().ttl(life()))?;
        }
        Err(self.error("it keeps nothing"))
    }

    /// By its own word: which process, since when, flushed how often. None of a proxy, which has no word of its own.
    fn identity(&self) -> Option<String> {
        let text = self.statistics().ok()?;
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse::<u64>().ok())
        };
        let started = of("time")?.checked_sub(of("uptime")?)?;
        Some(format!("{}-{started}-{}", of("pid")?, of("cmd_flush")?))
    }

    fn statistics(&self) -> std::io::Result<String> {
        let address = self.address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(b"stats\r\nquit\r\n")?;
        let (mut text, mut piece) = (Vec::new(), [0; 4096]);
        let end = Instant::now() + PATIENCE;
        while text.len() < 64 << 10 && Instant::now() < end {
            match stream.read(&mut piece)? {
                0 => break,
                n => text.extend_from_slice(&piece[..n]),
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The memcached answered, about this key alone: it holds something else, or there is no room.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Server(_) | Error::Rejected(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_expected() {
        for address in ["", "host", "host:", ":11211", "a:1,b:2", "host:99999", "memcache://a:1"] {
            assert!(Server::new(address).is_err(), "{address}");
        }
        assert!(Server::new("host:11211").is_ok() && Server::new("[::1]:11211").is_ok());
    }

    #[test]
    fn who_is_not_there_has_written_nothing() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Server::new(&format!("127.0.0.1:{port}")).unwrap();
        let error = server.epoch().unwrap_err();
        assert!(error.is_nothing_written() && error.to_string().starts_with("the memcached 127.0.0.1:"), "{error}");
    }
}
