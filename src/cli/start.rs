//! `treehaul start`: a job is submitted and left to the fleet.

use super::{copy, delete, dirtime, sync, verify};
use crate::exit_code::ExitCode;
use clap::{Args, Subcommand};

/// Arguments of `start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    #[command(subcommand)]
    pass: StartCommand,
}

/// The passes that workers do.
#[derive(Debug, Subcommand)]
enum StartCommand {
    /// As `treehaul copy`
    Copy(Box<copy::CopyArgs>),
    /// As `treehaul sync`
    Sync(Box<sync::SyncArgs>),
    /// As `treehaul delete`
    Delete(Box<delete::DeleteCommandArgs>),
    /// As `treehaul dirtime`
    Dirtime(Box<dirtime::DirtimeArgs>),
    /// As `treehaul verify`
    Verify(Box<verify::VerifyArgs>),
}

/// Runs the command.
pub fn run(args: StartArgs) -> ExitCode {
    match args.pass {
        StartCommand::Copy(mut args) => {
            args.detach();
            copy::run(*args)
        }
        StartCommand::Sync(mut args) => {
            args.detach();
            sync::run(*args)
        }
        StartCommand::Delete(mut args) => {
            args.detach();
            delete::run(*args)
        }
        StartCommand::Dirtime(mut args) => {
            args.detach();
            dirtime::run(*args)
        }
        StartCommand::Verify(mut args) => {
            args.detach();
            verify::run(*args)
        }
    }
}
