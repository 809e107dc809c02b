//! What a target keeps of times: tried out on a file without a name, so nothing is left and nothing is touched.

use super::super::{Edit, FsError, New, Result, Traits};
use super::dir::Inherits;
use super::new::PosixNew;
use super::{Shared, project};
use crate::model::{Operation, Timestamp};
use rustix::fs::{Mode, OFlags};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Nanoseconds whose digits tell the granularity; the odd second tells FAT's two.
const TRIAL: Timestamp = Timestamp { sec: 1_000_000_001, ns: 123_456_789 };
/// Far beyond what any filesystem keeps, yet within what the kernel's time type holds, in seconds.
const FAR: i64 = 1 << 40;

/// A full or read-only target is reported entry by entry, or needs nothing written at all: then the usual is assumed.
pub(super) fn traits(root: BorrowedFd<'_>, shared: &Arc<Shared>) -> Traits {
    let held = root.try_clone_to_owned().map(std::fs::File::from);
    let changed = |file: &std::fs::File| file.metadata().and_then(|m| m.modified()).ok();
    let before = held.as_ref().ok().and_then(changed);
    let traits = try_traits(root, shared).unwrap_or_default();
    if let (Ok(root), Some(before)) = (held, before)
        && changed(&root) != Some(before)
    {
        // The trial had a name, where there are no files without one: the root must not look changed because of it.
        // Who does not own the root cannot help that.
        let _ = root.set_times(std::fs::FileTimes::new().set_modified(before));
    }
    traits
}

/// As [`traits`], but where a file cannot be made without a name nothing is tried, and the type of the filesystem tells.
pub(super) fn traits_unseen(root: BorrowedFd<'_>, shared: &Arc<Shared>) -> Traits {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::TMPFILE;
    if rustix::fs::openat(root, ".", flags, Mode::RUSR | Mode::WUSR).is_ok() {
        return traits(root, shared);
    }
    traits_unwritten(root)
}

/// What can be told of a root that is only read.
pub(super) fn traits_unwritten(root: BorrowedFd<'_>) -> Traits {
    // The type of f_type differs between architectures; magic numbers have 32 bits.
    let magic = rustix::fs::fstatfs(root).map_or(0, |s| u64::from(s.f_type as u32));
    Traits { time_granularity_ns: usual_granularity_ns(magic), projects: project::are_used(root), ..Traits::default() }
}

/// What filesystems that are known for coarse times keep of them, by their magic number.
pub(super) fn usual_granularity_ns(magic: u64) -> u32 {
    match magic {
        0x4d44 => 2_000_000_000,                        // FAT
        0x2011_bab0 => 10_000_000,                      // exFAT
        0x0bd0_0bd0 | 0x4244 | 0x482b => 1_000_000_000, // Lustre, HFS, HFS+
        0xff53_4d42 | 0xfe53_4d42 | 0x5346_544e => 100, // CIFS, SMB2, NTFS
        _ => 1,
    }
}

fn try_traits(root: BorrowedFd<'_>, shared: &Arc<Shared>) -> Result<Traits> {
    let root = root.try_clone_to_owned().map_err(|e| FsError::new(Operation::OpenRoot, e))?;
    let inherits = Inherits { acl: false, own_group: false };
    let trial = PosixNew::create(&Arc::new(root), inherits, Arc::clone(shared), b"trial", New::File, false)?;
    let owner = trial.metadata()?;
    shared.uid.store(owner.uid, Ordering::Relaxed);
    shared.gid.store(owner.gid, Ordering::Relaxed);
    let kept = |t: Timestamp| -> Result<Timestamp> {
        trial.set_times(t, t)?;
        Ok(trial.metadata()?.mtime)
    };
    let projects = trial.keeps_projects();
    let seen = kept(TRIAL)?;
    let granularity = [1, 100, 1000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000];
    let time_granularity_ns = granularity.into_iter().find(|g| TRIAL.truncated(*g) == seen).unwrap_or(2_000_000_000);
    let earliest = kept(Timestamp { sec: -FAR, ns: 0 }).unwrap_or(Timestamp { sec: i64::MIN, ns: 0 });
    let latest = kept(Timestamp { sec: FAR, ns: 0 }).unwrap_or(Timestamp { sec: i64::MAX, ns: 0 });
    let bounded =
        |t: Timestamp, open: i64| if t.sec == FAR || t.sec == -FAR { Timestamp { sec: open, ns: 0 } } else { t };
    if !(earliest < TRIAL && TRIAL < latest) {
        // It wraps instead of stopping at a bound, so nothing can be told.
        return Ok(Traits { time_granularity_ns, projects, ..Traits::default() });
    }
    let time_range = (bounded(earliest, i64::MIN), bounded(latest, i64::MAX));
    Ok(Traits { time_granularity_ns, time_range, forgets: false, projects })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::JobId;
    use std::os::fd::AsFd;

    #[test]
    fn the_probe_leaves_nothing_behind() {
        for has_unnamed_files in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let fd = std::fs::File::open(dir.path()).unwrap();
            let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
            fd.set_modified(long_ago).unwrap();
            let shared = Shared::new(JobId::random());
            shared.tmpfile.fetch_and(has_unnamed_files, Ordering::Relaxed);
            let traits = traits(fd.as_fd(), &shared);
            assert!(traits.time_granularity_ns >= 1);
            assert!(traits.time_range.0 < traits.time_range.1);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            assert_eq!(fd.metadata().unwrap().modified().unwrap(), long_ago, "unnamed: {has_unnamed_files}");
        }
    }
}
