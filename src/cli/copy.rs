//! `treehaul copy`.

use super::filter::FilterArgs;
use super::job::{ChunkArgs, FidelityArgs, JobArgs, Order, WriteArgs};
use super::load::LoadArgs;
use super::since::SinceArgs;
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
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    since: SinceArgs,
    /// Change nothing; print what would be done, a line an entry
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

/// Runs the command.
pub fn run(args: CopyArgs) -> ExitCode {
    let CopyArgs { job, write, chunks, fidelity, filter, load, since, dry_run } = args;
    let fleet = job.has_fleet();
    job.run(|| {
        load.be_nice(fleet)?;
        let mut policy = Policy::default();
        write.apply(&mut policy);
        chunks.apply(&mut policy);
        fidelity.apply(&mut policy);
        filter.apply(&mut policy)?;
        policy.limits = load.limits();
        policy.dry_run = dry_run;
        Ok(Order { files: filter.files_from()?, since: Some(since), ..Order::new("copy", policy) })
    })
}
