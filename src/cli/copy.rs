//! `treehaul copy`, and what every pass that copies can be told.

use super::filter::FilterArgs;
use super::job::{ChunkArgs, FidelityArgs, JobArgs, Order, WriteArgs};
use super::load::LoadArgs;
use super::lustre::LustreArgs;
use super::since::SinceArgs;
use crate::exit_code::ExitCode;
use crate::model::Policy;
use clap::Args;

/// How a tree is copied.
#[derive(Debug, Args)]
pub struct CopyingArgs {
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    chunks: ChunkArgs,
    #[command(flatten)]
    fidelity: FidelityArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    lustre: LustreArgs,
    #[command(flatten)]
    since: SinceArgs,
    /// Change nothing; print what would be done, a line an entry
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

impl CopyingArgs {
    /// The order for a pass. `fleet` says whether workers do it.
    ///
    /// # Errors
    /// A filter or list that cannot be understood.
    pub fn order(self, pass: &'static str, fleet: bool) -> anyhow::Result<Order> {
        self.load.be_nice(fleet)?;
        let mut policy = Policy { dry_run: self.dry_run, limits: self.load.limits(), ..Policy::default() };
        self.write.apply(&mut policy);
        self.chunks.apply(&mut policy);
        self.fidelity.apply(&mut policy);
        self.lustre.apply(&mut policy)?;
        self.filter.apply(&mut policy)?;
        Ok(Order { files: self.filter.files_from()?, since: Some(self.since), ..Order::new(pass, policy) })
    }
}

/// Arguments of `copy`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    copying: CopyingArgs,
}

impl CopyArgs {
    /// Only submits the job.
    pub fn detach(&mut self) {
        self.job.detach();
    }
}

/// Runs the command.
pub fn run(args: CopyArgs) -> ExitCode {
    let CopyArgs { job, copying } = args;
    let fleet = job.has_fleet();
    job.run(|| copying.order("copy", fleet))
}
