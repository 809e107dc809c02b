//! What is said at the end.

use super::job::Tell;
use crate::exit_code::ExitCode;
use crate::model::outcome::LOST_POOL;
use crate::model::{JobSpec, Spread, Totals, escaped, spread};
use crate::node::Ended;
use crate::node::json::{failure_json, finding_json};
use crate::telemetry::Snapshot;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

/// A job that is over.
pub struct Finished<'a> {
    /// What it was.
    pub spec: &'a JobSpec,
    /// What it did.
    pub snapshot: Snapshot,
    /// How it ended.
    pub ended: &'a Ended,
}

impl Finished<'_> {
    /// The exit code that says it.
    pub fn exit_code(&self) -> ExitCode {
        match self.ended {
            Ended::Signalled(libc::SIGTERM) | Ended::Left(libc::SIGTERM) => ExitCode::Terminated,
            Ended::Signalled(_) | Ended::Left(_) => ExitCode::Interrupted,
            Ended::Aborted(_) => ExitCode::Infrastructure,
            Ended::Complete if self.snapshot.totals.different > 0 => ExitCode::Different,
            Ended::Complete if self.snapshot.totals.failed > 0 => ExitCode::FailedEntries,
            Ended::Complete => ExitCode::Complete,
        }
    }

    /// The word that says it.
    pub fn status(&self) -> &'static str {
        match self.exit_code() {
            ExitCode::Complete => "complete",
            ExitCode::Different => "different",
            ExitCode::FailedEntries => "complete with failed entries",
            ExitCode::Interrupted | ExitCode::Terminated => "interrupted",
            _ => "aborted",
        }
    }
}

/// Says how a job ended, as wanted.
pub fn tell(f: &Finished<'_>, tell: Tell) -> ExitCode {
    if tell.json {
        super::print_result(&json(f).to_string());
    }
    print(f, tell.quiet || tell.json);
    f.exit_code()
}

/// The summary as one JSON object.
pub fn json(f: &Finished<'_>) -> serde_json::Value {
    let totals: serde_json::Map<String, serde_json::Value> =
        f.snapshot.totals.iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
    let by_mdt: serde_json::Map<String, serde_json::Value> =
        f.snapshot.placed.iter().map(|(mdt, n)| (mdt.to_string(), (*n).into())).collect();
    serde_json::json!({
        "job": f.spec.id.to_string(),
        "pass": f.spec.pass,
        "source": escaped(&f.spec.source),
        "target": escaped(&f.spec.target),
        "status": f.status(),
        "exit_code": f.exit_code().number(),
        "reason": if let Ended::Aborted(why) = f.ended { Some(escaped(why.as_bytes())) } else { None },
        "elapsed_seconds": f.snapshot.elapsed.as_secs_f64(),
        "totals": totals,
        "spread": spread_json(&f.snapshot.totals.spread),
        "directories_by_mdt": by_mdt,
        "findings": f.snapshot.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "failures": f.snapshot.failures.iter().map(failure_json).collect::<Vec<_>>(),
        "notes": f.snapshot.notes,
    })
}

/// Classes of files that hold any: by size, and by age when the job was submitted.
fn spread_json(spread: &Spread) -> serde_json::Value {
    let class = |limit: &str, most: Option<u64>, class: &spread::Class| {
        (class.files > 0).then(|| serde_json::json!({ limit: most, "files": class.files, "bytes": class.bytes }))
    };
    let sizes = spread.sizes.iter().enumerate();
    let sizes: Vec<_> = sizes.filter_map(|(n, c)| class("up_to_bytes", spread::size_limit(n), c)).collect();
    let ages = spread.ages.iter().enumerate().filter(|(n, _)| *n != spread::NEWER);
    let days = |n: usize| spread::AGE_DAYS.get(n).copied().map(u64::from);
    let newer = spread.ages[spread::NEWER];
    serde_json::json!({
        "sizes": sizes,
        "ages": ages.filter_map(|(n, c)| class("up_to_days", days(n), c)).collect::<Vec<_>>(),
        "newer_than_the_job": { "files": newer.files, "bytes": newer.bytes },
    })
}

/// The summary for people: on stdout, what went wrong on stderr. Quiet leaves only the latter.
pub fn print(f: &Finished<'_>, quiet: bool) {
    if !quiet {
        super::print_result(&text(f));
    }
    let trouble = trouble(f);
    if !trouble.is_empty() {
        super::complain(trouble.trim_end());
    }
}

/// What a pass calls its doings.
struct Words {
    pass: &'static str,
    /// What it counts.
    things: &'static str,
    /// What became of them.
    first: fn(&Finished<'_>) -> String,
}

/// One row for each pass that does not say the same as `copy`, the first.
const WORDS: [Words; 4] = [
    Words { pass: "copy", things: "entries", first: copied },
    Words { pass: "sync", things: "entries", first: synced },
    Words { pass: "delete", things: "entries", first: deleted },
    Words { pass: "dirtime", things: "directories", first: dressed },
];

fn words_of(spec: &JobSpec) -> &'static Words {
    WORDS.iter().find(|w| w.pass == spec.pass).unwrap_or(&WORDS[0])
}

/// How many there were; of what would only be done, all that were found.
fn things_done(f: &Finished<'_>) -> String {
    let t = &f.snapshot.totals;
    let n = if f.spec.policy.dry_run { t.found } else { t.done() };
    format!("{} {}", HumanCount(n), words_of(f.spec).things)
}

fn copied(f: &Finished<'_>) -> String {
    let t = &f.snapshot.totals;
    format!(
        "{} copied ({}), {} attributes only, {} unchanged",
        HumanCount(t.copied),
        HumanBytes(t.bytes_copied),
        HumanCount(t.updated),
        HumanCount(t.unchanged),
    )
}

fn synced(f: &Finished<'_>) -> String {
    if f.spec.policy.delete.is_none() { copied(f) } else { format!("{}, {}", copied(f), gone(f)) }
}

fn deleted(f: &Finished<'_>) -> String {
    format!("{}, {} kept", gone(f), HumanCount(f.snapshot.totals.unchanged))
}

fn gone(f: &Finished<'_>) -> String {
    let t = &f.snapshot.totals;
    let trash = f.spec.policy.delete.as_ref().is_some_and(|d| d.trash.is_some());
    let (n, what) = match (f.spec.policy.dry_run, trash) {
        (true, _) => (t.extra, "would be deleted"),
        (false, true) => (t.deleted, "moved to the trash"),
        (false, false) => (t.deleted, "deleted"),
    };
    format!("{} {what}", HumanCount(n))
}

fn dressed(f: &Finished<'_>) -> String {
    let t = &f.snapshot.totals;
    format!("{} set, {} right already", HumanCount(t.updated), HumanCount(t.unchanged))
}

fn text(f: &Finished<'_>) -> String {
    let t = &f.snapshot.totals;
    let elapsed = f.snapshot.elapsed;
    let dry = if f.spec.policy.dry_run { "dry run, nothing was changed: " } else { "" };
    let mut out =
        format!("{dry}{}: {} in {}: {}", f.status(), things_done(f), duration(elapsed), (words_of(f.spec).first)(f));
    for (n, what) in [
        (t.hard_links, "hard links among them"),
        (t.vanished, "vanished while the job ran"),
        (t.changed_while_copying, "kept changing while they were copied; the next pass copies them again"),
        (t.filtered, "left out"),
        (t.released, "of these since their data are only in an archive (--hsm copy recalls them)"),
        (if f.spec.policy.dry_run { 0 } else { t.leftovers_removed }, "working files of killed runs removed"),
        (t.misplaced, "directories on another MDT than meant"),
    ] {
        if n > 0 {
            let _ = write!(out, "\n  {} {what}", HumanCount(n));
        }
    }
    if !f.snapshot.placed.is_empty() {
        let all: Vec<_> = f.snapshot.placed.iter().map(|(mdt, n)| format!("{mdt}: {}", HumanCount(*n))).collect();
        let _ = write!(out, "\n  {} by MDT: {}", placed_directories(f.spec), all.join(", "));
    }
    let _ = write!(out, "\n  job {}", f.spec.id);
    let per_second = |n: u64| (n as f64 / elapsed.as_secs_f64().max(1e-9)) as u64;
    let _ = write!(out, "\n  {} {}/s", HumanCount(per_second(t.done())), words_of(f.spec).things);
    if t.bytes_copied > 0 || f.spec.pass == "copy" {
        let _ = write!(out, ", {}/s", HumanBytes(per_second(t.bytes_copied)));
    }
    out
}

/// What directories a policy places.
fn placed_directories(spec: &JobSpec) -> String {
    match spec.policy.lustre.mdt_depth {
        0 | 1 => "first-level directories".to_owned(),
        depth => format!("directories of the first {depth} levels"),
    }
}

/// A time for people.
pub fn duration(elapsed: Duration) -> String {
    if elapsed < Duration::from_secs(60) {
        return format!("{:.2} s", elapsed.as_secs_f64());
    }
    HumanDuration(elapsed).to_string()
}

/// Everything that a person must know: losses, failures, why it ended early. Empty if all is well.
pub fn trouble(f: &Finished<'_>) -> String {
    let mut out = String::new();
    for note in &f.snapshot.notes {
        let _ = writeln!(out, "note: {note}");
    }
    for (n, what) in losses(&f.snapshot.totals) {
        if n > 0 {
            let _ = writeln!(out, "not kept: {what}: {}", HumanCount(n));
        }
    }
    let pools: BTreeSet<_> = f.snapshot.findings.iter().filter(|f| f.what == LOST_POOL).map(|f| &f.expected).collect();
    for pool in pools {
        let _ = writeln!(
            out,
            "  pool {pool}: the target has none of that name; --pool-map OLD=NEW tells what a pool of the source is called there"
        );
    }
    let failed = f.snapshot.totals.failed;
    if failed > 0 {
        let _ = writeln!(out, "{} entries failed:", HumanCount(failed));
        for failure in &f.snapshot.failures {
            let path = if failure.path.is_empty() { ".".to_owned() } else { escaped(&failure.path) };
            let _ = writeln!(out, "  {path}: {}: {}", failure.operation, escaped(failure.message.as_bytes()));
        }
        let shown = f.snapshot.failures.len() as u64;
        if failed > shown {
            let _ = writeln!(out, "  ... and {} more; --report FILE lists all", HumanCount(failed - shown));
        }
    }
    match f.ended {
        Ended::Aborted(why) => {
            let _ = writeln!(out, "treehaul: stopped: {}", escaped(why.as_bytes()));
        }
        Ended::Signalled(_) if matches!(f.spec.pass.as_str(), "verify" | "fingerprint") => {
            let _ = writeln!(out, "treehaul: interrupted; nothing can be said of the trees");
        }
        Ended::Signalled(_) => {
            let _ = writeln!(out, "treehaul: interrupted; the same command goes on where this one stopped");
        }
        Ended::Left(_) => {
            let id = f.spec.id;
            let _ = writeln!(
                out,
                "treehaul: the job goes on: `treehaul follow {id}` comes back to it, `treehaul cancel {id}` ends it"
            );
        }
        Ended::Complete => {}
    }
    out
}

fn losses(t: &Totals) -> [(u64, &'static str); 9] {
    [
        (t.lost_owner, "owner or group (only root may set them)"),
        (t.lost_mode, "setuid or other permission bits"),
        (t.lost_times, "times"),
        (t.lost_xattrs, "extended attributes"),
        (t.lost_acls, "ACLs"),
        (t.lost_hard_links, "hard links (separate files instead)"),
        (t.lost_projects, "quota projects"),
        (t.lost_layouts, "layouts (the target chose its own)"),
        (t.lost_pools, "pools of layouts (the target has none of that name)"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{JobId, Policy, Report, RootIdentity, Timestamp};
    use crate::telemetry::Board;

    /// What is said of a job that placed directories on these MDTs.
    fn said(depth: u32, placed: &[(u32, u64)], misplaced: u64) -> (String, serde_json::Value) {
        let mut spec = JobSpec {
            id: JobId::random(),
            pass: "copy".into(),
            source: Vec::new(),
            target: Vec::new(),
            policy: Policy::default(),
            submitted: Timestamp::default(),
            priority: 1,
            source_root: RootIdentity::default(),
            target_root: RootIdentity::default(),
        };
        spec.policy.lustre.mdt_depth = depth;
        let board = Board::new(Box::new(|_| ()));
        for (mdt, directories) in placed {
            let totals = Totals { misplaced, ..Totals::default() };
            board.absorb(Report { placed: vec![(*mdt, *directories)], totals, ..Report::default() });
        }
        let finished = Finished { spec: &spec, snapshot: board.snapshot(), ended: &Ended::Complete };
        (text(&finished), json(&finished))
    }

    #[test]
    fn directories_are_told_by_mdt_where_they_are_placed() {
        let (text, json) = said(1, &[(1, 12), (0, 11), (10, 3), (0, 1)], 0);
        assert!(text.contains("\n  first-level directories by MDT: 0: 12, 1: 12, 10: 3\n"), "{text}");
        assert!(!text.contains("another MDT"), "{text}");
        assert_eq!(json["directories_by_mdt"], serde_json::json!({"0": 12, "1": 12, "10": 3}));
        let (text, json) = said(3, &[(0, 1), (2, 1000)], 2);
        assert!(text.contains("\n  directories of the first 3 levels by MDT: 0: 1, 2: 1,000\n"), "{text}");
        assert!(text.contains("\n  4 directories on another MDT than meant\n"), "{text}");
        assert_eq!(json["totals"]["misplaced"], 4);
        let (text, json) = said(1, &[], 0);
        assert!(!text.contains("MDT"), "{text}");
        assert_eq!(json["directories_by_mdt"], serde_json::json!({}));
    }
}
