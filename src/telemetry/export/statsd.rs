//! A statsd, over UDP: increments of counters, and gauges.

use super::lines::{gauges, metrics_of_parts, quantiles};
use super::{Changes, Cycle};
use crate::telemetry::counts::COUNTERS;
use statsd::client::{Client, Pipeline};
use std::time::Duration;

/// A datagram passes through any network in one piece.
const DATAGRAM_BYTES: usize = 1432;
/// So many metrics are sent at once, then there is a pause: a receiver's buffer holds a few hundred datagrams.
const BURST: usize = 400;
/// That pause.
const PAUSE: Duration = Duration::from_millis(2);

/// Where metrics go.
#[derive(Debug)]
pub struct Statsd {
    address: String,
    prefix: String,
}

/// Metrics on their way.
struct Sending {
    client: Client,
    pipeline: Pipeline,
    waiting: usize,
}

impl Sending {
    fn one(&mut self, put: impl FnOnce(&mut Pipeline)) {
        put(&mut self.pipeline);
        self.waiting += 1;
        if self.waiting >= BURST {
            self.send();
            std::thread::sleep(PAUSE);
        }
    }

    fn send(&mut self) {
        self.pipeline.send(&self.client);
        self.waiting = 0;
    }
}

impl Statsd {
    /// At HOST:PORT, with paths that begin with a prefix.
    pub fn new(address: &str, prefix: &str) -> Self {
        Statsd { address: address.to_owned(), prefix: prefix.to_owned() }
    }

    /// Sends what came since the last cycle, and gauges. Whether anybody received it cannot be known.
    ///
    /// # Errors
    /// The host has no address.
    pub fn send(&self, cycle: &Cycle, changes: &Changes, by_actor: bool) -> Result<(), String> {
        let client = Client::new(self.address.as_str(), &self.prefix).map_err(|e| e.to_string())?;
        let mut pipeline = client.pipeline();
        pipeline.set_max_udp_size(DATAGRAM_BYTES);
        let mut sending = Sending { client, pipeline, waiting: 0 };
        for part in &changes.parts {
            for (path, values) in metrics_of_parts(part, by_actor) {
                for (counter, more) in COUNTERS.iter().zip(values).filter(|(_, more)| *more > 0) {
                    sending.one(|p| p.count(&format!("{path}.{}", counter.key), more as f64));
                }
            }
            for (call, times) in part.calls.iter().filter(|(_, times)| times.count() > 0) {
                let path = format!("{}.{}.latency.{}", part.job, part.node, call.word());
                sending.one(|p| p.count(&format!("{path}.count"), times.count() as f64));
                sending.one(|p| p.count(&format!("{path}.sum_seconds"), times.sum_ns as f64 / 1e9));
            }
        }
        for part in &cycle.parts {
            for (call, times) in &part.calls {
                for (name, value) in quantiles(times) {
                    let path = format!("{}.{}.latency.{}.{name}", part.job, part.node, call.word());
                    sending.one(|p| p.gauge(&path, value));
                }
            }
        }
        gauges(cycle, |path, value| sending.one(|p| p.gauge(path, value)));
        sending.send();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::cycle;
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn increments_are_counters_and_the_rest_gauges_in_datagrams_that_fit() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let statsd = Statsd::new(&socket.local_addr().unwrap().to_string(), "p");
        let mut changes = Changes { parts: cycle().parts, is_reset: false };
        changes.parts[0].actors[0].values = [0; crate::telemetry::counts::COUNTED];
        statsd.send(&cycle(), &changes, true).unwrap();
        let mut lines = Vec::new();
        let mut buffer = [0; 9000];
        while let Ok(n) = socket.recv(&mut buffer) {
            assert!(n <= DATAGRAM_BYTES);
            lines.extend(std::str::from_utf8(&buffer[..n]).unwrap().lines().map(str::to_owned));
        }
        for line in [
            "p.0000000000001.a.files_1.bytes:11|c",
            "p.0000000000001.a.latency.open.count:5|c",
            "p.0000000000001.a.latency.open.sum_seconds:1.5|c",
            "p.0000000000001.a.latency.open.p50_seconds:0.000008|g",
            "p.nodes.a.actors_dirs:3|g",
            "p.jobs.0000000000001.queues.dirs.ready:7|g",
        ] {
            assert!(lines.iter().any(|l| l == line), "{line}: {lines:?}");
        }
        assert!(!lines.iter().any(|l| l.contains(".a.dirs_0.")), "what did not change is not sent");
    }
}
