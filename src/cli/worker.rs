//! `treehaul worker`.

use super::control::Kind;
use super::load::LoadArgs;
use super::{refuse, start_logging};
use crate::broker::amqp::{AmqpConfig, QueueType};
use crate::exit_code::ExitCode;
use crate::node::{self, Ended, NodeError, PoolSizes};
use clap::Args;

/// It is a part of queue names, which have up to 255.
const MAX_NAME_BYTES: usize = 128;

/// Arguments of `worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// The broker: amqp://HOST/VHOST; user and password better by TREEHAUL_AMQP_USER, TREEHAUL_AMQP_PASSWORD
    #[arg(long, env = "TREEHAUL_BROKER", hide_env_values = true, value_name = "URL")]
    broker: String,
    /// What this worker is called [default: the host name]
    #[arg(long, env = "TREEHAUL_NAME")]
    name: Option<String>,
    /// Actors that list directories
    #[arg(long, env = "TREEHAUL_DIR_ACTORS", value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=4096))]
    dir_actors: u16,
    /// Actors that work on files
    #[arg(long, env = "TREEHAUL_FILE_ACTORS", value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=4096))]
    file_actors: u16,
    /// Have actors of this kind alone, and leave the queues of the other to other workers
    #[arg(long, env = "TREEHAUL_QUEUES", value_name = "KIND", value_enum)]
    queues: Option<Kind>,
    #[command(flatten)]
    load: LoadArgs,
    /// Say nothing but what went wrong
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Runs the command.
pub fn run(args: WorkerArgs) -> ExitCode {
    start_logging(args.verbose, args.quiet);
    match try_run(args) {
        Ok(code) => code,
        Err(e) => refuse(&e),
    }
}

fn try_run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    args.load.be_nice(false)?;
    let has = |kind| args.queues.is_none_or(|only| only == kind);
    let sizes = PoolSizes {
        dirs: if has(Kind::Dirs) { usize::from(args.dir_actors) } else { 0 },
        files: if has(Kind::Files) { usize::from(args.file_actors) } else { 0 },
    };
    let name = args.name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    anyhow::ensure!(
        !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains(['/', '\0']),
        "a worker's name has 1 to {MAX_NAME_BYTES} bytes and no slash"
    );
    // Queues are made by whoever submits a job; a worker takes them as they are.
    let config = AmqpConfig::parse(&args.broker, QueueType::default()).map_err(NodeError::Broker)?;
    match node::run_worker(&config, &name, sizes, args.load.limits())? {
        // Being told to stop is how a worker ends.
        Ended::Signalled(_) | Ended::Complete => Ok(ExitCode::Complete),
        Ended::Aborted(why) => {
            super::say(&format!("treehaul: {}", crate::model::escaped(why.as_bytes())));
            Ok(ExitCode::Infrastructure)
        }
    }
}
