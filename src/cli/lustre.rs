//! The options that only Lustre has use for.

use super::layout_rules;
use super::size::parse_size;
use crate::model::layout::STRIPE_STEP;
use crate::model::lustre::{HsmPolicy, LayoutPolicy, Layouts, LustrePolicy, MdtPolicy, Stripe};
use crate::model::{Policy, escaped};
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
            pools: pool_map(&self.pool_map).context("--pool-map")?,
            mirrors: self.keep_mirrors,
            relayout: self.relayout,
            hsm: match self.hsm {
                Hsm::Fail => HsmPolicy::Fail,
                Hsm::Skip => HsmPolicy::Skip,
                Hsm::Copy => HsmPolicy::Copy,
            },
        };
        Layouts::new(&policy.lustre, None).map(drop).map_err(|why| anyhow::anyhow!("--layout: {why}"))
    }
}

/// Most stripes of a file, as Lustre has it.
const MAX_STRIPES: i32 = 2000;
/// Longest name of a pool, in bytes, as Lustre has it.
const MAX_POOL_BYTES: usize = 15;
/// Highest index of an MDT, as Lustre has it.
const MAX_MDT: u32 = 0xffff;

/// Reads `round-robin`, `list:0,2,3`, `weighted`, `inherit` or `off`.
fn mdt_policy(text: &str) -> anyhow::Result<MdtPolicy> {
    Ok(match text {
        "round-robin" => MdtPolicy::RoundRobin,
        "weighted" => MdtPolicy::Weighted,
        "inherit" => MdtPolicy::Inherit,
        "off" => MdtPolicy::Off,
        text => match text.strip_prefix("list:") {
            Some(list) => MdtPolicy::List(list.split(',').map(mdt_index).collect::<anyhow::Result<_>>()?),
            None => anyhow::bail!(
                "'{}' is none: round-robin, list:0,2,3, weighted, inherit and off are known",
                escaped(text.as_bytes())
            ),
        },
    })
}

fn mdt_index(text: &str) -> anyhow::Result<u32> {
    let index = text.parse().ok().filter(|index| *index <= MAX_MDT && text.bytes().all(|b| b.is_ascii_digit()));
    index.with_context(|| {
        let shown = escaped(text.as_bytes());
        format!(
            "'{shown}' is no index of an MDT: list: takes numbers from 0 to {MAX_MDT} with commas, as in list:0,2,3"
        )
    })
}

/// Reads `preserve`, `default`, `stripe:count=4,size=1M,pool=NAME` or `policy:FILE`.
fn layout_policy(text: &str) -> anyhow::Result<LayoutPolicy> {
    match text.strip_prefix("policy:") {
        Some(file) => layout_rules::read(file.as_ref()).map(LayoutPolicy::Rules),
        None => simple_layout(text)?.with_context(|| {
            let shown = escaped(text.as_bytes());
            format!("'{shown}' is none: preserve, default, stripe:count=4,size=1M,pool=NAME and policy:FILE are known")
        }),
    }
}

/// Reads `preserve`, `default` or `stripe:...`; none if it is something else.
///
/// # Errors
/// What is wrong with stripes.
pub(super) fn simple_layout(text: &str) -> anyhow::Result<Option<LayoutPolicy>> {
    Ok(match text {
        "preserve" => Some(LayoutPolicy::Preserve),
        "default" => Some(LayoutPolicy::Default),
        text => text.strip_prefix("stripe:").map(stripe).transpose()?.map(LayoutPolicy::Stripe),
    })
}

/// Reads `count=4,size=1M,pool=NAME`, or some of them.
fn stripe(text: &str) -> anyhow::Result<Stripe> {
    let mut stripe = Stripe::default();
    for part in text.split(',') {
        let shown = escaped(part.as_bytes());
        let (what, value) = part.split_once('=').with_context(|| {
            format!("'{shown}' says nothing about stripes: count=4, size=1M and pool=NAME are known, with commas")
        })?;
        let is_new = match what {
            "count" => stripe.count.replace(stripe_count(value)?).is_none(),
            "size" => stripe.size.replace(stripe_size(value)?).is_none(),
            "pool" => stripe.pool.replace(pool_name(value)?).is_none(),
            _ => anyhow::bail!("'{shown}': count, size and pool are known of stripes"),
        };
        anyhow::ensure!(is_new, "'{shown}': it was said before");
    }
    Ok(stripe)
}

fn stripe_count(text: &str) -> anyhow::Result<i32> {
    let count = text.parse().ok().filter(|count| matches!(count, -1 | 1..=MAX_STRIPES));
    let shown = escaped(text.as_bytes());
    count.with_context(|| format!("count={shown}: 1 to {MAX_STRIPES} are possible, and -1 for one on each OST"))
}

fn stripe_size(text: &str) -> anyhow::Result<u64> {
    let size = parse_size(text).context("size")?;
    let shown = escaped(text.as_bytes());
    anyhow::ensure!(
        size > 0 && size.is_multiple_of(STRIPE_STEP) && u32::try_from(size).is_ok(),
        "size={shown}: a stripe is a multiple of 64K and smaller than 4G"
    );
    Ok(size)
}

/// Checks the name of a pool.
pub(super) fn pool_name(text: &str) -> anyhow::Result<String> {
    let is_right = |c: char| !c.is_whitespace() && !c.is_control() && c != '/';
    anyhow::ensure!(
        (1..=MAX_POOL_BYTES).contains(&text.len()) && text.chars().all(is_right),
        "'{}' is no name of a pool: 1 to {MAX_POOL_BYTES} bytes without spaces and slashes are",
        escaped(text.as_bytes())
    );
    Ok(text.to_owned())
}

/// Reads several `SOURCE=TARGET`.
fn pool_map(texts: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::with_capacity(texts.len());
    for text in texts {
        let shown = escaped(text.as_bytes());
        let (from, to) = text.split_once('=').with_context(|| format!("'{shown}': SOURCE=TARGET is wanted"))?;
        let pair = pool_name(from).and_then(|from| Ok((from, pool_name(to)?)));
        let pair = pair.with_context(|| format!("'{shown}': SOURCE=TARGET is wanted"))?;
        anyhow::ensure!(pairs.iter().all(|(before, _)| *before != pair.0), "'{shown}': this pool was named before");
        pairs.push(pair);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        lustre: LustreArgs,
    }

    fn parsed(args: &[&str]) -> anyhow::Result<LustrePolicy> {
        let mut policy = Policy::default();
        Line::try_parse_from(std::iter::once(&"x").chain(args))?.lustre.apply(&mut policy)?;
        Ok(policy.lustre)
    }

    /// What was said to be wrong.
    fn wrong(option: &str, value: &str) -> String {
        format!("{:#}", parsed(&[option, value]).unwrap_err())
    }

    #[test]
    fn what_nobody_asked_for_is_as_it_is_by_default() {
        assert_eq!(parsed(&[]).unwrap(), LustrePolicy::default());
    }

    #[test]
    fn each_way_to_place_directories_can_be_asked_for() {
        for (text, policy) in [
            ("round-robin", MdtPolicy::RoundRobin),
            ("list:0,2,3", MdtPolicy::List(vec![0, 2, 3])),
            ("list:7", MdtPolicy::List(vec![7])),
            ("list:0,0,65535", MdtPolicy::List(vec![0, 0, 65535])),
            ("weighted", MdtPolicy::Weighted),
            ("inherit", MdtPolicy::Inherit),
            ("off", MdtPolicy::Off),
        ] {
            assert_eq!(parsed(&["--mdt-policy", text]).unwrap().mdt, policy, "{text}");
        }
        assert_eq!(parsed(&["--mdt-depth", "3"]).unwrap().mdt_depth, 3);
        for depth in ["0", "65", "x"] {
            assert!(parsed(&["--mdt-depth", depth]).is_err(), "{depth}");
        }
    }

    #[test]
    fn what_is_no_way_to_place_directories_is_refused() {
        for text in ["", "round_robin", "list", "\u{1b}"] {
            let why = wrong("--mdt-policy", text);
            assert!(why.starts_with("--mdt-policy: '") && why.contains("inherit and off are known"), "{why}");
        }
        for text in ["list:", "list:1,", "list:-1", "list:+1", "list:65536", "list:1 2", "list:0;1"] {
            let why = wrong("--mdt-policy", text);
            assert!(why.contains("numbers from 0 to 65535"), "{text}: {why}");
        }
    }

    #[test]
    fn each_way_to_lay_files_out_can_be_asked_for() {
        let stripe = |count, size, pool: Option<&str>| {
            LayoutPolicy::Stripe(Stripe { count, size, pool: pool.map(str::to_owned) })
        };
        for (text, policy) in [
            ("preserve", LayoutPolicy::Preserve),
            ("default", LayoutPolicy::Default),
            ("stripe:count=-1", stripe(Some(-1), None, None)),
            ("stripe:count=2000,size=64K", stripe(Some(2000), Some(65536), None)),
            ("stripe:pool=flash,size=4MiB,count=8", stripe(Some(8), Some(4 << 20), Some("flash"))),
            ("stripe:size=4194240K", stripe(None, Some(4_194_240 << 10), None)),
        ] {
            assert_eq!(parsed(&["--layout", text]).unwrap().layout, policy, "{text}");
        }
    }

    #[test]
    fn what_is_no_layout_is_refused_with_what_is_possible() {
        for (text, why) in [
            ("", "stripe:count=4,size=1M,pool=NAME and policy:FILE are known"),
            ("Preserve", "'Preserve' is none"),
            ("stripe", "'stripe' is none"),
            ("stripe:", "'' says nothing about stripes"),
            ("stripe:4", "'4' says nothing about stripes"),
            ("stripe:width=4", "count, size and pool are known"),
            ("stripe:count=1,count=2", "it was said before"),
            ("stripe:count=0", "1 to 2000"),
            ("stripe:count=-2", "1 to 2000"),
            ("stripe:count=2001", "1 to 2000"),
            ("stripe:count=", "1 to 2000"),
            ("stripe:size=0", "multiple of 64K"),
            ("stripe:size=100K", "multiple of 64K"),
            ("stripe:size=4G", "smaller than 4G"),
            ("stripe:size=x", "is no size"),
            ("stripe:pool=", "1 to 15 bytes"),
            ("stripe:pool=a b", "1 to 15 bytes"),
            ("stripe:pool=sixteen-letters!", "1 to 15 bytes"),
            ("policy:/nowhere/at-all", "/nowhere/at-all"),
        ] {
            let told = wrong("--layout", text);
            assert!(told.starts_with("--layout: ") && told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn pools_are_mapped_once_each() {
        let pools = parsed(&["--pool-map", "flash=ssd", "--pool-map", "disk=ssd"]).unwrap().pools;
        assert_eq!(pools, [("flash", "ssd"), ("disk", "ssd")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        for pair in ["flash", "=ssd", "flash=", "fl ash=ssd", "flash=sixteen-letters!"] {
            let why = wrong("--pool-map", pair);
            assert!(why.starts_with("--pool-map: ") && why.contains("SOURCE=TARGET"), "{why}");
        }
        let twice = parsed(&["--pool-map", "a=b", "--pool-map", "a=c"]).unwrap_err();
        assert_eq!(format!("{twice:#}"), "--pool-map: 'a=c': this pool was named before");
    }

    #[test]
    fn switches_are_what_they_say() {
        let policy = parsed(&["--keep-mirrors", "--relayout", "--hsm", "copy"]).unwrap();
        assert!(policy.mirrors && policy.relayout && policy.hsm == HsmPolicy::Copy);
        assert_eq!(parsed(&["--hsm=skip"]).unwrap().hsm, HsmPolicy::Skip);
        assert!(parsed(&["--hsm=recall"]).is_err());
    }
}
