//! Times every call on a filesystem, and counts the bytes that a thread moves.
//!
//! Invariant: what a call waits for others is not its time: the entries of a listing are worked on, and limits on bytes
//! are waited for, off the clock; what is read through this process to be written counts as reading alone. The layer
//! lies next to the adapter, below limits on load, so that their waiting is not timed either.

use super::super::{
    Dir, Edit, Filesystem, Locked, Made, New, NewEntry, PartFile, Placing, Result, SourceFile, Traits, Usage, Xattrs,
    contents,
};
use crate::model::fleet::Space;
use crate::model::latency::Call;
use crate::model::timings::{Timings, Watch};
use crate::model::{Layout, Metadata, Project, RelPath, RootIdentity, Servers, Timestamp, task::Entry};
use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Times a filesystem's calls; without timings it is what it was.
pub fn metered(fs: Arc<dyn Filesystem>, timings: Option<&Arc<Timings>>) -> Arc<dyn Filesystem> {
    match timings {
        Some(timings) => Arc::new(MeteredFs { inner: fs, watch: timings.watch(), _timings: Arc::clone(timings) }),
        None => fs,
    }
}

thread_local! {
    /// Bytes that this thread moved since it began. Only the thread itself adds.
    static ODOMETER: Arc<AtomicU64> = Arc::default();
    /// Set while this thread writes what it reads: time that is not the writing's.
    static NOT_WRITING: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Bytes that the calling thread moves through metered filesystems, as they grow: those that it writes, and those that it
/// only reads.
pub fn odometer() -> Arc<AtomicU64> {
    ODOMETER.with(Arc::clone)
}

fn moved(bytes: u64) {
    ODOMETER.with(|moved| moved.store(moved.load(Relaxed).wrapping_add(bytes), Relaxed));
}

/// This much of the time is not the writing's, if something is being written.
fn is_other_time(time: Duration) {
    if let Some(other) = NOT_WRITING.get() {
        NOT_WRITING.set(Some(other.saturating_add(time)));
    }
}

/// Times a call.
fn timed<T>(watch: &Watch, call: Call, f: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = f();
    let time = began.elapsed();
    watch.add(call, time);
    is_other_time(time);
    done
}

/// Ends the writing, also when it panics.
struct Written;

impl Drop for Written {
    fn drop(&mut self) {
        NOT_WRITING.set(None);
    }
}

/// Times the writing of data, which `fill` tells of as they go.
fn timed_writing<T>(watch: &Watch, written: &dyn Fn(u64), fill: impl FnOnce(&dyn Fn(u64)) -> T) -> T {
    NOT_WRITING.set(Some(Duration::ZERO));
    let end = Written;
    let began = Instant::now();
    let done = fill(&|bytes| {
        let paused = Instant::now();
        // More than any one call copies was cloned: none were moved.
        if bytes <= contents::LARGEST_PIECE_BYTES {
            moved(bytes);
        }
        written(bytes);
        is_other_time(paused.elapsed());
    });
    let time = began.elapsed().saturating_sub(NOT_WRITING.get().unwrap_or_default());
    drop(end);
    watch.add(Call::Write, time);
    done
}

struct MeteredFs {
    inner: Arc<dyn Filesystem>,
    watch: Watch,
    /// They are there as long as somebody may add to them.
    _timings: Arc<Timings>,
}

impl Filesystem for MeteredFs {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn open_dir(&self, path: &RelPath) -> Result<Box<dyn Dir>> {
        let watch = self.watch.here();
        let inner = timed(&watch, Call::OpenDir, || self.inner.open_dir(path))?;
        Ok(Box::new(Metered { inner, watch }))
    }

    fn identity(&self) -> Result<RootIdentity> {
        self.inner.identity()
    }

    fn usage(&self) -> Option<Usage> {
        self.inner.usage()
    }

    fn space(&self) -> Option<Space> {
        self.inner.space()
    }

    fn servers(&self) -> Option<Servers> {
        self.inner.servers()
    }

    fn barrier(&self, scratch: &dyn Dir) -> Result<()> {
        self.inner.barrier(scratch)
    }

    fn bytes_per_second(&self) -> Option<u64> {
        self.inner.bytes_per_second()
    }
}

/// A handle and where its calls are added.
struct Metered<T: ?Sized> {
    inner: Box<T>,
    watch: Watch,
}

impl<T: ?Sized> Metered<T> {
    fn timed<R>(&self, call: Call, f: impl FnOnce(&T) -> R) -> R {
        timed(&self.watch, call, || f(&self.inner))
    }

    /// Opens something, whose calls are timed, too.
    fn opened<U: ?Sized>(&self, call: Call, open: impl FnOnce(&T) -> Result<Box<U>>) -> Result<Box<Metered<U>>> {
        let inner = self.timed(call, open)?;
        Ok(Box::new(Metered { inner, watch: self.watch.here() }))
    }
}

impl Dir for Metered<dyn Dir> {
    fn metadata(&self) -> Result<Metadata> {
        self.timed(Call::Stat, |dir| dir.metadata())
    }

    fn mount_id(&self) -> Result<u64> {
        self.timed(Call::Stat, |dir| dir.mount_id())
    }

    fn is_mount_point(&self) -> Result<bool> {
        self.timed(Call::Stat, |dir| dir.is_mount_point())
    }

    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> Result<()> {
        let began = Instant::now();
        let mut elsewhere = Duration::ZERO;
        let listed = self.inner.list(&mut |entry| {
            let paused = Instant::now();
            each(entry);
            elsewhere += paused.elapsed();
        });
        self.watch.add(Call::List, began.elapsed().saturating_sub(elsewhere));
        listed
    }

    fn any_name(&self, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        self.timed(Call::List, |dir| dir.any_name(wanted))
    }

    fn stat(&self, name: &[u8]) -> Result<Metadata> {
        self.timed(Call::Stat, |dir| dir.stat(name))
    }

    fn open_dir(&self, name: &[u8]) -> Result<Box<dyn Dir>> {
        Ok(self.opened(Call::OpenDir, |dir| dir.open_dir(name))?)
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>> {
        Ok(self.opened(Call::Open, |dir| dir.open_file(name))?)
    }

    fn read_link(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.timed(Call::ReadLink, |dir| dir.read_link(name))
    }

    fn xattrs(&self, name: &[u8]) -> Result<Xattrs> {
        self.timed(Call::GetXattrs, |dir| dir.xattrs(name))
    }

    fn xattrs_self(&self) -> Result<Xattrs> {
        self.timed(Call::GetXattrs, |dir| dir.xattrs_self())
    }

    fn make_dir(&self, name: &[u8]) -> Result<Made> {
        self.timed(Call::MakeDir, |dir| dir.make_dir(name))
    }

    fn make_new_dir(&self, name: &[u8]) -> Result<Made> {
        self.timed(Call::MakeDir, |dir| dir.make_new_dir(name))
    }

    fn create(&self, name: &[u8], what: New<'_>, direct: bool) -> Result<Box<dyn NewEntry>> {
        Ok(self.opened(Call::Create, |dir| dir.create(name, what, direct))?)
    }

    fn edit(&self, name: &[u8]) -> Result<Box<dyn Edit>> {
        Ok(self.opened(Call::Open, |dir| dir.edit(name))?)
    }

    /// Nothing is opened for it, or nothing that takes time.
    fn edit_self(&self) -> Result<Box<dyn Edit>> {
        Ok(Box::new(Metered { inner: self.inner.edit_self()?, watch: self.watch.here() }))
    }

    fn link(&self, name: &[u8], from: &dyn Dir, from_name: &[u8], replace: bool) -> Result<()> {
        self.timed(Call::Link, |dir| dir.link(name, from, from_name, replace))
    }

    /// Of most names that is a directory.
    fn remove(&self, name: &[u8]) -> Result<()> {
        self.timed(Call::RemoveDir, |dir| dir.remove(name))
    }

    fn remove_empty_dir(&self, name: &[u8]) -> Result<bool> {
        self.timed(Call::RemoveDir, |dir| dir.remove_empty_dir(name))
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.timed(Call::Unlink, |dir| dir.unlink(name))
    }

    fn move_to(&self, name: &[u8], to: &dyn Dir, to_name: &[u8]) -> Result<Made> {
        self.timed(Call::Rename, |dir| dir.move_to(name, to, to_name))
    }

    fn make_part(&self, name: &[u8], size: u64, layout: Option<&Layout>) -> Result<Box<dyn PartFile>> {
        Ok(self.opened(Call::Create, |dir| dir.make_part(name, size, layout))?)
    }

    fn open_part(&self, name: &[u8]) -> Result<Box<dyn PartFile>> {
        Ok(self.opened(Call::Open, |dir| dir.open_part(name))?)
    }

    fn lock(&self, exclusive: bool) -> Result<Option<Box<dyn Send + Sync>>> {
        self.timed(Call::Lock, |dir| dir.lock(exclusive))
    }

    fn project(&self, name: &[u8]) -> Result<Option<Project>> {
        self.timed(Call::GetXattrs, |dir| dir.project(name))
    }

    /// The adapter's own: not timed.
    fn placing(&self) -> Option<&dyn Placing> {
        self.inner.placing()
    }

    /// The adapter's own, so that calls on two directories of it are made as without the layer.
    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}

impl SourceFile for Metered<dyn SourceFile> {
    fn metadata(&self) -> Result<Metadata> {
        self.timed(Call::Stat, |file| file.metadata())
    }

    /// It is known by then.
    fn at_open(&self) -> Result<Metadata> {
        self.inner.at_open()
    }

    fn xattrs(&self) -> Result<Xattrs> {
        self.timed(Call::GetXattrs, |file| file.xattrs())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let read = self.timed(Call::Read, |file| file.read_at(offset, buf))?;
        if NOT_WRITING.get().is_none() {
            moved(read as u64);
        }
        Ok(read)
    }

    /// Finding out where data are is a part of reading them.
    fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
        self.timed(Call::Read, |file| file.next_data(offset, size))
    }

    fn drop_cache(&self, offset: u64, bytes: u64) -> Result<()> {
        self.timed(Call::Sync, |file| file.drop_cache(offset, bytes))
    }

    /// It is known once a file is open.
    fn layout(&self) -> Result<Option<Layout>> {
        self.inner.layout()
    }

    fn project(&self) -> Result<Option<Project>> {
        self.timed(Call::GetXattrs, |file| file.project())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner.descriptor()
    }
}

impl<T: Edit + ?Sized> Edit for Metered<T> {
    fn metadata(&self) -> Result<Metadata> {
        self.timed(Call::Stat, |entry| entry.metadata())
    }

    fn xattrs(&self) -> Result<Xattrs> {
        self.timed(Call::GetXattrs, |entry| entry.xattrs())
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.timed(Call::SetOwner, |entry| entry.set_owner(uid, gid))
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        self.timed(Call::SetMode, |entry| entry.set_mode(mode))
    }

    fn set_times(&self, atime: Timestamp, mtime: Timestamp) -> Result<()> {
        self.timed(Call::SetTimes, |entry| entry.set_times(atime, mtime))
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.timed(Call::SetXattr, |entry| entry.set_xattr(name, value))
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.timed(Call::SetXattr, |entry| entry.remove_xattr(name))
    }

    fn set_project(&self, project: Project) -> Result<()> {
        self.timed(Call::SetXattr, |entry| entry.set_project(project))
    }
}

impl PartFile for Metered<dyn PartFile> {
    fn lock(&self, start: u64, len: u64, patience: Duration) -> Result<Option<Box<dyn Locked + '_>>> {
        timed(&self.watch, Call::Lock, || self.inner.lock(start, len, patience))
    }

    fn fill_range(
        &self,
        source: &dyn SourceFile,
        range: Range<u64>,
        holes: bool,
        written: &dyn Fn(u64),
    ) -> Result<bool> {
        timed_writing(&self.watch, written, |written| self.inner.fill_range(source, range, holes, written))
    }

    fn has_layout(&self) -> bool {
        self.inner.has_layout()
    }

    fn seal(&self) -> Result<()> {
        self.timed(Call::Close, |part| part.seal())
    }

    fn sync(&self) -> Result<()> {
        self.timed(Call::Sync, |part| part.sync())
    }

    fn publish(&self, name: &[u8]) -> Result<()> {
        self.timed(Call::Publish, |part| part.publish(name))
    }
}

impl NewEntry for Metered<dyn NewEntry> {
    fn share_with(&mut self, source: &dyn SourceFile) -> bool {
        timed(&self.watch, Call::Write, || self.inner.share_with(source))
    }

    fn has_layout(&self) -> bool {
        self.inner.has_layout()
    }

    fn sync(&mut self) -> Result<()> {
        let inner = &mut self.inner;
        timed(&self.watch, Call::Sync, || inner.sync())
    }

    fn is_owned_by(&self, uid: u32, gid: u32) -> bool {
        self.inner.is_owned_by(uid, gid)
    }

    fn fill_from(&mut self, source: &dyn SourceFile, holes: bool, written: &dyn Fn(u64)) -> Result<u64> {
        let (watch, inner) = (&self.watch, &mut self.inner);
        timed_writing(watch, written, |written| inner.fill_from(source, holes, written))
    }

    fn seal(&mut self) -> Result<()> {
        let (watch, inner) = (&self.watch, &mut self.inner);
        timed(watch, Call::Close, || inner.seal())
    }

    fn publish(self: Box<Self>, replace: bool) -> Result<Made> {
        let Metered { inner, watch } = *self;
        timed(&watch, Call::Publish, || inner.publish(replace))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Options, Side, open};
    use super::*;
    use crate::model::latency::Histogram;
    use crate::model::{JobId, Kind};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    const PAUSE: Duration = Duration::from_millis(20);

    fn metered_root(root: &[u8], side: Side, timings: &Arc<Timings>) -> Box<dyn Dir> {
        let fs = open(root, side, &Options::new(JobId::random())).unwrap_or_else(|e| panic!("{e}"));
        metered(fs, Some(timings)).open_dir(&RelPath::root()).unwrap()
    }

    fn of(timings: &Timings, call: Call) -> Histogram {
        timings.read().into_iter().find(|(one, _)| *one == call).map(|(_, times)| times).unwrap_or_default()
    }

    #[test]
    fn what_a_call_waits_for_others_is_not_its_time_and_bytes_count_once() {
        let timings = Timings::new();
        let source = metered_root(b"synth://?entries=8&depth=1&size=100000", Side::Source, &timings);
        let target = metered_root(b"null://", Side::Target, &timings);
        let mut files = Vec::new();
        let mut listed = 0;
        let list = source.list(&mut |entry| {
            std::thread::sleep(PAUSE); // the work that is meant
            listed += 1;
            files.push(entry.name.to_vec());
        });
        list.unwrap();
        files.retain(|name| source.stat(name).unwrap().kind == Kind::File);
        let times = of(&timings, Call::List);
        assert!(listed > 2 && times.count() == 1 && times.sum_ns < (listed * PAUSE).as_nanos() as u64 / 2, "{times:?}");

        let before = odometer().load(Relaxed);
        let file = source.open_file(&files[0]).unwrap();
        let mut new = target.create(b"new", New::File, false).unwrap();
        let pieces = Cell::new(0);
        let written = |_| {
            std::thread::sleep(PAUSE); // the limit that is meant
            pieces.set(pieces.get() + 1);
        };
        let filled = new.fill_from(file.as_ref(), true, &written).unwrap();
        let times = of(&timings, Call::Write);
        assert_eq!((times.count(), filled, odometer().load(Relaxed) - before), (1, 100_000, 100_000));
        assert!(of(&timings, Call::Read).count() >= u64::from(pieces.get()) && pieces.get() > 0);
        assert!(times.sum_ns < (pieces.get() * PAUSE).as_nanos() as u64, "{times:?}");
        // Reading alone counts as well.
        let mut buffer = [0; 5000];
        assert_eq!(file.read_at(0, &mut buffer), Ok(5000));
        assert_eq!(odometer().load(Relaxed) - before, 105_000);
    }

    #[test]
    fn links_are_made_as_without_the_layer_and_each_call_counts_as_what_it_is() {
        let (dir, timings) = (tempfile::tempdir().unwrap(), Timings::new());
        let path = dir.path().as_os_str().as_encoded_bytes();
        let root = metered_root(path, Side::Target, &timings);
        let source = metered_root(path, Side::Source, &timings);
        root.make_dir(b"d").unwrap();
        let below = root.open_dir(b"d").unwrap();
        std::fs::write(dir.path().join("from"), "data").unwrap();
        let mut new = root.create(b"f", New::File, false).unwrap();
        new.fill_from(source.open_file(b"from").unwrap().as_ref(), true, &|_| ()).unwrap();
        new.set_mode(0o640).unwrap();
        new.seal().unwrap();
        new.publish(false).unwrap();
        below.link(b"g", root.as_ref(), b"f", false).unwrap();
        below.move_to(b"g", root.as_ref(), b"h").unwrap();
        root.unlink(b"h").unwrap();
        assert!(root.remove_empty_dir(b"d").unwrap());
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"data");
        let counted: Vec<_> = timings.read().into_iter().map(|(call, times)| (call.word(), times.count())).collect();
        let want = [
            ("opendir", 3),
            ("open", 1),
            ("write", 1),
            ("mkdir", 1),
            ("create", 1),
            ("close", 1),
            ("publish", 1),
            ("link", 1),
            ("rename", 1),
            ("unlink", 1),
            ("rmdir", 1),
            ("chmod", 1),
        ];
        assert_eq!(counted, want);
    }

    #[test]
    fn writing_that_panics_is_over() {
        let timings = Timings::new();
        let source = metered_root(b"synth://?entries=8&depth=1&size=1000", Side::Source, &timings);
        let target = metered_root(b"null://", Side::Target, &timings);
        let mut name = Vec::new();
        source.list(&mut |entry| name = entry.name.to_vec()).unwrap();
        let file = source.open_file(&name);
        let Ok(file) = file else { panic!("{name:?} is no file") };
        let mut new = target.create(b"new", New::File, false).unwrap();
        let fill = AssertUnwindSafe(|| new.fill_from(file.as_ref(), true, &|_| panic!("as it may")));
        assert!(catch_unwind(fill).is_err());
        assert_eq!(NOT_WRITING.get(), None);
    }

    #[test]
    fn without_timings_there_is_no_layer() {
        let fs = open(b"null://", Side::Target, &Options::new(JobId::random())).unwrap();
        assert!(Arc::ptr_eq(&metered(Arc::clone(&fs), None), &fs));
    }
}
