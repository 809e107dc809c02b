//! What is logged, how it looks, and how often the same is said. Log lines go to stderr.
//!
//! Invariant: whatever a line holds cannot attack who reads it, and with `--log-format json` every line on stderr is
//! one JSON object, be it a log line or something that is said to people.

mod levels;
mod limit;
mod line;
mod lines;

pub use levels::Levels;

use clap::{Args, ValueEnum};
use line::Line;
use lines::{Lines, Outlet};
use std::io::IsTerminal;
use std::sync::OnceLock;
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One object a line, for machines
    Json,
}

/// Arguments of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// How lines on stderr look
    #[arg(long, global = true, env = "TREEHAUL_LOG_FORMAT", value_name = "FORMAT", value_enum)]
    #[arg(default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged: a level, and others for modules, as in info,treehaul::broker=debug
    #[arg(long = "log", global = true, env = "TREEHAUL_LOG", value_name = "LEVELS")]
    levels: Option<Levels>,
}

/// Chosen once, by [`choose`].
static CHOSEN: OnceLock<(LogArgs, Outlet)> = OnceLock::new();

/// Takes note of how to log. What comes back is dropped when the program ends: what is held back then is summed up.
pub fn choose(args: LogArgs) -> Ending {
    let colours = args.log_format == LogFormat::Text
        && std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let outlet = Outlet::new(args.log_format, colours);
    let _ = CHOSEN.set((args, outlet)); // it is once a process
    Ending(())
}

/// The end of the log.
#[must_use = "the log ends where this is dropped"]
pub struct Ending(());

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some((_, outlet)) = CHOSEN.get() {
            outlet.sum_up();
        }
    }
}

/// Is stderr for machines?
pub fn is_json() -> bool {
    CHOSEN.get().is_some_and(|(args, _)| args.log_format == LogFormat::Json)
}

/// Begins to log, unless it has begun: what `--log` says, or else as much as these ask for.
pub fn start_logging(verbose: u8, quiet: bool) {
    let Some((args, outlet)) = CHOSEN.get() else { return };
    let levels = match &args.levels {
        Some(levels) if !levels.is_empty() => levels.clone(),
        _ => Levels::usual(verbose, quiet),
    };
    let lines = Lines::new(outlet.clone());
    let _ = tracing_subscriber::registry().with(levels.into_filter()).with(lines).try_init();
}

/// Says something on stderr. A reader that went away (`| head`) must not end a job.
pub fn say(text: &str) {
    tell(Level::INFO, text);
}

/// As [`say`], of what went wrong.
pub fn complain(text: &str) {
    tell(Level::ERROR, text);
}

fn tell(level: Level, text: &str) {
    if !is_json() {
        lines::put(text);
        return;
    }
    for words in text.lines().filter(|words| !words.trim().is_empty()) {
        let words = words.strip_prefix("treehaul: ").unwrap_or(words).trim();
        let mut line = Line::new(level, module_path!(), words.to_owned());
        line.job = crate::telemetry::at_work().map(|now| now.job.to_string());
        lines::put(&line.to_json());
    }
}
