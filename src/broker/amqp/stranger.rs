//! Workers that cannot be understood: of another version, or with another key.
//!
//! Invariant: the frame by which a worker says so never changes its layout: magic, wire version, kind 0, JSON. It
//! carries no keyed hash, so it is shown to people, and nothing is done because of it.

use super::envelope::{EnvelopeError, MAGIC, WIRE_VERSION};
use serde::{Deserialize, Serialize};

/// No other frame has it.
const KIND: u8 = 0;
/// Most bytes of the JSON.
const MAX_BYTES: usize = 4096;

/// A worker that does not do what it is asked because it cannot read it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stranger {
    /// Its name, as it says.
    pub name: String,
    /// Version of its program.
    pub version: String,
    /// Its wire version.
    pub wire: u8,
    /// It has the same key.
    #[serde(default = "yes")]
    pub key: bool,
    /// Its clock agrees.
    #[serde(default = "yes")]
    pub clock: bool,
}

fn yes() -> bool {
    true
}

impl Stranger {
    /// Why it does not do what it is asked.
    pub fn why(&self) -> String {
        if self.wire != WIRE_VERSION {
            format!("speaks wire version {}, this is {WIRE_VERSION}: refused", self.wire)
        } else if !self.key {
            "has another fleet key: refused".to_owned()
        } else {
            "takes what it is told for expired: its clock, or this one, is wrong".to_owned()
        }
    }

    /// Its frame. None: too long a name.
    pub(super) fn frame(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![MAGIC[0], MAGIC[1], self.wire, KIND];
        bytes.extend(serde_json::to_vec(self).ok()?);
        (bytes.len() <= MAX_BYTES + 4).then_some(bytes)
    }

    /// Reads a frame, if it is one.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (head, json) = bytes.split_first_chunk::<4>()?;
        if head[..2] != MAGIC || head[3] != KIND || json.len() > MAX_BYTES {
            return None;
        }
        let said: Stranger = serde_json::from_slice(json).ok()?;
        Some(Stranger { wire: head[2], ..said })
    }
}

/// What a worker answers to a control message that it cannot read; none to what is no message at all.
pub(super) fn introduction(name: &str, error: &EnvelopeError) -> Option<Vec<u8>> {
    let (key, clock) = match error {
        EnvelopeError::Version(_) => (true, true),
        EnvelopeError::Forged => (false, true),
        EnvelopeError::Expired => (true, false),
        _ => return None,
    };
    let (name, version) = (name.to_owned(), env!("TREEHAUL_VERSION").to_owned());
    Stranger { name, version, wire: WIRE_VERSION, key, clock }.frame()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_keeps_its_layout() {
        let text = br#"th_0{"name":"n1","version":"9.9","wire":7,"news":[1]}"#;
        let mut bytes = text.to_vec();
        (bytes[2], bytes[3]) = (7, 0);
        let stranger = Stranger::read(&bytes).unwrap();
        assert_eq!(stranger, Stranger { name: "n1".into(), version: "9.9".into(), wire: 7, key: true, clock: true });
        assert!(stranger.why().starts_with("speaks wire version 7, this is "), "{}", stranger.why());
    }

    #[test]
    fn a_worker_says_what_it_is_missing() {
        let read = |error| Stranger::read(&introduction("a", &error).unwrap()).unwrap();
        assert!(!read(EnvelopeError::Forged).key && read(EnvelopeError::Version(1)).key);
        assert!(read(EnvelopeError::Forged).why().contains("another fleet key"));
        assert!(!read(EnvelopeError::Expired).clock && read(EnvelopeError::Expired).why().contains("clock"));
        assert!(introduction("a", &EnvelopeError::Foreign).is_none());
        assert!(introduction(&"a".repeat(5000), &EnvelopeError::Forged).is_none());
    }

    #[test]
    fn what_is_no_frame_is_passed_over() {
        let good = introduction("a", &EnvelopeError::Forged).unwrap();
        assert!(Stranger::read(&good[..good.len() - 1]).is_none());
        for bytes in [&b""[..], b"th", b"xx\x03\x00{}", b"th\x03\x05{}", b"th\x03\x00{\"name\":1}"] {
            assert!(Stranger::read(bytes).is_none(), "{bytes:?}");
        }
        let mut long = good.clone();
        long.extend(vec![b' '; 5000]);
        assert!(Stranger::read(&long).is_none());
    }
}
