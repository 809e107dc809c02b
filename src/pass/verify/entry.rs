//! Entries, one by one: look at both sides, compare, count.

use super::contents::{self, Reader};
use super::differences::{differences, list_kinds};
use super::look::Look;
use super::pieces::Large;
use super::{HALVES, Pair, Scope, Trouble, VerifyPass, add_sum, evidence, finding, mark_state};
use crate::broker::Stopped;
use crate::fs::Class;
use crate::model::fingerprint::{PIECE_BYTES, Sum, encode_piece, path_hash};
use crate::model::task::{Entries, Entry, tag};
use crate::model::{Finding, Half, Kind, Metadata, Queue, RelPath, State, Task, Totals};
use crate::pass::Run;

/// A difference is looked at again so often, if the entry was being changed.
const MAX_TRIES: u32 = 3;
/// The rest of a batch is given to others after so many bytes of contents.
const SHARE_BYTES: u64 = 64 << 20;
/// How often it is looked whether others wait, in entries.
const SHARE_EVERY: usize = 32;

/// Where an entry is counted; none if it is already, or will be later.
pub(super) type Count = fn(&mut Totals) -> &mut u64;

/// Buffers that are used again for each entry.
#[derive(Default)]
pub(super) struct Scratch {
    elements: [Vec<u8>; 2],
    piece: Vec<u8>,
}

/// What the contents of a file were seen to be.
#[derive(Default)]
struct Contents {
    digests: [Option<[u8; 32]>; 2],
    differs_at: Option<u64>,
    /// Looked at in pieces, by others.
    later: bool,
}

/// What two looks at an entry came to.
struct Compared {
    findings: Vec<Finding>,
    contents: Contents,
}

type Looks = [Option<Look>; 2];

impl VerifyPass {
    /// Works on entries of one directory.
    pub(super) fn batch(
        &self,
        dir: &RelPath,
        entries: &Entries,
        scope: Scope,
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        // To be sure that only the target has something one must look into the source.
        let opened = if scope.is_unsure() { Scope::BOTH } else { scope };
        let pair = match self.open_pair(dir, opened) {
            Ok(pair) => Pair { scope, ..pair },
            Err(trouble) => {
                entries.iter().for_each(|e| self.fail(dir.display_join(e.name), trouble, run));
                return Ok(());
            }
        };
        let mut scratch = Scratch::default();
        let mut rest = entries.iter().enumerate();
        let mut read = 0;
        while let Some((i, e)) = rest.next() {
            let before = run.report.totals.bytes_read;
            self.entry(&pair, &e, &mut scratch, run)?;
            read += run.report.totals.bytes_read - before;
            let left = entries.len() - i - 1;
            let is_time = i % SHARE_EVERY == SHARE_EVERY - 1 || read >= SHARE_BYTES;
            if left > 0 && (read >= SHARE_BYTES || (is_time && run.ticket.is_hungry(Queue::Files))) {
                let mut given = Entries::default();
                for (_, e) in rest {
                    let _ = given.push(&e); // was checked when it got here
                }
                return run.ticket.post(Task::Batch { dir: dir.clone(), entries: given, tag: scope.0 });
            }
        }
        Ok(())
    }

    fn entry(&self, pair: &Pair, entry: &Entry<'_>, scratch: &mut Scratch, run: &mut Run<'_>) -> Result<(), Stopped> {
        let path = || pair.path.display_join(entry.name);
        let scope = match self.scope_of(pair, entry, run) {
            Ok(Some(scope)) => scope,
            Ok(None) => return Ok(()),
            Err(trouble) => {
                self.fail(path(), trouble, run);
                return Ok(());
            }
        };
        let mut entry = *entry;
        let mut tries = 1;
        loop {
            match self.try_entry(pair, &entry, scope, tries < MAX_TRIES, scratch, run) {
                Ok(Some(done)) => return done,
                // It was changed while it was looked at, or is something else by now.
                Ok(None) => {}
                Err(e) if e.error.class() == Class::OtherKind && tries < MAX_TRIES => {}
                Err(trouble) if scope.is_counted() => {
                    super::list_failure(path(), trouble, &mut run.report);
                    return Ok(());
                }
                Err(trouble) => {
                    self.fail(path(), trouble, run);
                    return Ok(());
                }
            }
            entry = Entry { kind: None, metadata: None, ..entry };
            tries += 1;
        }
    }

    /// Which trees have an entry, where that had not been looked at. None if it is another task's.
    fn scope_of(&self, pair: &Pair, entry: &Entry<'_>, run: &mut Run<'_>) -> Result<Option<Scope>, Trouble> {
        if !pair.scope.is_unsure() {
            return Ok(Some(pair.scope));
        }
        match pair.dir(Half::Source).map(|d| d.stat(entry.name)) {
            Some(Ok(_)) => Ok(None),
            Some(Err(e)) if e.class() != Class::Vanished => {
                run.report.totals.found += 1;
                Err(Trouble { half: Half::Source, error: e })
            }
            _ => {
                run.report.totals.found += 1;
                Ok(Some(Scope::TARGET))
            }
        }
    }

    /// Looks at an entry once. None if it was changed meanwhile and may be looked at again.
    fn try_entry(
        &self,
        pair: &Pair,
        entry: &Entry<'_>,
        scope: Scope,
        again: bool,
        scratch: &mut Scratch,
        run: &mut Run<'_>,
    ) -> Result<Option<Result<(), Stopped>>, Trouble> {
        let contents = self.reads_contents(pair, entry.name, scope);
        let look = |half: Half| {
            let dir = pair.dir(half).filter(|_| scope.has(half));
            dir.map(|d| self.look(d, entry, contents).map_err(Trouble::new(half))).transpose()
        };
        let source = look(Half::Source)?;
        let (scope, target) = match look(Half::Target) {
            // It was listed, and is gone; or it never was there.
            Err(trouble) if trouble.is_absent() && scope.is_both() => (Scope::SOURCE, None),
            target => (scope, target?),
        };
        let contents = contents && (scope.is_both() || self.alone);
        let looks = [source, target];
        let kinds = [0, 1].map(|i: usize| looks[i].as_ref().map(|l| l.metadata.kind));
        if kinds.contains(&Some(Kind::Directory)) {
            return Ok(Some(self.meet_directory(pair, entry.name, kinds, scope, run)));
        }
        let Some(first) = looks.iter().flatten().next() else { return Ok(Some(Ok(()))) };
        if self.is_left_out(&first.metadata) {
            run.report.totals.filtered += u64::from(!scope.is_counted());
            return Ok(Some(Ok(())));
        }
        let mut compared = self.compare(pair, entry.name, &looks, scratch)?;
        compared.contents = self.contents(&looks, contents && !scope.is_counted(), run)?;
        if let Some(at) = compared.contents.differs_at {
            let path = pair.path.display_join(entry.name);
            compared.findings.push(finding(path, "contents", "the same bytes", format!("others from byte {at} on")));
        }
        if again
            && (!compared.findings.is_empty() || contents)
            && self.was_changed(pair, entry.name, &looks, &compared)?
        {
            return Ok(None);
        }
        let later = compared.contents.later.then(|| Large::of(pair, entry.name, first, scope));
        self.conclude_entry(pair, entry.name, &looks, scope, compared, scratch, run);
        Ok(Some(later.map_or(Ok(()), |large| large.post(run))))
    }

    /// Are contents of a file of this name read? In both trees, the same ones at any time.
    fn reads_contents(&self, pair: &Pair, name: &[u8], scope: Scope) -> bool {
        const ALL_PPM: u32 = 1_000_000;
        let verify = &self.policy.verify;
        if !verify.content || !(scope.is_both() || self.alone) || verify.sample_ppm == 0 || verify.sample_ppm >= ALL_PPM
        {
            return verify.content && (scope.is_both() || self.alone);
        }
        let hash = path_hash(self.salt(), pair.path.as_bytes(), name);
        let chosen = hash.first_chunk::<8>().map_or(0, |eight| u64::from_le_bytes(*eight));
        chosen % u64::from(ALL_PPM) < u64::from(verify.sample_ppm)
    }

    fn is_left_out(&self, m: &Metadata) -> bool {
        let is_special = !matches!(m.kind, Kind::File | Kind::Symlink | Kind::Directory);
        (is_special && !self.policy.specials) || (self.matcher.needs_metadata() && !self.matcher.takes_metadata(m))
    }

    /// Listed as something else, a directory now, in one tree or both.
    fn meet_directory(
        &self,
        pair: &Pair,
        name: &[u8],
        kinds: [Option<Kind>; 2],
        scope: Scope,
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        let [Some(source), Some(target)] = kinds else {
            return self.became_directory(&pair.path, name, scope, run);
        };
        if source == target {
            return self.became_directory(&pair.path, name, Scope::BOTH, run);
        }
        list_kinds(pair.path.display_join(name), [source, target], &mut run.report);
        for (half, kind) in HALVES.into_iter().zip([source, target]) {
            let one = Scope::of(half).with(tag::COUNTED);
            if kind == Kind::Directory {
                self.became_directory(&pair.path, name, one, run)?;
            } else {
                let mut entries = Entries::default();
                let _ = entries.push(&Entry { name, kind: Some(kind), metadata: None }); // was checked
                run.ticket.post(Task::Batch { dir: pair.path.clone(), entries, tag: one.0 })?;
            }
        }
        Ok(())
    }

    /// Compares everything but contents; the elements are left in the scratch.
    fn compare(&self, pair: &Pair, name: &[u8], looks: &Looks, scratch: &mut Scratch) -> Result<Compared, Trouble> {
        for (look, out) in looks.iter().zip(&mut scratch.elements) {
            match look {
                Some(look) => self.element(&pair.path, name, look).encode(out),
                None => out.clear(),
            }
        }
        let mut compared = Compared { findings: Vec::new(), contents: Contents::default() };
        if let [Some(source), Some(target)] = looks {
            let labelled = !source.labels.is_empty() || !target.labels.is_empty();
            if scratch.elements[0] != scratch.elements[1] || labelled {
                let path = if name.is_empty() { pair.path.as_bytes().to_vec() } else { pair.path.display_join(name) };
                let (want, have) = (self.element(&pair.path, name, source), self.element(&pair.path, name, target));
                compared.findings = differences(&path, &want, &have, [source, target]);
            }
        }
        Ok(compared)
    }

    /// Reads what is to be read of files of one size.
    fn contents(&self, looks: &Looks, wanted: bool, run: &mut Run<'_>) -> Result<Contents, Trouble> {
        let files = HALVES.into_iter().zip(looks).filter_map(|(half, look)| {
            let look = look.as_ref()?;
            Some((half, look.file.as_deref()?, look.metadata))
        });
        let mut readers: Vec<Reader<'_>> = files.clone().map(|(half, file, m)| Reader::new(half, file, &m)).collect();
        let mut sizes = files.map(|(_, _, m)| m.size);
        let Some(size) = sizes.next().filter(|size| wanted && *size > 0) else { return Ok(Contents::default()) };
        if readers.len() != looks.iter().flatten().count() || sizes.any(|other| other != size) {
            return Ok(Contents::default());
        }
        if size > PIECE_BYTES {
            return Ok(Contents { later: true, ..Contents::default() });
        }
        let drop_cache = |readers: &[Reader<'_>]| match self.policy.verify.no_cache {
            true => readers.iter().try_for_each(|r| r.drop_cache(0, size)),
            false => Ok(()),
        };
        drop_cache(&readers)?;
        let seen = contents::piece(&mut readers, 0)?;
        drop_cache(&readers)?;
        run.report.totals.bytes_read += seen.read;
        let differs_at = seen.differs_at.or(seen.short.then_some(size));
        Ok(Contents { digests: seen.digests, differs_at, later: false })
    }

    /// Was one side changed since it was looked at? Only asked about what differs, or of what was read: that nothing
    /// differs has been seen.
    fn was_changed(&self, pair: &Pair, name: &[u8], looks: &Looks, compared: &Compared) -> Result<bool, Trouble> {
        if compared.findings.is_empty() && !self.alone {
            return Ok(false);
        }
        for (half, look) in HALVES.into_iter().zip(looks) {
            if let (Some(dir), Some(look)) = (pair.dir(half), look) {
                let now = dir.stat(name).map_err(Trouble::new(half))?;
                if !now.same_moment(&look.metadata) || now.ino != look.metadata.ino {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Counts an entry, lists what differs, and adds its elements to the sums.
    #[allow(clippy::too_many_arguments)] // what is known of one entry
    fn conclude_entry(
        &self,
        pair: &Pair,
        name: &[u8],
        looks: &Looks,
        scope: Scope,
        compared: Compared,
        scratch: &mut Scratch,
        run: &mut Run<'_>,
    ) {
        let Compared { findings, contents } = compared;
        self.add_elements(scope, scratch, run);
        self.add_contents(pair, name, scope, &contents, scratch, run);
        let path = || pair.path.display_join(name);
        let mut is_linked = false;
        for (half, look) in HALVES.into_iter().zip(looks) {
            let Some(look) = look else { continue };
            if let Some(mark) = self.link_mark(half, &look.metadata, path) {
                is_linked = true;
                evidence(run).marks.push(mark);
            }
        }
        if is_linked && !scope.is_both() {
            mark_state(path(), State::OneSided, run);
        }
        let count = self.verdict(path, scope, findings, run);
        let is_same = scope.is_both() && count == Some(Verdict::Same);
        if is_same && is_linked || contents.later && count == Some(Verdict::Same) {
            mark_state(path(), State::Pending, run);
        } else if let Some(verdict) = count {
            *verdict.count()(&mut run.report.totals) += 1;
        }
        if let Some(m) = looks.iter().flatten().next().map(|l| &l.metadata) {
            count_kind(&mut run.report.totals, m);
        }
    }

    /// Lists what differs. None if the entry is counted already.
    fn verdict(
        &self,
        path: impl Fn() -> Vec<u8>,
        scope: Scope,
        findings: Vec<Finding>,
        run: &mut Run<'_>,
    ) -> Option<Verdict> {
        if scope.is_counted() {
            return None;
        }
        let report = &mut run.report;
        let (is_both, is_source) = (scope.is_both(), scope.has(Half::Source));
        let differs = match (self.alone, is_both) {
            (true, _) => false,
            (false, true) => !findings.is_empty(),
            (false, false) => {
                let (what, expected, found) =
                    if is_source { ("missing", "there", "none") } else { ("extra", "none", "there") };
                report.totals.extra += u64::from(!is_source);
                report.findings.push(finding(path(), what, expected, found));
                true
            }
        };
        report.findings.extend(findings);
        Some(if differs { Verdict::Different } else { Verdict::Same })
    }

    fn add_elements(&self, scope: Scope, scratch: &Scratch, run: &mut Run<'_>) {
        let [source, target] = &scratch.elements;
        if source == target {
            return add_sum(scope, &Sum::of(self.salt(), source), run);
        }
        for (half, element) in HALVES.into_iter().zip(&scratch.elements).filter(|(_, e)| !e.is_empty()) {
            add_sum(Scope::of(half), &Sum::of(self.salt(), element), run);
        }
    }

    fn add_contents(
        &self,
        pair: &Pair,
        name: &[u8],
        scope: Scope,
        contents: &Contents,
        scratch: &mut Scratch,
        run: &mut Run<'_>,
    ) {
        let digests = if scope.is_both() { contents.digests } else { [contents.digests[0]; 2] };
        self.add_piece(&pair.path, name, 0, scope, digests, &mut scratch.piece, run);
    }

    /// Adds a piece of contents to the sums of the trees that have it.
    #[allow(clippy::too_many_arguments)] // what a piece is, and where it goes
    pub(super) fn add_piece(
        &self,
        dir: &RelPath,
        name: &[u8],
        piece: u64,
        scope: Scope,
        digests: [Option<[u8; 32]>; 2],
        scratch: &mut Vec<u8>,
        run: &mut Run<'_>,
    ) {
        let mut add = |scope: Scope, digest: Option<[u8; 32]>| {
            if let Some(digest) = digest {
                encode_piece(dir.as_bytes(), name, piece, &digest, scratch);
                add_sum(scope, &Sum::of(self.salt(), scratch), run);
            }
        };
        if digests[0] == digests[1] {
            return add(scope, digests[0]);
        }
        for (half, digest) in HALVES.into_iter().zip(digests).filter(|(half, _)| scope.has(*half)) {
            add(Scope::of(half), digest);
        }
    }

    /// Compares a directory's own attributes; where it is to be counted, if all that is in it can be listed.
    pub(super) fn compare_directory(&self, pair: &Pair, run: &mut Run<'_>) -> Result<Option<Count>, Trouble> {
        let look = |half: Half| pair.dir(half).map(|d| self.look_self(d).map_err(Trouble::new(half))).transpose();
        let mut scratch = Scratch::default();
        let mut looks = [look(Half::Source)?, look(Half::Target)?];
        let mut compared = self.compare(pair, b"", &looks, &mut scratch)?;
        for _ in 1..MAX_TRIES {
            if compared.findings.is_empty() {
                break;
            }
            let now = [look(Half::Source)?, look(Half::Target)?];
            let moment = |l: &Looks| l.each_ref().map(|l| l.as_ref().map(|l| (l.metadata.mtime, l.metadata.ctime)));
            let is_steady = moment(&now) == moment(&looks);
            looks = now;
            if is_steady {
                break;
            }
            compared = self.compare(pair, b"", &looks, &mut scratch)?;
        }
        self.add_elements(pair.scope, &scratch, run);
        run.report.totals.directories += 1;
        let path = || pair.path.as_bytes().to_vec();
        Ok(self.verdict(path, pair.scope, compared.findings, run).map(Verdict::count))
    }
}

/// How an entry compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Same,
    Different,
}

impl Verdict {
    fn count(self) -> Count {
        match self {
            Verdict::Same => |t| &mut t.same,
            Verdict::Different => |t| &mut t.different,
        }
    }
}

fn count_kind(totals: &mut Totals, m: &Metadata) {
    match m.kind {
        Kind::File => {
            totals.files += 1;
            totals.bytes_found += m.size;
        }
        Kind::Symlink => totals.symlinks += 1,
        Kind::Directory => totals.directories += 1,
        Kind::Fifo | Kind::Socket | Kind::BlockDevice | Kind::CharDevice => totals.specials += 1,
    }
}
