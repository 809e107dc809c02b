//! `null://`: what it refuses.

use super::*;

#[test]
fn a_source_that_gives_other_than_it_says_is_found_out() {
    let root = open_root(b"null://", Side::Target).open_dir(&RelPath::root()).unwrap();
    for says_size in [3, 99] {
        let liar = Bytes { data: b"contents".to_vec(), says_size };
        let filled = root.create(b"f", New::File, false).unwrap().fill_from(&liar, false, &|_| ());
        // A file that is longer than it says is read as far as it says: that is what a copy of it holds.
        let want = if says_size > 8 { Err(FsError { operation: Operation::Read, errno: libc::EIO }) } else { Ok(3) };
        assert_eq!(filled, want);
    }
}

#[test]
fn null_insists_on_the_checked_close_and_on_names_and_values_that_can_be_stored() {
    let fs = open_root(b"null://", Side::Target);
    let root = fs.open_dir(&RelPath::root()).unwrap();
    let errno = |e: FsError| e.errno;
    let unsealed = root.create(b"f", New::File, false).unwrap();
    assert_eq!(unsealed.publish(true).map_err(errno), Err(libc::EIO));
    let mut sealed = root.create(b"f", New::File, false).unwrap();
    sealed.seal().unwrap();
    assert_eq!(sealed.set_mode(0o600).map_err(errno), Err(libc::EBADF));
    assert_eq!(sealed.fill_from(&Bytes::of("x"), true, &|_| ()).map_err(errno), Err(libc::EBADF));
    sealed.publish(true).unwrap();
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
        assert_eq!(root.create(name, New::File, false).err().map(errno), Some(libc::EINVAL));
        assert_eq!(root.make_dir(name).map_err(errno), Err(libc::EINVAL));
        assert_eq!(root.open_dir(name).err().map(errno), Some(libc::EINVAL));
        assert_eq!(root.remove(name).map_err(errno), Err(libc::EINVAL));
    }
    assert_eq!(root.create(b"l", New::Symlink(b""), false).err().map(errno), Some(libc::ENOENT));
    assert_eq!(root.create(b"l", New::Symlink(&[b'x'; 4096]), false).err().map(errno), Some(libc::ENAMETOOLONG));
    assert_eq!(root.create(b"n", New::Node(Kind::Directory, 0), false).err().map(errno), Some(libc::EINVAL));
    let edit = root.edit_self().unwrap();
    assert_eq!(edit.set_mode(0o100_644).map_err(errno), Err(libc::EINVAL));
    let late = Timestamp { sec: 0, ns: 1_000_000_000 };
    assert_eq!(edit.set_times(late, late).map_err(errno), Err(libc::EINVAL));
    assert_eq!(fs.usage().map(|u| u.entries), Some(1));
}
