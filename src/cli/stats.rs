//! What is counted and timed, and where it goes.

use super::settings::{Flag, MEMCACHED, NAME, Settings};
use crate::node::{OpenOutlet, Stats};
use clap::Args;
use std::ffi::OsString;

/// What this process counts.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Add what each actor counts to this memcached every few seconds [env: TREEHAUL_MEMCACHED=] [default: none]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "no_stats")]
    memcached: Option<OsString>,
    /// Count nothing by actor, time no calls, and send nothing, wherever a memcached is named
    #[arg(long)]
    no_stats: bool,
}

impl StatsArgs {
    /// These flags, with their keys.
    pub fn flags(&self) -> Vec<Flag> {
        self.memcached.iter().map(|address| (&MEMCACHED, address.clone())).collect()
    }

    /// Refuses flags of a process whose work others do.
    ///
    /// # Errors
    /// Which ones, and where they belong.
    pub fn refuse_at_submitter(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.memcached.is_none() && !self.no_stats,
            "--memcached and --no-stats are about this process, and workers do the work: give them to `treehaul worker`"
        );
        Ok(())
    }

    /// What a worker counts: its calls are timed, unless that is switched off.
    ///
    /// # Errors
    /// An address that cannot be understood.
    pub fn of_worker(&self, settings: &Settings) -> anyhow::Result<Stats> {
        if self.no_stats { Ok(Stats::default()) } else { Ok(sent(settings)?.unwrap_or_else(Stats::timed)) }
    }

    /// What a job counts that runs in this process: nothing, if nobody is to see it.
    ///
    /// # Errors
    /// As [`StatsArgs::of_worker`].
    pub fn of_job(&self, settings: &Settings) -> anyhow::Result<Stats> {
        if self.no_stats { Ok(Stats::default()) } else { Ok(sent(settings)?.unwrap_or_default()) }
    }
}

fn sent(settings: &Settings) -> anyhow::Result<Option<Stats>> {
    let Some(address) = settings.text(&MEMCACHED) else { return Ok(None) };
    let name = settings.text(&NAME).unwrap_or_default().to_owned();
    Ok(Some(Stats::sent(name, outlet(address)?)))
}

/// Where a memcached's counters are added.
fn outlet(address: &str) -> anyhow::Result<OpenOutlet> {
    anyhow::bail!(
        "counters cannot be sent to {}: this build has no memcached",
        crate::model::escaped(address.as_bytes())
    )
}
