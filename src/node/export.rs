//! An exporter: looks at memcached and broker, cycle after cycle, and feeds what wants to know.
//!
//! Invariant: what is away is said once, and the rest goes on; nothing waits for longer than a few seconds.

mod collect;
mod fleet;

pub use collect::{Sources, cycle_of};

use super::{NodeError, Signals};
use crate::telemetry::export::{
    Carry, Changes, Cycle, Graphite, Labels, Page, State, Statsd, Text, lines, render_sums,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A cycle that took longer than there is between two does not have the next one follow at once.
const SHORTEST_REST: Duration = Duration::from_millis(100);
/// What is being told to a statsd, and then to a Graphite, is told to its end, for so long.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where facts go.
#[derive(Debug, Default)]
pub struct Sinks {
    /// Cumulative counters and gauges.
    pub graphite: Option<Arc<Graphite>>,
    /// Increments and gauges.
    pub statsd: Option<Statsd>,
    /// To be scraped.
    pub page: Option<Arc<Page>>,
}

/// How facts are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manner {
    /// What paths of Graphite begin with.
    pub prefix: String,
    /// Labels of Prometheus.
    pub labels: Labels,
    /// Paths of each actor; of each pool otherwise.
    pub by_actor: bool,
}

/// All of it.
pub struct Exporter {
    sources: Sources,
    sinks: Sinks,
    manner: Manner,
    state: Option<State>,
    /// Sums over all cycles.
    carry: Carry,
    /// Held while something is told that must be told once.
    telling: Arc<Mutex<()>>,
    /// What was said already.
    said: Said,
}

#[derive(Default)]
struct Said {
    statsd: bool,
    state: bool,
    labels: bool,
}

/// What one cycle came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cycled {
    /// What was seen.
    pub cycle: Cycle,
    /// Something that should have been read, or told, could not be.
    pub is_short: bool,
}

impl Exporter {
    /// Of these parts; `state` where increments, or resets, are told.
    pub fn new(sources: Sources, sinks: Sinks, manner: Manner, state: Option<State>) -> Self {
        let (carry, telling) = (Carry::default(), Arc::default());
        Exporter { sources, sinks, manner, state, carry, telling, said: Said::default() }
    }

    /// Looks once, and tells.
    pub fn cycle(&mut self) -> Cycled {
        let cycle = self.sources.collect();
        self.carry.advance(&cycle);
        let mut missing = missing_of(&cycle);
        if let Some(graphite) = &self.sinks.graphite {
            graphite.push(lines(&cycle, &self.manner.prefix, self.manner.by_actor));
        }
        let telling = Arc::clone(&self.telling);
        let told = telling.lock().unwrap_or_else(PoisonError::into_inner);
        let (changes, is_kept) = self.changes(&cycle);
        missing.extend((!is_kept).then_some("what was seen is not kept"));
        missing.extend((!self.tell_statsd(&cycle, &changes)).then_some("statsd cannot be told"));
        drop(told);
        let is_short = !missing.is_empty();
        self.publish(&cycle, &changes, missing);
        Cycled { cycle, is_short }
    }

    /// What came since the last cycle, once that is written down.
    fn changes(&mut self, cycle: &Cycle) -> (Changes, bool) {
        let Some(state) = &mut self.state else { return (Changes::default(), true) };
        let changes = state.advance(cycle);
        let saved = if cycle.epoch.is_some() { state.save() } else { Ok(()) };
        if let (Err(e), false) = (&saved, self.said.state) {
            tracing::warn!(error = %e, "what was seen is not kept: after a restart some may be told again");
        }
        self.said.state = saved.is_err();
        (changes, saved.is_ok())
    }

    fn tell_statsd(&mut self, cycle: &Cycle, changes: &Changes) -> bool {
        let Some(statsd) = &self.sinks.statsd else { return true };
        let sent = statsd.send(cycle, changes, self.manner.by_actor);
        if let (Err(e), false) = (&sent, self.said.statsd) {
            tracing::warn!(error = crate::model::escaped(e.as_bytes()), "statsd cannot be told");
        }
        self.said.statsd = sent.is_err();
        sent.is_ok()
    }

    fn publish(&mut self, cycle: &Cycle, changes: &Changes, missing: Vec<&'static str>) {
        let Some(page) = self.sinks.page.clone() else { return };
        let shown = self.render(cycle, false);
        if changes.is_reset || page.is_resetting() {
            page.reset(self.render(cycle, true).text);
        }
        page.publish(shown.text);
        page.cycled(missing);
    }

    /// The last cycle for a Prometheus.
    pub fn render(&mut self, cycle: &Cycle, is_reset: bool) -> Text {
        let shown = render_sums(cycle, &self.carry, self.manner.labels, is_reset);
        let has_less = shown.labels != self.manner.labels;
        if has_less && !self.said.labels {
            tracing::warn!(labels = ?shown.labels, "there are too many series: labels are left out");
        }
        self.said.labels = has_less;
        shown
    }

    /// Sends what is left; false if it did not arrive.
    pub fn finish(self) -> bool {
        self.sinks.graphite.is_none_or(|graphite| has_arrived(graphite.finish()))
    }

    /// Cycle after cycle, until a signal: its number.
    ///
    /// # Errors
    /// The machine does not give what is needed.
    ///
    /// # Panics
    /// A cycle panicked.
    pub fn run(mut self, every: Duration) -> Result<i32, NodeError> {
        let (telling, graphite) = (Arc::clone(&self.telling), self.sinks.graphite.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| NodeError::System(format!("cannot start a runtime: {e}")))?;
        let mut signals = runtime.block_on(async { Signals::new() })?;
        let (alive, dead) = tokio::sync::oneshot::channel::<()>();
        let cycles = move || {
            let _alive = alive;
            loop {
                let next = Instant::now() + every;
                self.cycle();
                std::thread::sleep(next.saturating_duration_since(Instant::now()).max(SHORTEST_REST));
            }
        };
        let thread = std::thread::Builder::new().name("cycles".into());
        let thread: JoinHandle<()> =
            thread.spawn(cycles).map_err(|e| NodeError::System(format!("cannot start a thread: {e}")))?;
        let ended = runtime.block_on(async {
            tokio::select! {
                signal = signals.next() => Some(signal),
                _ = dead => None,
            }
        });
        let Some(signal) = ended else {
            // It never ends otherwise: whoever watches this process should see that it is no more.
            return thread.join().map(|()| 0).or_else(|panic| std::panic::resume_unwind(panic));
        };
        // What is written down as told should have been told.
        let end = Instant::now() + LAST_WORDS;
        while telling.try_lock().is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(graphite) = graphite {
            has_arrived(graphite.last_words(LAST_WORDS));
        }
        Ok(signal)
    }
}

/// What a cycle lacks.
fn missing_of(cycle: &Cycle) -> Vec<&'static str> {
    let lacks = [
        (cycle.fleet.broker_up == Some(false), "the broker does not answer"),
        (cycle.fleet.memcached_up == Some(false), "the memcached does not answer"),
        (cycle.is_cut, "the memcached holds more than is read"),
    ];
    lacks.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what).collect()
}

fn has_arrived(sent: Result<(), String>) -> bool {
    if let Err(e) = &sent {
        tracing::warn!(
            error = crate::model::escaped(e.as_bytes()),
            "Graphite was not told everything: the rest is lost"
        );
    }
    sent.is_ok()
}
