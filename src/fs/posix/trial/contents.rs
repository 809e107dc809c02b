//! Trials of contents, and of what makes copying fast.

use super::super::sys;
use super::{Bench, Outcome, Trial, Weight, kept, missing};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RawDir, RenameFlags, SeekFrom};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// Size of the file with a hole, and where its data begin, in bytes.
const SPARSE_BYTES: u64 = 8 << 20;
const DATA_AT: u64 = 4 << 20;

pub(super) const TRIALS: [Trial; 7] = [
    Trial {
        topic: "writing",
        weight: Weight::Failure,
        without: "no file can be copied: look at the mount, the quota and the free space",
        run: writing,
    },
    Trial {
        topic: "holes",
        weight: Weight::Loss,
        without: "sparse files take their full size: make sure of the space",
        run: holes,
    },
    Trial {
        topic: "files without a name",
        weight: Weight::Speed,
        without: "files are written under a working name and renamed, which takes longer",
        run: nameless,
    },
    Trial {
        topic: "exclusive rename",
        weight: Weight::Speed,
        without: "a link and a removal instead, which take longer",
        run: exclusive_rename,
    },
    Trial { topic: "reflink", weight: Weight::Speed, without: "contents are copied, not shared", run: reflink },
    Trial {
        topic: "flock",
        weight: Weight::Speed,
        without: "two jobs on this target at the same time may take each other's working files for dead",
        run: flock,
    },
    Trial {
        topic: "record locks",
        weight: Weight::Speed,
        without: "treehaul does without; programs that use the copy may not",
        run: ofd,
    },
];

fn writing(bench: &Bench) -> rustix::io::Result<Outcome> {
    let file = bench.file(b"data")?;
    let data = [0xa5; 16 << 10];
    let n = rustix::io::pwrite(&file, &data, 0)?;
    rustix::fs::fsync(&file)?;
    let mut back = [0; 16 << 10];
    let read = rustix::io::pread(&file, &mut back[..], 0)?;
    Ok(if n == data.len() && read == n && back == data { kept("yes") } else { missing("what is read back differs") })
}

fn holes(bench: &Bench) -> rustix::io::Result<Outcome> {
    let file = bench.file(b"hole")?;
    rustix::fs::ftruncate(&file, SPARSE_BYTES)?;
    rustix::io::pwrite(&file, &[1; 4096], DATA_AT)?;
    let found = rustix::fs::seek(&file, SeekFrom::Data(0))?;
    let allocated = u64::try_from(rustix::fs::fstat(&file)?.st_blocks).unwrap_or(0) * 512;
    Ok(match (found > 0, allocated < SPARSE_BYTES) {
        (_, false) => missing("are written as zeros"),
        (true, true) => kept("yes, and found again"),
        (false, true) => kept("yes, but not found again: reading takes longer"),
    })
}

fn nameless(bench: &Bench) -> rustix::io::Result<Outcome> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::TMPFILE;
    let file = rustix::fs::openat(bench.at(), ".", flags, Mode::RUSR | Mode::WUSR)?;
    let path = sys::proc_path(file.as_fd(), None).map_err(|_| Errno::IO)?;
    rustix::fs::linkat(rustix::fs::CWD, path, bench.at(), "named", AtFlags::SYMLINK_FOLLOW)?;
    Ok(kept("yes"))
}

fn exclusive_rename(bench: &Bench) -> rustix::io::Result<Outcome> {
    drop((bench.file(b"from")?, bench.file(b"to")?));
    match rustix::fs::renameat_with(bench.at(), "from", bench.at(), "to", RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => Ok(kept("yes")),
        Ok(()) => Ok(missing("replaces what is there")),
        Err(e) => Err(e),
    }
}

/// From a file of the source, since only that tells whether the two share a filesystem that can.
fn reflink(bench: &Bench) -> rustix::io::Result<Outcome> {
    let Some(source) = bench.source.as_ref() else { return Ok(Outcome::NotTried("no source directory")) };
    if rustix::fs::fstat(source)?.st_dev != rustix::fs::fstat(bench.at())?.st_dev {
        return Ok(missing("source and target are different filesystems"));
    }
    let Some(file) = first_file(source)? else {
        return Ok(Outcome::NotTried("no file with contents in the source's root"));
    };
    match rustix::fs::ioctl_ficlone(bench.file(b"clone")?, &file) {
        Ok(()) => Ok(kept("yes")),
        Err(e) => Err(e),
    }
}

fn first_file(dir: &OwnedFd) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut listing = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = listing.next() {
        let entry = entry?;
        if entry.file_type() != FileType::RegularFile {
            continue;
        }
        let Ok(file) = rustix::fs::openat(dir, entry.file_name(), flags, Mode::empty()) else { continue };
        let found = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_size > 0 {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn flock(bench: &Bench) -> rustix::io::Result<Outcome> {
    let dir = bench.directory(b"locked")?;
    let other = super::open_child(bench.at(), b"locked")?;
    rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
    match rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(kept("yes")),
        Ok(()) => Ok(missing("two get the same lock")),
        Err(e) => Err(e),
    }
}

fn ofd(bench: &Bench) -> rustix::io::Result<Outcome> {
    let file = bench.file(b"records")?;
    sys::lock_whole(file.as_fd()).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(kept("yes"))
}
