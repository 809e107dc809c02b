//! Hard links in numbers: many groups, many names of one inode, and groups that change between passes.

use crate::hosts::*;
use crate::support::*;
use std::path::Path;
use std::process::Command;

/// Groups of two to four names over many directories, and one inode with ten thousand names.
fn make_groups(root: &Path, groups: u64) {
    let script = r#"
import os, random, sys
root, groups = os.fsencode(sys.argv[1]), int(sys.argv[2])
r = random.Random(5)
dirs = [b'd%d/e%d' % (i % 40, i) for i in range(200)]
for d in dirs: os.makedirs(os.path.join(root, d))
def path(name): return os.path.join(root, r.choice(dirs), name)
for g in range(groups):
    first = path(b'g%d' % g)
    with open(first, 'wb') as f: f.write(b'%d' % g)
    os.utime(first, ns=(10**18 + g, 10**18 + g))
    for n in range(r.randrange(1, 4)): os.link(first, path(b'g%d-%d' % (g, n)))
many = path(b'many')
with open(many, 'wb') as f: f.write(b'one inode')
for n in range(9999): os.link(many, path(b'many-%d' % n))
"#;
    let ran = run(Command::new("python3").args(["-c", script]).arg(root).arg(groups.to_string()));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// Splits some groups, merges others, lets others grow, all between directories.
fn change_groups(root: &Path) {
    let script = r#"
import os, random, sys
root = os.fsencode(sys.argv[1])
r = random.Random(6)
names = sorted(os.path.join(d, f) for d, _, fs in os.walk(root) for f in fs)
for i, name in enumerate(r.sample(names, 600)):
    other = r.choice(names)
    if i % 3 == 0:      # split: a file of its own, with the same contents and times
        m = os.stat(name); data = open(name, 'rb').read()
        os.unlink(name)
        with open(name, 'wb') as f: f.write(data)
        os.utime(name, ns=(m.st_atime_ns, m.st_mtime_ns))
    elif i % 3 == 1:    # merged: a name of another inode instead
        if not os.path.samefile(name, other): os.unlink(name); os.link(other, name)
    else:               # grown
        os.link(name, name + b'-more')
"#;
    let ran = run(Command::new("python3").args(["-c", script]).arg(root));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn groups_of_hard_links_stay_groups_however_they_change() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    make_groups(&source, 20_000);
    copy_ok(&source, &target);
    assert_identical(&source, &target);
    let again = copy_ok(&source, &target);
    assert_eq!((again.total("copied"), again.total("updated")), (0, 0), "{}", again.stdout);
    change_groups(&source);
    copy_ok(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn groups_of_hard_links_stay_groups_over_three_workers() {
    let host = Host::new("links");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    make_groups(&source, 6_000);
    let _fleet = ["a", "b", "c"].map(|n| host.worker(n));
    for change in [false, true, false] {
        if change {
            change_groups(&source);
        }
        let ran = run(&mut host.copy(&source, &target));
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        assert_identical(&source, &target);
    }
}
