//! Nodes that went without a word.
//!
//! Invariant: a node that was seen on its way out is never lost; what is kept does not grow with the names that were ever
//! seen.

use super::state::unix_ms;
use crate::model::escaped;
use crate::node::Look;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Lost nodes are shown for so long.
const SHOWN: Duration = Duration::from_secs(60 * 60);
/// While the broker knows of workers that did not answer, one that is missing may be one of them for so long.
const MAY_BE_SILENT: Duration = Duration::from_secs(30);
/// Nodes that are kept in mind while they are missing, at most.
const KEPT: usize = 100;

/// When a node was seen last.
#[derive(Debug, Clone, Copy)]
struct Trace {
    at: Instant,
    unix_ms: u64,
    is_missing: bool,
    is_lost: bool,
}

/// Nodes that are there, and those that are not any more.
#[derive(Debug, Default)]
pub struct Lost(BTreeMap<String, Trace>);

impl Lost {
    /// Takes a look into it.
    pub fn take_in(&mut self, look: &Look) {
        self.0.values_mut().for_each(|trace| trace.is_missing = true);
        let now = unix_ms();
        for (name, info) in &look.nodes {
            if info.stopping {
                self.0.remove(name);
            } else {
                let trace = Trace { at: look.at, unix_ms: now, is_missing: false, is_lost: false };
                self.0.insert(name.clone(), trace);
            }
        }
        // It is there, though it speaks another language now.
        for stranger in &look.answers.strangers {
            self.0.remove(&stranger.name);
        }
        self.0.retain(|_, trace| look.at.saturating_duration_since(trace.at) < SHOWN);
        for trace in self.0.values_mut().filter(|trace| trace.is_missing) {
            let since = look.at.saturating_duration_since(trace.at);
            trace.is_lost |= look.answers.silent == 0 || since > MAY_BE_SILENT;
        }
        self.forget_the_oldest();
    }

    fn forget_the_oldest(&mut self) {
        let missing = || self.0.iter().filter(|(_, trace)| trace.is_missing);
        let mut ages: Vec<_> = missing().map(|(name, trace)| (trace.at, name.clone())).collect();
        ages.sort();
        let excess = ages.len().saturating_sub(KEPT);
        for (_, name) in ages.into_iter().take(excess) {
            self.0.remove(&name);
        }
    }

    /// Those that are lost, with when they were seen last.
    pub fn json(&self, now: Instant) -> Value {
        let lost = self.0.iter().filter(|(_, trace)| trace.is_lost);
        let one = |(name, trace): (&String, &Trace)| {
            json!({
                "node": escaped(name.as_bytes()),
                "state": "lost",
                "seen_unix_ms": trace.unix_ms,
                "seen_seconds_ago": now.saturating_duration_since(trace.at).as_secs(),
            })
        };
        lost.map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::amqp::Answers;
    use crate::model::Timestamp;
    use crate::model::fleet::NodeInfo;

    fn node(stopping: bool) -> NodeInfo {
        NodeInfo {
            version: String::new(),
            host: String::new(),
            pid: 1,
            started: Timestamp { sec: 0, ns: 0 },
            actors: [1; 2],
            busy: [0; 2],
            paused: false,
            stopping,
            limits: Default::default(),
            load_milli: 0,
            rss_bytes: 0,
            queue_wait_us: 0,
            blocked: false,
            jobs: Vec::new(),
        }
    }

    fn look(at: Instant, nodes: &[(&str, bool)], silent: u32) -> Look {
        let nodes = nodes.iter().map(|(name, stopping)| ((*name).to_owned(), node(*stopping))).collect();
        Look { at, jobs: Vec::new(), gone: Vec::new(), nodes, answers: Answers { silent, ..Answers::default() } }
    }

    fn names(lost: &Lost, now: Instant) -> Vec<String> {
        let all = lost.json(now);
        all.as_array().unwrap().iter().map(|one| one["node"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn who_went_without_a_word_is_lost_until_it_is_back_or_long_gone() {
        let (mut lost, start) = (Lost::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        lost.take_in(&look(start, &[("a", false), ("b", false), ("c\n", false), ("d", false)], 0));
        assert!(names(&lost, start).is_empty());
        lost.take_in(&look(after(1), &[("a", false), ("b", true)], 1));
        assert!(names(&lost, after(1)).is_empty(), "one of them may be slow");
        lost.take_in(&look(after(2), &[("a", false)], 0));
        assert_eq!(names(&lost, after(2)), ["c\\n", "d"]);
        assert_eq!(lost.json(after(2))[0]["seen_seconds_ago"], 2);
        lost.take_in(&look(after(3), &[("a", false), ("d", false)], 1));
        assert_eq!(names(&lost, after(3)), ["c\\n"], "one is back");
        lost.take_in(&look(after(3602), &[("a", false), ("d", false)], 0));
        assert!(names(&lost, after(3602)).is_empty());
        lost.take_in(&look(after(3603), &[("a", false)], 5));
        assert!(names(&lost, after(3603)).is_empty());
        lost.take_in(&look(after(3640), &[("a", false)], 5));
        assert_eq!(names(&lost, after(3640)), ["d"], "nobody is silent for so long");
    }

    #[test]
    fn names_without_end_are_not_kept() {
        let (mut lost, start) = (Lost::default(), Instant::now());
        for turn in 0..300 {
            let name = format!("{turn:03}");
            lost.take_in(&look(start + Duration::from_secs(turn), &[(&name, false)], 0));
        }
        let kept = names(&lost, start);
        assert_eq!((kept.len(), kept[0].as_str(), kept[KEPT - 1].as_str()), (KEPT, "199", "298"));
    }
}
