//! `treehaul dirtime`.

use super::job::{FidelityArgs, JobArgs, Order};
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
}

/// Runs the command.
pub fn run(args: DirtimeArgs) -> ExitCode {
    let DirtimeArgs { job, fidelity } = args;
    job.run(|| {
        let mut policy = Policy::default();
        fidelity.apply(&mut policy);
        Ok(Order::new("dirtime", policy))
    })
}
