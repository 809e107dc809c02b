//! `treehaul sync`.

use super::copy::CopyingArgs;
use super::delete::DeleteArgs;
use super::job::JobArgs;
use crate::exit_code::ExitCode;
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
    copying: CopyingArgs,
}

impl SyncArgs {
    /// Only submits the job.
    pub fn detach(&mut self) {
        self.job.detach();
    }
}

/// Runs the command.
pub fn run(args: SyncArgs) -> ExitCode {
    let SyncArgs { job, delete, removal, copying } = args;
    let fleet = job.has_fleet();
    job.run(|| {
        anyhow::ensure!(
            delete || !removal.is_given(),
            "--max-delete, --trash, --allow-empty-source and --delete-excluded say how to remove: give --delete with them"
        );
        let mut order = copying.order("sync", fleet)?;
        order.policy.delete = delete.then(|| removal.policy()).transpose()?;
        Ok(order)
    })
}
