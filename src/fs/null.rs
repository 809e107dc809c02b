//! `null://`: a target that stores nothing, but reads and checks all that it is given, and counts it.
//!
//! Invariant: what a target that stores would refuse is refused here too: bad names and values, contents that
//! are short, long or out of order, an entry published before its checked close or changed after it.
//! Any directory can be opened and all of them are empty.
//!
//! With `null://?latency=2ms` every operation waits so long, as for a server that is asked. Units are s, ms, us and ns.

use super::{
    Dir, Edit, Filesystem, FsError, Made, New, NewEntry, Options, Result, RootError, Side, SourceFile, Traits, Usage,
    Xattrs, contents, latency,
};
use crate::model::{Kind, Metadata, Operation, RelPath, RootIdentity, Timestamp, check_name, escaped, task::Entry};
use std::any::Any;
use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Separate counters, so that threads seldom share a cache line.
const SHARDS: usize = 32;
/// Longest target of a symlink in bytes: `PATH_MAX` without its NUL.
const MAX_SYMLINK_BYTES: usize = 4095;
/// Longest value of an extended attribute in bytes (`XATTR_SIZE_MAX`).
const MAX_XATTR_BYTES: usize = 65_536;

/// Opens a target from what stands after `null://`: nothing, or `?latency=TIME`.
///
/// # Errors
/// [`RootError::BadUrl`] if there is something else; [`RootError::WrongSide`] as a source.
pub fn open(rest: &[u8], side: Side, _options: &Options) -> std::result::Result<Arc<dyn Filesystem>, RootError> {
    let latency = parse(rest).map_err(|why| RootError::BadUrl(format!("null://{}: {why}", escaped(rest))))?;
    match side {
        Side::Target | Side::Trial => Ok(Arc::new(Null(Arc::new(Counters { latency, ..Counters::default() })))),
        Side::Source => Err(RootError::WrongSide(
            "null:// holds nothing that could be read: use it as the target, and a directory or synth:// as the source"
                .to_owned(),
        )),
    }
}

fn parse(rest: &[u8]) -> std::result::Result<Duration, String> {
    if rest.is_empty() || rest == b"?" {
        return Ok(Duration::ZERO);
    }
    let value = rest.strip_prefix(b"?latency=").and_then(|value| std::str::from_utf8(value).ok());
    latency::parse(value.ok_or("nothing may stand after null:// but ?latency=2ms")?)
}

struct Null(Arc<Counters>);

impl Filesystem for Null {
    fn traits(&self) -> Traits {
        Traits { forgets: true, ..Traits::default() }
    }

    fn open_dir(&self, _path: &RelPath) -> Result<Box<dyn Dir>> {
        self.0.ask();
        Ok(Box::new(NullDir(Arc::clone(&self.0))))
    }

    fn identity(&self) -> Result<RootIdentity> {
        Ok(RootIdentity { ino: 1, device: b"null://".to_vec(), ..RootIdentity::default() })
    }

    /// What has been given to it so far: names and bytes of data.
    fn usage(&self) -> Option<Usage> {
        Some(self.0.sum())
    }
}

/// One cache line (two, as they are fetched in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Shard {
    entries: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct Counters {
    shards: [Shard; SHARDS],
    latency: Duration,
}

impl Counters {
    /// What an operation costs.
    fn ask(&self) {
        latency::round_trip(self.latency);
    }

    fn add(&self, entries: u64, bytes: u64) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        let shard = &self.shards[MINE.with(|mine| *mine)];
        shard.entries.fetch_add(entries, Ordering::Relaxed);
        shard.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn sum(&self) -> Usage {
        let mut usage = Usage { entries: 0, bytes: 0, whole: true };
        for shard in &self.shards {
            usage.entries += shard.entries.load(Ordering::Relaxed);
            usage.bytes += shard.bytes.load(Ordering::Relaxed);
        }
        usage
    }
}

fn error(operation: Operation, errno: i32) -> FsError {
    FsError { operation, errno }
}

fn ensure(holds: bool, operation: Operation, errno: i32) -> Result<()> {
    if holds { Ok(()) } else { Err(error(operation, errno)) }
}

fn absent<T>(operation: Operation) -> Result<T> {
    Err(error(operation, libc::ENOENT))
}

fn checked(name: &[u8], operation: Operation) -> Result<()> {
    ensure(check_name(name).is_ok(), operation, libc::EINVAL)
}

/// What every directory here looks like, and every entry that is being made.
fn attributes(kind: Kind, mode: u32) -> Metadata {
    let zero = Timestamp::default();
    Metadata {
        kind,
        mode,
        uid: 0,
        gid: 0,
        size: 0,
        blocks_512: 0,
        nlink: 1,
        dev: 0,
        ino: 1,
        rdev: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
    }
}

struct NullDir(Arc<Counters>);

impl Dir for NullDir {
    fn metadata(&self) -> Result<Metadata> {
        Ok(attributes(Kind::Directory, 0o700))
    }

    fn list(&self, _each: &mut dyn FnMut(Entry<'_>)) -> Result<()> {
        self.0.ask();
        Ok(())
    }

    fn stat(&self, _name: &[u8]) -> Result<Metadata> {
        self.0.ask();
        absent(Operation::Stat)
    }

    fn open_dir(&self, name: &[u8]) -> Result<Box<dyn Dir>> {
        self.0.ask();
        checked(name, Operation::OpenDirectory)?;
        Ok(Box::new(NullDir(Arc::clone(&self.0))))
    }

    fn open_file(&self, _name: &[u8]) -> Result<Box<dyn SourceFile>> {
        self.0.ask();
        absent(Operation::Open)
    }

    fn read_link(&self, _name: &[u8]) -> Result<Vec<u8>> {
        self.0.ask();
        absent(Operation::ReadLink)
    }

    fn xattrs(&self, _name: &[u8]) -> Result<Xattrs> {
        self.0.ask();
        absent(Operation::ListXattrs)
    }

    fn xattrs_self(&self) -> Result<Xattrs> {
        Ok(Xattrs::new())
    }

    fn make_dir(&self, name: &[u8]) -> Result<Made> {
        self.0.ask();
        checked(name, Operation::MakeDirectory)?;
        self.0.add(1, 0);
        Ok(Made::New)
    }

    fn make_new_dir(&self, name: &[u8]) -> Result<Made> {
        self.make_dir(name)
    }

    fn create(&self, name: &[u8], what: New<'_>, _direct: bool) -> Result<Box<dyn NewEntry>> {
        self.0.ask();
        let (kind, operation) = match what {
            New::File | New::LaidOut(_) => (Kind::File, Operation::Create),
            New::Symlink(_) => (Kind::Symlink, Operation::MakeSymlink),
            New::Node(kind, _) => (kind, Operation::MakeNode),
        };
        checked(name, operation)?;
        match what {
            New::File | New::LaidOut(_) => {}
            New::Symlink(to) => {
                ensure(!to.is_empty(), operation, libc::ENOENT)?;
                ensure(to.len() <= MAX_SYMLINK_BYTES, operation, libc::ENAMETOOLONG)?;
                ensure(!to.contains(&0), operation, libc::EINVAL)?;
            }
            New::Node(kind, _) => {
                let is_node = matches!(kind, Kind::Fifo | Kind::Socket | Kind::BlockDevice | Kind::CharDevice);
                ensure(is_node, operation, libc::EINVAL)?;
            }
        }
        Ok(Box::new(NullEntry { counters: Arc::clone(&self.0), kind, bytes: 0, sealed: Cell::new(false) }))
    }

    fn edit(&self, name: &[u8]) -> Result<Box<dyn Edit>> {
        self.0.ask();
        checked(name, Operation::Open)?;
        Ok(Box::new(NullEdit(Arc::clone(&self.0))))
    }

    fn edit_self(&self) -> Result<Box<dyn Edit>> {
        Ok(Box::new(NullEdit(Arc::clone(&self.0))))
    }

    fn link(&self, name: &[u8], from: &dyn Dir, from_name: &[u8], _replace: bool) -> Result<()> {
        self.0.ask();
        checked(name, Operation::Link)?;
        checked(from_name, Operation::Link)?;
        ensure(from.as_any().is::<NullDir>(), Operation::Link, libc::EXDEV)?;
        self.0.add(1, 0);
        Ok(())
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        self.0.ask();
        checked(name, Operation::Remove)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.0.ask();
        checked(name, Operation::Remove)
    }

    fn remove_empty_dir(&self, name: &[u8]) -> Result<bool> {
        self.0.ask();
        checked(name, Operation::Remove)?;
        Ok(true)
    }

    fn move_to(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> Result<Made> {
        self.0.ask();
        checked(name, Operation::Rename)?;
        checked(to_name, Operation::Rename)?;
        ensure(to.as_any().is::<NullDir>(), Operation::Rename, libc::EXDEV)?;
        Ok(Made::New)
    }

    /// Always granted: there is nothing that two could be at.
    fn lock(&self, _exclusive: bool) -> Result<Option<Box<dyn Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Takes any attributes that could be set.
struct NullEdit<C: Deref<Target = Counters>>(C);

impl<C: Deref<Target = Counters>> Edit for NullEdit<C> {
    fn metadata(&self) -> Result<Metadata> {
        Ok(attributes(Kind::Directory, 0o700))
    }

    fn xattrs(&self) -> Result<Xattrs> {
        Ok(Xattrs::new())
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.0.ask();
        // The kernel reads the largest number as "leave alone".
        ensure(uid != Some(u32::MAX) && gid != Some(u32::MAX), Operation::SetOwner, libc::EINVAL)
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        self.0.ask();
        ensure(mode & !0o7777 == 0, Operation::SetMode, libc::EINVAL)
    }

    fn set_times(&self, atime: Timestamp, mtime: Timestamp) -> Result<()> {
        self.0.ask();
        ensure(atime.ns < 1_000_000_000 && mtime.ns < 1_000_000_000, Operation::SetTimes, libc::EINVAL)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.0.ask();
        ensure((1..=255).contains(&name.len()), Operation::SetXattr, libc::ERANGE)?;
        ensure(value.len() <= MAX_XATTR_BYTES, Operation::SetXattr, libc::E2BIG)
    }

    fn remove_xattr(&self, _name: &[u8]) -> Result<()> {
        self.0.ask();
        Ok(())
    }
}

struct NullEntry {
    counters: Arc<Counters>,
    kind: Kind,
    bytes: u64,
    sealed: Cell<bool>,
}

impl NullEntry {
    /// After the checked close there is nothing left to set attributes on.
    fn edit(&self, operation: Operation) -> Result<NullEdit<&Counters>> {
        ensure(!self.sealed.get(), operation, libc::EBADF)?;
        Ok(NullEdit(&self.counters))
    }
}

impl Edit for NullEntry {
    fn metadata(&self) -> Result<Metadata> {
        Ok(attributes(self.kind, 0o600))
    }

    fn xattrs(&self) -> Result<Xattrs> {
        Ok(Xattrs::new())
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.edit(Operation::SetOwner)?.set_owner(uid, gid)
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        self.edit(Operation::SetMode)?.set_mode(mode)
    }

    fn set_times(&self, atime: Timestamp, mtime: Timestamp) -> Result<()> {
        self.edit(Operation::SetTimes)?.set_times(atime, mtime)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.edit(Operation::SetXattr)?.set_xattr(name, value)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.edit(Operation::RemoveXattr)?.remove_xattr(name)
    }
}

impl NewEntry for NullEntry {
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn is_owned_by(&self, _uid: u32, _gid: u32) -> bool {
        false
    }

    /// Reads everything.
    ///
    /// # Errors
    /// `EIO` of [`Operation::Read`] if the source gave more or fewer bytes than it says it has, and did not
    /// change meanwhile; `EIO` of [`Operation::Write`] if they came out of order.
    fn fill_from(&mut self, source: &dyn SourceFile, holes: bool, written: &dyn Fn(u64)) -> Result<u64> {
        ensure(self.kind == Kind::File && !self.sealed.get(), Operation::Write, libc::EBADF)?;
        let before = source.at_open()?;
        let counters = &self.counters;
        let mut end = 0;
        let mut in_order = 0;
        let (data, size) = contents::copy_generic(source, holes, written, &mut |offset, bytes| {
            counters.ask();
            ensure(offset >= end && (holes || offset == end), Operation::Write, libc::EIO)?;
            end = offset + bytes.len() as u64;
            in_order += bytes.len() as u64;
            Ok(())
        })?;
        ensure(data == in_order && end <= size, Operation::Write, libc::EIO)?;
        let whole = size == before.size || !source.metadata()?.same_moment(&before);
        ensure(whole, Operation::Read, libc::EIO)?;
        self.bytes = data;
        Ok(data)
    }

    fn seal(&mut self) -> Result<()> {
        ensure(!self.sealed.replace(true), Operation::Close, libc::EBADF)
    }

    fn publish(self: Box<Self>, _replace: bool) -> Result<Made> {
        self.counters.ask();
        ensure(self.sealed.get(), Operation::Rename, libc::EIO)?;
        self.counters.add(1, self.bytes);
        Ok(Made::New)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_read_and_anything_else_is_refused() {
        assert_eq!(parse(b""), Ok(Duration::ZERO));
        assert_eq!(parse(b"?latency=2ms"), Ok(Duration::from_millis(2)));
        for rest in [&b"x"[..], b"?latency", b"?delay=2ms", b"?latency=\xff", b"?latency=2"] {
            assert!(parse(rest).is_err_and(|why| why.contains("2ms")), "{}", escaped(rest));
        }
    }

    #[test]
    fn each_operation_of_a_slow_target_waits() {
        let options = Options::new(crate::model::JobId::random());
        let fs = open(b"?latency=5ms", Side::Target, &options).unwrap();
        let start = std::time::Instant::now();
        let dir = fs.open_dir(&RelPath::root()).unwrap();
        let mut link = dir.create(b"l", New::Symlink(b"x"), false).unwrap();
        link.set_mode(0o777).unwrap();
        link.seal().unwrap();
        link.publish(false).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20), "opened, created, set, named");
    }
}
