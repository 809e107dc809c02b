//! What is counted and timed, and where it goes.

use super::broker::BrokerArgs;
use super::settings::{Flag, MEMCACHED, NAME, Settings};
use crate::node::{OpenOutlet, Stats};
use crate::telemetry::counts::Counts;
use crate::telemetry::memcached::Memcached;
use crate::telemetry::{Outlet, Unsent};
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

    /// What a worker counts: its calls are timed, unless that is switched off.
    ///
    /// # Errors
    /// An address that cannot be understood.
    pub fn of_worker(&self, settings: &Settings) -> anyhow::Result<Stats> {
        if self.no_stats { Ok(Stats::default()) } else { Ok(sent(settings)?.unwrap_or_else(Stats::timed)) }
    }

    /// What a job counts that is run from here: nothing, if workers do it or nobody is to see it. Where it is `shown`
    /// on a page, calls are timed.
    ///
    /// # Errors
    /// As [`StatsArgs::of_worker`]; or the work is not this process's.
    pub fn of_job(&self, broker: &BrokerArgs, has_fleet: bool, shown: bool) -> anyhow::Result<Stats> {
        anyhow::ensure!(
            !has_fleet || (self.memcached.is_none() && !self.no_stats),
            "--memcached and --no-stats are about this process, and workers do the work: give them to `treehaul worker`"
        );
        if has_fleet || self.no_stats {
            return Ok(Stats::default());
        }
        let unsent = || if shown { Stats::timed() } else { Stats::default() };
        Ok(sent(&broker.settings(self.flags())?)?.unwrap_or_else(unsent))
    }
}

fn sent(settings: &Settings) -> anyhow::Result<Option<Stats>> {
    let Some(address) = settings.text(&MEMCACHED) else { return Ok(None) };
    let name = settings.text(&NAME).unwrap_or_default().to_owned();
    Ok(Some(Stats::sent(name, outlet(address)?)))
}

/// A memcached, where a node adds its counters.
struct Counted {
    memcached: Memcached,
    node: String,
}

impl Outlet for Counted {
    fn add(&mut self, counts: &Counts) -> Result<(), Unsent> {
        let added = self.memcached.add(&self.node, counts);
        added.map_err(|e| Unsent { why: e.to_string(), is_untouched: e.is_nothing_written() })
    }

    fn leave(&mut self) {
        if let Err(error) = self.memcached.leave(&self.node) {
            tracing::debug!(%error, "what this node does now is not taken back");
        }
    }
}

fn outlet(address: &str) -> anyhow::Result<OpenOutlet> {
    let memcached = Memcached::new(address)?;
    Ok(Box::new(move |node| Box::new(Counted { memcached, node: node.to_owned() })))
}
