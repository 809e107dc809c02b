//! What a job asks of a filesystem with several servers: where directories and data go.
//!
//! Invariant: a decision depends on the policy, the place in the tree and what the target is made of alone, so whoever
//! does a task again decides alike.

mod layouts;
mod placer;

pub use layouts::Layouts;
pub use placer::Placer;

use serde::{Deserialize, Serialize};

/// What is asked of a Lustre target, and of released files in a Lustre source. It says nothing to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LustrePolicy {
    /// On which MDT directories are made.
    pub mdt: MdtPolicy,
    /// So many levels of directories are placed by it; those of the root are the first.
    pub mdt_depth: u32,
    /// How files are striped.
    pub layout: LayoutPolicy,
    /// Pools of the source and what they are called in the target; the others keep their names.
    pub pools: Vec<(String, String)>,
    /// Mirrored files stay mirrored instead of getting their first mirror's layout.
    pub mirrors: bool,
    /// A file whose layout is not the wanted one is written anew, even if nothing else differs.
    pub relayout: bool,
    /// What becomes of files whose data are only in an archive.
    pub hsm: HsmPolicy,
}

impl Default for LustrePolicy {
    fn default() -> Self {
        LustrePolicy {
            mdt: MdtPolicy::default(),
            mdt_depth: 1,
            layout: LayoutPolicy::default(),
            pools: Vec::new(),
            mirrors: false,
            relayout: false,
            hsm: HsmPolicy::default(),
        }
    }
}

/// On which MDT a directory is made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MdtPolicy {
    /// One after the other, in the order of the directories' names.
    #[default]
    RoundRobin,
    /// As [`RoundRobin`](MdtPolicy::RoundRobin), over these only, in this order.
    List(Vec<u32>),
    /// The more free inodes, the more directories.
    Weighted,
    /// On the MDT of the directory above.
    Inherit,
    /// As the target does by itself.
    Off,
}

/// How a file of the target is striped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LayoutPolicy {
    /// As in the source, where that is Lustre too; and directories keep their default layouts.
    #[default]
    Preserve,
    /// As the target does by itself.
    Default,
    /// All alike.
    Stripe(Stripe),
    /// The first rule that matches decides; without one it is as [`Preserve`](LayoutPolicy::Preserve).
    Rules(Vec<LayoutRule>),
}

/// A plain layout. What is left open is the target's choice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stripe {
    /// Stripes; -1 is one on each OST.
    pub count: Option<i32>,
    /// Bytes of a stripe, a multiple of 64 KiB.
    pub size: Option<u64>,
    /// OSTs of this pool only.
    pub pool: Option<String>,
}

/// What becomes of files whose data are only in an archive (HSM "released").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HsmPolicy {
    /// Each is a failed entry, and listed; nothing is recalled.
    #[default]
    Fail,
    /// They are left out, and counted.
    Skip,
    /// They are copied, which has them recalled.
    Copy,
}

/// A metadata server's part of a filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mdt {
    /// Its index. They need not follow one another.
    pub index: u32,
    /// It takes new directories.
    pub active: bool,
    /// Inodes it has in all; 0 where it does not say.
    pub inodes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
    /// Bytes it has in all, and bytes that are free.
    pub bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
}

/// A data server's part of a filesystem.
pub type Ost = Mdt;

/// What a Lustre filesystem is made of, as far as it could be found out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Servers {
    /// Its name, up to 8 characters.
    pub fsname: String,
    /// Version of the client, as it calls itself; empty if it does not say.
    pub version: String,
    /// By index.
    pub mdts: Vec<Mdt>,
    /// By index.
    pub osts: Vec<Ost>,
    /// Names of pools; none where that cannot be told.
    pub pools: Option<Vec<String>>,
}

/// A rule of a policy file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LayoutRule {
    /// Files of this size and more, in bytes.
    pub min_size: Option<u64>,
    /// Files of this size and less, in bytes.
    pub max_size: Option<u64>,
    /// Files whose name (its last component) matches this glob; with a slash, whose path does, as `--include` has it.
    pub name: Option<String>,
    /// Files that are in this pool in the source.
    pub source_pool: Option<String>,
    /// Files with at least so many stripes in the source (in the component that has most).
    pub source_min_stripes: Option<u32>,
    /// Files with at most so many.
    pub source_max_stripes: Option<u32>,
    /// Files whose layout in the source is of this kind: `plain`, `composite`, `dom`, `mirrored`, or `none` (not Lustre).
    pub source_layout: Option<String>,
    /// What they get; never rules again.
    pub layout: LayoutPolicy,
}
