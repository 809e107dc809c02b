//! Where other filesystems are mounted, as the kernel lists it (`/proc/self/mountinfo`, proc(5)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;

/// Is something mounted at, or below, a name in a directory? Asked only where a directory is to be replaced.
pub(super) fn is_any_below(at: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    let mut path = std::fs::read_link(format!("/proc/self/fd/{}", at.as_raw_fd()))?.into_os_string().into_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    Ok(is_any_in(&std::fs::read("/proc/self/mountinfo")?, &path))
}

fn is_any_in(mountinfo: &[u8], path: &[u8]) -> bool {
    let mounts = mountinfo.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    mounts.map(unescaped).any(|mount| mount.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'))
}

/// Spaces, tabs, newlines and backslashes stand there as `\040` and so on.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                out.push(digits.iter().fold(0_u8, |value, d| value.wrapping_mul(8).wrapping_add(d - b'0')));
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_at_and_below_a_path_are_found_and_others_are_not() {
        let table = b"36 35 98:0 / /mnt rw - ext4 /dev/x rw\n37 36 98:1 / /mnt/a\\040b/c rw shared:1 - tmpfs none rw\n";
        let found = |path: &[u8]| is_any_in(table, path);
        assert!(found(b"/mnt") && found(b"/mnt/a b") && found(b"/mnt/a b/c"));
        assert!(!found(b"/mnt/a b/c/d") && !found(b"/mnt/a") && !found(b"/mn"));
    }
}
