//! Entries, one by one: look at both sides, compare, count.

use super::compare::{Looks, Scratch};
use super::differences::list_kinds;
use super::pieces::Large;
use super::{HALVES, Pair, Scope, Trouble, VerifyPass, finding};
use crate::broker::Stopped;
use crate::fs::Class;
use crate::model::fingerprint::path_hash;
use crate::model::task::{Entries, Entry, tag};
use crate::model::{Half, Kind, Metadata, Phase, Queue, RelPath, Task};
use crate::pass::Run;
use crate::pass::filtered::leaves_out;

/// A difference is looked at again so often, if the entry was being changed.
pub(super) const MAX_TRIES: u32 = 3;
/// The rest of a batch is given to others after so many bytes of contents.
const SHARE_BYTES: u64 = 64 << 20;
/// How often it is looked whether others wait, in entries.
const SHARE_EVERY: usize = 32;

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
            let is_time = i % SHARE_EVERY == SHARE_EVERY - 1;
            let is_long = read >= SHARE_BYTES || run.turn.is_over();
            if left > 0 && (is_long || (is_time && run.ticket.is_hungry(Queue::Files))) {
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
        let before = run.begin();
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
                    let mut counted = run.since(&before);
                    counted.found = 0; // once, with the failure
                    self.fail_in(Phase::Walk, path(), trouble, counted, run);
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
        let (scope, looks) = self.look_at_all(pair, entry, scope, contents)?;
        let contents = contents && (scope.is_both() || self.alone);
        let kinds = [0, 1].map(|i: usize| looks[i].as_ref().map(|l| l.metadata.kind));
        if kinds.contains(&Some(Kind::Directory)) {
            return Ok(Some(self.meet_directory(pair, entry.name, kinds, scope, run)));
        }
        let Some(first) = looks.iter().flatten().next() else { return Ok(Some(Ok(()))) };
        if self.is_left_out(pair, entry.name, scope, &first.metadata)? {
            run.report.totals.filtered += u64::from(!scope.is_counted());
            return Ok(Some(Ok(())));
        }
        let mut compared = self.compare(pair, entry.name, &looks, scratch)?;
        compared.contents = self.contents(&looks, contents && !scope.is_counted(), run)?;
        if let Some(at) = compared.contents.differs_at {
            let path = pair.path.display_join(entry.name);
            compared.findings.push(finding(path, "contents", "the same bytes", format!("others from byte {at} on")));
        }
        if again && self.was_changed(pair, entry.name, &looks, &compared)? {
            return Ok(None);
        }
        let later = compared.contents.later.then(|| Large::of(pair, entry.name, first, scope));
        self.conclude_entry(pair, entry.name, &looks, scope, compared, scratch, run);
        Ok(Some(later.map_or(Ok(()), |large| large.post(run))))
    }

    /// Looks into the trees that have an entry, and which those are now.
    fn look_at_all(
        &self,
        pair: &Pair,
        entry: &Entry<'_>,
        scope: Scope,
        contents: bool,
    ) -> Result<(Scope, Looks), Trouble> {
        let look = |half: Half| {
            let dir = pair.dir(half).filter(|_| scope.has(half));
            dir.map(|d| self.look(d, entry, contents).map_err(Trouble::new(half))).transpose()
        };
        let source = look(Half::Source)?;
        match look(Half::Target) {
            // It was listed, and is gone; or it never was there.
            Err(trouble) if trouble.is_absent() && scope.is_both() => Ok((Scope::SOURCE, [source, None])),
            target => Ok((scope, [source, target?])),
        }
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

    /// By the attributes of the source's entry, if it has one; by its place in the source, or in the only tree.
    fn is_left_out(&self, pair: &Pair, name: &[u8], scope: Scope, m: &Metadata) -> Result<bool, Trouble> {
        let is_special = !matches!(m.kind, Kind::File | Kind::Symlink | Kind::Directory);
        if is_special && !self.policy.specials {
            return Ok(true);
        }
        let half = if self.alone { Half::Target } else { Half::Source };
        let dir = pair.dir(half).filter(|_| scope.has(half));
        leaves_out(&self.matcher, dir, name, m).map_err(Trouble::new(half))
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
}
