//! One look at everything: what a memcached holds, and what a broker and its workers say.

use super::super::Look;
use super::fleet::{self, Ended, Fleet};
use crate::broker::amqp::AmqpConfig;
use crate::model::JobId;
use crate::model::fleet::{NodeInfo, Space};
use crate::telemetry::counts::Gauges;
use crate::telemetry::export::{Actor, Cycle, Doing, FleetFacts, JobFacts, JobTold, NodeFacts, Part};
use crate::telemetry::memcached::{MemcachedError, MemcachedReader, NodeCounts, Snapshot, node_part};
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A node that said in the memcached what it does is there for so long.
const FRESH_SECONDS: u64 = 30;
/// A node that went without a word is remembered for so long.
const MISSED_SECONDS: u64 = 3600;
/// Nodes that are remembered at most.
const MAX_NODES: usize = 20_000;

/// Where facts are from.
pub struct Sources {
    memcached: Option<MemcachedReader>,
    broker: Option<Fleet>,
    /// Nodes that were seen.
    nodes: BTreeMap<String, Node>,
    ended: Ended,
    epoch: Option<String>,
    said: [bool; 2],
    /// There was more than is read: that was said.
    is_cut: bool,
}

/// A node as it was last seen.
#[derive(Default)]
struct Node {
    facts: NodeFacts,
    /// It said in this life of the memcached what it does.
    is_in_memcached: bool,
    /// It was on its way out.
    is_leaving: bool,
}

impl Sources {
    /// A memcached at HOST:PORT, a broker, or both.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(memcached: Option<&str>, broker: Option<AmqpConfig>) -> Result<Self, MemcachedError> {
        Ok(Sources {
            memcached: memcached.map(MemcachedReader::new).transpose()?,
            broker: broker.map(Fleet::new),
            nodes: BTreeMap::new(),
            ended: Ended::default(),
            epoch: None,
            said: [false; 2],
            is_cut: false,
        })
    }

    /// Looks.
    pub fn collect(&mut self) -> Cycle {
        let began = Instant::now();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |at| at.as_secs());
        if let Some(fleet) = &mut self.broker {
            fleet.ask();
        }
        let snapshot = self.memcached.as_mut().map(MemcachedReader::read);
        let told = self.broker.as_mut().map(Fleet::answer);
        let fleet = self.judge(snapshot.as_ref(), told.as_ref());
        let snapshot = snapshot.and_then(Result::ok);
        let told = told.and_then(Result::ok);
        let is_cut = snapshot.as_ref().is_some_and(|snapshot| snapshot.is_cut);
        if is_cut && !std::mem::replace(&mut self.is_cut, is_cut) {
            tracing::warn!("the memcached names more nodes, jobs and actors than are read: some are left out");
        }
        let mut nodes: Vec<NodeFacts> = Vec::new();
        // Of nodes nothing is said while nobody answers.
        let is_seen = snapshot.is_some() || told.is_some();
        if is_seen {
            self.meet(at, snapshot.as_ref(), told.as_ref());
            nodes.extend(self.nodes.values().map(|node| node.facts.clone()));
        }
        let up = u32::try_from(nodes.iter().filter(|node| node.is_up).count()).unwrap_or(u32::MAX);
        let gone = told.as_ref().map(|told| self.ended.meet(told, at)).unwrap_or_default();
        Cycle {
            at,
            jobs: jobs_of(snapshot.as_ref(), told.as_ref(), gone),
            is_cut,
            epoch: snapshot.as_ref().map(|snapshot| snapshot.epoch.clone()),
            parts: snapshot.map(parts_of).unwrap_or_default(),
            nodes,
            fleet: FleetFacts { nodes: is_seen.then_some(up), ..fleet },
            took: began.elapsed(),
        }
    }

    /// What answered; what did not is said once.
    fn judge(
        &mut self,
        snapshot: Option<&Result<Snapshot, MemcachedError>>,
        told: Option<&Result<Look, String>>,
    ) -> FleetFacts {
        let words = [
            (
                snapshot.map(|s| s.as_ref().err().map(ToString::to_string)),
                "the memcached cannot be read",
                "the memcached is read again",
            ),
            (told.map(|t| t.as_ref().err().cloned()), "the broker cannot be asked", "the broker answers again"),
        ];
        for ((outcome, gone, back), said) in words.into_iter().zip(&mut self.said) {
            match (outcome.flatten(), *said) {
                (Some(error), false) => tracing::warn!(error, "{gone}"),
                (None, true) => tracing::info!("{back}"),
                _ => continue,
            }
            *said = !*said;
        }
        let answer = told.and_then(|told| told.as_ref().ok());
        FleetFacts {
            silent: answer.map(|told| told.answers.silent),
            strangers: answer.map(|told| u32::try_from(told.answers.strangers.len()).unwrap_or(u32::MAX)),
            broker_up: told.map(Result::is_ok),
            memcached_up: snapshot.map(Result::is_ok),
            ..FleetFacts::default()
        }
    }

    /// Brings what is known of nodes up to date.
    fn meet(&mut self, at: u64, snapshot: Option<&Snapshot>, told: Option<&Look>) {
        if let Some(snapshot) = snapshot.filter(|snapshot| self.epoch.as_ref() != Some(&snapshot.epoch)) {
            // A memcached that forgot everything does not say that nodes left.
            self.nodes.values_mut().for_each(|node| node.is_in_memcached = false);
            self.epoch = Some(snapshot.epoch.clone());
        }
        for node in self.nodes.values_mut() {
            (node.facts.is_up, node.facts.doing) = (false, None);
        }
        let mut written: BTreeMap<&str, (u64, &Gauges)> = BTreeMap::new();
        for node in snapshot.iter().flat_map(|snapshot| &snapshot.nodes) {
            written.extend(node.seen.map(|seen| (node.node.as_str(), (seen, &node.counts.gauges))));
        }
        for (name, (seen, gauges)) in &written {
            let node = self.nodes.entry((*name).to_owned()).or_default();
            node.is_in_memcached = true;
            // Its clock may be ahead.
            node.facts.seen = node.facts.seen.max((*seen).min(at));
            if at.abs_diff(*seen) <= FRESH_SECONDS {
                (node.facts.is_up, node.facts.doing) = (true, Some(doing_of_gauges(gauges)));
            }
        }
        for (name, info) in told.iter().flat_map(|told| &told.nodes) {
            let node = self.nodes.entry(node_part(name)).or_default();
            node.is_leaving = info.stopping;
            node.facts.version = crate::model::escaped(info.version.as_bytes());
            (node.facts.is_up, node.facts.seen, node.facts.doing) = (true, at, Some(doing_of_info(info)));
        }
        let is_known = |name: &str, node: &Node| {
            let has_left =
                node.is_leaving || (node.is_in_memcached && snapshot.is_some() && !written.contains_key(name));
            node.facts.is_up || (!has_left && node.facts.seen.saturating_add(MISSED_SECONDS) > at)
        };
        self.nodes.retain(|name, node| is_known(name, node));
        while self.nodes.len() > MAX_NODES {
            self.nodes.pop_last();
        }
        self.nodes.iter_mut().for_each(|(name, node)| node.facts.node.clone_from(name));
    }
}

/// What one look at a fleet, or at a job that runs alone, tells; none: it does not answer.
pub fn cycle_of(look: Option<&Look>) -> Cycle {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |at| at.as_secs());
    let node = |(name, info): &(String, NodeInfo)| NodeFacts {
        node: node_part(name),
        version: crate::model::escaped(info.version.as_bytes()),
        is_up: true,
        seen: at,
        doing: Some(doing_of_info(info)),
    };
    let nodes: Vec<NodeFacts> = look.iter().flat_map(|look| &look.nodes).map(node).collect();
    let fleet = FleetFacts {
        nodes: look.map(|look| u32::try_from(look.nodes.len()).unwrap_or(u32::MAX)),
        silent: look.map(|look| look.answers.silent),
        strangers: look.map(|look| u32::try_from(look.answers.strangers.len()).unwrap_or(u32::MAX)),
        broker_up: Some(look.is_some()),
        memcached_up: None,
    };
    Cycle { at, jobs: jobs_of(None, look, Vec::new()), nodes, fleet, ..Cycle::default() }
}

fn doing_of_gauges(gauges: &Gauges) -> Doing {
    Doing {
        actors: gauges.actors,
        busy: gauges.busy,
        in_flight: gauges.in_flight,
        queue_wait_us: gauges.queue_wait_us,
        is_blocked: gauges.blocked,
        rss_bytes: gauges.rss_bytes,
        load_milli: None,
        is_paused: None,
    }
}

fn doing_of_info(info: &NodeInfo) -> Doing {
    Doing {
        actors: info.actors,
        busy: info.busy,
        in_flight: info.jobs.iter().map(|job| job.unsettled).fold(0, u64::saturating_add),
        queue_wait_us: info.queue_wait_us,
        is_blocked: info.blocked,
        rss_bytes: info.rss_bytes,
        load_milli: Some(info.load_milli),
        is_paused: Some(info.paused),
    }
}

/// What nodes counted, by node and job.
fn parts_of(snapshot: Snapshot) -> Vec<Part> {
    snapshot.nodes.into_iter().flat_map(parts_of_node).collect()
}

fn parts_of_node(node: NodeCounts) -> impl Iterator<Item = Part> {
    let NodeCounts { node, counts, .. } = node;
    let mut parts: BTreeMap<JobId, Part> = BTreeMap::new();
    let fresh = |job| Part { job, node: node.clone(), actors: Vec::new(), calls: Vec::new() };
    for actor in counts.actors {
        let part = parts.entry(actor.job).or_insert_with(|| fresh(actor.job));
        part.actors.push(Actor { pool: actor.pool, number: actor.number, values: actor.values });
    }
    for call in counts.calls {
        parts.entry(call.job).or_insert_with(|| fresh(call.job)).calls.push((call.call, call.times));
    }
    parts.into_values()
}

/// Jobs, of which the broker tells, also some that are gone, and how full their targets are, which nodes see.
fn jobs_of(snapshot: Option<&Snapshot>, told: Option<&Look>, gone: Vec<(JobId, JobTold)>) -> Vec<JobFacts> {
    let mut jobs: BTreeMap<JobId, JobFacts> = BTreeMap::new();
    let written = snapshot.iter().flat_map(|snapshot| &snapshot.nodes).flat_map(|node| &node.counts.gauges.targets);
    let written = written.map(|target| (target.job, target.space));
    let said = told.iter().flat_map(|told| &told.nodes).flat_map(|(_, info)| &info.jobs);
    for (job, space) in written.chain(said.filter_map(|node| Some((node.job, node.target?)))) {
        let facts = jobs.entry(job).or_insert(JobFacts { job, space: None, told: None });
        // The node that sees least is the one that will stop first.
        let is_less = |old: &Space| space.free_bytes <= old.free_bytes;
        if facts.space.as_ref().is_none_or(is_less) {
            facts.space = Some(space);
        }
    }
    for (job, facts) in told.iter().flat_map(|told| fleet::jobs_of(told)).chain(gone) {
        jobs.entry(job).or_insert(JobFacts { job, space: None, told: None }).told = Some::<JobTold>(facts);
    }
    jobs.into_values().collect()
}
