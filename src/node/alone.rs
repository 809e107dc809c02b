//! One job in one process, with the embedded broker.

use super::live::Brake;
use super::spaces::Spaces;
use super::{Ended, Live, NodeError, OnlyJob, PoolSizes, Pools, Signals, Stats, stats};
use crate::actor::Jobs;
use crate::broker::Broker;
use crate::broker::embedded::Embedded;
use crate::model::{Report, Task};
use crate::pass::{Pass, PassRow, Roots};
use crate::telemetry::Flusher;
use std::sync::Arc;
use tokio::sync::Notify;

/// Runs the job of `live`, through which it is seen and steered, to its end on the calling thread and the actors' own.
/// Blocks. Its roots are timed already, if they are to be.
///
/// # Errors
/// [`NodeError`], if it cannot even start; everything later is in the result and on the board.
pub fn run_alone(
    live: &Live,
    row: &PassRow,
    roots: Roots,
    first: impl IntoIterator<Item = Task>,
    sizes: PoolSizes,
    stats: Stats,
) -> Result<Ended, NodeError> {
    let (spec, board) = (live.spec(), live.board());
    let spaces = Spaces::default();
    spaces.insert(spec.id, Arc::clone(&roots.target));
    let pass: Arc<dyn Pass> = Arc::from(row.prepare(spec, roots, true)?);
    let over = Arc::new(Notify::new());
    let notify = Arc::clone(&over);
    let broker = Embedded::new(
        spec.id,
        first,
        Arc::clone(board),
        super::gate_of(&pass, spec),
        Box::new(move || notify.notify_one()),
    );
    let jobs: Arc<dyn Jobs> = Arc::new(OnlyJob(spec.id, Arc::clone(&pass)));
    let work = async {
        let mut signals = Signals::new()?;
        let brake = Brake::before(Arc::new(Arc::clone(&broker)));
        let (port, meters) = (Arc::clone(&brake) as Arc<dyn Broker>, stats.meters.clone());
        let pools = Pools::start(sizes, &port, &jobs, meters.as_ref());
        let flusher = stats.start(stats::look_alone(&pools, &broker, spaces))?;
        let mut helm = live.begin(&pools, sizes, &broker, &brake);
        let mut signalled = None;
        loop {
            tokio::select! {
                () = over.notified() => break,
                number = signals.next() => {
                    if signalled.replace(number).is_some() {
                        std::process::exit(128 + number);
                    }
                    board.note("stopping: what is in hand is finished; once more to end at once");
                    broker.stop();
                }
                wish = helm.next() => helm.obey(wish).await,
            }
        }
        live.rest();
        pools.drain().await;
        Ok::<_, NodeError>((signalled, flusher))
    };
    let (signalled, flusher) = actix::System::new().block_on(work)?;
    let mut report = Report::default();
    pass.conclude(&mut report);
    board.absorb(report);
    board.stop_clock();
    // What could not be sent in time is nobody's failure, and was said.
    flusher.map(Flusher::finish);
    Ok(match (signalled, board.snapshot().abort.or_else(|| broker.broken())) {
        (Some(number), _) => Ended::Signalled(number),
        (None, Some(why)) => Ended::Aborted(why),
        (None, None) => Ended::Complete,
    })
}
