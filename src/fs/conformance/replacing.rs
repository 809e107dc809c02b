//! Targets: what becomes of an entry that stands where another one goes.

use super::*;

/// Everything that may stand in the way of a name.
const OBSTACLES: [&str; 6] = ["file", "link-to-dir", "link-to-nothing", "fifo", "empty-dir", "full-dir"];

/// Puts one of them at `old`, and beside it what a link leads to.
fn obstruct(target: &Target, obstacle: &str) -> Shown {
    let root = target.root();
    root.make_dir(b"beside").unwrap();
    let beside = root.open_dir(b"beside").unwrap();
    let mut kept = beside.create(b"kept", New::File, false).unwrap();
    kept.seal().unwrap();
    kept.publish(true).unwrap();
    match obstacle {
        "file" => {
            target.put("old", New::File, "old", false);
            file("old")
        }
        "link-to-dir" => {
            target.put("old", New::Symlink(b"beside"), "", false);
            to("beside")
        }
        "link-to-nothing" => {
            target.put("old", New::Symlink(b"nothing"), "", false);
            to("nothing")
        }
        "fifo" => {
            target.put("old", FIFO, "", false);
            Shown::Other(Kind::Fifo)
        }
        _ => {
            root.make_dir(b"old").unwrap();
            Shown::Directory
        }
    }
}

fn fill_directory(target: &Target) {
    let mut dir = target.root().open_dir(b"old").unwrap();
    for level in 0..5_u8 {
        for name in [b"f0", b"f1"] {
            let mut new = dir.create(name, New::File, false).unwrap();
            new.seal().unwrap();
            new.publish(false).unwrap();
        }
        let name = [b'd', b'0' + level];
        dir.make_dir(&name).unwrap();
        dir = dir.open_dir(&name).unwrap();
    }
}

#[test]
fn what_stands_under_a_name_is_left_alone_unless_it_is_to_be_replaced() {
    for obstacle in OBSTACLES {
        for target in targets() {
            let old = obstruct(&target, obstacle);
            for what in [New::File, New::Symlink(b"new"), FIFO] {
                let made = target.put("old", what, "new", false);
                if !target.fs.traits().forgets {
                    assert_eq!(made, Made::Existed, "{} {what:?} over {obstacle}", target.adapter);
                    let direct = target.root().create(b"old", what, true);
                    assert_eq!(direct.err().map(|e| e.errno), Some(libc::EEXIST), "{} {what:?}", target.adapter);
                }
            }
            target.holds(&[("beside", Shown::Directory), ("beside/kept", file("")), ("old", old)]);
        }
    }
}

#[test]
fn anything_is_replaced_by_anything() {
    for obstacle in OBSTACLES {
        for what in [New::File, New::Symlink(b"beside/kept"), FIFO] {
            for target in targets() {
                obstruct(&target, obstacle);
                if obstacle == "full-dir" {
                    fill_directory(&target);
                }
                target.put("old", what, "new", true);
                let new = match what {
                    New::File | New::LaidOut(_) => file("new"),
                    New::Symlink(_) => to("beside/kept"),
                    New::Node(kind, _) => Shown::Other(kind),
                };
                target.holds(&[("beside", Shown::Directory), ("beside/kept", file("")), ("old", new)]);
            }
        }
    }
}

#[test]
fn a_directory_takes_the_place_of_anything_but_a_directory() {
    for obstacle in OBSTACLES {
        for target in targets() {
            obstruct(&target, obstacle);
            let made = target.root().make_dir(b"old").unwrap();
            if !target.fs.traits().forgets {
                let want =
                    if obstacle.ends_with("-dir") && !obstacle.starts_with("link") { Made::Existed } else { Made::New };
                assert_eq!(made, want, "{} {obstacle}", target.adapter);
                assert_eq!(target.root().stat(b"old").unwrap().mode, 0o700, "{} {obstacle}", target.adapter);
            }
            target.holds(&[("beside", Shown::Directory), ("beside/kept", file("")), ("old", Shown::Directory)]);
        }
    }
}

#[test]
fn a_link_takes_the_place_of_anything_if_it_is_to_replace() {
    for obstacle in OBSTACLES {
        for target in targets() {
            let root = target.root();
            obstruct(&target, obstacle);
            if obstacle == "full-dir" {
                fill_directory(&target);
            }
            target.put("first", New::File, "data", false);
            root.link(b"old", &*root, b"first", true).unwrap();
            let beside = [("beside", Shown::Directory), ("beside/kept", file(""))];
            let mut want = Vec::from(beside);
            want.extend([("first", file("data")), ("old", file("data"))]);
            target.holds(&want);
        }
    }
}

#[test]
fn anything_is_removed_and_nothing_beside_it() {
    for obstacle in OBSTACLES {
        for target in targets() {
            obstruct(&target, obstacle);
            if obstacle == "full-dir" {
                fill_directory(&target);
            }
            target.root().remove(b"old").unwrap_or_else(|e| panic!("{} {obstacle}: {e}", target.adapter));
            target.holds(&[("beside", Shown::Directory), ("beside/kept", file(""))]);
            if !target.fs.traits().forgets {
                assert_eq!(class(target.root().remove(b"old")), Some(Class::Vanished), "{}", target.adapter);
            }
        }
    }
}

#[test]
fn several_may_replace_one_name_at_once() {
    for target in targets() {
        obstruct(&target, "full-dir");
        fill_directory(&target);
        let publish = || target.put("old", New::File, "data", true);
        std::thread::scope(|s| [(); 8].map(|()| s.spawn(publish)).map(|t| t.join().unwrap()));
        target.holds(&[("beside", Shown::Directory), ("beside/kept", file("")), ("old", file("data"))]);
    }
}

#[test]
fn any_entry_but_a_directory_is_unlinked_and_only_an_empty_directory_is_removed() {
    for obstacle in OBSTACLES {
        for target in targets() {
            let old = obstruct(&target, obstacle);
            if obstacle == "full-dir" {
                fill_directory(&target);
            }
            if target.fs.traits().forgets {
                continue;
            }
            let root = target.root();
            if old == Shown::Directory {
                assert_eq!(class(root.unlink(b"old")), Some(Class::OtherKind), "{obstacle}");
                assert_eq!(root.remove_empty_dir(b"old"), Ok(obstacle == "empty-dir"));
                assert_eq!(root.stat(b"old").is_ok(), obstacle == "full-dir");
            } else {
                assert_eq!(class(root.remove_empty_dir(b"old")), Some(Class::OtherKind), "{obstacle}");
                root.unlink(b"old").unwrap();
                target.holds(&[("beside", Shown::Directory), ("beside/kept", file(""))]);
                assert_eq!(class(root.unlink(b"old")), Some(Class::Vanished));
                assert_eq!(class(root.remove_empty_dir(b"old")), Some(Class::Vanished));
            }
        }
    }
}

#[test]
fn a_new_directory_leaves_alone_whatever_has_its_name() {
    for obstacle in OBSTACLES {
        for target in targets() {
            let old = obstruct(&target, obstacle);
            let made = target.root().make_new_dir(b"old").unwrap();
            if !target.fs.traits().forgets {
                assert_eq!(made, Made::Existed, "{} {obstacle}", target.adapter);
                assert_eq!(target.root().make_new_dir(b"new"), Ok(Made::New));
                assert_eq!(target.root().stat(b"new").unwrap().mode, 0o700);
                let beside = [("beside", Shown::Directory), ("beside/kept", file("")), ("new", Shown::Directory)];
                target.holds(&Vec::from_iter(beside.into_iter().chain([("old", old)])));
            }
        }
    }
}

#[test]
fn an_entry_moves_to_a_name_that_is_free_and_to_no_other() {
    for obstacle in OBSTACLES {
        for target in targets() {
            obstruct(&target, obstacle);
            let root = target.root();
            target.put("moved", New::File, "data", false);
            let made = root.move_to(b"moved", &*root, b"old");
            if target.fs.traits().forgets {
                assert_eq!(made, Ok(Made::New));
                continue;
            }
            assert_eq!(made, Ok(Made::Existed), "{obstacle}");
            let beside = root.open_dir(b"beside").unwrap();
            assert_eq!(root.move_to(b"moved", &*beside, b"kept"), Ok(Made::Existed));
            assert_eq!(root.move_to(b"moved", &*beside, b"free"), Ok(Made::New));
            assert_eq!(class(root.move_to(b"moved", &*beside, b"free")), Some(Class::Vanished));
            assert_eq!(read_all(&*beside.open_file(b"free").unwrap()), b"data");
            assert_eq!(read_all(&*beside.open_file(b"kept").unwrap()), b"");
            let moved = root.move_to(b"old", &*beside, b"was old");
            if obstacle.ends_with("-dir") && !obstacle.starts_with("link") {
                assert_eq!(class(moved), Some(Class::OtherKind), "{obstacle}");
            } else {
                assert_eq!(moved, Ok(Made::New), "{obstacle}");
                assert_eq!(class(root.stat(b"old")), Some(Class::Vanished));
                assert!(beside.stat(b"was old").is_ok());
            }
        }
    }
}

#[test]
fn an_entry_moves_into_another_root_of_the_same_adapter_and_no_other() {
    for target in targets() {
        for other in targets().into_iter().filter(|_| !target.fs.traits().forgets) {
            let _ = target.root().remove(b"moved"); // one that could not be moved
            target.put("moved", New::Symlink(b"nowhere"), "", false);
            let moved = target.root().move_to(b"moved", &*other.root(), b"here");
            // A layer does not make an adapter another one.
            if other.seen_at.is_some() == target.seen_at.is_some() {
                assert_eq!(moved, Ok(Made::New));
                other.holds(&[("here", to("nowhere"))]);
            } else {
                assert_eq!(moved.map_err(|e| e.errno), Err(libc::EXDEV));
            }
        }
    }
}
