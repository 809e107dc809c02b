//! The sections of the page. One that has nothing to say is left out.

use super::plot::{Unit, bar, over_time, rates};
use super::text::{count, duration, name, percent, rate, size, words};
use super::{Hands, Told, settings};
use crate::fs::errno_text;
use crate::model::spread::{AGE_DAYS, AGES, Class, NEWER, SIZES, size_limit};
use crate::model::{Failure, Finding};
use crate::node::Ended;
use crate::telemetry::CauseCount;
use std::fmt::Write as _;
use std::time::Duration;

/// A part of the page.
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// A line below it.
    pub about: &'static str,
    /// What is in it; none if there is nothing.
    pub body: fn(&Told<'_>) -> Option<String>,
}

/// They, in order: what somebody must know comes first.
pub const SECTIONS: [Section; 13] = [
    Section {
        title: "Failures by cause",
        about: "The first entries of each cause; the report of --report FILE has all of them.",
        body: failures,
    },
    Section {
        title: "Not kept",
        about: "What the target, or the rights of whoever ran it, could not hold.",
        body: losses,
    },
    Section { title: "Findings", about: "", body: findings },
    Section { title: "Notes", about: "Said along the way.", body: notes },
    Section { title: "Totals", about: "", body: totals },
    Section {
        title: "Directories by MDT",
        about: "Where those lie whose place is decided by --mdt-policy.",
        body: placed,
    },
    Section { title: "Throughput", about: "", body: throughput },
    Section { title: "Files by size", about: "", body: sizes },
    Section {
        title: "Files by age",
        about: "Time since contents last changed, when the job was submitted.",
        body: ages,
    },
    Section {
        title: "Slowest directories",
        about: "Where actors spent their time. Several work side by side, so times add up to more than the clock shows; \
                what was done twice took its time twice.",
        body: slowest,
    },
    Section { title: "Workers", about: "As they told it; what was done twice is counted for both.", body: workers },
    Section { title: "Fingerprints", about: "", body: fingerprints },
    Section { title: "Configuration", about: "", body: configuration },
];

/// Rows of a table below a row of headings; the classes are those of the columns.
fn table(class: &str, columns: &[(&str, &str)], rows: impl IntoIterator<Item = Vec<String>>) -> Option<String> {
    let mut out = format!("<table class=\"{class}\">\n<thead><tr>");
    for (title, class) in columns {
        let _ = write!(out, "<th class=\"{class}\" scope=\"col\">{title}</th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let mut any = false;
    for row in rows {
        any = true;
        out.push_str("<tr>");
        for (cell, (_, class)) in row.iter().zip(columns) {
            let _ = write!(out, "<td class=\"{class}\">{cell}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n");
    any.then_some(out)
}

/// What each counter counts.
const COUNTERS: [(&str, &str); 33] = [
    ("found", "Entries found"),
    ("copied", "Made or written anew"),
    ("updated", "Only attributes set"),
    ("unchanged", "Right already"),
    ("failed", "Failed"),
    ("vanished", "Vanished before their turn came"),
    ("changed_while_copying", "Kept changing while they were copied; the next pass copies them again"),
    ("filtered", "Left out by filters and options"),
    ("deleted", "Removed from the target"),
    ("same", "The same"),
    ("different", "Different"),
    ("extra", "Only in the target"),
    ("target_found", "Entries of the target looked at for what only it has"),
    ("directories", "Directories"),
    ("files", "Regular files"),
    ("symlinks", "Symbolic links"),
    ("specials", "Fifos, sockets and devices"),
    ("hard_links", "Made as further hard links"),
    ("bytes_copied", "Data written"),
    ("bytes_read", "Data read to be compared, in both trees"),
    ("bytes_found", "Size of all files"),
    ("leftovers_removed", "Working files of killed runs removed"),
    ("lost_owner", "Owner or group not kept"),
    ("lost_mode", "Permission bits not kept"),
    ("lost_times", "Times not kept"),
    ("lost_xattrs", "Extended attributes not kept"),
    ("lost_acls", "ACLs not kept"),
    ("lost_hard_links", "Groups of hard links that became separate files"),
    ("lost_projects", "Quota projects not kept"),
    ("lost_layouts", "Layouts not kept"),
    ("lost_pools", "Pools of layouts not kept"),
    ("misplaced", "Directories on another MDT than meant"),
    ("released", "Left out since their data are only in an archive"),
];

fn totals(told: &Told<'_>) -> Option<String> {
    let all = told.snapshot.totals;
    let rows = all.iter().filter(|(key, n)| *n > 0 || *key == "failed").map(|(key, n)| {
        let what = COUNTERS.iter().find(|(k, _)| *k == key).map_or(key, |(_, words)| words);
        let value = if key.starts_with("bytes_") { format!("{} ({} B)", size(n), count(n)) } else { count(n) };
        vec![what.to_owned(), value]
    });
    table("pairs", &[("What", ""), ("How many", "n")], rows)
}

fn placed(told: &Told<'_>) -> Option<String> {
    let all = &told.snapshot.placed;
    let most = all.values().copied().max().unwrap_or(0);
    let rows = all.iter().map(|(mdt, n)| vec![mdt.to_string(), count(*n), bar(*n, most, "files")]);
    table("kinds", &[("MDT", ""), ("Directories", "n"), ("", "bars")], rows)
}

fn throughput(told: &Told<'_>) -> Option<String> {
    let (samples, lasted) = (&told.chronicle.samples, told.chronicle.lasted);
    let mark = told.chronicle.walk_over_at.filter(|mark| *mark <= lasted);
    let mut out = String::from("<div class=\"plots\">\n");
    let entries = rates(samples, |s| s.entries);
    if entries.len() < 2 {
        out.push_str("<p>It was over too soon for a plot.</p>\n");
    } else {
        out.push_str(&over_time("entries a second", &entries, Unit::Entries, lasted, mark));
        let bytes = rates(samples, |s| s.bytes);
        if bytes.iter().any(|rate| *rate > 0.0) {
            out.push_str(&over_time("data a second", &bytes, Unit::Bytes, lasted, mark));
        }
    }
    out.push_str("</div>\n");
    if let Some(mark) = mark {
        let _ = writeln!(
            out,
            "<p>Everything had been found after {}; {} of the time was left for what comes last.</p>",
            duration(mark),
            percent((lasted.saturating_sub(mark)).as_micros() as u64, lasted.as_micros() as u64)
        );
    }
    Some(out)
}

/// Rows of classes, from the first to the last that holds something, with bars for files and bytes.
fn classes(first: &str, rows: &[(String, Class)]) -> Option<String> {
    let used = |(_, class): &(String, Class)| class.files > 0;
    let (from, to) = (rows.iter().position(used)?, rows.iter().rposition(used)?);
    let rows = rows.get(from..=to)?;
    let sum = |part: fn(&Class) -> u64| rows.iter().map(|(_, c)| part(c)).fold(0, u64::saturating_add);
    let most = |part: fn(&Class) -> u64| rows.iter().map(|(_, c)| part(c)).max().unwrap_or(0);
    let (files, bytes) = (sum(|c| c.files), sum(|c| c.bytes));
    let (most_files, most_bytes) = (most(|c| c.files), most(|c| c.bytes));
    let columns = [(first, "first"), ("Files", "n"), ("", "n"), ("", "bars"), ("Bytes", "n"), ("", "n"), ("", "bars")];
    table(
        "classes",
        &columns,
        rows.iter().map(|(label, class)| {
            if class.files == 0 {
                let mut row = vec![String::new(); columns.len()];
                (row[0], row[1]) = (label.clone(), "0".to_owned());
                return row;
            }
            vec![
                label.clone(),
                count(class.files),
                percent(class.files, files),
                bar(class.files, most_files, "files"),
                size(class.bytes),
                percent(class.bytes, bytes),
                bar(class.bytes, most_bytes, "bytes"),
            ]
        }),
    )
}

fn sizes(told: &Told<'_>) -> Option<String> {
    let label = |class: usize| match (class, size_limit(class)) {
        (0, _) => "empty".to_owned(),
        (_, Some(most)) => format!("up to {}", size(most)),
        (_, None) => format!("more than {}", size(size_limit(SIZES - 2).unwrap_or_default())),
    };
    let rows: Vec<(String, Class)> =
        (0..SIZES).map(|class| (label(class), told.snapshot.totals.spread.sizes[class])).collect();
    classes("Size", &rows)
}

/// The names of [`AGE_DAYS`].
const AGE_WORDS: [&str; AGE_DAYS.len()] =
    ["a day", "a week", "30 days", "90 days", "180 days", "a year", "2 years", "5 years", "10 years"];

fn ages(told: &Told<'_>) -> Option<String> {
    let label = |class: usize| match AGE_WORDS.get(class) {
        Some(words) => format!("up to {words}"),
        None if class == NEWER => "newer than the job".to_owned(),
        None => format!("more than {}", AGE_WORDS[AGE_WORDS.len() - 1]),
    };
    let newest_first = std::iter::once(NEWER).chain((0..AGES).filter(|class| *class != NEWER));
    let rows: Vec<(String, Class)> =
        newest_first.map(|class| (label(class), told.snapshot.totals.spread.ages[class])).collect();
    classes("Age", &rows)
}

fn slowest(told: &Told<'_>) -> Option<String> {
    let most = told.chronicle.slowest.first().map_or(0, |slow| slow.spent.micros);
    let rows = told.chronicle.slowest.iter().map(|slow| {
        let (spent, time) = (slow.spent, Duration::from_micros(slow.spent.micros));
        vec![
            format!("<code>{}</code>", name(&slow.directory)),
            duration(time),
            bar(spent.micros, most, "time"),
            count(spent.entries),
            count(rate(spent.entries, time) as u64),
            size(spent.bytes),
        ]
    });
    let columns =
        [("Directory", "path"), ("Time", "n"), ("", "bars"), ("Entries", "n"), ("a second", "n"), ("Data", "n")];
    table("slow", &columns, rows)
}

fn failures(told: &Told<'_>) -> Option<String> {
    let mut out = String::new();
    for CauseCount { cause, count: n, examples } in &told.chronicle.causes {
        let what = match cause {
            None => "other causes".to_owned(),
            Some(cause) => {
                let why = cause.errno.map(errno_text);
                let why = why.or_else(|| shared(examples).map(str::to_owned));
                format!("{}{}", cause.operation, why.map_or(String::new(), |why| format!(": {why}")))
            }
        };
        let _ = writeln!(out, "<div class=\"cause\">\n<h3><b>{}</b> {}</h3>\n<ul>", count(*n), words(&what));
        for (_, failure) in examples {
            let _ = writeln!(out, "<li>{}</li>", example(failure, &what));
        }
        let more = n.saturating_sub(examples.len() as u64);
        if more > 0 {
            let _ = writeln!(out, "<li class=\"more\">and {} more</li>", count(more));
        }
        out.push_str("</ul>\n</div>\n");
    }
    (!out.is_empty()).then_some(out)
}

/// The message of all of them, if they say the same.
fn shared(examples: &[(u64, Failure)]) -> Option<&str> {
    let (_, first) = examples.first()?;
    examples.iter().all(|(_, failure)| failure.message == first.message).then_some(&first.message)
}

/// A failed entry, and why, unless that has been said.
fn example(failure: &Failure, said: &str) -> String {
    let path = name(&failure.path);
    if said.contains(&failure.message) {
        return format!("<code>{path}</code>");
    }
    format!("<code>{path}</code> <span class=\"why\">{}</span>", words(&failure.message))
}

/// What was lost, and what helps.
fn losses(told: &Told<'_>) -> Option<String> {
    let t = &told.snapshot.totals;
    let all = [
        (
            t.lost_owner,
            "Owner or group",
            "Only root may set them, and not on every mount: run as root, and look for root_squash on NFS.",
        ),
        (
            t.lost_mode,
            "Setuid or other permission bits",
            "The target&#39;s filesystem or its mount options do not hold them.",
        ),
        (
            t.lost_times,
            "Times",
            "The target&#39;s filesystem does not hold them; later passes compare what it does hold.",
        ),
        (
            t.lost_xattrs,
            "Extended attributes",
            "Mount the target with user_xattr, or take a filesystem that has them; treehaul doctor says which are lost.",
        ),
        (t.lost_acls, "ACLs", "Mount the target with acl, or take a filesystem that has POSIX ACLs."),
        (
            t.lost_hard_links,
            "Groups of hard links, separate files instead",
            "The target cannot link so often, or not at all; it needs more room than the source.",
        ),
        (
            t.lost_projects,
            "Quota projects",
            "Only root may set them; mount the target with prjquota, or take a filesystem that has them.",
        ),
        (
            t.lost_layouts,
            "Layouts, the target&#39;s own instead",
            "The target has too few OSTs for them, or does not know their kind: see --layout.",
        ),
        (
            t.lost_pools,
            "Pools of layouts",
            "Make pools of these names in the target, or say with --pool-map what they are called there.",
        ),
    ];
    let rows = all.into_iter().filter(|(n, _, _)| *n > 0);
    let rows = rows.map(|(n, what, help)| vec![what.to_owned(), count(n), help.to_owned()]);
    table("losses", &[("What", ""), ("How many", "n"), ("What helps", "")], rows)
}

fn findings(told: &Told<'_>) -> Option<String> {
    let s = told.snapshot;
    let all: u64 = s.kinds.values().fold(0, |sum, n| sum.saturating_add(*n));
    let mut kinds: Vec<(&String, &u64)> = s.kinds.iter().collect();
    kinds.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let most = kinds.first().map_or(0, |(_, n)| **n);
    let rows = kinds.iter().map(|(kind, n)| vec![finding_words(kind), count(**n), bar(**n, most, "files")]);
    let mut out = table("kinds", &[("What", ""), ("How many", "n"), ("", "bars")], rows)?;
    out.push_str("<h3>The first of them</h3>\n<ul class=\"paths\">\n");
    for finding in &s.findings {
        let _ = writeln!(out, "<li>{}</li>", finding_line(finding));
    }
    let more = all.saturating_sub(s.findings.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "<li class=\"more\">and {} more</li>", count(more));
    }
    Some(out + "</ul>\n")
}

fn finding_words(kind: &str) -> String {
    match kind {
        "missing" => "Only in the source".to_owned(),
        "extra" => "Only in the target".to_owned(),
        other if other.starts_with("would ") => words(&super::text::capital(other)),
        other => format!("Different {}", words(other)),
    }
}

fn finding_line(finding: &Finding) -> String {
    let path = name(&finding.path);
    let [what, expected, found] = [&finding.what, &finding.expected, &finding.found].map(|text| words(text));
    match finding.what.as_str() {
        "missing" | "extra" => format!("<code>{path}</code> <span class=\"why\">{}</span>", finding_words(&what)),
        // What would be done says it all.
        doing if doing.starts_with("would ") => {
            format!("<code>{path}</code> <span class=\"why\">{what}</span>")
        }
        _ => format!(
            "<code>{path}</code> <span class=\"why\">{what}: {expected} in the source, {found} in the target</span>"
        ),
    }
}

fn notes(told: &Told<'_>) -> Option<String> {
    let lines: String = told.snapshot.notes.iter().map(|note| format!("<li>{}</li>\n", words(note))).collect();
    (!lines.is_empty()).then(|| format!("<ul>\n{lines}</ul>\n"))
}

fn workers(told: &Told<'_>) -> Option<String> {
    if matches!(told.hands, Hands::Alone { .. }) {
        return None;
    }
    let all = &told.chronicle.workers;
    let most = all.values().map(|share| share.entries).max().unwrap_or(0);
    let rows = all.iter().map(|(worker, share)| {
        vec![
            name(worker.as_bytes()),
            count(share.entries),
            bar(share.entries, most, "files"),
            size(share.bytes),
            count(share.failed),
        ]
    });
    table("workers", &[("Worker", "path"), ("Entries", "n"), ("", "bars"), ("Data", "n"), ("Failed", "n")], rows)
}

fn fingerprints(told: &Told<'_>) -> Option<String> {
    if !matches!(told.spec.pass.as_str(), "verify" | "fingerprint") || *told.ended != Ended::Complete {
        return None;
    }
    let halves = ["Source", "Target"].into_iter().zip(&told.snapshot.sums);
    let rows = halves.map(|(half, sum)| vec![half.to_owned(), format!("<code>{}</code>", sum.fingerprint())]);
    let mut out = table("pairs", &[("Tree", ""), ("Fingerprint", "path")], rows)?;
    if told.snapshot.uncertain {
        let _ = writeln!(out, "<p>{}</p>", words(super::super::verify::UNCERTAIN));
    }
    Some(out)
}

fn configuration(told: &Told<'_>) -> Option<String> {
    let (usual, chosen): (Vec<_>, Vec<_>) = settings::all(told.spec).into_iter().partition(|s| s.is_default);
    let rows = |list: Vec<settings::Setting>| list.into_iter().map(|s| vec![s.what.to_owned(), s.value]);
    let columns = [("Option", ""), ("Value", "value")];
    let chosen = table("pairs", &columns, rows(chosen))
        .unwrap_or_else(|| "<p>Everything is as it is by default.</p>\n".to_owned());
    let usual = table("pairs", &columns, rows(usual)).unwrap_or_default();
    Some(format!("{chosen}<details>\n<summary>What is as it is by default</summary>\n{usual}</details>\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit_code::ExitCode;
    use crate::model::{JobId, JobSpec, Policy, Report, RootIdentity, Timestamp, Totals};
    use crate::telemetry::Board;

    #[test]
    fn every_counter_has_its_words() {
        let keys: Vec<&str> = Totals::default().iter().map(|(key, _)| key).collect();
        assert_eq!(keys, COUNTERS.map(|(key, _)| key));
    }

    #[test]
    fn a_table_shows_where_directories_lie_if_any_were_placed() {
        let spec = JobSpec {
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
        let shown = |report: Report| {
            let board = Board::new(Box::new(|_| ()));
            board.absorb(report);
            let (snapshot, chronicle, host) = (board.snapshot(), board.chronicle(), "here".to_owned());
            let (ended, code, hands, also) = (&Ended::Complete, ExitCode::Complete, Hands::Fleet, Vec::new());
            placed(&Told { spec: &spec, snapshot: &snapshot, chronicle, ended, code, hands, host, also })
        };
        assert_eq!(shown(Report::default()), None);
        let table = shown(Report { placed: vec![(0, 12), (3, 11)], ..Report::default() }).unwrap();
        for row in ["<td class=\"\">0</td><td class=\"n\">12</td>", "<td class=\"\">3</td><td class=\"n\">11</td>"] {
            assert!(table.contains(row), "{table}");
        }
    }
}
