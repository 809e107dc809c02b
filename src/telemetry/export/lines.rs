//! Paths of values, as Graphite and statsd know them.
//!
//! Invariant: a part of a path never holds a dot, a space or a line end, whatever a node is called.

use super::{Cycle, FLEET_GAUGES, Gauge, JOB_GAUGES, NODE_GAUGES, Part};
use crate::model::latency::Histogram;
use crate::telemetry::counts::{COUNTED, COUNTERS};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Counters of a part by the last parts of their paths: of each actor, or of each pool.
pub fn metrics_of_parts(part: &Part, by_actor: bool) -> Vec<(String, [u64; COUNTED])> {
    if by_actor {
        let name = |pool: &str, number: u64| format!("{}.{}.{pool}_{number}", part.job, part.node);
        return part.actors.iter().map(|actor| (name(actor.pool, actor.number), actor.values)).collect();
    }
    let mut pools: BTreeMap<&str, [u64; COUNTED]> = BTreeMap::new();
    for actor in &part.actors {
        let all = pools.entry(actor.pool).or_insert([0; COUNTED]);
        all.iter_mut().zip(actor.values).for_each(|(sum, more)| *sum = sum.saturating_add(more));
    }
    pools.into_iter().map(|(pool, values)| (format!("{}.{}.{pool}", part.job, part.node), values)).collect()
}

/// Quantiles that are shown of histograms.
pub(super) fn quantiles(times: &Histogram) -> impl Iterator<Item = (&'static str, f64)> {
    let found = [("p50_seconds", 0.5), ("p99_seconds", 0.99)].map(|(name, q)| Some((name, times.quantile_seconds(q)?)));
    found.into_iter().flatten()
}

/// All gauges: paths without the prefix, and values.
pub(super) fn gauges(cycle: &Cycle, mut each: impl FnMut(&str, f64)) {
    fn all<T>(rows: &[Gauge<T>], of: &T, folder: &str, each: &mut impl FnMut(&str, f64)) {
        for row in rows.iter().filter(|row| !row.path.is_empty()) {
            if let Some(value) = (row.of)(of) {
                each(&format!("{folder}.{}", row.path), value);
            }
        }
    }
    for node in &cycle.nodes {
        all(NODE_GAUGES, node, &format!("nodes.{}", node.node), &mut each);
    }
    for job in &cycle.jobs {
        let folder = format!("jobs.{}", job.job);
        all(JOB_GAUGES, job, &folder, &mut each);
        for (queue, ready, consumers) in job.told.iter().flat_map(|told| &told.queues) {
            each(&format!("{folder}.queues.{queue}.ready"), f64::from(*ready));
            each(&format!("{folder}.queues.{queue}.consumers"), f64::from(*consumers));
        }
    }
    all(FLEET_GAUGES, cycle, "fleet", &mut each);
}

/// A cycle in Graphite's plaintext: cumulative counters, and gauges.
pub fn lines(cycle: &Cycle, prefix: &str, by_actor: bool) -> String {
    let mut out = String::new();
    let at = cycle.at;
    // A String takes everything that is written.
    for part in &cycle.parts {
        for (path, values) in metrics_of_parts(part, by_actor) {
            for (counter, value) in COUNTERS.iter().zip(values) {
                let _ = writeln!(out, "{prefix}.{path}.{} {value} {at}", counter.key);
            }
        }
        for (call, times) in &part.calls {
            let path = format!("{prefix}.{}.{}.latency.{}", part.job, part.node, call.word());
            let _ = writeln!(out, "{path}.count {} {at}", times.count());
            let _ = writeln!(out, "{path}.sum_seconds {} {at}", times.sum_ns as f64 / 1e9);
            for (name, value) in quantiles(times) {
                let _ = writeln!(out, "{path}.{name} {value} {at}");
            }
        }
    }
    gauges(cycle, |path, value| {
        let _ = writeln!(out, "{prefix}.{path} {value} {at}");
    });
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::cycle;
    use super::*;

    #[test]
    fn every_line_has_a_path_a_number_and_the_time_of_the_cycle() {
        let text = lines(&cycle(), "a.b", true);
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(words[0].starts_with("a.b.") && words[1].parse::<f64>().is_ok(), "{line}");
            assert_eq!((words.len(), words[2]), (3, "1800000000"), "{line}");
        }
        for line in [
            "a.b.0000000000001.a.files_1.bytes 11 1800000000",
            "a.b.0000000000001.b.latency.open.count 5 1800000000",
            "a.b.0000000000001.b.latency.open.sum_seconds 1.5 1800000000",
            "a.b.0000000000001.b.latency.open.p50_seconds 0.000008 1800000000",
            "a.b.nodes.a.queue_wait_seconds 0.0015 1800000000",
            "a.b.jobs.0000000000001.done 4 1800000000",
            "a.b.jobs.0000000000001.dead_letters 1 1800000000",
            "a.b.jobs.0000000000001.queues.dirs.ready 7 1800000000",
            "a.b.fleet.broker_up 1 1800000000",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("memcached_up") && !text.contains(".gone."), "{text}");
    }

    #[test]
    fn without_actors_pools_are_summed() {
        let text = lines(&cycle(), "p", false);
        assert!(text.contains("\np.0000000000001.a.files.bytes 12 1800000000\n"), "{text}");
        assert!(!text.contains("files_"), "{text}");
    }
}
