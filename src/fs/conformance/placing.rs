//! Layouts, MDTs and projects: on Lustre they are kept, elsewhere nothing pretends to.
//!
//! With `TMPDIR` on a Lustre mount the suite runs there.

use super::*;
use crate::model::{Layout, Project};

const MIB: u32 = 1 << 20;

fn mode_on_disk(at: &Path) -> u32 {
    fs::symlink_metadata(at).unwrap().mode() & 0o7777
}

#[test]
fn a_layout_is_there_before_the_first_byte_or_it_is_said_that_it_is_not() {
    for target in targets() {
        let dir = target.root();
        let wanted = Layout::plain(2, 2 * MIB, None);
        for (name, direct) in [(&b"aside"[..], false), (b"direct", true)] {
            let mut new = dir.create(name, New::LaidOut(&wanted), direct).unwrap();
            let is_told = target.fs.traits().forgets || new.has_layout() == dir.placing().is_some();
            assert!(is_told, "{}", target.adapter);
            new.fill_from(&Bytes::of("contents"), true, &|_| ()).unwrap();
            new.sync().unwrap();
            new.seal().unwrap();
            assert_eq!(new.publish(false).unwrap(), Made::New);
            if let Some(placing) = dir.placing() {
                assert!(placing.layout(name).unwrap().is_some_and(|found| found.is_as(&wanted)));
                let opened = dir.open_file(name).unwrap();
                assert!(opened.layout().unwrap().is_some_and(|found| found.is_as(&wanted) && !found.is_released()));
            } else if !target.fs.traits().forgets {
                assert_eq!(dir.open_file(name).unwrap().layout(), Ok(None));
            }
        }
        target.holds(&[("aside", file("contents")), ("direct", file("contents"))]);
    }
}

#[test]
fn a_layout_that_is_refused_leaves_a_file_as_any_other() {
    for target in targets() {
        let dir = target.root();
        let mut impossible = Layout::plain(1, MIB, None);
        impossible.components[0].stripe_size = 1000;
        let mut new = dir.create(b"f", New::LaidOut(&impossible), false).unwrap();
        assert!(target.fs.traits().forgets || !new.has_layout(), "{}", target.adapter);
        new.fill_from(&Bytes::of("contents"), true, &|_| ()).unwrap();
        new.seal().unwrap();
        new.publish(false).unwrap();
        target.holds(&[("f", file("contents"))]);
        if !target.fs.traits().forgets {
            let part = dir.make_part(b"part", 10, Some(&impossible)).unwrap();
            assert!(!part.has_layout());
            assert_eq!(part.metadata().unwrap().size, 10);
        }
    }
}

#[test]
fn a_part_file_has_its_layout() {
    for target in targets().iter().filter(|target| !target.fs.traits().forgets) {
        let dir = target.root();
        let wanted = Layout::plain(2, 4 * MIB, None);
        let part = dir.make_part(b"part", 20 << 20, Some(&wanted)).unwrap();
        assert_eq!(part.has_layout(), dir.placing().is_some(), "{}", target.adapter);
        assert!(part.fill_range(&Bytes::of("0123456789"), 2..5, false, &|_| ()).unwrap());
        part.seal().unwrap();
        if let Some(placing) = dir.placing() {
            assert!(placing.layout(b"part").unwrap().is_some_and(|found| found.is_as(&wanted)));
        }
        assert!(dir.make_part(b"plain", 1, None).unwrap().has_layout());
    }
}

#[test]
fn servers_are_told_of_lustre_alone_and_a_barrier_leaves_nothing() {
    for target in targets() {
        let dir = target.root();
        assert_eq!(target.fs.servers().is_some(), dir.placing().is_some(), "{}", target.adapter);
        if let Some(servers) = target.fs.servers() {
            assert!(!servers.fsname.is_empty() && !servers.version.is_empty(), "{servers:?}");
            assert!(servers.mdts.iter().chain(&servers.osts).any(|part| part.active && part.bytes > part.free_bytes));
        }
        target.fs.barrier(&*dir).unwrap();
        target.holds(&[]);
    }
}

#[test]
fn directories_lie_where_they_were_put_and_stay_there() {
    for target in targets() {
        let dir = target.root();
        let Some(placing) = dir.placing() else { continue };
        let mdts: Vec<u32> = target.fs.servers().unwrap().mdts.iter().map(|mdt| mdt.index).collect();
        let nowhere = mdts.iter().max().unwrap() + 7;
        for index in &mdts {
            let name = format!("on-{index}").into_bytes();
            assert_eq!(placing.make_dir_on(&name, &[*index]), Ok((Made::New, *index)));
            assert_eq!(placing.mdt_of(&name), Ok(*index));
            assert_eq!(dir.open_dir(&name).unwrap().placing().unwrap().mdt(), Ok(*index));
            for again in &mdts {
                assert_eq!(placing.make_dir_on(&name, &[*again]), Ok((Made::Existed, *index)));
            }
            assert_eq!(placing.make_dir_on(&name, &[nowhere]), Ok((Made::Existed, *index)));
            assert_eq!(mode_on_disk(&target.seen_at.as_ref().unwrap().join(OsStr::from_bytes(&name))), 0o700);
        }
        let last = *mdts.last().unwrap();
        assert_eq!(placing.make_dir_on(b"fallen", &[nowhere, last]), Ok((Made::New, last)));
        assert_eq!(placing.make_dir_on(b"lost", &[nowhere]).map(|(made, _)| made), Ok(Made::New), "anywhere else");
        target.put("was-file", New::File, "x", false);
        target.put("was-link", New::Symlink(b"fallen"), "", false);
        for name in [&b"was-file"[..], b"was-link"] {
            assert_eq!(placing.make_dir_on(name, &[last]), Ok((Made::New, last)));
            assert_eq!(dir.stat(name).unwrap().kind, Kind::Directory);
        }
        target.put("fifo", FIFO, "", false);
        assert_eq!(placing.mdt_of(b"fifo"), placing.mdt());
        assert_eq!(placing.mdt_of(b"nothing").map_err(|e| e.class()), Err(Class::Vanished));
        assert_eq!(placing.make_dir_on(b"anywhere", &[]).map_err(|e| e.errno), Err(libc::ENODEV));
        assert_eq!(listed(&*dir).len(), mdts.len() + 5);
    }
}

#[test]
fn a_directorys_default_layout_is_its_own() {
    for target in targets() {
        let dir = target.root();
        dir.make_dir(b"d").unwrap();
        let child = dir.open_dir(b"d").unwrap();
        let Some(placing) = child.placing() else {
            assert!(dir.placing().is_none(), "{}", target.adapter);
            continue;
        };
        let wanted = Layout::plain(1, 8 * MIB, None);
        assert_eq!(placing.default_layout(), Ok(None));
        placing.set_default_layout(None).unwrap();
        placing.set_default_layout(Some(&wanted)).unwrap();
        assert!(placing.default_layout().unwrap().is_some_and(|found| found.is_as(&wanted)));
        assert!(child.xattrs_self().unwrap().is_empty(), "it is none of the user's attributes");
        placing.set_default_layout(None).unwrap();
        assert_eq!(placing.default_layout(), Ok(None));
    }
}

/// Every kind of entry that can have a project, by name.
fn entries_of_each_kind(target: &Target) -> [&'static [u8]; 4] {
    target.put("file", New::File, "x", false);
    target.put("link", New::Symlink(b"nowhere"), "", false);
    target.put("fifo", FIFO, "", false);
    target.root().make_dir(b"dir").unwrap();
    [b"file", b"link", b"fifo", b"dir"]
}

#[test]
fn projects_are_kept_where_that_is_said() {
    for target in targets() {
        let dir = target.root();
        let names = entries_of_each_kind(&target);
        if target.fs.traits().forgets {
            continue;
        }
        for (name, id) in names.into_iter().zip(77..) {
            let project = Project { id, inherit: name == b"dir" };
            let set = dir.edit(name).unwrap().set_project(project);
            if !target.fs.traits().projects {
                assert_eq!(class(set), Some(Class::Unsupported), "{}", target.adapter);
                continue;
            }
            // A filesystem need not have projects of symlinks and the like; what it tells of, it can set.
            match dir.project(name).unwrap() {
                Some(found) => assert_eq!((set, found), (Ok(()), project), "{}", crate::model::escaped(name)),
                None => assert!(set.is_err()),
            }
        }
        if target.fs.traits().projects {
            assert_eq!(dir.open_file(b"file").unwrap().project(), Ok(Some(Project { id: 77, inherit: false })));
            let child = dir.open_dir(b"dir").unwrap();
            assert_eq!(child.project(b""), Ok(Some(Project { id: 80, inherit: true })));
            let none = Project { id: 0, inherit: false };
            child.edit_self().unwrap().set_project(none).unwrap();
            assert_eq!((child.project(b""), dir.project(b"dir")), (Ok(Some(none)), Ok(Some(none))));
            let mut new = dir.create(b"new", New::File, false).unwrap();
            new.set_project(Project { id: 5, inherit: false }).unwrap();
            new.seal().unwrap();
            new.publish(false).unwrap();
            assert_eq!(dir.project(b"new"), Ok(Some(Project { id: 5, inherit: false })));
        }
        assert!(dir.project(b"nothing").is_err_and(|e| e.is_absent()) || !target.fs.traits().projects);
    }
}

#[test]
fn a_symlink_is_never_followed_to_a_project() {
    for target in targets().iter().filter(|target| target.fs.traits().projects) {
        let dir = target.root();
        target.put("file", New::File, "x", false);
        target.put("link", New::Symlink(b"file"), "", false);
        let _ = dir.edit(b"link").unwrap().set_project(Project { id: 9, inherit: false });
        assert_eq!(dir.project(b"file").unwrap().map(|p| p.id), Some(0));
    }
}
