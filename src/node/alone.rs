//! One job in one process, with the embedded broker.

use super::live::{Brake, Helm};
use super::spaces::Spaces;
use super::{Ended, Live, NodeError, OnlyJob, PoolSizes, Pools, Signals, Stats, stats};
use crate::actor::Jobs;
use crate::broker::Broker;
use crate::broker::embedded::Embedded;
use crate::model::{JobSpec, Report, Task};
use crate::pass::{Pass, PassRow, Roots};
use crate::telemetry::{Board, Flusher};
use std::sync::Arc;
use tokio::sync::Notify;

/// Runs a job to its end on the calling thread and the actors' own. Blocks. Its roots are timed already, if they are to
/// be. Whoever holds `live` can look and steer.
///
/// # Errors
/// [`NodeError`], if it cannot even start; everything later is in the result and on the board.
pub fn run_alone(
    spec: &JobSpec,
    row: &PassRow,
    roots: Roots,
    first: impl IntoIterator<Item = Task>,
    sizes: PoolSizes,
    board: &Arc<Board>,
    stats: Stats,
    live: Option<&Live>,
) -> Result<Ended, NodeError> {
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
        let mut helm = live.map(|live| live.begin(&pools, sizes, &broker, &brake));
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
                wish = Helm::next(&mut helm) => if let Some(helm) = &mut helm {
                    helm.obey(wish).await;
                }
            }
        }
        if let Some(live) = live {
            live.rest();
        }
        pools.drain().await;
        Ok::<_, NodeError>((signalled, flusher))
    };
    let (signalled, flusher) = actix::System::new().block_on(work)?;
    let mut report = Report::default();
    pass.conclude(&mut report);
    board.absorb(report);
    // What could not be sent in time is nobody's failure, and was said.
    flusher.map(Flusher::finish);
    Ok(match (signalled, board.snapshot().abort.or_else(|| broker.broken())) {
        (Some(number), _) => Ended::Signalled(number),
        (None, Some(why)) => Ended::Aborted(why),
        (None, None) => Ended::Complete,
    })
}
