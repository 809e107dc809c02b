//! Large files: cut into chunks, so that several actors and nodes write one, and a kill costs a chunk and not the file.
//!
//! The actor that meets a large file claims its record (see [`record`]), makes a hidden *part file* beside the final
//! name and posts the chunks. Whoever completes the set of marks finalises: attributes, checked close, a last look at
//! the source, rename. A later job finds the record by the state of the source and goes on with the chunks that
//! have no mark. Invariant: a chunk is written only under its range's lock, while the claim names the part file and
//! the part file has its name; the finaliser holds the lock on all of it until the claim is gone. So nobody writes
//! into a file that was published, however late they wake up.

mod chunk;
mod finalise;
mod record;

pub use record::{Claim, Record};

use super::entry::{End, Names};
use super::layouts::{Plan, aligned, stripe_bytes};
use super::work::{absent_is_fine, remove_quietly};
use super::{CopyPass, Pair, Trouble};
use crate::broker::Stopped;
use crate::fs::{Class, FsError, Made, PartFile, aside};
use crate::model::policy::CHUNK_ALIGN_BYTES;
use crate::model::task::{Entries, Entry, Part, tag};
use crate::model::{JobId, Kind, Metadata, RelPath, Task, Totals};
use crate::pass::Run;
use std::collections::HashSet;
use std::time::Duration;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Under a limit on bytes, a chunk takes one actor alone so long, in seconds.
const SLOW_SECONDS: u64 = 4;
/// Most chunks of a file: a record stays small, and chunks of huge files grow.
const MAX_CHUNKS: u64 = 4096;
/// So much is copied in one task, in bytes, where chunks are smaller.
const TASK_BYTES: u64 = 16 << 20;
/// A file that keeps changing is copied so often before it is left as it is.
const MAX_TRIES: u8 = 3;
/// Two workers that meet at one record go round at most so often.
const MAX_ROUNDS: u32 = 16;
/// A file with less than this share of its size on the disk is taken for sparse rather than compressed.
const SPARSE_SHARE: u64 = 8;
/// How long somebody else's lock is waited for. Whoever holds one longer is stopped or cut off; the file is begun
/// anew then, and what they still write goes nowhere.
const LOCK_PATIENCE: Duration = Duration::from_secs(600);

/// A large file that is worked on: everything held open.
struct Chunked<'a> {
    pair: &'a Pair,
    name: &'a [u8],
    record: &'a Record,
    claim: &'a Claim,
    part: &'a Part,
}

impl Chunked<'_> {
    fn names(&self) -> Names<'_> {
        Names { source: self.name, target: self.name }
    }

    fn chunks(&self) -> u64 {
        self.part.size.div_ceil(self.claim.chunk_bytes)
    }

    fn is_steady(&self) -> bool {
        self.claim.tries < MAX_TRIES
    }

    /// The part file, if it is the one that the claim means; none if it is not, or not any more.
    fn open(&self) -> Result<Option<Box<dyn PartFile>>, FsError> {
        open_part(self.pair.target.as_ref(), self.claim, self.part.size)
    }
}

fn open_part(dir: &dyn crate::fs::Dir, claim: &Claim, size: u64) -> Result<Option<Box<dyn PartFile>>, FsError> {
    let part = match dir.open_part(&claim.part) {
        Ok(part) => part,
        Err(e)
            if matches!(e.class(), Class::Vanished | Class::OtherKind)
                || matches!(e.errno, libc::ESTALE | libc::ENXIO | libc::EACCES) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let m = part.metadata()?;
    Ok(((m.ino, m.size) == (claim.ino, size)).then_some(part))
}

impl CopyPass {
    /// Is a file large enough to be cut up? Holes do not count.
    pub(super) fn is_large(&self, source: &Metadata) -> bool {
        let chunks = &self.policy.chunks;
        let on_disk = source.blocks_512.saturating_mul(512);
        let is_sparse = self.policy.holes && on_disk < source.size / SPARSE_SHARE;
        let data = if is_sparse { on_disk } else { source.size };
        let is_kept = !self.target.forgets && !self.policy.dry_run;
        is_kept && data >= chunks.from_bytes && source.size > chunks.chunk_bytes && source.ino != 0
    }

    /// Names the state of a file: the same for every job, every node and every name of the inode.
    fn part_key(&self, source: &Metadata) -> u128 {
        let dev = if source.dev == self.source_dev { 0 } else { source.dev };
        let mut hash = Xxh3::new();
        for n in [source.ino, dev, source.size, u64::from(self.policy.holes)] {
            hash.update(&n.to_le_bytes());
        }
        for t in [source.mtime, source.ctime] {
            hash.update(&t.sec.to_le_bytes());
            hash.update(&t.ns.to_le_bytes());
        }
        hash.digest128()
    }

    /// Bytes of each chunk but the last of a file that is striped by so many.
    fn chunk_bytes(&self, size: u64, stripe_bytes: u64) -> u64 {
        let least = size.div_ceil(MAX_CHUNKS).next_multiple_of(CHUNK_ALIGN_BYTES);
        // Of what a slow node shares out among its actors a chunk must still be done long before a broker takes it for lost.
        let rates = self.policy.limits.bytes_per_second.into_iter().chain(self.roots.target.bytes_per_second());
        let slow = rates.min().map_or(u64::MAX, |rate| rate.saturating_mul(SLOW_SECONDS));
        let bytes = self.policy.chunks.chunk_bytes.min(slow).max(1).next_multiple_of(CHUNK_ALIGN_BYTES).max(least);
        aligned(bytes, stripe_bytes)
    }

    /// Has a large file copied by everybody. False if that is not possible here, and the caller has to do it.
    ///
    /// Idempotent: who comes again finds the claim, and posts what has no mark.
    pub(super) fn hand_out(
        &self,
        pair: &Pair,
        names: Names<'_>,
        source: &Metadata,
        tries: u8,
        run: &mut Run<'_>,
    ) -> Result<bool, End> {
        let key = self.part_key(source);
        let Ok(path) = pair.path.join(names.target) else { return Ok(false) };
        for _ in 0..MAX_ROUNDS {
            match self.try_hand_out(pair, &path, key, source, tries, run) {
                Ok(Some(out)) => return Ok(out),
                Ok(None) => {}
                // Somebody ended the record at this moment.
                Err(End::Trouble(Trouble::Target(e))) if e.is_absent() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    /// One round; none if it has to be tried again.
    fn try_hand_out(
        &self,
        pair: &Pair,
        path: &RelPath,
        key: u128,
        source: &Metadata,
        tries: u8,
        run: &mut Run<'_>,
    ) -> Result<Option<bool>, End> {
        let record = match self.work.record(key, true) {
            Ok(record) => record,
            Err(e) if e.is_absent() => return Ok(None),
            Err(e) => {
                tracing::debug!(error = %e, "no place for the record of a large file");
                return Ok(Some(false));
            }
        };
        let Some(claim) = record.claim().map_err(Trouble::Target)? else {
            return match self.claim(pair, path, key, &record, source, tries) {
                Ok(claimed) => Ok(if claimed { None } else { Some(false) }),
                // No part files here.
                Err(End::Trouble(Trouble::Target(e))) if e.errno == libc::EOPNOTSUPP => {
                    self.work.remove_record(key).map_err(Trouble::Target)?;
                    Ok(Some(false))
                }
                Err(e) => Err(e),
            };
        };
        if claim.path != *path {
            return Ok(record.wait(path).map_err(Trouble::Target)?.then_some(true));
        }
        let (_, Some(name)) = path.split_last() else { return Ok(Some(false)) };
        let part = part_of(key, claim.number, source);
        let at = Chunked { pair, name, record: &record, claim: &claim, part: &part };
        match self.drive(&at, source, run) {
            // It is claimed, so it is listed at the end.
            Err(End::Trouble(trouble)) if !trouble.error().is_absent() => {
                self.work.put_failure(key, &record, trouble.error());
            }
            other => other?,
        }
        Ok(Some(true))
    }

    /// Claims a record that this job has not claimed. False if another job is at work on it.
    fn claim(
        &self,
        pair: &Pair,
        path: &RelPath,
        key: u128,
        record: &Record,
        source: &Metadata,
        tries: u8,
    ) -> Result<bool, End> {
        let others = record.other_claims().map_err(Trouble::Target)?;
        if others.iter().any(|(job, _)| !self.work.is_dead(*job)) {
            return Ok(false);
        }
        let plan = self.plan_large(pair, path, source);
        let is_of_use = |c: &Claim| {
            self.find_part(c, source.size).is_some_and(|dir| self.is_as_planned(&plan, dir.as_ref(), &c.part))
        };
        let left = others.into_iter().filter_map(|(_, claim)| claim).find(is_of_use);
        if let Some(left) = left {
            // What a killed job did for any name of the inode is this one's start.
            let claim = Claim { path: path.clone(), tries, ..left };
            record.put_claim(&claim, false).map_err(Trouble::Target)?;
            return Ok(true);
        }
        self.begin(pair, path, key, record, source, tries, &plan).map(|()| true)
    }

    /// Makes a part file, and claims the record for it.
    #[allow(clippy::too_many_arguments)] // all that is known of a file
    fn begin(
        &self,
        pair: &Pair,
        path: &RelPath,
        key: u128,
        record: &Record,
        source: &Metadata,
        tries: u8,
        plan: &Plan,
    ) -> Result<(), End> {
        let number = xxh3_64(JobId::random().to_string().as_bytes());
        let name = aside::part_name(key, self.work.job(), number);
        let part = pair.target.make_part(&name, source.size, plan.layout()).map_err(Trouble::Target)?;
        let ino = part.metadata().map_err(Trouble::Target)?.ino;
        // What cannot be set is found out, and said, by the finaliser.
        if let Some(name) = path.split_last().1
            && let Ok(project) = self.new_project(pair, Kind::File, || pair.source.project(name))
        {
            let _ = project.set_on(part.as_ref(), &mut Totals::default());
        }
        let stripe_bytes = stripe_bytes(plan, part.as_ref(), pair.target.as_ref(), &name);
        let chunk_bytes = self.chunk_bytes(source.size, stripe_bytes);
        let claim = Claim { number, ino, part: name, chunk_bytes, tries, path: path.clone() };
        let put = record.put_claim(&claim, false);
        if put != Ok(Made::New) {
            // Another name's actor was faster, or the record is gone.
            absent_is_fine(pair.target.remove(&claim.part)).map_err(Trouble::Target)?;
        }
        put.map(drop).map_err(|e| End::Trouble(Trouble::Target(e)))
    }

    /// The directory where a claim's part file lies, if it is there and can be used.
    fn find_part(&self, claim: &Claim, size: u64) -> Option<Box<dyn crate::fs::Dir>> {
        let dir = self.roots.target.open_dir(&claim.path.split_last().0).ok()?;
        let found = open_part(dir.as_ref(), claim, size).ok()?;
        found.map(|_| dir)
    }

    /// Gets a claimed file going: its part file into place, its missing chunks posted.
    fn drive(&self, at: &Chunked<'_>, source: &Metadata, run: &mut Run<'_>) -> Result<(), End> {
        if !self.place_part(at).map_err(Trouble::Target)? {
            return self.begin_anew(at, source, run);
        }
        self.drop_others(at).map_err(Trouble::Target)?;
        at.record.drop_doubtful().map_err(Trouble::Target)?;
        Ok(self.post_chunks(at, run)?)
    }

    /// Moves the part file here, if another name's directory has it. False if it is not to be had.
    fn place_part(&self, at: &Chunked<'_>) -> Result<bool, FsError> {
        if at.open()?.is_some() {
            return Ok(true);
        }
        for (_, left) in at.record.other_claims()? {
            let Some(left) = left.filter(|l| l.number == at.claim.number) else { continue };
            let Some(dir) = self.find_part(&left, at.part.size) else { continue };
            let moved = at.pair.target.link(&left.part, dir.as_ref(), &left.part, false);
            if moved.and_then(|()| remove_quietly(dir.as_ref(), &left.part)).is_ok() && at.open()?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the claims of dead jobs, with part files that are of no more use.
    fn drop_others(&self, at: &Chunked<'_>) -> Result<(), FsError> {
        for (job, left) in at.record.other_claims()? {
            if !self.work.is_dead(job) {
                continue;
            }
            if let Some(left) = left.filter(|l| l.number != at.claim.number)
                && let Ok(dir) = self.roots.target.open_dir(&left.path.split_last().0)
            {
                remove_quietly(dir.as_ref(), &left.part)?;
            }
            at.record.drop_other(job)?;
        }
        Ok(())
    }

    /// The part file is of no use, or somebody who does not answer holds it: it is given up, and the name is looked at
    /// again from the start. Unless the file was just published.
    fn begin_anew(&self, at: &Chunked<'_>, source: &Metadata, run: &mut Run<'_>) -> Result<(), End> {
        if at.pair.target.stat(at.name).is_ok_and(|m| m.ino == at.claim.ino && m.size == at.part.size) {
            return self.settle(at, source, run);
        }
        if self.give_up(at, run)? {
            self.post_again(&at.claim.path, run)?;
        }
        Ok(())
    }

    /// Posts the chunks as one task, which hands on its rest before it begins: so actors take different files first, and
    /// share one when there are too few; writers of one file would wait for each other.
    fn post_chunks(&self, at: &Chunked<'_>, run: &mut Run<'_>) -> Result<(), Stopped> {
        post_part(&at.pair.path, at.name, Part { first: 0, count: at.chunks(), ..*at.part }, run)
    }

    /// Has a name looked at again from the start.
    fn post_again(&self, path: &RelPath, run: &mut Run<'_>) -> Result<(), Stopped> {
        let (dir, Some(name)) = path.split_last() else { return Ok(()) };
        let mut entries = Entries::default();
        let _ = entries.push(&Entry { name, kind: None, metadata: None }); // a component of a path
        run.ticket.post(Task::Batch { dir, entries, tag: tag::ALL })
    }

    /// The state of the source changed under our hands: what was done is given up, and it is copied in its new state.
    fn restart(&self, at: &Chunked<'_>, run: &mut Run<'_>) -> Result<(), End> {
        let mut now = at.pair.source.stat(at.name);
        if now.as_ref().is_ok_and(|m| self.outwait(m.mtime)) {
            now = at.pair.source.stat(at.name);
        }
        if !self.give_up(at, run)? {
            return Ok(()); // exactly one of those who notice begins anew
        }
        let out = match now {
            Err(e) if e.is_absent() => {
                run.report.totals.vanished += 1;
                return Ok(());
            }
            Ok(now) if now.kind == Kind::File && self.is_large(&now) => {
                self.hand_out(at.pair, at.names(), &now, at.claim.tries + 1, run)
            }
            _ => Ok(false),
        };
        match out {
            Ok(true) => Ok(()),
            Err(End::Stopped) => Err(End::Stopped),
            // Whoever looks at it from the start says what is wrong with it.
            Ok(false) | Err(End::Trouble(_)) => Ok(self.post_again(&at.claim.path, run)?),
        }
    }

    /// Takes the claim back, and with it everything that was done. True for exactly one of several who do.
    fn give_up(&self, at: &Chunked<'_>, run: &mut Run<'_>) -> Result<bool, End> {
        let first = at.record.drop_claim().map_err(Trouble::Target)?;
        if first && let Err(e) = at.pair.target.remove(&at.claim.part) {
            tracing::debug!(error = %e, "a part file is left to the next run");
        }
        match self.release(at.part.key, at.record, at.claim.number, run) {
            Err(End::Stopped) => Err(End::Stopped),
            _ => Ok(first),
        }
    }

    /// After the claim is gone: names that waited go round again, and the record is removed.
    fn release(&self, key: u128, record: &Record, number: u64, run: &mut Run<'_>) -> Result<(), End> {
        match self.try_release(key, record, number, run) {
            Err(End::Trouble(trouble)) if trouble.error().is_absent() => Ok(()), // somebody else did
            other => other,
        }
    }

    fn try_release(&self, key: u128, record: &Record, number: u64, run: &mut Run<'_>) -> Result<(), End> {
        for _ in 0..MAX_ROUNDS {
            // Whoever claimed it meanwhile looks after those who wait.
            if record.claim().map_err(Trouble::Target)?.is_some() {
                return Ok(());
            }
            let mut sent = HashSet::new();
            for (entry, path) in record.waiting().map_err(Trouble::Target)? {
                // One that waits twice, since its task ran twice, goes round once.
                if sent.insert(path.clone()) {
                    self.post_again(&path, run)?;
                }
                record.drop_waiting(&entry).map_err(Trouble::Target)?;
            }
            record.clear(number).map_err(Trouble::Target)?;
            if self.work.remove_record(key).map_err(Trouble::Target)? {
                return Ok(());
            }
        }
        Ok(()) // another job's claim: the record is theirs
    }
}

fn part_of(key: u128, number: u64, source: &Metadata) -> Part {
    let Metadata { size, mtime, ctime, ino, .. } = *source;
    Part { key, number, size, mtime, ctime, ino, first: 0, count: 0 }
}

fn post_part(dir: &RelPath, name: &[u8], part: Part, run: &mut Run<'_>) -> Result<(), Stopped> {
    let mut names = crate::model::task::Names::default();
    let _ = names.push(0, name); // a component of a path
    run.ticket.post(Task::Chunk { dir: dir.clone(), name: names, part })
}
