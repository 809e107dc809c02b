//! `treehaul dirtime`.

use super::filter::FilterArgs;
use super::job::{FidelityArgs, JobArgs, Order};
use super::load::LoadArgs;
use crate::exit_code::ExitCode;
use crate::model::Policy;
use clap::Args;

/// Arguments of `dirtime`.
#[derive(Debug, Args)]
pub struct DirtimeArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    fidelity: FidelityArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

impl DirtimeArgs {
    /// Only submits the job.
    pub fn detach(&mut self) {
        self.job.detach();
    }
}

/// Runs the command.
pub fn run(args: DirtimeArgs) -> ExitCode {
    let DirtimeArgs { job, fidelity, filter, load } = args;
    let fleet = job.has_fleet();
    job.run(|| {
        load.be_nice(fleet)?;
        let mut policy = Policy { limits: load.limits(), ..Policy::default() };
        fidelity.apply(&mut policy);
        filter.apply(&mut policy)?;
        Ok(Order { files: filter.files_from()?, ..Order::new("dirtime", policy) })
    })
}
