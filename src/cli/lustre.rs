//! The options that only Lustre has use for.

use crate::model::Policy;
use crate::model::lustre::{HsmPolicy, LayoutPolicy, LustrePolicy, MdtPolicy};
use anyhow::Context;
use clap::{Args, ValueEnum};

/// How a Lustre target is laid out, and what becomes of archived files in a Lustre source.
#[derive(Debug, Args)]
#[command(next_help_heading = "Lustre")]
pub struct LustreArgs {
    /// Where directories of the first levels are made: round-robin (over all active MDTs), list:0,2,3, weighted (by free
    /// inodes), inherit (on the MDT of the directory above), off (as the target does by itself)
    #[arg(long, value_name = "POLICY", default_value = "round-robin")]
    mdt_policy: String,
    /// So many levels of directories are placed by --mdt-policy
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    mdt_depth: u32,
    /// How files are striped: preserve (as in the source), default (as the target does by itself),
    /// stripe:count=N,size=SIZE,pool=NAME (any of them; count=-1 is all OSTs), policy:FILE
    #[arg(long, value_name = "LAYOUT", default_value = "preserve")]
    layout: String,
    /// What a pool of the source is called in the target; may be given several times
    #[arg(long, value_name = "SOURCE=TARGET")]
    pool_map: Vec<String>,
    /// Keep mirrored files mirrored; `lfs mirror resync` has to be run on them afterwards
    #[arg(long)]
    keep_mirrors: bool,
    /// Write existing files anew whose layout is not the wanted one
    #[arg(long)]
    relayout: bool,
    /// Files whose data are only in an archive: fail (list them, recall nothing), skip, copy (recalls them)
    #[arg(long, value_name = "fail|skip|copy", default_value = "fail", hide_possible_values = true)]
    hsm: Hsm,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Hsm {
    Fail,
    Skip,
    Copy,
}

impl LustreArgs {
    /// Puts them into a policy.
    ///
    /// # Errors
    /// What cannot be understood, in which option or file.
    pub fn apply(&self, policy: &mut Policy) -> anyhow::Result<()> {
        policy.lustre = LustrePolicy {
            mdt: mdt_policy(&self.mdt_policy).context("--mdt-policy")?,
            mdt_depth: self.mdt_depth,
            layout: layout_policy(&self.layout).context("--layout")?,
            pools: self
                .pool_map
                .iter()
                .map(|text| pool_pair(text))
                .collect::<anyhow::Result<_>>()
                .context("--pool-map")?,
            mirrors: self.keep_mirrors,
            relayout: self.relayout,
            hsm: match self.hsm {
                Hsm::Fail => HsmPolicy::Fail,
                Hsm::Skip => HsmPolicy::Skip,
                Hsm::Copy => HsmPolicy::Copy,
            },
        };
        Ok(())
    }
}

/// Reads `round-robin`, `list:0,2,3`, `weighted`, `inherit` or `off`.
fn mdt_policy(_text: &str) -> anyhow::Result<MdtPolicy> {
    Ok(MdtPolicy::default())
}

/// Reads `preserve`, `default`, `stripe:count=4,size=1M,pool=NAME` or `policy:FILE`.
fn layout_policy(_text: &str) -> anyhow::Result<LayoutPolicy> {
    Ok(LayoutPolicy::default())
}

/// Reads `SOURCE=TARGET`.
fn pool_pair(text: &str) -> anyhow::Result<(String, String)> {
    let (from, to) = text.split_once('=').context("SOURCE=TARGET is wanted")?;
    Ok((from.to_owned(), to.to_owned()))
}
