//! Part files, where an adapter has them.

use super::*;
use std::time::Duration;

const NOW: Duration = Duration::ZERO;
const SIZE: u64 = 3 << 20;

/// Targets that have part files; the others say so.
fn with_parts() -> Vec<Target> {
    let mut having = targets();
    having.retain(|target| match target.root().make_part(b"probe", 1, None) {
        Ok(_) => target.root().remove(b"probe").is_ok(),
        Err(e) => {
            assert_eq!(e.errno, libc::EOPNOTSUPP, "{}", target.adapter);
            assert_eq!(target.root().open_part(b"probe").err().map(|e| e.errno), Some(libc::EOPNOTSUPP));
            false
        }
    });
    assert!(having.iter().any(|target| target.adapter == "file"));
    having
}

fn source() -> Bytes {
    let mut data: Vec<u8> = (0..SIZE).map(|n| (n * n % 251) as u8).collect();
    data[1_100_000..1_900_000].fill(0);
    Bytes::new(data)
}

#[test]
fn ranges_written_in_any_order_by_several_handles_make_the_file() {
    for target in with_parts() {
        let (root, source) = (target.root(), source());
        let made = root.make_part(b"part", SIZE, None).unwrap();
        assert_eq!(root.make_part(b"part", SIZE, None).err().map(|e| e.errno), Some(libc::EEXIST));
        assert_eq!(root.stat(b"part").map(|m| (m.size, m.mode)), Ok((SIZE, 0o600)));
        let heard = std::cell::Cell::new(0);
        for start in [2 << 20, 0, 1 << 20] {
            let part = root.open_part(b"part").unwrap();
            let range = start..start + (1 << 20);
            assert_eq!(part.fill_range(&source, range, true, &|n| heard.set(heard.get() + n)), Ok(true));
            part.seal().unwrap();
        }
        assert!(heard.get() < SIZE - 700_000, "{}: the hole was written", target.adapter);
        made.set_mode(0o640).unwrap();
        target.put("name", New::File, "old", false);
        made.publish(b"name").unwrap();
        target.holds(&[("name", Shown::File(source.data))]);
    }
}

#[test]
fn a_source_that_ends_early_is_told() {
    for target in with_parts() {
        let mut short = source();
        short.data.truncate(1_000_000);
        let part = target.root().make_part(b"part", SIZE, None).unwrap();
        assert_eq!(part.fill_range(&short, 0..1 << 20, false, &|_| ()), Ok(false), "{}", target.adapter);
        assert_eq!(part.fill_range(&short, 0..900_000, false, &|_| ()), Ok(true), "{}", target.adapter);
    }
}

#[test]
fn a_locked_range_is_one_handles_alone_until_it_is_let_go() {
    for target in with_parts() {
        let root = target.root();
        let (a, b) = (root.make_part(b"part", SIZE, None).unwrap(), root.open_part(b"part").unwrap());
        let first = a.lock(0, 1 << 20, NOW).unwrap().expect("free");
        assert!(b.lock(5, 1, NOW).unwrap().is_none(), "{}", target.adapter);
        assert!(b.lock(0, 0, NOW).unwrap().is_none(), "{}", target.adapter);
        let other = b.lock(1 << 20, 1 << 20, NOW).unwrap().expect("another range is free");
        a.seal().unwrap();
        assert!(b.lock(5, 1, NOW).unwrap().is_none(), "{}: a checked close lets nothing go", target.adapter);
        drop(first);
        drop(other);
        let whole = b.lock(0, 0, NOW).unwrap().expect("free again");
        assert!(a.lock(SIZE + 7, 1, NOW).unwrap().is_none(), "{}: beyond the end too", target.adapter);
        drop(whole);
        drop(b);
        assert!(a.lock(0, 0, NOW).unwrap().is_some(), "{}", target.adapter);
    }
}

#[test]
fn what_is_no_part_file_is_not_opened_as_one() {
    for target in with_parts() {
        let root = target.root();
        target.put("open to all", New::File, "x", false);
        root.edit(b"open to all").unwrap().set_mode(0o644).unwrap();
        target.put("link", New::Symlink(b"open to all"), "", false);
        target.put("fifo", FIFO, "", false);
        drop(root.make_part(b"two names", 1, None).unwrap());
        root.link(b"other name", &*root, b"two names", false).unwrap();
        root.make_dir(b"dir").unwrap();
        for name in [&b"open to all"[..], b"link", b"fifo", b"two names", b"dir"] {
            assert!(root.open_part(name).is_err(), "{}: {}", target.adapter, crate::model::escaped(name));
        }
        assert_eq!(class(root.open_part(b"missing")), Some(Class::Vanished), "{}", target.adapter);
    }
}
