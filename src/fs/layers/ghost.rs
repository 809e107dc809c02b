//! What a dry run shows of entries that are not there.

use super::super::{FsError, Result};
use crate::model::{Kind, Metadata, Operation, Timestamp};

/// Inode number of what is not there; no filesystem gives it away.
pub(super) const GHOST_INO: u64 = 0;

/// Attributes of a directory, or an entry of another kind, that a real run would just have made.
pub(super) fn attributes(kind: Kind) -> Metadata {
    let zero = Timestamp::default();
    Metadata {
        kind,
        mode: if kind == Kind::Directory { 0o700 } else { 0o600 },
        uid: 0,
        gid: 0,
        size: 0,
        blocks_512: 0,
        nlink: 1,
        dev: 0,
        ino: GHOST_INO,
        rdev: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
    }
}

/// The name is absent.
pub(super) fn absent<T>(operation: Operation) -> Result<T> {
    Err(FsError { operation, errno: libc::ENOENT })
}
