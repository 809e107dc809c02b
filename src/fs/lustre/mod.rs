//! What Lustre has beyond a POSIX filesystem, for the POSIX adapter, which serves it.
//!
//! Invariant: whether a root is Lustre is asked of the kernel; the library may be missing without anything but words
//! being lost.

mod library;
pub(in crate::fs) mod sys;

pub use library::Library;

use self::sys::Part;
use crate::model::Servers;
use crate::model::lustre::Mdt;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// No filesystem has more parts: their indices have 16 bits.
const MAX_INDEX: u32 = 0xffff;

/// Is this a Lustre client's mount?
pub(in crate::fs) fn is_lustre(fd: BorrowedFd<'_>) -> bool {
    // The type of f_type differs between architectures; magic numbers have 32 bits.
    rustix::fs::fstatfs(fd).is_ok_and(|s| s.f_type as u32 == sys::LL_SUPER_MAGIC)
}

/// What the filesystem of a directory is made of.
pub(in crate::fs) fn servers(root: BorrowedFd<'_>) -> Servers {
    let library = Library::get();
    let mut fsname = None;
    let mut parts = |part| {
        let (found, name) = parts_of(|index| sys::held(root, part, index));
        fsname = fsname.take().or(name);
        found
    };
    let (mdts, osts) = (parts(Part::Mdt), parts(Part::Ost));
    let path = || std::fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd())).ok();
    let fsname = fsname.or_else(|| library.filesystem_of(path()?.as_os_str().as_encoded_bytes())).unwrap_or_default();
    let pools = if fsname.is_empty() { None } else { library.pools(&fsname) };
    Servers { version: library.version().unwrap_or_default(), mdts, osts, pools, fsname }
}

/// All parts of one kind, by index, and the filesystem's name. One that does not answer is not active.
fn parts_of(held: impl Fn(u32) -> (String, io::Result<sys::Held>)) -> (Vec<Mdt>, Option<String>) {
    let mut found = Vec::new();
    let mut name = None;
    for index in 0..=MAX_INDEX {
        let (part, held) = held(index);
        name = name.or_else(|| filesystem_in(&part));
        match held {
            Ok(held) => found.push(part_of(index, &held)),
            // It exists, and the error is its own.
            Err(_) if !part.is_empty() => found.push(Mdt { index, ..Mdt::default() }),
            Err(e) => match Errno::from_io_error(&e) {
                Some(Errno::AGAIN) => {} // no part has this index
                // Beyond the last; or a client that does not know the call.
                Some(Errno::NODEV | Errno::NOTTY | Errno::INVAL) => break,
                _ => found.push(Mdt { index, ..Mdt::default() }),
            },
        }
    }
    (found, name)
}

fn part_of(index: u32, held: &sys::Held) -> Mdt {
    let bytes = held.blocks.map(|blocks| blocks.saturating_mul(held.block_bytes));
    Mdt {
        index,
        active: !held.is_closed,
        inodes: held.inodes[0],
        free_inodes: held.inodes[1],
        bytes: bytes[0],
        free_bytes: bytes[1],
    }
}

/// `name` of `name-MDT0000_UUID`.
fn filesystem_in(part: &str) -> Option<String> {
    part.rsplit_once('-').map(|(name, _)| name.to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = (String, io::Result<sys::Held>);

    fn held(name: &str, is_closed: bool) -> Answer {
        (name.into(), Ok(sys::Held { is_closed, block_bytes: 4096, blocks: [10, 4], inodes: [100, 40] }))
    }

    fn fail(name: &str, errno: i32) -> Answer {
        (name.into(), Err(io::Error::from_raw_os_error(errno)))
    }

    #[test]
    fn parts_are_found_over_holes_and_those_that_do_not_answer_are_not_active() {
        let (found, name) = parts_of(|index| match index {
            0 => fail("", libc::ENODATA),
            1 | 3 => fail("", libc::EAGAIN),
            2 => held("my-fs-MDT0002_UUID", false),
            4 => held("my-fs-MDT0004_UUID", true),
            5 => fail("", libc::ENOTCONN),
            _ => fail("", libc::ENODEV),
        });
        assert_eq!(name.as_deref(), Some("my-fs"));
        let shown: Vec<_> = found.iter().map(|m| (m.index, m.active, m.inodes, m.free_inodes)).collect();
        assert_eq!(shown, [(0, false, 0, 0), (2, true, 100, 40), (4, false, 100, 40), (5, false, 0, 0)]);
        assert_eq!((found[1].bytes, found[1].free_bytes), (40_960, 16_384));
    }

    #[test]
    fn a_part_that_has_a_name_exists_whatever_its_error_is() {
        for errno in [libc::EAGAIN, libc::ENODEV, libc::EINVAL, libc::ENOTTY, libc::EIO] {
            let (found, name) = parts_of(|index| match index {
                0 => fail("my-fs-MDT0000_UUID", errno),
                1 => held("my-fs-MDT0001_UUID", false),
                _ => fail("", libc::ENODEV),
            });
            let shown: Vec<_> = found.iter().map(|m| (m.index, m.active)).collect();
            assert_eq!((shown, name.as_deref()), (vec![(0, false), (1, true)], Some("my-fs")), "{errno}");
        }
    }

    #[test]
    fn a_client_that_does_not_know_the_call_has_no_parts() {
        let (found, name) = parts_of(|_| fail("", libc::ENOTTY));
        assert_eq!((found, name), (Vec::new(), None));
    }

    #[test]
    fn other_filesystems_are_not_lustre() {
        use std::os::fd::AsFd;
        assert!(!is_lustre(std::fs::File::open("/proc").unwrap().as_fd()));
    }
}
