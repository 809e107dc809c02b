//! A job that the workers of a broker do: submitted, and followed, from here.

use super::{Ended, NodeError, Prepared};
use crate::broker::amqp::{self, AmqpConfig, Followed, Follower, JobState, Reads, Retry};
use crate::model::fleet::{JobEnd, JobPhase};
use crate::model::{JobId, JobSpec, Report, Task};
use crate::pass::{Pass, PassRow, Roots};
use crate::telemetry::Board;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

/// Can the broker be used? Asked before anything is touched. Gives the job between the same roots that is under way.
///
/// # Errors
/// [`NodeError::Broker`].
pub fn running_between(config: &AmqpConfig, source: &[u8], target: &[u8]) -> Result<Option<JobState>, NodeError> {
    let same = |state: &JobState| {
        let other = state.phase == JobPhase::Ended || state.spec.policy.dry_run;
        !other && state.spec.source == source && state.spec.target == target
    };
    Ok(amqp::jobs(config)?.into_iter().find(same))
}

/// Marks the target and submits a job. It goes on by itself then.
///
/// # Errors
/// [`NodeError`]; nothing is left then.
pub fn submit(
    spec: &JobSpec,
    row: &PassRow,
    roots: Roots,
    first: impl IntoIterator<Item = Task>,
    config: &AmqpConfig,
    reader: Option<Reads>,
    say: &dyn Fn(&str),
) -> Result<Arc<dyn Pass>, NodeError> {
    let pass: Arc<dyn Pass> = Arc::from(row.prepare(spec, roots, true)?);
    pass.mark()?;
    match amqp::submit(config, spec, first, reader, say) {
        Ok(()) => Ok(pass),
        Err(e) => {
            let mut report = Report::default();
            pass.conclude(&mut report);
            Err(e.into())
        }
    }
}

/// Marks the target again and puts a job that is over back onto the broker, to do some of it again.
///
/// # Errors
/// [`NodeError`]; the job is as it was then.
pub fn reopen(
    spec: &JobSpec,
    config: &AmqpConfig,
    retry: Retry,
    reader: Option<Reads>,
    say: &dyn Fn(&str),
) -> Result<Arc<dyn Pass>, NodeError> {
    let unknown = || NodeError::Refused(format!("this version has no pass '{}'", spec.pass));
    let row = crate::pass::row(&spec.pass).ok_or_else(unknown)?;
    let prepared = super::prepare(&spec.source, &spec.target, spec.id, row.access, &spec.policy, None)?;
    let Prepared::Tree(roots) = prepared else {
        return Err(NodeError::Refused("the job's source is no directory any more".into()));
    };
    let pass: Arc<dyn Pass> = Arc::from(row.prepare(spec, roots, true)?);
    pass.mark()?;
    match amqp::reopen(config, spec, retry, reader, say) {
        Ok(()) => Ok(pass),
        Err(e) => {
            pass.conclude(&mut Report::default());
            Err(e.into())
        }
    }
}

/// Follows a job to its end, or until a signal comes. Blocks.
///
/// # Errors
/// [`NodeError`], if the broker does not let this process in any more, or does not know the job.
pub fn follow(job: JobId, config: &AmqpConfig, reader: Reads, board: &Arc<Board>) -> Result<Ended, NodeError> {
    let signalled = watch_signals()?;
    let mut follower = Follower::new(config, job, reader, Arc::clone(board))?;
    let followed = follower.run(&|| signalled.load(Ordering::Relaxed) != 0)?;
    Ok(match followed {
        Followed::Left => Ended::Left(signalled.load(Ordering::Relaxed)),
        Followed::Ended { end, letters } => {
            if letters > 0 {
                board.note(&format!("{letters} messages that could not be worked on are kept in treehaul.{job}.dead"));
            }
            match end {
                JobEnd::Complete => Ended::Complete,
                JobEnd::Aborted(why) => Ended::Aborted(why),
                JobEnd::Cancelled(why) => Ended::Aborted(format!("cancelled: {why}")),
            }
        }
    })
}

/// From now on a signal is taken for the wish to leave a job that is followed.
///
/// # Errors
/// [`NodeError::System`].
pub fn listen() -> Result<(), NodeError> {
    watch_signals().map(drop)
}

static SIGNAL: OnceLock<Arc<AtomicI32>> = OnceLock::new();

/// Listens on a thread of its own, since a follower's calls block. The number of the first signal, or 0.
fn watch_signals() -> Result<Arc<AtomicI32>, NodeError> {
    if let Some(number) = SIGNAL.get() {
        return Ok(Arc::clone(number));
    }
    let number = spawn_listener()?;
    Ok(Arc::clone(SIGNAL.get_or_init(|| number)))
}

fn spawn_listener() -> Result<Arc<AtomicI32>, NodeError> {
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
