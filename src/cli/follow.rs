//! `treehaul follow`: comes back to a job of the fleet.

use super::broker::BrokerArgs;
use super::job::{ShowArgs, follow_job};
use super::reach::find_job;
use super::{refuse, summary, verify};
use crate::broker::amqp::{self, AmqpConfig, JobState, Reads};
use crate::exit_code::ExitCode;
use crate::model::JobSpec;
use crate::model::fleet::JobPhase;
use crate::node::{self, NodeError};
use anyhow::bail;
use clap::Args;

/// Arguments of `follow`.
#[derive(Debug, Args)]
pub struct FollowArgs {
    /// The job, or the beginning of its id [default: the only one that is under way]
    job: Option<String>,
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(flatten)]
    show: ShowArgs,
}

/// Runs the command.
pub fn run(args: &FollowArgs) -> ExitCode {
    args.show.start_logging();
    try_run(args).unwrap_or_else(|e| refuse(&e))
}

fn try_run(args: &FollowArgs) -> anyhow::Result<ExitCode> {
    let config = args.broker.config()?;
    // Whoever is told to leave while it still looks for its job leaves in order.
    node::listen()?;
    let jobs = amqp::jobs(&config).map_err(NodeError::Broker)?;
    let state = match &args.job {
        Some(job) => find_job(&jobs, job)?,
        None => only_job(&jobs)?,
    };
    follow_spec(&args.show, &config, &state.spec, Reads::new(), 0)
}

/// Follows a job and tells how it ended in the words of its pass; of what failed only after so many retries.
///
/// # Errors
/// The broker's.
pub fn follow_spec(
    show: &ShowArgs,
    config: &AmqpConfig,
    spec: &JobSpec,
    reader: Reads,
    retries: u64,
) -> anyhow::Result<ExitCode> {
    let tell = if spec.pass == "verify" { verify::tell } else { summary::tell };
    follow_job(show, config, spec, reader, retries, tell)
}

fn only_job(jobs: &[JobState]) -> anyhow::Result<&JobState> {
    let mut running = jobs.iter().filter(|j| j.phase != JobPhase::Ended);
    match (running.next(), running.next()) {
        (Some(job), None) => Ok(job),
        (None, _) => bail!("no job is under way; name one that is over, see `treehaul status`"),
        (Some(a), Some(b)) => bail!("several jobs are under way, name one: {}, {} ...", a.spec.id, b.spec.id),
    }
}
