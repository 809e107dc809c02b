//! Levels by module.
//!
//! Invariant: what is not understood is an error that names it: a log that says less than was asked for is found out
//! when it is needed.

use std::str::FromStr;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// The modules of this program that log.
const MODULES: [&str; 9] = ["actor", "broker", "cli", "fs", "model", "node", "pass", "telemetry", "web"];
/// This program, as the path of a module.
const OURS: &str = "treehaul";

/// What is logged: `LEVEL` for everything, `MODULE=LEVEL` for what is below a module, the longest path first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Levels {
    all: Option<LevelFilter>,
    modules: Vec<(String, LevelFilter)>,
}

/// A level, or a part of a list of them, that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// Neither a level nor a module of ours.
    #[error("'{0}' is no level (off, error, warn, info, debug, trace), and a module needs one: MODULE=LEVEL")]
    Unknown(String),
    /// What stands after the `=`.
    #[error("in '{0}' is no level after the '=': off, error, warn, info, debug, trace")]
    NoLevel(String),
    /// What stands before it.
    #[error("in '{0}' is no path of a module before the '=', as in treehaul::broker")]
    NoModule(String),
    /// It would never log anything.
    #[error("'{0}' names no module of treehaul: it has {list}", list = MODULES.join(", "))]
    NoSuch(String),
}

impl Levels {
    /// What is logged where nobody says more.
    pub fn usual(verbose: u8, quiet: bool) -> Self {
        let (all, lapin, ours) = match (quiet, verbose) {
            (true, _) => (LevelFilter::ERROR, LevelFilter::OFF, LevelFilter::ERROR),
            (false, 0) => (LevelFilter::WARN, LevelFilter::OFF, LevelFilter::INFO),
            (false, 1) => (LevelFilter::INFO, LevelFilter::OFF, LevelFilter::DEBUG),
            (false, _) => (LevelFilter::DEBUG, LevelFilter::DEBUG, LevelFilter::TRACE),
        };
        // Nobody but the log says that counters do not arrive.
        let counters = ours.max(LevelFilter::WARN);
        let modules = [("lapin".to_owned(), lapin), (OURS.to_owned(), ours), (format!("{OURS}::telemetry"), counters)];
        Levels { all: Some(all), modules: modules.into() }
    }

    /// Does it say nothing at all?
    pub fn is_empty(&self) -> bool {
        *self == Levels::default()
    }

    /// What lets through the lines that are asked for.
    pub fn into_filter(self) -> Targets {
        Targets::new().with_default(self.all.unwrap_or(LevelFilter::OFF)).with_targets(self.modules)
    }

    fn add(&mut self, directive: &str) -> Result<(), LevelError> {
        let bad = || directive.to_owned();
        let Some((module, level)) = directive.split_once('=') else {
            match (level_of(directive), is_module(directive) && is_ours(directive)) {
                (Some(level), _) => self.all = Some(level),
                (None, true) if !exists(directive) => return Err(LevelError::NoSuch(bad())),
                (None, true) => self.modules.push((directive.to_owned(), LevelFilter::TRACE)),
                (None, false) => return Err(LevelError::Unknown(bad())),
            }
            return Ok(());
        };
        let (module, level) = (module.trim(), level.trim());
        let level = level_of(level).ok_or_else(|| LevelError::NoLevel(bad()))?;
        if !is_module(module) {
            return Err(LevelError::NoModule(bad()));
        }
        if !exists(module) {
            return Err(LevelError::NoSuch(bad()));
        }
        self.modules.push((module.to_owned(), level));
        Ok(())
    }
}

impl FromStr for Levels {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        let mut levels = Levels::default();
        for directive in text.split(',').map(str::trim).filter(|d| !d.is_empty()) {
            levels.add(directive)?;
        }
        Ok(levels)
    }
}

fn level_of(word: &str) -> Option<LevelFilter> {
    if word.eq_ignore_ascii_case("off") {
        return Some(LevelFilter::OFF);
    }
    let all = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
    all.into_iter().find(|level| word.eq_ignore_ascii_case(level.as_str())).map(LevelFilter::from_level)
}

/// Does it look like the path of a module?
fn is_module(path: &str) -> bool {
    let is_word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    path.split("::").all(is_word)
}

fn is_ours(path: &str) -> bool {
    path.split("::").next() == Some(OURS)
}

/// A path of this program has to begin with a module that there is; of other crates' nothing is known.
fn exists(path: &str) -> bool {
    !is_ours(path) || path.split("::").nth(1).is_none_or(|module| MODULES.contains(&module))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lets(levels: &str, target: &str, level: Level) -> bool {
        levels.parse::<Levels>().unwrap().into_filter().would_enable(target, &level)
    }

    #[test]
    fn the_longest_path_says_what_is_logged() {
        let levels = "warn, treehaul=info,treehaul::broker=DEBUG,treehaul::broker::amqp::lead=off,lapin=off";
        for (target, level, is_let) in [
            ("h2", Level::WARN, true),
            ("h2", Level::INFO, false),
            ("treehaul::pass", Level::INFO, true),
            ("treehaul::pass", Level::DEBUG, false),
            ("treehaul::broker::amqp::session", Level::DEBUG, true),
            ("treehaul::broker::amqp::lead", Level::ERROR, false),
            ("lapin::channel", Level::ERROR, false),
        ] {
            assert_eq!(lets(levels, target, level), is_let, "{target} {level}");
        }
        assert!(lets("treehaul", "treehaul::fs", Level::TRACE) && !lets("treehaul", "h2", Level::ERROR));
        assert!("".parse::<Levels>().unwrap().is_empty() && " , ".parse::<Levels>().unwrap().is_empty());
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = |text: &str| text.parse::<Levels>().unwrap_err();
        assert_eq!(error("info,debgu"), LevelError::Unknown("debgu".into()));
        assert_eq!(error("treehaul=loud"), LevelError::NoLevel("treehaul=loud".into()));
        assert_eq!(error("=info"), LevelError::NoModule("=info".into()));
        assert_eq!(error("a b=info"), LevelError::NoModule("a b=info".into()));
        assert_eq!(error("treehaul::brokr=debug"), LevelError::NoSuch("treehaul::brokr=debug".into()));
        assert!(error("treehaul::brokr").to_string().contains("broker"), "it says which there are");
    }

    /// A module that is not in the list could not be asked for.
    #[test]
    fn every_module_is_known() {
        let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found: Vec<String> = std::fs::read_dir(src)
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, MODULES);
    }
}
