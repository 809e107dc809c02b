//! Reports what was done, then acknowledges it: one task a job, in order.
//!
//! Invariant: a delivery is acknowledged after the report of what was done for it is confirmed. Only this
//! task acknowledges on its channel, so tags are never confirmed out of turn.

use super::connection::{self, Published};
use super::lanes::Lanes;
use super::messages::{Done, Part, Record, Results, What};
use super::publish;
use super::run::Run;
use super::token::{Settled, lists_bytes};
use super::topology;
use crate::model::Totals;
use lapin::Channel;
use lapin::options::BasicAckOptions;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reports are collected for so long, unless somebody waits.
const COLLECT: Duration = Duration::from_millis(100);
/// Bytes in one message, roughly; the codec's limit is four times that.
const MESSAGE_BYTES: usize = 1 << 20;
/// Bytes of a delivery's end without lists, at most: totals, sums.
const DONE_BYTES: usize = 1024;

/// The two channels that settling needs.
pub(super) struct Desk {
    /// Where the deliveries came from.
    pub acks: Channel,
    /// Where reports go to, confirmed.
    pub reports: Channel,
    worker: String,
    tags: Tags,
}

impl Desk {
    pub fn new(acks: Channel, reports: Channel, worker: String) -> Self {
        Desk { acks, reports, worker, tags: Tags::default() }
    }
}

/// Settles until the run is gone.
pub(super) async fn serve(run: &Arc<Run>, lanes: &Lanes, mut desk: Desk) -> lapin::Result<()> {
    let mut last = Instant::now();
    while !run.is_gone() {
        run.wake.notified().await;
        while let Some(wait) = COLLECT.checked_sub(last.elapsed()) {
            let waiting: u32 = lanes.idle().iter().sum();
            if waiting > 0 || run.is_urgent() || run.is_over() {
                break;
            }
            let _ = tokio::time::timeout(wait, run.wake.notified()).await;
        }
        while run.has_news() && !run.is_gone() {
            flush(run, &mut desk).await?;
            last = Instant::now();
        }
    }
    Ok(())
}

async fn flush(run: &Arc<Run>, desk: &mut Desk) -> lapin::Result<()> {
    let (books, in_progress) = run.take_books();
    let news = books.progressed() || !books.parts.is_empty() || books.abort.is_some();
    let mut tags = books.moved;
    let (mut done, mut counted) = (Vec::new(), Vec::new());
    for settled in books.settled {
        if settled.finish.is_empty() {
            tags.push(settled.tag);
            counted.push(settled.counted);
            done.extend(done_of(settled));
        } else {
            run.still_open(&settled.report.totals);
            if publish::post_finish(run, settled).is_err() {
                return Ok(());
            }
        }
    }
    let idle = run.live() == counted.len() as u64;
    if news || !done.is_empty() {
        tell(run, desk, books.parts, done, in_progress, books.abort, idle).await?;
    }
    // What was not reported is not acknowledged: it comes again.
    if run.is_gone() {
        return Ok(());
    }
    for (tag, multiple) in desk.tags.plan(tags.into_iter()) {
        desk.acks.basic_ack(tag, BasicAckOptions { multiple }).await?;
    }
    for queue in counted {
        run.acknowledged(queue);
    }
    Ok(())
}

/// Nothing is said of what nobody looked into: it was left because the job is being ended.
fn done_of(settled: Settled) -> Option<Done> {
    let Settled { origin, attempt, queue, posted, report, .. } = settled;
    Some(Done { origin: origin?, attempt, queue, posted, report })
}

async fn tell(
    run: &Arc<Run>,
    desk: &Desk,
    parts: Vec<Part>,
    done: Vec<Done>,
    in_progress: Totals,
    abort: Option<String>,
    idle: bool,
) -> lapin::Result<()> {
    let name = topology::results(run.job);
    for (parts, done) in split(parts, done) {
        let results = Results {
            session: run.session,
            number: run.next_result(),
            worker: desk.worker.clone(),
            parts,
            done,
            in_progress,
            abort: abort.clone(),
            idle,
        };
        let record = Record { job: run.job, what: What::Results(Box::new(results)) };
        let body = run.seal.seal(&record).map_err(std::io::Error::other)?;
        if connection::publish_safely(&desk.reports, &name, &body).await? == Published::NoQueue {
            run.set_gone();
            return Ok(());
        }
    }
    Ok(())
}

/// Cuts what is told so that each message fits; a delivery's parts come before its end.
fn split(parts: Vec<Part>, done: Vec<Done>) -> Vec<(Vec<Part>, Vec<Done>)> {
    let mut messages = vec![(Vec::new(), Vec::new())];
    let mut bytes = 0;
    let mut room = |messages: &mut Vec<(Vec<Part>, Vec<Done>)>, more: usize| {
        if bytes + more > MESSAGE_BYTES && bytes > 0 {
            messages.push((Vec::new(), Vec::new()));
            bytes = 0;
        }
        bytes += more;
    };
    for part in parts {
        room(&mut messages, lists_bytes(&part.report));
        if let Some((parts, _)) = messages.last_mut() {
            parts.push(part);
        }
    }
    for one in done {
        room(&mut messages, DONE_BYTES + lists_bytes(&one.report));
        if let Some((_, done)) = messages.last_mut() {
            done.push(one);
        }
    }
    messages
}

/// Which tags of a channel are acknowledged.
#[derive(Default)]
struct Tags {
    /// All up to here.
    all_to: u64,
    /// Single ones beyond.
    beyond: BTreeSet<u64>,
}

impl Tags {
    /// The fewest acknowledgements for these tags, in order: one for those without a gap before them, one
    /// each for the others.
    fn plan(&mut self, tags: impl Iterator<Item = u64>) -> Vec<(u64, bool)> {
        let new: BTreeSet<u64> = tags.collect();
        self.beyond.extend(&new);
        while self.beyond.remove(&(self.all_to + 1)) {
            self.all_to += 1;
        }
        // The highest new one among them is not acknowledged yet, as the broker wants it to be.
        let together = new.range(..=self.all_to).next_back().map(|tag| (*tag, true));
        let single = new.range(self.all_to + 1..).map(|tag| (*tag, false));
        together.into_iter().chain(single).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::Origin;
    use super::*;
    use crate::model::{Failure, Operation, Queue, Report};
    use proptest::prelude::*;

    #[test]
    fn tags_without_a_gap_are_acknowledged_together() {
        let mut tags = Tags::default();
        assert_eq!(tags.plan([1, 2, 3].into_iter()), [(3, true)]);
        assert_eq!(tags.plan([6, 5].into_iter()), [(5, false), (6, false)]);
        assert_eq!(tags.plan([4].into_iter()), [(4, true)]);
        assert_eq!(tags.plan([8, 7].into_iter()), [(8, true)]);
    }

    proptest! {
        #[test]
        fn every_tag_is_acknowledged_once_it_is_settled_and_none_before(
            order in Just((1..=60u64).collect::<Vec<_>>()).prop_shuffle(),
            cuts in proptest::collection::vec(1..10usize, 60),
        ) {
            let mut tags = Tags::default();
            let (mut open, mut settled): (BTreeSet<u64>, BTreeSet<u64>) = ((1..=60).collect(), BTreeSet::new());
            let mut rest = &order[..];
            for cut in cuts {
                let (batch, tail) = rest.split_at(cut.min(rest.len()));
                rest = tail;
                settled.extend(batch);
                for (tag, multiple) in tags.plan(batch.iter().copied()) {
                    prop_assert!(open.contains(&tag));
                    let acked: Vec<u64> = open.iter().copied().filter(|t| *t == tag || (multiple && *t < tag)).collect();
                    for t in acked {
                        prop_assert!(settled.contains(&t));
                        open.remove(&t);
                    }
                }
                prop_assert!(batch.iter().all(|t| !open.contains(t)));
            }
        }
    }

    #[test]
    fn what_is_told_is_cut_and_stays_whole() {
        let failure = |n: usize| Failure::new(vec![b'x'; 100_000 + n], Operation::Run, None, String::new());
        let report = |n| Report { failures: vec![failure(n)], ..Report::default() };
        let parts: Vec<Part> = (0..40).map(|n| Part { attempt: n as u64, report: report(n) }).collect();
        let origin = Origin { session: 1, number: 1, attempt: 1 };
        let end = |n: usize| Done { origin, attempt: n as u64, queue: Queue::Files, posted: [0; 3], report: report(n) };
        let done: Vec<Done> = (0..40).map(end).collect();
        let cut = split(parts.clone(), done.clone());
        assert!(cut.len() >= 8);
        for (parts, done) in &cut {
            let bytes: usize =
                parts.iter().map(|p| &p.report).chain(done.iter().map(|d| &d.report)).map(lists_bytes).sum();
            assert!(bytes < 2 * MESSAGE_BYTES);
        }
        let (all_parts, all_done): (Vec<_>, Vec<_>) = cut.into_iter().unzip();
        assert_eq!((all_parts.concat(), all_done.concat()), (parts, done));
    }
}
