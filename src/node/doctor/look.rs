//! What looking tells: types, space, and what the source's root has.

use super::{About, Row, Verdict, lustre};
use crate::fs::posix::{Facts, RootKind, facts, kind_of};
use crate::fs::{self, Dir, Options, Side};
use crate::model::{JobId, Kind, RelPath, Timestamp};
use crate::node::NodeError;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

/// Seconds that a source's clock may be ahead before it is told.
const FUTURE_SECONDS: i64 = 2;

/// So many directories are held open one below the other.
const MAX_DEPTH: usize = 100;

/// What a source has, counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs {
    /// Entries.
    entries: u64,
    /// Bytes that are allocated to them.
    bytes: u64,
    /// Directories that could not be listed.
    unread: u64,
}

/// Counts a source: a walk over all of it. Directories are entered while the one above is listed, so that memory
/// grows with depth alone.
pub fn measure(source: &[u8]) -> Result<Needs, NodeError> {
    let (adapter, path) = fs::adapter_of(source)?;
    if adapter.scheme == "file" && matches!(kind_of(path)?, RootKind::Other(_)) {
        let size = std::fs::metadata(OsStr::from_bytes(path)).map_or(0, |m| m.blocks().saturating_mul(512));
        return Ok(Needs { entries: 1, bytes: size, unread: 0 });
    }
    let fs = fs::open(source, Side::Source, &Options::new(JobId::random()))?;
    let mut walk = Walk { needs: Needs::default(), pending: vec![RelPath::root()] };
    while let Some(path) = walk.pending.pop() {
        match fs.open_dir(&path) {
            Ok(dir) => walk.directory(dir.as_ref(), &path, 0),
            Err(_) => walk.needs.unread += 1,
        }
    }
    Ok(walk.needs)
}

struct Walk {
    needs: Needs,
    /// What lies too deep to be entered at once.
    pending: Vec<RelPath>,
}

impl Walk {
    fn directory(&mut self, dir: &dyn Dir, path: &RelPath, depth: usize) {
        self.needs.entries += 1;
        let listed = dir.list(&mut |entry| {
            let Ok(m) = entry.metadata.map_or_else(|| dir.stat(entry.name), Ok) else { return };
            if m.kind != Kind::Directory {
                self.needs.entries += 1;
                // A file with several names takes its space once; each name gets its part.
                self.needs.bytes += m.blocks_512.saturating_mul(512) / u64::from(m.nlink.max(1));
                return;
            }
            let Ok(child) = path.join(entry.name) else { return };
            if depth >= MAX_DEPTH {
                self.pending.push(child);
                return;
            }
            match dir.open_dir(entry.name) {
                Ok(below) => self.directory(below.as_ref(), &child, depth + 1),
                Err(_) => self.needs.unread += 1,
            }
        });
        if listed.is_err() {
            self.needs.unread += 1;
        }
    }
}

/// What can be told of a source.
pub fn source_rows(from: &Facts) -> Vec<Row> {
    let row =
        |topic: &str, verdict, found: String, advice: &str| Row::new(About::Source, topic, verdict, found, advice);
    let mut rows = vec![row("filesystem", Verdict::Ok, from.filesystem.clone(), "")];
    if from.has_nfs4_acl {
        let advice = "NFSv4 ACLs are not copied: mind who can read the copy, or use nfs4_getfacl and nfs4_setfacl";
        rows.push(row("NFSv4 ACLs", Verdict::Lost, "the root has one".into(), advice));
    }
    if from.project != 0 {
        rows.push(row("project ids", Verdict::Ok, format!("the root's is {}", from.project), ""));
    }
    let ahead = from.changed.sec - Timestamp::now().sec;
    if ahead > FUTURE_SECONDS {
        let advice = "set the clocks (NTP) before you use --since";
        rows.push(row("clock", Verdict::Note, format!("the root was changed {ahead} s in the future"), advice));
    }
    rows
}

/// What can be told of a target without writing.
pub fn target_rows(from: &Facts, to: &Facts, is_empty: bool, needs: Option<Needs>) -> Vec<Row> {
    let mut rows = vec![Row::new(About::Target, "filesystem", Verdict::Ok, to.filesystem.as_str(), "")];
    let counted =
        needs.map_or(Amount { n: from.used_bytes, exact: from.whole }, |n| Amount { n: n.bytes, exact: true });
    if from.device != to.device || needs.is_some() {
        // A part of the source may be there already, at most all that is in use.
        let there = |used| if is_empty { 0 } else { used };
        let space = Room { free: to.free_bytes, there: there(to.used_bytes) };
        rows.push(room("space", &counted, Some(space), bytes));
        let entries = Amount { n: needs.map_or(from.used_inodes, |n| n.entries), exact: counted.exact };
        let inodes = to.free_inodes.map(|free| Room { free, there: there(to.used_inodes) });
        rows.push(room("inodes", &entries, inodes, |n| n.to_string()));
    }
    if let Some(n) = needs.filter(|n| n.unread > 0) {
        let found = format!("{} directories could not be listed", n.unread);
        rows.push(Row::new(About::Source, "reading", Verdict::Fails, found, "run as root, or as somebody who may"));
    }
    rows
}

/// How much a source needs; not exact where it is only a part of the filesystem that was asked.
struct Amount {
    n: u64,
    exact: bool,
}

/// What a target has.
struct Room {
    free: u64,
    /// Most that may be the source's already.
    there: u64,
}

fn room(topic: &str, need: &Amount, room: Option<Room>, words: fn(u64) -> String) -> Row {
    let row = |verdict, found: String, advice: &str| Row::new(About::Target, topic, verdict, found, advice);
    let Some(Room { free, there }) = room else {
        return row(Verdict::Unknown, "the target does not count them".into(), "");
    };
    let whose = if need.exact { "the source" } else { "the source's whole filesystem" };
    let found = format!("{} free, {whose} takes {}", words(free), words(need.n));
    match (need.n > free, need.exact) {
        (false, _) => row(Verdict::Ok, found, ""),
        (true, false) => row(Verdict::Note, found, "how much of that the source is nobody counts: --size-check does"),
        (true, true) if need.n <= free.saturating_add(there) => {
            row(Verdict::Note, found, "what is there already may be a part of it, or it may not")
        }
        (true, true) => {
            row(Verdict::Fails, found, "the copy would stop when the target is full: make room, or choose another")
        }
    }
}

pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = (1..UNITS.len()).take_while(|u| n >> (10 * u) > 0).last().unwrap_or(0);
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{:.1} {}", n as f64 / (1_u64 << (10 * unit)) as f64, UNITS[unit])
    }
}

/// What a target is known not to keep, said before a job begins: a handful of system calls, nothing written. Empty
/// where it cannot be told.
pub fn cheap(source: &[u8], target: &[u8]) -> Vec<String> {
    let (from, to) = (facts_of(source), facts_of(target));
    let mut said = Vec::new();
    for (side, found) in [("source", &from), ("target", &to)] {
        said.extend(found.iter().flat_map(|(path, facts)| lustre::notes(side, path, facts)));
    }
    said.extend(from.zip(to).iter().flat_map(|((_, from), (_, to))| losses(from, to)));
    said
}

/// Of a root that is a directory by now: its path too.
fn facts_of(root: &[u8]) -> Option<(&[u8], Facts)> {
    let (adapter, path) = fs::adapter_of(root).ok()?;
    if adapter.scheme == "file" { Some((path, facts(path).ok()?)) } else { None }
}

fn losses(from: &Facts, to: &Facts) -> Vec<String> {
    let mut said = Vec::new();
    let mut say = |is_so: bool, text: String| {
        if is_so {
            said.push(format!("the target ({}) {text}", to.filesystem));
        }
    };
    say(to.read_only, "is mounted read-only: nothing can be written".into());
    say(from.user_xattrs && !to.user_xattrs, "keeps no user.* extended attributes".into());
    say(from.acls && !to.acls, "keeps no POSIX ACLs".into());
    say(from.has_nfs4_acl, "gets no NFSv4 ACLs: they are not copied".into());
    say(
        to.granularity_ns > from.granularity_ns,
        format!("keeps times in steps of {} ms", to.granularity_ns / 1_000_000),
    );
    say(from.hard_links && !to.hard_links, "keeps no hard links".into());
    say(!from.caseless && to.caseless, "may take names that differ only in case for one".into());
    // A part of the source may be there already, at most all that is in use.
    let room = to.free_bytes.saturating_add(to.used_bytes);
    say(
        from.whole && from.device != to.device && from.used_bytes > room,
        format!("has {} free, and the source takes {}", bytes(to.free_bytes), bytes(from.used_bytes)),
    );
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Facts {
        facts(b"/").unwrap()
    }

    #[test]
    fn a_target_like_its_source_loses_nothing() {
        let from = Facts { has_nfs4_acl: false, ..some() };
        let to = Facts { read_only: false, ..from.clone() };
        assert_eq!(losses(&from, &to), Vec::<String>::new());
    }

    #[test]
    fn each_loss_is_said_once() {
        let from = Facts {
            user_xattrs: true,
            acls: true,
            has_nfs4_acl: true,
            granularity_ns: 1,
            caseless: false,
            hard_links: true,
            whole: true,
            device: 1,
            used_bytes: 5 << 30,
            ..some()
        };
        let to = Facts {
            filesystem: "vfat".into(),
            read_only: true,
            user_xattrs: false,
            acls: false,
            granularity_ns: 2_000_000_000,
            caseless: true,
            hard_links: false,
            device: 2,
            free_bytes: 3 << 20,
            used_bytes: 1 << 20,
            ..from.clone()
        };
        let said = losses(&from, &to);
        assert_eq!(said.len(), 8, "{said:#?}");
        assert!(
            said.contains(&"the target (vfat) has 3.0 MiB free, and the source takes 5.0 GiB".to_owned()),
            "{said:?}"
        );
    }

    #[test]
    fn room_is_judged_by_what_is_known() {
        let verdict = |n, exact, free| room("space", &Amount { n, exact }, free, bytes).verdict;
        let free = |free, there| Some(Room { free, there });
        assert_eq!(verdict(10, true, free(10, 0)), Verdict::Ok);
        assert_eq!(verdict(11, true, free(10, 0)), Verdict::Fails);
        assert_eq!(verdict(11, true, free(10, 1)), Verdict::Note, "it may be there already");
        assert_eq!(verdict(12, true, free(10, 1)), Verdict::Fails);
        assert_eq!(verdict(11, false, free(10, 0)), Verdict::Note);
        assert_eq!(verdict(11, true, None), Verdict::Unknown);
    }
}
