//! What tells one root from another: recorded where a job is submitted, looked up again wherever it is worked on.
//!
//! Invariant: what differs between two nodes that see the same directory is never held against it.

use serde::{Deserialize, Serialize};

/// Magic numbers of filesystems (`linux/magic.h`, and those of the filesystems' own sources).
const FILESYSTEMS: [(u64, &str); 25] = [
    (0xef53, "ext2/3/4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x6969, "nfs"),
    (0x0bd0_0bd0, "lustre"),
    (0x6573_5546, "fuse"),
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x5346_544e, "ntfs"),
    (0x7366_746e, "ntfs3"),
    (0x794c_7630, "overlay"),
    (0x2fc1_2fc1, "zfs"),
    (0x4750_4653, "gpfs"),
    (0x1983_0326, "beegfs"),
    (0x00c3_6400, "ceph"),
    (0xf2f5_2010, "f2fs"),
    (0x0102_1997, "9p"),
    (0x482b, "hfsplus"),
    (0x7371_7368, "squashfs"),
    (0xe0f5_e1e2, "erofs"),
    (0x7461_636f, "ocfs2"),
];

/// Name of a type of filesystem by its magic number, or that number.
pub fn filesystem_name(magic: u64) -> String {
    let known = FILESYSTEMS.iter().find(|(number, _)| *number == magic);
    known.map_or_else(|| format!("type {magic:#x}"), |(_, name)| (*name).to_owned())
}

/// Which directory, of which filesystem, a root is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RootIdentity {
    /// Magic number of the filesystem's type; 0 where there is none: `synth://`, `null://`.
    pub fs_type: u64,
    /// Inode number of the root; what is made up has a number made of its URL.
    pub ino: u64,
    /// The filesystem's own id, where it is the same on all nodes.
    pub fsid: Option<u64>,
    /// What is mounted, as the node calls it: a server may have several names, so it is only mentioned.
    #[serde(with = "serde_bytes")]
    pub device: Vec<u8>,
}

impl RootIdentity {
    /// Is there no root yet? So it is with the target of a dry run that is still to be made.
    pub fn is_nowhere(&self) -> bool {
        *self == RootIdentity::default()
    }

    /// Why this root, seen here, cannot be the `submitted` one, in words that follow its path.
    pub fn differs(&self, submitted: &RootIdentity) -> Option<String> {
        if self.is_nowhere() != submitted.is_nowhere() {
            let (here, there) = if self.is_nowhere() { ("is not", "was") } else { ("is", "was not") };
            return Some(format!("{here} there and {there} where the job was submitted: is it mounted?"));
        }
        let [here, there] = [self, submitted].map(|root| filesystem_name(root.fs_type));
        let what = if self.fs_type != submitted.fs_type {
            format!("is {here} here and was {there} where the job was submitted")
        } else if self.fsid.zip(submitted.fsid).is_some_and(|(ours, theirs)| ours != theirs) {
            format!("is on another {here} filesystem here than where the job was submitted")
        } else if self.ino != submitted.ino {
            "is another directory here than where the job was submitted".to_owned()
        } else {
            return None;
        };
        let devices = if self.device == submitted.device {
            String::new()
        } else {
            let [ours, theirs] = [self, submitted].map(|root| super::escaped(&root.device));
            format!(" ({ours} here, {theirs} there)")
        };
        Some(format!("{what}{devices}: is it mounted?"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(fs_type: u64, ino: u64, fsid: Option<u64>, device: &str) -> RootIdentity {
        RootIdentity { fs_type, ino, fsid, device: device.into() }
    }

    #[test]
    fn a_server_with_two_names_is_one_root_and_what_is_not_mounted_is_told_with_both_devices() {
        let submitted = root(0x6969, 7, None, "one:/export");
        assert_eq!(root(0x6969, 7, None, "two:/export").differs(&submitted), None);
        let lustre = root(0x0bd0_0bd0, 144, Some(3), "mds@tcp:/a");
        let why = root(0xef53, 144, Some(9), "/dev/sda\x1b1").differs(&lustre).unwrap();
        let want = "is ext2/3/4 here and was lustre where the job was submitted (/dev/sda\\x1b1 here, mds@tcp:/a \
                    there): is it mounted?";
        assert_eq!(why, want);
    }

    #[test]
    fn an_id_counts_only_where_both_have_one_and_the_inode_always() {
        let submitted = root(0xef53, 2, Some(1), "/dev/a");
        assert_eq!(root(0xef53, 2, None, "/dev/a").differs(&submitted), None);
        let other = root(0xef53, 2, Some(2), "/dev/a").differs(&submitted).unwrap();
        assert_eq!(other, "is on another ext2/3/4 filesystem here than where the job was submitted: is it mounted?");
        let moved = root(0xef53, 3, Some(1), "/dev/a").differs(&submitted).unwrap();
        assert_eq!(moved, "is another directory here than where the job was submitted: is it mounted?");
        assert_eq!(filesystem_name(0x1234), "type 0x1234");
    }

    #[test]
    fn what_is_not_there_is_no_root_that_was_and_the_other_way_round() {
        let there = root(0xef53, 2, None, "/dev/a");
        let nowhere = RootIdentity::default();
        assert_eq!(nowhere.differs(&nowhere), None);
        assert!(nowhere.differs(&there).is_some_and(|why| why.starts_with("is not there and was")));
        assert!(there.differs(&nowhere).is_some_and(|why| why.starts_with("is there and was not")));
    }
}
