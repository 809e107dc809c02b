//! Copying contents through the port, for pairs of adapters without a way of their own.

use super::{Result, SourceFile};
use std::cell::RefCell;
use std::ops::Range;

/// Size of the buffer of each thread, in bytes: large enough that a call's cost does not show, small enough
/// to stay in a core's cache.
pub const BUFFER_BYTES: usize = 256 << 10;
/// Most bytes that any adapter copies between two calls of `written`; a larger piece was cloned as a whole.
pub const LARGEST_PIECE_BYTES: u64 = 16 << 20;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_BYTES]);
}

/// Lends this thread's buffer, of [`BUFFER_BYTES`]. Calls do not nest.
pub fn with_buffer<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with(|b| f(&mut b.borrow_mut()))
}

/// Reads a whole file and hands out its data with offsets, holes left out if wanted. `written` hears of
/// bytes as they go. Returns the bytes of data and the size.
///
/// # Errors
/// The source's, or what `write` returned.
pub fn copy_generic(
    source: &dyn SourceFile,
    holes: bool,
    written: &dyn Fn(u64),
    write: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<(u64, u64)> {
    let size = source.at_open()?.size;
    let (data, reached) = copy_generic_range(source, 0..size, holes, written, write)?;
    Ok((data, reached.unwrap_or(size)))
}

/// As [`copy_generic`], for one range. Returns the bytes of data, and where the source ended, if it did before the
/// range's end.
///
/// # Errors
/// As [`copy_generic`].
pub fn copy_generic_range(
    source: &dyn SourceFile,
    range: Range<u64>,
    holes: bool,
    written: &dyn Fn(u64),
    write: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<(u64, Option<u64>)> {
    let mut data = 0;
    let mut offset = range.start;
    while offset < range.end {
        let run = if holes { source.next_data(offset, range.end)? } else { Some((offset, range.end)) };
        let Some((start, end)) = run else { break };
        let copied = copy_run(source, start, end, written, write)?;
        data += copied;
        offset = end;
        if copied < end - start {
            return Ok((data, Some(start + copied))); // cut short meanwhile: the caller looks at the source again
        }
    }
    Ok((data, None))
}

fn copy_run(
    source: &dyn SourceFile,
    start: u64,
    end: u64,
    written: &dyn Fn(u64),
    write: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<u64> {
    with_buffer(|buf| {
        let mut at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
            let n = source.read_at(at, &mut buf[..want])?;
            if n == 0 {
                break;
            }
            write(at, &buf[..n])?;
            written(n as u64);
            at += n as u64;
        }
        Ok(at - start)
    })
}
