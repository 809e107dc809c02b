//! The fast ways to copy contents between two descriptors of one kernel.

use super::super::contents::{BUFFER_BYTES, LARGEST_PIECE_BYTES, copy_generic, copy_generic_range, with_buffer};
use super::super::{FsError, Result, SourceFile};
use super::Shared;
use crate::model::Operation;
use rustix::io::Errno;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// From this size on, files are worth the extra calls of a clone or a copy inside the kernel, in bytes.
const LARGE_BYTES: u64 = 1 << 20;
/// Bytes of one `copy_file_range`, so that progress is seen and a signal does not wait long.
const RANGE_BYTES: usize = LARGEST_PIECE_BYTES as usize;

/// Fills an empty file. Returns the bytes of data written.
pub(super) fn fill(
    target: BorrowedFd<'_>,
    source: &dyn SourceFile,
    holes: bool,
    written: &dyn Fn(u64),
    shared: &Shared,
) -> Result<u64> {
    let m = source.at_open()?;
    let sparse = holes && m.blocks_512.saturating_mul(512) < m.size;
    let Some(from) = source.descriptor() else {
        return fill_generic(target, source, holes, written);
    };
    if m.size <= BUFFER_BYTES as u64 && !sparse {
        return fill_small(target, from, m.size, written);
    }
    if m.size >= LARGE_BYTES && holes && try_once(&shared.reflink, || rustix::fs::ioctl_ficlone(target, from)) {
        written(m.size);
        return Ok(m.size);
    }
    let mut data = 0;
    let mut offset = 0;
    while offset < m.size {
        let run = if sparse { source.next_data(offset, m.size)? } else { Some((0, m.size)) };
        let Some((start, end)) = run else { break };
        let copied = copy_run(target, from, start, end, written, shared)?;
        data += copied;
        offset = end;
        if copied < end - start {
            break; // cut short meanwhile: the caller looks at the source again
        }
    }
    if sparse {
        set_size(target, m.size)?;
    }
    Ok(data)
}

/// Makes an empty file share the whole contents of a source, where the filesystem can.
pub(super) fn share(target: BorrowedFd<'_>, source: &dyn SourceFile, shared: &Shared) -> bool {
    let Some(from) = source.descriptor() else { return false };
    try_once(&shared.reflink, || rustix::fs::ioctl_ficlone(target, from))
}

/// Fills one range of a file that has its size. False if the source ended before.
pub(super) fn fill_range(
    target: BorrowedFd<'_>,
    source: &dyn SourceFile,
    range: Range<u64>,
    holes: bool,
    written: &dyn Fn(u64),
    shared: &Shared,
) -> Result<bool> {
    let m = source.at_open()?;
    let sparse = holes && m.blocks_512.saturating_mul(512) < m.size;
    let Some(from) = source.descriptor() else {
        let copied =
            copy_generic_range(source, range, holes, written, &mut |offset, bytes| write_at(target, bytes, offset));
        return Ok(copied?.1.is_none());
    };
    let mut offset = range.start;
    while offset < range.end {
        let run = if sparse { source.next_data(offset, range.end)? } else { Some((offset, range.end)) };
        let Some((start, end)) = run else { break };
        if copy_run(target, from, start, end, written, shared)? < end - start {
            return Ok(false);
        }
        offset = end;
    }
    Ok(true)
}

/// Calls something that the filesystem may not be able to do; a no is remembered.
fn try_once(able: &AtomicBool, call: impl FnOnce() -> rustix::io::Result<()>) -> bool {
    if !able.load(Ordering::Relaxed) {
        return false;
    }
    let done = call();
    if let Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY | Errno::NOSYS | Errno::INVAL) = done {
        able.store(false, Ordering::Relaxed);
    }
    done.is_ok()
}

fn set_size(target: BorrowedFd<'_>, size: u64) -> Result<()> {
    rustix::fs::ftruncate(target, size).map_err(|e| FsError::new(Operation::Truncate, e))
}

fn fill_generic(target: BorrowedFd<'_>, source: &dyn SourceFile, holes: bool, written: &dyn Fn(u64)) -> Result<u64> {
    let mut end = 0;
    let (data, size) = copy_generic(source, holes, written, &mut |offset, bytes| {
        end = offset + bytes.len() as u64;
        write_at(target, bytes, offset)
    })?;
    if size > end {
        set_size(target, size)?;
    }
    Ok(data)
}

/// Most files: one read, one write. Reads on to the end, also where the size is not told (0).
fn fill_small(target: BorrowedFd<'_>, from: BorrowedFd<'_>, size: u64, written: &dyn Fn(u64)) -> Result<u64> {
    with_buffer(|buf| {
        let mut done = 0;
        loop {
            let n = match rustix::io::read(from, &mut *buf) {
                Ok(n) => n,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(FsError::new(Operation::Read, e)),
            };
            write_at(target, &buf[..n], done)?;
            written(n as u64);
            done += n as u64;
            if n == 0 || (done == size && n < buf.len()) {
                return Ok(done);
            }
        }
    })
}

fn write_at(target: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(target, bytes, offset) {
            Ok(0) => return Err(FsError::new(Operation::Write, Errno::NOSPC)),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(FsError::new(Operation::Write, e)),
        }
    }
    Ok(())
}

/// Copies one run of data; fewer bytes only if the source ends before.
fn copy_run(
    target: BorrowedFd<'_>,
    from: BorrowedFd<'_>,
    start: u64,
    end: u64,
    written: &dyn Fn(u64),
    shared: &Shared,
) -> Result<u64> {
    let mut at = start;
    while at < end && end - at >= LARGE_BYTES && shared.copy_range.load(Ordering::Relaxed) {
        let want = usize::try_from(end - at).unwrap_or(RANGE_BYTES).min(RANGE_BYTES);
        let (mut off_in, mut off_out) = (at, at);
        match rustix::fs::copy_file_range(from, Some(&mut off_in), target, Some(&mut off_out), want) {
            Ok(0) => break, // the end, or a filesystem that pretends: reading tells
            Ok(n) => {
                written(n as u64);
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => {
                shared.copy_range.store(false, Ordering::Relaxed);
            }
            // Which side failed is not told: reading and writing tells.
            Err(_) => break,
        }
    }
    while at < end {
        let n = copy_buffer(target, from, at, end)?;
        if n == 0 {
            break;
        }
        written(n);
        at += n;
    }
    Ok(at - start)
}

fn copy_buffer(target: BorrowedFd<'_>, from: BorrowedFd<'_>, at: u64, end: u64) -> Result<u64> {
    with_buffer(|buf| {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
        loop {
            match rustix::io::pread(from, &mut buf[..want], at) {
                Ok(n) => return write_at(target, &buf[..n], at).map(|()| n as u64),
                Err(Errno::INTR) => {}
                Err(e) => return Err(FsError::new(Operation::Read, e)),
            }
        }
    })
}
