//! Globs as their description says, without regular expressions: slow, simple, and only for comparison.
//!
//! Patterns are made as trees and spelled from them, so that the reader is tried as well.

use super::{Filter, Matcher, Rule, Syntax};
use crate::model::{Kind, RelPath};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
enum Token {
    /// Some bytes, quoted where they need it.
    Literal(&'static [u8]),
    Slash,
    One,
    Some,
    All,
    Class {
        negated: bool,
        chars: Vec<(char, char)>,
        bytes: Vec<u8>,
    },
    Either(Vec<Vec<Token>>),
}

/// A pattern with what surrounds its parts.
#[derive(Debug, Clone)]
struct Tree {
    anchored: bool,
    tokens: Vec<Token>,
    directories: bool,
    with_contents: bool,
}

const LITERALS: [&[u8]; 12] =
    [b"a", b"b", b"ab", b"-", b"*", b"[", b"{", b",", b"\\", b"\n", "\u{e9}".as_bytes(), b"\xff"];
const PIECES: [&[u8]; 10] = [b"a", b"b", b"ab", b"-", b"*", b"{", b"\n", "\u{e9}".as_bytes(), b"\xff", b"\xc3"];

/// The character that begins here, and its length.
fn char_at(subject: &[u8], at: usize) -> Option<(char, usize)> {
    (1..=4).find_map(|len| {
        let c = std::str::from_utf8(subject.get(at..at + len)?).ok()?.chars().next()?;
        Some((c, len))
    })
}

fn in_class(chars: &[(char, char)], c: char) -> bool {
    chars.iter().any(|(from, to)| (*from..=*to).contains(&c))
}

/// Where a token that began at `at` may end.
fn ends_of(token: &Token, subject: &[u8], at: usize, text: bool) -> BTreeSet<usize> {
    let Some(byte) = subject.get(at).copied() else {
        return match token {
            Token::Some | Token::All => BTreeSet::from([at]),
            Token::Either(all) => all.iter().flat_map(|tokens| ends(tokens, subject, at, text)).collect(),
            _ => BTreeSet::new(),
        };
    };
    let one = if text { char_at(subject, at).map(|(_, len)| at + len) } else { Some(at + 1) };
    match token {
        Token::Literal(bytes) => subject[at..].starts_with(bytes).then_some(at + bytes.len()).into_iter().collect(),
        Token::Slash => (byte == b'/').then_some(at + 1).into_iter().collect(),
        Token::One => one.filter(|_| byte != b'/').into_iter().collect(),
        Token::Some => (at..=subject.len()).take_while(|end| !subject[at..*end].contains(&b'/')).collect(),
        Token::All => (at..=subject.len()).collect(),
        Token::Either(all) => all.iter().flat_map(|tokens| ends(tokens, subject, at, text)).collect(),
        _ if byte == b'/' => BTreeSet::new(),
        Token::Class { negated: true, chars, bytes } => {
            let has = match char_at(subject, at) {
                Some((c, _)) if text => in_class(chars, c),
                _ => bytes.contains(&byte) || byte.is_ascii() && in_class(chars, byte as char),
            };
            one.filter(|_| !has).into_iter().collect()
        }
        Token::Class { negated: false, chars, bytes } => {
            let as_byte = bytes.contains(&byte).then_some(at + 1);
            let as_char = char_at(subject, at).filter(|(c, _)| in_class(chars, *c)).map(|(_, len)| at + len);
            as_byte.into_iter().chain(as_char).collect()
        }
    }
}

fn ends(tokens: &[Token], subject: &[u8], at: usize, text: bool) -> BTreeSet<usize> {
    let step =
        |starts: BTreeSet<usize>, token| starts.iter().flat_map(|at| ends_of(token, subject, *at, text)).collect();
    tokens.iter().fold(BTreeSet::from([at]), step)
}

fn has_slash(tokens: &[Token]) -> bool {
    tokens.iter().any(|token| match token {
        Token::Slash | Token::All => true,
        Token::Either(all) => all.iter().any(|tokens| has_slash(tokens)),
        _ => false,
    })
}

impl Tree {
    fn matches(&self, path: &[u8], kind: Kind) -> bool {
        if self.directories && kind != Kind::Directory {
            return false;
        }
        // `**/` at the start adds nothing to a pattern that may begin at any component.
        let tokens = match self.tokens.as_slice() {
            [Token::All, Token::Slash, tail @ ..] if !self.anchored => tail,
            all => all,
        };
        if !self.anchored && !self.with_contents && !has_slash(&self.tokens) {
            let name = path.rsplit(|b| *b == b'/').next().unwrap();
            return ends(tokens, name, 0, std::str::from_utf8(name).is_ok()).contains(&name.len());
        }
        let mut subject = path.to_vec();
        if self.with_contents && kind == Kind::Directory {
            subject.push(b'/');
        }
        let text = std::str::from_utf8(&subject).is_ok();
        let starts = subject.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at + 1);
        let starts: Vec<usize> = if self.anchored { vec![0] } else { std::iter::once(0).chain(starts).collect() };
        starts
            .iter()
            .flat_map(|at| ends(tokens, &subject, *at, text))
            .any(|end| if self.with_contents { subject.get(end) == Some(&b'/') } else { end == subject.len() })
    }

    fn spelled(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.anchored {
            out.push(b'/');
        }
        spell(&self.tokens, &mut out);
        if self.with_contents {
            out.extend_from_slice(b"/***");
        } else if self.directories {
            out.push(b'/');
        }
        out
    }
}

fn quote(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        if byte.is_ascii_punctuation() {
            out.push(b'\\');
        }
        out.push(*byte);
    }
}

fn spell(tokens: &[Token], out: &mut Vec<u8>) {
    for token in tokens {
        match token {
            Token::Literal(bytes) => quote(bytes, out),
            Token::Slash => out.push(b'/'),
            Token::One => out.push(b'?'),
            Token::Some => out.push(b'*'),
            Token::All => out.extend_from_slice(b"**"),
            Token::Class { negated, chars, bytes } => {
                out.extend_from_slice(if *negated { b"[!" } else { b"[" });
                for (from, to) in chars {
                    quote(from.to_string().as_bytes(), out);
                    out.push(b'-');
                    quote(to.to_string().as_bytes(), out);
                }
                out.extend_from_slice(bytes);
                out.push(b']');
            }
            Token::Either(all) => {
                for (i, tokens) in all.iter().enumerate() {
                    out.push(if i == 0 { b'{' } else { b',' });
                    spell(tokens, out);
                }
                out.push(b'}');
            }
        }
    }
}

/// Without what would be read as something else: stars and slashes side by side.
fn tidied(mut tokens: Vec<Token>) -> Vec<Token> {
    tokens.dedup_by(|next, last| {
        let is_star = |t: &Token| matches!(t, Token::Some | Token::All);
        is_star(next) && is_star(last) || matches!((next, last), (Token::Slash, Token::Slash))
    });
    tokens
}

fn token() -> impl Strategy<Value = Token> {
    let chars = || prop_oneof![Just('+'), Just('a'), Just('b'), Just('\u{e9}'), Just('\u{20ac}')];
    let range = (chars(), chars()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let class = (any::<bool>(), vec(range, 1..3), vec(prop_oneof![Just(0xff_u8), Just(0xa9)], 0..2))
        .prop_map(|(negated, chars, bytes)| Token::Class { negated, chars, bytes });
    let leaf = prop_oneof![
        4 => proptest::sample::select(LITERALS.to_vec()).prop_map(Token::Literal),
        2 => Just(Token::One),
        2 => Just(Token::Some),
        1 => Just(Token::All),
        2 => Just(Token::Slash),
        2 => class,
    ];
    leaf.prop_recursive(3, 12, 3, |inner| vec(vec(inner, 0..3).prop_map(tidied), 1..4).prop_map(Token::Either))
}

fn tree() -> impl Strategy<Value = Tree> {
    let tokens = vec(token(), 1..6).prop_map(|mut tokens| {
        // A slash at either end has a meaning of its own.
        let is_slash = |t: Option<&Token>| matches!(t, Some(Token::Slash));
        while is_slash(tokens.last()) {
            tokens.pop();
        }
        while is_slash(tokens.first()) {
            tokens.remove(0);
        }
        tidied(tokens)
    });
    let tokens = tokens.prop_filter("something is left", |tokens| !tokens.is_empty());
    (any::<bool>(), tokens, any::<bool>(), proptest::bool::weighted(0.2)).prop_map(
        |(anchored, tokens, directories, with_contents)| Tree {
            anchored,
            tokens,
            directories: directories && !with_contents,
            with_contents,
        },
    )
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = vec(proptest::sample::select(PIECES.to_vec()), 1..4).prop_map(|pieces| pieces.concat());
    vec(name, 1..4).prop_map(|names| names.join(&b'/'))
}

fn matcher(rules: Vec<Rule>) -> Matcher {
    Matcher::new(&Filter { rules, ..Filter::default() }).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn globs_match_what_their_description_says(tree in tree(), paths in vec((path(), any::<bool>()), 1..12)) {
        let pattern = tree.spelled();
        let matcher = matcher(vec![Rule { include: false, syntax: Syntax::Glob, pattern: pattern.clone() }]);
        for (path, is_directory) in paths {
            let kind = if is_directory { Kind::Directory } else { Kind::File };
            let whole = RelPath::parse(path.clone()).unwrap();
            let (dir, name) = whole.split_last();
            prop_assert_eq!(!matcher.takes(&dir, name.unwrap(), kind), tree.matches(&path, kind),
                "pattern {} path {}", crate::model::escaped(&pattern), crate::model::escaped(&path));
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_understood_or_refused_with_a_position_in_them(pattern in vec(prop_oneof![
        proptest::sample::select(b"[]{}!^-*?/\\,.:a".to_vec()), any::<u8>()], 0..20), regex: bool) {
        let syntax = if regex { Syntax::Regex } else { Syntax::Glob };
        if let Err(e) = (Rule { include: true, syntax, pattern: pattern.clone() }).check() {
            prop_assert!(e.position.is_some_and(|at| (1..=pattern.len() + 1).contains(&at)), "{}", e);
            prop_assert!(!e.why.is_empty() && !e.why.chars().any(char::is_control));
        }
    }

    #[test]
    fn rules_are_tried_in_order_and_always_decide_alike(
        trees in vec((any::<bool>(), tree()), 0..6), path in path(), is_directory: bool,
    ) {
        let rules: Vec<Rule> = trees.iter()
            .map(|(include, tree)| Rule { include: *include, syntax: Syntax::Glob, pattern: tree.spelled() }).collect();
        let filter = Filter { rules, ..Filter::default() };
        let mut bytes = Vec::new();
        bincode::serde::encode_into_std_write(&filter, &mut bytes, bincode::config::standard()).unwrap();
        let (again, _): (Filter, _) = bincode::serde::decode_from_slice(&bytes, bincode::config::standard()).unwrap();
        prop_assert_eq!(&again, &filter);
        let text = serde_json::to_string(&filter).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Filter>(&text).unwrap(), &filter);
        let (here, there) = (Matcher::new(&filter).unwrap(), Matcher::new(&again).unwrap());
        let kind = if is_directory { Kind::Directory } else { Kind::File };
        let whole = RelPath::parse(path.clone()).unwrap();
        let (dir, name) = whole.split_last();
        let taken = here.takes(&dir, name.unwrap(), kind);
        prop_assert_eq!(taken, there.takes(&dir, name.unwrap(), kind));
        prop_assert_eq!(taken, here.takes(&dir, name.unwrap(), kind));
        let only_included = !trees.is_empty() && trees.iter().all(|(include, _)| *include);
        let decided = trees.iter().find(|(_, tree)| tree.matches(&path, kind));
        prop_assert_eq!(taken, decided.map_or(is_directory || !only_included, |(include, _)| *include));
    }
}
