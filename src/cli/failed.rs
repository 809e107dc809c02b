//! `treehaul failed`, `treehaul retry`, `treehaul reset`: what failed in a job that is over.

use super::broker::BrokerArgs;
use super::follow::follow_spec;
use super::job::ShowArgs;
use super::reach::find_job;
use super::{print_result, refuse, say, start_logging};
use crate::broker::amqp::{self, AmqpConfig, JobState, Reads, Retry};
use crate::exit_code::ExitCode;
use crate::model::filter::PathGlobs;
use crate::model::fleet::{JobEnd, JobPhase};
use crate::model::task::{MAX_TASK_ENTRIES, Names};
use crate::model::{Failure, JobId, Operation, Task, Totals, escaped};
use crate::node::json::failure_json;
use crate::node::{self, NodeError};
use crate::pass;
use crate::telemetry::{Board, Told};
use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// How failures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Jsonl,
}

/// Arguments of `failed`.
#[derive(Debug, Args)]
pub struct FailedArgs {
    /// The job, or the beginning of its id
    job: String,
    /// How failures are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    broker: BrokerArgs,
}

/// Arguments of `retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// The job, or the beginning of its id
    job: String,
    /// What to try again: numbers as `treehaul failed` prints them
    #[arg(value_name = "ID", required_unless_present_any = ["all", "path"])]
    ids: Vec<u64>,
    /// Everything that failed
    #[arg(long, conflicts_with_all = ["ids", "path"])]
    all: bool,
    /// What failed at such paths (globs as in --include); may be repeated
    #[arg(long, value_name = "GLOB")]
    path: Vec<String>,
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(flatten)]
    show: ShowArgs,
}

/// Arguments of `reset`.
#[derive(Debug, Args)]
pub struct ResetArgs {
    /// The job, or the beginning of its id
    #[arg(required_unless_present = "all")]
    job: Option<String>,
    /// All jobs that are over
    #[arg(long, conflicts_with = "job")]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    broker: BrokerArgs,
}

/// Runs `failed`.
pub fn failed(args: &FailedArgs) -> ExitCode {
    start_logging(0, true);
    try_failed(args).unwrap_or_else(|e| refuse(&e))
}

/// Runs `retry`.
pub fn retry(args: &RetryArgs) -> ExitCode {
    args.show.start_logging();
    try_retry(args).unwrap_or_else(|e| refuse(&e))
}

/// Runs `reset`.
pub fn reset(args: &ResetArgs) -> ExitCode {
    start_logging(0, true);
    try_reset(args).unwrap_or_else(|e| refuse(&e))
}

fn job_of(config: &AmqpConfig, prefix: &str) -> anyhow::Result<JobState> {
    let jobs = amqp::jobs(config).map_err(NodeError::Broker)?;
    Ok(find_job(&jobs, prefix)?.clone())
}

/// Calls `each` for every failure that was not tried again, with its number. Tells how often some were.
fn each_failure(
    config: &AmqpConfig,
    state: &JobState,
    each: impl FnMut(u64, &Failure) + Send + 'static,
) -> anyhow::Result<u64> {
    let id = state.spec.id;
    if state.removed {
        // Nothing failed in it, or somebody cleared it.
        return Ok(0);
    }
    let read = |told: Box<dyn FnMut(Told<'_>) + Send>| {
        let board = Arc::new(Board::new(told));
        amqp::replay(config, id, board).map_err(NodeError::Broker)
    };
    // Read twice, since there may be many: first who is out, then who is left.
    let out: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    let taken = Arc::clone(&out);
    read(Box::new(move |told| {
        if let Told::TakenBack(numbers) = told {
            taken.lock().unwrap_or_else(PoisonError::into_inner).extend(numbers);
        }
    }))?;
    let (mut number, mut each) = (0, each);
    let retries = read(Box::new(move |told| {
        if let Told::Failure(failure) = told {
            number += 1;
            if !out.lock().unwrap_or_else(PoisonError::into_inner).contains(&number) {
                each(number, failure);
            }
        }
    }))?;
    Ok(retries)
}

fn try_failed(args: &FailedArgs) -> anyhow::Result<ExitCode> {
    let config = args.broker.config()?;
    let state = job_of(&config, &args.job)?;
    let format = args.format;
    each_failure(&config, &state, move |number, failure| {
        let path = if failure.path.is_empty() { ".".to_owned() } else { escaped(&failure.path) };
        print_result(&match format {
            Format::Text => {
                format!("{number}  {path}: {}: {}", failure.operation, escaped(failure.message.as_bytes()))
            }
            Format::Jsonl => {
                let mut object = failure_json(failure);
                object["id"] = number.into();
                object.to_string()
            }
        });
    })?;
    Ok(ExitCode::Complete)
}

/// What was chosen.
#[derive(Default)]
struct Chosen {
    retry: Retry,
    /// Tasks that are about names in one directory, by what they do there.
    groups: BTreeMap<(Vec<u8>, u8), Vec<Task>>,
    /// Failures that cannot be tried again by themselves.
    whole: u64,
}

impl Chosen {
    fn take(&mut self, number: u64, failure: &Failure) {
        let counted = || failure.counted.as_deref().copied().unwrap_or(Totals { failed: 1, ..Totals::default() });
        if failure.operation == Operation::Run {
            // Its message is in the dead letters.
            self.retry.letters.insert(failure.path.clone());
            self.retry.numbers.entry(failure.path.clone()).or_default().push((number, failure.cause(), counted()));
            return;
        }
        match pass::retry::again(failure) {
            None => self.whole += 1,
            Some(task) => {
                let key = (task.directory().as_bytes().to_vec(), kind(&task));
                self.groups.entry(key).or_default().push(task);
                self.retry.back.add(&counted());
                self.retry.failures.push(number);
                *self.retry.causes.entry(failure.cause()).or_default() += 1;
            }
        }
    }

    fn into_retry(mut self) -> Retry {
        for tasks in self.groups.into_values() {
            self.retry.tasks.extend(merged(tasks));
        }
        self.retry
    }
}

fn kind(task: &Task) -> u8 {
    match task {
        Task::Pick { .. } => 0,
        Task::Finish { .. } => 1,
        Task::Remove { .. } => 2,
        _ => 3,
    }
}

/// Tasks of one kind about names in one directory, together.
fn merged(tasks: Vec<Task>) -> Vec<Task> {
    let mut all: Vec<Task> = Vec::new();
    for task in tasks {
        let fits = |names: &Names| names.len() < MAX_TASK_ENTRIES && !names.is_empty();
        match (all.last_mut(), &task) {
            (Some(Task::Pick { names, .. }), Task::Pick { names: more, .. })
            | (Some(Task::Finish { names, .. }), Task::Finish { names: more, .. })
            | (Some(Task::Remove { names, .. }), Task::Remove { names: more, .. })
                if fits(names) && more.len() == 1 =>
            {
                for (bits, name) in more.iter() {
                    let _ = names.push(bits, name); // was checked when it got here
                }
            }
            _ => all.push(task),
        }
    }
    all
}

fn try_retry(args: &RetryArgs) -> anyhow::Result<ExitCode> {
    let config = args.broker.config()?;
    let state = job_of(&config, &args.job)?;
    let (all, ids) = (args.all, args.ids.iter().copied().collect::<BTreeSet<u64>>());
    let globs = PathGlobs::new(&args.path).map_err(|e| anyhow::anyhow!("--path: {e}"))?;
    let is_meant = move |number, failure: &Failure| all || globs.matches(&failure.path) || ids.contains(&number);
    let reader = Reads::new();
    let (_held, before) = reopen(&config, &state, is_meant, Some(reader), &say)?;
    follow_spec(&args.show, &config, &state.spec, reader, before + 1)
}

/// Has a fleet try again everything that failed in a job, and leaves it; says what becomes of it.
///
/// # Errors
/// Why it cannot be tried again.
pub fn retry_all(config: &AmqpConfig, job: JobId) -> anyhow::Result<String> {
    let state = job_of(config, &job.to_string())?;
    let said: Mutex<Vec<String>> = Mutex::default();
    let note = |text: &str| said.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    let held = reopen(config, &state, |_, _| true, None, &note)?;
    drop(held);
    let mut words = said.into_inner().unwrap_or_else(PoisonError::into_inner);
    words.insert(0, format!("job {job}: what failed is tried again"));
    Ok(words.join("; "))
}

/// Puts what is meant of what failed in a job back onto the broker. What comes back holds the target's mark; and how
/// often some of it was tried again before.
fn reopen(
    config: &AmqpConfig,
    state: &JobState,
    is_meant: impl Fn(u64, &Failure) -> bool + Send + 'static,
    reader: Option<Reads>,
    say: &dyn Fn(&str),
) -> anyhow::Result<(Arc<dyn pass::Pass>, u64)> {
    let (id, spec) = (state.spec.id, &state.spec);
    ensure!(spec.pass != "verify", "what could not be compared is found again by another verify");
    ensure!(state.phase == JobPhase::Ended, "job {id} is under way: wait for its end with `treehaul follow {id}`");
    let complete = state.end.as_ref().is_some_and(|(end, _)| *end == JobEnd::Complete);
    ensure!(complete, "job {id} was ended early, so more is missing than what failed: run the pass again");
    ensure!(!state.removed, "nothing that failed is kept of job {id}; run the pass again to be sure");
    let chosen: Arc<Mutex<Chosen>> = Arc::default();
    let taken = Arc::clone(&chosen);
    let before = each_failure(config, state, move |number, failure| {
        if is_meant(number, failure) {
            taken.lock().unwrap_or_else(PoisonError::into_inner).take(number, failure);
        }
    })?;
    let chosen = std::mem::take(&mut *chosen.lock().unwrap_or_else(PoisonError::into_inner));
    if chosen.whole > 0 {
        super::complain(&format!(
            "treehaul: {} failures cannot be tried again by themselves: run the pass again",
            chosen.whole
        ));
    }
    let retry = chosen.into_retry();
    if retry.tasks.is_empty() && retry.letters.is_empty() {
        bail!("nothing of job {id} that failed is to be tried again: see `treehaul failed {id}`");
    }
    Ok((node::reopen(spec, config, retry, reader, say)?, before))
}

fn try_reset(args: &ResetArgs) -> anyhow::Result<ExitCode> {
    let config = args.broker.config()?;
    let jobs = match &args.job {
        Some(prefix) => vec![job_of(&config, prefix)?],
        None => amqp::jobs(&config).map_err(NodeError::Broker)?,
    };
    let under_way = jobs.iter().any(|j| j.phase != JobPhase::Ended);
    let over: Vec<JobState> = jobs.into_iter().filter(|j| j.phase == JobPhase::Ended && !j.removed).collect();
    if over.is_empty() {
        ensure!(args.all || !under_way, "the job is under way: end it with `treehaul cancel` first");
        say("nothing is kept that could be cleared");
        return Ok(ExitCode::Complete);
    }
    let list: Vec<String> = over.iter().map(|j| format!("{} ({})", j.spec.id, j.spec.pass)).collect();
    if !args.yes && !asked(&format!("Forget what failed in {}?", list.join(", ")))? {
        bail!("nothing was forgotten");
    }
    for job in over {
        amqp::forget(&config, job.spec.id).map_err(NodeError::Broker)?;
        print_result(&format!("job {} is forgotten", job.spec.id));
    }
    Ok(ExitCode::Complete)
}

/// Asks a person; without one there must be `-y`.
fn asked(question: &str) -> anyhow::Result<bool> {
    ensure!(std::io::stdin().is_terminal(), "{question} Nobody is there to ask: say -y");
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RelPath;

    #[test]
    fn failures_of_one_directory_are_tried_again_together() {
        let pick = |name: &str| {
            let mut names = Names::default();
            names.push(0, name.as_bytes()).unwrap();
            Task::Pick { dir: RelPath::root(), names }
        };
        let tasks = merged((0..=MAX_TASK_ENTRIES).map(|n| pick(&format!("f{n}"))).collect());
        let sizes: Vec<usize> = tasks.iter().map(|t| t.singles().len()).collect();
        assert_eq!(sizes, [MAX_TASK_ENTRIES, 1]);
        assert_eq!(merged(vec![Task::root(), pick("a")]).len(), 2);
    }
}
