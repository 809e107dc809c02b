//! How hard a node may work.

use crate::model::policy::Limits;
use crate::node;
use anyhow::Context;
use clap::Args;

/// What a node may use of the two filesystems and of its disks.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Move at most so many bytes of data a second on each node: 500K, 10M, 1.5G (binary), or plain bytes
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

/// Bytes a second: a number, also with a fraction, and K, M, G or T for powers of 1024.
fn parse_rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size: give bytes a second such as 500K, 10M or 1.5G");
    let (number, shift) = match text.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let power = "KMGT".find(unit.to_ascii_uppercase()).ok_or_else(wrong)?;
            (&text[..at], 10 * (power as u32 + 1))
        }
        _ => (text, 0),
    };
    if !number.starts_with(|c: char| c.is_ascii_digit()) || !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wrong());
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * (1_u64 << shift) as f64;
    if bytes < 1.0 {
        return Err("0 would be no work at all: leave the option out for no limit".into());
    }
    if bytes >= (1_u64 << 62) as f64 {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::parse_rate;

    #[test]
    fn rates_are_read_in_binary_units() {
        for (text, bytes) in [("1", 1), ("500k", 500 << 10), ("10M", 10 << 20), ("1.5G", 3 << 29), ("2T", 2 << 40)] {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "0", "0K", "-1", "M", "1X", "1MB", "1e9", "nan", "inf", ".5M", "1..5M", "9999999T", "1é"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
