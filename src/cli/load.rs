//! How hard a node may work.

use super::size::parse_size;
use crate::model::policy::Limits;
use crate::node;
use anyhow::Context;
use clap::Args;

/// What a node may use of the two filesystems and of its disks.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Move at most so many bytes of data a second on each node: 500K, 10M, 2G (binary), or plain bytes
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    bwlimit: Option<u64>,
    /// At most so many operations a second on each node, both filesystems together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    ops_limit: Option<u64>,
    /// Read and write only when nobody else asks the disk (idle I/O class, as ionice -c 3)
    #[arg(long)]
    nice_io: bool,
}

impl LoadArgs {
    /// The limits.
    pub fn limits(&self) -> Limits {
        Limits { bytes_per_second: self.bwlimit, operations_per_second: self.ops_limit }
    }

    /// Lowers the process's I/O priority, if that is wanted. `fleet` is set where workers do the work.
    ///
    /// # Errors
    /// The work is not this process's, or the system refuses.
    pub fn be_nice(&self, fleet: bool) -> anyhow::Result<()> {
        if !self.nice_io {
            return Ok(());
        }
        anyhow::ensure!(
            !fleet,
            "--nice-io is about this process, and workers do the work: give it to `treehaul worker`"
        );
        node::be_nice().context("--nice-io: the system does not lower the I/O priority; use ionice, or leave it out")
    }
}

/// Bytes a second.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text).map_err(|e| e.to_string())? {
        0 => Err("0 would be no work at all: leave the option out for no limit".into()),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_rate;

    #[test]
    fn rates_are_read_in_binary_units() {
        for (text, bytes) in [("1", 1), ("500k", 500 << 10), ("10M", 10 << 20), ("2T", 2 << 40)] {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in
            ["", "0", "0K", "-1", "M", "1.5G", "1X", "1MB", "1e9", "nan", "inf", ".5M", "1..5M", "99999999T", "1é"]
        {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
