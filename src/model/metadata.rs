//! What an entry is, apart from its contents.

use serde::{Deserialize, Serialize};

/// The seven kinds of entries of a POSIX filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; never followed.
    Symlink,
    /// A named pipe; never opened for reading.
    Fifo,
    /// A socket's name.
    Socket,
    /// A block device node.
    BlockDevice,
    /// A character device node.
    CharDevice,
}

impl Kind {
    /// The word used in messages.
    pub fn noun(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::BlockDevice => "block device",
            Kind::CharDevice => "character device",
        }
    }
}

/// A point in time as filesystems keep it; negative seconds are before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC.
    pub sec: i64,
    /// Nanoseconds after `sec`, below 1 000 000 000.
    pub ns: u32,
}

impl Timestamp {
    /// Now, by this machine's clock.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp { sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), ns: since.subsec_nanos() }
    }

    /// Cuts to a granularity of `ns` nanoseconds (1, 100, 1000, 1 000 000 000 ...), downwards as filesystems do.
    pub fn truncated(self, granularity_ns: u32) -> Self {
        if granularity_ns >= 1_000_000_000 {
            let step = i64::from(granularity_ns / 1_000_000_000);
            return Timestamp { sec: self.sec.div_euclid(step) * step, ns: 0 };
        }
        Timestamp { sec: self.sec, ns: self.ns - self.ns % granularity_ns.max(1) }
    }
}

/// Attributes of one entry, as `statx` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Length in bytes; for a symlink its target's length.
    pub size: u64,
    /// Blocks of 512 bytes that are allocated.
    pub blocks_512: u64,
    /// Names of this inode.
    pub nlink: u32,
    /// Device that holds the inode.
    pub dev: u64,
    /// Inode number on that device.
    pub ino: u64,
    /// Device number of a device node (`makedev`), else 0.
    pub rdev: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
}

impl Metadata {
    /// Do both describe the same moment of the same inode's contents? (size, mtime, ctime)
    pub fn same_moment(&self, other: &Metadata) -> bool {
        (self.size, self.mtime, self.ctime) == (other.size, other.mtime, other.ctime)
    }
}

/// The quota project that an entry belongs to (`FS_IOC_FSGETXATTR`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Project {
    /// Its number; 0 is none.
    pub id: u32,
    /// A directory hands it down to what is made in it.
    pub inherit: bool,
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn truncation_goes_downwards_also_before_1970() {
        let t = Timestamp { sec: -1, ns: 999_999_999 };
        assert_eq!(t.truncated(1), t);
        assert_eq!(t.truncated(1000), Timestamp { sec: -1, ns: 999_999_000 });
        assert_eq!(t.truncated(1_000_000_000), Timestamp { sec: -1, ns: 0 });
        assert_eq!(t.truncated(2_000_000_000), Timestamp { sec: -2, ns: 0 });
    }
}
