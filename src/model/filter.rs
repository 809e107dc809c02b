//! Which entries take part in a pass.
//!
//! Invariant: the decision on a directory's name holds for everything in it: an excluded directory is never
//! listed.

use super::{Kind, Metadata, RelPath};
use serde::{Deserialize, Serialize};

/// What the user asked for, as it travels with the job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Deepest level that takes part; entries of the root are at 1.
    pub max_depth: Option<u32>,
    /// Directories on other filesystems than the root's are made, not entered.
    pub one_file_system: bool,
}

/// A filter that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(pub String);

/// A filter, ready to decide.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    filter: Filter,
}

impl Matcher {
    /// Prepares a filter.
    ///
    /// # Errors
    /// [`FilterError`], with the position in the pattern.
    pub fn new(filter: &Filter) -> Result<Self, FilterError> {
        Ok(Matcher { filter: filter.clone() })
    }

    /// Does an entry take part, as far as its name, kind and place tell? `dir` is the directory that holds it.
    pub fn takes(&self, _dir: &RelPath, _name: &[u8], _kind: Kind) -> bool {
        true
    }

    /// Is a directory that takes part entered? Not below the deepest level.
    pub fn enters(&self, _dir: &RelPath) -> bool {
        true
    }

    /// Are directories on other filesystems than the root's left alone?
    pub fn one_file_system(&self) -> bool {
        self.filter.one_file_system
    }

    /// Must attributes be known before it can be told of an entry that is no directory?
    pub fn needs_metadata(&self) -> bool {
        false
    }

    /// Does an entry that is no directory take part, as far as its attributes tell?
    pub fn takes_metadata(&self, _metadata: &Metadata) -> bool {
        true
    }
}
