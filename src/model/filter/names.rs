//! Globs that choose workers by their names.
//!
//! Invariant: what is understood here is understood by every worker of this version, so nobody is left out or
//! included by mistake.

use super::pattern::{Pattern, Subject};
use super::{PatternError, Rule, Syntax};
use crate::model::{Kind, RelPath};

/// Most globs of one order.
const MAX_GLOBS: usize = 1000;

/// Names that match any of some globs (`*`, `?`, `[a-z]`, `{a,b}`); without globs, all.
#[derive(Debug, Clone)]
pub struct NameGlobs(Vec<Pattern>);

impl NameGlobs {
    /// Reads globs.
    ///
    /// # Errors
    /// What is wrong with one, and where.
    pub fn new(globs: &[String]) -> Result<Self, PatternError> {
        let wrong = |why: &str| PatternError { position: None, why: why.to_owned() };
        if globs.len() > MAX_GLOBS {
            return Err(wrong("too many globs"));
        }
        let read = |glob: &String| {
            if glob.contains('/') {
                return Err(wrong("the name of a worker has no slash"));
            }
            Pattern::new(&Rule { include: true, syntax: Syntax::Glob, pattern: glob.clone().into_bytes() })
        };
        globs.iter().map(read).collect::<Result<_, _>>().map(NameGlobs)
    }

    /// Is this name meant?
    pub fn matches(&self, name: &str) -> bool {
        let root = RelPath::root();
        let mut subject = Subject::new(&root, name.as_bytes(), Kind::File);
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(&mut subject))
    }
}

/// Paths that match any of some globs, as those of filters: without a slash they are about the name, `**` is any number
/// of directories.
#[derive(Debug, Clone)]
pub struct PathGlobs(Vec<Pattern>);

impl PathGlobs {
    /// Reads globs.
    ///
    /// # Errors
    /// What is wrong with one, and where.
    pub fn new(globs: &[String]) -> Result<Self, PatternError> {
        let rule = |glob: &String| Rule { include: true, syntax: Syntax::Glob, pattern: glob.clone().into_bytes() };
        globs.iter().map(|glob| Pattern::new(&rule(glob))).collect::<Result<_, _>>().map(PathGlobs)
    }

    /// Is this path, relative to the root, meant? One that is none never is.
    pub fn matches(&self, path: &[u8]) -> bool {
        let Ok(path) = RelPath::parse(path.to_vec()) else { return false };
        let (dir, name) = path.split_last();
        let Some(name) = name else { return false };
        let mut subject = Subject::new(&dir, name, Kind::File);
        self.0.iter().any(|pattern| pattern.matches(&mut subject))
    }
}

#[cfg(test)]
mod tests {
    use super::{NameGlobs, PathGlobs};

    #[test]
    fn globs_choose_paths_as_those_of_filters_do() {
        let globs = |glob: &str| PathGlobs::new(&[glob.to_owned()]).unwrap();
        for (glob, meant, not) in [
            ("*.dat", &b"a/b/c.dat"[..], &b"a/b/c.txt"[..]),
            ("a/**", b"a/b/c", b"b/c"),
            ("/a/*.dat", b"a/x.dat", b"b/a/x.dat"),
        ] {
            assert!(globs(glob).matches(meant) && !globs(glob).matches(not), "{glob}");
        }
        assert!(!PathGlobs::new(&[]).unwrap().matches(b"a"));
        assert!(!globs("*").matches(b"../x"));
    }

    fn globs(text: &[&str]) -> NameGlobs {
        NameGlobs::new(&text.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn globs_choose_names_and_none_choose_all() {
        assert!(globs(&[]).matches("anybody"));
        for (glob, meant, not) in [
            ("node1", "node1", "node10"),
            ("node*", "node17", "mode1"),
            ("node?", "node1", "node10"),
            ("node[1-3]", "node2", "node4"),
            ("{a,b}.example", "b.example", "c.example"),
            ("*.example", "a.b.example", "a.example.org"),
        ] {
            assert!(globs(&[glob]).matches(meant), "{glob} {meant}");
            assert!(!globs(&[glob]).matches(not), "{glob} {not}");
        }
        let two = globs(&["a", "b*"]);
        assert!(two.matches("a") && two.matches("bc") && !two.matches("c"));
    }

    #[test]
    fn what_is_no_glob_of_names_is_refused() {
        for glob in ["", "a/b", "/a", "[", "{a"] {
            assert!(NameGlobs::new(&[glob.to_owned()]).is_err(), "{glob}");
        }
        assert!(NameGlobs::new(&vec!["a".to_owned(); 2000]).is_err());
    }
}
