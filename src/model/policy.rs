//! What a copy keeps and how it decides: the part of a job that the user chooses.

use serde::{Deserialize, Serialize};

/// What is kept and compared. Everything is on by default; each part can be switched off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools)] // a set of independent switches is what it is
pub struct Policy {
    /// Owner and group, numerically.
    pub owner: bool,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: bool,
    /// Access and modification times.
    pub times: bool,
    /// Extended attributes, capabilities among them, without POSIX ACLs.
    pub xattrs: bool,
    /// POSIX access and default ACLs.
    pub acls: bool,
    /// Names of one inode stay names of one inode.
    pub hard_links: bool,
    /// Holes stay holes.
    pub holes: bool,
    /// Fifos, sockets and device nodes.
    pub specials: bool,
    /// Compare contents instead of trusting size and mtime.
    pub checksum: bool,
    /// Write new files under their final names instead of aside.
    pub direct: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            owner: true,
            mode: true,
            times: true,
            xattrs: true,
            acls: true,
            hard_links: true,
            holes: true,
            specials: true,
            checksum: false,
            direct: false,
        }
    }
}
