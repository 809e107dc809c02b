//! Records in unnamed temporary files, brought together by a key: memory stays flat however many there are.
//!
//! Invariant: records of one key lie in one file, and come back together, sorted, each once.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

/// Files of one level.
const FILES: usize = 256;
/// Buffer of each file, in bytes; all together 2 MiB.
const BUFFER_BYTES: usize = 8 << 10;
/// A file of more bytes is cut up once more before it is read.
const LOADED_BYTES: u64 = 8 << 20;
/// Levels of cutting. What is too large after that is one key's.
const LEVELS: usize = 4;

/// The part of a record that brings it together with others: a prefix of it.
pub(super) type KeyOf = fn(&[u8]) -> &[u8];

/// Records by key.
pub(super) struct Partitions {
    key_of: KeyOf,
    level: usize,
    files: Vec<Option<BufWriter<File>>>,
}

impl Partitions {
    pub fn new(key_of: KeyOf) -> Self {
        Partitions { key_of, level: 0, files: Vec::new() }
    }

    /// Adds a record.
    pub fn put(&mut self, record: &[u8]) -> io::Result<()> {
        let file = usize::from(blake3::hash((self.key_of)(record)).as_bytes()[self.level]);
        self.files.resize_with(FILES, || None);
        let file = match &mut self.files[file] {
            Some(file) => file,
            none => none.insert(BufWriter::with_capacity(BUFFER_BYTES, tempfile::tempfile()?)),
        };
        file.write_all(&u32::try_from(record.len()).map_err(io::Error::other)?.to_le_bytes())?;
        file.write_all(record)
    }

    /// Hands out all records, those of one key in one call, sorted.
    pub fn drain(self, each: &mut dyn FnMut(&[&[u8]]) -> io::Result<()>) -> io::Result<()> {
        for file in self.files.into_iter().flatten() {
            let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            let bytes = file.stream_position()?;
            file.rewind()?;
            if bytes <= LOADED_BYTES || self.level + 1 == LEVELS {
                drain_loaded(file, self.key_of, each)?;
                continue;
            }
            let mut finer = Partitions { level: self.level + 1, ..Partitions::new(self.key_of) };
            let mut file = BufReader::new(file);
            let mut record = Vec::new();
            while read_record(&mut file, &mut record)? {
                finer.put(&record)?;
            }
            finer.drain(each)?;
        }
        Ok(())
    }
}

fn drain_loaded(mut file: File, key_of: KeyOf, each: &mut dyn FnMut(&[&[u8]]) -> io::Result<()>) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut records = Vec::new();
    let mut rest = &bytes[..];
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (record, tail) =
            tail.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(io::ErrorKind::UnexpectedEof)?;
        records.push(record);
        rest = tail;
    }
    records.sort_unstable();
    records.dedup();
    records.chunk_by(|a, b| key_of(a) == key_of(b)).try_for_each(each)
}

fn read_record(file: &mut impl Read, record: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 4];
    match file.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    record.resize(u32::from_le_bytes(length) as usize, 0);
    file.read_exact(record)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn records_of_one_key_come_back_together_sorted_and_once_also_when_a_file_is_cut_up_again() {
        fn first_two(record: &[u8]) -> &[u8] {
            &record[..2]
        }
        // All hash bytes of a level-0 file are equal, so one key of more than the limit is cut to the last level.
        let mut partitions = Partitions::new(first_two);
        let mut want: BTreeMap<[u8; 2], Vec<Vec<u8>>> = BTreeMap::new();
        for i in (0..40_000u32).rev() {
            let key = if i % 3 == 0 { [0, 0] } else { (i as u16 % 500).to_le_bytes() };
            let mut record = key.to_vec();
            record.extend(i.to_be_bytes());
            record.resize(1000, 7);
            partitions.put(&record).unwrap();
            if i % 10 == 0 {
                partitions.put(&record).unwrap();
            }
            want.entry(key).or_default().push(record);
        }
        let mut got = BTreeMap::new();
        let drained = partitions.drain(&mut |records| {
            let key = [records[0][0], records[0][1]];
            let all: Vec<Vec<u8>> = records.iter().map(|r| r.to_vec()).collect();
            assert!(got.insert(key, all).is_none(), "one call a key");
            Ok(())
        });
        drained.unwrap();
        want.values_mut().for_each(|v| v.sort());
        assert!(got == want);
    }
}
