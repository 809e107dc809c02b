//! Who may import whom: every arrow between the crate's modules points to the right.

use std::fs;
use std::path::{Path, PathBuf};

/// From left to right; modules of one place do not know each other.
const ORDER: [&[&str]; 8] =
    [&["main"], &["cli"], &["web"], &["node"], &["actor"], &["pass"], &["fs", "broker", "telemetry"], &["model"]];
/// Arrows that are allowed within a place.
const BESIDE: [(&str, &str); 1] = [("broker", "telemetry")];
/// What everybody may import, and what imports nothing.
const FREE: [&str; 1] = ["exit_code"];

fn place(module: &str) -> Option<usize> {
    ORDER.iter().position(|modules| modules.contains(&module))
}

fn is_allowed(from: &str, to: &str) -> bool {
    let is_right = || place(from).zip(place(to)).is_some_and(|(from, to)| from < to);
    from == to || FREE.contains(&to) || BESIDE.contains(&(from, to)) || is_right()
}

/// The text without comments: a link in the documentation is no import.
fn without_comments(source: &str) -> String {
    let lines = source.lines().map(|line| line.find("//").map_or(line, |at| &line[..at]));
    lines.collect::<Vec<_>>().join("\n")
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The modules that a path's rest names first: one, or each of a `{group}`.
fn heads(rest: &str) -> Vec<&str> {
    let Some(group) = rest.strip_prefix('{') else { return vec![identifier(rest)] };
    let mut heads = Vec::new();
    let mut depth = 0_usize;
    let mut is_head = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_head = true,
            c if is_head && !c.is_whitespace() => {
                heads.push(identifier(&group[at..]));
                is_head = false;
            }
            _ => {}
        }
    }
    heads
}

/// The crate's modules that a file names, if its own module lies `depth` levels below the crate's root.
fn named_modules(source: &str, depth: usize) -> Vec<String> {
    let source = without_comments(source);
    let ways = ["crate::".to_owned(), "treehaul::".to_owned(), "super::".repeat(depth)];
    let is_start = |at: usize| !source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    let mut found = Vec::new();
    for way in ways.iter().filter(|way| !way.is_empty()) {
        for (at, _) in source.match_indices(way.as_str()).filter(|(at, _)| is_start(*at)) {
            found.extend(heads(&source[at + way.len()..]).into_iter().map(str::to_owned));
        }
    }
    found
}

/// Names of a file's module and those above it, the crate's root left out.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> = file.with_extension("").iter().map(|p| p.to_string_lossy().into_owned()).collect();
    path.pop_if(|last| last == "mod" || last == "lib");
    path
}

fn wrong_arrows(file: &Path, source: &str) -> Vec<String> {
    let path = module_path(file);
    let Some(from) = path.first() else { return Vec::new() };
    let depth = if from == "main" { 0 } else { path.len() };
    let is_module = |to: &String| place(to).is_some() || FREE.contains(&to.as_str());
    let named = named_modules(source, depth).into_iter().filter(is_module);
    named.filter(|to| !is_allowed(from, to)).map(|to| format!("{}: {from} -> {to}", file.display())).collect()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn every_arrow_points_to_the_right() {
    let mut wrong = Vec::new();
    for file in sources(&src()) {
        let source = fs::read_to_string(&file).unwrap();
        wrong.extend(wrong_arrows(file.strip_prefix(src()).unwrap(), &source));
    }
    assert!(wrong.is_empty(), "arrows that point left, or to a neighbour:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_place() {
    for file in sources(&src()) {
        if let Some(module) = module_path(file.strip_prefix(src()).unwrap()).first() {
            assert!(place(module).is_some() || FREE.contains(&module.as_str()), "{module} has no place in ORDER");
        }
    }
}

#[test]
fn a_wrong_arrow_is_found_however_it_is_written() {
    for (file, source, arrow) in [
        ("model/task.rs", "use crate::fs::Dir;", "model -> fs"),
        ("fs/mod.rs", "use crate::{\n    model::{Kind, Task}, broker::Broker,\n};", "fs -> broker"),
        ("telemetry/board.rs", "fn f() { crate::broker::open() }", "telemetry -> broker"),
        ("pass/copy/walk.rs", "use super::super::super::actor::Pool;", "pass -> actor"),
        ("broker/mod.rs", "use super::node;", "broker -> node"),
        ("exit_code.rs", "use crate::cli;", "exit_code -> cli"),
    ] {
        assert_eq!(wrong_arrows(Path::new(file), source), [format!("{file}: {arrow}")]);
    }
}

#[test]
fn a_right_arrow_is_let_through() {
    for (file, source) in [
        ("main.rs", "use treehaul::{cli, exit_code};"),
        ("cli/copy.rs", "use crate::{exit_code, model::Totals, node::alone};"),
        ("broker/amqp/mod.rs", "use crate::telemetry::Board;"),
        ("fs/posix/dir.rs", "use super::super::Dir; // crate::cli"),
        ("fs/mod.rs", "//! See [`crate::node`].\nuse crate::model::Kind;"),
        ("lib.rs", "pub mod cli;"),
    ] {
        assert_eq!(wrong_arrows(Path::new(file), source), Vec::<String>::new());
    }
}
