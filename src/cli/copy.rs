//! `treehaul copy`.

use super::progress::Progress;
use super::report::ReportFile;
use super::summary::{self, Finished};
use super::{refuse, start_logging};
use crate::broker::amqp::{AmqpConfig, QueueType};
use crate::exit_code::ExitCode;
use crate::model::{JobId, JobSpec, Policy, RelPath};
use crate::node::{self, Ended, NodeError, PoolSizes, Prepared};
use crate::telemetry::Board;
use anyhow::Context;
use clap::Args;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `copy`.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // flags are what a command line is made of
pub struct CopyArgs {
    /// Source: a directory or file, file:///PATH, or synth://?entries=N
    source: OsString,
    /// Target: the directory that becomes the copy (made if missing), or null://
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
    /// Actors that copy [default: by cores]
    #[arg(long, env = "TREEHAUL_FILE_ACTORS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    file_actors: Option<u16>,

    /// Compare contents instead of trusting size and modification time
    #[arg(long)]
    checksum: bool,
    /// Write new files under their final names instead of aside
    #[arg(long)]
    direct: bool,
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
    /// Copy each name of an inode as a file of its own
    #[arg(long)]
    no_hard_links: bool,
    /// Write holes as zeros
    #[arg(long)]
    no_holes: bool,
    /// Leave out fifos, sockets and devices
    #[arg(long)]
    no_specials: bool,

    /// Write every failed entry to this file, one JSON object a line
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

impl CopyArgs {
    fn policy(&self) -> Policy {
        Policy {
            owner: !self.no_owner,
            mode: !self.no_mode,
            times: !self.no_times,
            xattrs: !self.no_xattrs,
            acls: !self.no_acls,
            hard_links: !self.no_hard_links,
            holes: !self.no_holes,
            specials: !self.no_specials,
            checksum: self.checksum,
            direct: self.direct,
        }
    }

    fn sizes(&self) -> PoolSizes {
        let usual = PoolSizes::for_this_machine();
        PoolSizes {
            dirs: self.dir_actors.map_or(usual.dirs, usize::from),
            files: self.file_actors.map_or(usual.files, usize::from),
        }
    }
}

/// Runs the command.
pub fn run(args: CopyArgs) -> ExitCode {
    start_logging(args.verbose, args.quiet || args.verbose == 0);
    match try_run(args) {
        Ok(code) => code,
        Err(e) => refuse(&e),
    }
}

fn try_run(args: CopyArgs) -> anyhow::Result<ExitCode> {
    let broker = args.broker.as_deref().map(|url| AmqpConfig::parse(url, args.queue_type)).transpose();
    let broker = broker.map_err(NodeError::Broker)?;
    let report = args.report.as_deref().map(ReportFile::open).transpose()?;
    let job = JobId::random();
    let (policy, sizes) = (args.policy(), args.sizes());
    let source = given_root(args.source)?;
    let target = given_root(args.target)?;
    // Before the target is made: a broker that cannot be reached must leave nothing.
    let abandoned = broker.as_ref().map(|config| node::check_broker(config, &source, &target)).transpose()?;
    let prepared = node::prepare(&source, &target, job)?;
    let source_root = prepared.roots().source.open_dir(&RelPath::root()).and_then(|d| d.metadata());
    let source_ino = source_root.map_err(NodeError::Target).context("source")?.ino;
    let spec = JobSpec { id: job, pass: "copy".into(), source, target, policy, source_ino };
    let (sink, report) = report.map_or_else(|| Ok(ReportFile::none()), ReportFile::into_sink)?;
    let board = Arc::new(Board::new(sink));
    for job in abandoned.unwrap_or_default() {
        board.note(&format!("job {job} between the same roots had lost its leader; this one goes on where it stopped"));
    }
    let progress = Progress::start(Arc::clone(&board), prepared.roots().source.usage(), args.quiet);
    let ended = run_job(&spec, prepared, sizes, broker.as_ref(), &board);
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
    prepared: Prepared,
    sizes: PoolSizes,
    broker: Option<&AmqpConfig>,
    board: &Arc<Board>,
) -> Result<Ended, NodeError> {
    let row = crate::pass::row(&spec.pass).ok_or_else(|| NodeError::System(format!("no pass '{}'", spec.pass)))?;
    match (prepared, broker) {
        // One entry is not worth a message.
        (Prepared::Single { roots, name, target_name }, _) => node::run_single(spec, roots, &name, &target_name, board),
        (Prepared::Tree(roots), None) => node::run_alone(spec, row, roots, sizes, board),
        (Prepared::Tree(roots), Some(config)) => node::run_with_fleet(spec, row, roots, config, board),
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
