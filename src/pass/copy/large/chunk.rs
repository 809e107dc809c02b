//! One task's chunks: copied, marked, and the file finalised by whoever marks the last.

use super::super::entry::{End, Outcome};
use super::super::work::remove_quietly;
use super::super::{CopyPass, Trouble};
use super::{Chunked, LOCK_PATIENCE, MAX_ROUNDS, Record, TASK_BYTES, post_part};
use crate::broker::Stopped;
use crate::fs::{Class, FsError, PartFile, SourceFile};
use crate::model::task::{Names, Part};
use crate::model::{Kind, RelPath, Report, Totals};
use crate::pass::Run;
use crate::pass::copy::Pair;
use std::cell::{Cell, RefCell};

/// Progress is told every so many bytes.
const TELL_BYTES: u64 = 64 << 20;

/// How the work on a file goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// As it should.
    On,
    /// The source is not in the state that the chunks belong to.
    Changed,
    /// The part file is gone or of no use, or somebody does not let go of it.
    Lost,
    /// Somebody else ended it.
    Over,
}

impl CopyPass {
    /// Works on some chunks of a large file.
    pub(crate) fn chunk(&self, dir: &RelPath, names: &Names, part: &Part, run: &mut Run<'_>) -> Result<(), Stopped> {
        let Some((_, name)) = names.iter().next() else { return Ok(()) };
        let mut trouble = None;
        for _ in 0..MAX_ROUNDS {
            let record = match self.work.record(part.key, false) {
                Ok(record) => record,
                Err(e) if e.is_absent() => return self.unclaimed(dir, name, part, run),
                Err(e) => return self.fail(dir.display_join(name), Trouble::Target(e), run),
            };
            match self.try_chunk(dir, name, &record, part, run) {
                Ok(()) => return Ok(()),
                Err(End::Stopped) => return Err(Stopped),
                // The record, or the directory, was removed at this moment.
                Err(End::Trouble(Trouble::Target(e))) if e.is_absent() => trouble = Some((record, e)),
                Err(End::Trouble(t)) => return self.fail_chunk(dir, name, &record, part, t, run),
            }
        }
        let Some((record, e)) = trouble else { return Ok(()) };
        self.fail_chunk(dir, name, &record, part, Trouble::Target(e), run)
    }

    fn try_chunk(
        &self,
        dir: &RelPath,
        name: &[u8],
        record: &Record,
        part: &Part,
        run: &mut Run<'_>,
    ) -> Result<(), End> {
        let claim = match record.claim().map_err(Trouble::Target)? {
            Some(claim) if claim.number == part.number && claim.path.as_bytes() == dir.display_join(name) => claim,
            Some(_) => return Ok(()), // begun anew, perhaps for another name: who did that posted the chunks
            None => {
                self.release(part.key, record, part.number, run)?;
                return Ok(self.unclaimed(dir, name, part, run)?);
            }
        };
        let pair = self.open_pair(dir)?;
        let at = Chunked { pair: &pair, name, record, claim: &claim, part };
        let source = match pair.source.open_file(name) {
            Ok(source) => source,
            // It became something else: it is looked at as what it is.
            Err(e) if e.class() == Class::OtherKind => {
                if self.give_up(&at, run)? {
                    self.post_again(&claim.path, run)?;
                }
                return Ok(());
            }
            Err(e) if e.is_absent() => {
                if self.give_up(&at, run)? {
                    run.report.totals.vanished += 1;
                }
                return Ok(());
            }
            Err(e) if self.skips(&e) => {
                if self.give_up(&at, run)? {
                    Outcome::Released.count(&mut run.report.totals);
                }
                return Ok(());
            }
            Err(e) => return Err(Trouble::Source(e).into()),
        };
        match self.copy_chunks(&at, source.as_ref(), run)? {
            Flow::On | Flow::Over => Ok(()),
            Flow::Changed => self.restart(&at, run),
            Flow::Lost => {
                let now = source.metadata().map_err(Trouble::Source)?;
                self.begin_anew(&at, &now, run)
            }
        }
    }

    /// A chunk of a file that nobody claims: it is done, or given up; or who gave it up died before they said so, and
    /// it is looked at again from the start.
    fn unclaimed(&self, dir: &RelPath, name: &[u8], part: &Part, run: &mut Run<'_>) -> Result<(), Stopped> {
        let Ok(path) = dir.join(name) else { return Ok(()) };
        let (source, target) = match self.open_pair(dir) {
            Ok(Pair { source, target, .. }) => (source, target),
            Err(trouble) if trouble.is_vanished() => return Ok(()),
            Err(_) => return self.post_again(&path, run),
        };
        let source = match source.stat(name) {
            Ok(source) => source,
            Err(e) if e.is_absent() => return Ok(()),
            Err(_) => return self.post_again(&path, run),
        };
        if !part.is_of(&source) && !run.redelivered {
            return Ok(()); // its new state is in others' hands
        }
        let is_right = target.stat(name).is_ok_and(|m| {
            let same_time = !self.policy.times || super::super::attributes::same_mtime(&source, &m, &self.target);
            m.kind == Kind::File && m.size == source.size && same_time
        });
        if is_right { Ok(()) } else { self.post_again(&path, run) }
    }

    /// Notes why a file cannot be copied. It is listed once, at the end, and what was done stays for the next job.
    fn fail_chunk(
        &self,
        dir: &RelPath,
        name: &[u8],
        record: &Record,
        part: &Part,
        trouble: Trouble,
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        if trouble.is_vanished() {
            // The directory is gone from the source, and the file with it.
            let claim = record.claim().unwrap_or(None).filter(|c| c.number == part.number);
            if let Some(claim) = claim.filter(|_| record.drop_claim().unwrap_or(false)) {
                run.report.totals.vanished += 1;
                let removed = self.roots.target.open_dir(dir).and_then(|d| remove_quietly(d.as_ref(), &claim.part));
                tracing::debug!(removed = removed.is_ok(), "the directory of a large file vanished");
            }
            return match self.release(part.key, record, part.number, run) {
                Err(End::Stopped) => Err(Stopped),
                _ => Ok(()),
            };
        }
        if !record.claim().is_ok_and(|claim| claim.is_some_and(|c| c.number == part.number)) {
            return self.fail(dir.display_join(name), trouble, run);
        }
        self.work.put_failure(part.key, record, trouble.error());
        // Counted for a full target like any entry, but not as one: the file is listed at the end.
        let before = std::mem::take(&mut run.report);
        let done = self.fail(dir.display_join(name), trouble, run);
        let Report { abort, .. } = std::mem::replace(&mut run.report, before);
        run.report.abort = run.report.abort.take().or(abort);
        done
    }

    /// Copies the chunks of a task that have no mark, and finalises the file if nothing is left then.
    fn copy_chunks(&self, at: &Chunked<'_>, source: &dyn SourceFile, run: &mut Run<'_>) -> Result<Flow, End> {
        let state = source.at_open().map_err(Trouble::Source)?;
        if at.is_steady() && !at.part.is_of(&state) {
            return Ok(Flow::Changed);
        }
        let Some(file) = at.open().map_err(Trouble::Target)? else { return Ok(Flow::Lost) };
        let marked = at.record.marked(at.claim.number).map_err(Trouble::Target)?;
        let end = at.part.first.saturating_add(at.part.count).min(at.chunks());
        let mut missing = (at.part.first..end).filter(|chunk| !marked.contains(chunk));
        let group = usize::try_from(TASK_BYTES / at.claim.chunk_bytes).unwrap_or(1).max(1);
        let mine: Vec<u64> = missing.by_ref().take(group).collect();
        if let Some(first) = missing.next() {
            post_part(&at.pair.path, at.name, Part { first, count: end - first, ..*at.part }, run)?;
        }
        for (i, chunk) in mine.iter().copied().enumerate() {
            if i > 0 && run.turn.is_over() {
                let last = mine.last().map_or(chunk, |last| *last);
                let rest = Part { first: chunk, count: last - chunk + 1, ..*at.part };
                post_part(&at.pair.path, at.name, rest, run)?;
                return Ok(Flow::On);
            }
            match self.copy_chunk(at, source, file.as_ref(), chunk, run)? {
                Flow::On => {}
                flow => return Ok(flow),
            }
        }
        let marked = at.record.marked(at.claim.number).map_err(Trouble::Target)?;
        if marked.len() as u64 >= at.chunks() { self.finalise(at, source, file.as_ref(), run) } else { Ok(Flow::On) }
    }

    fn copy_chunk(
        &self,
        at: &Chunked<'_>,
        source: &dyn SourceFile,
        file: &dyn PartFile,
        chunk: u64,
        run: &mut Run<'_>,
    ) -> Result<Flow, End> {
        let start = chunk * at.claim.chunk_bytes;
        let end = (start + at.claim.chunk_bytes).min(at.part.size);
        let _lock = match file.lock(start, end - start, LOCK_PATIENCE) {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return Ok(Flow::Lost),
            Err(e) => no_lock(e),
        };
        if !self.is_current(at)? {
            return Ok(Flow::Over);
        }
        if at.record.marked(at.claim.number).map_err(Trouble::Target)?.contains(&chunk) {
            return Ok(Flow::On); // somebody else had the same task
        }
        let whole = self.fill_chunk(source, file, start..end, run)?;
        if !whole && at.is_steady() {
            return Ok(Flow::Changed);
        }
        // What the system held back comes out now: a mark is for good.
        if at.record.is_synced() {
            file.sync().map_err(Trouble::Target)?;
        }
        file.seal().map_err(Trouble::Target)?;
        at.record.mark(chunk, at.claim.number).map_err(Trouble::Target)?;
        self.wrote(end - start);
        Ok(Flow::On)
    }

    /// Looked at under a lock: does the claim still name the part file, and has that still its name? Not after it was
    /// published or given up.
    pub(super) fn is_current(&self, at: &Chunked<'_>) -> Result<bool, Trouble> {
        let claim = at.record.claim().map_err(Trouble::Target)?;
        if claim.is_none_or(|c| c.number != at.claim.number) {
            return Ok(false);
        }
        match at.pair.target.stat(&at.claim.part) {
            Ok(m) => Ok(m.ino == at.claim.ino),
            Err(e) if e.is_absent() => Ok(false),
            Err(e) => Err(Trouble::Target(e)),
        }
    }

    /// Copies one range, telling progress as it goes. False if the source ended before.
    fn fill_chunk(
        &self,
        source: &dyn SourceFile,
        file: &dyn PartFile,
        range: std::ops::Range<u64>,
        run: &mut Run<'_>,
    ) -> Result<bool, Trouble> {
        let untold = Cell::new(0);
        let teller = RefCell::new(&mut *run);
        let written = |n: u64| {
            untold.set(untold.get() + n);
            if untold.get() >= TELL_BYTES {
                let totals = Totals { bytes_copied: untold.take(), ..Totals::default() };
                teller.borrow_mut().tell(Report { totals, ..Report::default() });
            }
        };
        let filled = file.fill_range(source, range, self.policy.holes, &written);
        run.report.totals.bytes_copied += untold.get();
        filled.map_err(Trouble::of_filling)
    }
}

/// A filesystem without locks only loses that two never write one range at the same time: both write the same.
pub(super) fn no_lock<T>(e: FsError) -> Option<T> {
    tracing::debug!(error = %e, "a part file cannot be locked");
    None
}
