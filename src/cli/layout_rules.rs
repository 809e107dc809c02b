//! Files with rules about layouts, as `--layout policy:FILE` reads them.
//!
//! Invariant: whatever is not understood is refused, with the file and the rule's number: a rule that does nothing
//! would be found out much too late.

use super::lustre::{pool_name, simple_layout};
use super::size::parse_size;
use crate::model::escaped;
use crate::model::lustre::{LayoutPolicy, LayoutRule};
use anyhow::Context;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use toml::Value;

/// Largest file, in bytes: rules travel with their job.
const MAX_BYTES: u64 = 1 << 20;
/// Most rules.
const MAX_RULES: usize = 1000;
/// What a rule may say.
const KEYS: [&str; 8] = [
    "min-size",
    "max-size",
    "name",
    "source-pool",
    "source-min-stripes",
    "source-max-stripes",
    "source-layout",
    "layout",
];

/// Reads a file of `[[rule]]`.
///
/// # Errors
/// What is wrong in it, and in which rule.
pub fn read(file: &Path) -> anyhow::Result<Vec<LayoutRule>> {
    let shown = escaped(file.as_os_str().as_bytes());
    let mut text = Vec::new();
    let read = std::fs::File::open(file).and_then(|f| f.take(MAX_BYTES + 1).read_to_end(&mut text));
    read.with_context(|| format!("policy file {shown}"))?;
    rules(&text).with_context(|| format!("policy file {shown}"))
}

fn rules(text: &[u8]) -> anyhow::Result<Vec<LayoutRule>> {
    anyhow::ensure!(text.len() as u64 <= MAX_BYTES, "it has more than {MAX_BYTES} bytes");
    let text = std::str::from_utf8(text).context("it is no text (UTF-8)")?;
    let mut table = text.parse::<toml::Table>().map_err(|e| {
        let line =
            e.span().map_or(1, |span| text.as_bytes().iter().take(span.start).filter(|b| **b == b'\n').count() + 1);
        anyhow::anyhow!("line {line}: {}", escaped(e.message().as_bytes()))
    })?;
    let list = table.remove("rule");
    if let Some(key) = table.keys().next() {
        anyhow::bail!("'{}' is not known: it holds [[rule]] and nothing else", escaped(key.as_bytes()));
    }
    let Some(Value::Array(list)) = list else { anyhow::bail!("it has no [[rule]]") };
    anyhow::ensure!(
        (1..=MAX_RULES).contains(&list.len()),
        "it has {} rules: 1 to {MAX_RULES} are possible",
        list.len()
    );
    let rules = list.iter().enumerate().map(|(nth, value)| rule(value).with_context(|| format!("rule {}", nth + 1)));
    let rules: Vec<LayoutRule> = rules.collect::<anyhow::Result<_>>()?;
    match rules.iter().position(LayoutRule::is_about_all) {
        Some(at) if at + 1 < rules.len() => {
            anyhow::bail!("rule {}: it holds for every file, so those after it never do: put it last", at + 1)
        }
        _ => Ok(rules),
    }
}

fn rule(value: &Value) -> anyhow::Result<LayoutRule> {
    let table = value.as_table().context("it is no table: write [[rule]]")?;
    anyhow::ensure!(!table.is_empty(), "it is empty");
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        anyhow::bail!("'{}' is not known: {} are", escaped(key.as_bytes()), KEYS.join(", "));
    }
    let size = |key| table.get(key).map(size).transpose().context(key);
    let number = |key| table.get(key).map(number).transpose().context(key);
    let text = |key| table.get(key).map(text).transpose().context(key);
    let source_pool = text("source-pool")?;
    let source_pool = source_pool.as_deref().map(pool_name).transpose().context("source-pool")?;
    let rule = LayoutRule {
        min_size: size("min-size")?,
        max_size: size("max-size")?,
        name: text("name")?,
        source_pool,
        source_min_stripes: number("source-min-stripes")?,
        source_max_stripes: number("source-max-stripes")?,
        source_layout: text("source-layout")?,
        layout: layout(&text("layout")?.context("it has no layout: write layout = \"stripe:count=4\"")?)?,
    };
    let is_range = |min: Option<u64>, max: Option<u64>| min.zip(max).is_none_or(|(min, max)| min <= max);
    anyhow::ensure!(is_range(rule.min_size, rule.max_size), "min-size is more than max-size: no file is both");
    let [min, max] = [rule.source_min_stripes, rule.source_max_stripes].map(|n| n.map(u64::from));
    anyhow::ensure!(is_range(min, max), "source-min-stripes is more than source-max-stripes: no file is both");
    Ok(rule)
}

fn layout(text: &str) -> anyhow::Result<LayoutPolicy> {
    simple_layout(text).context("layout")?.with_context(|| {
        let shown = escaped(text.as_bytes());
        format!("layout '{shown}' is none: preserve, default and stripe:count=4,size=1M,pool=NAME are known")
    })
}

fn text(value: &Value) -> anyhow::Result<String> {
    value.as_str().map(str::to_owned).context("a text in quotes is wanted")
}

fn size(value: &Value) -> anyhow::Result<u64> {
    match value {
        Value::String(text) => parse_size(text),
        value => value.as_integer().and_then(|n| u64::try_from(n).ok()).context("a size is wanted: bytes, or \"4M\""),
    }
}

fn number(value: &Value) -> anyhow::Result<u32> {
    value.as_integer().and_then(|n| u32::try_from(n).ok()).context("a whole number is wanted")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lustre::Stripe;

    fn wrong(text: &str) -> String {
        format!("{:#}", rules(text.as_bytes()).unwrap_err())
    }

    #[test]
    fn rules_are_read_in_their_order() {
        let text = r#"
            # Small ones as they like.
            [[rule]]
            max-size = "1M"
            layout = "default"

            [[rule]]
            min-size = 1073741824
            name = "*.h5"
            source-pool = "flash"
            source-min-stripes = 2
            source-max-stripes = 64
            source-layout = "plain"
            layout = "stripe:count=8,size=4M"

            [[rule]]
            layout = "preserve"
        "#;
        let stripe = LayoutPolicy::Stripe(Stripe { count: Some(8), size: Some(4 << 20), pool: None });
        let expected = [
            LayoutRule { max_size: Some(1 << 20), layout: LayoutPolicy::Default, ..LayoutRule::default() },
            LayoutRule {
                min_size: Some(1 << 30),
                max_size: None,
                name: Some("*.h5".into()),
                source_pool: Some("flash".into()),
                source_min_stripes: Some(2),
                source_max_stripes: Some(64),
                source_layout: Some("plain".into()),
                layout: stripe,
            },
            LayoutRule { layout: LayoutPolicy::Preserve, ..LayoutRule::default() },
        ];
        assert_eq!(rules(text.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_is_told_with_the_rules_number() {
        let first = "[[rule]]\nname = \"a\"\nlayout = \"default\"\n";
        for (text, why) in [
            ("[[rule]]\n", "rule 2: it is empty"),
            ("[[rule]]\nmin-size = 1\n", "rule 2: it has no layout"),
            ("[[rule]]\nminsize = 1\nlayout = \"default\"", "rule 2: 'minsize' is not known: min-size, max-size"),
            ("[[rule]]\nmin-size = -1\nlayout = \"default\"", "rule 2: min-size: a size is wanted"),
            ("[[rule]]\nmin-size = \"4Q\"\nlayout = \"default\"", "rule 2: min-size: '4Q' is no size"),
            ("[[rule]]\nname = 4\nlayout = \"default\"", "rule 2: name: a text in quotes"),
            (
                "[[rule]]\nsource-min-stripes = \"4\"\nlayout = \"default\"",
                "rule 2: source-min-stripes: a whole number",
            ),
            ("[[rule]]\nmin-size = 2\nmax-size = 1\nlayout = \"default\"", "rule 2: min-size is more than max-size"),
            (
                "[[rule]]\nsource-pool = \"a b\"\nlayout = \"default\"",
                "rule 2: source-pool: 'a b' is no name of a pool",
            ),
            ("[[rule]]\nlayout = \"policy:x\"", "rule 2: layout 'policy:x' is none"),
            ("[[rule]]\nlayout = \"stripe:count=0\"", "rule 2: layout: count=0: 1 to 2000"),
            (
                "[[rule]]\nlayout = \"default\"\n[[rule]]\nname = \"b\"\nlayout = \"default\"",
                "rule 2: it holds for every",
            ),
            ("[rule2]\n", "'rule2' is not known"),
            ("[[rule]\n", "line 4: "),
        ] {
            let told = wrong(&format!("{first}{text}"));
            assert!(told.contains(why), "{text}: {told}");
        }
        assert!(wrong("").contains("no [[rule]]") && wrong("rule = 1").contains("no [[rule]]"));
        assert!(wrong("rule = []").contains("0 rules") && wrong("rule = [1]").contains("rule 1: it is no table"));
        assert!(wrong(&" ".repeat(2 << 20)).contains("more than") && wrong(&first.repeat(1001)).contains("1001 rules"));
    }

    #[test]
    fn the_file_is_named_with_what_is_wrong_in_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[[rule]]\nx = 1\n").unwrap();
        let told = format!("{:#}", read(file.path()).unwrap_err());
        let name = file.path().to_str().unwrap();
        assert!(told.starts_with(&format!("policy file {name}: rule 1: 'x' is not known")), "{told}");
        std::fs::write(file.path(), b"\xff").unwrap();
        assert!(format!("{:#}", read(file.path()).unwrap_err()).contains("no text"));
    }
}
