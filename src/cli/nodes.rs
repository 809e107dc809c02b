//! `treehaul ping`, `nodes`, `inspect`: what workers say of themselves.

use super::control::with_refusal;
use super::latency::{self, LatencyArgs, seconds_text};
use super::print_result;
use super::reach::{Format, NodeArgs, ReachArgs, table, tell_missing};
use crate::broker::amqp::Answers;
use crate::exit_code::ExitCode;
use crate::model::escaped;
use crate::model::fleet::{Activity, Answer, NodeInfo, Order};
use crate::model::policy::Limits;
use crate::node::json::{activity_json, load_of, missing_json, node_json, state_of};
use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use serde_json::Value;

/// Arguments of `ping` and `nodes`.
#[derive(Debug, Args)]
pub struct NodesArgs {
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    reach: ReachArgs,
}

/// What is looked into.
#[derive(Debug, Subcommand)]
pub enum InspectCommand {
    /// What each actor does now
    Active(NodesArgs),
    /// What each worker is and how it stands with each job
    Stats(NodesArgs),
    /// How long calls on filesystems took since the workers began, of jobs at work and of the last ones that are over
    Latency(LatencyArgs),
}

/// Runs `ping`.
pub fn ping(args: &NodesArgs) -> ExitCode {
    described(args, |name, info| format!("{name}: treehaul {}, process {}", escaped(info.version.as_bytes()), info.pid))
}

/// Runs `nodes`.
pub fn nodes(args: &NodesArgs) -> ExitCode {
    with_refusal(|| {
        let answers = args.reach.ask(&args.nodes, &Order::Describe)?;
        if args.reach.format == Format::Json {
            print_result(&nodes_json(&answers).to_string());
        } else if !answers.answers.is_empty() {
            print_result(&nodes_text(&answers));
        }
        tell_missing(&answers);
        Ok(code_of(&answers))
    })
}

/// Runs `inspect`.
pub fn inspect(command: &InspectCommand) -> ExitCode {
    match command {
        InspectCommand::Stats(args) => described(args, stats),
        InspectCommand::Latency(args) => latency::inspect(args),
        InspectCommand::Active(args) => with_refusal(|| {
            let answers = args.reach.ask(&args.nodes, &Order::Active)?;
            tell_active(&answers, args.reach.format);
            tell_missing(&answers);
            Ok(code_of(&answers))
        }),
    }
}

/// Asks workers to describe themselves, and prints each in some words.
fn described(args: &NodesArgs, words: impl Fn(&str, &NodeInfo) -> String) -> ExitCode {
    with_refusal(|| {
        let answers = args.reach.ask(&args.nodes, &Order::Describe)?;
        if args.reach.format == Format::Json {
            print_result(&nodes_json(&answers).to_string());
        } else {
            for (name, info) in infos(&answers) {
                print_result(&words(&name, info));
            }
        }
        tell_missing(&answers);
        Ok(code_of(&answers))
    })
}

pub(super) fn code_of(answers: &Answers) -> ExitCode {
    if answers.answers.is_empty() { ExitCode::Infrastructure } else { ExitCode::Complete }
}

/// Names, escaped, and what is behind them.
fn infos(answers: &Answers) -> impl Iterator<Item = (String, &NodeInfo)> {
    answers.answers.iter().filter_map(|(name, answer)| match answer {
        Answer::Node(info) => Some((escaped(name.as_bytes()), &**info)),
        _ => None,
    })
}

fn nodes_text(answers: &Answers) -> String {
    let head = ["NAME", "VERSION", "STATE", "DIRS", "FILES", "LOAD", "MEMORY", "JOBS"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    let mut notes = Vec::new();
    for (name, info) in infos(answers) {
        let refused = info.jobs.iter().filter_map(|job| Some((job.job, job.refused.as_ref()?)));
        notes.extend(
            refused.clone().map(|(job, why)| format!("{name} takes no part in job {job}: {}", escaped(why.as_bytes()))),
        );
        let (known, not) = (info.jobs.len(), refused.count());
        rows.push(vec![
            name.clone(),
            escaped(info.version.as_bytes()),
            state_of(info).to_owned(),
            format!("{}/{}", info.busy[0], info.actors[0]),
            format!("{}/{}", info.busy[1], info.actors[1]),
            load_of(info),
            HumanBytes(info.rss_bytes).to_string(),
            if not > 0 { format!("{} ok, {not} refused", known - not) } else { format!("{known} ok") },
        ]);
    }
    let mut out = table(&rows);
    for note in notes {
        out.push('\n');
        out.push_str(&note);
    }
    out
}

fn limit_text(limits: Limits) -> String {
    let bytes = limits.bytes_per_second.map(|n| format!("{}/s", HumanBytes(n)));
    let operations = limits.operations_per_second.map(|n| format!("{n} operations/s"));
    match (bytes, operations) {
        (None, None) => "none".to_owned(),
        (a, b) => a.into_iter().chain(b).collect::<Vec<_>>().join(", "),
    }
}

fn stats(name: &str, info: &NodeInfo) -> String {
    let mut out = format!(
        "{name}: treehaul {}, process {} on {}, {}\n  actors: {}/{} dirs, {}/{} files busy; load {}; memory {}; limits: {}\n  \
         tasks taken lately had waited for {} on average{}",
        escaped(info.version.as_bytes()),
        info.pid,
        escaped(info.host.as_bytes()),
        state_of(info),
        info.busy[0],
        info.actors[0],
        info.busy[1],
        info.actors[1],
        load_of(info),
        HumanBytes(info.rss_bytes),
        limit_text(info.limits),
        seconds_text(info.queue_wait_us as f64 / 1e6),
        if info.blocked { "; the broker is blocked" } else { "" },
    );
    for job in &info.jobs {
        let leads = if job.leads { ", leads it" } else { "" };
        let how = match &job.refused {
            Some(why) => format!("refused: {}", escaped(why.as_bytes())),
            None => format!("takes part, {} unacknowledged{leads}", job.unsettled),
        };
        out.push_str(&format!("\n  job {}: {how}", job.job));
        if let Some(space) = &job.target {
            out.push_str(&format!(
                "; {} of its target's {} are free",
                HumanBytes(space.free_bytes),
                HumanBytes(space.bytes)
            ));
        }
    }
    out
}

fn nodes_json(answers: &Answers) -> Value {
    let mut all = missing_json(answers);
    all["nodes"] = infos(answers).map(|(name, info)| node_json(&name, info)).collect();
    all
}

fn tell_active(answers: &Answers, format: Format) {
    let active: Vec<(String, &Activity)> = answers
        .answers
        .iter()
        .filter_map(|(name, answer)| match answer {
            Answer::Active(all) => Some(all.iter().map(|one| (escaped(name.as_bytes()), one))),
            _ => None,
        })
        .flatten()
        .collect();
    match format {
        Format::Json => {
            let mut all = missing_json(answers);
            all["active"] = active.iter().map(|(name, activity)| activity_json(name, activity)).collect();
            all["answered"] = answers.answers.iter().map(|(name, _)| escaped(name.as_bytes())).collect();
            print_result(&all.to_string());
        }
        Format::Text if active.is_empty() => print_result("no actor has a task in hand"),
        Format::Text => print_result(&active_text(&active)),
    }
}

fn active_text(active: &[(String, &Activity)]) -> String {
    let mut rows = vec![["NODE", "ACTOR", "JOB", "TASK", "SECONDS", "MOVED", "WHERE"].map(str::to_owned).to_vec()];
    for (name, activity) in active {
        let path = if activity.path.is_empty() { "(the root)".to_owned() } else { escaped(&activity.path) };
        rows.push(vec![
            name.clone(),
            escaped(activity.actor.as_bytes()),
            activity.job.to_string(),
            escaped(activity.task.as_bytes()),
            format!("{}.{}", activity.age_ms / 1000, activity.age_ms % 1000 / 100),
            HumanBytes(activity.bytes).to_string(),
            path,
        ]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::JobId;
    use crate::model::fleet::NodeJob;

    #[test]
    fn what_workers_say_cannot_steer_a_terminal() {
        let evil = "\x1b[2J\u{202e}";
        let mut info = NodeInfo { version: evil.into(), host: evil.into(), ..NodeInfo::default() };
        let refused = Some(evil.to_owned());
        info.jobs.push(NodeJob { job: JobId::random(), refused, unsettled: 0, leads: false, target: None });
        let activity = Activity {
            actor: evil.into(),
            job: JobId::random(),
            task: evil.into(),
            path: evil.into(),
            age_ms: 1250,
            bytes: 0,
        };
        let answers =
            Answers { answers: vec![(evil.to_owned(), Answer::Node(Box::new(info.clone())))], ..Answers::default() };
        let name = escaped(evil.as_bytes());
        let shown = [
            nodes_text(&answers),
            stats(&name, &info),
            nodes_json(&answers).to_string(),
            active_text(&[(name.clone(), &activity)]),
            activity_json(&name, &activity).to_string(),
        ];
        for text in shown {
            assert!(text.contains("x1b[2J") && !text.contains(['\x1b', '\u{202e}']), "{text:?}");
        }
    }
}
