//! What the passes share on the command line, and how a job is run from it.

use super::files_from::{FilesFrom, ListTrouble};
use super::progress::Progress;
use super::report::ReportFile;
use super::since::SinceArgs;
use super::size::parse_size;
use super::summary::{self, Finished};
use super::would::Lines;
use super::{given_root, refuse, start_logging};
use crate::broker::amqp::{AmqpConfig, QueueType};
use crate::exit_code::ExitCode;
use crate::fs::Side;
use crate::model::policy::{CHUNK_ALIGN_BYTES, ChunkPolicy};
use crate::model::{JobId, JobSpec, Policy, Task, Timestamp};
use crate::node::{self, Ended, NodeError, PoolSizes, Prepared};
use crate::pass::{Access, PassRow};
use crate::telemetry::Board;
use anyhow::Context;
use clap::Args;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

/// Between which roots, and how.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// Source: a directory, file:///PATH, or synth://?entries=N
    source: OsString,
    /// Target: a directory, file:///PATH, or null://
    target: OsString,
    #[command(flatten)]
    how: RunArgs,
}

/// By whom, and what is said about it.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Have the workers of this broker do it: amqp://HOST/VHOST [default: alone, no server needed]
    #[arg(long, env = "TREEHAUL_BROKER", hide_env_values = true, value_name = "URL")]
    broker: Option<String>,
    /// Kind of the broker's queues
    #[arg(long, env = "TREEHAUL_QUEUE_TYPE", value_name = "quorum|classic", default_value = "quorum")]
    queue_type: QueueType,
    /// Actors that list directories [default: by cores]
    #[arg(long, env = "TREEHAUL_DIR_ACTORS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    dir_actors: Option<u16>,
    /// Actors that work on files [default: by cores]
    #[arg(long, env = "TREEHAUL_FILE_ACTORS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    file_actors: Option<u16>,

    /// Write everything that failed or was found to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    /// Say nothing but what went wrong
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for every entry that fails as it happens
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// What is kept: everything, unless it is switched off.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // flags are what a command line is made of
pub struct FidelityArgs {
    /// Leave owner and group alone
    #[arg(long)]
    no_owner: bool,
    /// Leave permission bits alone (new files 0644, directories 0755, never more than the source)
    #[arg(long)]
    no_mode: bool,
    /// Leave access and modification times alone
    #[arg(long)]
    no_times: bool,
    /// Leave extended attributes and capabilities alone
    #[arg(long)]
    no_xattrs: bool,
    /// Leave POSIX ACLs alone
    #[arg(long)]
    no_acls: bool,
    /// Take each name of an inode for a file of its own
    #[arg(long)]
    no_hard_links: bool,
    /// Leave out fifos, sockets and devices
    #[arg(long)]
    no_specials: bool,
}

impl FidelityArgs {
    /// Puts them into a policy.
    pub fn apply(&self, policy: &mut Policy) {
        policy.owner = !self.no_owner;
        policy.mode = !self.no_mode;
        policy.times = !self.no_times;
        policy.xattrs = !self.no_xattrs;
        policy.acls = !self.no_acls;
        policy.hard_links = !self.no_hard_links;
        policy.specials = !self.no_specials;
    }
}

/// How files are written.
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// Compare contents instead of trusting size and modification time
    #[arg(long)]
    checksum: bool,
    /// Write new files under their final names instead of aside
    #[arg(long)]
    direct: bool,
    /// Write holes as zeros
    #[arg(long)]
    no_holes: bool,
}

impl WriteArgs {
    /// Puts them into a policy.
    pub fn apply(&self, policy: &mut Policy) {
        policy.checksum = self.checksum;
        policy.direct = self.direct;
        policy.holes = !self.no_holes;
    }
}

/// How large files are cut up.
#[derive(Debug, Args)]
pub struct ChunkArgs {
    /// Copy files of this size and more in chunks, by several actors and nodes; none: never
    #[arg(long, value_name = "SIZE|none", default_value = "1G", value_parser = parse_from)]
    chunk_from: u64,
    /// Size of a chunk, a multiple of 1M
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_chunk)]
    chunk_size: u64,
}

impl ChunkArgs {
    /// Puts them into a policy.
    pub fn apply(&self, policy: &mut Policy) {
        policy.chunks = ChunkPolicy { from_bytes: self.chunk_from, chunk_bytes: self.chunk_size };
    }
}

fn parse_from(text: &str) -> Result<u64, String> {
    if text == "none" { Ok(u64::MAX) } else { parse_size(text).map_err(|e| e.to_string()) }
}

fn parse_chunk(text: &str) -> Result<u64, String> {
    match parse_size(text).map_err(|e| e.to_string())? {
        bytes if bytes > 0 && bytes.is_multiple_of(CHUNK_ALIGN_BYTES) => Ok(bytes),
        _ => Err("a chunk is a multiple of 1M".into()),
    }
}

/// A pass, and what it needs beside its roots.
pub struct Order {
    /// The pass, by its registry name.
    pub pass: &'static str,
    /// How.
    pub policy: Policy,
    /// Only these paths, instead of the whole tree.
    pub files: Option<FilesFrom>,
    /// Only what changed since then.
    pub since: Option<SinceArgs>,
}

impl Order {
    /// A pass over whole trees.
    pub fn new(pass: &'static str, policy: Policy) -> Self {
        Order { pass, policy, files: None, since: None }
    }
}

impl JobArgs {
    /// Do workers do it?
    pub fn has_fleet(&self) -> bool {
        self.how.broker.is_some()
    }

    /// Starts the log, makes the order and runs the job.
    pub fn run(self, order: impl FnOnce() -> anyhow::Result<Order>) -> ExitCode {
        self.run_and(order, summary::tell)
    }

    /// As [`JobArgs::run`]; `tell` says how it ended.
    pub fn run_and(
        self,
        order: impl FnOnce() -> anyhow::Result<Order>,
        tell: impl FnOnce(&Finished<'_>, Tell) -> ExitCode,
    ) -> ExitCode {
        self.how.run([self.source, self.target], order, tell)
    }

    /// Source and target, as given.
    pub fn roots(&self) -> [&OsString; 2] {
        [&self.source, &self.target]
    }
}

/// How much is said at the end.
#[derive(Debug, Clone, Copy)]
pub struct Tell {
    /// One JSON object on stdout.
    pub json: bool,
    /// Only what went wrong.
    pub quiet: bool,
}

impl RunArgs {
    fn sizes(&self) -> PoolSizes {
        let usual = PoolSizes::for_this_machine();
        PoolSizes {
            dirs: self.dir_actors.map_or(usual.dirs, usize::from),
            files: self.file_actors.map_or(usual.files, usize::from),
        }
    }

    /// Starts the log, makes the order and runs the job between two roots; `tell` says how it ended.
    pub fn run(
        self,
        roots: [OsString; 2],
        order: impl FnOnce() -> anyhow::Result<Order>,
        tell: impl FnOnce(&Finished<'_>, Tell) -> ExitCode,
    ) -> ExitCode {
        start_logging(self.verbose, self.quiet || self.verbose == 0);
        match order().and_then(|order| try_run(self, roots, order, tell)) {
            Ok(code) => code,
            Err(e) => refuse(&e),
        }
    }
}

fn try_run(
    args: RunArgs,
    roots: [OsString; 2],
    order: Order,
    tell: impl FnOnce(&Finished<'_>, Tell) -> ExitCode,
) -> anyhow::Result<ExitCode> {
    let broker = args.broker.as_deref().map(|url| AmqpConfig::parse(url, args.queue_type)).transpose();
    let broker = broker.map_err(NodeError::Broker)?;
    let report = args.report.as_deref().map(ReportFile::open).transpose()?;
    let (ready, notes) = ready(roots, order, broker.as_ref())?;
    let Ready { spec, row, prepared, first, list } = ready;
    let named = list.is_some();
    let (sink, report) = report.map_or_else(|| Ok(ReportFile::none()), ReportFile::into_sink)?;
    let (sink, lines) = if spec.policy.dry_run && !args.json && !args.quiet {
        let (sink, lines) = Lines::before(sink);
        (sink, Some(lines))
    } else {
        (sink, None)
    };
    let board = Arc::new(Board::new(sink));
    notes.iter().for_each(|note| board.note(note));
    if row.access == Access::Make && !args.quiet {
        node::doctor::cheap(&spec.source, &spec.target).iter().for_each(|loss| board.note(loss));
    }
    // Lines on the same terminal are progress enough.
    let quiet = args.quiet || (lines.is_some() && std::io::stdout().is_terminal());
    let progress = Progress::start(Arc::clone(&board), prepared.roots().source.usage(), quiet);
    let ended = run_job(&spec, row, prepared, first, args.sizes(), broker.as_ref(), &board);
    let ended = ended.map(|ended| match ended {
        Ended::Complete => board.settle(&spec.policy.verify.salt).map_or_else(Ended::Aborted, |()| Ended::Complete),
        other => other,
    });
    progress.finish();
    if let Some(lines) = lines {
        lines.finish();
    }
    let ended = ended?;
    let finished = Finished { spec: &spec, snapshot: board.snapshot(), ended: &ended };
    let code = tell(&finished, Tell { json: args.json, quiet: args.quiet });
    let list = list.and_then(|trouble| trouble.take()).map(|why| anyhow::anyhow!(why));
    let troubles: Vec<anyhow::Error> = list.into_iter().chain(report.finish().err()).collect();
    troubles.iter().for_each(|e| super::say(&format!("treehaul: {e:#}")));
    let code = if !troubles.is_empty() && code == ExitCode::Complete { ExitCode::Infrastructure } else { code };
    if !named {
        // A job that looked at some paths only proves nothing about the others.
        node::history::remember(&spec, code.number());
    }
    Ok(code)
}

/// A job that can be run.
struct Ready {
    spec: JobSpec,
    row: &'static PassRow,
    prepared: Prepared,
    first: Box<dyn Iterator<Item = Task> + Send>,
    /// What went wrong with a list of paths while the job ran.
    list: Option<ListTrouble>,
}

/// Checks everything that can be checked before anything is touched. Also what is to be noted.
fn ready(
    [source, target]: [OsString; 2],
    mut order: Order,
    broker: Option<&AmqpConfig>,
) -> anyhow::Result<(Ready, Vec<String>)> {
    let (source, target) = (given_root(source)?, given_root(target)?);
    let job = JobId::random();
    if let Some(since) = &order.since {
        anyhow::ensure!(
            !(since.is_time() && order.policy.filter.older_than.is_some()),
            "--since TIME with --older-than would never copy what was too new then: name the job, or leave one of them out"
        );
        order.policy.since = since.resolve(&source, &target, &order.policy)?;
    }
    // Before the target is made: a broker that cannot be reached must leave nothing.
    let abandoned = match broker {
        // A dry run takes no abandoned job's place.
        Some(config) if order.policy.dry_run => node::ask_broker(config).map(|()| Vec::new())?,
        Some(config) => node::check_broker(config, &source, &target)?,
        None => Vec::new(),
    };
    let row = crate::pass::row(order.pass).with_context(|| format!("no pass '{}'", order.pass))?;
    let prepared = node::prepare(&source, &target, job, row.access, &order.policy)?;
    anyhow::ensure!(
        order.files.is_none() || matches!(prepared, Prepared::Tree(_)),
        "--files-from lists what is in a directory, and the source is none"
    );
    anyhow::ensure!(
        order.policy.delete.is_none() || matches!(prepared, Prepared::Tree(_)),
        "--delete needs a directory as its source: of a single file nothing can be too much"
    );
    let list = order.files.as_ref().map(FilesFrom::trouble);
    let first: Box<dyn Iterator<Item = Task> + Send> = match order.files {
        Some(files) => Box::new(files),
        None => Box::new(std::iter::once(Task::root())),
    };
    let roots = prepared.roots();
    let source_root = roots.source.identity().map_err(NodeError::Target).context("source")?;
    let target_root = roots.target.identity().map_err(NodeError::Target).context("target")?;
    let mut policy = order.policy;
    if row.access.side() == Side::Source {
        policy.verify.target_ino = Some(target_root.ino);
    }
    // Two nodes must not find out different things.
    for root in [&roots.source, &roots.target] {
        policy.verify.granularity_ns = policy.verify.granularity_ns.max(root.traits().time_granularity_ns);
    }
    let pass = order.pass.into();
    let submitted = Timestamp::now();
    let spec = JobSpec { id: job, pass, source, target, policy, submitted, source_root, target_root };
    let lost = |job| format!("job {job} between the same roots had lost its leader; this one takes its place");
    Ok((Ready { spec, row, prepared, first, list }, abandoned.into_iter().map(lost).collect()))
}

fn run_job(
    spec: &JobSpec,
    row: &PassRow,
    prepared: Prepared,
    first: impl Iterator<Item = Task> + Send,
    sizes: PoolSizes,
    broker: Option<&AmqpConfig>,
    board: &Arc<Board>,
) -> Result<Ended, NodeError> {
    match (prepared, broker) {
        // One entry is not worth a message.
        (Prepared::Single { roots, name, target_name }, _) => node::run_single(spec, roots, &name, &target_name, board),
        (Prepared::Tree(roots), None) => node::run_alone(spec, row, roots, first, sizes, board),
        (Prepared::Tree(roots), Some(config)) => node::run_with_fleet(spec, row, roots, first, config, board),
    }
}
