//! Comparing and digesting contents.
//!
//! A piece's digest is that of its blocks that are not all zeros: number, length and digest of each. So holes and zeros
//! are the same, and neither is read more than once. Invariant: equal contents of one size have equal digests, on
//! whatever filesystem.

use super::Trouble;
use crate::fs::contents::with_buffer;
use crate::fs::{FsError, SourceFile};
use crate::model::fingerprint::{BLOCK_BYTES, PIECE_BYTES};
use crate::model::{Half, Metadata};

/// A block, in bytes: half of the buffer of a thread.
const BLOCK: usize = BLOCK_BYTES as usize;

/// A file that is read where it has data.
pub(super) struct Reader<'a> {
    half: Half,
    file: &'a dyn SourceFile,
    size: u64,
    sparse: bool,
    run: (u64, u64),
}

impl<'a> Reader<'a> {
    /// Reads a file that has these attributes.
    pub fn new(half: Half, file: &'a dyn SourceFile, m: &Metadata) -> Self {
        let sparse = m.size > BLOCK_BYTES && m.blocks_512.saturating_mul(512) < m.size;
        Reader { half, file, size: m.size, sparse, run: (0, 0) }
    }

    /// The first data at or after an offset.
    pub fn data_from(&mut self, at: u64) -> Result<Option<u64>, Trouble> {
        if !self.sparse || (self.run.0 <= at && at < self.run.1) {
            return Ok((at < self.size).then_some(at));
        }
        let next = self.file.next_data(at, self.size).map_err(Trouble::new(self.half))?;
        self.run = next.unwrap_or_default();
        Ok(next.map(|(start, _)| start.max(at)))
    }

    /// Takes a range out of the page cache.
    pub fn drop_cache(&self, offset: u64, bytes: u64) -> Result<(), Trouble> {
        self.file.drop_cache(offset, bytes).map_err(Trouble::new(self.half))
    }
}

/// The first data in any of some files, at or after an offset.
pub(super) fn data_from(readers: &mut [Reader<'_>], at: u64) -> Result<Option<u64>, Trouble> {
    let mut first = None;
    for reader in readers {
        let next = reader.data_from(at)?;
        first = [first, next].into_iter().flatten().min();
    }
    Ok(first)
}

/// What a piece was seen to be.
#[derive(Default)]
pub(super) struct Piece {
    /// Digest for each reader; none of zeros alone.
    pub digests: [Option<[u8; 32]>; 2],
    /// Offset of the first byte that differs.
    pub differs_at: Option<u64>,
    /// A file ended sooner than it should: it was changed meanwhile.
    pub short: bool,
    /// Bytes that were read, of all files.
    pub read: u64,
}

/// A digest in the making.
#[derive(Clone, Default)]
struct Digest {
    hasher: blake3::Hasher,
    any: bool,
}

impl Digest {
    fn add(&mut self, number: u64, length: usize, block: &blake3::Hash) {
        self.any = true;
        self.hasher.update(&number.to_le_bytes()).update(&(length as u64).to_le_bytes()).update(block.as_bytes());
    }

    fn end(&self) -> Option<[u8; 32]> {
        self.any.then(|| *self.hasher.finalize().as_bytes())
    }
}

/// Digests one piece of one file, or of two of one size that are compared.
pub(super) fn piece(readers: &mut [Reader<'_>], number: u64) -> Result<Piece, Trouble> {
    let start = number.saturating_mul(PIECE_BYTES);
    let end = readers.first().map_or(0, |r| r.size).min(start.saturating_add(PIECE_BYTES));
    let mut seen = Piece::default();
    // As long as nothing differs there is only one.
    let (mut ours, mut theirs) = (Digest::default(), None::<Digest>);
    let mut at = start;
    while let Some(data) = data_from(readers, at)?.filter(|data| *data < end) {
        let block = data - data % BLOCK_BYTES;
        let length = usize::try_from(end - block).unwrap_or(BLOCK).min(BLOCK);
        with_buffer(|buf| {
            let (first, second) = buf.split_at_mut(BLOCK);
            let (first, second) = (&mut first[..length], &mut second[..length]);
            for (reader, buf) in readers.iter().zip([&mut *first, &mut *second]) {
                seen.short |= read(reader, block, buf, &mut seen.read).map_err(Trouble::new(reader.half))?;
            }
            let number = (block - start) / BLOCK_BYTES;
            if readers.len() > 1 && first != second {
                let same = first.iter().zip(&*second).take_while(|(a, b)| a == b).count();
                seen.differs_at = seen.differs_at.or(Some(block + same as u64));
                let theirs = theirs.get_or_insert_with(|| ours.clone());
                add(&mut ours, number, first);
                add(theirs, number, second);
            } else if !is_zero(first) {
                let block = blake3::hash(first);
                ours.add(number, length, &block);
                if let Some(theirs) = &mut theirs {
                    theirs.add(number, length, &block);
                }
            }
            Ok::<_, Trouble>(())
        })?;
        at = block + BLOCK_BYTES;
    }
    let digest = ours.end();
    seen.digests = [digest, theirs.map_or(digest, |t| t.end())];
    Ok(seen)
}

fn add(digest: &mut Digest, number: u64, block: &[u8]) {
    if !is_zero(block) {
        digest.add(number, block.len(), &blake3::hash(block));
    }
}

/// Reads a block; what is beyond the end reads as zeros. True if the file ended before.
fn read(reader: &Reader<'_>, offset: u64, buf: &mut [u8], total: &mut u64) -> Result<bool, FsError> {
    let n = reader.file.read_at(offset, buf)?;
    buf[n..].fill(0);
    *total += n as u64;
    Ok(n < buf.len())
}

/// All zeros? Each byte is compared with its neighbour, at the speed of memory.
fn is_zero(block: &[u8]) -> bool {
    block.first().is_none_or(|b| *b == 0) && block[1.min(block.len())..] == block[..block.len().saturating_sub(1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Filesystem, Options, Side, posix};
    use crate::model::{JobId, RelPath};
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    fn root(path: &std::path::Path) -> Arc<dyn Filesystem> {
        posix::open(path.as_os_str().as_encoded_bytes(), Side::Source, &Options::new(JobId::random())).unwrap()
    }

    #[test]
    fn holes_and_zeros_have_one_digest_and_a_terabyte_of_hole_takes_no_time() {
        let dir = tempfile::tempdir().unwrap();
        let size = 3 * BLOCK_BYTES + 77;
        for (name, zeros) in [("hole", false), ("zeros", true)] {
            let f = std::fs::File::create(dir.path().join(name)).unwrap();
            if zeros {
                f.write_all_at(&vec![0; size as usize], 0).unwrap();
            }
            f.write_all_at(b"data", 2 * BLOCK_BYTES + 5).unwrap();
            f.set_len(size).unwrap();
        }
        std::fs::File::create(dir.path().join("vast")).unwrap().set_len(1 << 40).unwrap();
        let at = root(dir.path()).open_dir(&RelPath::root()).unwrap();
        let (a, b) = (at.open_file(b"hole").unwrap(), at.open_file(b"zeros").unwrap());
        let mut both = [
            Reader::new(Half::Source, a.as_ref(), &a.at_open().unwrap()),
            Reader::new(Half::Target, b.as_ref(), &b.at_open().unwrap()),
        ];
        let seen = piece(&mut both, 0).unwrap();
        assert_eq!((seen.differs_at, seen.short), (None, false));
        assert!(seen.digests[0].is_some() && seen.digests[0] == seen.digests[1]);
        let [mut a, mut b] = both;
        for alone in [&mut a, &mut b] {
            assert_eq!(piece(std::slice::from_mut(alone), 0).unwrap().digests[0], seen.digests[0]);
        }
        let vast = at.open_file(b"vast").unwrap();
        let mut vast = [Reader::new(Half::Source, vast.as_ref(), &vast.at_open().unwrap())];
        assert_eq!(data_from(&mut vast, 0).unwrap(), None);
        assert_eq!(piece(&mut vast, 4000).unwrap().digests[0], None);
    }

    #[test]
    fn one_byte_anywhere_changes_the_digest_and_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let data = vec![7; 2 * BLOCK + 1000];
        let digest_of = |at: Option<usize>| {
            let mut changed = data.clone();
            if let Some(at) = at {
                changed[at] = 0;
            }
            for (name, data) in [("a", &data), ("b", &changed)] {
                std::fs::write(dir.path().join(name), data).unwrap();
            }
            let fs = root(dir.path()).open_dir(&RelPath::root()).unwrap();
            let (a, b) = (fs.open_file(b"a").unwrap(), fs.open_file(b"b").unwrap());
            let mut both = [
                Reader::new(Half::Source, a.as_ref(), &a.at_open().unwrap()),
                Reader::new(Half::Target, b.as_ref(), &b.at_open().unwrap()),
            ];
            let seen = piece(&mut both, 0).unwrap();
            assert_eq!(seen.differs_at, at.map(|at| at as u64));
            assert_eq!(seen.read, 2 * data.len() as u64);
            assert_eq!(seen.digests[0] == seen.digests[1], at.is_none());
            let [_, mut b] = both;
            assert_eq!(piece(std::slice::from_mut(&mut b), 0).unwrap().digests[0], seen.digests[1]);
            seen.digests[1]
        };
        let all: std::collections::HashSet<_> =
            [None, Some(0), Some(BLOCK - 1), Some(BLOCK), Some(2 * BLOCK + 999)].map(digest_of).into();
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn zeros_are_told_from_anything_else() {
        assert!(is_zero(&[]) && is_zero(&[0]) && is_zero(&[0; 1000]));
        for at in [0, 1, 500, 999] {
            let mut block = [0; 1000];
            block[at] = 1;
            assert!(!is_zero(&block));
        }
        assert!(!is_zero(&[5; 10]));
    }
}
