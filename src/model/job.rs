//! A job: one run of one pass over a source and a target.

use super::{Policy, RootIdentity};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Names a job everywhere: in queues, working files and reports. Lower-case base-32, 13 characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(u64);

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of a printed id: 13 x 5 bits hold 64.
pub const ID_CHARS: usize = 13;

impl JobId {
    /// A new id that no other job has, for all practical purposes (64 random bits).
    pub fn random() -> Self {
        use std::hash::{BuildHasher, Hasher};
        // RandomState is seeded from the operating system's randomness once a thread and counted up
        // after that; pid and clock keep two processes apart in any case.
        let mut h = std::collections::hash_map::RandomState::new().build_hasher();
        h.write_u32(std::process::id());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        h.write_u128(now.map_or(0, |d| d.as_nanos()));
        JobId(h.finish())
    }

    /// Reads a printed id.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != ID_CHARS {
            return None;
        }
        let mut value: u128 = 0;
        for c in text {
            let digit = ALPHABET.iter().position(|a| a == c)?;
            value = value << 5 | digit as u128;
        }
        u64::try_from(value).ok().map(JobId)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for i in (0..ID_CHARS).rev() {
            let digit = (u128::from(self.0) >> (5 * i)) & 31;
            write!(f, "{}", ALPHABET[digit as usize] as char)?;
        }
        Ok(())
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Everything a worker must know to take part in a job. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Its name.
    pub id: JobId,
    /// The pass, by its registry name.
    pub pass: String,
    /// Source root: a URL or path, as bytes.
    #[serde(with = "serde_bytes")]
    pub source: Vec<u8>,
    /// Target root: a URL or path, as bytes.
    #[serde(with = "serde_bytes")]
    pub target: Vec<u8>,
    /// What to keep.
    pub policy: Policy,
    /// Its share of the workers, compared with other jobs: twice the number, twice the share. At least 1.
    pub priority: u8,
    /// When it was submitted, by that node's clock.
    pub submitted: super::Timestamp,
    /// The source's root where it was submitted: a node that sees another one has not mounted it.
    pub source_root: RootIdentity,
    /// As [`source_root`](JobSpec::source_root), of the target. Nowhere in a dry run whose target does not exist.
    pub target_root: RootIdentity,
}

#[cfg(test)]
mod tests {
    use super::JobId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_printed_id_reads_back(n in any::<u64>()) {
            prop_assert_eq!(JobId::parse(JobId(n).to_string().as_bytes()), Some(JobId(n)));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "x", "zzzzzzzzzzzzz", "0000000000000000", "000000000000I"] {
            assert_eq!(JobId::parse(text.as_bytes()), None, "{text}");
        }
    }
}
