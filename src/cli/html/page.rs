//! The page: a heading, then what was asked for a section each.
//!
//! Invariant: it is well-formed XML, names nothing outside itself, holds no script, and all that is not ours in it went
//! through [`text`](super::text).

use super::sections::{SECTIONS, Section};
use super::text::{capital, count, duration, moment, name, rate, size, words};
use super::{Hands, Told};
use crate::exit_code::ExitCode;
use crate::model::{Timestamp, Totals};
use crate::node::Ended;
use std::fmt::Write as _;

const STYLE: &str = include_str!("style.css");
/// Nothing is loaded and nothing is run, whatever the page says.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The whole page.
pub fn render(told: &Told<'_>) -> String {
    let title = words(&format!("treehaul {}: {}", told.spec.pass, verdict(told).0));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{}\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <meta name=\"referrer\" content=\"no-referrer\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        words(POLICY)
    );
    out.push_str(&heading(told));
    out.push_str("<main>\n");
    out.push_str(&tiles(told));
    for Section { title, about, body } in SECTIONS {
        if let Some(body) = body(told) {
            let about = if about.is_empty() { String::new() } else { format!("<p class=\"about\">{about}</p>\n") };
            let _ = writeln!(out, "<section>\n<h2>{title}</h2>\n{about}{body}</section>");
        }
    }
    out.push_str("</main>\n");
    out.push_str(&footer(told));
    out.push_str("</body>\n</html>\n");
    out
}

/// How it ended: in a word or two, the class that gives it its colour, and in a sentence.
fn verdict(told: &Told<'_>) -> (&'static str, &'static str, String) {
    let t = &told.snapshot.totals;
    let id = told.spec.id;
    match (told.ended, told.code) {
        (Ended::Left(_), _) => (
            "not over yet",
            "warn",
            format!("Whoever wrote this page left while the job went on: treehaul follow {id} comes back to it."),
        ),
        (Ended::Signalled(_), _) if matches!(told.spec.pass.as_str(), "verify" | "fingerprint") => {
            ("interrupted", "bad", "Interrupted by a signal; nothing can be said of the trees.".to_owned())
        }
        (Ended::Signalled(_), _) => (
            "interrupted",
            "bad",
            "Interrupted by a signal; the same command goes on where this one stopped.".to_owned(),
        ),
        (Ended::Aborted(why), _) => ("stopped", "bad", format!("The job could not go on: {why}")),
        (Ended::Complete, ExitCode::Complete) if told.spec.policy.dry_run => {
            ("dry run", "good", "Nothing was changed; this is what would be done.".to_owned())
        }
        (Ended::Complete, ExitCode::Complete) if told.spec.pass == "verify" => {
            ("the same", "good", format!("Both trees are the same, all {} entries.", count(t.same)))
        }
        (Ended::Complete, ExitCode::Complete) if lost(t) > 0 => {
            ("complete", "good", "Everything that was found is done with, but not everything could be kept.".to_owned())
        }
        (Ended::Complete, ExitCode::Complete) => {
            ("complete", "good", "Everything that was found is done with.".to_owned())
        }
        (Ended::Complete, ExitCode::Different) => {
            ("different", "bad", format!("The trees are not the same: {} entries differ.", count(t.different)))
        }
        (Ended::Complete, ExitCode::FailedEntries) => (
            "complete with failed entries",
            "warn",
            format!("Everything that was found was tried; {} entries failed.", count(t.failed)),
        ),
        (Ended::Complete, _) => ("stopped", "bad", "The job is over, but something around it went wrong.".to_owned()),
    }
}

/// Attributes that could not be kept.
fn lost(t: &Totals) -> u64 {
    t.iter().filter(|(key, _)| key.starts_with("lost_")).map(|(_, n)| n).fold(0, u64::saturating_add)
}

fn heading(told: &Told<'_>) -> String {
    let (status, class, sentence) = verdict(told);
    let spec = told.spec;
    let mut out = format!(
        "<header>\n<p class=\"kind\">treehaul {}{}</p>\n<h1 class=\"{class}\">{}</h1>\n<p class=\"verdict\">{}</p>\n",
        words(&spec.pass),
        if spec.policy.dry_run { ", dry run" } else { "" },
        words(&capital(status)),
        words(&sentence),
    );
    let _ = write!(
        out,
        "<dl class=\"roots\">\n<div><dt>Source</dt><dd>{}</dd></div>\n<div><dt>Target</dt><dd>{}</dd></div>\n</dl>\n",
        name(&spec.source),
        name(&spec.target)
    );
    out.push_str("<dl class=\"facts\">\n");
    for (what, value) in facts(told) {
        let _ = writeln!(out, "<div><dt>{what}</dt><dd>{value}</dd></div>");
    }
    out.push_str("</dl>\n");
    for line in &told.also {
        let _ = writeln!(out, "<p class=\"verdict\">{}</p>", words(line));
    }
    out + "</header>\n"
}

fn facts(told: &Told<'_>) -> Vec<(&'static str, String)> {
    let (began, lasted) = (told.spec.submitted, told.chronicle.lasted);
    let ended = match told.ended {
        Ended::Left(_) => "not yet".to_owned(),
        _ => words(&moment(later(began, lasted))),
    };
    let workers = told.chronicle.workers.len();
    let hands = match told.hands {
        Hands::Alone { dirs, files } => {
            format!("{}, alone: {dirs} dir actors, {files} file actors", words(&told.host))
        }
        Hands::Fleet if workers == 0 => "a fleet".to_owned(),
        Hands::Fleet => format!("a fleet: {}", super::text::counted(workers as u64, "worker", "workers")),
    };
    vec![
        ("Job", format!("<code>{}</code>", told.spec.id)),
        ("Exit code", format!("{}, {}", told.code.number(), meaning(told.code))),
        ("Began", words(&moment(began))),
        ("Ended", ended),
        ("Took", duration(lasted)),
        ("Done by", hands),
        ("Version", concat!("treehaul ", env!("CARGO_PKG_VERSION")).to_owned()),
    ]
}

/// What the number says.
fn meaning(code: ExitCode) -> &'static str {
    match code {
        ExitCode::Complete => "complete",
        ExitCode::Different => "differences found",
        ExitCode::Usage => "nothing was touched",
        ExitCode::FailedEntries => "complete with failed entries",
        ExitCode::Infrastructure => "could not go on",
        ExitCode::Internal => "a fault of treehaul",
        ExitCode::Interrupted => "interrupted",
        ExitCode::Terminated => "terminated",
    }
}

fn later(time: Timestamp, by: std::time::Duration) -> Timestamp {
    Timestamp { sec: time.sec.saturating_add(i64::try_from(by.as_secs()).unwrap_or(i64::MAX)), ..time }
}

/// The few numbers that everybody looks for.
fn tiles(told: &Told<'_>) -> String {
    let (t, lasted) = (&told.snapshot.totals, told.chronicle.lasted);
    let data = t.bytes_copied.saturating_add(t.bytes_read);
    let dry = told.spec.policy.dry_run;
    let entries = if dry { t.found } else { t.done() };
    let data_words = match t.bytes_read {
        0 if dry => "would be written",
        0 => "written",
        _ => "read, compared",
    };
    let mut tiles = vec![
        (count(entries), "entries", ""),
        (size(data), data_words, ""),
        (count(rate(entries, lasted) as u64), "entries a second", ""),
    ];
    if !dry {
        tiles.push((size(rate(data, lasted) as u64), "a second", ""));
    }
    match told.spec.pass.as_str() {
        "verify" => tiles.push((count(t.different), "different", if t.different > 0 { "bad" } else { "" })),
        "sync" | "delete" if told.spec.policy.dry_run => tiles.push((count(t.extra), "would be removed", "")),
        "sync" | "delete" => tiles.push((count(t.deleted), "removed", "")),
        _ => {}
    }
    tiles.push((count(t.failed), "failed", if t.failed > 0 { "bad" } else { "" }));
    let mut out = String::from("<ul class=\"tiles\">\n");
    for (value, what, class) in tiles {
        let _ = writeln!(out, "<li class=\"{class}\"><b>{value}</b> <span>{what}</span></li>");
    }
    out + "</ul>\n"
}

fn footer(told: &Told<'_>) -> String {
    format!(
        "<footer>\n<p>Written by treehaul {} on {}, {}. The page needs nothing beside itself; it names what is in \
         somebody&#39;s directories, so mind whom you show it to.</p>\n</footer>\n",
        env!("CARGO_PKG_VERSION"),
        words(&told.host),
        words(&moment(Timestamp::now()))
    )
}
