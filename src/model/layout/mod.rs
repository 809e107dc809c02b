//! Layouts of Lustre files: how a file's data are spread over OSTs, as `lustre.lov` has it.

use serde::{Deserialize, Serialize};

/// What a blob that is no layout is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Shorter than it says.
    #[error("a layout of {0} bytes is cut short")]
    Short(usize),
    /// Of a kind that is not known.
    #[error("layout of an unknown kind {0:#x}")]
    Magic(u32),
    /// It contradicts itself.
    #[error("a layout that contradicts itself: {0}")]
    Wrong(&'static str),
}

/// End of a component that has none.
pub const EOF: u64 = u64::MAX;

/// A file's or a directory's default layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// In the order of the blob. One that spans everything, if the layout is plain.
    pub components: Vec<Component>,
    /// Has it components in the blob, even if it is only one?
    pub composite: bool,
    /// Mirrors; at least 1.
    pub mirrors: u16,
    /// Of a composite layout (`lcm_flags`).
    pub flags: u16,
}

/// A part of a file that is striped in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// `lcme_id`; the upper half tells the mirror.
    pub id: u32,
    /// `lcme_flags`.
    pub flags: u32,
    /// First byte.
    pub start: u64,
    /// Byte after the last, or [`EOF`].
    pub end: u64,
    /// `lmm_pattern`: raid0 1, mdt 0x100, overstriped 0x200, released 0x8000_0000.
    pub pattern: u32,
    /// Bytes of a stripe.
    pub stripe_size: u32,
    /// Stripes; 0 is the default, 0xffff one on each OST.
    pub stripe_count: u16,
    /// The OST that was asked for, where the blob tells one that was (a default layout); none is any.
    pub first_ost: Option<u16>,
    /// OSTs that hold objects, in the order of the stripes; empty if it has none yet.
    pub osts: Vec<u32>,
    /// OSTs of this pool only.
    pub pool: Option<String>,
    /// As [`pattern`](Component::pattern) does, extension size of a self-extending layout and the like stay as they are.
    pub timestamp: u64,
}

impl Layout {
    /// Reads a blob.
    ///
    /// # Errors
    /// [`LayoutError`]; whatever the bytes are, nothing else happens.
    pub fn parse(_blob: &[u8]) -> Result<Self, LayoutError> {
        todo!()
    }

    /// The blob that makes a new file (or a directory's default) like this: no objects, no ids.
    pub fn to_blob(&self) -> Vec<u8> {
        todo!()
    }

    /// The layout for a new file, or a directory's default, in another filesystem: without what belongs to the one
    /// file, OSTs left open, not released, the first mirror only unless `mirrors`.
    #[must_use]
    pub fn carried(&self, _mirrors: bool) -> Layout {
        todo!()
    }

    /// Gives pools the names that they have in the target and drops those that it has not; the dropped ones' names.
    pub fn map_pools(&mut self, _table: &[(String, String)], _known: Option<&[String]>) -> Vec<String> {
        todo!()
    }

    /// Are the data only in an archive?
    pub fn is_released(&self) -> bool {
        todo!()
    }

    /// Is a file that has `self` striped as one that was made with `wanted`? Objects, ids and what a server decided
    /// by itself do not count.
    pub fn is_as(&self, _wanted: &Layout) -> bool {
        todo!()
    }

    /// Bytes that chunks of a file should be a multiple of, so that no two writers share a stripe.
    pub fn stripe_bytes(&self) -> u64 {
        todo!()
    }

    /// Has it objects on this OST?
    pub fn is_on_ost(&self, _index: u32) -> bool {
        todo!()
    }

    /// Is it in this pool, in any component?
    pub fn is_in_pool(&self, _name: &str) -> bool {
        todo!()
    }
}
