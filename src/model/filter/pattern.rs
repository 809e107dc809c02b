//! A rule's pattern, ready to be tried.
//!
//! Invariant: what a pattern matches does not depend on which of the cheaper ways it is tried in.

use super::glob::{Glob, Part};
use super::{PatternError, Rule, Syntax};
use crate::model::{Kind, RelPath};
use regex::bytes::{Regex, RegexBuilder};

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    directories: bool,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    /// The name is this.
    Name(Vec<u8>),
    /// The name begins with this.
    Prefix(Vec<u8>),
    /// The name ends with this.
    Suffix(Vec<u8>),
    /// The whole path is this: directory, name.
    Path(Vec<u8>, Vec<u8>),
    /// The name matches.
    NameRegex(Expression),
    /// The path matches.
    PathRegex(Expression),
    /// The path matches; a directory's ends with a slash.
    SlashedRegex(Expression),
}

/// A regular expression, and the one for what is no UTF-8 where that makes a difference.
#[derive(Debug, Clone)]
struct Expression {
    text: Regex,
    raw: Option<Regex>,
}

impl Expression {
    fn is_match(&self, subject: &[u8]) -> bool {
        match &self.raw {
            Some(raw) if std::str::from_utf8(subject).is_err() => raw.is_match(subject),
            _ => self.text.is_match(subject),
        }
    }
}

/// An entry that is asked about. Its path is put together when the first pattern needs it.
pub(super) struct Subject<'a> {
    dir: &'a RelPath,
    name: &'a [u8],
    kind: Kind,
    /// With a slash at the end.
    path: Option<Vec<u8>>,
}

impl<'a> Subject<'a> {
    pub fn new(dir: &'a RelPath, name: &'a [u8], kind: Kind) -> Self {
        Subject { dir, name, kind, path: None }
    }

    fn path(&mut self, slashed: bool) -> &[u8] {
        let path = self.path.get_or_insert_with(|| {
            let dir = self.dir.as_bytes();
            let mut path = Vec::with_capacity(dir.len() + self.name.len() + 2);
            path.extend_from_slice(dir);
            if !dir.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(self.name);
            path.push(b'/');
            path
        });
        let end = path.len() - usize::from(!(slashed && self.kind == Kind::Directory));
        &path[..end]
    }
}

impl Pattern {
    /// Is it one of those that take memory?
    pub fn is_expression(&self) -> bool {
        matches!(self.test, Test::NameRegex(_) | Test::PathRegex(_) | Test::SlashedRegex(_))
    }

    /// Reads and compiles a rule's pattern.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn new(rule: &Rule) -> Result<Self, PatternError> {
        match rule.syntax {
            Syntax::Glob => Self::of_glob(&Glob::parse(&rule.pattern)?),
            Syntax::Regex => Ok(Pattern { directories: false, test: Test::SlashedRegex(of_regex(&rule.pattern)?) }),
        }
    }

    fn of_glob(glob: &Glob) -> Result<Self, PatternError> {
        let plain = if glob.with_contents { None } else { without_regex(glob) };
        if let Some(test) = plain {
            return Ok(Pattern { directories: glob.directories, test });
        }
        let compiled = |text| builder(&glob.to_regex(text)).build().map_err(|e| too_big(&e));
        let raw = if glob.depends_on_encoding() { Some(compiled(false)?) } else { None };
        let expression = Expression { text: compiled(true)?, raw };
        let test = match glob {
            Glob { with_contents: true, .. } => Test::SlashedRegex(expression),
            glob if glob.is_about_name() => Test::NameRegex(expression),
            _ => Test::PathRegex(expression),
        };
        Ok(Pattern { directories: glob.directories, test })
    }

    /// Does it match?
    pub fn matches(&self, subject: &mut Subject<'_>) -> bool {
        if self.directories && subject.kind != Kind::Directory {
            return false;
        }
        match &self.test {
            Test::Name(name) => subject.name == name,
            Test::Prefix(prefix) => subject.name.starts_with(prefix),
            Test::Suffix(suffix) => subject.name.ends_with(suffix),
            Test::Path(dir, name) => subject.name == name && subject.dir.as_bytes() == dir,
            Test::NameRegex(expression) => expression.is_match(subject.name),
            Test::PathRegex(expression) => expression.is_match(subject.path(false)),
            Test::SlashedRegex(expression) => expression.is_match(subject.path(true)),
        }
    }
}

/// The cheap way to try a glob, if there is one.
fn without_regex(glob: &Glob) -> Option<Test> {
    let literals = |parts: &[Part]| -> Option<Vec<u8>> {
        parts.iter().map(|part| if let Part::Literal(byte) = part { Some(*byte) } else { None }).collect()
    };
    if glob.anchored {
        let path = literals(&glob.parts)?;
        let slash = path.iter().rposition(|b| *b == b'/');
        return Some(match slash {
            Some(at) => Test::Path(path[..at].to_vec(), path[at + 1..].to_vec()),
            None => Test::Path(Vec::new(), path),
        });
    }
    if !glob.is_about_name() {
        return None;
    }
    match glob.parts.as_slice() {
        [Part::Some, tail @ ..] => literals(tail).map(Test::Suffix),
        [head @ .., Part::Some] => literals(head).map(Test::Prefix),
        all => literals(all).map(Test::Name),
    }
}

/// Names are bytes: Unicode is off unless the expression switches it on.
fn builder(expression: &str) -> RegexBuilder {
    let mut builder = RegexBuilder::new(expression);
    // A newline in a name is a byte like any other.
    builder.unicode(false).dot_matches_new_line(true);
    builder
}

fn too_big(error: &regex::Error) -> PatternError {
    let why = match error {
        regex::Error::CompiledTooBig(limit) => format!("it needs more than {limit} bytes when it is compiled"),
        other => other.to_string().lines().last().unwrap_or_default().to_owned(),
    };
    PatternError { position: None, why }
}

/// In what is UTF-8 characters are characters; in what is not, or if the pattern itself is not, they are bytes.
fn of_regex(pattern: &[u8]) -> Result<Expression, PatternError> {
    if let Ok(text) = std::str::from_utf8(pattern) {
        check_regex(text, true).map_err(|(at, why)| PatternError { position: at.map(|at| at + 1), why })?;
        // What only characters can say, such as \p{Greek}, is said of characters there too.
        let raw = builder(text).build().ok();
        return Ok(Expression { text: builder(text).unicode(true).build().map_err(|e| too_big(&e))?, raw });
    }
    let (spelled, origins) = spelled_out(pattern);
    let position = |at: usize| origins.get(at).copied().unwrap_or(pattern.len()) + 1;
    check_regex(&spelled, false).map_err(|(at, why)| PatternError { position: at.map(position), why })?;
    Ok(Expression { text: builder(&spelled).build().map_err(|e| too_big(&e))?, raw: None })
}

/// Bytes beyond ASCII as `\xNN`; and for each byte of the result the one that it comes from.
fn spelled_out(pattern: &[u8]) -> (String, Vec<usize>) {
    let mut spelled = String::with_capacity(pattern.len());
    let mut origins = Vec::with_capacity(pattern.len());
    for (i, byte) in pattern.iter().enumerate() {
        if byte.is_ascii() {
            spelled.push(*byte as char);
        } else {
            spelled.push_str(&format!("\\x{byte:02x}"));
        }
        origins.resize(spelled.len(), i);
    }
    (spelled, origins)
}

/// Where an expression is wrong, counted from 0, and how.
fn check_regex(text: &str, unicode: bool) -> Result<(), (Option<usize>, String)> {
    let mut parser = regex_syntax::ParserBuilder::new();
    let parsed = parser.utf8(false).unicode(unicode).dot_matches_new_line(true).build().parse(text);
    parsed.map(drop).map_err(|e| match e {
        regex_syntax::Error::Parse(e) => (Some(e.span().start.offset), e.kind().to_string()),
        regex_syntax::Error::Translate(e) => (Some(e.span().start.offset), e.kind().to_string()),
        other => (None, other.to_string().lines().last().unwrap_or_default().to_owned()),
    })
}
