//! Trials of attributes: who may do what, and what else is noted of an entry.

use super::super::edit::timestamps;
use super::super::project::are_kept;
use super::super::xattr::{ACL_ACCESS, ACL_DEFAULT};
use super::{Bench, Outcome, Trial, Weight, kept, missing};
use crate::model::Timestamp;
use rustix::fs::{AtFlags, Gid, IFlags, Mode, Uid, XattrFlags};
use std::os::fd::{AsFd, OwnedFd};

/// Values of extended attributes that are tried, in bytes; the last is the most that Linux allows.
const SIZES: [usize; 5] = [1, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
/// An owner beyond 31 bits, as domains hand them out.
const FAR_ID: u32 = 4_000_000_000;
const NOT_ROOT: Outcome = Outcome::NotTried("only root can");

pub(super) const TRIALS: [Trial; 11] = [
    Trial {
        topic: "owners",
        weight: Weight::Loss,
        without: "entries belong to somebody else; run as root, or mount without squashing (NFS: no_root_squash)",
        run: owners,
    },
    Trial {
        topic: "modes",
        weight: Weight::Loss,
        without: "permission bits are lost, setuid and setgid first: mind who can read the copy",
        run: modes,
    },
    Trial {
        topic: "times of symlinks",
        weight: Weight::Loss,
        without: "they get the time of the copy",
        run: symlink_times,
    },
    Trial {
        topic: "user.* attributes",
        weight: Weight::Loss,
        without: "they are lost and counted; mount with user_xattr, or --no-xattrs",
        run: |bench| xattr(bench, b"user"),
    },
    Trial {
        topic: "trusted.* attributes",
        weight: Weight::Loss,
        without: "they are lost and counted; --no-xattrs leaves them out",
        run: |bench| root_xattr(bench, b"trusted"),
    },
    Trial {
        topic: "security.* attributes",
        weight: Weight::Loss,
        without: "labels are lost and counted; --no-xattrs leaves them out",
        run: |bench| root_xattr(bench, b"security"),
    },
    Trial {
        topic: "capabilities",
        weight: Weight::Loss,
        without: "programs lose them and must be given them again (setcap)",
        run: capabilities,
    },
    Trial {
        topic: "POSIX ACLs",
        weight: Weight::Loss,
        without: "they are lost, and modes narrowed so that nobody gets more; mount with acl, or --no-acls",
        run: acls,
    },
    Trial {
        topic: "default ACLs",
        weight: Weight::Loss,
        without: "directories do not hand them down any more",
        run: default_acls,
    },
    Trial {
        topic: "project ids",
        weight: Weight::Speed,
        without: "quota projects of the source are lost there",
        run: project,
    },
    Trial { topic: "inode flags", weight: Weight::Speed, without: "no chattr on the target", run: flags },
];

fn owners(bench: &Bench) -> rustix::io::Result<Outcome> {
    if !bench.is_root {
        return Ok(missing("only root can set them"));
    }
    let file = bench.file(b"owned")?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(FAR_ID)), Some(Gid::from_raw(FAR_ID - 1)))?;
    let found = bench.stat(b"owned")?;
    Ok(if (found.st_uid, found.st_gid) == (FAR_ID, FAR_ID - 1) {
        kept("yes, also above 2^31")
    } else {
        missing(format!("{FAR_ID} becomes {}", found.st_uid))
    })
}

fn modes(bench: &Bench) -> rustix::io::Result<Outcome> {
    let file = bench.file(b"mode")?;
    for mode in [0o6711, 0o1604, 0o000] {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        let found = bench.stat(b"mode")?.st_mode & 0o7777;
        if found != mode {
            return Ok(missing(format!("{mode:04o} becomes {found:04o}")));
        }
    }
    Ok(kept("yes, with setuid, setgid and sticky"))
}

fn symlink_times(bench: &Bench) -> rustix::io::Result<Outcome> {
    rustix::fs::symlinkat("nowhere", bench.at(), "timed")?;
    let time = Timestamp { sec: 1_000_000_000, ns: 0 };
    rustix::fs::utimensat(bench.at(), "timed", &timestamps(time, time), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(if bench.stat(b"timed")?.st_mtime == time.sec { kept("yes") } else { missing("they do not stay") })
}

fn set(file: &OwnedFd, name: &[u8], value: &[u8]) -> rustix::io::Result<bool> {
    rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())?;
    // A Lustre client shows an ACL as it was before to the descriptor that set it, until it is asked for attributes.
    rustix::fs::fstat(file)?;
    let mut back = vec![0; value.len()];
    let n = rustix::fs::fgetxattr(file, name, &mut back[..])?;
    Ok(n == value.len() && back == value)
}

fn xattr(bench: &Bench, namespace: &[u8]) -> rustix::io::Result<Outcome> {
    let file = bench.file(&[b"xattr-", namespace].concat())?;
    let name = [namespace, b".treehaul-trial"].concat();
    let mut largest = None;
    for size in SIZES {
        match set(&file, &name, &vec![b'x'; size]) {
            Ok(true) => largest = Some(size),
            Ok(false) => return Ok(missing("what is read back differs")),
            Err(e) if largest.is_none() => return Err(e),
            Err(_) => break,
        }
    }
    Ok(match largest {
        None => missing("none"),
        Some(size) if size == SIZES[SIZES.len() - 1] => kept("values of any size"),
        // Large values are rare, and each that does not fit is counted.
        Some(size) => kept(format!("values of {size} bytes; some larger ones are lost")),
    })
}

fn root_xattr(bench: &Bench, namespace: &[u8]) -> rustix::io::Result<Outcome> {
    if bench.is_root { xattr(bench, namespace) } else { Ok(NOT_ROOT) }
}

fn capabilities(bench: &Bench) -> rustix::io::Result<Outcome> {
    if !bench.is_root {
        return Ok(NOT_ROOT);
    }
    // vfs_cap_data of version 2 with the bit of CAP_NET_RAW (linux/capability.h).
    let words = [0x0200_0001_u32, 1 << 13, 0, 0, 0];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Ok(if set(&bench.file(b"capable")?, b"security.capability", &value)? { kept("yes") } else { missing("changed") })
}

/// An ACL that lets user 1000 read (`linux/posix_acl_xattr.h`).
fn acl() -> Vec<u8> {
    let entries = [(1_u16, 6_u16, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn acls(bench: &Bench) -> rustix::io::Result<Outcome> {
    Ok(if set(&bench.file(b"acl")?, ACL_ACCESS, &acl())? { kept("yes") } else { missing("changed") })
}

fn default_acls(bench: &Bench) -> rustix::io::Result<Outcome> {
    Ok(if set(&bench.directory(b"acl-dir")?, ACL_DEFAULT, &acl())? { kept("yes") } else { missing("changed") })
}

fn project(bench: &Bench) -> rustix::io::Result<Outcome> {
    let file = bench.file(b"project")?;
    Ok(if are_kept(file.as_fd()) { kept("yes") } else { missing("none can be set") })
}

fn flags(bench: &Bench) -> rustix::io::Result<Outcome> {
    let file = bench.file(b"flags")?;
    let before = rustix::fs::ioctl_getflags(&file)?;
    rustix::fs::ioctl_setflags(&file, before | IFlags::NODUMP)?;
    Ok(if rustix::fs::ioctl_getflags(&file)?.contains(IFlags::NODUMP) { kept("yes") } else { missing("not kept") })
}
