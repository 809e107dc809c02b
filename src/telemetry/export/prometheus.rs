//! A cycle in the text of OpenMetrics.
//!
//! Invariant: however many nodes and jobs there are, there are no more than [`MAX_SERIES`] series.

use super::carry::Key;
use super::{Carry, Cycle, FLEET_GAUGES, Fold, Gauge, JOB_GAUGES, NODE_GAUGES};
use crate::model::JobId;
use crate::model::latency::{BUCKETS, Call, Histogram};
use crate::telemetry::counts::{COUNTED, COUNTERS};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Beyond so many series labels are left out: a Prometheus pays for each with memory.
const MAX_SERIES: usize = 100_000;
/// Series of a histogram: its buckets, their count and sum.
const SERIES_OF_HISTOGRAM: usize = BUCKETS + 2;

/// Which labels there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labels {
    /// Values of each job; their sum otherwise.
    pub job: bool,
    /// Values of each node; their sum otherwise.
    pub node: bool,
}

/// The text, and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// As OpenMetrics has it.
    pub text: String,
    /// Labels that it has; fewer than were wanted where there were too many series.
    pub labels: Labels,
}

impl Text {
    /// As Prometheus had it before OpenMetrics, which is what a node_exporter takes from a file: counters are called the
    /// same in their descriptions, and there are no units.
    pub fn plain(&self) -> String {
        let counters: BTreeSet<&str> =
            self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
        let mut out = String::with_capacity(self.text.len());
        for line in self.text.lines() {
            let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
            match described.and_then(|rest| rest.split_once(' ')) {
                Some((name, rest)) if counters.contains(name) => {
                    out.push_str(&format!("{} {name}_total {rest}\n", &line[..6]));
                }
                _ if line.starts_with("# UNIT ") || line == "# EOF" => {}
                _ => out.extend([line, "\n"]),
            }
        }
        out
    }
}

type Series = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(Box<Histogram>),
}

impl Value {
    fn encode(&self, metric: &mut MetricEncoder) -> fmt::Result {
        match self {
            Value::Counter(n) => metric.encode_counter::<NoLabelSet, _, f64>(n, None),
            Value::Gauge(n) => metric.encode_gauge(n),
            Value::Histogram(times) => {
                let (buckets, count) = buckets(times);
                metric.encode_histogram::<NoLabelSet>(times.sum_ns as f64 / 1e9, count, &buckets, None)
            }
        }
    }
}

#[derive(Debug)]
struct Family {
    metric: &'static str,
    /// Without its unit.
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    series: Vec<(Series, Value)>,
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in self.0.iter().filter(|family| !family.series.is_empty()) {
            let kind = match family.series.first() {
                Some((_, Value::Counter(_))) => MetricType::Counter,
                Some((_, Value::Histogram(_))) => MetricType::Histogram,
                _ => MetricType::Gauge,
            };
            let help = format!("{}.", family.help);
            let mut metric = encoder.encode_descriptor(family.name, &help, family.unit.as_ref(), kind)?;
            for (labels, value) in &family.series {
                match labels.is_empty() {
                    true => value.encode(&mut metric)?,
                    false => value.encode(&mut metric.encode_family(labels)?)?,
                }
            }
        }
        Ok(())
    }
}

/// Buckets whose sum fits, whatever a memcached held.
fn buckets(times: &Histogram) -> (Vec<(f64, u64)>, u64) {
    let bounded = times.counts.map(|n| n.min(u64::MAX / BUCKETS as u64));
    let upper = |i| Histogram::upper_seconds(i).unwrap_or(f64::INFINITY);
    (bounded.iter().enumerate().map(|(i, n)| (upper(i), *n)).collect(), bounded.iter().sum())
}

fn family(metric: &'static str, help: &'static str, series: Vec<(Series, Value)>) -> Family {
    for (suffix, unit) in [("_bytes", Unit::Bytes), ("_seconds", Unit::Seconds)] {
        if let Some(name) = metric.strip_suffix(suffix) {
            return Family { metric, name, unit: Some(unit), help, series };
        }
    }
    Family { metric, name: metric, unit: None, help, series }
}

/// Counters by what is left of their labels.
#[derive(Default)]
struct Sums {
    counters: BTreeMap<Key<&'static str>, [u64; COUNTED]>,
    calls: BTreeMap<Key<Call>, Histogram>,
}

impl Sums {
    fn of(carry: &Carry, labels: Labels) -> Self {
        Sums { counters: carry.counters(labels), calls: carry.calls(labels) }
    }

    fn families(self, is_reset: bool) -> Vec<Family> {
        let series = |at: usize| {
            self.counters.iter().map(move |((job, node, pool), values)| {
                (
                    labels_of(*job, node.as_ref(), &[("pool", *pool)]),
                    Value::Counter(if is_reset { 0 } else { values[at] }),
                )
            })
        };
        let mut all: Vec<Family> = COUNTERS
            .iter()
            .enumerate()
            .map(|(at, counter)| family(counter.metric, counter.help, series(at).collect()))
            .collect();
        let calls = self.calls.into_iter().map(|((job, node, call), times)| {
            let times = if is_reset { Histogram::default() } else { times };
            (labels_of(job, node.as_ref(), &[("operation", call.word())]), Value::Histogram(Box::new(times)))
        });
        all.push(family("treehaul_operation_duration_seconds", "How long calls on filesystems took", calls.collect()));
        all
    }
}

fn labels_of(job: Option<JobId>, node: Option<&String>, more: &[(&'static str, &str)]) -> Series {
    let job = job.map(|job| ("job", job.to_string()));
    let node = node.map(|node| ("node", node.clone()));
    job.into_iter().chain(node).chain(more.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect()
}

/// Families of gauges: rows of one name are one family, and values with the same labels become one.
fn gauges<T>(rows: &[Gauge<T>], all: &[T], labels: impl Fn(&T, &Gauge<T>) -> Series) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for row in rows {
        let mut values: BTreeMap<Series, f64> = BTreeMap::new();
        for (series, value) in all.iter().filter_map(|one| Some((labels(one, row), (row.of)(one)?))) {
            let fold = |old: f64| match row.fold {
                Fold::Sum => old + value,
                Fold::Max => old.max(value),
                Fold::Min => old.min(value),
            };
            values.entry(series).and_modify(|old| *old = fold(*old)).or_insert(value);
        }
        let fresh = family(
            row.metric,
            row.help,
            values.into_iter().map(|(series, value)| (series, Value::Gauge(value))).collect(),
        );
        match families.last_mut() {
            Some(last) if last.metric == row.metric => last.series.extend(fresh.series),
            _ => families.push(fresh),
        }
    }
    families
}

fn gauge_families(cycle: &Cycle, labels: Labels) -> Vec<Family> {
    let node_labels = |node: &super::NodeFacts, row: &Gauge<super::NodeFacts>| {
        let version = (row.metric == "treehaul_node_up").then_some(("version", node.version.as_str()));
        let pool = (!row.pool.is_empty()).then_some(("pool", row.pool));
        let more: Vec<_> = pool.into_iter().chain(version).collect();
        labels_of(None, Some(&node.node).filter(|_| labels.node), &more)
    };
    let mut all = gauges(NODE_GAUGES, &cycle.nodes, node_labels);
    all.extend(gauges(JOB_GAUGES, &cycle.jobs, |job, _| labels_of(Some(job.job).filter(|_| labels.job), None, &[])));
    all.extend(gauges(FLEET_GAUGES, std::slice::from_ref(cycle), |_, _| Series::new()));
    all.extend(queue_families(cycle, labels));
    if labels.job {
        all.push(family("treehaul_job_info", "What a job is, in its labels", infos(cycle)));
    }
    let version = vec![(vec![("version", env!("TREEHAUL_VERSION").to_owned())], Value::Gauge(1.0))];
    all.push(family("treehaul_build_info", "Which version exports", version));
    all
}

fn infos(cycle: &Cycle) -> Vec<(Series, Value)> {
    let told = cycle.jobs.iter().filter_map(|job| Some((job.job, job.told.as_ref()?)));
    told.map(|(job, told)| {
        let more = [
            ("pass", told.pass.as_str()),
            ("source", &told.source),
            ("target", &told.target),
            ("standing", &told.standing),
        ];
        (labels_of(Some(job), None, &more), Value::Gauge(1.0))
    })
    .collect()
}

fn queue_families(cycle: &Cycle, labels: Labels) -> [Family; 2] {
    let mut sums: BTreeMap<Series, [f64; 2]> = BTreeMap::new();
    for job in &cycle.jobs {
        for (queue, ready, consumers) in job.told.iter().flat_map(|told| &told.queues) {
            let series = labels_of(Some(job.job).filter(|_| labels.job), None, &[("queue", queue)]);
            let sum = sums.entry(series).or_default();
            sum[0] += f64::from(*ready);
            sum[1] += f64::from(*consumers);
        }
    }
    let series = |at: usize| sums.iter().map(|(labels, sum)| (labels.clone(), Value::Gauge(sum[at]))).collect();
    [
        family("treehaul_queue_ready_messages", "Messages that wait in a queue of a job", series(0)),
        family("treehaul_queue_consumers", "Workers that consume from a queue of a job", series(1)),
    ]
}

/// So many series there would be.
fn count(cycle: &Cycle, sums: &Sums, labels: Labels) -> usize {
    let counters = sums.counters.len() * COUNTED + sums.calls.len() * SERIES_OF_HISTOGRAM;
    let nodes = if labels.node { cycle.nodes.len() * NODE_GAUGES.len() } else { NODE_GAUGES.len() };
    let jobs = if labels.job { cycle.jobs.len() * (JOB_GAUGES.len() + 12) } else { JOB_GAUGES.len() + 12 };
    counters + nodes + jobs
}

/// A cycle as text, with counters at 0 if they have begun anew.
pub fn render(cycle: &Cycle, wanted: Labels, is_reset: bool) -> Text {
    let mut carry = Carry::default();
    carry.advance(cycle);
    render_sums(cycle, &carry, wanted, is_reset)
}

/// The same with sums over all cycles until this one.
pub fn render_sums(cycle: &Cycle, carry: &Carry, wanted: Labels, is_reset: bool) -> Text {
    let fewer = [wanted, Labels { node: false, ..wanted }, Labels { job: false, node: false }];
    let mut labels = wanted;
    let mut sums = Sums::default();
    for tried in fewer {
        (labels, sums) = (tried, Sums::of(carry, tried));
        if count(cycle, &sums, labels) <= MAX_SERIES {
            break;
        }
    }
    let mut families = sums.families(is_reset);
    families.extend(gauge_families(cycle, labels));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    // A String takes everything that is written.
    let _ = text::encode(&mut text, &registry);
    text.shrink_to_fit(); // it is kept until the next cycle
    Text { text, labels }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cycle, job};
    use super::super::{Actor, Part};
    use super::*;

    const ALL: Labels = Labels { job: true, node: true };

    #[test]
    fn names_types_units_and_values_are_right() {
        let text = render(&cycle(), ALL, false).text;
        for line in [
            "# TYPE treehaul_copied_bytes counter",
            "# UNIT treehaul_copied_bytes bytes",
            "# HELP treehaul_copied_bytes Data written.",
            "treehaul_copied_bytes_total{job=\"0000000000001\",node=\"a\",pool=\"files\"} 12",
            "treehaul_copied_entries_total{job=\"0000000000001\",node=\"b\",pool=\"dirs\"} 1",
            "# TYPE treehaul_operation_duration_seconds histogram",
            "treehaul_operation_duration_seconds_bucket{le=\"0.000008\",job=\"0000000000001\",node=\"a\",operation=\"open\"} 4",
            "treehaul_operation_duration_seconds_bucket{le=\"+Inf\",job=\"0000000000001\",node=\"a\",operation=\"open\"} 5",
            "treehaul_operation_duration_seconds_sum{job=\"0000000000001\",node=\"a\",operation=\"open\"} 1.5",
            "treehaul_node_actors{node=\"a\",pool=\"files\"} 4.0",
            "treehaul_node_up{node=\"a\",version=\"1.0\"} 1.0",
            "treehaul_node_up{node=\"gone\",version=\"1.0\"} 0.0",
            "treehaul_node_seen_timestamp_seconds{node=\"gone\"} 1800000000.0",
            "treehaul_target_free_bytes{job=\"0000000000001\"} 50.0",
            "treehaul_job_entries_done{job=\"0000000000001\"} 4.0",
            "treehaul_queue_ready_messages{job=\"0000000000001\",queue=\"dirs\"} 7.0",
            "treehaul_dead_letters{job=\"0000000000001\"} 1.0",
            "treehaul_broker_up 1.0",
            "treehaul_export_cycle_seconds 1.5",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.contains("source=\"/s\\\\n\\\"\""), "{text}");
        assert!(!text.contains("treehaul_memcached_up") && !text.contains("actors{node=\"gone\""), "{text}");
        let families: Vec<&str> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
        assert_eq!(families.len(), families.iter().collect::<std::collections::BTreeSet<_>>().len());
    }

    #[test]
    fn plain_text_calls_counters_by_one_name() {
        let text = render(&cycle(), ALL, false).plain();
        for line in [
            "# HELP treehaul_copied_bytes_total Data written.",
            "# TYPE treehaul_copied_bytes_total counter",
            "treehaul_copied_bytes_total{job=\"0000000000001\",node=\"a\",pool=\"files\"} 12",
            "# TYPE treehaul_node_resident_memory_bytes gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"), "{text}");
    }

    #[test]
    fn labels_that_are_left_out_are_summed_over() {
        let text = render(&cycle(), Labels { job: false, node: false }, false).text;
        assert!(text.contains("\ntreehaul_copied_bytes_total{pool=\"files\"} 24\n"), "{text}");
        assert!(text.contains("_count{operation=\"open\"} 10\n"), "{text}");
        assert!(text.contains("\ntreehaul_node_busy_actors{pool=\"files\"} 4.0\n"), "{text}");
        assert!(!text.contains("node=\"") && !text.contains("job=\""), "{text}");
    }

    #[test]
    fn a_reset_shows_zeros_of_counters_alone() {
        let text = render(&cycle(), ALL, true).text;
        assert!(text.contains("treehaul_copied_bytes_total{job=\"0000000000001\",node=\"a\",pool=\"files\"} 0\n"));
        assert!(text.contains("_count{job=\"0000000000001\",node=\"a\",operation=\"open\"} 0\n"), "{text}");
        assert!(text.contains("treehaul_job_entries_done{job=\"0000000000001\"} 4.0\n"), "{text}");
    }

    #[test]
    fn too_many_series_lose_labels_and_no_value() {
        let part = |i: usize| Part {
            job: job("0000000000001"),
            node: format!("n{i}"),
            actors: vec![Actor { pool: "dirs", number: 0, values: [1; COUNTED] }],
            calls: vec![],
        };
        let many = Cycle { parts: (0..5000).map(part).collect(), ..Cycle::default() };
        let shown = render(&many, ALL, false);
        assert_eq!(shown.labels, Labels { job: true, node: false });
        assert!(shown.text.contains("treehaul_copied_bytes_total{job=\"0000000000001\",pool=\"dirs\"} 5000\n"));
        assert!(shown.text.lines().count() < MAX_SERIES);
    }

    #[test]
    fn values_that_cannot_be_do_no_harm() {
        let mut strange = cycle();
        strange.parts[0].calls[0].1 = Histogram { counts: [u64::MAX; BUCKETS], sum_ns: u64::MAX };
        strange.parts[0].actors[0].values = [u64::MAX; COUNTED];
        assert!(render(&strange, Labels { job: false, node: false }, false).text.ends_with("# EOF\n"));
    }
}
