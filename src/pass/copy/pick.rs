//! Entries that were named one by one: routed as a listing would, in directories that are made for them.

use super::walk::Outbox;
use super::{CopyPass, Pair, Trouble};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, FsError, Made};
use crate::model::task::{Entry, Names, tag};
use crate::model::{Kind, Phase, RelPath, Task, Totals};
use crate::pass::{Run, names_from};

impl CopyPass {
    /// Routes these entries of a directory of the source, and nothing else of it.
    pub(super) fn pick(&self, dir: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        if names.is_empty() {
            return Ok(()); // an empty list
        }
        if !self.matcher.takes_with_parents(dir) {
            run.report.totals.found += names.len() as u64;
            run.report.totals.filtered += names.len() as u64;
            return Ok(());
        }
        let wanted = match self.pick_extras(dir, names, run)? {
            Some(wanted) => wanted,
            None => return Ok(()),
        };
        let names = wanted.as_ref().unwrap_or(names);
        let pair = match self.open_pair_making(dir, run)? {
            Ok(pair) => pair,
            Err(Trouble::Source(e)) => {
                return names.iter().try_for_each(|(_, name)| self.not_there(dir, name, e, run));
            }
            Err(trouble) => {
                run.report.totals.found += names.len() as u64;
                return names.iter().try_for_each(|(_, name)| self.fail(dir.display_join(name), trouble, run));
            }
        };
        let mut out = Outbox::new(dir, tag::ALL, tag::ALL);
        for (i, (_, name)) in names.iter().enumerate() {
            // Where what only the target has goes, all of them have been looked for there already.
            if i > 0 && self.extras.is_none() && run.turn.is_over() {
                run.ticket.post(Task::Pick { dir: dir.clone(), names: names_from(names, i) })?;
                break;
            }
            let metadata = match pair.source.stat(name) {
                Ok(m) => m,
                Err(e) => {
                    self.not_there(dir, name, e, run)?;
                    continue;
                }
            };
            let entry = Entry { name, kind: Some(metadata.kind), metadata: None };
            match self.kind(dir, pair.source.as_ref(), &entry, run)? {
                None => {}
                Some(Kind::Directory) => self.route_dir(&pair, name, &mut out, run)?,
                Some(_) => out.add_entry(&entry, run)?,
            }
        }
        out.post_all(run)?;
        if out.changed() { self.finish_later(dir, true, run) } else { Ok(()) }
    }

    /// Where what only the target has goes: the names that the source does have; none if it has none of them. The inner
    /// none stands for all, where nothing goes. What nobody has may have gone in a run before: that is no failure.
    fn pick_extras(&self, dir: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<Option<Option<Names>>, Stopped> {
        let Some(extras) = &self.extras else { return Ok(Some(None)) };
        let source = match self.roots.source.open_dir(dir) {
            Ok(source) => Some(source),
            Err(e) if e.is_absent() => None,
            Err(_) => return Ok(Some(None)), // is met again, and reported
        };
        extras.find_named(dir, source.as_deref(), names, run, &mut |_, _, _| Ok(()))?;
        let target = self.roots.target.open_dir(dir).ok();
        let lacks = |side: &Option<Box<dyn Dir>>, name: &[u8]| {
            side.as_ref().is_none_or(|dir| dir.stat(name).is_err_and(|e| e.is_absent()))
        };
        let mut left = Names::default();
        for (bits, name) in names.iter() {
            if !lacks(&source, name) {
                let _ = left.push(bits, name); // was checked when it got here
            } else if lacks(&target, name) {
                run.report.totals.found += 1;
                run.report.totals.vanished += 1;
            }
        }
        Ok((!left.is_empty()).then_some(Some(left)))
    }

    /// Somebody named it, so it is missed: unlike an entry that was listed and is gone.
    fn not_there(&self, dir: &RelPath, name: &[u8], e: FsError, run: &mut Run<'_>) -> Result<(), Stopped> {
        run.report.totals.found += 1;
        run.fail(super::failure(dir.display_join(name), e), Phase::Walk, Totals::default());
        Ok(())
    }

    /// Opens a directory of the source and its copy; what is missing of the latter is made, and finished at the end.
    fn open_pair_making(&self, dir: &RelPath, run: &mut Run<'_>) -> Result<Result<Pair, Trouble>, Stopped> {
        match self.open_pair(dir) {
            Err(Trouble::Target(e)) if matches!(e.class(), Class::Vanished | Class::OtherKind) => {}
            other => return Ok(other),
        }
        let (above, mut missing) = match self.deepest(dir) {
            Ok(found) => found,
            Err(e) => return Ok(Err(Trouble::Target(e))),
        };
        let (mut path, mut target) = above;
        while let Some(name) = missing.pop() {
            let (next, made) = match self.reopen_dir(&path, target.as_ref(), &name, run) {
                Ok(opened) => opened,
                Err(e) => return Ok(Err(Trouble::Target(e))),
            };
            if made == Made::New {
                let mut names = Names::default();
                let _ = names.push(0, &name); // a component of a path
                run.ticket.post(Task::Finish { parent: path.clone(), names })?;
            }
            target = next;
            path = match path.join(&name) {
                Ok(path) => path,
                Err(_) => break,
            };
        }
        Ok(self
            .roots
            .source
            .open_dir(dir)
            .map_err(Trouble::Source)
            .map(|source| Pair::new(dir.clone(), source, target)))
    }

    /// The deepest directory above one that the target has, and the names of those that are missing, the first last.
    #[allow(clippy::type_complexity)]
    fn deepest(&self, dir: &RelPath) -> Result<((RelPath, Box<dyn Dir>), Vec<Vec<u8>>), FsError> {
        let mut missing = Vec::new();
        let mut at = dir.clone();
        loop {
            match self.roots.target.open_dir(&at) {
                Ok(target) => return Ok(((at, target), missing)),
                Err(e) if matches!(e.class(), Class::Vanished | Class::OtherKind) => {}
                Err(e) => return Err(e),
            }
            let (parent, name) = at.split_last();
            let Some(name) = name else {
                return Err(FsError::new(crate::model::Operation::OpenDirectory, rustix::io::Errno::NOENT));
            };
            missing.push(name.to_vec());
            at = parent;
        }
    }
}
