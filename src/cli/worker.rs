//! `treehaul worker`.

use super::broker::BrokerArgs;
use super::control::Kind;
use super::load::LoadArgs;
use super::settings::{ALLOWED_ROOTS, DIR_ACTORS, FILE_ACTORS, Flag, NAME};
use super::stats::StatsArgs;
use super::{refuse, start_logging};
use crate::exit_code::ExitCode;
use crate::node::{self, Allowed, Ended, Health, NodeError, PoolSizes};
use crate::web::{Server, health};
use anyhow::Context;
use clap::Args;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;

/// Actors of each kind, if nothing is said: enough to hide the latency of a remote filesystem.
pub const ACTORS: usize = 16;
/// It is a part of queue names, which have up to 255.
const MAX_NAME_BYTES: usize = 128;

/// Arguments of `worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    stats: StatsArgs,
    /// Answer /healthz (alive?) and /readyz (with the broker, and taking tasks?) there, as 127.0.0.1:9155
    #[arg(long, env = "TREEHAUL_HEALTH", value_name = "ADDR")]
    health: Option<SocketAddr>,
    /// Say nothing but what went wrong
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// What a worker is, besides its broker.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// What this worker is called [env: TREEHAUL_NAME=] [default: the host name]
    #[arg(long)]
    name: Option<OsString>,
    /// Actors that list directories [env: TREEHAUL_DIR_ACTORS=] [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    dir_actors: Option<u16>,
    /// Actors that copy [env: TREEHAUL_FILE_ACTORS=] [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    file_actors: Option<u16>,
    /// Have actors of this kind alone, and leave the queues of the other to other workers
    #[arg(long, env = "TREEHAUL_QUEUES", value_name = "KIND", value_enum)]
    queues: Option<Kind>,
}

impl NodeArgs {
    /// These flags, with their keys.
    pub fn flags(&self) -> Vec<Flag> {
        let number = |n: Option<u16>| n.map(|n| n.to_string().into());
        let given: [(_, Option<OsString>); 3] = [
            (&NAME, self.name.clone()),
            (&DIR_ACTORS, number(self.dir_actors)),
            (&FILE_ACTORS, number(self.file_actors)),
        ];
        given.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

/// Runs the command.
pub fn run(args: WorkerArgs) -> ExitCode {
    start_logging(args.verbose, args.quiet);
    match try_run(&args) {
        Ok(code) => code,
        Err(e) => refuse(&e),
    }
}

fn try_run(args: &WorkerArgs) -> anyhow::Result<ExitCode> {
    args.load.be_nice(false)?;
    let settings = args.broker.settings([args.node.flags(), args.stats.flags()].concat())?;
    let has = |kind| args.node.queues.is_none_or(|only| only == kind);
    let sizes = PoolSizes {
        dirs: if has(Kind::Dirs) { settings.count(&DIR_ACTORS).unwrap_or(ACTORS) } else { 0 },
        files: if has(Kind::Files) { settings.count(&FILE_ACTORS).unwrap_or(ACTORS) } else { 0 },
    };
    let name = settings.text(&NAME).context("a worker needs a name, and this host has none: give --name")?.to_owned();
    anyhow::ensure!(
        !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains(['/', '\0']),
        "a worker's name has 1 to {MAX_NAME_BYTES} bytes and no slash"
    );
    let config = args.broker.config()?;
    let allowed = settings.list(&ALLOWED_ROOTS).map_or_else(Allowed::everything, Allowed::below);
    let stats = args.stats.of_worker(&settings)?;
    let health = Health::new();
    let _pages = args.health.map(|address| serve(address, &health)).transpose()?;
    let limits = args.load.limits();
    match node::run_worker(&config, &name, sizes, limits, allowed, stats, &health)? {
        // Being told to stop is how a worker ends.
        Ended::Signalled(_) | Ended::Left(_) | Ended::Complete => Ok(ExitCode::Complete),
        Ended::Aborted(why) => {
            super::complain(&format!("treehaul: {}", crate::model::escaped(why.as_bytes())));
            Ok(ExitCode::Infrastructure)
        }
    }
}

/// Says over HTTP how the worker is.
fn serve(address: SocketAddr, health: &Arc<Health>) -> Result<Server, NodeError> {
    let (lives, takes) = (Arc::clone(health), Arc::clone(health));
    let alive = move || {
        let health = Arc::clone(&lives);
        async move { health.alive().await }
    };
    let ready = move || std::future::ready(takes.ready());
    let server = Server::start(address, health::pages(alive, ready))
        .map_err(|e| NodeError::System(format!("cannot answer at {address}, as --health has it: {e}")))?;
    tracing::info!(address = %server.address(), "answers /healthz and /readyz");
    Ok(server)
}
