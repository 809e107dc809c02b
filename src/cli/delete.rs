//! `treehaul delete`, and how removal is asked for on the command line.

use super::filter::FilterArgs;
use super::job::{JobArgs, Order};
use super::load::LoadArgs;
use crate::exit_code::ExitCode;
use crate::model::{DeletePolicy, MaxDelete, Policy};
use anyhow::Context;
use clap::Args;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What becomes of what only the target has.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Remove nothing at all if it would be more than N entries, or more than P percent of the target's
    #[arg(long, value_name = "N|P%", value_parser = max_delete)]
    max_delete: Option<MaxDelete>,
    /// Move to this directory instead, under the same path; it must be on the target's filesystem
    #[arg(long, value_name = "DIR")]
    trash: Option<PathBuf>,
    /// Go on if the source is empty, and empty the target
    #[arg(long)]
    allow_empty_source: bool,
    /// Remove what filters leave out, too, instead of protecting it
    #[arg(long)]
    delete_excluded: bool,
}

impl DeleteArgs {
    /// Was any of them given?
    pub fn is_given(&self) -> bool {
        self.max_delete.is_some() || self.trash.is_some() || self.allow_empty_source || self.delete_excluded
    }

    /// The policy.
    ///
    /// # Errors
    /// A trash that is no path.
    pub fn policy(&self) -> anyhow::Result<DeletePolicy> {
        Ok(DeletePolicy {
            max: self.max_delete,
            trash: self.trash.as_deref().map(trash).transpose()?,
            excluded: self.delete_excluded,
            allow_empty_source: self.allow_empty_source,
        })
    }
}

/// Workers run elsewhere, so a relative path becomes absolute here.
fn trash(path: &Path) -> anyhow::Result<serde_bytes::ByteBuf> {
    anyhow::ensure!(!path.as_os_str().is_empty(), "--trash: an empty path is no directory");
    let absolute = std::path::absolute(path).context("the current directory is gone; give --trash an absolute path")?;
    Ok(serde_bytes::ByteBuf::from(absolute.into_os_string().into_vec()))
}

/// Reads `N`, or `P%` with up to three decimals.
fn max_delete(text: &str) -> Result<MaxDelete, String> {
    let limit = match text.strip_suffix('%') {
        Some(percent) => milli_percent(percent).map(MaxDelete::MilliPercent),
        None => Some(text).filter(|t| is_digits(t)).and_then(|t| t.parse().ok()).map(MaxDelete::Entries),
    };
    match limit {
        Some(MaxDelete::Entries(0) | MaxDelete::MilliPercent(0)) => {
            Err(format!("--max-delete {text} would never delete anything: leave the pass out or use --dry-run"))
        }
        Some(limit) => Ok(limit),
        None => Err("give a number of entries, as in 1000, or a percentage of at most 100, as in 2.5%".into()),
    }
}

fn milli_percent(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    if !is_digits(whole) || !is_digits(decimals) || decimals.len() > 3 {
        return None;
    }
    let decimals = format!("{decimals:0<3}").parse::<u32>().ok()?;
    let milli = whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(decimals)?;
    (milli <= 100_000).then_some(milli)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteCommandArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    delete: DeleteArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Remove nothing, only say what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

impl DeleteCommandArgs {
    /// Only submits the job.
    pub fn detach(&mut self) {
        self.job.detach();
    }
}

/// Runs the command.
pub fn run(args: DeleteCommandArgs) -> ExitCode {
    let DeleteCommandArgs { job, delete, filter, load, dry_run } = args;
    let fleet = job.has_fleet();
    job.run(|| {
        load.be_nice(fleet)?;
        let (delete, limits) = (Some(delete.policy()?), load.limits());
        let mut policy = Policy { delete, limits, dry_run, ..Policy::default() };
        filter.apply(&mut policy)?;
        Ok(Order { files: filter.files_from()?, ..Order::new("delete", policy) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_and_percentages() {
        assert_eq!(max_delete("1000"), Ok(MaxDelete::Entries(1000)));
        assert_eq!(max_delete("100%"), Ok(MaxDelete::MilliPercent(100_000)));
        assert_eq!(max_delete("2.5%"), Ok(MaxDelete::MilliPercent(2500)));
        assert_eq!(max_delete("0.001%"), Ok(MaxDelete::MilliPercent(1)));
        for text in ["", "%", "-1", "+1", "1e3", "100.001%", "101%", "1.2345%", ".5%", "1.%", "0x1", "many", "5 %"] {
            assert!(max_delete(text).is_err_and(|why| why.contains("2.5%")), "{text}");
        }
        for text in ["0", "0%", "0.000%"] {
            assert!(max_delete(text).is_err_and(|why| why.contains("would never delete")), "{text}");
        }
    }
}
