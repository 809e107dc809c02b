//! The names of one directory in one tree, to be matched with those of the other.
//!
//! Invariant: memory is bounded, however many entries the directory has: a table that is full says so.

use crate::model::Kind;

/// Most names in a table.
const MAX_NAMES: usize = 128 << 10;
/// Most bytes of names in a table.
const MAX_BYTES: usize = 4 << 20;

/// Names in order.
#[derive(Default)]
pub(super) struct Table {
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Clone, Copy)]
struct Row {
    start: u32,
    length: u8,
    kind: Option<Kind>,
    seen: bool,
}

impl Table {
    /// Adds a name; false if there is no room for it.
    pub fn push(&mut self, name: &[u8], kind: Option<Kind>) -> bool {
        let (Ok(start), Ok(length)) = (u32::try_from(self.bytes.len()), u8::try_from(name.len())) else { return false };
        if self.rows.len() >= MAX_NAMES || self.bytes.len() + name.len() > MAX_BYTES {
            return false;
        }
        self.bytes.extend_from_slice(name);
        self.rows.push(Row { start, length, kind, seen: false });
        true
    }

    /// Puts the names in order, so that they can be found.
    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        self.rows.sort_unstable_by(|a, b| a.name(bytes).cmp(b.name(bytes)));
    }

    /// Finds a name and takes note that it was asked for; its kind.
    pub fn find(&mut self, name: &[u8]) -> Option<Option<Kind>> {
        let at = self.rows.binary_search_by(|row| row.name(&self.bytes).cmp(name)).ok()?;
        self.rows[at].seen = true;
        Some(self.rows[at].kind)
    }

    /// Names that nobody asked for.
    pub fn unseen(&self) -> impl Iterator<Item = (&[u8], Option<Kind>)> {
        self.rows.iter().filter(|row| !row.seen).map(|row| (row.name(&self.bytes), row.kind))
    }
}

impl Row {
    fn name(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..][..usize::from(self.length)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_is_left_and_a_full_table_says_so() {
        let mut table = Table::default();
        for name in [b"b", b"a", b"c"] {
            assert!(table.push(name, Some(Kind::File)));
        }
        table.sort();
        assert_eq!(table.find(b"a"), Some(Some(Kind::File)));
        assert_eq!(table.find(b"d"), None);
        let left: Vec<&[u8]> = table.unseen().map(|(name, _)| name).collect();
        assert_eq!(left, [b"b", b"c"]);
        let mut pushed = 0;
        while table.push(&[b'x'; 200], None) {
            pushed += 1;
        }
        assert_eq!(pushed, (MAX_BYTES - 3) / 200);
    }
}
