//! What every adapter that can be a source does.

use super::*;

#[test]
fn a_listing_is_complete_and_comes_again() {
    for source in sources() {
        let mut found = Vec::new();
        for (path, dir) in directories(&*source.fs) {
            let names = listed(&*dir);
            assert_eq!(names, listed(&*dir), "{}", source.adapter);
            found.extend(names.keys().map(|name| path.join(name).unwrap().as_bytes().to_vec()));
        }
        found.sort();
        if let Some(paths) = &source.paths {
            assert_eq!(&found, paths, "{}", source.adapter);
        }
        let usage = source.fs.usage().unwrap();
        if source.paths.is_none() && usage.whole {
            assert_eq!(found.len() as u64 + 1, usage.entries, "{}", source.adapter);
        }
    }
}

#[test]
fn what_a_listing_says_of_an_entry_is_what_stat_says() {
    for source in sources() {
        for (_, dir) in directories(&*source.fs) {
            for (name, (kind, metadata)) in listed(&*dir) {
                let stat = dir.stat(&name).unwrap();
                assert_eq!(kind.unwrap_or(stat.kind), stat.kind);
                assert_eq!(metadata.unwrap_or(stat), stat);
                if stat.kind == Kind::File {
                    let file = dir.open_file(&name).unwrap();
                    assert_eq!(file.metadata().unwrap(), stat, "{}", source.adapter);
                    assert_eq!(file.at_open().unwrap(), stat, "{}", source.adapter);
                    assert_eq!(file.xattrs().unwrap(), dir.xattrs(&name).unwrap(), "{}", source.adapter);
                }
            }
        }
    }
}

#[test]
fn what_is_taken_out_of_the_cache_can_be_read_again() {
    for source in sources() {
        each_entry(&source, |dir, path, name| {
            if dir.stat(name).unwrap().kind != Kind::File {
                return;
            }
            let file = dir.open_file(name).unwrap();
            let before = file.metadata().unwrap();
            let read = || {
                let mut buf = vec![0; 100_000];
                let n = file.read_at(0, &mut buf).unwrap();
                buf.truncate(n);
                buf
            };
            let seen = read();
            file.drop_cache(0, before.size).unwrap();
            assert!(seen == read(), "{}: {path:?}", source.adapter);
            assert_eq!(before, file.metadata().unwrap(), "{}", source.adapter);
        });
    }
}

#[test]
fn a_directory_by_path_is_the_one_by_name() {
    for source in sources() {
        for (path, by_name) in directories(&*source.fs) {
            let by_path = source.fs.open_dir(&path).unwrap();
            let identity = |m: Metadata| (m.dev, m.ino, m.kind, m.mode, m.mtime);
            assert_eq!(identity(by_path.metadata().unwrap()), identity(by_name.metadata().unwrap()), "{path:?}");
            assert_eq!(listed(&*by_path), listed(&*by_name), "{path:?}");
        }
    }
}

#[test]
fn only_a_directory_opens_as_one_and_only_a_file_as_a_file() {
    for source in sources() {
        each_entry(&source, |dir, path, name| {
            let kind = dir.stat(name).unwrap().kind;
            let other = Some(Class::OtherKind);
            if kind == Kind::Directory {
                assert_eq!(class(dir.open_dir(name)), None, "{path:?}");
            } else {
                assert_eq!(class(dir.open_dir(name)), other, "{path:?}");
                assert_eq!(class(source.fs.open_dir(path)), other, "{path:?}");
                assert_eq!(class(source.fs.open_dir(&path.join(b"b").unwrap())), other, "through {path:?}");
            }
            let opened = dir.open_file(name).err().map(|e| e.errno);
            assert_eq!(opened, if kind == Kind::File { None } else { Some(libc::ELOOP) }, "{path:?}");
            assert_eq!(dir.read_link(name).is_ok(), kind == Kind::Symlink, "{path:?}");
        });
    }
}

#[test]
fn a_missing_name_is_seen_to_be_absent() {
    for source in sources() {
        let root = source.fs.open_dir(&RelPath::root()).unwrap();
        for name in [&b"missing"[..], b"f01", b"d99999", b"f", b"d", b"f99999999999999999999999", b"x0"] {
            let gone = Some(Class::Vanished);
            let path = RelPath::root().join(name).unwrap();
            assert_eq!(class(root.stat(name)), gone, "{} {path:?}", source.adapter);
            assert_eq!(class(root.open_dir(name)), gone, "{} {path:?}", source.adapter);
            assert_eq!(class(root.open_file(name)), gone, "{} {path:?}", source.adapter);
            assert_eq!(class(root.read_link(name)), gone, "{} {path:?}", source.adapter);
            assert_eq!(class(root.xattrs(name)), gone, "{} {path:?}", source.adapter);
            assert_eq!(class(source.fs.open_dir(&path)), gone, "{} {path:?}", source.adapter);
            assert_eq!(class(source.fs.open_dir(&path.join(b"d0").unwrap())), gone, "{} {path:?}", source.adapter);
        }
    }
}

#[test]
fn runs_of_data_cover_everything_that_is_not_zero() {
    for source in sources() {
        each_entry(&source, |dir, path, name| {
            let Ok(file) = dir.open_file(name) else { return };
            let size = file.metadata().unwrap().size;
            let data = read_all(&*file);
            let mut at = 0;
            while let Some((start, end)) = file.next_data(at, size).unwrap() {
                assert!(at <= start && start < end && end <= size, "{path:?}: {at} {start} {end} {size}");
                assert!(data[at as usize..start as usize].iter().all(|b| *b == 0), "{path:?}: data before {start}");
                at = end;
            }
            assert!(
                data.get(at as usize..).is_none_or(|rest| rest.iter().all(|b| *b == 0)),
                "{path:?}: data after {at}"
            );
            assert_eq!(file.next_data(size, size).unwrap(), None);
        });
    }
}

#[test]
fn a_file_may_be_read_by_several_threads() {
    for source in sources() {
        each_entry(&source, |dir, path, name| {
            let Ok(file) = dir.open_file(name) else { return };
            let read = || read_all(&*file);
            let [a, b] = std::thread::scope(|s| [s.spawn(read), s.spawn(read)].map(|t| t.join().unwrap()));
            assert_eq!(a, b, "{path:?}");
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn any_piece_of_a_file_is_that_piece_of_the_whole(
        pieces in proptest::collection::vec((0.0..1.1_f64, 0_usize..200_000), 1..4),
    ) {
        for source in sources() {
            each_entry(&source, |dir, path, name| {
                let Ok(file) = dir.open_file(name) else { return };
                let whole = read_all(&*file);
                if whole.is_empty() {
                    return;
                }
                for (share, len) in &pieces {
                    let offset = (whole.len() as f64 * share) as usize;
                    let mut piece = vec![0xaa; *len];
                    let n = file.read_at(offset as u64, &mut piece).unwrap();
                    let want = whole.get(offset..).unwrap_or_default();
                    assert_eq!(&piece[..n], &want[..want.len().min(*len)], "{path:?} at {offset}");
                }
            });
        }
    }
}

#[test]
fn any_name_is_one_that_is_listed_and_wanted_or_none() {
    for source in sources() {
        for (_, dir) in directories(&*source.fs) {
            let names = listed(&*dir);
            let any = dir.any_name(&|_| true).unwrap();
            assert_eq!(any.is_some(), !names.is_empty(), "{}", source.adapter);
            assert!(any.is_none_or(|name| names.contains_key(&name)), "{}", source.adapter);
            let Some(last) = names.keys().next_back() else { continue };
            assert_eq!(dir.any_name(&|name| name == last).unwrap().as_ref(), Some(last), "{}", source.adapter);
            assert_eq!(dir.any_name(&|_| false), Ok(None), "{}", source.adapter);
        }
    }
}
