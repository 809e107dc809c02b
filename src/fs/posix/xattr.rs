//! Reading extended attributes, and which of them are the user's.

use super::super::{FsError, Result, Xattrs};
use super::sys;
use crate::model::Operation;
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;

/// Most bytes of one list of names and of one value that Linux allows (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX_BYTES: usize = 64 << 10;

/// Access ACL of an entry.
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// ACL that a directory's new children inherit.
pub const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Names that belong to the filesystem: Lustre's layout and internals (setting them returns 0 and does
/// nothing, or breaks things), and what other filesystems compute.
fn belongs_to_filesystem(name: &[u8]) -> bool {
    const TRUSTED: [&[u8]; 12] =
        [b"lov", b"lma", b"link", b"version", b"dmv", b"lmv", b"som", b"hsm", b"fid", b"projid", b"dataver", b"pin"];
    if name.starts_with(b"system.") {
        return name != ACL_ACCESS && name != ACL_DEFAULT;
    }
    name.starts_with(b"lustre.") || name.strip_prefix(b"trusted.").is_some_and(|rest| TRUSTED.contains(&rest))
}

/// Reads all attributes through two calls: one that lists, one that gets.
fn read_all(
    list: impl Fn(&mut [u8]) -> io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> io::Result<usize>,
) -> Result<Xattrs> {
    let mut small = [0; 512];
    let mut large;
    let names: &[u8] = match list(&mut small) {
        Ok(n) => &small[..n],
        Err(e) if e.raw_os_error() == Some(libc::ERANGE) => {
            large = vec![0; MAX_BYTES];
            let n = list(&mut large).map_err(|e| FsError::new(Operation::ListXattrs, e))?;
            &large[..n]
        }
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Xattrs::new()),
        Err(e) => return Err(FsError::new(Operation::ListXattrs, e)),
    };
    let mut found = Xattrs::new();
    for name in names.split(|b| *b == 0) {
        if name.is_empty() || belongs_to_filesystem(name) {
            continue;
        }
        if let Some(value) = read_one(name, &get)? {
            found.push((name.to_vec(), value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// One value; none if it is gone or may not be read (then it cannot be kept either).
fn read_one(name: &[u8], get: &impl Fn(&[u8], &mut [u8]) -> io::Result<usize>) -> Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    loop {
        match get(name, &mut value) {
            Ok(n) => {
                value.truncate(n);
                return Ok(Some(value));
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::ERANGE) if value.len() < MAX_BYTES => value.resize(MAX_BYTES, 0),
                Some(libc::ENODATA | libc::EACCES | libc::EPERM) => return Ok(None),
                _ => return Err(FsError::new(Operation::GetXattr, e)),
            },
        }
    }
}

/// Attributes of a child, not followed.
pub fn of_child(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Xattrs> {
    read_all(|buf| sys::list_xattrs_at(dir, name, buf), |key, buf| sys::get_xattr_at(dir, name, key, buf))
}

/// Attributes of what a descriptor (not `O_PATH`) holds.
pub fn of_descriptor(fd: BorrowedFd<'_>) -> Result<Xattrs> {
    read_all(
        |buf| rustix::fs::flistxattr(fd, buf).map_err(Into::into),
        |key, buf| rustix::fs::fgetxattr(fd, key, buf).map_err(Into::into),
    )
}

/// Attributes of what an `O_PATH` descriptor holds.
pub fn of_path_descriptor(fd: BorrowedFd<'_>) -> Result<Xattrs> {
    let path = sys::proc_path(fd, None).map_err(|e| FsError::new(Operation::ListXattrs, e))?;
    read_all(
        |buf| rustix::fs::listxattr(&path, buf).map_err(Into::into),
        |key, buf| rustix::fs::getxattr(&path, key, buf).map_err(Into::into),
    )
}

/// Does a directory (or what else a descriptor holds) list this attribute of the `trusted.*` kind? None if this process
/// is shown none of them.
pub fn lists(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Option<bool>> {
    let mut buffer = vec![0; MAX_BYTES];
    let n = rustix::fs::flistxattr(fd, &mut buffer[..]).map_err(|e| FsError::new(Operation::ListXattrs, e))?;
    let names = || buffer[..n].split(|b| *b == 0);
    let is_shown = names().any(|listed| listed.starts_with(b"trusted."));
    Ok(is_shown.then(|| names().any(|listed| listed == name)))
}

/// Does a directory hand an ACL down to its new children?
pub fn has_default_acl(fd: BorrowedFd<'_>) -> bool {
    let mut buf = [0; 256];
    match rustix::fs::fgetxattr(fd, ACL_DEFAULT, &mut buf[..]) {
        Ok(n) => n > 0,
        // Removing what is not there does no harm; leaving what is there would.
        Err(e) => !matches!(e, Errno::NODATA | Errno::OPNOTSUPP),
    }
}

#[cfg(test)]
mod tests {
    use super::belongs_to_filesystem;

    #[test]
    fn only_the_users_attributes_are_carried() {
        for name in ["lustre.lov", "trusted.lov", "trusted.hsm", "system.nfs4_acl"] {
            assert!(belongs_to_filesystem(name.as_bytes()), "{name}");
        }
        for name in ["user.x", "trusted.thing", "trusted.lovely", "security.capability", "system.posix_acl_access"] {
            assert!(!belongs_to_filesystem(name.as_bytes()), "{name}");
        }
    }
}
