//! What the passes share on the command line, and how a job is run from it.

use super::progress::Progress;
use super::report::ReportFile;
use super::size::parse_size;
use super::summary::{self, Finished};
use super::{refuse, start_logging};
use crate::broker::amqp::{AmqpConfig, QueueType};
use crate::exit_code::ExitCode;
use crate::model::policy::{CHUNK_ALIGN_BYTES, ChunkPolicy};
use crate::model::{JobId, JobSpec, Policy, RelPath, Task, Timestamp};
use crate::node::{self, Ended, NodeError, PoolSizes, Prepared};
use crate::pass::PassRow;
use crate::telemetry::Board;
use anyhow::Context;
use clap::Args;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where, by whom, and what is said about it.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// Source: a directory, file:///PATH, or synth://?entries=N
    source: OsString,
    /// Target: a directory, file:///PATH, or null://
    target: OsString,

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
    if text == "none" { Ok(u64::MAX) } else { parse_size(text) }
}

fn parse_chunk(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
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
}

impl JobArgs {
    fn sizes(&self) -> PoolSizes {
        let usual = PoolSizes::for_this_machine();
        PoolSizes {
            dirs: self.dir_actors.map_or(usual.dirs, usize::from),
            files: self.file_actors.map_or(usual.files, usize::from),
        }
    }

    /// Starts the log, makes the order and runs the job.
    pub fn run(self, order: impl FnOnce() -> anyhow::Result<Order>) -> ExitCode {
        start_logging(self.verbose, self.quiet || self.verbose == 0);
        match order().and_then(|order| try_run(self, order)) {
            Ok(code) => code,
            Err(e) => refuse(&e),
        }
    }
}

fn try_run(args: JobArgs, order: Order) -> anyhow::Result<ExitCode> {
    let broker = args.broker.as_deref().map(|url| AmqpConfig::parse(url, args.queue_type)).transpose();
    let broker = broker.map_err(NodeError::Broker)?;
    let report = args.report.as_deref().map(ReportFile::open).transpose()?;
    let job = JobId::random();
    let sizes = args.sizes();
    let source = given_root(args.source)?;
    let target = given_root(args.target)?;
    // Before the target is made: a broker that cannot be reached must leave nothing.
    let abandoned = broker.as_ref().map(|config| node::check_broker(config, &source, &target)).transpose()?;
    let row = crate::pass::row(order.pass).with_context(|| format!("no pass '{}'", order.pass))?;
    let prepared = node::prepare(&source, &target, job, row.access)?;
    let source_root = prepared.roots().source.open_dir(&RelPath::root()).and_then(|d| d.metadata());
    let source_ino = source_root.map_err(NodeError::Target).context("source")?.ino;
    let submitted = Timestamp::now();
    let spec =
        JobSpec { id: job, pass: order.pass.into(), source, target, policy: order.policy, submitted, source_ino };
    let (sink, report) = report.map_or_else(|| Ok(ReportFile::none()), ReportFile::into_sink)?;
    let board = Arc::new(Board::new(sink));
    for job in abandoned.unwrap_or_default() {
        board.note(&format!("job {job} between the same roots had lost its leader; this one goes on where it stopped"));
    }
    let progress = Progress::start(Arc::clone(&board), prepared.roots().source.usage(), args.quiet);
    let ended = run_job(&spec, row, prepared, sizes, broker.as_ref(), &board);
    progress.finish();
    let ended = ended?;
    let written = report.finish();
    let finished = Finished { spec: &spec, snapshot: board.snapshot(), ended: &ended };
    if args.json {
        super::print_result(&summary::json(&finished).to_string());
    }
    summary::print(&finished, args.quiet || args.json);
    if let Err(e) = written {
        super::say(&format!("treehaul: {e:#}"));
        if finished.exit_code() == ExitCode::Complete {
            return Ok(ExitCode::Infrastructure);
        }
    }
    Ok(finished.exit_code())
}

fn run_job(
    spec: &JobSpec,
    row: &PassRow,
    prepared: Prepared,
    sizes: PoolSizes,
    broker: Option<&AmqpConfig>,
    board: &Arc<Board>,
) -> Result<Ended, NodeError> {
    let first = [Task::root()];
    match (prepared, broker) {
        // One entry is not worth a message.
        (Prepared::Single { roots, name, target_name }, _) => node::run_single(spec, roots, &name, &target_name, board),
        (Prepared::Tree(roots), None) => node::run_alone(spec, row, roots, first, sizes, board),
        (Prepared::Tree(roots), Some(config)) => node::run_with_fleet(spec, row, roots, first, config, board),
    }
}

/// A root as given; a relative path becomes absolute, since workers run elsewhere.
fn given_root(root: OsString) -> anyhow::Result<Vec<u8>> {
    let bytes = root.into_vec();
    anyhow::ensure!(!bytes.is_empty(), "an empty path is no root: give a directory or a URL");
    anyhow::ensure!(!bytes.contains(&0), "a path cannot hold a NUL byte");
    if bytes.windows(3).any(|w| w == b"://") {
        return Ok(bytes);
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    let absolute = std::path::absolute(&path).context("the current directory is gone; give absolute paths")?;
    Ok(absolute.into_os_string().into_vec())
}
