//! The bytes of a file: a function of its key and the offset, as fast as memory takes them.
//!
//! Invariant: block `n` of a file is eight words, each of them `start + n * step` with a start and an odd step
//! that belong to the file and the word's place. So no two blocks of a file are equal, and blocks of two files
//! are equal only by a coincidence of 512 bits: a chunk in the wrong place is found.

use super::tree::finish;

/// Bytes in a block: a cache line.
const BLOCK_BYTES: usize = 64;
const WORDS: usize = BLOCK_BYTES / 8;

/// The generator of one file.
#[derive(Debug, Clone, Copy)]
pub struct Contents {
    start: [u64; WORDS],
    step: [u64; WORDS],
}

impl Contents {
    /// For a file's key.
    pub fn new(key: u64) -> Self {
        let word = |i: u64| finish(key.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Contents {
            start: std::array::from_fn(|i| word(i as u64)),
            step: std::array::from_fn(|i| word((WORDS + i) as u64) | 1),
        }
    }

    /// Writes the bytes from `offset` on into the whole of `buf`.
    pub fn fill(&self, offset: u64, buf: &mut [u8]) {
        let mut block = offset / BLOCK_BYTES as u64;
        let skip = (offset % BLOCK_BYTES as u64) as usize;
        let mut rest = buf;
        if skip != 0 {
            let (head, tail) = rest.split_at_mut(rest.len().min(BLOCK_BYTES - skip));
            head.copy_from_slice(&self.block(block)[skip..skip + head.len()]);
            rest = tail;
            block += 1;
        }
        let mut words = self.words(block);
        let (blocks, tail) = rest.as_chunks_mut::<BLOCK_BYTES>();
        for out in blocks {
            *out = bytes(&words);
            for (word, step) in words.iter_mut().zip(&self.step) {
                *word = word.wrapping_add(*step);
            }
        }
        let len = tail.len();
        tail.copy_from_slice(&bytes(&words)[..len]);
    }

    fn words(&self, block: u64) -> [u64; WORDS] {
        std::array::from_fn(|i| self.start[i].wrapping_add(block.wrapping_mul(self.step[i])))
    }

    fn block(&self, block: u64) -> [u8; BLOCK_BYTES] {
        bytes(&self.words(block))
    }
}

fn bytes(words: &[u64; WORDS]) -> [u8; BLOCK_BYTES] {
    let mut out = [0; BLOCK_BYTES];
    for (place, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn any_piece_equals_the_same_piece_of_the_whole(key: u64, offset in 0_usize..1000, len in 0_usize..1000) {
            let contents = Contents::new(key);
            let mut whole = vec![0; 2000];
            contents.fill(0, &mut whole);
            let mut piece = vec![0; len];
            contents.fill(offset as u64, &mut piece);
            prop_assert_eq!(&piece[..], &whole[offset..offset + len]);
        }
    }

    #[test]
    fn no_block_comes_twice_in_a_file_or_in_two_files() {
        let mut seen = HashSet::new();
        for key in 0..16 {
            let mut buf = vec![0; 64 * 1024];
            Contents::new(finish(key)).fill((1 << 40) - 4096, &mut buf);
            for block in buf.chunks(BLOCK_BYTES) {
                assert!(seen.insert(block.to_vec()));
            }
        }
    }
}
