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

/// What is mounted where a descriptor lies, as `/proc/self/mountinfo` calls it: a device, or a server and its export.
/// None where the mount is not to be seen from here.
pub(super) fn device_of(fd: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    Ok(device_in(&std::fs::read("/proc/self/mountinfo")?, &id_of(fd)?))
}

/// A mount, as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: Vec<u8>,
    /// Options of the filesystem: what its own driver says of itself.
    pub options: Vec<Vec<u8>>,
}

/// The mount that a descriptor lies in. None where it is not to be seen from here.
pub(super) fn mount_of(fd: BorrowedFd<'_>) -> io::Result<Option<Mount>> {
    Ok(mount_in(&std::fs::read("/proc/self/mountinfo")?, &id_of(fd)?))
}

fn id_of(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let own = std::fs::read(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let id = own.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"mnt_id:")).unwrap_or_default();
    Ok(id.trim_ascii().to_vec())
}

fn line_of<'a>(mountinfo: &'a [u8], id: &[u8]) -> Option<&'a [u8]> {
    mountinfo.split(|b| *b == b'\n').find(|line| line.split(|b| *b == b' ').next() == Some(id))
}

/// Behind optional fields and a dash: the type of the filesystem, what is mounted, and its options.
fn of_filesystem(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| *b == b' ').skip(6).skip_while(|field| *field != b"-").skip(1)
}

fn device_in(mountinfo: &[u8], id: &[u8]) -> Option<Vec<u8>> {
    of_filesystem(line_of(mountinfo, id)?).nth(1).map(unescaped)
}

fn mount_in(mountinfo: &[u8], id: &[u8]) -> Option<Mount> {
    let line = line_of(mountinfo, id)?;
    let point = line.split(|b| *b == b' ').nth(4).map(unescaped)?;
    let options = of_filesystem(line).nth(2)?.split(|b| *b == b',');
    Some(Mount { point, options: options.map(unescaped).collect() })
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
    fn the_device_of_a_mount_is_found_behind_any_number_of_optional_fields() {
        let table =
            b"36 35 98:0 / /mnt rw - ext4 /dev/x rw\n37 36 0:40 / /a rw shared:1 master:2 - nfs4 s:/a\\040b rw\n";
        let device = |id: &[u8]| device_in(table, id);
        assert_eq!(device(b"36").as_deref(), Some(&b"/dev/x"[..]));
        assert_eq!(device(b"37").as_deref(), Some(&b"s:/a b"[..]));
        assert_eq!((device(b"3"), device(b"")), (None, None));
    }

    #[test]
    fn a_mount_tells_where_it_is_and_what_its_driver_says() {
        let table = b"36 35 98:0 / /m\\040x rw,relatime shared:1 - lustre n@tcp:/a rw,flock,nouser_xattr\n";
        let mount = mount_in(table, b"36").unwrap();
        assert_eq!(mount.point, b"/m x");
        assert_eq!(mount.options, [&b"rw"[..], b"flock", b"nouser_xattr"]);
        assert_eq!((mount_in(table, b"3"), mount_in(b"36 35\n", b"36")), (None, None));
    }

    #[test]
    fn mounts_at_and_below_a_path_are_found_and_others_are_not() {
        let table = b"36 35 98:0 / /mnt rw - ext4 /dev/x rw\n37 36 98:1 / /mnt/a\\040b/c rw shared:1 - tmpfs none rw\n";
        let found = |path: &[u8]| is_any_in(table, path);
        assert!(found(b"/mnt") && found(b"/mnt/a b") && found(b"/mnt/a b/c"));
        assert!(!found(b"/mnt/a b/c/d") && !found(b"/mnt/a") && !found(b"/mn"));
    }
}
