//! The command line: arguments, rendering, exit codes. No I/O on trees.

mod copy;
mod job;
mod progress;
mod report;
pub mod size;
mod summary;
mod worker;

use crate::exit_code::ExitCode;
use crate::node::NodeError;
use clap::{Parser, Subcommand};
use std::io::Write as _;

/// Moves whole filesystem trees, alone or with a fleet of workers over RabbitMQ, and says what was not kept.
#[derive(Debug, Parser)]
#[command(version = env!("TREEHAUL_VERSION"), propagate_version = true, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy a tree; what is right already is left alone
    Copy(copy::CopyArgs),
    /// Work for the jobs of a fleet until stopped
    Worker(worker::WorkerArgs),
}

/// Says something on stderr. A reader that went away (`| head`) must not end a job.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
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
    crate::node::prepare_process();
    match args.command {
        Command::Copy(args) => copy::run(args),
        Command::Worker(args) => worker::run(args),
    }
}

/// Log lines go to stderr; `TREEHAUL_LOG` (as `RUST_LOG`, e.g. `treehaul=debug`) overrides the level.
fn start_logging(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error,lapin=off",
        (false, 0) => "warn,lapin=off,treehaul=info",
        (false, 1) => "info,lapin=off,treehaul=debug",
        (false, _) => "debug,treehaul=trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("TREEHAUL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .try_init();
}

/// Says what went wrong before anything ran, and which exit code that is.
fn refuse(error: &anyhow::Error) -> ExitCode {
    say(&escaped_once(&format!("treehaul: {error:#}")));
    match error.downcast_ref::<NodeError>() {
        Some(e) => exit_code_of(e),
        None => ExitCode::Usage,
    }
}

/// Messages hold names that are escaped already; what is left of controls, in words from elsewhere, is taken out.
fn escaped_once(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn exit_code_of(error: &NodeError) -> ExitCode {
    use crate::broker::amqp::AmqpError;
    use crate::fs::RootError;
    match error {
        NodeError::Broker(AmqpError::Url(..) | AmqpError::Ca { .. }) => ExitCode::Usage,
        NodeError::Root(RootError::Fs { error, .. }) => match error.errno {
            libc::EIO | libc::ESTALE | libc::ETIMEDOUT | libc::ENOSPC | libc::EDQUOT | libc::ENOTCONN => {
                ExitCode::Infrastructure
            }
            _ => ExitCode::Usage,
        },
        NodeError::Root(_) => ExitCode::Usage,
        NodeError::Target(_) | NodeError::System(_) | NodeError::Broker(_) => ExitCode::Infrastructure,
    }
}
