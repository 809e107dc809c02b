//! The one place where tasks become bytes: for the queue on disk and for messages.
//!
//! Invariant: no bytes, however hostile, make [`decode`] allocate more than [`MAX_BYTES`] or panic; and
//! what it accepts was accepted whole.

use serde::{Serialize, de::DeserializeOwned};

/// Largest encoded value, in bytes: [`crate::model::task::MAX_TASK_ENTRIES`] entries with names of 255
/// bytes and all attributes, below a path of [`crate::model::path::MAX_PATH_BYTES`], with room to spare.
pub const MAX_BYTES: usize = 4 << 20;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_BYTES>()
}

/// Why a value could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Larger than [`MAX_BYTES`].
    #[error("{0} bytes are more than the limit of {MAX_BYTES}")]
    TooLarge(usize),
    /// The value cannot be written.
    #[error("cannot encode: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    /// The bytes are not such a value.
    #[error("cannot decode: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// Bytes are left after the value.
    #[error("{0} bytes after the end")]
    Trailing(usize),
}

/// Appends a value to `out`.
///
/// # Errors
/// [`CodecError::TooLarge`]; `out` is as before then.
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = out.len();
    let written = bincode::serde::encode_into_std_write(value, out, config());
    let bytes = out.len() - start;
    if let Err(e) = written {
        out.truncate(start);
        return Err(e.into());
    }
    if bytes > MAX_BYTES {
        out.truncate(start);
        return Err(CodecError::TooLarge(bytes));
    }
    Ok(())
}

/// Reads exactly one value.
///
/// # Errors
/// Any [`CodecError`] but `Encode`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_BYTES {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    let (value, read) = bincode::serde::decode_from_slice(bytes, config())?;
    if read != bytes.len() {
        return Err(CodecError::Trailing(bytes.len() - read));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::task::Entry;
    use crate::model::{Entries, Kind, RelPath, Task, task::Names};
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>().prop_filter("no slash, no NUL", |b| *b != 0 && *b != b'/'), 1..=255)
            .prop_filter("no dots", |n| n != b"." && n != b"..")
    }

    proptest! {
        #[test]
        fn a_task_reads_back_as_it_was_written(names in proptest::collection::vec(name(), 0..20), fresh: bool) {
            let mut entries = Entries::default();
            let mut dirs = Names::default();
            for n in &names {
                entries.push(&Entry { name: n, kind: Some(Kind::Fifo), metadata: None }).unwrap();
                dirs.push(u8::from(fresh), n).unwrap();
            }
            let dir = names.iter().try_fold(RelPath::root(), |p, n| p.join(n)).unwrap();
            for task in [
                Task::Batch { dir: dir.clone(), entries, tag: u8::from(fresh) },
                Task::Dirs { parent: dir.clone(), names: dirs.clone() },
                Task::Finish { parent: dir, names: dirs },
            ] {
                let mut bytes = Vec::new();
                encode_into(&task, &mut bytes).unwrap();
                prop_assert_eq!(decode::<Task>(&bytes).unwrap(), task);
            }
        }

        #[test]
        fn hostile_bytes_give_an_error_or_a_valid_task(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Task::Batch { dir, entries, .. }) = decode::<Task>(&bytes) {
                prop_assert!(RelPath::parse(dir.as_bytes().to_vec()).is_ok());
                prop_assert!(entries.iter().all(|e| crate::model::check_name(e.name).is_ok()));
            }
        }
    }

    #[test]
    fn a_length_that_promises_gigabytes_is_refused_without_allocating() {
        // Variant 0, then a path "of" 2^63 bytes.
        let hostile = [0, 253, 0, 0, 0, 0, 0, 0, 0, 128];
        assert!(decode::<Task>(&hostile).is_err());
    }

    #[test]
    fn a_path_that_climbs_out_is_refused_by_the_decoder() {
        let mut bytes = Vec::new();
        let packed: &[u8] = b"\x01\x02..";
        let raw = (0u32, serde_bytes::Bytes::new(b"../etc"), serde_bytes::Bytes::new(packed));
        encode_into(&raw, &mut bytes).unwrap();
        assert!(decode::<Task>(&bytes).is_err());
    }
}
