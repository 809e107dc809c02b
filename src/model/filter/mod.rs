//! Which entries take part in a pass.
//!
//! Invariant: the decision on a directory's name holds for everything in it: an excluded directory is never
//! listed. A decision depends on the filter and the entry alone, so every node decides alike.

mod glob;
mod matcher;
mod names;
mod pattern;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use matcher::Matcher;
pub use names::{NameGlobs, PathGlobs};

use super::{Kind, Timestamp, escaped};
use serde::{Deserialize, Serialize};

/// Most bytes of all patterns together: a filter travels in one message with its job.
pub const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Most rules that cannot be tried without a regular expression: each takes some 30 KiB when it is compiled.
pub const MAX_EXPRESSIONS: usize = 2000;

/// What the user asked for, as it travels with the job. The default takes everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// In order: the first that matches decides. What none matches takes part, unless all of them include: then
    /// only directories do.
    pub rules: Vec<Rule>,
    /// Smallest regular file that takes part, in bytes.
    pub min_size: Option<u64>,
    /// Largest regular file that takes part, in bytes.
    pub max_size: Option<u64>,
    /// What is no directory takes part if its time is before this.
    pub older_than: Option<Timestamp>,
    /// What is no directory takes part if its time is this or after it.
    pub newer_than: Option<Timestamp>,
    /// Which time the two are about.
    pub age_by: AgeBy,
    /// Which kinds take part; directories always do.
    pub kinds: Option<Kinds>,
    /// Deepest level that takes part; entries of the root are at 1.
    pub max_depth: Option<u32>,
    /// Directories on other filesystems than the root's are made, not entered.
    pub one_file_system: bool,
    /// Only regular files with data on one of these OSTs; empty is all.
    pub on_osts: Vec<u32>,
    /// Only what is no directory and lies on one of these MDTs; empty is all.
    pub on_mdts: Vec<u32>,
    /// Only regular files in one of these pools; empty is all.
    pub pools: Vec<String>,
}

/// One rule about names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What matches takes part; else it is left out, and with a directory everything below it.
    pub include: bool,
    /// How the pattern is read.
    pub syntax: Syntax,
    /// The pattern.
    #[serde(with = "serde_bytes")]
    pub pattern: Vec<u8>,
}

/// How a pattern is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Syntax {
    /// `*`, `?`, `**`, `[...]`, `{a,b}` and `\`; see [`Matcher`] for what a slash means.
    Glob,
    /// A regular expression that is looked for anywhere in the relative path; a directory's ends with a slash.
    Regex,
}

/// One of an entry's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AgeBy {
    /// Last change of contents.
    #[default]
    Mtime,
    /// Last access.
    Atime,
    /// Last change of the inode.
    Ctime,
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kinds(u8);

/// Letters of the kinds, as `find -type` has them.
const LETTERS: [(u8, Kind); 7] = [
    (b'f', Kind::File),
    (b'd', Kind::Directory),
    (b'l', Kind::Symlink),
    (b'p', Kind::Fifo),
    (b's', Kind::Socket),
    (b'b', Kind::BlockDevice),
    (b'c', Kind::CharDevice),
];

impl Kinds {
    fn bit(kind: Kind) -> u8 {
        LETTERS.iter().position(|(_, k)| *k == kind).map_or(0, |at| 1 << at)
    }

    /// Adds the kind of a letter (`f`, `d`, `l`, `p`, `s`, `b` or `c`); false if there is none.
    pub fn insert_letter(&mut self, letter: u8) -> bool {
        let found = LETTERS.iter().find(|(l, _)| *l == letter);
        self.0 |= found.map_or(0, |(_, kind)| Self::bit(*kind));
        found.is_some()
    }

    /// Is the kind in the set?
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & Self::bit(kind) != 0
    }
}

impl Filter {
    /// Does it ask for nothing?
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// The option that asks on which servers something lies, if one does.
    pub fn place_option(&self) -> Option<&'static str> {
        [
            (!self.on_osts.is_empty(), "--on-ost"),
            (!self.on_mdts.is_empty(), "--on-mdt"),
            (!self.pools.is_empty(), "--pool"),
        ]
        .into_iter()
        .find_map(|(is_given, option)| is_given.then_some(option))
    }
}

impl Rule {
    /// The option that gives such a rule.
    pub fn option(&self) -> &'static str {
        match (self.include, self.syntax) {
            (true, Syntax::Glob) => "--include",
            (false, Syntax::Glob) => "--exclude",
            (true, Syntax::Regex) => "--include-regex",
            (false, Syntax::Regex) => "--exclude-regex",
        }
    }

    /// Can it be understood?
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn check(&self) -> Result<(), PatternError> {
        pattern::Pattern::new(self).map(drop)
    }
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{why}", position.map_or_else(String::new, |at| format!("position {at}: ")))]
pub struct PatternError {
    /// Byte of the pattern, counted from 1, where one can be named.
    pub position: Option<usize>,
    /// What is wrong. Holds nothing that would need escaping.
    pub why: String,
}

/// A filter that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A rule's pattern; the rule as an option, escaped.
    #[error("{0}: {1}")]
    Pattern(String, PatternError),
    /// More than [`MAX_EXPRESSIONS`] rules that need a regular expression.
    #[error(
        "more than {MAX_EXPRESSIONS} rules are more than plain names, paths, prefixes and suffixes: name the paths with \
         --files-from instead"
    )]
    TooMany,
    /// Patterns of more than [`MAX_PATTERN_BYTES`] together.
    #[error(
        "patterns of {0} bytes together are more than {MAX_PATTERN_BYTES}: name the paths with --files-from instead"
    )]
    TooLarge(usize),
}

impl FilterError {
    fn of(rule: &Rule, error: PatternError) -> Self {
        FilterError::Pattern(format!("{} '{}'", rule.option(), escaped(&rule.pattern)), error)
    }
}
