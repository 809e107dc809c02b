//! One entry, copied on the calling thread.

use super::{Ended, NodeError};
use crate::broker::{Stopped, Ticket};
use crate::model::{JobSpec, Queue, Report, Task};
use crate::pass::copy::CopyPass;
use crate::pass::{Roots, Run};
use crate::telemetry::Board;
use std::sync::Arc;

/// Nothing is posted for a single entry; reports go to the board.
struct Direct(Arc<Board>);

impl Ticket for Direct {
    fn post(&mut self, _: Task) -> Result<(), Stopped> {
        Err(Stopped) // the entry became a directory meanwhile
    }
    fn is_hungry(&self, _: Queue) -> bool {
        false
    }
    fn report(&mut self, report: Report) {
        self.0.absorb(report);
    }
    fn finish(self: Box<Self>) {}
    fn give_back(self: Box<Self>, _: &str) {}
}

/// Copies the entry `name` of the source's root to `target_name` in the target's. Blocks.
///
/// # Errors
/// [`NodeError`], if it cannot even start.
pub fn run_single(
    spec: &JobSpec,
    roots: Roots,
    name: &[u8],
    target_name: &[u8],
    board: &Arc<Board>,
) -> Result<Ended, NodeError> {
    let pass = CopyPass::new(spec, roots, true)?;
    let mut ticket = Direct(Arc::clone(board));
    let mut run = Run::new(&mut ticket, false);
    let stopped = pass.copy_single(name, target_name, &mut run).is_err();
    let mut report = run.report;
    report.findings.append(&mut crate::fs::layers::dry_run::take());
    let why = report.abort.clone();
    pass.clear_up(&mut report);
    board.absorb(report);
    board.set_walk_over();
    Ok(match (stopped, why) {
        (false, _) => Ended::Complete,
        (true, why) => Ended::Aborted(why.unwrap_or_else(|| "the source became a directory; run it again".into())),
    })
}
