//! `treehaul sync`.

use super::delete::DeleteArgs;
use super::filter::FilterArgs;
use super::job::{ChunkArgs, FidelityArgs, JobArgs, Order, WriteArgs};
use super::load::LoadArgs;
use super::since::SinceArgs;
use crate::exit_code::ExitCode;
use crate::model::Policy;
use clap::Args;

/// Arguments of `sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Remove what only the target has
    #[arg(long)]
    delete: bool,
    #[command(flatten)]
    removal: DeleteArgs,
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
pub fn run(args: SyncArgs) -> ExitCode {
    let SyncArgs { job, delete, removal, write, chunks, fidelity, filter, load, since, dry_run } = args;
    let fleet = job.has_fleet();
    job.run(|| {
        anyhow::ensure!(
            delete || !removal.is_given(),
            "--max-delete, --trash, --allow-empty-source and --delete-excluded say how to remove: give --delete with them"
        );
        load.be_nice(fleet)?;
        let mut policy = Policy { dry_run, limits: load.limits(), ..Policy::default() };
        write.apply(&mut policy);
        chunks.apply(&mut policy);
        fidelity.apply(&mut policy);
        filter.apply(&mut policy)?;
        policy.delete = delete.then(|| removal.policy()).transpose()?;
        Ok(Order { files: filter.files_from()?, since: Some(since), ..Order::new("sync", policy) })
    })
}
