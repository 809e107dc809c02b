//! What filters decide, said by hand.

use super::*;
use crate::model::{Metadata, RelPath};

fn rule(include: bool, syntax: Syntax, pattern: &[u8]) -> Rule {
    Rule { include, syntax, pattern: pattern.to_vec() }
}

fn exclude(pattern: &[u8]) -> Rule {
    rule(false, Syntax::Glob, pattern)
}

fn include(pattern: &[u8]) -> Rule {
    rule(true, Syntax::Glob, pattern)
}

fn with_rules(rules: Vec<Rule>) -> Matcher {
    Matcher::new(&Filter { rules, ..Filter::default() }).unwrap()
}

/// A path that ends with a slash is a directory's.
fn takes(matcher: &Matcher, path: &[u8]) -> bool {
    let (path, kind) = path.strip_suffix(b"/").map_or((path, Kind::File), |path| (path, Kind::Directory));
    let path = RelPath::parse(path.to_vec()).unwrap();
    let (dir, name) = path.split_last();
    matcher.takes(&dir, name.unwrap(), kind)
}

fn matches(rule: Rule, path: &[u8]) -> bool {
    !takes(&with_rules(vec![Rule { include: false, ..rule }]), path)
}

/// Pattern; what it matches; what it does not.
type Row<'a> = (&'a [u8], &'a [&'a [u8]], &'a [&'a [u8]]);

fn check(syntax: Syntax, rows: &[Row<'_>]) {
    for (pattern, yes, no) in rows {
        for (paths, expected) in [(yes, true), (no, false)] {
            for path in *paths {
                let got = matches(rule(false, syntax, pattern), path);
                assert_eq!(got, expected, "pattern {} path {}", escaped(pattern), escaped(path));
            }
        }
    }
}

#[test]
fn globs_mean_what_users_of_rsync_and_rclone_expect() {
    check(
        Syntax::Glob,
        &[
            (b"core", &[b"core", b"a/b/core", b"core/"], &[b"core2", b"a/core/x", b"Core"]),
            (b"*.o", &[b"x.o", b"a/.o", b"d.o/"], &[b"x.obj", b"x.o/y"]),
            (b"tmp*", &[b"tmp", b"a/tmp.1"], &[b"xtmp", b"tmp/a"]),
            (b"*", &[b"a", b"a/b", b"d/"], &[]),
            (b"a?c", &[b"abc", b"x/a.c", "a\u{e9}c".as_bytes(), b"a\xffc"], &[b"ac", b"abbc", b"a/c"]),
            (b"/a", &[b"a", b"a/"], &[b"b/a", b"a/b"]),
            (b"/a/b", &[b"a/b"], &[b"x/a/b", b"b", b"a/b/c"]),
            (b"/a/*", &[b"a/b", b"a/c/"], &[b"a", b"a/b/c", b"x/a/b"]),
            (b"a/b", &[b"a/b", b"x/a/b"], &[b"xa/b", b"a/b/c", b"b"]),
            (b"cache/", &[b"cache/", b"x/cache/"], &[b"cache", b"cache/x"]),
            (b"/x/cache/", &[b"x/cache/"], &[b"cache/", b"x/cache", b"y/x/cache/"]),
            (b"dir/**", &[b"dir/a", b"dir/a/b", b"x/dir/a/"], &[b"dir/", b"dir", b"xdir/a"]),
            (b"dir/***", &[b"dir/", b"dir/a", b"dir/a/b/", b"x/dir/"], &[b"dir", b"xdir/", b"dirs/a"]),
            (b"/dir/***", &[b"dir/", b"dir/a"], &[b"x/dir/", b"x/dir/a"]),
            (b"/a/**/z", &[b"a/b/z", b"a/b/c/z"], &[b"a/z", b"x/a/b/z"]),
            (b"**/z", &[b"z", b"a/z", b"a/b/z/"], &[b"az", b"z/a"]),
            (b"a**z", &[b"az", b"a/b/z", b"x/a/z", b"abcz"], &[b"ba/z", b"a/zz/b"]),
            (b"**", &[b"a", b"a/b", b"d/"], &[]),
        ],
    );
}

#[test]
fn classes_alternatives_and_quoting() {
    check(
        Syntax::Glob,
        &[
            (b"[a-c]x", &[b"ax", b"cx"], &[b"dx", b"x", b"aax"]),
            (b"[!a-c]x", &[b"dx", "\u{e9}x".as_bytes(), b"\xffx"], &[b"ax", b"x"]),
            (b"[^a]", &[b"b"], &[b"a"]),
            (b"[]a]", &[b"]", b"a"], &[b"b"]),
            (b"[!]a]", &[b"b"], &[b"]", b"a"]),
            (b"[a-]", &[b"a", b"-"], &[b"b"]),
            (b"[\\]\\\\]", &[b"]", b"\\"], &[b"x"]),
            (b"[[:digit:][:upper:]_]", &[b"7", b"Q", b"_"], &[b"q", b":", b"["]),
            (b"x[+-9]y", &[b"x.y", b"x0y"], &[b"x/y", b"xAy"]),
            ("[\u{e0}-\u{fc}]".as_bytes(), &["\u{e9}".as_bytes()], &[b"e", b"\xe9", b"\xc3"]),
            (b"[\xe0-\xff]", &[b"\xe9"], &["\u{e9}".as_bytes(), b"e"]),
            (b"*.{jpg,jp{e,}g2,png}", &[b"a.jpg", b"a.jpeg2", b"a.jpg2", b"a.png"], &[b"a.jp", b"a.", b"a.jpg,"]),
            (b"/{a,b/c}/x", &[b"a/x", b"b/c/x"], &[b"c/x", b"y/a/x"]),
            (b"a,b", &[b"a,b"], &[b"a", b"b"]),
            (b"\\*", &[b"*"], &[b"a"]),
            (b"\\{a\\}", &[b"{a}"], &[b"a"]),
            (b"a\\\\b", &[b"a\\b"], &[b"ab"]),
            (b"n\n*", &[b"n\nx"], &[b"nx"]),
            (b"\xff*", &[b"\xff", b"\xffa"], &["\u{ff}".as_bytes()]),
            ("\u{e9}?".as_bytes(), &["\u{e9}\u{e9}".as_bytes(), b"\xc3\xa9\xff"], &["\u{e9}".as_bytes()]),
            (b"??", &[b"ab"], &["\u{e9}".as_bytes(), b"a"]),
        ],
    );
}

#[test]
fn regexes_are_looked_for_in_the_path() {
    check(
        Syntax::Regex,
        &[
            (b"ab", &[b"ab", b"xabx", b"ab/c", b"c/ab/"], &[b"a/b", b"AB"]),
            (b"^a$", &[b"a"], &[b"a/", b"b/a"]),
            (b"^a/$", &[b"a/"], &[b"a", b"b/a/"]),
            (b"(^|/)\\.git/$", &[b".git/", b"x/.git/"], &[b".git", b"x.git/"]),
            (b"(?i)\\.bak$", &[b"x.BAK"], &[b"x.bak/"]),
            (b"^a.b$", &[b"a\nb", "a\u{e9}b".as_bytes(), b"a\xffb"], &[b"abb/"]),
            ("^[\u{e0}-\u{fc}]$".as_bytes(), &["\u{e9}".as_bytes()], &[b"\xe9"]),
            (b"^\\p{Lu}", &["\u{c9}t\u{e9}".as_bytes()], &["\u{e9}t".as_bytes()]),
            (b"^[\xe0-\xfc]$", &[b"\xe9"], &["\u{e9}".as_bytes()]),
        ],
    );
}

#[test]
fn the_first_rule_that_matches_decides() {
    let m = with_rules(vec![include(b"keep.tmp"), exclude(b"*.tmp"), include(b"*.c"), exclude(b"/src/*")]);
    assert!(takes(&m, b"keep.tmp") && takes(&m, b"src/a.c") && takes(&m, b"other"));
    assert!(!takes(&m, b"a.tmp") && !takes(&m, b"src/a.h") && !takes(&m, b"src/lib/"));
}

#[test]
fn includes_alone_leave_out_the_rest_but_directories() {
    let m = with_rules(vec![include(b"*.c"), rule(true, Syntax::Regex, b"^doc/")]);
    assert!(takes(&m, b"x/a.c") && takes(&m, b"doc/a") && takes(&m, b"x/"));
    assert!(!takes(&m, b"x/a.h") && !takes(&m, b"x/doc/a"));
}

#[test]
fn parents_of_a_named_entry_have_a_say() {
    let m = with_rules(vec![exclude(b"cache/")]);
    for (path, taken) in [(&b""[..], true), (b"a/b", true), (b"cache", false), (b"a/cache/b/c", false)] {
        assert_eq!(m.takes_with_parents(&RelPath::parse(path.to_vec()).unwrap()), taken, "{}", escaped(path));
    }
}

#[test]
fn what_cannot_be_understood_is_named_with_its_position() {
    for (rule, message) in [
        (exclude(b"a[b"), "--exclude 'a[b': position 2: this '[' is never closed; a plain one is written '\\['"),
        (
            exclude(b"\x1b[31m["),
            "--exclude '\\x1b[31m[': position 2: this '[' is never closed; a plain one is written '\\['",
        ),
        (include(b"{a,{b}"), "--include '{a,{b}': position 1: this '{' is never closed; a plain one is written '\\{'"),
        (exclude(b"a}"), "--exclude 'a}': position 2: this '}' closes nothing; a plain one is written '\\}'"),
        (exclude(b"abc\\"), "--exclude 'abc\\\\': position 4: this '\\' quotes nothing; a plain one is written '\\\\'"),
        (exclude(b"x[z-a]"), "--exclude 'x[z-a]': position 3: this range ends before it begins"),
        (exclude(b""), "--exclude '': position 1: an empty pattern matches nothing"),
        (exclude(b"/"), "--exclude '/': position 1: the root itself always takes part"),
        (exclude(b"a//b"), "--exclude 'a//b': position 3: two slashes in a row never match"),
        (exclude(b"a//"), "--exclude 'a//': position 3: two slashes in a row never match"),
        (exclude(b"//***"), "--exclude '//***': position 2: two slashes in a row never match"),
        (exclude(b"a/../b"), "--exclude 'a/../b': position 3: no path has a component '.' or '..'"),
        (exclude(b"./a"), "--exclude './a': position 1: no path has a component '.' or '..'"),
    ] {
        let filter = Filter { rules: vec![include(b"fine"), rule], ..Filter::default() };
        assert_eq!(Matcher::new(&filter).unwrap_err().to_string(), message);
    }
    let wrong = rule(false, Syntax::Glob, b"x[[:digits:]]").check().unwrap_err();
    assert_eq!((wrong.position, wrong.why.split(':').next()), (Some(3), Some("no such class")));
    let nested = [b"{".repeat(100), b"}".repeat(100)].concat();
    assert_eq!(exclude(&nested).check().unwrap_err().position, Some(17));
}

#[test]
fn a_regex_that_cannot_be_understood_is_named_with_its_position() {
    for (pattern, position) in [(&b"ab(c"[..], 3), (b"a**{", 4), (b"\xff\xff[z", 3), ("\u{e9}(".as_bytes(), 3)] {
        let error = rule(false, Syntax::Regex, pattern).check().unwrap_err();
        assert_eq!(error.position, Some(position), "{} {error}", escaped(pattern));
    }
    let huge = rule(false, Syntax::Regex, b"(?:a{1000}){1000}").check().unwrap_err();
    assert!(huge.to_string().contains("bytes"), "{huge}");
}

#[test]
fn too_many_patterns_are_refused_at_once() {
    let filter = Filter { rules: vec![exclude(&[b'a'; 1024]); 1025], ..Filter::default() };
    assert_eq!(Matcher::new(&filter).unwrap_err(), FilterError::TooLarge(1025 * 1024));
}

fn entry(kind: Kind, size: u64, sec: i64) -> Metadata {
    let time = |more| Timestamp { sec: sec + more, ns: 5 };
    let (atime, mtime, ctime) = (time(100), time(0), time(200));
    let (mode, uid, gid, blocks_512, nlink, dev, ino, rdev) = (0o644, 0, 0, 0, 1, 1, 1, 0);
    Metadata { kind, mode, uid, gid, size, blocks_512, nlink, dev, ino, rdev, atime, mtime, ctime }
}

#[test]
fn sizes_are_of_regular_files_and_bounds_belong() {
    let m = Matcher::new(&Filter { min_size: Some(10), max_size: Some(20), ..Filter::default() }).unwrap();
    assert!(m.needs_metadata());
    for (size, taken) in [(0, false), (9, false), (10, true), (20, true), (21, false)] {
        assert_eq!(m.takes_metadata(&entry(Kind::File, size, 0)), taken, "{size}");
        assert!(m.takes_metadata(&entry(Kind::Symlink, size, 0)));
        assert!(m.takes_metadata(&entry(Kind::Directory, size, 0)));
    }
}

#[test]
fn ages_are_of_everything_but_directories() {
    let at = Timestamp { sec: 1000, ns: 5 };
    let old = |age_by| Matcher::new(&Filter { older_than: Some(at), age_by, ..Filter::default() }).unwrap();
    let new = |age_by| Matcher::new(&Filter { newer_than: Some(at), age_by, ..Filter::default() }).unwrap();
    for (age_by, sec) in [(AgeBy::Mtime, 1000), (AgeBy::Atime, 900), (AgeBy::Ctime, 800)] {
        for kind in [Kind::File, Kind::Symlink, Kind::Fifo] {
            for (earlier, is_old) in [(1, true), (0, false), (-1, false)] {
                let metadata = entry(kind, 0, sec - earlier);
                assert_eq!(old(age_by).takes_metadata(&metadata), is_old, "{age_by:?} {earlier}");
                assert_eq!(new(age_by).takes_metadata(&metadata), !is_old, "{age_by:?} {earlier}");
            }
        }
        assert!(old(age_by).takes_metadata(&entry(Kind::Directory, 0, sec + 9)));
    }
}

#[test]
fn kinds_and_depth() {
    let mut kinds = Kinds::default();
    assert!(kinds.insert_letter(b'f') && kinds.insert_letter(b'l') && !kinds.insert_letter(b'x'));
    let m = Matcher::new(&Filter { kinds: Some(kinds), max_depth: Some(2), ..Filter::default() }).unwrap();
    let (root, one, two) =
        (RelPath::root(), RelPath::parse(b"a".to_vec()).unwrap(), RelPath::parse(b"a/b".to_vec()).unwrap());
    for (kind, taken) in [(Kind::File, true), (Kind::Symlink, true), (Kind::Directory, true), (Kind::Fifo, false)] {
        assert_eq!((m.takes(&root, b"x", kind), m.takes(&one, b"x", kind)), (taken, taken), "{kind:?}");
        assert!(!m.takes(&two, b"x", kind));
    }
    assert_eq!((m.enters(&root), m.enters(&one), m.enters(&two)), (true, true, false));
    let nothing = Matcher::new(&Filter { max_depth: Some(0), ..Filter::default() }).unwrap();
    assert!(!nothing.enters(&root) && !nothing.takes(&root, b"x", Kind::Directory));
}

#[test]
fn a_filter_that_asks_for_nothing_takes_everything() {
    let m = Matcher::new(&Filter::default()).unwrap();
    assert!(Filter::default().is_empty() && !m.needs_metadata() && !m.one_file_system());
    assert!(takes(&m, b"a/\xff") && takes(&m, b"d/") && m.enters(&RelPath::root()));
}
