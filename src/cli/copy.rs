//! `treehaul copy`.

use super::filter::FilterArgs;
use super::job::{FidelityArgs, JobArgs, Order, WriteArgs};
use crate::exit_code::ExitCode;
use crate::model::Policy;
use clap::Args;

/// Arguments of `copy`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    fidelity: FidelityArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

/// Runs the command.
pub fn run(args: CopyArgs) -> ExitCode {
    let CopyArgs { job, write, fidelity, filter } = args;
    job.run(|| {
        let mut policy = Policy::default();
        write.apply(&mut policy);
        fidelity.apply(&mut policy);
        filter.apply(&mut policy)?;
        Ok(Order { pass: "copy", policy, files: filter.files_from()? })
    })
}
