//! `treehaul follow`: comes back to a job of the fleet.

use super::broker::BrokerArgs;
use super::job::{ShowArgs, follow_job};
use super::{refuse, summary, verify};
use crate::broker::amqp::{self, AmqpConfig, JobState};
use crate::exit_code::ExitCode;
use crate::model::fleet::JobPhase;
use crate::node::NodeError;
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
    let spec = match &args.job {
        Some(job) => find_job(&config, job)?.spec,
        None => only_job(&config)?.spec,
    };
    let tell = if spec.pass == "verify" { verify::tell } else { summary::tell };
    follow_job(&args.show, &config, &spec, tell)
}

/// The job of that id, or of the only id that begins so.
///
/// # Errors
/// None, or several; the broker's.
pub fn find_job(config: &AmqpConfig, id: &str) -> anyhow::Result<JobState> {
    let jobs = amqp::jobs(config).map_err(NodeError::Broker)?;
    let mut found = jobs.into_iter().filter(|j| j.spec.id.to_string().starts_with(id));
    match (found.next(), found.next()) {
        (Some(job), None) => Ok(job),
        (None, _) => bail!("the broker knows no job {}: see `treehaul status`", crate::model::escaped(id.as_bytes())),
        (Some(a), Some(b)) => bail!("several jobs begin so: {} and {}", a.spec.id, b.spec.id),
    }
}

fn only_job(config: &AmqpConfig) -> anyhow::Result<JobState> {
    let jobs = amqp::jobs(config).map_err(NodeError::Broker)?;
    let mut running = jobs.into_iter().filter(|j| j.phase != JobPhase::Ended);
    match (running.next(), running.next()) {
        (Some(job), None) => Ok(job),
        (None, _) => bail!("no job is under way; name one that is over, see `treehaul status`"),
        (Some(a), Some(b)) => bail!("several jobs are under way, name one: {}, {} ...", a.spec.id, b.spec.id),
    }
}
