//! Which directory of which filesystem a root is, as far as all nodes agree on it.

use super::super::{FsError, Result};
use super::mounts;
use crate::model::{Operation, RootIdentity};
use std::os::fd::BorrowedFd;

/// Types whose `f_fsid` of statfs(2) is made of an id that the filesystem keeps on its own disks or servers, so that
/// every node sees the same; with the place in its sources:
///
/// - Lustre: of the metadata target's UUID, "the same on all clients" (`llite/llite_lib.c`, `get_uuid2fsid`);
/// - ext2, ext3, ext4: of the superblock's UUID (`fs/ext2/super.c`, `fs/ext4/super.c`, `ext4_statfs`);
/// - Btrfs: of the filesystem's UUID and the subvolume's number (`fs/btrfs/super.c`, `btrfs_statfs`);
/// - Ceph: of the cluster's UUID in the monitor map (`fs/ceph/super.c`, `ceph_statfs`);
/// - OCFS2: a checksum of the volume's UUID (`fs/ocfs2/super.c`, `ocfs2_statfs`).
///
/// Not those that give the number of their device, which differs between nodes and after a restart (XFS, F2FS,
/// FAT, ...), a random one for each mount (tmpfs), or none (NFS, FUSE, 9p). Where nothing is known, as of GPFS and
/// BeeGFS, it is not trusted.
const OWN_IDS: [u64; 5] = [0x0bd0_0bd0, 0xef53, 0x9123_683e, 0x00c3_6400, 0x7461_636f];

/// Looks at the root that a descriptor holds.
pub(super) fn of(root: BorrowedFd<'_>) -> Result<RootIdentity> {
    let fail = |e: rustix::io::Errno| FsError::new(Operation::OpenRoot, e);
    let filesystem = rustix::fs::fstatfs(root).map_err(fail)?;
    // The type of f_type differs between architectures; magic numbers have 32 bits.
    let fs_type = u64::from(filesystem.f_type as u32);
    let ino = rustix::fs::fstat(root).map_err(fail)?.st_ino;
    let fsid = rustix::fs::fstatvfs(root).map_err(fail)?.f_fsid;
    // It is only mentioned, so a mount that cannot be seen from a container, say, is no obstacle.
    let device = mounts::device_of(root).ok().flatten().unwrap_or_default();
    let fsid = (OWN_IDS.contains(&fs_type) && fsid != 0).then_some(fsid);
    Ok(RootIdentity { fs_type, ino, fsid, device })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_directory_is_itself_and_no_other_however_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let at = |name: &str| of(std::fs::File::open(dir.path().join(name)).unwrap().as_fd()).unwrap();
        assert_eq!(at("d").differs(&at("d/../d")), None);
        assert!(at("d").differs(&at(".")).is_some_and(|why| why.contains("another directory")));
        let proc = of(std::fs::File::open("/proc").unwrap().as_fd()).unwrap();
        assert_eq!((proc.fs_type, proc.fsid), (0x9fa0, None));
        assert!(proc.differs(&at("d")).is_some_and(|why| why.starts_with("is type 0x9fa0 here and was ")));
        assert!(!proc.device.is_empty());
    }
}
