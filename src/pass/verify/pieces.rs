//! Large files: their pieces are shared out, and what becomes of the file is told by all of them together.

use super::contents::{self, Reader};
use super::look::Look;
use super::{HALVES, Pair, Scope, Trouble, VerifyPass, finding, list_failure, mark_state};
use crate::broker::Stopped;
use crate::fs::{Dir, SourceFile};
use crate::model::fingerprint::PIECE_BYTES;
use crate::model::task::{Names, Part};
use crate::model::{Half, Metadata, Queue, RelPath, State, Task};
use crate::pass::Run;

/// Most pieces in one task: 4 GiB, some seconds to a minute.
const MAX_PIECES: u64 = 16;

/// A file whose contents are still to be looked at.
pub(super) struct Large(Task);

impl Large {
    /// All pieces of a file that both trees have at one size, or that the only tree has.
    pub fn of(pair: &Pair, name: &[u8], look: &Look, scope: Scope) -> Self {
        let Metadata { size, mtime, ctime, ino, .. } = look.metadata;
        let count = size.div_ceil(PIECE_BYTES);
        let part = Part { key: 0, number: 0, size, mtime, ctime, ino, first: 0, count };
        Large(task(&pair.path, name, scope, part))
    }

    pub fn post(self, run: &mut Run<'_>) -> Result<(), Stopped> {
        run.ticket.post(self.0)
    }
}

fn task(dir: &RelPath, name: &[u8], scope: Scope, part: Part) -> Task {
    let mut names = Names::default();
    let _ = names.push(scope.0, name); // was checked when it got here
    Task::Chunk { dir: dir.clone(), name: names, part }
}

/// A file, open where it is to be read.
type Files = Vec<(Half, Box<dyn SourceFile>, Metadata)>;

impl VerifyPass {
    /// Looks at some pieces of a file.
    pub(super) fn pieces(&self, dir: &RelPath, name: &Names, part: &Part, run: &mut Run<'_>) -> Result<(), Stopped> {
        let Some((bits, name)) = name.iter().next() else { return Ok(()) };
        let scope = self.scope(bits);
        let path = || dir.display_join(name);
        let done = self.open_files(dir, name, scope).and_then(|files| {
            // Not as it was when its attributes were compared.
            let is_changed = |(half, _, m): &(Half, Box<dyn SourceFile>, Metadata)| {
                m.size != part.size || (*half == Half::Source && (m.mtime, m.ino) != (part.mtime, part.ino))
            };
            if files.iter().any(is_changed) {
                run.report.findings.push(finding(
                    path(),
                    "contents",
                    "the same bytes",
                    "changed while it was compared",
                ));
                mark_state(path(), State::Differs, run);
                return Ok(Ok(()));
            }
            self.compare_pieces(dir, name, scope, part, &files, run)
        });
        match done {
            Ok(done) => done,
            Err(trouble) => {
                let state = if trouble.is_absent() { State::Vanished } else { State::Failed };
                mark_state(path(), state, run);
                list_failure(path(), trouble, &mut run.report);
                Ok(())
            }
        }
    }

    fn open_files(&self, dir: &RelPath, name: &[u8], scope: Scope) -> Result<Files, Trouble> {
        let pair = self.open_pair(dir, scope)?;
        let open = |half: Half, dir: &dyn Dir| {
            let file = dir.open_file(name)?;
            let metadata = file.at_open()?;
            Ok((half, file, metadata))
        };
        let halves = HALVES.into_iter().filter_map(|half| pair.dir(half).map(|dir| (half, dir)));
        halves.map(|(half, dir)| open(half, dir).map_err(Trouble::new(half))).collect()
    }

    fn compare_pieces(
        &self,
        dir: &RelPath,
        name: &[u8],
        scope: Scope,
        part: &Part,
        files: &Files,
        run: &mut Run<'_>,
    ) -> Result<Result<(), Stopped>, Trouble> {
        let mut readers: Vec<Reader<'_>> = files.iter().map(|(h, f, m)| Reader::new(*h, f.as_ref(), m)).collect();
        let mut end = part.first.saturating_add(part.count).min(part.size.div_ceil(PIECE_BYTES));
        let mut at = part.first;
        let mut differs = None;
        let mut scratch = Vec::new();
        // Pieces that are holes in every file are passed over, however many.
        while let Some(data) = contents::data_from(&mut readers, at.saturating_mul(PIECE_BYTES))? {
            at = at.max(data / PIECE_BYTES);
            if at >= end {
                break;
            }
            let mut given = Vec::new();
            while end - at > MAX_PIECES {
                let middle = at + (end - at) / 2;
                given.push(Part { first: middle, count: end - middle, ..*part });
                end = middle;
            }
            if end - at > 1 && given.is_empty() && (run.ticket.is_hungry(Queue::Files) || run.turn.is_over()) {
                given.push(Part { first: at + 1, count: end - at - 1, ..*part });
                end = at + 1;
            }
            for part in given {
                if let Err(stopped) = run.ticket.post(task(dir, name, scope, part)) {
                    return Ok(Err(stopped));
                }
            }
            let seen = self.one_piece(&mut readers, at, part.size)?;
            run.report.totals.bytes_read += seen.read;
            let digests = if scope.is_both() { seen.digests } else { [seen.digests[0]; 2] };
            self.add_piece(dir, name, at, scope, digests, &mut scratch, run);
            differs = differs.or(seen.differs_at).or(seen.short.then_some(part.size));
            at += 1;
        }
        if let Some(byte) = differs {
            let path = dir.display_join(name);
            let found = format!("others from byte {byte} on");
            run.report.findings.push(finding(path.clone(), "contents", "the same bytes", found));
            mark_state(path, State::Differs, run);
        }
        Ok(Ok(()))
    }

    fn one_piece(&self, readers: &mut [Reader<'_>], piece: u64, size: u64) -> Result<contents::Piece, Trouble> {
        let start = piece.saturating_mul(PIECE_BYTES);
        let bytes = PIECE_BYTES.min(size.saturating_sub(start));
        let drop_cache = |readers: &[Reader<'_>]| match self.policy.verify.no_cache {
            true => readers.iter().try_for_each(|r| r.drop_cache(start, bytes)),
            false => Ok(()),
        };
        drop_cache(readers)?;
        let seen = contents::piece(readers, piece)?;
        drop_cache(readers)?;
        Ok(seen)
    }
}
