//! `treehaul copy`.

use super::job::{ChunkArgs, FidelityArgs, JobArgs, Order, WriteArgs};
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
    chunks: ChunkArgs,
    #[command(flatten)]
    fidelity: FidelityArgs,
}

/// Runs the command.
pub fn run(args: CopyArgs) -> ExitCode {
    let CopyArgs { job, write, chunks, fidelity } = args;
    job.run(|| {
        let mut policy = Policy::default();
        write.apply(&mut policy);
        chunks.apply(&mut policy);
        fidelity.apply(&mut policy);
        Ok(Order { pass: "copy", policy })
    })
}
