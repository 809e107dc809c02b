//! What a copy keeps and how it decides: the part of a job that the user chooses.

use super::{Filter, LustrePolicy, Timestamp};
use serde::{Deserialize, Serialize};

/// What is kept and compared. Everything is on by default; each part can be switched off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    /// Quota projects, where both sides have them.
    pub projects: bool,
    /// Each file is on stable storage before it gets its name, and everything before the job is over.
    pub fsync: bool,
    /// Compare contents instead of trusting size and mtime.
    pub checksum: bool,
    /// Write new files under their final names instead of aside.
    pub direct: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// What takes part.
    pub filter: Filter,
    /// Entries of the source that did not change after this are taken to be right in the target.
    pub since: Option<Timestamp>,
    /// Remove what only the target has.
    pub delete: Option<DeletePolicy>,
    /// How large files are cut up.
    pub chunks: ChunkPolicy,
    /// How hard a node may work.
    pub limits: Limits,
    /// What is verified beyond attributes.
    pub verify: VerifyPolicy,
    /// What is asked of Lustre.
    pub lustre: LustrePolicy,
}

/// What only the target has, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeletePolicy {
    /// Nothing at all is removed if it would be more.
    pub max: Option<MaxDelete>,
    /// Directory on the target's filesystem that takes what is removed, as an absolute path.
    pub trash: Option<serde_bytes::ByteBuf>,
    /// What filters leave out is removed as well, instead of protected.
    pub excluded: bool,
    /// A source without any entry may empty the target.
    pub allow_empty_source: bool,
}

/// How much may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MaxDelete {
    /// So many entries.
    Entries(u64),
    /// So many of a hundred entries of the target, in thousandths of a percent.
    MilliPercent(u32),
}

/// How large files are cut up, so that several actors and nodes work on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkPolicy {
    /// Files of this size and more are cut up, in bytes.
    pub from_bytes: u64,
    /// Size of a chunk, in bytes; a multiple of [`CHUNK_ALIGN_BYTES`].
    pub chunk_bytes: u64,
}

/// Chunks begin at multiples of this, in bytes: a multiple of every page size and of usual stripes.
pub const CHUNK_ALIGN_BYTES: u64 = 1 << 20;

impl Default for ChunkPolicy {
    fn default() -> Self {
        ChunkPolicy { from_bytes: 1 << 30, chunk_bytes: 256 << 20 }
    }
}

/// How hard one node may work on a job; none is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of data a second.
    pub bytes_per_second: Option<u64>,
    /// Operations on the two filesystems a second.
    pub operations_per_second: Option<u64>,
}

/// What is verified beyond attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyPolicy {
    /// Contents too.
    pub content: bool,
    /// Of so many files in a million, chosen by their path.
    pub sample_ppm: u32,
    /// Read from the medium, and leave nothing in the page cache.
    pub no_cache: bool,
    /// Key of every hash in the fingerprint, chosen anew for each job.
    #[serde(with = "super::fingerprint::as_hex")]
    pub salt: super::fingerprint::Salt,
    /// Times are compared and hashed at this granularity, in ns, if it is coarser than the target's own.
    pub granularity_ns: u32,
    /// Inode of the target's root where the job was submitted: nothing marks a target that is only read.
    pub target_ino: Option<u64>,
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
            projects: true,
            fsync: false,
            checksum: false,
            direct: false,
            dry_run: false,
            filter: Filter::default(),
            since: None,
            delete: None,
            chunks: ChunkPolicy::default(),
            limits: Limits::default(),
            verify: VerifyPolicy::default(),
            lustre: LustrePolicy::default(),
        }
    }
}
