//! What a job was told to do, in words: every option, and whether it is as it is by default.

use super::super::job::DEFAULT_PRIORITY;
use super::text::{counted, moment, size, words};
use crate::model::filter::{AgeBy, Filter, Kinds, Rule, Syntax};
use crate::model::lustre::{HsmPolicy, LayoutPolicy, LayoutRule, LustrePolicy, MdtPolicy};
use crate::model::policy::{ChunkPolicy, Limits, VerifyPolicy};
use crate::model::{DeletePolicy, JobSpec, Kind, MaxDelete, Policy, Timestamp, escaped};

/// One option.
pub struct Setting {
    /// What it is about.
    pub what: &'static str,
    /// What holds, as markup.
    pub value: String,
    /// It is as it is if nothing is said.
    pub is_default: bool,
}

/// Collects settings: those of a job beside those of one to which nothing is said.
struct Settings(Vec<Setting>);

impl Settings {
    fn put(&mut self, what: &'static str, value: String, default: &str) {
        let is_default = value == default;
        self.0.push(Setting { what, value: words(&value), is_default });
    }

    fn kept(&mut self, what: &'static str, value: bool, default: bool) {
        let say = |kept| if kept { "kept" } else { "left alone" };
        self.put(what, say(value).to_owned(), say(default));
    }

    fn flag(&mut self, what: &'static str, value: bool, default: bool) {
        let say = |yes| if yes { "yes" } else { "no" };
        self.put(what, say(value).to_owned(), say(default));
    }
}

/// All options of a job.
pub fn all(spec: &JobSpec) -> Vec<Setting> {
    let mut list = Settings(Vec::new());
    attributes(&mut list, &spec.policy);
    let Policy { filter, since, delete, chunks, limits, verify, .. } = &spec.policy;
    list.put("Only what changed since", since.map_or(NO_LIMIT.to_owned(), moment), NO_LIMIT);
    filters(&mut list, filter);
    deletes(&mut list, delete.as_ref());
    let (ChunkPolicy { from_bytes, chunk_bytes }, usual) = (*chunks, ChunkPolicy::default());
    list.put("Files are cut into chunks from", size_limit(from_bytes), &size_limit(usual.from_bytes));
    list.put("Size of a chunk", size(chunk_bytes), &size(usual.chunk_bytes));
    let Limits { bytes_per_second, operations_per_second } = limits;
    let bytes = bytes_per_second.map(|n| format!("{} a second", size(n)));
    list.put("Data that a node moves at most", bytes.unwrap_or(NO_LIMIT.into()), NO_LIMIT);
    let operations = operations_per_second.map(|n| counted(n, "operation a second", "operations a second"));
    list.put("Work that a node does at most", operations.unwrap_or(NO_LIMIT.into()), NO_LIMIT);
    if spec.pass == "verify" {
        verifies(&mut list, verify);
    }
    list.put("Share of the workers", spec.priority.to_string(), &DEFAULT_PRIORITY.to_string());
    list.0
}

/// What is kept, and how files are written.
fn attributes(list: &mut Settings, policy: &Policy) {
    // All of them by name: one that is new is not forgotten here. `all` has the rest.
    let Policy {
        owner,
        mode,
        times,
        xattrs,
        acls,
        hard_links,
        holes,
        specials,
        checksum,
        direct,
        dry_run,
        filter: _,
        since: _,
        delete: _,
        chunks: _,
        limits: _,
        verify: _,
        lustre,
        projects,
        fsync,
    } = policy;
    let usual = Policy::default();
    list.flag("Dry run: only say what would be done", *dry_run, usual.dry_run);
    list.kept("Owner and group", *owner, usual.owner);
    list.kept("Permission bits", *mode, usual.mode);
    list.kept("Access and modification times", *times, usual.times);
    list.kept("Extended attributes and capabilities", *xattrs, usual.xattrs);
    list.kept("POSIX ACLs", *acls, usual.acls);
    list.kept("Hard links", *hard_links, usual.hard_links);
    list.kept("Holes in files", *holes, usual.holes);
    list.kept("Fifos, sockets and devices", *specials, usual.specials);
    list.kept("Quota projects", *projects, usual.projects);
    list.flag("Everything is on stable storage in the end", *fsync, usual.fsync);
    list.flag("Contents are compared instead of size and time", *checksum, usual.checksum);
    list.flag("New files are written under their final names", *direct, usual.direct);
    on_lustre(list, lustre);
}

/// What is asked of Lustre; it says nothing to others.
fn on_lustre(list: &mut Settings, policy: &LustrePolicy) {
    let usual = LustrePolicy::default();
    let LustrePolicy { mdt, mdt_depth, layout, pools, mirrors, relayout, hsm } = policy;
    list.put("Lustre: directories are made", mdt_words(mdt), &mdt_words(&usual.mdt));
    let levels = |n: u32| counted(n.into(), "level", "levels");
    list.put("Lustre: of directories, so many are placed", levels(*mdt_depth), &levels(usual.mdt_depth));
    if let LayoutPolicy::Rules(rules) = layout {
        for (nth, rule) in rules.iter().enumerate() {
            let (what, how) = (rule_words(rule), layout_words(&rule.layout));
            list.put("Lustre: files are striped", format!("rule {}: {what}: {how}", nth + 1), "");
        }
    } else {
        list.put("Lustre: files are striped", layout_words(layout), &layout_words(&usual.layout));
    }
    for (from, to) in pools {
        let [from, to] = [from, to].map(|name| escaped(name.as_bytes()));
        list.put("Lustre: pool of the source and of the target", format!("{from}: {to}"), "");
    }
    list.flag("Lustre: mirrored files stay mirrored", *mirrors, usual.mirrors);
    list.flag("Lustre: files that are striped otherwise are written anew", *relayout, usual.relayout);
    let fate = |policy: HsmPolicy| match policy {
        HsmPolicy::Fail => "failed entries, nothing is recalled",
        HsmPolicy::Skip => "left out",
        HsmPolicy::Copy => "recalled and copied",
    };
    list.put("Lustre: files whose data are only in an archive", fate(*hsm).to_owned(), fate(usual.hsm));
}

fn mdt_words(policy: &MdtPolicy) -> String {
    match policy {
        MdtPolicy::RoundRobin => "on one MDT after the other".to_owned(),
        MdtPolicy::List(all) => {
            format!("on one after the other of MDTs {}", all.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))
        }
        MdtPolicy::Weighted => "on MDTs by their free inodes".to_owned(),
        MdtPolicy::Inherit => "on the MDT of the directory above".to_owned(),
        MdtPolicy::Off => "as the target does by itself".to_owned(),
    }
}

fn layout_words(policy: &LayoutPolicy) -> String {
    let stripe = match policy {
        LayoutPolicy::Preserve => return "as in the source".to_owned(),
        LayoutPolicy::Default => return "as the target does by itself".to_owned(),
        LayoutPolicy::Rules(rules) => return counted(rules.len() as u64, "rule", "rules"),
        LayoutPolicy::Stripe(stripe) => stripe,
    };
    let count = stripe.count.map(|n| match u64::try_from(n) {
        Ok(n) => counted(n, "stripe", "stripes"),
        Err(_) => "one stripe on each OST".to_owned(),
    });
    let each = stripe.size.map(|n| format!("stripes of {}", size(n)));
    let pool = stripe.pool.as_ref().map(|name| format!("pool {}", escaped(name.as_bytes())));
    [count, each, pool].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The files that a rule is about.
fn rule_words(rule: &LayoutRule) -> String {
    let LayoutRule {
        min_size,
        max_size,
        name,
        source_pool,
        source_min_stripes,
        source_max_stripes,
        source_layout,
        layout: _,
    } = rule;
    let shown = |text: &String| escaped(text.as_bytes());
    let all = [
        min_size.map(|n| format!("at least {}", size(n))),
        max_size.map(|n| format!("at most {}", size(n))),
        name.as_ref().map(|glob| format!("named {}", shown(glob))),
        source_pool.as_ref().map(|name| format!("from pool {}", shown(name))),
        source_min_stripes.map(|n| format!("with at least {}", counted(n.into(), "stripe", "stripes"))),
        source_max_stripes.map(|n| format!("with at most {}", counted(n.into(), "stripe", "stripes"))),
        source_layout.as_ref().map(|kind| format!("with layout {}", shown(kind))),
    ];
    let said: Vec<String> = all.into_iter().flatten().collect();
    if said.is_empty() { "all others".to_owned() } else { said.join(", ") }
}

const NO_LIMIT: &str = "no limit";

fn size_limit(bytes: u64) -> String {
    if bytes == u64::MAX { "never".to_owned() } else { size(bytes) }
}

fn filters(list: &mut Settings, filter: &Filter) {
    let Filter {
        rules,
        min_size,
        max_size,
        older_than,
        newer_than,
        age_by,
        kinds,
        max_depth,
        one_file_system,
        on_osts,
        on_mdts,
        pools,
    } = filter;
    for rule in rules {
        let Rule { include, syntax, pattern } = rule;
        let (what, how) = (if *include { "Included" } else { "Left out" }, pattern);
        let kind = if *syntax == Syntax::Regex { "regular expression " } else { "" };
        list.put(what, format!("{kind}{}", escaped(how)), "");
    }
    if rules.is_empty() {
        list.put("Names", "all take part".to_owned(), "all take part");
    }
    let by = match age_by {
        AgeBy::Mtime => "changed",
        AgeBy::Atime => "read",
        AgeBy::Ctime => "changed, attributes included,",
    };
    let time =
        |word: &str, t: &Option<Timestamp>| t.map_or(NO_LIMIT.to_owned(), |t| format!("{by} {word} {}", moment(t)));
    list.put("Smallest file", min_size.map_or(NO_LIMIT.to_owned(), size), NO_LIMIT);
    list.put("Largest file", max_size.map_or(NO_LIMIT.to_owned(), size), NO_LIMIT);
    list.put("Only what is older", time("before", older_than), NO_LIMIT);
    list.put("Only what is newer", time("since", newer_than), NO_LIMIT);
    list.put("Kinds", kinds.map_or("all".to_owned(), kind_words), "all");
    let depth = max_depth.map_or(NO_LIMIT.to_owned(), |n| counted(n.into(), "level", "levels"));
    list.put("Depth", depth, NO_LIMIT);
    list.flag("Stay on the root's filesystem", *one_file_system, false);
    let indices = |all: &[u32]| all.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    list.put("OSTs", if on_osts.is_empty() { "all".to_owned() } else { indices(on_osts) }, "all");
    list.put("MDTs", if on_mdts.is_empty() { "all".to_owned() } else { indices(on_mdts) }, "all");
    list.put("Pools", if pools.is_empty() { "all".to_owned() } else { escaped(pools.join(", ").as_bytes()) }, "all");
}

fn kind_words(kinds: Kinds) -> String {
    let all = [
        (Kind::File, "files"),
        (Kind::Directory, "directories"),
        (Kind::Symlink, "symbolic links"),
        (Kind::Fifo, "fifos"),
        (Kind::Socket, "sockets"),
        (Kind::BlockDevice, "block devices"),
        (Kind::CharDevice, "character devices"),
    ];
    let chosen: Vec<&str> = all.iter().filter(|(kind, _)| kinds.contains(*kind)).map(|(_, word)| *word).collect();
    chosen.join(", ")
}

fn deletes(list: &mut Settings, delete: Option<&DeletePolicy>) {
    let Some(DeletePolicy { max, trash, excluded, allow_empty_source }) = delete else {
        return list.put("What only the target has", "stays".to_owned(), "stays");
    };
    let fate = match trash {
        Some(trash) => format!("is moved to the trash, {}", escaped(trash)),
        None => "is removed".to_owned(),
    };
    list.put("What only the target has", fate, "stays");
    let most = match max {
        None => NO_LIMIT.to_owned(),
        Some(MaxDelete::Entries(n)) => counted(*n, "entry", "entries"),
        Some(MaxDelete::MilliPercent(n)) => format!("{} % of the target", f64::from(*n) / 1000.0),
    };
    list.put("What is removed at most", most, NO_LIMIT);
    list.flag("What filters leave out is removed as well", *excluded, false);
    list.flag("An empty source may empty the target", *allow_empty_source, false);
}

fn verifies(list: &mut Settings, verify: &VerifyPolicy) {
    const ALL: u32 = 1_000_000;
    // The key of hashes and the target's inode are nobody's choice.
    let VerifyPolicy { content, sample_ppm, no_cache, granularity_ns, salt: _, target_ino: _ } = verify;
    list.flag("Contents are compared", *content, false);
    let sample = |ppm: u32| format!("{} % of the files", f64::from(ppm) / 10_000.0);
    list.put("Contents are read of", sample(*sample_ppm), &sample(ALL));
    list.flag("Contents are read from the medium", *no_cache, false);
    let step = |ns: u32| format!("{} ns", super::text::count(ns.into()));
    list.put("Times are compared in steps of", step((*granularity_ns).max(1)), &step(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lustre::Stripe;
    use crate::model::{JobId, RootIdentity};

    fn spec(pass: &str, policy: Policy) -> JobSpec {
        JobSpec {
            id: JobId::random(),
            pass: pass.to_owned(),
            source: b"/s".to_vec(),
            target: b"/t".to_vec(),
            policy,
            priority: DEFAULT_PRIORITY,
            submitted: Timestamp::default(),
            source_root: RootIdentity::default(),
            target_root: RootIdentity::default(),
        }
    }

    fn told(spec: &JobSpec) -> Vec<(&'static str, String)> {
        all(spec).into_iter().filter(|s| !s.is_default).map(|s| (s.what, s.value)).collect()
    }

    #[test]
    fn what_nobody_asked_for_is_as_it_is_by_default() {
        assert_eq!(told(&spec("copy", Policy::default())), []);
    }

    #[test]
    fn what_was_asked_for_is_told_and_names_in_it_are_inert() {
        let rule = Rule { include: false, syntax: Syntax::Glob, pattern: b"<b>\xff".to_vec() };
        let filter = Filter { rules: vec![rule], max_depth: Some(1), ..Filter::default() };
        let delete = Some(DeletePolicy { max: Some(MaxDelete::MilliPercent(1500)), ..DeletePolicy::default() });
        let policy = Policy { acls: false, checksum: true, filter, delete, ..Policy::default() };
        let expected = [
            ("POSIX ACLs", "left alone"),
            ("Contents are compared instead of size and time", "yes"),
            ("Left out", "&lt;b&gt;\\xff"),
            ("Depth", "1 level"),
            ("What only the target has", "is removed"),
            ("What is removed at most", "1.5 % of the target"),
        ];
        assert_eq!(told(&spec("sync", policy)), expected.map(|(what, value)| (what, value.to_owned())));
    }

    #[test]
    fn what_was_asked_of_lustre_is_told() {
        let rules = vec![
            LayoutRule {
                min_size: Some(1 << 30),
                name: Some("<*>".into()),
                layout: LayoutPolicy::Stripe(Stripe { count: Some(-1), size: Some(4 << 20), pool: Some("a&b".into()) }),
                ..LayoutRule::default()
            },
            LayoutRule { layout: LayoutPolicy::Default, ..LayoutRule::default() },
        ];
        let lustre = LustrePolicy {
            mdt: MdtPolicy::List(vec![0, 2]),
            mdt_depth: 2,
            layout: LayoutPolicy::Rules(rules),
            pools: vec![("flash".into(), "ssd".into())],
            mirrors: true,
            relayout: true,
            hsm: HsmPolicy::Skip,
        };
        let expected = [
            ("Lustre: directories are made", "on one after the other of MDTs 0, 2"),
            ("Lustre: of directories, so many are placed", "2 levels"),
            (
                "Lustre: files are striped",
                "rule 1: at least 1 GiB, named &lt;*&gt;: one stripe on each OST, stripes of 4 MiB, pool a&amp;b",
            ),
            ("Lustre: files are striped", "rule 2: all others: as the target does by itself"),
            ("Lustre: pool of the source and of the target", "flash: ssd"),
            ("Lustre: mirrored files stay mirrored", "yes"),
            ("Lustre: files that are striped otherwise are written anew", "yes"),
            ("Lustre: files whose data are only in an archive", "left out"),
        ];
        let policy = Policy { lustre, ..Policy::default() };
        assert_eq!(told(&spec("copy", policy)), expected.map(|(what, value)| (what, value.to_owned())));
    }
}
