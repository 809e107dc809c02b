//! Records of large files at work, in the hidden directory at the target's root.
//!
//! `.treehaul/parts/<key>/` holds, each made exclusively and whole: a *claim* a job (`j<job>`: which part file, cut
//! how, becomes what), an empty *mark* a finished chunk (`c<number>-...`), the names that *wait* (`w<hash>-<number>`), and
//! why the file could not be copied (`f<job>`). Invariant: a mark names its part file by a number that no other part file
//! ever has, so marks and data cannot be mixed up, whatever is removed, made anew or delivered twice.

use super::super::work::absent_is_fine;
use crate::fs::{Dir, FsError, Made, New, SourceFile, Xattrs};
use crate::model::{JobId, Kind, Metadata, Operation, RelPath, Timestamp};
use std::collections::HashSet;
use std::sync::OnceLock;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Longest text in a record, in bytes: a claim's path and what stands before it.
const MAX_TEXT_BYTES: usize = crate::model::path::MAX_PATH_BYTES + 256;

/// What a job does about a large file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Number of the part file.
    pub number: u64,
    /// Its inode number: what somebody else puts in its place is not used.
    pub ino: u64,
    /// Its name, in the directory of `path`.
    pub part: Vec<u8>,
    /// Bytes of each chunk but the last.
    pub chunk_bytes: u64,
    /// How often the source changed meanwhile.
    pub tries: u8,
    /// What it becomes.
    pub path: RelPath,
}

impl Claim {
    fn to_text(&self) -> Vec<u8> {
        let mut text =
            format!("{:x} {:x} {:x} {:x} ", self.number, self.ino, self.chunk_bytes, self.tries).into_bytes();
        text.extend_from_slice(&self.part);
        text.push(b'\n');
        text.extend_from_slice(self.path.as_bytes());
        text
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().position(|b| *b == b'\n')?;
        let mut words = std::str::from_utf8(&text[..end]).ok()?.split(' ');
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let (part_number, ino, chunk_bytes, tries) = (number()?, number()?, number()?, number()?);
        let part = words.next()?.as_bytes().to_vec();
        crate::fs::aside::part_of(&part)?;
        let path = RelPath::parse(text[end + 1..].to_vec()).ok()?;
        let tries = u8::try_from(tries).ok()?;
        (chunk_bytes > 0).then_some(Claim { number: part_number, ino, part, chunk_bytes, tries, path })
    }
}

/// This mounting of the target on this machine since it was started. The machine's name is part of it: machines made
/// from one image may share the id.
fn instance(dir: &dyn Dir) -> u64 {
    static BOOT: OnceLock<Vec<u8>> = OnceLock::new();
    let boot = BOOT.get_or_init(|| {
        let files = ["/etc/machine-id", "/proc/sys/kernel/hostname", "/proc/sys/kernel/random/boot_id"];
        files.iter().flat_map(|path| std::fs::read(path).unwrap_or_default()).collect()
    });
    let mount = dir.mount_id().unwrap_or(0).to_le_bytes();
    xxh3_64(&[boot, &mount[..]].concat()).max(1)
}

/// A chunk that is done.
struct Mark {
    chunk: u64,
    number: u64,
    /// Which mounting it was written through, whose memory may hold the data still; 0 if they are on stable storage.
    instance: u64,
}

impl Mark {
    fn name(&self) -> Vec<u8> {
        format!("c{:x}-{:x}-{:x}", self.chunk, self.number, self.instance).into_bytes()
    }

    fn parse(name: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(name.strip_prefix(b"c")?).ok()?.split('-');
        let mut word = || u64::from_str_radix(words.next()?, 16).ok();
        Some(Mark { chunk: word()?, number: word()?, instance: word()? })
    }
}

/// The record of one state of one large file.
pub struct Record {
    job: JobId,
    dir: Box<dyn Dir>,
    /// Marks are made only of what is on stable storage.
    synced: bool,
}

impl Record {
    /// As it lies in a directory that is held open.
    pub fn new(job: JobId, dir: Box<dyn Dir>, synced: bool) -> Self {
        Record { job, dir, synced }
    }

    fn claim_of(&self, job: JobId) -> Result<Option<Claim>, FsError> {
        let text = read_text(self.dir.as_ref(), format!("j{job}").as_bytes())?;
        // Text that is none of ours is a claim all the same, of no use to anybody: the record is left to the end.
        text.map(|t| Claim::parse(&t).ok_or(FsError { operation: Operation::Read, errno: libc::EBADMSG })).transpose()
    }

    /// What this job does about the file.
    pub fn claim(&self) -> Result<Option<Claim>, FsError> {
        self.claim_of(self.job)
    }

    /// What other jobs do, or did; none for a claim that cannot be read.
    pub fn other_claims(&self) -> Result<Vec<(JobId, Option<Claim>)>, FsError> {
        let mut jobs = Vec::new();
        self.dir.list(&mut |e| jobs.extend(e.name.strip_prefix(b"j").and_then(JobId::parse)))?;
        jobs.retain(|job| *job != self.job);
        Ok(jobs.into_iter().map(|job| (job, self.claim_of(job).unwrap_or(None))).collect())
    }

    /// Writes this job's claim.
    pub fn put_claim(&self, claim: &Claim, replace: bool) -> Result<Made, FsError> {
        put_text(self.dir.as_ref(), format!("j{}", self.job).as_bytes(), claim.to_text(), replace)
    }

    /// Takes this job's claim back. True for exactly one of several who try.
    pub fn drop_claim(&self) -> Result<bool, FsError> {
        self.take(format!("j{}", self.job).as_bytes())
    }

    /// Removes the claim of a job that is dead.
    pub fn drop_other(&self, job: JobId) -> Result<(), FsError> {
        absent_is_fine(self.dir.remove(format!("j{job}").as_bytes()))
    }

    fn take(&self, name: &[u8]) -> Result<bool, FsError> {
        match self.dir.remove(name) {
            Ok(()) => Ok(true),
            Err(e) if e.is_absent() => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn marks_where(&self, wanted: impl Fn(&Mark) -> bool) -> Result<Vec<Mark>, FsError> {
        let mut marks = Vec::new();
        self.dir.list(&mut |e| marks.extend(Mark::parse(e.name).filter(|m| wanted(m))))?;
        Ok(marks)
    }

    /// Chunks of a part file that are done.
    pub fn marked(&self, number: u64) -> Result<HashSet<u64>, FsError> {
        Ok(self.marks_where(|m| m.number == number)?.into_iter().map(|m| m.chunk).collect())
    }

    /// Must data be on stable storage before their chunk is marked?
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Notes that a chunk is done.
    pub fn mark(&self, chunk: u64, number: u64) -> Result<(), FsError> {
        let instance = if self.synced { 0 } else { instance(self.dir.as_ref()) };
        let name = Mark { chunk, number, instance }.name();
        match self.dir.create(&name, New::File, true) {
            Ok(mut new) => {
                new.seal()?;
                new.publish(false).map(drop)
            }
            Err(e) if e.errno == libc::EEXIST => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Removes marks of chunks whose data may have been lost: not synced, and written elsewhere, or before this
    /// mounting.
    pub fn drop_doubtful(&self) -> Result<(), FsError> {
        let here = instance(self.dir.as_ref());
        let doubtful = self.marks_where(|mark| mark.instance != 0 && mark.instance != here)?;
        doubtful.iter().try_for_each(|mark| absent_is_fine(self.dir.remove(&mark.name())))
    }

    /// Lets a name wait until the file is done. False if it is done by now, and nobody will come for the name.
    pub fn wait(&self, path: &RelPath) -> Result<bool, FsError> {
        // Each time under a name of its own: who sends a name round takes away what they read, and that may wait again by
        // then.
        let number = xxh3_64(JobId::random().to_string().as_bytes());
        let name = format!("w{:x}-{number:x}", xxh3_128(path.as_bytes())).into_bytes();
        put_text(self.dir.as_ref(), &name, path.as_bytes().to_vec(), false)?;
        if self.claim()?.is_some() {
            return Ok(true);
        }
        // Whoever took the claim back looks for waiting names after that: either they see this one, or it is still here.
        Ok(!self.take(&name)?)
    }

    /// Names that wait, and the entries of the record that say so.
    pub fn waiting(&self) -> Result<Vec<(Vec<u8>, RelPath)>, FsError> {
        let mut names = Vec::new();
        self.dir.list(&mut |e| names.extend(e.name.starts_with(b"w").then(|| e.name.to_vec())))?;
        let mut waiting = Vec::new();
        for name in names {
            let text = read_text(self.dir.as_ref(), &name)?;
            waiting.extend(text.and_then(|t| RelPath::parse(t).ok()).map(|path| (name, path)));
        }
        Ok(waiting)
    }

    /// A waiting name was taken care of.
    pub fn drop_waiting(&self, name: &[u8]) -> Result<(), FsError> {
        absent_is_fine(self.dir.remove(name))
    }

    /// Notes why the file cannot be copied; the first reason stays.
    pub fn put_failure(&self, e: FsError) -> Result<(), FsError> {
        let words = format!("{} {}", e.errno, e.operation.words());
        put_text(self.dir.as_ref(), format!("f{}", self.job).as_bytes(), words.into_bytes(), false).map(drop)
    }

    /// Why the file could not be copied: error number and words for what was tried.
    pub fn failure(&self) -> Option<FsError> {
        let text = read_text(self.dir.as_ref(), format!("f{}", self.job).as_bytes()).ok()??;
        let (errno, words) = std::str::from_utf8(&text).ok()?.split_once(' ')?;
        let operation = OPERATIONS.iter().copied().find(|o| o.words() == words).unwrap_or(Operation::Run);
        Some(FsError { operation, errno: errno.parse().ok()? })
    }

    /// Removes what belongs to one part file, and this job's note of a failure. The rest is others'.
    pub fn clear(&self, number: u64) -> Result<(), FsError> {
        for mark in self.marks_where(|m| m.number == number)? {
            absent_is_fine(self.dir.remove(&mark.name()))?;
        }
        absent_is_fine(self.dir.remove(format!("f{}", self.job).as_bytes()))
    }
}

/// What can fail while a file is copied in chunks.
const OPERATIONS: &[Operation] = &[
    Operation::OpenDirectory,
    Operation::Stat,
    Operation::Open,
    Operation::Recall,
    Operation::Read,
    Operation::SeekData,
    Operation::ListXattrs,
    Operation::GetXattr,
    Operation::SetLayout,
    Operation::Create,
    Operation::Write,
    Operation::Truncate,
    Operation::SetOwner,
    Operation::SetMode,
    Operation::SetTimes,
    Operation::SetXattr,
    Operation::Close,
    Operation::Link,
    Operation::Rename,
    Operation::Lock,
    Operation::Flush,
    Operation::GetProject,
    Operation::SetProject,
];

/// Makes a small file, whole or not at all.
fn put_text(dir: &dyn Dir, name: &[u8], text: Vec<u8>, replace: bool) -> Result<Made, FsError> {
    let mut new = dir.create(name, New::File, false).map_err(|e| {
        // In a directory that was removed, a file without a name is "not permitted" (ext4).
        let removed = e.errno == libc::EPERM && dir.metadata().is_ok_and(|m| m.nlink == 0);
        if removed { FsError { errno: libc::ENOENT, ..e } } else { e }
    })?;
    new.fill_from(&Text(text), false, &|_| ())?;
    new.seal()?;
    new.publish(replace)
}

fn read_text(dir: &dyn Dir, name: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
    let file = match dir.open_file(name) {
        Ok(file) => file,
        Err(e) if e.is_absent() => return Ok(None),
        Err(e) => return Err(e),
    };
    let size = usize::try_from(file.at_open()?.size).unwrap_or(usize::MAX).min(MAX_TEXT_BYTES);
    let mut text = vec![0; size];
    let n = file.read_at(0, &mut text)?;
    text.truncate(n);
    Ok(Some(text))
}

/// A text as the source of a file.
struct Text(Vec<u8>);

impl SourceFile for Text {
    fn drop_cache(&self, _: u64, _: u64) -> Result<(), FsError> {
        Ok(()) // there is none
    }

    fn metadata(&self) -> Result<Metadata, FsError> {
        let zero = Timestamp::default();
        let size = self.0.len() as u64;
        let (uid, gid, dev, ino, rdev, nlink) = (0, 0, 0, 0, 0, 1);
        let (kind, mode, blocks_512) = (Kind::File, 0o600, size.div_ceil(512));
        let (atime, mtime, ctime) = (zero, zero, zero);
        Ok(Metadata { kind, mode, uid, gid, size, blocks_512, nlink, dev, ino, rdev, atime, mtime, ctime })
    }

    fn xattrs(&self) -> Result<Xattrs, FsError> {
        Ok(Xattrs::new())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn next_data(&self, offset: u64, size: u64) -> Result<Option<(u64, u64)>, FsError> {
        Ok((offset < size).then_some((offset, size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(path: &[u8]) -> Claim {
        let part = crate::fs::aside::part_name(7, JobId::random(), 9);
        let path = RelPath::parse(path.to_vec()).unwrap();
        Claim { number: u64::MAX, ino: 12, part, chunk_bytes: 1 << 20, tries: 3, path }
    }

    fn record(job: JobId) -> (tempfile::TempDir, Record) {
        let dir = tempfile::tempdir().unwrap();
        let root = std::os::unix::ffi::OsStrExt::as_bytes(dir.path().as_os_str());
        let fs = crate::fs::open(root, crate::fs::Side::Target, &crate::fs::Options::new(job)).unwrap();
        (dir, Record::new(job, fs.open_dir(&RelPath::root()).unwrap(), false))
    }

    #[test]
    fn a_claim_reads_back_as_it_was_written() {
        for path in [&b"a"[..], b"d\n e/f \xff", &[b'x'; 255]] {
            let claim = claim(path);
            assert_eq!(Claim::parse(&claim.to_text()), Some(claim));
        }
        for bad in [&b""[..], b"1 2 3 4 x\na", b"1 2 0 0 .treehaul-part-x\n../a"] {
            assert_eq!(Claim::parse(bad), None);
        }
    }

    #[test]
    fn a_mark_counts_for_its_part_file_alone_and_not_after_a_crash() {
        let (_keep, record) = record(JobId::random());
        record.mark(3, 1).unwrap();
        record.mark(3, 1).unwrap();
        record.mark(4, 2).unwrap();
        assert_eq!(record.marked(1).unwrap(), HashSet::from([3]));
        let before = Mark { chunk: 5, number: 1, instance: instance(record.dir.as_ref()) ^ 1 };
        let synced = Mark { chunk: 6, number: 1, instance: 0 };
        for mark in [before, synced] {
            record.dir.create(&mark.name(), New::File, true).unwrap().publish(false).unwrap();
        }
        assert_eq!(record.marked(1).unwrap(), HashSet::from([3, 5, 6]));
        record.drop_doubtful().unwrap();
        assert_eq!(record.marked(1).unwrap(), HashSet::from([3, 6]));
        record.clear(1).unwrap();
        assert_eq!((record.marked(1).unwrap(), record.marked(2).unwrap()), (HashSet::new(), HashSet::from([4])));
    }

    #[test]
    fn a_name_waits_only_as_long_as_somebody_will_come_for_it() {
        let (_keep, record) = record(JobId::random());
        let path = RelPath::parse(b"d/name".to_vec()).unwrap();
        assert_eq!(record.wait(&path), Ok(false));
        assert_eq!(record.waiting(), Ok(Vec::new()));
        assert_eq!(record.put_claim(&claim(b"other"), false), Ok(Made::New));
        assert_eq!(record.put_claim(&claim(b"third"), false), Ok(Made::Existed));
        assert_eq!(record.wait(&path), Ok(true));
        let first = record.waiting().unwrap();
        assert_eq!(first.len(), 1);
        // Sent round, it comes to wait again before it is taken off.
        assert_eq!(record.wait(&path), Ok(true));
        record.drop_waiting(&first[0].0).unwrap();
        assert_eq!(record.waiting().unwrap().into_iter().map(|(_, path)| path).collect::<Vec<_>>(), [path]);
        assert_eq!((record.drop_claim(), record.drop_claim()), (Ok(true), Ok(false)));
    }
}
