//! The command line: arguments, rendering, exit codes. No I/O on trees.

mod broker;
mod certificate;
mod config;
mod control;
mod copy;
mod dashboard;
mod delete;
mod dirtime;
mod doctor;
mod export;
mod failed;
mod files_from;
mod filter;
mod follow;
mod html;
mod job;
mod key;
mod latency;
mod layout_rules;
mod load;
mod log;
mod lustre;
mod nodes;
mod progress;
mod reach;
mod report;
mod secret;
mod settings;
pub mod since;
mod size;
mod start;
mod stats;
mod status;
mod summary;
mod sync;
mod time;
mod verify;
mod watch;
mod worker;
mod would;

pub use log::{complain, say};

use crate::exit_code::ExitCode;
use crate::node::NodeError;
use crate::node::json::escaped_once;
use anyhow::Context;
use clap::{Parser, Subcommand};
use log::start_logging;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Moves whole filesystem trees, alone or with a fleet of workers over RabbitMQ, and says what was not kept.
#[derive(Debug, Parser)]
#[command(version = env!("TREEHAUL_VERSION"), propagate_version = true, max_term_width = 100)]
pub struct Args {
    #[command(flatten)]
    log: log::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy a tree; what is right already is left alone
    Copy(Box<copy::CopyArgs>),
    /// Make the target what the source is, in one walk: copy, and with --delete remove what only the target has
    Sync(Box<sync::SyncArgs>),
    /// Remove what only the target has, and nothing else
    Delete(Box<delete::DeleteCommandArgs>),
    /// Give the target's directories the times and attributes of the source's
    Dirtime(Box<dirtime::DirtimeArgs>),
    /// Say what a copy would lose, and why one would fail, before it is made
    Doctor(doctor::DoctorArgs),
    /// Compare two trees and sum up a fingerprint of each; nothing is written
    Verify(Box<verify::VerifyArgs>),
    /// Check a tree against a certificate of an earlier verification
    #[command(subcommand)]
    Certificate(certificate::CertificateCommand),
    /// The key with which a fleet tells its own messages from others
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// What is set, and where
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Submit a job to the fleet, print its id, and leave it
    Start(start::StartArgs),
    /// Come back to a job of the fleet: progress, summary and exit code as if one had never left
    Follow(follow::FollowArgs),
    /// List what failed in a job of the fleet
    Failed(failed::FailedArgs),
    /// Try again what failed in a job of the fleet
    Retry(failed::RetryArgs),
    /// Clear what is kept of a job of the fleet because something in it failed
    Reset(failed::ResetArgs),
    /// Work for the jobs of a fleet until stopped
    Worker(worker::WorkerArgs),
    /// Say which jobs there are and how they stand, and what workers do
    Status(status::StatusArgs),
    /// Serve a page that shows the fleet and its jobs, and with a token steers them
    Dashboard(Box<dashboard::DashboardArgs>),
    /// List the workers of a fleet, and how each stands with its jobs
    Nodes(nodes::NodesArgs),
    /// Ask workers whether they are there
    Ping(nodes::NodesArgs),
    /// Look into workers
    #[command(subcommand)]
    Inspect(nodes::InspectCommand),
    /// Have nobody take a task of jobs, or certain workers take none at all, until resumed
    Pause(control::JobsArgs),
    /// Have paused jobs, or paused workers, go on
    Resume(control::JobsArgs),
    /// End a job early
    Cancel(control::CancelArgs),
    /// End workers
    Stop(control::StopArgs),
    /// Give workers more actors
    Grow(control::ResizeArgs),
    /// Take actors from workers; each keeps one of a kind at least
    Shrink(control::ResizeArgs),
    /// Set the limits of workers, for all their jobs together
    Throttle(control::ThrottleArgs),
    /// Read counters and queues, and feed Graphite, statsd or Prometheus
    Export(Box<export::ExportArgs>),
}

/// Prints a result on stdout, as [`say`].
fn print_result(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Escapes each line, keeping the line ends.
pub fn escaped_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(|line| crate::model::escaped(line.as_bytes())).collect();
    lines.join("\n")
}

/// Runs a command to its end.
pub fn run(args: Args) -> ExitCode {
    let _log = log::choose(args.log);
    crate::node::prepare_process();
    match args.command {
        Command::Copy(args) => copy::run(*args),
        Command::Sync(args) => sync::run(*args),
        Command::Delete(args) => delete::run(*args),
        Command::Dirtime(args) => dirtime::run(*args),
        Command::Doctor(args) => doctor::run(args),
        Command::Verify(args) => verify::run(*args),
        Command::Certificate(command) => certificate::run(command),
        Command::Key(command) => key::run(command),
        Command::Config(command) => config::run(command),
        Command::Start(args) => start::run(args),
        Command::Follow(args) => follow::run(&args),
        Command::Failed(args) => failed::failed(&args),
        Command::Retry(args) => failed::retry(&args),
        Command::Reset(args) => failed::reset(&args),
        Command::Worker(args) => worker::run(args),
        Command::Status(args) => status::run(&args),
        Command::Dashboard(args) => dashboard::run(&args),
        Command::Nodes(args) => nodes::nodes(&args),
        Command::Ping(args) => nodes::ping(&args),
        Command::Inspect(command) => nodes::inspect(&command),
        Command::Pause(args) => control::pause(&args),
        Command::Resume(args) => control::resume(&args),
        Command::Cancel(args) => control::cancel(&args),
        Command::Stop(args) => control::stop(&args),
        Command::Grow(args) => control::grow(&args),
        Command::Shrink(args) => control::shrink(&args),
        Command::Throttle(args) => control::throttle(&args),
        Command::Export(args) => export::run(*args),
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
    // One spelling, so that a later job knows the root again: without `.` and slashes that mean nothing.
    Ok(absolute.components().collect::<PathBuf>().into_os_string().into_vec())
}

/// Says what went wrong before anything ran, and which exit code that is.
fn refuse(error: &anyhow::Error) -> ExitCode {
    complain(&escaped_once(&format!("treehaul: {error:#}")));
    match error.downcast_ref::<NodeError>() {
        Some(e) => exit_code_of(e),
        None => ExitCode::Usage,
    }
}

fn exit_code_of(error: &NodeError) -> ExitCode {
    use crate::broker::amqp::AmqpError;
    use crate::fs::RootError;
    match error {
        NodeError::Broker(AmqpError::Url(..)) => ExitCode::Usage,
        NodeError::Root(RootError::Fs { error, .. }) => match error.errno {
            libc::EIO | libc::ESTALE | libc::ETIMEDOUT | libc::ENOSPC | libc::EDQUOT | libc::ENOTCONN => {
                ExitCode::Infrastructure
            }
            _ => ExitCode::Usage,
        },
        NodeError::Root(_) | NodeError::Refused(_) => ExitCode::Usage,
        NodeError::Target(_) | NodeError::System(_) | NodeError::Broker(_) => ExitCode::Infrastructure,
    }
}
