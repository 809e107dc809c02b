//! What every adapter that can be a target does.

use super::*;

#[test]
fn a_directory_is_made_once() {
    for target in targets() {
        let root = target.root();
        assert_eq!(root.make_dir(b"d"), Ok(Made::New), "{}", target.adapter);
        if !target.fs.traits().forgets {
            assert_eq!(root.make_dir(b"d"), Ok(Made::Existed), "{}", target.adapter);
            assert_eq!(root.stat(b"d").unwrap().mode, 0o700, "{}", target.adapter);
        }
        let below = root.open_dir(b"d").unwrap();
        below.make_dir(b"e").unwrap();
        target.fs.open_dir(&RelPath::parse(b"d/e".to_vec()).unwrap()).unwrap();
        target.holds(&[("d", Shown::Directory), ("d/e", Shown::Directory)]);
    }
}

#[test]
fn what_is_dropped_before_it_is_published_leaves_nothing() {
    for target in targets() {
        for what in [New::File, New::Symlink(b"x"), FIFO] {
            for direct in [false, true] {
                for sealed in [false, true] {
                    let mut new = target.root().create(b"name", what, direct).unwrap();
                    if what == New::File {
                        new.fill_from(&Bytes::of("contents"), true, &|_| ()).unwrap();
                    }
                    if sealed {
                        new.seal().unwrap();
                    }
                    drop(new);
                    target.holds(&[]);
                }
            }
        }
    }
}

#[test]
fn what_is_published_has_its_contents_and_attributes() {
    let (atime, mtime) =
        (Timestamp { sec: 1_000_000_000, ns: 987_654_321 }, Timestamp { sec: 1_500_000_000, ns: 123_456_789 });
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for target in targets() {
        let root = target.root();
        for (name, what) in [(&b"file"[..], New::File), (b"link", New::Symlink(b"to/nowhere")), (b"fifo", FIFO)] {
            let mut new = root.create(name, what, false).unwrap();
            if what == New::File {
                assert_eq!(new.fill_from(&Bytes::of("contents"), true, &|_| ()), Ok(8));
            }
            let mut has_xattr = false;
            for _twice in 0..2 {
                new.set_owner(Some(me.0), Some(me.1)).unwrap();
                has_xattr = match new.set_xattr(b"user.colour", b"blue") {
                    Ok(()) => true,
                    // Linux gives user attributes to files and directories only.
                    Err(e) if e.class() == Class::Unsupported => false,
                    Err(e) => panic!("{}: {e}", target.adapter),
                };
                if has_xattr {
                    new.set_xattr(b"user.gone", b"x").unwrap();
                    new.remove_xattr(b"user.gone").unwrap();
                    new.remove_xattr(b"user.gone").unwrap();
                }
                new.set_mode(0o2751).unwrap();
                new.set_times(atime, mtime).unwrap();
            }
            new.seal().unwrap();
            assert_eq!(new.publish(false), Ok(Made::New));
            if target.fs.traits().forgets {
                continue;
            }
            let m = root.stat(name).unwrap();
            assert_eq!((m.uid, m.gid), me);
            assert_eq!((m.atime, m.mtime), (target.fs.traits().kept(atime), target.fs.traits().kept(mtime)));
            if what != New::Symlink(b"to/nowhere") {
                assert_eq!(m.mode, 0o2751);
            }
            let xattrs = root.xattrs(name).unwrap();
            let users: Vec<_> = xattrs.into_iter().filter(|(name, _)| name.starts_with(b"user.")).collect();
            let want = if has_xattr { vec![(b"user.colour".to_vec(), b"blue".to_vec())] } else { Vec::new() };
            assert_eq!(users, want, "{} {what:?}", target.adapter);
        }
        target.holds(&[("fifo", Shown::Other(Kind::Fifo)), ("file", file("contents")), ("link", to("to/nowhere"))]);
    }
}

#[test]
fn nobody_else_can_read_an_entry_while_it_is_made() {
    for target in targets() {
        for direct in [false, true] {
            let root = target.root();
            let mut new = root.create(b"secret", New::File, direct).unwrap();
            new.fill_from(&Bytes::of("secret"), true, &|_| ()).unwrap();
            let names = listed(&*root);
            assert!(names.len() <= 1);
            for name in names.keys() {
                assert_eq!(root.stat(name).unwrap().mode, 0o600, "{}", target.adapter);
                assert_eq!(direct, name == b"secret", "{}", target.adapter);
            }
        }
    }
}

#[test]
fn a_direct_entry_has_its_name_at_once() {
    for target in targets() {
        let root = target.root();
        let mut new = root.create(b"now", New::File, true).unwrap();
        target.holds(&[("now", file(""))]);
        new.fill_from(&Bytes::of("data"), true, &|_| ()).unwrap();
        new.seal().unwrap();
        assert_eq!(new.publish(false), Ok(Made::New));
        target.holds(&[("now", file("data"))]);
    }
}

#[test]
fn contents_arrive_whole_with_holes_or_without() {
    let mut data = vec![0; 1 << 20];
    data[300_000..310_000].fill(9);
    data[700_000] = 1;
    for size in [0, 1, 4095, 4096, 299_999, 305_000, 1 << 20] {
        let source = Bytes::new(data[..size].to_vec());
        for holes in [false, true] {
            for target in targets() {
                let root = target.root();
                let heard = std::cell::Cell::new(0);
                let mut new = root.create(b"f", New::File, false).unwrap();
                let written = new.fill_from(&source, holes, &|n| heard.set(heard.get() + n)).unwrap();
                new.seal().unwrap();
                new.publish(false).unwrap();
                assert_eq!(heard.get(), written, "{} {size}", target.adapter);
                assert!(written <= size as u64, "{} {size}", target.adapter);
                if !holes {
                    assert_eq!(written, size as u64, "{} {size}", target.adapter);
                }
                target.holds(&[("f", Shown::File(data[..size].to_vec()))]);
            }
        }
    }
}

#[test]
fn a_source_is_copied_into_every_target_as_it_is() {
    for source in sources() {
        for target in targets() {
            each_entry(&source, |dir, path, name| {
                let Ok(from) = dir.open_file(name) else { return };
                let mut new = target.root().create(b"copy", New::File, false).unwrap();
                new.fill_from(&*from, true, &|_| ()).unwrap();
                new.seal().unwrap();
                new.publish(true).unwrap();
                if !target.fs.traits().forgets {
                    let copy = target.root().open_file(b"copy").unwrap();
                    let (a, b) = (copy.metadata().unwrap().size, from.metadata().unwrap().size);
                    assert_eq!(a, b, "{} {path:?}", source.adapter);
                    assert_eq!(read_all(&*copy), read_all(&*from), "{} {path:?}", source.adapter);
                }
            });
        }
    }
}

#[test]
fn a_link_is_a_further_name_of_the_same_inode() {
    for target in targets() {
        let root = target.root();
        root.make_dir(b"d").unwrap();
        let below = root.open_dir(b"d").unwrap();
        target.put("first", New::File, "data", false);
        below.link(b"second", &*root, b"first", false).unwrap();
        if !target.fs.traits().forgets {
            let (first, second) = (root.stat(b"first").unwrap(), below.stat(b"second").unwrap());
            assert_eq!((first.ino, first.nlink), (second.ino, 2), "{}", target.adapter);
            assert_eq!(below.link(b"second", &*root, b"first", false).err().map(|e| e.errno), Some(libc::EEXIST));
        }
        // The name is one of this inode already: nothing changes and nothing is left over.
        below.link(b"second", &*root, b"first", true).unwrap();
        target.holds(&[("d", Shown::Directory), ("d/second", file("data")), ("first", file("data"))]);
    }
}

#[test]
fn a_link_between_two_adapters_is_refused() {
    let targets = targets();
    let of = |adapter: &str| targets.iter().find(|t| t.adapter == adapter).unwrap();
    let (null, file, metered) = (of("null"), of("file"), of("metered"));
    for (here, there) in [(null, file), (file, null), (null, metered), (metered, null)] {
        here.put("first", New::File, "", true);
        let refused = there.root().link(b"second", &*here.root(), b"first", false);
        assert_eq!(refused.err().map(|e| e.errno), Some(libc::EXDEV), "{}", there.adapter);
    }
}

/// Beyond `PATH_MAX`: 300 levels of 200 bytes.
#[test]
fn a_tree_deeper_than_any_path_is_made_opened_and_removed() {
    let name = [b'n'; 200];
    for target in targets() {
        let mut path = RelPath::root();
        let mut dir = target.root();
        for _ in 0..300 {
            dir.make_dir(&name).unwrap();
            dir = dir.open_dir(&name).unwrap();
            path = path.join(&name).unwrap();
        }
        let deepest = target.fs.open_dir(&path).unwrap();
        let mut new = deepest.create(b"leaf", New::File, false).unwrap();
        new.seal().unwrap();
        new.publish(false).unwrap();
        if !target.fs.traits().forgets {
            assert_eq!(deepest.stat(b"leaf").unwrap().kind, Kind::File);
        }
        target.root().remove(&name).unwrap_or_else(|e| panic!("{}: {e}", target.adapter));
        target.holds(&[]);
    }
}

#[test]
fn only_an_empty_directory_is_removed_as_one() {
    for target in targets() {
        let root = target.root();
        root.make_dir(b"d").unwrap();
        root.open_dir(b"d").unwrap().make_dir(b"e").unwrap();
        if !target.fs.traits().forgets {
            assert_eq!(root.remove_empty_dir(b"d"), Ok(false), "{}", target.adapter);
        }
        root.open_dir(b"d").unwrap().remove(b"e").unwrap();
        assert_eq!(root.remove_empty_dir(b"d"), Ok(true), "{}", target.adapter);
        target.holds(&[]);
    }
}

#[test]
fn an_exclusive_lock_keeps_others_out_until_it_is_dropped() {
    for target in targets() {
        let (a, b) = (target.root(), target.root());
        let shared = a.lock(false).unwrap().expect("free");
        assert!(b.lock(false).unwrap().is_some(), "{}", target.adapter);
        if !target.fs.traits().forgets {
            assert!(b.lock(true).unwrap().is_none(), "{}", target.adapter);
        }
        drop(shared);
        let exclusive = a.lock(true).unwrap().expect("free again");
        if !target.fs.traits().forgets {
            assert!(b.lock(false).unwrap().is_none(), "{}", target.adapter);
        }
        drop(exclusive);
        assert!(b.lock(true).unwrap().is_some(), "{}", target.adapter);
    }
}

#[test]
fn names_are_bytes() {
    let long = [0xff; 255];
    for target in targets() {
        for name in [&b"new\nline"[..], b"not \xff utf-8", &long, b"-rf", b"\x1b[31m"] {
            for what in [New::File, New::Symlink(b"\xff\n"), FIFO] {
                let root = target.root();
                let mut new = root.create(name, what, false).unwrap();
                new.seal().unwrap();
                new.publish(true).unwrap();
                if !target.fs.traits().forgets {
                    assert_eq!(listed(&*root).into_keys().collect::<Vec<_>>(), [name]);
                }
                root.remove(name).unwrap();
            }
        }
        target.holds(&[]);
    }
}

#[test]
fn an_edit_changes_the_entry_itself_and_not_what_it_leads_to() {
    let time = Timestamp { sec: 1_234_567_890, ns: 500_000_000 };
    for target in targets() {
        let root = target.root();
        target.put("file", New::File, "", false);
        target.put("link", New::Symlink(b"file"), "", false);
        root.make_dir(b"dir").unwrap();
        let before = root.stat(b"file");
        let link = root.edit(b"link").unwrap();
        link.set_mode(0o666).unwrap();
        link.set_times(time, time).unwrap();
        let dir = root.edit(b"dir").unwrap();
        dir.set_mode(0o1775).unwrap();
        dir.set_times(time, time).unwrap();
        let itself = root.edit_self().unwrap();
        itself.set_mode(0o750).unwrap();
        itself.set_times(time, time).unwrap();
        if target.fs.traits().forgets {
            continue;
        }
        assert_eq!(root.stat(b"file"), before, "{}", target.adapter);
        assert_eq!(root.stat(b"link").unwrap().mtime, time, "{}", target.adapter);
        assert_eq!(link.metadata().unwrap().mtime, time, "{}", target.adapter);
        for (m, mode) in [(root.stat(b"dir").unwrap(), 0o1775), (root.metadata().unwrap(), 0o750)] {
            assert_eq!((m.mode, m.mtime), (mode, time), "{}", target.adapter);
        }
        assert_eq!(class(root.edit(b"missing")), Some(Class::Vanished), "{}", target.adapter);
        if let Some(at) = &target.seen_at {
            let m = fs::metadata(at).unwrap();
            assert_eq!((m.permissions().mode() & 0o7777, m.mtime()), (0o750, time.sec));
        }
    }
}

#[test]
fn of_several_that_publish_one_name_at_once_exactly_one_makes_it() {
    for target in targets() {
        let publish = || target.put("one", New::File, "data", false);
        let threads = [(); 8];
        let made = std::thread::scope(|s| threads.map(|()| s.spawn(publish)).map(|t| t.join().unwrap()));
        if !target.fs.traits().forgets {
            assert_eq!(made.iter().filter(|m| **m == Made::New).count(), 1, "{}", target.adapter);
        }
        target.holds(&[("one", file("data"))]);
    }
}
