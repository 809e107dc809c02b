//! The filesystem port: handles, not paths.
//!
//! A [`Filesystem`] opens directories beneath its root; everything else is asked of a held [`Dir`]
//! by one name. An adapter promises:
//!
//! - nothing outside the root is reached, and no symlink is followed, whatever others do meanwhile;
//! - a [`NewEntry`] is invisible or hidden until [`NewEntry::publish`] and readable by nobody but its
//!   maker until its attributes are set; dropped before, it leaves nothing behind;
//! - an error is the system's number with the operation that met it; `ENOENT` means that the name was
//!   seen to be absent, and nothing else means absent.
//!
//! Calls block. Handles may be used from several threads. Unless said otherwise a call may be repeated.
//! A new adapter is one folder or file here and one row in [`ADAPTERS`]; the suite in `conformance.rs` runs on it.

pub mod aside;
#[cfg(test)]
mod conformance;
pub mod contents;
mod latency;
pub mod layers;
pub mod lustre;
pub mod null;
pub mod posix;
pub mod synth;

use crate::model::fleet::Space;
use crate::model::{
    Kind, Layout, Metadata, Operation, Project, RelPath, RootIdentity, Servers, Timestamp, task::Entry,
};
use std::any::Any;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// What went wrong: the system's error number and the operation that met it. The caller knows the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {}", self.words())]
pub struct FsError {
    /// What was tried.
    pub operation: Operation,
    /// The system's error number.
    pub errno: i32,
}

/// The system's words for an error number.
pub fn errno_text(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

/// How a caller should take an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The name was seen to be absent (`ENOENT`).
    Vanished,
    /// The name is something else than asked for: a symlink, not a directory, not a file.
    OtherKind,
    /// No space or quota left on the target.
    Full,
    /// The target cannot hold this, or the process may not set it: a loss, not a fault.
    Unsupported,
    /// May go away when it is tried again.
    Transient,
    /// Will not go away by itself.
    Permanent,
}

impl FsError {
    /// Names the operation of a system error.
    pub fn new(operation: Operation, errno: impl Into<std::io::Error>) -> Self {
        FsError { operation, errno: errno.into().raw_os_error().unwrap_or(libc::EIO) }
    }

    /// How to take it.
    pub fn class(&self) -> Class {
        match self.errno {
            libc::ENOENT => Class::Vanished,
            libc::ENOTDIR | libc::ELOOP | libc::EISDIR => Class::OtherKind,
            libc::ENOSPC | libc::EDQUOT => Class::Full,
            libc::EOPNOTSUPP | libc::EPERM | libc::ENOSYS => Class::Unsupported,
            libc::EINTR | libc::EAGAIN | libc::ETIMEDOUT | libc::ESTALE | libc::EBUSY => Class::Transient,
            _ => Class::Permanent,
        }
    }

    /// Was the name seen to be absent?
    pub fn is_absent(&self) -> bool {
        self.errno == libc::ENOENT
    }

    /// Was a file left alone because reading it would have it recalled from an archive?
    pub fn is_released(&self) -> bool {
        self.operation == Operation::Recall && self.errno == libc::ENODATA
    }

    /// What it means: mostly the system's words.
    pub fn words(&self) -> String {
        if self.is_released() {
            return "its data are only in an archive (HSM released)".to_owned();
        }
        errno_text(self.errno)
    }
}

/// Result of a call on the port.
pub type Result<T> = std::result::Result<T, FsError>;

/// Extended attributes, POSIX ACLs among them, sorted by name. What belongs to the filesystem itself
/// (`lustre.*` and the like) is never among them.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What a filesystem can keep, found out once when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// Times are cut down to multiples of so many nanoseconds. Of a root that is only read it is what its type of
    /// filesystem is known to do.
    pub time_granularity_ns: u32,
    /// The earliest and the latest time that can be kept; others become the nearer of the two.
    pub time_range: (Timestamp, Timestamp),
    /// Nothing is stored (`null://`): what is written cannot be seen again.
    pub forgets: bool,
    /// Quota projects are kept. Of a root that is only read: they are in use there.
    pub projects: bool,
}

impl Traits {
    /// A time as this filesystem would keep it.
    pub fn kept(&self, t: Timestamp) -> Timestamp {
        t.clamp(self.time_range.0, self.time_range.1).truncated(self.time_granularity_ns)
    }
}

impl Default for Traits {
    fn default() -> Self {
        let far = Timestamp { sec: i64::MAX, ns: 999_999_999 };
        Traits {
            time_granularity_ns: 1,
            time_range: (Timestamp { sec: i64::MIN, ns: 0 }, far),
            forgets: false,
            projects: false,
        }
    }
}

/// How much is there: a first guess at a job's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Inodes in use on the whole filesystem; 0 where it does not count them.
    pub entries: u64,
    /// Bytes in use on the whole filesystem.
    pub bytes: u64,
    /// The root is the whole filesystem, so the numbers are its own and not just a bound.
    pub whole: bool,
}

/// A tree that can be walked, read, and perhaps written.
pub trait Filesystem: Send + Sync {
    /// What it can keep.
    fn traits(&self) -> Traits;

    /// Opens a directory beneath the root; the empty path is the root.
    ///
    /// # Errors
    /// `ENOENT`, or class [`Class::OtherKind`] if any component is not a directory.
    fn open_dir(&self, path: &RelPath) -> Result<Box<dyn Dir>>;

    /// Which directory of which filesystem the root is.
    ///
    /// # Errors
    /// The system's, if it cannot be looked at.
    fn identity(&self) -> Result<RootIdentity>;

    /// How much is there, if it can be told without a walk.
    fn usage(&self) -> Option<Usage>;

    /// How full it is, if that can be told.
    fn space(&self) -> Option<Space> {
        None
    }

    /// What a filesystem of several servers is made of, asked now; none of others.
    fn servers(&self) -> Option<Servers> {
        None
    }

    /// Waits until everything that was done before, from any node, is on stable storage. What was written to files
    /// that nobody synced need not be. `scratch` is a directory of this filesystem in which things may be made for it;
    /// they are gone afterwards.
    ///
    /// # Errors
    /// The system's: nothing can be said then.
    fn barrier(&self, scratch: &dyn Dir) -> Result<()> {
        let _ = scratch;
        Ok(())
    }

    /// Bytes of data a second that this node may move at most; none is no limit.
    fn bytes_per_second(&self) -> Option<u64> {
        None
    }
}

/// What kind of entry [`Dir::create`] prepares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum New<'a> {
    /// An empty regular file.
    File,
    /// As [`File`](New::File), striped like this; where that cannot be done, the filesystem decides, and
    /// [`NewEntry::has_layout`] tells.
    LaidOut(&'a Layout),
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A fifo, socket or device node with this device number.
    Node(Kind, u64),
}

/// Did a name that should be made exist already?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It was made.
    New,
    /// Something was there, and was left alone.
    Existed,
}

/// An open directory. Names are one component, checked by [`crate::model::check_name`] before they get here.
pub trait Dir: Send + Sync {
    /// The directory's own attributes.
    fn metadata(&self) -> Result<Metadata>;

    /// Tells this mounting of the filesystem from every other, on this machine and since it was started; 0 where that
    /// is not known.
    fn mount_id(&self) -> Result<u64> {
        Ok(0)
    }

    /// Is another filesystem, or another part of one, mounted here?
    fn is_mount_point(&self) -> Result<bool> {
        Ok(false)
    }

    /// Streams the entries in the filesystem's order, without `.` and `..`, attributes where they come for free.
    ///
    /// # Errors
    /// Any error means that the listing is not complete. The names seen so far were real.
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> Result<()>;

    /// A name in it that is `wanted`, any; the listing goes no further than that.
    ///
    /// # Errors
    /// As [`list`](Dir::list).
    fn any_name(&self, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let mut found = None;
        self.list(&mut |entry| {
            if found.is_none() && wanted(entry.name) {
                found = Some(entry.name.to_vec());
            }
        })?;
        Ok(found)
    }

    /// Attributes of a child; a symlink's own.
    fn stat(&self, name: &[u8]) -> Result<Metadata>;

    /// Opens a child directory.
    fn open_dir(&self, name: &[u8]) -> Result<Box<dyn Dir>>;

    /// Opens a regular file for reading, its access time left alone where that is allowed.
    ///
    /// # Errors
    /// `ELOOP` ([`Class::OtherKind`]) if it is not a regular file; nothing else is ever opened. `ENODATA` of
    /// [`Operation::Recall`] if its data are only in an archive, and [`Options::recall`] is not set.
    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>>;

    /// The target of a symlink.
    fn read_link(&self, name: &[u8]) -> Result<Vec<u8>>;

    /// Extended attributes of a child; a symlink's own.
    fn xattrs(&self, name: &[u8]) -> Result<Xattrs>;

    /// Extended attributes of the directory itself.
    fn xattrs_self(&self) -> Result<Xattrs>;

    /// Makes a directory with mode 0700 and without inherited ACLs. Something else of that name is
    /// replaced, and gone only when the directory is there.
    fn make_dir(&self, name: &[u8]) -> Result<Made>;

    /// Makes a directory as [`make_dir`](Dir::make_dir), but leaves alone whatever has the name.
    fn make_new_dir(&self, name: &[u8]) -> Result<Made>;

    /// Prepares an entry that is to appear under `name`.
    ///
    /// With `direct` it appears at once, if there is nothing of that name (else `EEXIST`).
    fn create(&self, name: &[u8], what: New<'_>, direct: bool) -> Result<Box<dyn NewEntry>>;

    /// Opens a child of any kind, never followed, to set its attributes.
    fn edit(&self, name: &[u8]) -> Result<Box<dyn Edit>>;

    /// The directory itself, to set its attributes.
    fn edit_self(&self) -> Result<Box<dyn Edit>>;

    /// Makes `name` a further name of `from_name` in `from`, a directory of the same adapter and root.
    ///
    /// # Errors
    /// `EEXIST` if the name is taken and `replace` is not set; `EMLINK` if the inode has all the names it can have.
    fn link(&self, name: &[u8], from: &dyn Dir, from_name: &[u8], replace: bool) -> Result<()>;

    /// Removes a child of any kind, a directory with all that is in it.
    fn remove(&self, name: &[u8]) -> Result<()>;

    /// Removes a child that is no directory.
    ///
    /// # Errors
    /// `EISDIR` ([`Class::OtherKind`]) if it is one; it is left alone then.
    fn unlink(&self, name: &[u8]) -> Result<()>;

    /// Removes a child directory if nothing is in it. False if something is.
    ///
    /// # Errors
    /// `ENOTDIR` ([`Class::OtherKind`]) if it is none; it is left alone then.
    fn remove_empty_dir(&self, name: &[u8]) -> Result<bool>;

    /// Gives a child that is no directory the name `to_name` in `to`, a directory on the same filesystem, of the same
    /// adapter but perhaps of another root. Whatever has that name is left alone, and the child then too.
    ///
    /// # Errors
    /// `EISDIR` ([`Class::OtherKind`]) if the child is a directory, `EXDEV` if `to` is on another filesystem.
    fn move_to(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> Result<Made>;
    /// Makes a part file of this size, all hole: the data of a large file while several write it. Mode 0600, and
    /// nothing may be there (`EEXIST`). It stays when the handle is dropped.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, if the adapter has no part files.
    fn make_part(&self, name: &[u8], size: u64, layout: Option<&Layout>) -> Result<Box<dyn PartFile>> {
        let _ = (name, size, layout);
        Err(FsError { operation: Operation::Create, errno: libc::EOPNOTSUPP })
    }

    /// Opens a part file that was made before.
    ///
    /// # Errors
    /// `ESTALE` if it is not as [`make_part`](Dir::make_part) leaves it: a regular file of the maker's with this one
    /// name and mode 0600. Nothing is ever written through what somebody else put there.
    fn open_part(&self, name: &[u8]) -> Result<Box<dyn PartFile>> {
        let _ = name;
        Err(FsError { operation: Operation::Open, errno: libc::EOPNOTSUPP })
    }

    /// Takes an advisory lock on the directory, by a hidden file that it makes in it; other nodes see it, too. It ends when what is returned is dropped or the process
    /// dies. None if somebody else's lock is in the way.
    fn lock(&self, exclusive: bool) -> Result<Option<Box<dyn Send + Sync>>>;

    /// Quota project of a child; the directory's own for the empty name. None where that cannot be told.
    fn project(&self, name: &[u8]) -> Result<Option<Project>> {
        let _ = name;
        Ok(None)
    }

    /// Where things lie, and telling it where to put them, if there are several servers.
    fn placing(&self) -> Option<&dyn Placing> {
        None
    }

    /// The adapter's own type, for calls on two directories.
    fn as_any(&self) -> &dyn Any;
}

/// A directory on several servers: where things lie, and where they shall go. Lustre.
pub trait Placing: Send + Sync {
    /// Makes a directory as [`Dir::make_dir`] does, on the first of these MDTs that takes it, or else wherever it can
    /// be. Where it lies then, as far as that can be told, also if it was there before.
    ///
    /// # Errors
    /// As [`Dir::make_dir`]; of the last MDT, if it can be nowhere.
    fn make_dir_on(&self, name: &[u8], mdts: &[u32]) -> Result<(Made, u32)>;

    /// The MDT of the directory itself.
    fn mdt(&self) -> Result<u32>;

    /// The MDT of a child; of what cannot be opened, its directory's.
    fn mdt_of(&self, name: &[u8]) -> Result<u32>;

    /// How a regular file is striped; none if it has no layout yet.
    fn layout(&self, name: &[u8]) -> Result<Option<Layout>>;

    /// The directory's own default layout; none if it has none of its own.
    fn default_layout(&self) -> Result<Option<Layout>>;

    /// Sets the directory's default layout, or removes it.
    fn set_default_layout(&self, layout: Option<&Layout>) -> Result<()>;
}

/// A regular file open for reading.
pub trait SourceFile: Send + Sync {
    /// Attributes, now, of what is open.
    fn metadata(&self) -> Result<Metadata>;

    /// Attributes as they were when it was opened.
    fn at_open(&self) -> Result<Metadata> {
        self.metadata()
    }

    /// Extended attributes of what is open.
    fn xattrs(&self) -> Result<Xattrs>;

    /// Reads at an offset; fewer bytes than asked for only at the end, 0 at or after it.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// The first run of data that ends after `offset`, as start and end in bytes; none if only a hole is left.
    fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>>;

    /// Writes a range out to the medium, if it was changed, and takes it out of the page cache, so that the next
    /// read comes from the medium. Does nothing where there is no such cache.
    fn drop_cache(&self, offset: u64, bytes: u64) -> Result<()>;

    /// How it is striped; none if it is on one server, or has no data yet.
    fn layout(&self) -> Result<Option<Layout>> {
        Ok(None)
    }

    /// Its quota project; none where that cannot be told.
    fn project(&self) -> Result<Option<Project>> {
        Ok(None)
    }

    /// The kernel's descriptor, where there is one, for copying inside the kernel.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// An entry whose attributes can be set. Each call is idempotent.
pub trait Edit {
    /// Attributes as they are.
    fn metadata(&self) -> Result<Metadata>;
    /// Extended attributes as they are.
    fn xattrs(&self) -> Result<Xattrs>;
    /// Sets owner and group; `None` leaves one alone.
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()>;
    /// Sets permission bits (`0o7777`). Does nothing to a symlink.
    fn set_mode(&self, mode: u32) -> Result<()>;
    /// Sets access and modification time.
    fn set_times(&self, atime: Timestamp, mtime: Timestamp) -> Result<()>;
    /// Sets one extended attribute.
    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()>;
    /// Removes one extended attribute; an absent one is no error.
    fn remove_xattr(&self, name: &[u8]) -> Result<()>;
    /// Sets the quota project.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where there are none.
    fn set_project(&self, project: Project) -> Result<()> {
        let _ = project;
        Err(FsError { operation: Operation::SetProject, errno: libc::EOPNOTSUPP })
    }
}

/// An entry that is being made. Dropped before [`publish`](NewEntry::publish), it leaves nothing.
pub trait NewEntry: Edit {
    /// Makes the whole contents share the source's, without copying, where the filesystem can. False if not:
    /// nothing was written then.
    fn share_with(&mut self, _source: &dyn SourceFile) -> bool {
        false
    }

    /// Was it made with the layout that was asked for?
    fn has_layout(&self) -> bool {
        true
    }

    /// Waits until contents and attributes are on stable storage.
    fn sync(&mut self) -> Result<()>;

    /// Is the owner already this one, so that setting it can be left out?
    fn is_owned_by(&self, uid: u32, gid: u32) -> bool;

    /// Writes the whole contents of a file, holes as holes if wanted. `written` hears of bytes as they go.
    /// Returns the bytes of data written.
    ///
    /// # Errors
    /// [`Operation::Read`] and [`Operation::SeekData`] are the source's, all else the target's.
    fn fill_from(&mut self, source: &dyn SourceFile, holes: bool, written: &dyn Fn(u64)) -> Result<u64>;

    /// The checked close: errors that the system held back come out here.
    fn seal(&mut self) -> Result<()>;

    /// Gives it its name, atomically. What stands there is replaced if asked (a directory with all that
    /// is in it), and is gone only when the new entry is there.
    fn publish(self: Box<Self>, replace: bool) -> Result<Made>;
}

/// A range of a part file that nobody else locks. Dropping it unlocks, and so does the death of the process.
pub trait Locked {}

/// A large file's data in the making. Any number of handles, on any number of nodes, may write different ranges.
pub trait PartFile: Edit {
    /// Locks a range for this handle alone; `len` 0 means all of it, however large. Two handles of one process are
    /// in each other's way too. None if somebody else's lock was in the way for `patience`.
    ///
    /// # Errors
    /// Where there are no locks.
    ///
    /// # Blocking
    /// For `patience` at most.
    fn lock(&self, start: u64, len: u64, patience: Duration) -> Result<Option<Box<dyn Locked + '_>>>;

    /// Copies the data of one range of the source to the same place; holes are left out if wanted. `written` hears
    /// of bytes as they go. False if the source ended before.
    ///
    /// # Errors
    /// As [`NewEntry::fill_from`].
    fn fill_range(
        &self,
        source: &dyn SourceFile,
        range: std::ops::Range<u64>,
        holes: bool,
        written: &dyn Fn(u64),
    ) -> Result<bool>;

    /// The checked close: errors that the system held back come out here. The handle and its locks stay.
    fn seal(&self) -> Result<()>;

    /// Was it made with the layout that was asked for?
    fn has_layout(&self) -> bool {
        true
    }

    /// Waits until contents and attributes are on stable storage.
    fn sync(&self) -> Result<()>;

    /// Renames the part file over `name` in the same directory, whatever stands there.
    fn publish(&self, name: &[u8]) -> Result<()>;
}

/// Which side of a job a root is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Only read.
    Source,
    /// Written.
    Target,
    /// Only read, but looked at as a target: what it can keep is found out where nothing of that shows.
    Trial,
}

/// Opens a root from what stands after `://`.
pub type OpenRoot =
    fn(rest: &[u8], side: Side, options: &Options) -> std::result::Result<Arc<dyn Filesystem>, RootError>;

/// A registry row: how a scheme is opened.
pub struct Adapter {
    /// What stands before `://`.
    pub scheme: &'static str,
    /// Opens a root from what stands after it.
    pub open: OpenRoot,
}

/// What an adapter needs to know of the job.
#[derive(Debug, Clone)]
pub struct Options {
    /// Part of the names of working files, so that leftovers can be told from files in use.
    pub job: crate::model::JobId,
    /// Files whose data are only in an archive may be opened, which has them recalled when they are read.
    pub recall: bool,
}

impl Options {
    /// For this job, and nothing is recalled.
    pub fn new(job: crate::model::JobId) -> Self {
        Options { job, recall: false }
    }

    /// For this job, as its policy asks.
    pub fn of(job: crate::model::JobId, policy: &crate::model::Policy) -> Self {
        Options { job, recall: policy.lustre.hsm == crate::model::lustre::HsmPolicy::Copy }
    }
}

/// Every filesystem that treehaul knows. A path without a scheme is `file`.
pub const ADAPTERS: &[Adapter] = &[
    Adapter { scheme: "file", open: posix::open },
    Adapter { scheme: "synth", open: synth::open },
    Adapter { scheme: "null", open: null::open },
];

/// Why a root cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// No such adapter.
    #[error("unknown scheme '{0}://': use a path, {known}", known = known_schemes())]
    UnknownScheme(String),
    /// The part after the scheme is not understood.
    #[error("{0}")]
    BadUrl(String),
    /// The adapter cannot be a source, or a target.
    #[error("{0}")]
    WrongSide(String),
    /// The system says no.
    #[error("{path}: {error}{hint}", path = crate::model::escaped(path), hint = hint(error.errno))]
    Fs {
        /// The root, as given.
        path: Vec<u8>,
        /// What was tried and what came of it.
        error: FsError,
    },
}

/// What to do about a root that cannot be opened, where that can be told.
fn hint(errno: i32) -> &'static str {
    match errno {
        libc::EACCES | libc::EPERM => "; run as root, or as a user who may open it",
        libc::EROFS => "; mount it writable, or choose another target",
        libc::ESTALE | libc::ENOTCONN | libc::EIO => "; look at the mount and at dmesg",
        libc::ENOENT | libc::ENOTDIR => "; check the path and whether it is mounted",
        _ => "",
    }
}

fn known_schemes() -> String {
    let names: Vec<String> = ADAPTERS.iter().map(|a| format!("{}://", a.scheme)).collect();
    names.join(", ")
}

/// Splits a root into its adapter and the rest.
///
/// # Errors
/// [`RootError::UnknownScheme`].
pub fn adapter_of(root: &[u8]) -> std::result::Result<(&'static Adapter, &[u8]), RootError> {
    let split = root
        .windows(3)
        .position(|w| w == b"://")
        .filter(|at| *at > 0 && root[..*at].iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)));
    let (scheme, rest) = match split {
        Some(at) => (&root[..at], &root[at + 3..]),
        None => (&b"file"[..], root),
    };
    let found = ADAPTERS.iter().find(|a| a.scheme.as_bytes() == scheme);
    found.map(|a| (a, rest)).ok_or_else(|| RootError::UnknownScheme(crate::model::escaped(scheme)))
}

/// Opens a root by its URL or path.
///
/// # Errors
/// [`RootError`], which names the root and the way out.
pub fn open(root: &[u8], side: Side, options: &Options) -> std::result::Result<Arc<dyn Filesystem>, RootError> {
    let (adapter, rest) = adapter_of(root)?;
    (adapter.open)(rest, side, options)
}
