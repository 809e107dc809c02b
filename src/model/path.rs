//! Names and relative paths as raw bytes.
//!
//! Invariant: a [`RelPath`] has no empty, `.` or `..` component, no NUL, does not start or end with
//! a slash, and no component is longer than [`MAX_NAME_BYTES`]. A path that came in a message is
//! checked by the same rules before anything is opened.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name that is accepted, in bytes: `NAME_MAX` of every filesystem treehaul knows.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest relative path that is accepted, in bytes. Far beyond `PATH_MAX`: paths are opened in pieces.
pub const MAX_PATH_BYTES: usize = 1 << 20;
/// Longest piece handed to one system call, in bytes: `PATH_MAX` (4096) with its NUL.
const PIECE_BYTES: usize = 4095;

/// Why a name or path was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// An empty component, as in `a//b` or a leading or trailing slash.
    #[error("empty path component")]
    Empty,
    /// `.` or `..`.
    #[error("path component '.' or '..'")]
    Dots,
    /// A NUL byte, or a slash inside a name.
    #[error("NUL or slash in a name")]
    BadByte,
    /// A component over [`MAX_NAME_BYTES`] or a path over [`MAX_PATH_BYTES`].
    #[error("name or path too long")]
    TooLong,
}

/// Checks one name: what a directory may hold and a message may ask for.
///
/// # Errors
/// The first rule that the name breaks.
pub fn check_name(name: &[u8]) -> Result<(), PathError> {
    if name.is_empty() {
        return Err(PathError::Empty);
    }
    if name == b"." || name == b".." {
        return Err(PathError::Dots);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(PathError::TooLong);
    }
    if name.iter().any(|b| *b == 0 || *b == b'/') {
        return Err(PathError::BadByte);
    }
    Ok(())
}

/// A checked path relative to a root; empty means the root itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "serde_bytes::ByteBuf", into = "serde_bytes::ByteBuf")]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// The root itself.
    pub const fn root() -> Self {
        RelPath(Vec::new())
    }

    /// Takes untrusted bytes.
    ///
    /// # Errors
    /// [`PathError`], if any component breaks a rule.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, PathError> {
        if bytes.is_empty() {
            return Ok(RelPath(bytes));
        }
        if bytes.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        bytes.split(|b| *b == b'/').try_for_each(check_name)?;
        Ok(RelPath(bytes))
    }

    /// This path with one more component.
    ///
    /// # Errors
    /// [`PathError`], if the name breaks a rule or the path becomes too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        let bytes = self.display_join(name);
        if bytes.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        Ok(RelPath(bytes))
    }

    /// This path with a name appended, unchecked: for reports about names that cannot be used.
    pub fn display_join(&self, name: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        if !self.0.is_empty() {
            bytes.extend_from_slice(&self.0);
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        bytes
    }

    /// The raw bytes; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Is this the root itself?
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds this entry, and its name there; no name for the root.
    pub fn split_last(&self) -> (RelPath, Option<&[u8]>) {
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (RelPath(self.0[..at].to_vec()), Some(&self.0[at + 1..])),
            None if self.0.is_empty() => (RelPath::root(), None),
            None => (RelPath::root(), Some(&self.0)),
        }
    }

    /// The path in pieces of at most `PATH_MAX`, cut between components, to be opened one beneath the other.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            if rest.len() <= PIECE_BYTES {
                return Some(std::mem::take(&mut rest));
            }
            // Components are at most 255 bytes, so a slash is always found.
            let cut = rest[..PIECE_BYTES].iter().rposition(|b| *b == b'/')?;
            let piece = &rest[..cut];
            rest = &rest[cut + 1..];
            Some(piece)
        })
    }
}

impl TryFrom<serde_bytes::ByteBuf> for RelPath {
    type Error = PathError;
    fn try_from(bytes: serde_bytes::ByteBuf) -> Result<Self, PathError> {
        RelPath::parse(bytes.into_vec())
    }
}

impl From<RelPath> for serde_bytes::ByteBuf {
    fn from(path: RelPath) -> Self {
        serde_bytes::ByteBuf::from(path.0)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::escaped(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_that_could_leave_its_root_is_refused() {
        for (bytes, why) in [
            (&b"/etc"[..], PathError::Empty),
            (b"a//b", PathError::Empty),
            (b"a/", PathError::Empty),
            (b"..", PathError::Dots),
            (b"a/../b", PathError::Dots),
            (b"./a", PathError::Dots),
            (b"a\0b", PathError::BadByte),
            (&[b'x'; 256], PathError::TooLong),
        ] {
            assert_eq!(RelPath::parse(bytes.to_vec()), Err(why), "{}", crate::model::escaped(bytes));
        }
        assert_eq!(RelPath::root().join(b"a/b"), Err(PathError::BadByte));
    }

    proptest! {
        #[test]
        fn pieces_are_short_and_join_to_the_path(names in proptest::collection::vec("[a-z\u{e9}\n]{1,100}", 0..300)) {
            let mut path = RelPath::root();
            for n in &names { path = path.join(n.as_bytes()).unwrap(); }
            let pieces: Vec<&[u8]> = path.pieces().collect();
            prop_assert!(pieces.iter().all(|p| p.len() <= 4095));
            prop_assert_eq!(pieces.join(&b'/'), path.as_bytes());
        }

        #[test]
        fn whatever_is_accepted_has_only_plain_components(bytes in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..40)) {
            if let Ok(p) = RelPath::parse(bytes) && !p.is_root() {
                prop_assert!(p.as_bytes().split(|b| *b == b'/').all(|c| check_name(c).is_ok()));
            }
        }
    }
}
