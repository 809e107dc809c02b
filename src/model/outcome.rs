//! What became of entries: totals that add up, and failures one by one.

use super::fingerprint::Sum;
use super::slow::{self, Slow, Slowest};
use super::{Kind, Metadata, Spread, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! totals {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Counters of one task, one worker or a whole job. They add, and only grow, but for what failed and is tried again.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Totals {
            $($(#[$doc])* pub $field: u64,)*
            /// How the files are spread over sizes and ages.
            pub spread: Spread,
        }
        impl Totals {
            /// Adds another's counters.
            pub fn add(&mut self, other: &Totals) {
                $(self.$field = self.$field.saturating_add(other.$field);)*
                self.spread.add(&other.spread);
            }
            /// Takes out what was added before.
            pub fn take_back(&mut self, other: &Totals) {
                $(self.$field = self.$field.saturating_sub(other.$field);)*
                self.spread.take_back(&other.spread);
            }
            /// Name and value of each counter, in the order of the summary; without [`spread`](Totals::spread).
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }
        }
    };
}

totals! {
    /// Entries found: of the source, the root among them, and those that only the target has.
    found,
    /// Entries that were made or whose contents were written anew.
    copied,
    /// Entries of which only attributes were set.
    updated,
    /// Entries that were right already.
    unchanged,
    /// Entries that failed; each is listed.
    failed,
    /// Entries that were gone when their turn came.
    vanished,
    /// Files that kept changing while they were copied.
    changed_while_copying,
    /// Entries left out because the policy says so: filters, `--no-specials`.
    filtered,
    /// Entries that only the target had and that were removed, or moved to the trash.
    deleted,
    /// Entries that are as the source's (`verify`).
    same,
    /// Entries that are not (`verify`); each is listed.
    different,
    /// Entries that only the target has, as far as they are this pass's business.
    extra,
    /// Entries of the target that were looked at to find what only it has.
    target_found,
    /// Directories among them.
    directories,
    /// Regular files.
    files,
    /// Symbolic links.
    symlinks,
    /// Fifos, sockets and device nodes.
    specials,
    /// Names that were made as further hard links.
    hard_links,
    /// Bytes of data written.
    bytes_copied,
    /// Bytes of data read to be compared (`verify --content`), in both trees.
    bytes_read,
    /// Bytes of all files looked at (their sizes).
    bytes_found,
    /// Working files of earlier, killed runs that were removed.
    leftovers_removed,
    /// Entries whose owner or group could not be kept.
    lost_owner,
    /// Entries whose permission bits could not be kept entirely.
    lost_mode,
    /// Entries whose times could not be kept.
    lost_times,
    /// Extended attributes that could not be kept.
    lost_xattrs,
    /// ACLs that could not be kept.
    lost_acls,
    /// Groups of hard links that became separate files.
    lost_hard_links,
    /// Quota projects that could not be kept.
    lost_projects,
    /// Layouts that the target would not take, of files and directories; it chose by itself.
    lost_layouts,
    /// Pools in layouts that the target has not.
    lost_pools,
    /// Directories on another MDT than the policy meant for them.
    misplaced,
    /// Files whose data are only in an archive, left out (`--hsm skip`). They are in `filtered`, too.
    released,
}

impl Totals {
    /// Counts an entry by its kind, and a file by its size and its age in a job that was submitted then.
    pub fn count_kind(&mut self, m: &Metadata, submitted: Timestamp) {
        match m.kind {
            Kind::File => {
                self.files += 1;
                self.bytes_found += m.size;
                self.spread.count(m, submitted);
            }
            Kind::Symlink => self.symlinks += 1,
            Kind::Directory => self.directories += 1,
            Kind::Fifo | Kind::Socket | Kind::BlockDevice | Kind::CharDevice => self.specials += 1,
        }
    }

    /// Entries that are done with, however it went.
    pub fn done(&self) -> u64 {
        // A message may say anything.
        [
            self.copied,
            self.updated,
            self.unchanged,
            self.failed,
            self.vanished,
            self.changed_while_copying,
            self.filtered,
            self.deleted,
            self.same,
            self.different,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

macro_rules! operations {
    ($($variant:ident = $text:literal,)*) => {
        /// What was being done when something failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[allow(missing_docs)] // each variant's text says it
        pub enum Operation { $(#[serde(rename = $text)] $variant,)* }
        impl Operation {
            /// The words in messages and reports.
            pub fn words(self) -> &'static str { match self { $(Operation::$variant => $text,)* } }
        }
    };
}

operations! {
    OpenRoot = "open root",
    OpenDirectory = "open directory",
    List = "list directory",
    Stat = "stat",
    Open = "open",
    Read = "read",
    SeekData = "seek data",
    ReadLink = "read link",
    ListXattrs = "list xattrs",
    GetXattr = "get xattr",
    MakeDirectory = "make directory",
    Create = "create",
    Write = "write",
    Truncate = "truncate",
    MakeSymlink = "make symlink",
    MakeNode = "make node",
    SetOwner = "set owner",
    SetMode = "set mode",
    SetTimes = "set times",
    SetXattr = "set xattr",
    GetProject = "get project",
    SetProject = "set project",
    GetLayout = "get layout",
    SetLayout = "set layout",
    GetMdt = "get MDT",
    Recall = "recall",
    RemoveXattr = "remove xattr",
    Close = "close",
    Link = "link",
    Rename = "rename",
    Remove = "remove",
    Lock = "lock",
    Compare = "compare",
    Flush = "flush",
    Lookup = "look for it in the source",
    Trash = "move to the trash",
    Run = "run task",
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// At what stage of the work an entry failed: which task tries it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// When it was listed, gone through, compared or copied, with all that is in it: it is as if it had not been found.
    Walk,
    /// Only a directory's own attributes; what is in it was gone through. The directory has not been counted.
    Dress,
    /// As [`Dress`](Phase::Dress), when the walk was over. The directory has been counted.
    Finish,
    /// The removal of what is no directory.
    Remove,
    /// The removal of a directory.
    RemoveDirectory,
    /// Nothing that could be tried by itself.
    Whole,
}

/// Why entries failed, as far as it can be told in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cause {
    /// What was tried.
    pub operation: Operation,
    /// The system's error number, if it was the system.
    pub errno: Option<i32>,
}

/// One entry that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Path relative to the root, as bytes; may hold a name that is not allowed.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// What was tried.
    pub operation: Operation,
    /// The system's error number, if it was the system.
    pub errno: Option<i32>,
    /// What it means.
    pub message: String,
    /// At what stage.
    pub phase: Phase,
    /// What the entry has put into the totals, if that is known: it is taken back when it is tried again.
    pub counted: Option<Box<Totals>>,
}

impl Failure {
    /// A failure of something that cannot be tried again by itself, and of which nobody knows what it counted.
    pub fn new(path: Vec<u8>, operation: Operation, errno: Option<i32>, message: String) -> Self {
        Failure { path, operation, errno, message, phase: Phase::Whole, counted: None }
    }

    /// Why.
    pub fn cause(&self) -> Cause {
        Cause { operation: self.operation, errno: self.errno }
    }
}

/// What a [`Finding`] is about that names a pool which the target has not, once for each pool.
pub const LOST_POOL: &str = "lost pool";

/// Something that a pass found out about an entry and that is no failure: a difference, or what a dry run
/// would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Path relative to the root, as bytes.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// What it is about: "size", "mode", "would delete" ...
    pub what: String,
    /// What should be there, in words; names in them are escaped already.
    pub expected: String,
    /// What is there, as [`expected`](Finding::expected).
    pub found: String,
}

impl Finding {
    /// The kind that it is counted under: the words, without the name of an attribute.
    pub fn kind(&self) -> &str {
        if self.what.starts_with("xattr ") { "xattr" } else { &self.what }
    }
}

/// Which of the two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Half {
    /// What it should be.
    Source,
    /// What it is.
    Target,
}

/// What became of an entry that several tasks look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// So far as its attributes go it is the same, and it is not counted yet.
    Pending,
    /// Only one tree has it; that is counted and listed.
    OneSided,
    /// Its contents differ; that was listed.
    Differs,
    /// It was gone when its turn came.
    Vanished,
    /// It could not be looked at; that was listed.
    Failed,
}

/// What cannot be judged by one task alone, for whoever sees all of them. One that comes twice counts once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mark {
    /// A name of an inode that has several.
    Link {
        /// In which tree.
        half: Half,
        /// Device of the inode: 0 is the root's, whatever number the node has for it.
        dev: u64,
        /// Its inode number.
        ino: u64,
        /// The name's path relative to the root.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
    /// What became of an entry.
    State {
        /// Its path relative to the root.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
        /// What became of it.
        state: State,
    },
}

/// What a task saw of two trees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Sums over elements of the source and the target.
    pub sums: [Sum; 2],
    /// What must be seen together.
    pub marks: Vec<Mark>,
    /// A task may have been done twice, so the sums are not certain.
    pub uncertain: bool,
}

impl Evidence {
    /// Adds another task's.
    pub fn add(&mut self, more: Evidence) {
        for (sum, more) in self.sums.iter_mut().zip(&more.sums) {
            sum.add(more);
        }
        self.marks.extend(more.marks);
        self.uncertain |= more.uncertain;
    }
}

/// What one task did: told once, when its effects are done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Counters to add.
    pub totals: Totals,
    /// Entries that failed.
    pub failures: Vec<Failure>,
    /// What was found out.
    pub findings: Vec<Finding>,
    /// What was seen of the trees, if the pass compares them.
    pub evidence: Option<Box<Evidence>>,
    /// Directories that took long.
    pub slow: Vec<Slow>,
    /// Directories that were placed by policy: MDT, how many; by MDT.
    pub placed: Vec<(u32, u64)>,
    /// The whole job cannot go on, and why.
    pub abort: Option<String>,
}

impl Report {
    /// Nothing in it?
    pub fn is_empty(&self) -> bool {
        *self == Report::default()
    }

    /// Counts and records the failure of an entry that has `besides` counted something itself. One that failed in
    /// [`Phase::Walk`] was counted as found, here or by whoever listed it, once.
    pub fn fail(&mut self, mut failure: Failure, phase: Phase, besides: Totals) {
        self.totals.failed += 1;
        let mut counted = besides;
        counted.failed += 1;
        counted.found += u64::from(phase == Phase::Walk);
        (failure.phase, failure.counted) = (phase, Some(Box::new(counted)));
        self.failures.push(failure);
    }

    /// Counts directories that lie on an MDT because of the policy.
    pub fn place(&mut self, mdt: u32, directories: u64) {
        match self.placed.binary_search_by_key(&mdt, |(mdt, _)| *mdt) {
            Ok(at) => self.placed[at].1 = self.placed[at].1.saturating_add(directories),
            Err(at) => self.placed.insert(at, (mdt, directories)),
        }
    }

    /// Adds another task's.
    pub fn add(&mut self, more: Report) {
        self.totals.add(&more.totals);
        self.failures.extend(more.failures);
        self.findings.extend(more.findings);
        self.slow.extend(more.slow);
        if self.slow.len() > 2 * slow::TOLD {
            let mut slowest = Slowest::of(slow::TOLD);
            self.slow.drain(..).for_each(|slow| slowest.add(slow));
            self.slow = slowest.into_list();
        }
        for (mdt, directories) in more.placed {
            self.place(mdt, directories);
        }
        match (&mut self.evidence, more.evidence) {
            (Some(all), Some(more)) => all.add(*more),
            (all, more @ Some(_)) => *all = more,
            (_, None) => {}
        }
        if self.abort.is_none() {
            self.abort = more.abort;
        }
    }
}
