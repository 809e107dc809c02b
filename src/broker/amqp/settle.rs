//! Reports what was done, then acknowledges it: one task a job, in order.
//!
//! Invariant: a delivery is acknowledged after the report of what was done for it is confirmed. Only this
//! task acknowledges on its channel, so tags are never confirmed out of turn.

use super::connection::{self, Published};
use super::lanes::Lanes;
use super::messages::Results;
use super::publish;
use super::run::{Books, Run};
use super::token::{Settled, merge};
use super::topology;
use crate::model::{Failure, Finding, Mark, Report};
use lapin::Channel;
use lapin::options::BasicAckOptions;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reports are collected for so long, unless somebody waits.
const COLLECT: Duration = Duration::from_millis(100);
/// Bytes of failures in one message, roughly; the codec's limit is four times that.
const FAILURES_BYTES: usize = 1 << 20;

/// The two channels that settling needs.
pub(super) struct Desk {
    /// Where the deliveries came from.
    pub acks: Channel,
    /// Where reports go to, confirmed.
    pub reports: Channel,
    tags: Tags,
}

impl Desk {
    pub fn new(acks: Channel, reports: Channel) -> Self {
        Desk { acks, reports, tags: Tags::default() }
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
    let Books { settled, early, outbox, .. } = run.take_books();
    if publish::post(outbox, false).is_err() {
        return Ok(());
    }
    let mut report = early;
    let mut done = Vec::with_capacity(settled.len());
    for Settled { queue, tag, report: more } in settled {
        merge(&mut report, more);
        done.push((queue, tag));
    }
    let idle = run.live() == done.len() as u64;
    if !report.is_empty() || (idle && !done.is_empty()) {
        tell(run, &desk.reports, report, idle).await?;
    }
    // What was not reported is not acknowledged: it comes again.
    if run.is_gone() {
        return Ok(());
    }
    for (tag, multiple) in desk.tags.plan(done.iter().map(|(_, tag)| *tag)) {
        desk.acks.basic_ack(tag, BasicAckOptions { multiple }).await?;
    }
    for (queue, _) in done {
        run.acknowledged(queue);
    }
    Ok(())
}

async fn tell(run: &Arc<Run>, channel: &Channel, report: Report, idle: bool) -> lapin::Result<()> {
    let name = topology::results(run.job);
    for report in split(report) {
        let results = Results { job: run.job, session: run.session, number: run.next_result(), report, idle };
        let body = run.seal.seal(&results).map_err(std::io::Error::other)?;
        if connection::publish_safely(channel, &name, &body).await? == Published::NoQueue {
            run.set_gone();
            return Ok(());
        }
    }
    Ok(())
}

/// Cuts a report so that each part fits into a message; the first part has the totals.
fn split(report: Report) -> Vec<Report> {
    let Report { totals, failures, findings, mut evidence, abort } = report;
    let marks = evidence.as_mut().map(|e| std::mem::take(&mut e.marks)).unwrap_or_default();
    let mut parts = vec![Report { totals, evidence, abort, ..Report::default() }];
    let mut bytes = 0;
    for failure in failures {
        if bytes > FAILURES_BYTES {
            parts.push(Report::default());
            bytes = 0;
        }
        bytes += size_of::<Failure>() + failure.path.len() + failure.message.len();
        if let Some(part) = parts.last_mut() {
            part.failures.push(failure);
        }
    }
    for finding in findings {
        if bytes > FAILURES_BYTES {
            parts.push(Report::default());
            bytes = 0;
        }
        bytes += size_of::<Finding>()
            + finding.path.len()
            + finding.what.len()
            + finding.expected.len()
            + finding.found.len();
        if let Some(part) = parts.last_mut() {
            part.findings.push(finding);
        }
    }
    for mark in marks {
        if bytes > FAILURES_BYTES {
            parts.push(Report::default());
            bytes = 0;
        }
        let (Mark::Link { path, .. } | Mark::State { path, .. }) = &mark;
        bytes += size_of::<Mark>() + path.len();
        if let Some(part) = parts.last_mut() {
            part.evidence.get_or_insert_default().marks.push(mark);
        }
    }
    parts
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
    use super::*;
    use crate::model::{Operation, State};
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
    fn a_report_with_many_failures_is_cut_and_stays_whole() {
        let failure = |n: usize| Failure::new(vec![b'x'; 100_000 + n], Operation::Run, None, String::new());
        let mut report = Report { failures: (0..40).map(failure).collect(), ..Report::default() };
        report.totals.failed = 40;
        let mark = |n: usize| Mark::State { path: vec![b'y'; 100_000 + n], state: State::Pending };
        let evidence = report.evidence.get_or_insert_default();
        evidence.marks = (0..40).map(mark).collect();
        evidence.sums[1].add_element(&[0; 32], b"x");
        evidence.uncertain = true;
        let parts = split(report.clone());
        assert!(parts.len() >= 8);
        let mut again = Report::default();
        for part in parts {
            let bytes = super::super::Seal::new(None).seal(&Results {
                job: crate::model::JobId::random(),
                session: 1,
                number: 1,
                report: part.clone(),
                idle: false,
            });
            assert!(bytes.unwrap().len() < 2 << 20);
            merge(&mut again, part);
        }
        assert_eq!(again, report);
    }
}
