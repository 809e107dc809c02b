//! Fingerprints of trees: order-independent sums over their entries.
//!
//! Every element of a tree (an entry with its attributes, a piece of a file's contents, a group of hard links) is
//! written down in one way only, hashed with the job's salt as the key, and stretched to 2048 bits, which are added up
//! as 32 numbers modulo 2^64. So tasks may be done in any order, by anybody, and their sums be added. This is AdHash of
//! Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing: Incrementality at Reduced Cost" (1997), in the
//! shape of LtHash (Lewi, Kim, Maykov and Weis, "Securing Update Propagation with Homomorphic Hashing", 2019). A
//! sum must be that wide because of Wagner's generalised birthday attack (2002): at 2048 bits it costs about 2^90.
//!
//! Invariant: equal elements are equal bytes, and different elements are different bytes.

use super::{Kind, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Numbers in a sum.
const LANES: usize = 32;
/// Key of all hashes of one job.
pub type Salt = [u8; 32];

/// Bytes of contents that make one element. Part of the format.
pub const PIECE_BYTES: u64 = 256 << 20;
/// Contents are digested in blocks of so many bytes; those of zeros alone are left out. Part of the format.
pub const BLOCK_BYTES: u64 = 128 << 10;

/// A sum of elements.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sum([u64; LANES]);

impl Sum {
    /// Adds one element.
    pub fn add_element(&mut self, salt: &Salt, element: &[u8]) {
        self.add(&Sum::of(salt, element));
    }

    /// The sum of one element alone.
    pub fn of(salt: &Salt, element: &[u8]) -> Self {
        let mut bytes = [0; LANES * 8];
        blake3::Hasher::new_keyed(salt).update(element).finalize_xof().fill(&mut bytes);
        let mut lanes = [0; LANES];
        for (lane, eight) in lanes.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *lane = u64::from_le_bytes(*eight);
        }
        Sum(lanes)
    }

    /// Adds another sum.
    pub fn add(&mut self, other: &Sum) {
        for (lane, more) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_add(more);
        }
    }

    /// What is printed: 256 bits of hash of the sum.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        for lane in self.0 {
            hasher.update(&lane.to_le_bytes());
        }
        Fingerprint(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sum({})", self.fingerprint())
    }
}

/// A tree's fingerprint as it is printed and certified, in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// 32 bytes from hex.
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, two) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(two[0])? << 4 | digit(two[1])?).ok()?;
    }
    Some(bytes)
}

/// How 32 bytes are written where people read them: in hex.
pub mod as_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes hex.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::hex(bytes))
    }

    /// Reads hex.
    ///
    /// # Errors
    /// The deserializer's, or if it is no hex of 32 bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        super::from_hex(&text).ok_or_else(|| D::Error::custom("not 32 bytes in hex"))
    }
}

/// An entry as far as it is compared; none is what the job does not compare, or the kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element<'a> {
    /// The directory, relative to the root.
    pub dir: &'a [u8],
    /// The name in it; empty for the root.
    pub name: &'a [u8],
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner and group.
    pub owner: Option<(u32, u32)>,
    /// Length of a file, in bytes.
    pub size: Option<u64>,
    /// Modification time, at the granularity of the job.
    pub mtime: Option<Timestamp>,
    /// Device number of a device node.
    pub rdev: Option<u64>,
    /// Target of a symlink.
    pub link: Option<&'a [u8]>,
    /// Extended attributes and ACLs, sorted by name.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl Element<'_> {
    /// Writes it over `out`: numbers little endian, strings after their length, options after a 0 or a 1.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(b'E');
        put_path(out, self.dir, self.name);
        out.push(kind_number(self.kind));
        put_option(out, self.mode.map(u32::to_le_bytes));
        put_option(out, self.owner.map(|(uid, _)| uid.to_le_bytes()));
        put_option(out, self.owner.map(|(_, gid)| gid.to_le_bytes()));
        put_option(out, self.size.map(u64::to_le_bytes));
        put_option(out, self.mtime.map(|t| t.sec.to_le_bytes()));
        put_option(out, self.mtime.map(|t| t.ns.to_le_bytes()));
        put_option(out, self.rdev.map(u64::to_le_bytes));
        out.push(u8::from(self.link.is_some()));
        put_bytes(out, self.link.unwrap_or_default());
        put_length(out, self.xattrs.len());
        for (name, value) in self.xattrs {
            put_bytes(out, name);
            put_bytes(out, value);
        }
    }
}

/// Writes a piece of a file's contents over `out`.
pub fn encode_piece(dir: &[u8], name: &[u8], piece: u64, digest: &[u8; 32], out: &mut Vec<u8>) {
    out.clear();
    out.push(b'P');
    put_path(out, dir, name);
    out.extend_from_slice(&piece.to_le_bytes());
    out.extend_from_slice(digest);
}

/// Writes a group of hard links over `out`.
pub fn encode_group(group: &[u8; 32], out: &mut Vec<u8>) {
    out.clear();
    out.push(b'G');
    out.extend_from_slice(group);
}

/// What stands for a path.
pub fn path_hash(salt: &Salt, dir: &[u8], name: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(salt);
    hasher.update(b"H");
    if !dir.is_empty() {
        hasher.update(dir).update(b"/");
    }
    *hasher.update(name).finalize().as_bytes()
}

fn kind_number(kind: Kind) -> u8 {
    match kind {
        Kind::File => 1,
        Kind::Directory => 2,
        Kind::Symlink => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::BlockDevice => 6,
        Kind::CharDevice => 7,
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&(length as u64).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_path(out: &mut Vec<u8>, dir: &[u8], name: &[u8]) {
    let slash = usize::from(!dir.is_empty() && !name.is_empty());
    put_length(out, dir.len() + slash + name.len());
    out.extend_from_slice(dir);
    out.extend_from_slice(&b"/"[..slash]);
    out.extend_from_slice(name);
}

fn put_option<const N: usize>(out: &mut Vec<u8>, value: Option<[u8; N]>) {
    out.push(u8::from(value.is_some()));
    out.extend_from_slice(value.as_ref().map_or(&[], |v| &v[..]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (Vec<u8>, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

    fn element<'a>(o: &'a Owned, n: u64) -> Element<'a> {
        let kinds = [Kind::File, Kind::Directory, Kind::Symlink];
        let some = |bit: u32| n >> bit & 1 == 1;
        Element {
            dir: b"",
            name: &o.0,
            kind: kinds[(n % 3) as usize],
            mode: some(3).then_some((n >> 4 & 7) as u32),
            owner: some(7).then_some(((n >> 8 & 1) as u32, (n >> 9 & 1) as u32)),
            size: some(10).then_some(n >> 11 & 1),
            mtime: some(12).then_some(Timestamp { sec: (n >> 13 & 1) as i64 - 1, ns: (n >> 14 & 1) as u32 }),
            rdev: some(15).then_some(n >> 16 & 1),
            link: some(17).then_some(&o.1[..]),
            xattrs: &o.2,
        }
    }

    fn owned() -> impl Strategy<Value = Owned> {
        let short = || proptest::collection::vec(0..3u8, 0..4);
        (short(), short(), proptest::collection::vec((short(), short()), 0..3))
    }

    proptest! {
        #[test]
        fn neither_order_nor_grouping_matters(
            elements in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            shuffled in Just((0..20usize).collect::<Vec<_>>()).prop_shuffle(),
            cut in 0..20usize,
        ) {
            let salt = [3; 32];
            let mut straight = Sum::default();
            elements.iter().for_each(|e| straight.add_element(&salt, e));
            let mut parts = [Sum::default(); 2];
            for i in shuffled.into_iter().filter(|i| *i < elements.len()) {
                parts[usize::from(i < cut)].add_element(&salt, &elements[i]);
            }
            let [mut all, other] = parts;
            all.add(&other);
            prop_assert_eq!(all.fingerprint(), straight.fingerprint());
        }

        #[test]
        fn different_elements_are_different_bytes_and_sums(a in owned(), b in owned(), n: u64, m: u64, same: bool) {
            let (x, y) = (element(&a, n), element(if same { &a } else { &b }, m));
            let (mut one, mut two) = (Vec::new(), Vec::new());
            x.encode(&mut one);
            y.encode(&mut two);
            prop_assert_eq!(x == y, one == two);
            prop_assert_eq!(x == y, Sum::of(&[1; 32], &one) == Sum::of(&[1; 32], &two));
        }

        #[test]
        fn hex_reads_back(bytes: [u8; 32]) {
            prop_assert_eq!(from_hex(&hex(&bytes)), Some(bytes));
        }
    }

    #[test]
    fn any_changed_field_changes_the_sum() {
        let xattrs = [(b"user.a".to_vec(), b"1".to_vec())];
        let base = Element {
            dir: b"d",
            name: b"n",
            kind: Kind::File,
            mode: Some(0o644),
            owner: Some((1, 2)),
            size: Some(5),
            mtime: Some(Timestamp { sec: 1, ns: 2 }),
            rdev: None,
            link: None,
            xattrs: &xattrs,
        };
        let other = [(b"user.a".to_vec(), b"2".to_vec())];
        let changed = [
            Element { dir: b"e", ..base },
            Element { name: b"m", ..base },
            Element { kind: Kind::Fifo, ..base },
            Element { mode: Some(0o600), ..base },
            Element { mode: None, ..base },
            Element { owner: Some((2, 1)), ..base },
            Element { owner: None, ..base },
            Element { size: Some(6), ..base },
            Element { mtime: Some(Timestamp { sec: 1, ns: 3 }), ..base },
            Element { mtime: Some(Timestamp { sec: 2, ns: 1 }), ..base },
            Element { rdev: Some(0), ..base },
            Element { link: Some(b""), ..base },
            Element { xattrs: &[], ..base },
            Element { xattrs: &other, ..base },
        ];
        let sum = |e: &Element<'_>| {
            let mut bytes = Vec::new();
            e.encode(&mut bytes);
            Sum::of(&[9; 32], &bytes)
        };
        let all: Vec<Sum> = std::iter::once(&base).chain(&changed).map(sum).collect();
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b), "element {i}");
        }
        assert_ne!(Sum::of(&[9; 32], b"x").fingerprint(), Sum::of(&[8; 32], b"x").fingerprint(), "the salt counts");
    }

    #[test]
    fn one_directory_and_name_are_one_path() {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        encode_piece(b"a/b", b"c", 7, &[0; 32], &mut one);
        encode_piece(b"a", b"b/c", 7, &[0; 32], &mut two);
        assert_eq!(one, two);
        assert_eq!(path_hash(&[0; 32], b"a", b"b/c"), path_hash(&[0; 32], b"", b"a/b/c"));
        assert_eq!(from_hex("zz"), None);
    }
}
