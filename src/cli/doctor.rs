//! `treehaul doctor`.

use super::broker::BrokerArgs;
use super::{given_root, refuse, start_logging};
use crate::exit_code::ExitCode;
use crate::model::escaped;
use crate::node::doctor::{self, About, Patient, Row, Verdict};
use clap::Args;
use std::ffi::OsString;
use std::io::IsTerminal;

/// Columns of the table.
const WIDTH: usize = 80;
/// Columns before what was found: verdict, then topic.
const VERDICT_WIDTH: usize = 9;
const TOPIC_WIDTH: usize = 23;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Source: a directory, file:///PATH, or synth://?entries=N
    source: OsString,
    /// Target: a directory (or one that a job would make), file:///PATH, or null://
    target: OsString,
    #[command(flatten)]
    broker: BrokerArgs,
    /// Ask this memcached too
    #[arg(long, env = "TREEHAUL_MEMCACHED", value_name = "HOST:PORT")]
    memcached: Option<String>,
    /// Walk over the source and add up what it takes, instead of asking its filesystem
    #[arg(long)]
    size_check: bool,
    /// Print everything as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: DoctorArgs) -> ExitCode {
    start_logging(0, true);
    match try_run(args) {
        Ok(code) => code,
        Err(e) => refuse(&e),
    }
}

fn try_run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let (source, target) = (given_root(args.source)?, given_root(args.target)?);
    let broker = args.broker.optional()?;
    let patient = Patient {
        source: &source,
        target: &target,
        broker: broker.as_ref(),
        memcached: args.memcached.as_deref(),
        size_check: args.size_check,
    };
    let rows = doctor::examine(&patient)?;
    let worst = rows.iter().map(|row| row.verdict).max().unwrap_or(Verdict::Ok);
    let code = match worst {
        Verdict::Fails => ExitCode::FailedEntries,
        Verdict::Lost => ExitCode::Different,
        Verdict::Ok | Verdict::Unknown | Verdict::Note => ExitCode::Complete,
    };
    if args.json {
        let all = serde_json::json!({
            "source": escaped(&source),
            "target": escaped(&target),
            "verdict": worst,
            "exit_code": code.number(),
            "rows": rows,
        });
        super::print_result(&all.to_string());
    } else {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        super::print_result(&table(&rows, worst, coloured));
    }
    Ok(code)
}

fn table(rows: &[Row], worst: Verdict, coloured: bool) -> String {
    let mut out = String::new();
    for (about, title) in [(About::Source, "source"), (About::Target, "target"), (About::Node, "this node")] {
        let mut part = rows.iter().filter(|row| row.about == about).peekable();
        if part.peek().is_some() {
            out.push_str(&format!("{title}\n"));
        }
        part.for_each(|row| out.push_str(&line(row, coloured)));
    }
    out.push_str(match worst {
        Verdict::Fails => "something would fail",
        Verdict::Lost => "something would be lost",
        _ => "nothing would be lost",
    });
    out
}

fn line(row: &Row, coloured: bool) -> String {
    let (word, colour) = match row.verdict {
        Verdict::Ok => ("ok", 32),
        Verdict::Unknown => ("open", 2),
        Verdict::Note => ("note", 36),
        Verdict::Lost => ("lost", 33),
        Verdict::Fails => ("fails", 31),
    };
    let padding = " ".repeat(VERDICT_WIDTH - 2 - word.len());
    let word = if coloured { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() };
    let found = escaped(row.found.as_bytes());
    let text = if row.advice.is_empty() { found } else { format!("{found}: {}", row.advice) };
    let indent = VERDICT_WIDTH + TOPIC_WIDTH;
    let mut out = format!("  {word}{padding}{:TOPIC_WIDTH$}", row.topic);
    out.push_str(&wrapped(&text, WIDTH - indent).join(&format!("\n{}", " ".repeat(indent))));
    out.push('\n');
    out
}

/// Lines of at most so many characters, cut between words; a longer word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let used = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(line) if used == 0 => line.push_str(word),
            Some(line) if used + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_words_stay_whole() {
        let text = "one two three four five six seven";
        let lines = wrapped(text, 10);
        assert!(lines.iter().all(|l| l.chars().count() <= 10), "{lines:?}");
        assert_eq!(lines.join(" "), text);
        assert_eq!(wrapped("a-word-that-is-too-long x", 5), ["a-word-that-is-too-long", "x"]);
    }

    #[test]
    fn what_servers_say_reaches_the_terminal_escaped() {
        let row = Row {
            about: About::Node,
            topic: "broker".into(),
            verdict: Verdict::Fails,
            found: "\x1b]0;evil\x07".into(),
            advice: String::new(),
        };
        assert!(!line(&row, false).chars().any(|c| c.is_control() && c != '\n'));
    }
}
