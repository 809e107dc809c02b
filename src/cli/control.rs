//! `treehaul stop`, `pause`, `resume`, `grow`, `shrink`, `throttle`, `cancel`: what a fleet is told.

use super::load::parse_rate;
use super::reach::{Format, NodeArgs, ReachArgs, find_job, tell_done};
use super::{print_result, refuse, start_logging};
use crate::broker::amqp::{JobState, Office};
use crate::exit_code::ExitCode;
use crate::model::escaped;
use crate::model::fleet::{Order, PoolKind};
use crate::node::NodeError;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::time::{Duration, Instant};

/// How long `cancel` waits for the end.
const CANCEL_PATIENCE: Duration = Duration::from_secs(60);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Which actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Those that list directories
    Dirs,
    /// Those that work on files
    Files,
}

impl From<Kind> for PoolKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Dirs => PoolKind::Dirs,
            Kind::Files => PoolKind::Files,
        }
    }
}

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Leave tasks in hand to other workers instead of finishing them
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Arguments of `pause` and `resume`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Jobs, by name or the beginning of one; without any, and without --node, all that are not over
    #[arg(value_name = "JOB", conflicts_with = "nodes")]
    jobs: Vec<String>,
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Arguments of `grow` and `shrink`.
#[derive(Debug, Args)]
pub struct ResizeArgs {
    /// So many actors of each kind
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096))]
    number: u16,
    /// Only actors of this kind
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Arguments of `throttle`.
#[derive(Debug, Args)]
pub struct ThrottleArgs {
    /// Move at most so many bytes of data a second on each node: 500K, 10M, 2G; none: no limit; left out: as it is
    #[arg(long, value_name = "SIZE|none", value_parser = rate_or_none, required_unless_present = "ops_limit")]
    bwlimit: Option<Rate>,
    /// At most so many operations a second on each node; none: no limit; left out: as it is
    #[arg(long, value_name = "N|none", value_parser = number_or_none)]
    ops_limit: Option<Rate>,
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Arguments of `cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The job, by name or the beginning of one
    job: String,
    /// Do not wait for its end
    #[arg(long)]
    no_wait: bool,
    /// Why, for those who look later
    #[arg(long, value_name = "TEXT", default_value = "cancelled by treehaul cancel")]
    reason: String,
    #[command(flatten)]
    reach: ReachArgs,
}

/// A limit, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate(Option<u64>);

fn rate_or_none(text: &str) -> Result<Rate, String> {
    if text == "none" { Ok(Rate(None)) } else { parse_rate(text).map(|n| Rate(Some(n))) }
}

fn number_or_none(text: &str) -> Result<Rate, String> {
    match text {
        "none" => Ok(Rate(None)),
        text => match text.parse() {
            Ok(0) => Err("0 would be no work at all: write none for no limit, or pause".into()),
            Ok(n) => Ok(Rate(Some(n))),
            Err(_) => Err("a whole number of operations, or none".into()),
        },
    }
}

/// Sets up logging and says what went wrong.
pub fn with_refusal(run: impl FnOnce() -> anyhow::Result<ExitCode>) -> ExitCode {
    start_logging(0, true);
    run().unwrap_or_else(|e| refuse(&e))
}

fn order(reach: &ReachArgs, nodes: &NodeArgs, order: &Order) -> ExitCode {
    with_refusal(|| Ok(tell_done(&reach.ask(nodes, order)?, reach.format)))
}

/// Runs `stop`.
pub fn stop(args: &StopArgs) -> ExitCode {
    order(&args.reach, &args.nodes, &Order::Stop { now: args.now })
}

/// Runs `grow`.
pub fn grow(args: &ResizeArgs) -> ExitCode {
    order(&args.reach, &args.nodes, &Order::Grow(args.kind.map(Into::into), args.number))
}

/// Runs `shrink`.
pub fn shrink(args: &ResizeArgs) -> ExitCode {
    order(&args.reach, &args.nodes, &Order::Shrink(args.kind.map(Into::into), args.number))
}

/// Runs `throttle`.
pub fn throttle(args: &ThrottleArgs) -> ExitCode {
    let limit = |rate: Option<Rate>| rate.map(|rate| rate.0.unwrap_or(0));
    let (bytes_per_second, operations_per_second) = (limit(args.bwlimit), limit(args.ops_limit));
    order(&args.reach, &args.nodes, &Order::Throttle { bytes_per_second, operations_per_second })
}

/// Runs `pause`.
pub fn pause(args: &JobsArgs) -> ExitCode {
    if !args.nodes.nodes.is_empty() {
        return order(&args.reach, &args.nodes, &Order::Pause);
    }
    with_refusal(|| each_job(args, "paused", |office, job| office.pause_job(job.spec.id).map_err(NodeError::Broker)))
}

/// Runs `resume`.
pub fn resume(args: &JobsArgs) -> ExitCode {
    if !args.nodes.nodes.is_empty() {
        return order(&args.reach, &args.nodes, &Order::Resume);
    }
    with_refusal(|| each_job(args, "resumed", |office, job| office.resume_job(job.spec.id).map_err(NodeError::Broker)))
}

fn each_job(
    args: &JobsArgs,
    what: &str,
    act: impl Fn(&Office, &JobState) -> Result<(), NodeError>,
) -> anyhow::Result<ExitCode> {
    let office = args.reach.office()?;
    let all = office.jobs().map_err(NodeError::Broker)?;
    let mut meant: Vec<&JobState> = all.iter().filter(|job| args.jobs.is_empty() && !job.is_over()).collect();
    for prefix in &args.jobs {
        let job = find_job(&all, prefix)?;
        anyhow::ensure!(!job.is_over(), "job {} is over", job.spec.id);
        meant.push(job);
    }
    for job in &meant {
        act(&office, job)?;
    }
    let names: Vec<String> = meant.iter().map(|job| job.spec.id.to_string()).collect();
    match args.reach.format {
        Format::Json => print_result(&json!({ what: names }).to_string()),
        Format::Text if names.is_empty() => print_result("no job is under way"),
        Format::Text => names.iter().for_each(|name| print_result(&format!("{name}: {what}"))),
    }
    Ok(ExitCode::Complete)
}

/// Runs `cancel`.
pub fn cancel(args: &CancelArgs) -> ExitCode {
    with_refusal(|| try_cancel(args))
}

fn try_cancel(args: &CancelArgs) -> anyhow::Result<ExitCode> {
    let office = args.reach.office()?;
    let all = office.jobs().map_err(NodeError::Broker)?;
    let job = find_job(&all, &args.job)?;
    let id = job.spec.id;
    anyhow::ensure!(!job.is_over(), "job {id} is over");
    office.cancel_job(id, &args.reason).map_err(NodeError::Broker)?;
    let asked = Instant::now();
    let mut over = false;
    while !args.no_wait && !over && asked.elapsed() < CANCEL_PATIENCE {
        std::thread::sleep(LOOK_EVERY);
        let now = office.jobs().map_err(NodeError::Broker)?;
        over = now.iter().any(|job| job.spec.id == id && job.is_over());
    }
    let (word, code) = match (over, args.no_wait) {
        (true, _) => ("over", ExitCode::Complete),
        (false, true) => ("asked to end", ExitCode::Complete),
        (false, false) => ("asked to end, and not over yet", ExitCode::Infrastructure),
    };
    match args.reach.format {
        Format::Json => print_result(&json!({"job": id.to_string(), "cancelled": word}).to_string()),
        Format::Text => print_result(&format!("{id}: {} ({})", word, escaped(args.reason.as_bytes()))),
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_or_none() {
        assert_eq!(rate_or_none("10K"), Ok(Rate(Some(10 << 10))));
        assert_eq!((rate_or_none("none"), number_or_none("none")), (Ok(Rate(None)), Ok(Rate(None))));
        assert_eq!(number_or_none("7"), Ok(Rate(Some(7))));
        for text in ["", "0", "-1", "x", "1K"] {
            assert!(number_or_none(text).is_err(), "{text}");
        }
        assert!(rate_or_none("0").is_err());
    }
}
