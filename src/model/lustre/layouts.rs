//! Which layout a file or a directory gets.
//!
//! Invariant: a decision depends on the policy, the target's pools, the path, the size and the source's layout alone.

use super::{LayoutPolicy, LayoutRule, LustrePolicy, Stripe};
use crate::model::filter::PathGlobs;
use crate::model::layout::{ALL_OSTS, Component};
use crate::model::{Layout, escaped};

/// Kinds of layouts that a rule may ask for.
pub const SOURCE_KINDS: [&str; 5] = ["plain", "composite", "dom", "mirrored", "none"];

/// Decides on layouts, ready to use.
#[derive(Debug, Clone)]
pub struct Layouts {
    choice: Choice,
    /// The source's pools and what they are called in the target.
    table: Vec<(String, String)>,
    /// The target's pools, if they are known.
    pools: Option<Vec<String>>,
    /// The target's OSTs, if their number is known.
    osts: Option<u16>,
    mirrors: bool,
}

#[derive(Debug, Clone)]
enum Choice {
    Preserve,
    Default,
    Plain(Layout),
    Rules(Vec<Rule>),
}

#[derive(Debug, Clone)]
struct Rule {
    when: LayoutRule,
    name: Option<PathGlobs>,
    choice: Choice,
}

impl Layouts {
    /// Prepares a policy for a target that has these pools (none: it cannot be told).
    ///
    /// # Errors
    /// A rule that cannot be understood, and which.
    pub fn new(policy: &LustrePolicy, pools: Option<Vec<String>>) -> Result<Self, String> {
        Ok(Layouts {
            choice: choice(&policy.layout)?,
            table: policy.pools.clone(),
            pools,
            osts: None,
            mirrors: policy.mirrors,
        })
    }

    /// The same, for a target with so many OSTs: no more stripes are asked for, so that a file that was made so is as
    /// it should be.
    #[must_use]
    pub fn with_osts(mut self, osts: usize) -> Self {
        self.osts = u16::try_from(osts).ok().filter(|n| *n > 0);
        self
    }

    /// Must the source's layout be known?
    pub fn needs_source(&self) -> bool {
        match &self.choice {
            Choice::Preserve => true,
            Choice::Default | Choice::Plain(_) => false,
            Choice::Rules(rules) => {
                let decides_all = rules.iter().any(|rule| rule.when.is_about_all());
                let looks = |rule: &Rule| rule.when.looks_at_source() || matches!(rule.choice, Choice::Preserve);
                !decides_all || rules.iter().any(looks)
            }
        }
    }

    /// The layout of a new file (none: as the target does by itself), and pools that had to be dropped. `path` is
    /// relative to the root.
    pub fn of_file(&self, path: &[u8], size: u64, source: Option<&Layout>) -> (Option<Layout>, Vec<String>) {
        let choice = match &self.choice {
            Choice::Rules(rules) => rules
                .iter()
                .find(|rule| rule.matches(path, size, source))
                .map_or(&Choice::Preserve, |rule| &rule.choice),
            choice => choice,
        };
        match choice {
            Choice::Preserve => self.preserved(source),
            // A pool that was named here is one of the target's.
            Choice::Plain(layout) => self.fitted(layout.clone(), &[]),
            Choice::Default | Choice::Rules(_) => (None, Vec::new()),
        }
    }

    /// The default layout of a directory whose source has this one; none: it has none of its own.
    pub fn of_directory(&self, source: Option<&Layout>) -> (Option<Layout>, Vec<String>) {
        if self.carries_directories() { self.preserved(source) } else { (None, Vec::new()) }
    }

    /// Are directories' default layouts carried at all? Rules are about files, so they do not change that.
    pub fn carries_directories(&self) -> bool {
        matches!(self.choice, Choice::Preserve | Choice::Rules(_))
    }

    fn preserved(&self, source: Option<&Layout>) -> (Option<Layout>, Vec<String>) {
        let carried = source.map(|layout| layout.carried(self.mirrors)).filter(|layout| !layout.components.is_empty());
        carried.map_or((None, Vec::new()), |layout| self.fitted(layout, &self.table))
    }

    fn fitted(&self, mut layout: Layout, table: &[(String, String)]) -> (Option<Layout>, Vec<String>) {
        let dropped = layout.map_pools(table, self.pools.as_deref());
        if let Some(osts) = self.osts {
            layout.limit_stripes(osts);
        }
        (Some(layout), dropped)
    }
}

fn choice(policy: &LayoutPolicy) -> Result<Choice, String> {
    Ok(match policy {
        LayoutPolicy::Preserve => Choice::Preserve,
        LayoutPolicy::Default => Choice::Default,
        LayoutPolicy::Stripe(stripe) => Choice::Plain(plain(stripe)?),
        LayoutPolicy::Rules(rules) => {
            let rules = rules.iter().enumerate();
            let ready = rules.map(|(nth, rule)| ready(rule).map_err(|why| format!("rule {}: {why}", nth + 1)));
            Choice::Rules(ready.collect::<Result<_, _>>()?)
        }
    })
}

fn plain(stripe: &Stripe) -> Result<Layout, String> {
    let count = match stripe.count {
        None => 0,
        Some(-1) => ALL_OSTS,
        Some(count) => u16::try_from(count).map_err(|_| format!("{count} stripes: that is no number of stripes"))?,
    };
    let size = stripe.size.map_or(Ok(0), u32::try_from).map_err(|_| "a stripe is smaller than 4 GiB".to_owned())?;
    Ok(Layout::plain(count, size, stripe.pool.clone()))
}

fn ready(rule: &LayoutRule) -> Result<Rule, String> {
    if let Some(kind) = rule.source_layout.as_deref().filter(|kind| !SOURCE_KINDS.contains(kind)) {
        let known = SOURCE_KINDS.join(", ");
        return Err(format!("source-layout '{}': {known} are known", escaped(kind.as_bytes())));
    }
    let name = rule.name.as_ref().map(|glob| {
        let wrong = |why: &str| format!("name '{}': {why}", escaped(glob.as_bytes()));
        if glob.ends_with('/') {
            return Err(wrong("with a slash at its end it is about directories: only files have rules"));
        }
        PathGlobs::new(std::slice::from_ref(glob)).map_err(|e| wrong(&e.to_string()))
    });
    let choice = match &rule.layout {
        LayoutPolicy::Rules(_) => return Err("its layout cannot be rules again".to_owned()),
        layout => choice(layout)?,
    };
    Ok(Rule { when: rule.clone(), name: name.transpose()?, choice })
}

impl LayoutRule {
    /// Does it hold for every file?
    pub fn is_about_all(&self) -> bool {
        let LayoutRule { min_size, max_size, name, layout: _, .. } = self;
        min_size.is_none() && max_size.is_none() && name.is_none() && !self.looks_at_source()
    }

    /// Does it ask how the file is in the source?
    fn looks_at_source(&self) -> bool {
        self.source_pool.is_some() || self.source_layout.is_some() || self.counts_stripes()
    }

    fn counts_stripes(&self) -> bool {
        self.source_min_stripes.is_some() || self.source_max_stripes.is_some()
    }
}

impl Rule {
    fn matches(&self, path: &[u8], size: u64, source: Option<&Layout>) -> bool {
        let when = &self.when;
        when.min_size.is_none_or(|min| size >= min)
            && when.max_size.is_none_or(|max| size <= max)
            && self.name.as_ref().is_none_or(|globs| globs.matches(path))
            && (!when.looks_at_source() || self.matches_source(source))
    }

    fn matches_source(&self, source: Option<&Layout>) -> bool {
        let when = &self.when;
        let is_kind = when.source_layout.as_deref().is_none_or(|kind| is_of_kind(kind, source));
        let is_in_pool = when.source_pool.as_deref().is_none_or(|pool| source.is_some_and(|s| s.is_in_pool(pool)));
        let most = |layout: &Layout| layout.components.iter().map(stripes).max().unwrap_or_default();
        let has_stripes = |source: &Layout| {
            let most = most(source);
            when.source_min_stripes.is_none_or(|min| most >= min)
                && when.source_max_stripes.is_none_or(|max| most <= max)
        };
        is_kind && is_in_pool && (!when.counts_stripes() || source.is_some_and(has_stripes))
    }
}

fn stripes(component: &Component) -> u32 {
    if component.is_extension() { 0 } else { component.stripe_count.into() }
}

fn is_of_kind(kind: &str, source: Option<&Layout>) -> bool {
    match (kind, source) {
        ("none", source) => source.is_none(),
        ("plain", Some(layout)) => !layout.composite,
        ("composite", Some(layout)) => layout.composite,
        ("dom", Some(layout)) => layout.components.iter().any(Component::is_on_mdt),
        ("mirrored", Some(layout)) => layout.mirrors > 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layout::pattern;

    fn layouts(policy: &LustrePolicy) -> Layouts {
        Layouts::new(policy, Some(vec!["ssd".into(), "disk".into()])).unwrap()
    }

    fn of(layout: LayoutPolicy) -> LustrePolicy {
        LustrePolicy { layout, ..LustrePolicy::default() }
    }

    fn rule(layout: LayoutPolicy) -> LayoutRule {
        LayoutRule { layout, ..LayoutRule::default() }
    }

    fn stripe(count: i32) -> LayoutPolicy {
        LayoutPolicy::Stripe(Stripe { count: Some(count), ..Stripe::default() })
    }

    /// Stripes that a file gets under rules; none is the target's choice.
    fn stripes_of(rules: &[LayoutRule], path: &str, size: u64, source: Option<&Layout>) -> Option<u16> {
        let (layout, dropped) =
            layouts(&of(LayoutPolicy::Rules(rules.to_vec()))).of_file(path.as_bytes(), size, source);
        assert!(dropped.is_empty());
        layout.map(|layout| layout.components[0].stripe_count)
    }

    /// A file on OST 5.
    fn source(stripes: u16, pool: Option<&str>) -> Layout {
        let mut layout = Layout::plain(stripes, 1 << 20, pool.map(str::to_owned));
        layout.components[0].osts = vec![5];
        layout
    }

    fn mirrored() -> Layout {
        let components = [1, 2].map(|n| Component { id: n << 16, ..source(n as u16, None).components.remove(0) });
        Layout { components: components.to_vec(), composite: true, mirrors: 2, flags: 1 }
    }

    #[test]
    fn a_file_is_striped_as_in_the_source() {
        let all = layouts(&LustrePolicy::default());
        assert!(all.needs_source() && all.carries_directories());
        let source = source(3, Some("disk"));
        let expected = (Some(Layout::plain(3, 1 << 20, Some("disk".into()))), Vec::new());
        assert_eq!(all.of_file(b"a", 1, Some(&source)), expected);
        assert_eq!(all.of_directory(Some(&source)), expected);
        assert_eq!(all.of_file(b"a", 1, None), (None, Vec::new()));
        assert_eq!(all.of_directory(None), (None, Vec::new()));
        let few = all.with_osts(2).of_file(b"a", 1, Some(&source)).0.unwrap();
        assert_eq!(few.components[0].stripe_count, 2, "as the servers would do it");
    }

    #[test]
    fn only_what_cannot_be_is_left_to_the_servers() {
        let with = |stripes, osts| {
            let all = layouts(&LustrePolicy::default()).with_osts(osts);
            all.of_file(b"a", 1, Some(&source(stripes, None))).0.unwrap().components[0].stripe_count
        };
        assert_eq!([with(4, 8), with(4, 0), with(4, 1 << 20), with(0, 1), with(ALL_OSTS, 1)], [4, 4, 4, 0, ALL_OSTS]);
        let mut over = source(4, None);
        over.components[0].pattern |= pattern::OVERSTRIPED;
        let kept = layouts(&LustrePolicy::default()).with_osts(2).of_file(b"a", 1, Some(&over)).0.unwrap();
        assert_eq!(kept.components[0].stripe_count, 4);
    }

    #[test]
    fn pools_are_mapped_and_what_the_target_lacks_is_told() {
        let pools = vec![("flash".to_owned(), "ssd".to_owned())];
        let all = layouts(&LustrePolicy { pools: pools.clone(), ..LustrePolicy::default() });
        let pool =
            |(layout, dropped): (Option<Layout>, Vec<String>)| (layout.unwrap().components[0].pool.clone(), dropped);
        assert_eq!(pool(all.of_file(b"a", 1, Some(&source(1, Some("flash"))))), (Some("ssd".into()), vec![]));
        assert_eq!(pool(all.of_file(b"a", 1, Some(&source(1, Some("tape"))))), (None, vec!["tape".into()]));
        let asked = |name: &str| {
            let layout = LayoutPolicy::Stripe(Stripe { pool: Some(name.to_owned()), ..Stripe::default() });
            layouts(&LustrePolicy { pools: pools.clone(), layout, ..LustrePolicy::default() }).of_file(b"a", 1, None)
        };
        assert_eq!(pool(asked("ssd")), (Some("ssd".into()), vec![]));
        assert_eq!(pool(asked("flash")), (None, vec!["flash".into()]), "a name of the target's is not mapped");
        let unknown = Layouts::new(&of(LayoutPolicy::Preserve), None).unwrap();
        assert_eq!(pool(unknown.of_file(b"a", 1, Some(&source(1, Some("tape"))))).0, Some("tape".into()));
    }

    #[test]
    fn mirrors_are_kept_when_that_was_asked_for() {
        let count = |mirrors| {
            let all = layouts(&LustrePolicy { mirrors, ..LustrePolicy::default() });
            all.of_file(b"a", 1, Some(&mirrored())).0.unwrap().components.len()
        };
        assert_eq!([count(false), count(true)], [1, 2]);
        let mut foreign = mirrored();
        foreign.components.iter_mut().for_each(|c| c.pattern = pattern::FOREIGN);
        let all = layouts(&LustrePolicy::default());
        assert_eq!(all.of_file(b"a", 1, Some(&foreign)), (None, vec![]));
    }

    #[test]
    fn all_files_can_be_striped_alike_or_left_to_the_target() {
        let all = layouts(&of(stripe(-1)));
        assert!(!all.needs_source() && !all.carries_directories());
        assert_eq!(all.of_file(b"a", 1, Some(&source(3, None))).0, Some(Layout::plain(ALL_OSTS, 0, None)));
        assert_eq!(all.of_directory(Some(&source(3, None))).0, None);
        let size = LayoutPolicy::Stripe(Stripe { size: Some(4 << 20), ..Stripe::default() });
        assert_eq!(layouts(&of(size)).of_file(b"a", 1, None).0, Some(Layout::plain(0, 4 << 20, None)));
        let all = layouts(&of(LayoutPolicy::Default));
        assert!(!all.needs_source() && !all.carries_directories());
        assert_eq!(all.of_file(b"a", 1, Some(&source(3, None))), (None, vec![]));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = [
            LayoutRule { max_size: Some(100), ..rule(LayoutPolicy::Default) },
            LayoutRule { min_size: Some(1000), name: Some("*.h5".into()), ..rule(stripe(8)) },
            LayoutRule { name: Some("/big/**".into()), ..rule(stripe(4)) },
        ];
        let source = source(3, None);
        for (path, size, stripes) in [
            ("a/x.h5", 100, None),
            ("a/x.h5", 101, Some(3)),
            ("a/x.h5", 1000, Some(8)),
            ("big/a/x.h5", 1000, Some(8)),
            ("big/a/x", 1000, Some(4)),
            ("a/big/x", 1000, Some(3)),
        ] {
            assert_eq!(stripes_of(&rules, path, size, Some(&source)), stripes, "{path} {size}");
        }
        assert_eq!(stripes_of(&rules, "x", 500, None), None, "as in the source, which has none");
    }

    #[test]
    fn rules_may_ask_how_a_file_is_in_the_source() {
        let when = |change: fn(&mut LayoutRule), source: Option<&Layout>| {
            let mut one = rule(stripe(9));
            change(&mut one);
            stripes_of(&[one, rule(LayoutPolicy::Default)], "x", 1, source).is_some()
        };
        let (pooled, plain) = (source(4, Some("flash")), source(1, None));
        let mut on_mdt = mirrored();
        on_mdt.components[0].pattern = pattern::MDT;
        on_mdt.mirrors = 1;
        let sources = [Some(&pooled), Some(&plain), Some(&mirrored()), Some(&on_mdt), None].map(|s| s.cloned());
        let matching = |change| sources.clone().map(|source| when(change, source.as_ref()));
        assert_eq!(matching(|r| r.source_pool = Some("flash".into())), [true, false, false, false, false]);
        assert_eq!(matching(|r| r.source_min_stripes = Some(2)), [true, false, true, true, false]);
        assert_eq!(matching(|r| r.source_max_stripes = Some(2)), [false, true, true, true, false]);
        assert_eq!(matching(|r| r.source_layout = Some("plain".into())), [true, true, false, false, false]);
        assert_eq!(matching(|r| r.source_layout = Some("composite".into())), [false, false, true, true, false]);
        assert_eq!(matching(|r| r.source_layout = Some("dom".into())), [false, false, false, true, false]);
        assert_eq!(matching(|r| r.source_layout = Some("mirrored".into())), [false, false, true, false, false]);
        assert_eq!(matching(|r| r.source_layout = Some("none".into())), [false, false, false, false, true]);
    }

    #[test]
    fn the_source_is_asked_only_if_it_matters() {
        let needs = |rules: &[LayoutRule]| layouts(&of(LayoutPolicy::Rules(rules.to_vec()))).needs_source();
        let small = LayoutRule { max_size: Some(1), ..rule(stripe(1)) };
        assert!(!needs(&[small.clone(), rule(LayoutPolicy::Default)]));
        assert!(needs(std::slice::from_ref(&small)), "what no rule is about is as in the source");
        assert!(needs(&[LayoutRule { layout: LayoutPolicy::Preserve, ..small }, rule(LayoutPolicy::Default)]));
        let plain = LayoutRule { source_layout: Some("plain".into()), ..rule(stripe(1)) };
        assert!(needs(&[plain, rule(LayoutPolicy::Default)]));
        assert!(layouts(&of(LayoutPolicy::Rules(vec![rule(stripe(1))]))).carries_directories());
    }

    #[test]
    fn rules_that_cannot_be_understood_are_named() {
        let wrong = |bad: LayoutRule| {
            let rules = LayoutPolicy::Rules(vec![rule(LayoutPolicy::Default), bad]);
            Layouts::new(&of(rules), None).unwrap_err()
        };
        let named = |name: &str| LayoutRule { name: Some(name.to_owned()), ..LayoutRule::default() };
        assert!(wrong(named("[")).starts_with("rule 2: name '[': position 1: "), "{}", wrong(named("[")));
        assert!(wrong(named("dir/")).contains("about directories"));
        assert!(wrong(rule(LayoutPolicy::Rules(Vec::new()))).starts_with("rule 2: "));
        let kind = LayoutRule { source_layout: Some("pfl".into()), ..LayoutRule::default() };
        assert!(wrong(kind).ends_with("plain, composite, dom, mirrored, none are known"));
        assert!(wrong(rule(stripe(-7))).contains("-7 stripes"));
        let size = LayoutPolicy::Stripe(Stripe { size: Some(1 << 32), ..Stripe::default() });
        assert!(wrong(rule(size)).contains("smaller than 4 GiB"));
    }
}
