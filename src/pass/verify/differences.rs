//! What differs between two elements, in words.

use super::finding;
use super::look::Look;
use crate::fs::Xattrs;
use crate::model::fingerprint::Element;
use crate::model::{Finding, Kind, Project, Report, Timestamp, escaped};
use crate::pass::copy::wanted_project;

/// A value of an attribute is shown up to so many bytes.
const SHOWN_BYTES: usize = 40;

/// Counts and lists an entry that is a directory in one tree only.
pub(super) fn list_kinds(path: Vec<u8>, [source, target]: [Kind; 2], report: &mut Report) {
    report.totals.different += 1;
    report.findings.push(finding(path, "kind", source.noun(), target.noun()));
}

/// All differences between what is and what should be.
pub(super) fn differences(path: &[u8], want: &Element<'_>, have: &Element<'_>, looks: [&Look; 2]) -> Vec<Finding> {
    let mut all = Vec::new();
    if want.kind != have.kind {
        all.push(finding(path.to_vec(), "kind", want.kind.noun(), have.kind.noun()));
        return all; // nothing else can be compared
    }
    let mut differ = |what: &str, expected: String, found: String| {
        if expected != found {
            all.push(finding(path.to_vec(), what, expected, found));
        }
    };
    differ("size", number(want.size), number(have.size));
    differ("target", link(want.link), link(have.link));
    differ("device", device(want.rdev), device(have.rdev));
    differ("mode", mode(want.mode), mode(have.mode));
    differ("owner", number(want.owner.map(|o| o.0.into())), number(have.owner.map(|o| o.0.into())));
    differ("group", number(want.owner.map(|o| o.1.into())), number(have.owner.map(|o| o.1.into())));
    differ("mtime", time(want.mtime), time(have.mtime));
    let [source, target] = looks;
    if let Some((want, have)) = wanted_project(source.metadata.kind, source.project).zip(target.project) {
        differ("project", project(want), project(have));
    }
    compare_xattrs(&source.xattrs, &target.xattrs, true, &mut |f: [String; 3]| all.push(named(path, f)));
    compare_xattrs(&source.labels, &target.labels, false, &mut |f: [String; 3]| all.push(named(path, f)));
    all
}

fn named(path: &[u8], [what, expected, found]: [String; 3]) -> Finding {
    Finding { path: path.to_vec(), what, expected, found }
}

/// By name; what only the target has counts if `exact`.
fn compare_xattrs(want: &Xattrs, have: &Xattrs, exact: bool, differ: &mut dyn FnMut([String; 3])) {
    let of = |all: &Xattrs, name: &[u8]| all.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    for (name, value) in want {
        let there = of(have, name);
        if there.as_ref() != Some(value) {
            differ([word(name), shown(Some(value), there.as_ref()), shown(there.as_ref(), Some(value))]);
        }
    }
    for (name, value) in have.iter().filter(|(name, _)| exact && of(want, name).is_none()) {
        differ([word(name), "none".into(), shown(Some(value), None)]);
    }
}

fn word(name: &[u8]) -> String {
    match name {
        b"system.posix_acl_access" => "access ACL".into(),
        b"system.posix_acl_default" => "default ACL".into(),
        _ => format!("xattr {}", escaped(name)),
    }
}

/// A value; from a little before where it differs from another, if it is long.
fn shown(value: Option<&Vec<u8>>, other: Option<&Vec<u8>>) -> String {
    let Some(value) = value else { return "none".into() };
    if value.len() <= SHOWN_BYTES {
        return format!("\"{}\"", escaped(value));
    }
    let alike = other.map_or(0, |o| o.iter().zip(value).take_while(|(a, b)| a == b).count());
    let from = alike.min(value.len() - 1).saturating_sub(4);
    let part = &value[from..value.len().min(from + SHOWN_BYTES)];
    format!("{} bytes, from byte {from} on \"{}\"", value.len(), escaped(part))
}

fn number(n: Option<u64>) -> String {
    n.map(|n| n.to_string()).unwrap_or_default()
}

fn mode(mode: Option<u32>) -> String {
    mode.map(|m| format!("{m:04o}")).unwrap_or_default()
}

fn link(target: Option<&[u8]>) -> String {
    target.map(escaped).unwrap_or_default()
}

fn device(rdev: Option<u64>) -> String {
    rdev.map(|d| format!("{}:{}", rustix::fs::major(d), rustix::fs::minor(d))).unwrap_or_default()
}

fn project(project: Project) -> String {
    format!("{}{}", project.id, if project.inherit { ", handed down" } else { "" })
}

/// RFC 3339 would hide what filesystems keep beyond its years.
fn time(t: Option<Timestamp>) -> String {
    t.map(|t| format!("{}.{:09}", t.sec, t.ns)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_that_differ_never_look_alike() {
        let (a, mut b) = (vec![b'x'; 300], vec![b'x'; 300]);
        b[200] = b'y';
        assert_ne!(shown(Some(&a), Some(&b)), shown(Some(&b), Some(&a)));
        assert!(shown(Some(&b), Some(&a)).contains("from byte 196 on \"xxxxy"));
        assert_ne!(shown(Some(&a), None), "none");
    }

    #[test]
    fn labels_may_be_more_in_the_target_but_not_fewer() {
        let label = |v: &[u8]| (b"security.selinux".to_vec(), v.to_vec());
        let count = |want: Xattrs, have: Xattrs| {
            let mut n = 0;
            compare_xattrs(&want, &have, false, &mut |_| n += 1);
            n
        };
        assert_eq!(count(vec![], vec![label(b"a")]), 0);
        assert_eq!(count(vec![label(b"a")], vec![]), 1);
        assert_eq!(count(vec![label(b"a")], vec![label(b"b")]), 1);
    }
}
