//! `treehaul status`: jobs, queues and workers at one moment, or as they go on.

use super::control::with_refusal;
use super::reach::{Format, NodeArgs, ReachArgs, table, tell_missing};
use super::{print_result, watch};
use crate::exit_code::ExitCode;
use crate::model::{Queue, escaped};
use crate::node::json::{load_of, state_of};
use crate::node::{JobLook, Look, NodeError};
use clap::Args;
use indicatif::{HumanBytes, HumanCount};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Keep looking, on the whole terminal, until q is pressed
    #[arg(long, short)]
    watch: bool,
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Runs the command.
pub fn run(args: &StatusArgs) -> ExitCode {
    with_refusal(|| {
        let nodes = args.nodes.checked()?;
        if args.watch {
            anyhow::ensure!(args.reach.format == Format::Text, "--watch is a display: leave --format json out, or it");
            return watch::run(&args.reach.config()?, nodes, args.reach.patience());
        }
        let office = args.reach.office()?;
        let look = Look::take(&office, nodes, args.reach.patience()).map_err(NodeError::Broker)?;
        match args.reach.format {
            Format::Json => print_result(&look.json().to_string()),
            Format::Text => print_result(&text(&look)),
        }
        tell_missing(&look.answers);
        Ok(ExitCode::Complete)
    })
}

/// Everything, for people.
pub fn text(look: &Look) -> String {
    let mut out = String::new();
    for job in &look.jobs {
        out.push_str(&job_text(job));
        out.push('\n');
        for (node, why) in look.refusals(job) {
            let (node, why) = (escaped(node.as_bytes()), escaped(why.as_bytes()));
            out.push_str(&format!("  {node} takes no part: {why}\n"));
        }
    }
    if look.jobs.is_empty() {
        out.push_str("no job is under way\n");
    }
    let mut rows = vec![["NODE", "STATE", "DIRS", "FILES", "LOAD", "MEMORY"].map(str::to_owned).to_vec()];
    rows.extend(look.nodes.iter().map(|(name, info)| {
        vec![
            escaped(name.as_bytes()),
            state_of(info).to_owned(),
            format!("{}/{}", info.busy[0], info.actors[0]),
            format!("{}/{}", info.busy[1], info.actors[1]),
            load_of(info),
            HumanBytes(info.rss_bytes).to_string(),
        ]
    }));
    if rows.len() > 1 {
        out.push_str(&table(&rows));
    }
    out.trim_end().to_owned()
}

fn job_text(job: &JobLook) -> String {
    let spec = &job.state.spec;
    let (pass, source, target) = (escaped(spec.pass.as_bytes()), escaped(&spec.source), escaped(&spec.target));
    let mut out = format!("{} {pass} {source} -> {target}: {}", spec.id, job.standing());
    if let Some(leader) = job.leader.as_ref().filter(|_| !job.state.is_over()) {
        out.push_str(&format!(", led by {}", escaped(leader.as_bytes())));
    }
    if let Some(progress) = &job.progress {
        out.push_str(&format!("\n  {}", progress_text(progress)));
        let seconds = progress.elapsed_ms as f64 / 1000.0;
        if seconds > 0.0 {
            out.push_str(&format!("; {:.0} entries/s on average", progress.totals.done() as f64 / seconds));
        }
    } else if let Some((_, totals)) = &job.state.end {
        out.push_str(&format!("\n  {} of {} entries", HumanCount(totals.done()), HumanCount(totals.found)));
    }
    if !job.state.is_over() {
        out.push_str(&format!("\n  waiting: {}", queues_text(job)));
    }
    for (node, why) in &job.state.quarantined {
        out.push_str(&format!("\n  {} takes no task any more: {}", escaped(node.as_bytes()), escaped(why.as_bytes())));
    }
    for note in job.progress.iter().flat_map(|p| &p.notes) {
        out.push_str(&format!("\n  note: {}", escaped(note.as_bytes())));
    }
    for failure in job.progress.iter().flat_map(|p| &p.failures) {
        out.push_str(&format!("\n  failed: {}", failure_text(failure)));
    }
    out
}

/// A failure on one line.
pub fn failure_text(failure: &crate::model::Failure) -> String {
    format!("{}: {}: {}", escaped(&failure.path), failure.operation, escaped(failure.message.as_bytes()))
}

/// How far a job is.
pub fn progress_text(progress: &crate::model::fleet::JobProgress) -> String {
    let t = &progress.totals;
    let found = if progress.walk_over { "" } else { " found so far" };
    let mut out = format!(
        "{} of {}{found} entries, {}",
        HumanCount(t.done()),
        HumanCount(t.found),
        HumanBytes(t.bytes_copied + t.bytes_read)
    );
    if t.failed > 0 {
        out.push_str(&format!(", {} failed", HumanCount(t.failed)));
    }
    out
}

/// What waits, and where.
pub fn queues_text(job: &JobLook) -> String {
    let waits = |name: &str| job.ready(name).map(|n| format!("{n} {name}"));
    let mut parts: Vec<String> = Queue::ALL.iter().filter_map(|queue| waits(queue.noun())).collect();
    if parts.is_empty() {
        parts.push("no queues".to_owned());
    }
    parts.push(format!("{} unacknowledged", job.unsettled));
    parts.extend(job.ready("dead").filter(|n| *n > 0).map(|n| format!("{n} dead letters")));
    parts.join(", ")
}
