//! Going through directories that only the target has.
//!
//! Invariant: such a directory is counted once, when it has been listed, and not if something in it stays.

use super::find::{Outbox, Side};
use super::{Extras, fail};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, FsError};
use crate::model::task::{Names, tag};
use crate::model::{Failure, Kind, Metadata, Operation, Phase, Queue, RelPath, Task, Totals};
use crate::pass::copy::work::Work;
use crate::pass::{Run, names_from};

impl Extras {
    /// Goes through sibling directories that only the target has, and posts what is in them.
    ///
    /// # Errors
    /// [`Stopped`]. What goes wrong with a directory is recorded, and it stays.
    pub fn walk(&self, parent: &RelPath, names: &Names, work: &Work, run: &mut Run<'_>) -> Result<(), Stopped> {
        let holder = match self.roots.target.open_dir(parent) {
            Ok(holder) => holder,
            // Somebody else removed it with all that was in it.
            Err(e) if e.is_absent() => return Ok(()),
            Err(e) => {
                for (_, name) in names.iter() {
                    run.report.totals.found += 1;
                    fail(parent.display_join(name), e, run);
                }
                return Ok(());
            }
        };
        let mut empty = Outbox::new(parent);
        for (i, (_, name)) in names.iter().enumerate() {
            if i > 0 && (run.ticket.is_hungry(Queue::Dirs) || run.turn.is_over()) {
                let left = names_from(names, i);
                run.ticket.post(Task::Dirs { parent: parent.clone(), names: left })?;
                break;
            }
            match self.walk_child(parent, holder.as_ref(), name, work, run)? {
                Ok(true) => empty.add_entry(tag::DIRECTORY, name, run)?,
                Ok(false) => {}
                // It went, or became something else: the next pass sees it.
                Err(e) if matches!(e.class(), Class::Vanished | Class::OtherKind) => {}
                Err(e) => {
                    run.report.totals.found += 1;
                    fail(parent.display_join(name), e, run);
                }
            }
        }
        empty.post_all(run)
    }

    /// One of them. True if nothing is in it, so that it is to be removed itself.
    fn walk_child(
        &self,
        parent: &RelPath,
        holder: &dyn Dir,
        name: &[u8],
        work: &Work,
        run: &mut Run<'_>,
    ) -> Result<Result<bool, FsError>, Stopped> {
        let Ok(path) = parent.join(name) else {
            return Ok(Err(FsError { operation: Operation::OpenDirectory, errno: libc::ENAMETOOLONG }));
        };
        let opened = holder.open_dir(name).and_then(|dir| {
            let (apart, m) = (self.is_apart(dir.as_ref())?, dir.metadata()?);
            Ok((dir, apart, m))
        });
        let (dir, m) = match opened {
            Ok((dir, true, m)) => (dir, m),
            Ok((_, false, _)) => return Ok(Ok(false)),
            Err(e) => return Ok(Err(e)),
        };
        match dir.is_mount_point() {
            Ok(false) => {}
            Ok(true) => {
                // It could never be removed itself, and what is in it may be anybody's, the source's even.
                run.report.totals.found += 1;
                let message = "a filesystem is mounted here; nothing in it is removed".to_owned();
                let (path, operation) = (path.as_bytes().to_vec(), Operation::Remove);
                let failure = Failure::new(path, operation, Some(libc::EBUSY), message);
                run.fail(failure, Phase::Walk, Totals::default());
                return Ok(Ok(false));
            }
            Err(e) => return Ok(Err(e)),
        }
        if self.matcher.one_file_system() && m.dev != self.target_dev {
            run.report.totals.found += 1;
            run.report.totals.filtered += 1;
            return Ok(Ok(false));
        }
        self.empty_out(&path, dir.as_ref(), &m, work, run)
    }

    /// Posts what is in a directory that only the target has. True if there was nothing.
    fn empty_out(
        &self,
        path: &RelPath,
        dir: &dyn Dir,
        m: &Metadata,
        work: &Work,
        run: &mut Run<'_>,
    ) -> Result<Result<bool, FsError>, Stopped> {
        let side = Side { source: None, target: dir };
        let mut out = Outbox::new(path);
        let (met, listed) = self.list(&side, &mut out, false, run, &mut |_, _, _| Ok(()))?;
        out.post_all(run)?;
        let swept = if met.working_files && !self.dry_run {
            work.sweep(dir, false, &mut run.report.totals).map(drop)
        } else {
            Ok(())
        };
        if let Err(e) = listed.and(swept) {
            return Ok(Err(e));
        }
        if self.trash.as_ref().is_some_and(|trash| trash.is_below(m)) {
            return Ok(Ok(false)); // it stays, since the trash is in it
        }
        if met.stays {
            run.report.totals.found += 1;
            run.report.totals.unchanged += 1;
            return Ok(Ok(false));
        }
        self.count(path.as_bytes().to_vec(), Kind::Directory, run);
        Ok(Ok(out.posted == 0 && !self.dry_run))
    }
}
