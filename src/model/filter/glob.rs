//! Globs: read into parts, and written as regular expressions over bytes.
//!
//! Invariant: whatever bytes a pattern holds, it is either understood whole or refused with a position; and no
//! wildcard but `**` ever matches a slash.

use super::PatternError;
use std::fmt::Write as _;

/// Deepest nesting of `{...}`: far more than anybody writes, few enough for the stack.
const MAX_NESTING: usize = 16;

/// One part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// This byte.
    Literal(u8),
    /// `?`: one character, no slash; of a path that is no UTF-8, one byte.
    One,
    /// `*`: any number of bytes, no slash.
    Some,
    /// `**`: any number of bytes.
    All,
    /// `**/` at the start of a pattern: nothing, or anything up to a slash.
    AnyParents,
    /// `[...]`.
    Class(Class),
    /// `{...}`: one of these.
    Either(Vec<Vec<Part>>),
}

/// `[...]`: a set of characters and of bytes that are none. Never matches a slash.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Class {
    pub negated: bool,
    /// From, to; both belong to it.
    pub chars: Vec<(char, char)>,
    /// From, to; bytes from 0x80 on that are no part of a character in the pattern.
    pub bytes: Vec<(u8, u8)>,
}

/// A pattern that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    /// It began with a slash: it is about the whole path.
    pub anchored: bool,
    /// It ended with a slash: it is about directories only.
    pub directories: bool,
    /// It ended with `/***`: it is about a directory and everything in it. The parts end with the slash.
    pub with_contents: bool,
    pub parts: Vec<Part>,
}

impl Glob {
    /// Reads a pattern.
    pub fn parse(pattern: &[u8]) -> Result<Self, PatternError> {
        let mut reader = Reader { pattern, at: 0 };
        if pattern.is_empty() {
            return Err(error(1, "an empty pattern matches nothing"));
        }
        let anchored = reader.eat(b'/');
        let mut body = &pattern[reader.at..];
        let with_contents = body.ends_with(b"/***") && !ends_quoted(&body[..body.len() - 4]);
        if with_contents {
            body = &body[..body.len() - 3];
        }
        let directories = !with_contents && body.ends_with(b"/") && !ends_quoted(&body[..body.len() - 1]);
        if directories {
            body = &body[..body.len() - 1];
        }
        if body.is_empty() {
            return Err(error(1, "the root itself always takes part"));
        }
        reader.pattern = &pattern[..reader.at + body.len()];
        check_components(reader.pattern, reader.at, with_contents)?;
        let parts = reader.sequence(0, !anchored)?;
        Ok(Glob { anchored, directories, with_contents, parts })
    }

    /// Is it about the last component alone?
    pub fn is_about_name(&self) -> bool {
        !self.anchored && !self.with_contents && !crosses_slash(&self.parts)
    }

    /// Does a path that is no UTF-8 need an expression of its own?
    pub fn depends_on_encoding(&self) -> bool {
        depends_on_encoding(&self.parts)
    }

    /// The pattern as a regular expression with Unicode switched off. `text`: for paths that are UTF-8.
    pub fn to_regex(&self, text: bool) -> String {
        let mut out = String::from(if self.anchored || self.is_about_name() { r"\A" } else { r"(?:\A|/)" });
        write_parts(&self.parts, text, &mut out);
        out.push_str(if self.with_contents { r"(?s:.*)\z" } else { r"\z" });
        out
    }
}

pub(super) fn error(position: usize, why: &str) -> PatternError {
    PatternError { position: Some(position), why: why.to_owned() }
}

/// Is the byte after these quoted by a backslash?
fn ends_quoted(before: &[u8]) -> bool {
    before.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
}

/// Refuses components that no path has.
fn check_components(pattern: &[u8], start: usize, with_contents: bool) -> Result<(), PatternError> {
    let mut at = start;
    for component in pattern[start..].split(|b| *b == b'/') {
        match component {
            // What comes before `***` ends with a slash.
            b"" if with_contents && at == pattern.len() && at > start + 1 => {}
            b"" => return Err(error(at + 1, "two slashes in a row never match")),
            b"." | b".." => return Err(error(at + 1, "no path has a component '.' or '..'")),
            _ => at += component.len() + 1,
        }
    }
    Ok(())
}

fn crosses_slash(parts: &[Part]) -> bool {
    parts.iter().any(|part| match part {
        Part::Literal(byte) => *byte == b'/',
        Part::All | Part::AnyParents => true,
        Part::Either(all) => all.iter().any(|parts| crosses_slash(parts)),
        Part::One | Part::Some | Part::Class(_) => false,
    })
}

fn depends_on_encoding(parts: &[Part]) -> bool {
    parts.iter().any(|part| match part {
        Part::One => true,
        Part::Class(class) => class.negated,
        Part::Either(all) => all.iter().any(|parts| depends_on_encoding(parts)),
        Part::Literal(_) | Part::Some | Part::All | Part::AnyParents => false,
    })
}

/// One character of a pattern, or a byte that is no part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Unit {
    Char(char),
    Byte(u8),
}

struct Reader<'a> {
    pattern: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &[u8] {
        &self.pattern[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.pattern.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn unit(&mut self) -> Option<Unit> {
        let rest = &self.pattern[self.at..];
        let chunk = rest[..rest.len().min(4)].utf8_chunks().next()?;
        let unit = chunk.valid().chars().next().map_or(Unit::Byte(rest[0]), Unit::Char);
        self.at += if let Unit::Char(c) = unit { c.len_utf8() } else { 1 };
        Some(unit)
    }

    /// Parts up to the end, or within braces up to what ends an alternative.
    fn sequence(&mut self, depth: usize, mut may_lack_parents: bool) -> Result<Vec<Part>, PatternError> {
        let mut parts = Vec::new();
        while let Some(byte) = self.peek() {
            let start = self.at;
            match byte {
                b',' | b'}' if depth > 0 => break,
                b'}' => return Err(error(start + 1, "this '}' closes nothing; a plain one is written '\\}'")),
                b'{' => parts.push(self.either(depth + 1)?),
                b'[' => parts.push(Part::Class(self.class()?)),
                b'?' => parts.push(self.single(Part::One)),
                b'*' => parts.push(self.stars(depth == 0 && may_lack_parents)),
                b'\\' => {
                    self.at += 1;
                    let Some(quoted) = self.peek() else {
                        return Err(error(start + 1, "this '\\' quotes nothing; a plain one is written '\\\\'"));
                    };
                    parts.push(self.single(Part::Literal(quoted)));
                }
                byte => parts.push(self.single(Part::Literal(byte))),
            }
            may_lack_parents = false;
        }
        Ok(parts)
    }

    fn single(&mut self, part: Part) -> Part {
        self.at += 1;
        part
    }

    fn stars(&mut self, may_lack_parents: bool) -> Part {
        let count = self.rest().iter().take_while(|b| **b == b'*').count();
        self.at += count;
        match count {
            1 => Part::Some,
            _ if may_lack_parents && self.rest().len() > 1 && self.eat(b'/') => Part::AnyParents,
            _ => Part::All,
        }
    }

    fn either(&mut self, depth: usize) -> Result<Part, PatternError> {
        let start = self.at;
        if depth > MAX_NESTING {
            return Err(error(start + 1, "braces are nested too deeply"));
        }
        self.at += 1;
        let mut all = Vec::new();
        loop {
            all.push(self.sequence(depth, false)?);
            if self.eat(b'}') {
                return Ok(Part::Either(all));
            }
            if !self.eat(b',') {
                return Err(error(start + 1, "this '{' is never closed; a plain one is written '\\{'"));
            }
        }
    }

    fn class(&mut self) -> Result<Class, PatternError> {
        let start = self.at;
        let unclosed = || error(start + 1, "this '[' is never closed; a plain one is written '\\['");
        self.at += 1;
        let mut class = Class { negated: self.eat(b'!') || self.eat(b'^'), ..Class::default() };
        let mut is_first = true;
        loop {
            let from_at = self.at;
            if !is_first && self.eat(b']') {
                return Ok(class);
            }
            is_first = false;
            if self.rest().starts_with(b"[:") {
                self.named(&mut class)?;
                continue;
            }
            let from = self.member()?.ok_or_else(unclosed)?;
            let is_range = matches!(self.rest(), [b'-', next, ..] if *next != b']');
            if !is_range {
                class.add(from, from);
                continue;
            }
            self.at += 1;
            let to = self.member()?.ok_or_else(unclosed)?;
            let same_sort = matches!((from, to), (Unit::Char(_), Unit::Char(_)) | (Unit::Byte(_), Unit::Byte(_)));
            if !same_sort || from > to {
                return Err(error(from_at + 1, "this range ends before it begins"));
            }
            class.add(from, to);
        }
    }

    /// One member of a class, quoted or not; none at the end of the pattern.
    fn member(&mut self) -> Result<Option<Unit>, PatternError> {
        let start = self.at;
        if self.eat(b'\\') && self.peek().is_none() {
            return Err(error(start + 1, "this '\\' quotes nothing; a plain one is written '\\\\'"));
        }
        Ok(self.unit())
    }

    /// `[:digit:]` and its like, within a class.
    fn named(&mut self, class: &mut Class) -> Result<(), PatternError> {
        let start = self.at;
        let end = self.rest().windows(2).skip(2).position(|w| w == b":]");
        let Some(len) = end else {
            return Err(error(start + 1, "this '[:' is never closed by ':]'"));
        };
        let name = &self.pattern[start + 2..start + 2 + len];
        let Some((_, ranges)) = NAMED.iter().find(|(known, _)| known.as_bytes() == name) else {
            return Err(error(
                start + 1,
                "no such class: alnum, alpha, blank, cntrl, digit, graph, lower, print, punct, space, upper and xdigit are known",
            ));
        };
        class.chars.extend_from_slice(ranges);
        self.at += len + 4;
        Ok(())
    }
}

/// POSIX's classes, for ASCII as in its own locale.
const NAMED: [(&str, &[(char, char)]); 12] = [
    ("alnum", &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
    ("alpha", &[('A', 'Z'), ('a', 'z')]),
    ("blank", &[('\t', '\t'), (' ', ' ')]),
    ("cntrl", &[('\0', '\x1f'), ('\x7f', '\x7f')]),
    ("digit", &[('0', '9')]),
    ("graph", &[('!', '~')]),
    ("lower", &[('a', 'z')]),
    ("print", &[(' ', '~')]),
    ("punct", &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
    ("space", &[('\t', '\r'), (' ', ' ')]),
    ("upper", &[('A', 'Z')]),
    ("xdigit", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
];

impl Class {
    fn add(&mut self, from: Unit, to: Unit) {
        match (from, to) {
            (Unit::Char(from), Unit::Char(to)) => self.chars.push((from, to)),
            (Unit::Byte(from), Unit::Byte(to)) => self.bytes.push((from, to)),
            (Unit::Char(_), Unit::Byte(_)) | (Unit::Byte(_), Unit::Char(_)) => {}
        }
    }

    /// Its members below 0x80 and its bytes that are no characters, as the inside of a class of bytes.
    fn write_bytes(&self, out: &mut String) {
        let ascii = self.chars.iter().filter(|(from, _)| from.is_ascii());
        for (from, to) in ascii.map(|(from, to)| (*from as u32, (*to as u32).min(0x7f))) {
            let _ = write!(out, r"\x{from:02x}-\x{to:02x}");
        }
        for (from, to) in &self.bytes {
            let _ = write!(out, r"\x{from:02x}-\x{to:02x}");
        }
    }

    /// Its characters, as the inside of a class of characters.
    fn write_chars(&self, out: &mut String) {
        for (from, to) in &self.chars {
            let _ = write!(out, r"\x{{{:x}}}-\x{{{:x}}}", *from as u32, *to as u32);
        }
    }

    fn write(&self, text: bool, out: &mut String) {
        if self.negated {
            out.push_str(if text { "(?u:[^/" } else { "[^/" });
            if text {
                self.write_chars(out)
            } else {
                self.write_bytes(out)
            }
            out.push_str(if text { "])" } else { "]" });
            return;
        }
        let has_bytes = !self.bytes.is_empty() || self.chars.iter().any(|(from, _)| from.is_ascii());
        let has_chars = self.chars.iter().any(|(_, to)| !to.is_ascii());
        out.push_str("(?:");
        if has_bytes {
            out.push('[');
            self.write_bytes(out);
            out.push_str("&&[^/]]");
        }
        if has_chars {
            out.push_str(if has_bytes { "|(?u:[" } else { "(?u:[" });
            self.write_chars(out);
            out.push_str("&&[^/]])");
        }
        out.push(')');
    }
}

fn write_parts(parts: &[Part], text: bool, out: &mut String) {
    for part in parts {
        match part {
            Part::Literal(byte) if byte.is_ascii_alphanumeric() => out.push(*byte as char),
            Part::Literal(byte) => {
                let _ = write!(out, r"\x{byte:02x}");
            }
            Part::One => out.push_str(if text { "(?u:[^/])" } else { "[^/]" }),
            Part::Some => out.push_str("[^/]*"),
            Part::All => out.push_str("(?s:.*)"),
            Part::AnyParents => out.push_str("(?s:.*/)?"),
            Part::Class(class) => class.write(text, out),
            Part::Either(all) => {
                for (i, parts) in all.iter().enumerate() {
                    out.push_str(if i == 0 { "(?:" } else { "|" });
                    write_parts(parts, text, out);
                }
                out.push(')');
            }
        }
    }
}
