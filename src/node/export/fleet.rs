//! A broker that is looked at from a thread of its own: what it takes is not waited for.

use super::super::Look;
use crate::broker::amqp::{AmqpConfig, AmqpError, Office};
use crate::model::fleet::JobEnd;
use crate::model::{JobId, Totals, escaped};
use crate::telemetry::export::JobTold;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Workers may take so long to answer.
const WORKERS: Duration = Duration::from_secs(2);
/// A cycle waits so long for a look; the first one, in which there is no connection yet, longer.
const PATIENCE: [Duration; 2] = [Duration::from_secs(4), Duration::from_secs(20)];
/// A look that came too late for its cycle is good for another one, if it is no older.
const STILL_GOOD: Duration = Duration::from_secs(30);

/// What was seen.
pub(super) struct Told {
    pub look: Look,
}

/// The one who looks.
pub(super) struct Fleet {
    ask: Sender<()>,
    answers: Receiver<Result<Told, String>>,
    /// A look is under way.
    is_asked: bool,
    /// Nothing came back yet.
    is_first: bool,
    /// Came back too late.
    late: Option<Result<Told, String>>,
}

impl Fleet {
    pub fn new(config: AmqpConfig) -> Self {
        let (ask, asked) = channel::<()>();
        let (tell, answers) = channel();
        let mut office = None;
        let looking = move || {
            while asked.recv().is_ok() {
                let looked = look(&config, &mut office);
                if looked.is_err() {
                    office = None;
                }
                if tell.send(looked.map_err(|e| e.to_string())).is_err() {
                    return;
                }
            }
        };
        // Without the thread nobody answers, which is told as such.
        if let Err(e) = std::thread::Builder::new().name("look".into()).spawn(looking) {
            tracing::error!(error = %e, "the broker is not looked at");
        }
        Fleet { ask, answers, is_asked: false, is_first: true, late: None }
    }

    /// Has it look, unless it still does.
    pub fn ask(&mut self) {
        self.late = self.answers.try_recv().ok();
        if self.late.is_some() {
            self.is_asked = false;
        }
        let is_good = |told: &Result<Told, String>| told.as_ref().is_ok_and(|told| told.look.at.elapsed() < STILL_GOOD);
        self.late.take_if(|late| !is_good(late));
        self.is_asked = self.late.is_none() && (self.is_asked || self.ask.send(()).is_ok());
    }

    /// What it saw.
    pub fn answer(&mut self) -> Result<Told, String> {
        if let Some(late) = self.late.take() {
            return late;
        }
        let patience = PATIENCE[usize::from(std::mem::take(&mut self.is_first))];
        let answer = self.answers.recv_timeout(patience);
        self.is_asked = matches!(answer, Err(RecvTimeoutError::Timeout));
        answer.unwrap_or_else(|e| Err(format!("nothing is known of it: {e}")))
    }
}

fn look(config: &AmqpConfig, office: &mut Option<Office>) -> Result<Told, AmqpError> {
    let office = match office {
        Some(office) => office,
        None => office.insert(Office::connect(config)?),
    };
    Ok(Told { look: Look::take(office, &[], WORKERS)? })
}

impl Told {
    /// Jobs, as they are told.
    pub fn jobs(&self) -> impl Iterator<Item = (JobId, JobTold)> {
        self.look.jobs.iter().map(|job| {
            let spec = &job.state.spec;
            let end = job.state.end.as_ref().map(|(_, totals): &(JobEnd, Totals)| *totals);
            let totals = end.or_else(|| job.progress.as_ref().map(|progress| progress.totals));
            let told = JobTold {
                pass: escaped(spec.pass.as_bytes()),
                source: escaped(&spec.source),
                target: escaped(&spec.target),
                standing: job.standing(),
                is_running: !job.state.is_over(),
                is_paused: job.state.paused,
                totals: totals.map(|t| [t.found, t.done(), t.failed, t.bytes_copied]),
                elapsed_ms: job.progress.as_ref().map(|progress| progress.elapsed_ms),
                refusing: self.look.refusals(job).count() as u64,
                queues: job.queues.iter().map(|q| (q.name, q.ready, q.consumers)).collect(),
                unacknowledged: job.unsettled,
            };
            (spec.id, told)
        })
    }
}
