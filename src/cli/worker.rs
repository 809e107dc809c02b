//! `treehaul worker`.

use super::load::LoadArgs;
use super::{refuse, start_logging};
use crate::broker::amqp::{AmqpConfig, QueueType};
use crate::exit_code::ExitCode;
use crate::node::{self, Ended, NodeError, PoolSizes};
use clap::Args;

/// Arguments of `worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// The broker: amqp://HOST/VHOST; user and password better by TREEHAUL_AMQP_USER, TREEHAUL_AMQP_PASSWORD
    #[arg(long, env = "TREEHAUL_BROKER", hide_env_values = true, value_name = "URL")]
    broker: String,
    /// What this worker is called [default: the host name]
    #[arg(long, env = "TREEHAUL_NAME")]
    name: Option<String>,
    /// Actors that list directories [default: by cores]
    #[arg(long, env = "TREEHAUL_DIR_ACTORS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    dir_actors: Option<u16>,
    /// Actors that copy [default: by cores]
    #[arg(long, env = "TREEHAUL_FILE_ACTORS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    file_actors: Option<u16>,
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
    let usual = PoolSizes::for_this_machine();
    let sizes = PoolSizes {
        dirs: args.dir_actors.map_or(usual.dirs, usize::from),
        files: args.file_actors.map_or(usual.files, usize::from),
    };
    let name = args.name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    // Queues are made by whoever submits a job; a worker takes them as they are.
    let config = AmqpConfig::parse(&args.broker, QueueType::default()).map_err(NodeError::Broker)?;
    match node::run_worker(&config, name, sizes, args.load.limits())? {
        // Being told to stop is how a worker ends.
        Ended::Signalled(_) | Ended::Left(_) | Ended::Complete => Ok(ExitCode::Complete),
        Ended::Aborted(why) => {
            super::say(&format!("treehaul: {}", crate::model::escaped(why.as_bytes())));
            Ok(ExitCode::Infrastructure)
        }
    }
}
