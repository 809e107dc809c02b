//! What a worker does when it is told to, and what it says of itself.
//!
//! Invariant: no order waits for a task: what is in an actor's hands goes on meanwhile.

use super::Pools;
use super::spaces::Spaces;
use super::stats;
use crate::actor::{MAX_ACTORS, PoolSupervisor, Resize, Roster};
use crate::broker::amqp::Worker;
use crate::fs::layers::Limiter;
use crate::model::Timestamp;
use crate::model::fleet::{Activity, Answer, NodeInfo, Order, PoolKind};
use crate::model::policy::Limits;
use crate::telemetry::Meters;
use crate::telemetry::counts::Gauges;
use actix::Addr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::watch;

/// Bytes of paths in one answer; a message holds more than that.
const PATH_BYTES: usize = 1 << 20;
/// What each path may take of them in any case.
const PATH_LEAST: usize = 64;

/// How far a worker is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leave {
    /// It stays.
    Not,
    /// It finishes what is in hand.
    Drain,
    /// It leaves that to others.
    Now,
}

/// What orders act on.
pub(super) struct Desk {
    worker: Weak<Worker>,
    pools: [Addr<PoolSupervisor>; 2],
    rosters: [Arc<Roster>; 2],
    /// Actors that each pool is to have; 0 is for good.
    wanted: Mutex<[usize; 2]>,
    limiter: Arc<Limiter>,
    meters: Option<Arc<Meters>>,
    started: Timestamp,
    leave: watch::Sender<Leave>,
}

/// Deliveries at a time that keep so many actors busy without hoarding.
pub(super) fn prefetch(actors: [usize; 2]) -> [u16; 2] {
    actors.map(|n| u16::try_from(2 * n).unwrap_or(u16::MAX))
}

impl Desk {
    /// For a worker that has just begun.
    pub fn new(
        worker: &Arc<Worker>,
        pools: &Pools,
        wanted: [usize; 2],
        limiter: Arc<Limiter>,
        meters: Option<Arc<Meters>>,
    ) -> Self {
        Desk {
            worker: Arc::downgrade(worker),
            pools: [pools.dirs.clone(), pools.files.clone()],
            rosters: pools.rosters.clone(),
            wanted: Mutex::new(wanted),
            limiter,
            meters,
            started: Timestamp::now(),
            leave: watch::Sender::new(Leave::Not),
        }
    }

    /// Says that the worker goes, or waits for it.
    pub fn leave(&self) -> &watch::Sender<Leave> {
        &self.leave
    }

    /// Returns when the worker is to go at least so fast.
    pub async fn is_leaving(&self, how: Leave) {
        // The sender is this desk's own.
        let _ = self.leave.subscribe().wait_for(|now| *now >= how).await;
    }

    /// Does what is asked. Blocks, on a thread of the broker's runtime.
    pub fn obey(&self, order: Order) -> Answer {
        match order {
            Order::Describe => Answer::Node(Box::new(self.describe())),
            Order::Active => Answer::Active(self.active()),
            Order::Pause => self.pause(true),
            Order::Resume => self.pause(false),
            Order::Grow(kind, by) => self.resize(kind, |n| (n + usize::from(by)).min(MAX_ACTORS)),
            Order::Shrink(kind, by) => self.resize(kind, |n| n.saturating_sub(usize::from(by)).max(1)),
            Order::Throttle { bytes_per_second, operations_per_second } => {
                let now = self.limiter.limits();
                let limit = |said: Option<u64>, now| said.map_or(now, |n| Some(n).filter(|n| *n > 0));
                let limits = Limits {
                    bytes_per_second: limit(bytes_per_second, now.bytes_per_second),
                    operations_per_second: limit(operations_per_second, now.operations_per_second),
                };
                self.limiter.set(limits);
                tracing::info!(limits = words_of(limits), "told its limits");
                Answer::Done(words_of(limits))
            }
            Order::Stop { now: true } => Answer::Done("ends at once".to_owned()),
            Order::Stop { now: false } => Answer::Done("finishes what is in hand, and ends".to_owned()),
            Order::Leading => Answer::Refused("the broker answers that".to_owned()),
            Order::Latencies => Answer::Latencies(self.meters.as_ref().map(|m| m.latencies()).unwrap_or_default()),
        }
    }

    /// The answer to an order is out.
    pub fn answered(&self, order: &Order) {
        if let Order::Stop { now } = order {
            let how = if *now { Leave::Now } else { Leave::Drain };
            self.leave.send_if_modified(|leave| how > std::mem::replace(leave, how.max(*leave)));
        }
    }

    fn pause(&self, paused: bool) -> Answer {
        let Some(worker) = self.worker.upgrade() else { return Answer::Refused("it has ended".to_owned()) };
        worker.pause(paused);
        tracing::info!(paused, "told whether to take tasks");
        Answer::Done(if paused { "paused" } else { "takes tasks" }.to_owned())
    }

    /// Sets the size of one pool or of both. A pool that never had an actor is none of this worker's.
    fn resize(&self, kind: Option<PoolKind>, size: impl Fn(usize) -> usize) -> Answer {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let meant = |at: usize| kind.is_none_or(|kind| kind as usize == at);
        if (0..2).all(|at| !meant(at) || wanted[at] == 0) {
            return Answer::Refused("it has no actors of that kind, and does not consume their queues".to_owned());
        }
        for at in (0..2).filter(|at| meant(*at) && wanted[*at] > 0).collect::<Vec<_>>() {
            let resized = self.pools[at].send(Resize(size(wanted[at])));
            match tokio::runtime::Handle::current().block_on(resized) {
                Ok(now) => wanted[at] = now,
                Err(e) => return Answer::Refused(format!("a pool does not answer: {e}")),
            }
        }
        if let Some(worker) = self.worker.upgrade() {
            worker.set_prefetch(prefetch(*wanted));
        }
        let [dirs, files] = *wanted;
        tracing::info!(dir_actors = dirs, file_actors = files, "told how many actors to have");
        Answer::Done(format!("{dirs} dir actors, {files} file actors"))
    }

    fn active(&self) -> Vec<Activity> {
        let mut all: Vec<_> = self.rosters.iter().flat_map(|roster| roster.active()).collect();
        let room = (PATH_BYTES / all.len().max(1)).max(PATH_LEAST);
        all.iter_mut().for_each(|activity| shorten(&mut activity.path, room));
        all
    }

    fn describe(&self) -> NodeInfo {
        let (dirs, files) = (self.rosters[0].count(), self.rosters[1].count());
        NodeInfo {
            version: env!("TREEHAUL_VERSION").to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            started: self.started,
            actors: [dirs.0, files.0],
            busy: [dirs.1, files.1],
            paused: self.worker.upgrade().is_some_and(|worker| worker.is_paused()),
            stopping: *self.leave.borrow() != Leave::Not,
            limits: self.limiter.limits(),
            load_milli: load_milli().unwrap_or(0),
            rss_bytes: rss_bytes().unwrap_or(0),
            queue_wait_us: self.worker.upgrade().map_or(0, |worker| queue_wait_us(&worker)),
            blocked: self.worker.upgrade().is_some_and(|worker| worker.is_blocked()),
            jobs: Vec::new(),
        }
    }
}

/// What a worker is doing at the moment, for as long as there is one.
pub(super) fn gauges(worker: &Weak<Worker>, rosters: &[Arc<Roster>; 2], spaces: &Spaces) -> Gauges {
    let pools = stats::gauges(rosters, spaces);
    let Some(worker) = worker.upgrade() else { return pools };
    Gauges { in_flight: worker.live(), queue_wait_us: queue_wait_us(&worker), blocked: worker.is_blocked(), ..pools }
}

fn queue_wait_us(worker: &Worker) -> u64 {
    u64::try_from(worker.queue_wait().as_micros()).unwrap_or(u64::MAX)
}

/// Keeps the end of a path, which tells more than its beginning.
fn shorten(path: &mut Vec<u8>, room: usize) {
    if path.len() > room {
        path.drain(..path.len() - room + 3);
        path.splice(..0, *b"...");
    }
}

fn words_of(limits: Limits) -> String {
    let words = |n: Option<u64>, unit: &str| n.map_or_else(|| format!("any {unit}"), |n| format!("{n} {unit}"));
    format!(
        "{}, {} a second",
        words(limits.bytes_per_second, "bytes"),
        words(limits.operations_per_second, "operations")
    )
}

/// The host's load average over one minute, in thousandths.
pub(super) fn load_milli() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    parse_load(&text)
}

/// "1.25 ..." is 1250: digits, a point, two digits (proc(5)).
fn parse_load(text: &str) -> Option<u32> {
    let (whole, part) = text.split_ascii_whitespace().next()?.split_once('.')?;
    let hundredths: u32 = part.get(..2)?.parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(hundredths * 10)
}

/// Memory that this process holds: the second figure of statm, in pages (proc(5)).
pub(super) fn rss_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_figures_are_read() {
        assert_eq!(parse_load("1.25 0.40 0.10 2/300 4711\n"), Some(1250));
        assert_eq!(parse_load("0.07 0"), Some(70));
        for text in ["", "x", "1", "1.x", "99999999999.10"] {
            assert_eq!(parse_load(text), None, "{text}");
        }
        assert!(load_milli().is_some());
        assert!(rss_bytes().unwrap() > 1 << 20, "a test takes more than a megabyte");
    }

    #[test]
    fn a_long_path_keeps_its_end() {
        let mut path = [&[b'a'; 5000][..], b"/the/end"].concat();
        shorten(&mut path, 64);
        assert!(path.len() == 64 && path.starts_with(b"...a") && path.ends_with(b"/the/end"));
        let mut short = b"a/b".to_vec();
        shorten(&mut short, 64);
        assert_eq!(short, b"a/b");
    }

    #[test]
    fn limits_are_said_in_words() {
        let limits = Limits { bytes_per_second: Some(10), operations_per_second: None };
        assert_eq!(words_of(limits), "10 bytes, any operations a second");
    }
}
