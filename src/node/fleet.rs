//! A job that the workers of a broker do, followed from here.

use super::{Ended, NodeError};
use crate::broker::amqp::{AmqpConfig, Leader, Outcome};
use crate::model::{JobId, JobSpec, Report, Task};
use crate::pass::{Pass, PassRow, Roots};
use crate::telemetry::Board;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Can the broker be used? Asked before anything is touched. A job between the same roots whose leader died is
/// taken off the broker and named here; what it did stays done.
///
/// # Errors
/// [`NodeError::Broker`].
pub fn check_broker(config: &AmqpConfig, source: &[u8], target: &[u8]) -> Result<Vec<JobId>, NodeError> {
    let same = |spec: &JobSpec| spec.source == source && spec.target == target;
    crate::broker::amqp::check(config, &same).map_err(NodeError::Broker)
}

/// Submits a job and leads it to its end. Blocks.
///
/// # Errors
/// [`NodeError`], if it cannot start, or the broker does not let this process in any more.
pub fn run_with_fleet(
    spec: &JobSpec,
    row: &PassRow,
    roots: Roots,
    first: impl IntoIterator<Item = Task>,
    config: &AmqpConfig,
    board: &Arc<Board>,
) -> Result<Ended, NodeError> {
    let signalled = watch_signals()?;
    let pass: Arc<dyn Pass> = Arc::from(row.prepare(spec, roots, true)?);
    pass.mark()?;
    let conclude = || {
        let mut report = Report::default();
        pass.conclude(&mut report);
        board.absorb(report);
    };
    let submitted = Leader::submit(config, spec.clone(), first, Arc::clone(board), super::gate_of(&pass));
    let mut leader = submitted.inspect_err(|_| conclude())?;
    // A job that is still on the broker needs its mark: the workers go on, and the next leader takes over.
    let ended = leader.run(&|| signalled.load(Ordering::Relaxed) != 0, &mut |_| {})?;
    let removed = leader.remove();
    if removed.is_ok() || ended.outcome == Outcome::Complete {
        conclude();
    }
    let letters = removed.unwrap_or_else(|e| {
        board.note(&format!("the job is over, but its queues could not be removed: {e}"));
        0
    });
    if letters > 0 {
        board.note(&format!("{letters} messages that could not be worked on are kept in treehaul.{}.dead", spec.id));
        if board.snapshot().totals.failed == 0 {
            let mut report = Report::default();
            report.totals.failed = u64::from(letters);
            board.absorb(report);
        }
    }
    Ok(match (signalled.load(Ordering::Relaxed), ended.outcome) {
        (_, Outcome::Complete) => Ended::Complete,
        (_, Outcome::Aborted(why)) => Ended::Aborted(why),
        (0, Outcome::Stopped) => Ended::Aborted("somebody else stopped the job".into()),
        (number, Outcome::Stopped) => Ended::Signalled(number),
    })
}

/// Listens on a thread of its own, since a leader's calls block. The number of the first signal, or 0.
fn watch_signals() -> Result<Arc<AtomicI32>, NodeError> {
    let number = Arc::new(AtomicI32::new(0));
    let seen = Arc::clone(&number);
    let system = |e: std::io::Error| NodeError::System(format!("cannot listen for signals: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    let mut signals = {
        let _guard = runtime.enter();
        super::Signals::new()?
    };
    let listen = move || {
        runtime.block_on(async {
            loop {
                let number = signals.next().await;
                if seen.swap(number, Ordering::Relaxed) != 0 {
                    std::process::exit(128 + number);
                }
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(system)?;
    Ok(number)
}
