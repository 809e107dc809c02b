//! Layouts of Lustre files: how a file's data are spread over OSTs, as `lustre.lov` has it.
//!
//! Invariant: whatever bytes a blob holds, it is either understood or refused; and what
//! [`carried`](Layout::carried) gives names no OST, no object and no id of the filesystem that it was read from.

mod carry;
#[cfg(test)]
mod golden;
mod same;
#[cfg(test)]
mod tests;
mod wire;

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
    /// The data are not on OSTs or MDTs at all: nothing that another filesystem could be asked for.
    #[error("the data are kept outside of the filesystem (a foreign layout)")]
    Foreign,
    /// It contradicts itself.
    #[error("a layout that contradicts itself: {0}")]
    Wrong(&'static str),
}

/// End of a component that has none.
pub const EOF: u64 = u64::MAX;

/// Values of [`Component::pattern`].
pub mod pattern {
    /// Striped over OSTs.
    pub const RAID0: u32 = 1;
    /// Erasure codes of other components.
    pub const PARITY: u32 = 4;
    /// On the MDT.
    pub const MDT: u32 = 0x100;
    /// Several stripes on one OST.
    pub const OVERSTRIPED: u32 = 0x200;
    /// In an archive only, or elsewhere.
    pub const FOREIGN: u32 = 0x400;
    /// Compressed by clients.
    pub const COMPRESSED: u32 = 0x800;
    /// The data are only in an archive.
    pub const RELEASED: u32 = 0x8000_0000;
    /// What is a state of one file instead of a way to stripe.
    pub const STATES: u32 = 0xffff_0000;
}

/// Bits of [`Component::flags`].
pub mod flag {
    /// Its data are older than another mirror's.
    pub const STALE: u32 = 1;
    /// Preferred for reading.
    pub const PREFERRED_READ: u32 = 2;
    /// Preferred for writing.
    pub const PREFERRED_WRITE: u32 = 4;
    /// It has its objects.
    pub const INIT: u32 = 0x10;
    /// Space that the component before it may grow into; never has objects.
    pub const EXTENSION: u32 = 0x40;
    /// Erasure codes of other components.
    pub const PARITY: u32 = 0x80;
}

/// One stripe on each OST.
pub const ALL_OSTS: u16 = 0xffff;
/// From here on a number of stripes is no number: so many on each OST.
const WIDE: u16 = 0xffe0;

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
    /// `lcme_flags`; see [`flag`].
    pub flags: u32,
    /// First byte.
    pub start: u64,
    /// Byte after the last, or [`EOF`].
    pub end: u64,
    /// `lmm_pattern`; see [`pattern`].
    pub pattern: u32,
    /// Bytes of a stripe; 0 is the default. Of an [extension](flag::EXTENSION) the step in which it is used, in KiB.
    pub stripe_size: u32,
    /// Stripes; 0 is the default, [`ALL_OSTS`] one on each OST.
    pub stripe_count: u16,
    /// The OST that was asked for, where the blob tells one that was (a default layout); none is any.
    pub first_ost: Option<u16>,
    /// OSTs that hold objects, in the order of the stripes; empty if it has none yet.
    pub osts: Vec<u32>,
    /// OSTs of this pool only.
    pub pool: Option<String>,
}

impl Component {
    /// Are its data on the MDT?
    pub fn is_on_mdt(&self) -> bool {
        self.pattern & pattern::MDT != 0
    }

    /// Is it space that the component before it may grow into?
    pub fn is_extension(&self) -> bool {
        self.flags & flag::EXTENSION != 0
    }

    /// May several stripes be on one OST?
    pub fn is_overstriped(&self) -> bool {
        self.pattern & pattern::OVERSTRIPED != 0
    }

    /// Stripes, if they are a number: neither left open nor so many on each OST.
    pub fn stripes(&self) -> Option<u16> {
        Some(self.stripe_count).filter(|n| (1..WIDE).contains(n))
    }

    /// Bytes of a stripe on OSTs, if it has such and says how large they are.
    fn ost_stripe_bytes(&self) -> Option<u64> {
        let is_striped = self.pattern & pattern::RAID0 != 0 && !self.is_extension();
        let size = u64::from(self.stripe_size);
        (is_striped && size != 0 && size.is_multiple_of(STRIPE_STEP)).then_some(size)
    }
}

/// Stripes are multiples of this, in bytes.
pub const STRIPE_STEP: u64 = 64 << 10;
/// Beyond this, in bytes, no common multiple of stripes is looked for.
const LARGEST_COMMON: u64 = 1 << 30;

impl Layout {
    /// A plain layout on OSTs. What is 0 or none is left to the filesystem.
    pub fn plain(stripe_count: u16, stripe_size: u32, pool: Option<String>) -> Self {
        let component = Component {
            id: 0,
            flags: 0,
            start: 0,
            end: EOF,
            pattern: pattern::RAID0,
            stripe_size,
            stripe_count,
            first_ost: None,
            osts: Vec::new(),
            pool,
        };
        Layout { components: vec![component], composite: false, mirrors: 1, flags: 0 }
    }

    /// The components of each mirror.
    fn parts(&self) -> impl Iterator<Item = &[Component]> {
        // Defaults of directories have no ids: each mirror begins at 0.
        self.components.chunk_by(|a, b| b.start != 0 && a.id >> 16 == b.id >> 16)
    }

    /// Are the data only in an archive?
    pub fn is_released(&self) -> bool {
        self.components.iter().any(|c| c.pattern & pattern::RELEASED != 0)
    }

    /// Bytes that chunks of a file should be a multiple of, so that no two writers share a stripe: what the stripes of
    /// all components divide, or else the largest stripe; 1 where nothing is striped.
    pub fn stripe_bytes(&self) -> u64 {
        let mut sizes: Vec<u64> = self.components.iter().filter_map(Component::ost_stripe_bytes).collect();
        sizes.sort_unstable();
        let largest = sizes.last().copied().unwrap_or(1);
        let common = sizes.iter().try_fold(1, |all, size| common_multiple(all, *size));
        common.unwrap_or(largest)
    }

    /// Has it objects on this OST?
    pub fn is_on_ost(&self, index: u32) -> bool {
        self.components.iter().any(|c| c.osts.contains(&index))
    }

    /// Is it in this pool, in any component?
    pub fn is_in_pool(&self, name: &str) -> bool {
        self.components.iter().any(|c| c.pool.as_deref() == Some(name))
    }
}

/// The smallest common multiple of two numbers that are not 0, unless it is very large.
fn common_multiple(a: u64, b: u64) -> Option<u64> {
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor).checked_mul(b).filter(|common| *common <= LARGEST_COMMON)
}
