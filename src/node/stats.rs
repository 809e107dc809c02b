//! What is counted and timed in this process, and where it goes.

use super::spaces::Spaces;
use super::{NodeError, Pools};
use crate::actor::Roster;
use crate::broker::embedded::Embedded;
use crate::telemetry::counts::{Gauges, TargetSpace};
use crate::telemetry::{Flusher, Look, Meters, Outlet};
use std::sync::Arc;

/// Makes the outlet of a node of this name. Nothing is sent before that.
pub type OpenOutlet = Box<dyn FnOnce(&str) -> Box<dyn Outlet> + Send>;

/// What is counted and timed.
#[derive(Default)]
pub struct Stats {
    /// What the node is called where counters are sent; a worker goes by the name that it got.
    pub name: String,
    /// None: nothing at all.
    pub meters: Option<Arc<Meters>>,
    /// Where counters are sent, if anywhere.
    pub outlet: Option<OpenOutlet>,
}

impl Stats {
    /// Calls are timed for those who ask; nothing is sent.
    pub fn timed() -> Self {
        Stats { meters: Some(Meters::of_calls()), ..Stats::default() }
    }

    /// Everything is counted and sent.
    pub fn sent(name: String, outlet: OpenOutlet) -> Self {
        Stats { name, meters: Some(Meters::new()), outlet: Some(outlet) }
    }

    /// Begins to send, if that is wanted.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(self, look: Look) -> Result<Option<Flusher>, NodeError> {
        let (Some(meters), Some(outlet)) = (self.meters, self.outlet) else { return Ok(None) };
        let flusher = Flusher::start(meters, look, outlet(&self.name));
        flusher.map(Some).map_err(|e| NodeError::System(format!("no thread that sends counters: {e}")))
    }
}

/// What both pools and the targets are at.
pub(super) fn gauges(rosters: &[Arc<Roster>; 2], spaces: &Spaces) -> Gauges {
    let [dirs, files] = [rosters[0].count(), rosters[1].count()];
    let targets = spaces.all().into_iter().map(|(job, space)| TargetSpace { job, space });
    Gauges {
        actors: [dirs.0, files.0],
        busy: [dirs.1, files.1],
        rss_bytes: super::orders::rss_bytes().unwrap_or(0),
        targets: targets.collect(),
        ..Gauges::default()
    }
}

/// Looks at a process that works alone. How long tasks wait in it is not clocked.
pub(super) fn look_alone(pools: &Pools, broker: &Arc<Embedded>, spaces: Spaces) -> Look {
    let (rosters, broker) = (pools.rosters.clone(), Arc::downgrade(broker));
    Box::new(move || Gauges {
        in_flight: broker.upgrade().map_or(0, |broker| broker.in_flight()),
        ..gauges(&rosters, &spaces)
    })
}
