//! Making directories where the policy wants them, on a target with several metadata servers.
//!
//! Invariant: where a directory is made follows from its name and those beside it, so whoever makes it decides alike;
//! one that is there stays where it is. Below the levels that are placed nothing is asked and nothing is held back.

use super::walk::Outbox;
use super::{CopyPass, Pair, Trouble};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, FsError, Made, Placing};
use crate::model::lustre::{MdtPolicy, Placer};
use crate::model::{RelPath, escaped};
use crate::pass::Run;

/// So many child directories are sorted at a time: a listing may be of any length.
const GATHERED: usize = 65_536;
/// Places that a name alone may stand for: small numbers keep sequences over them even.
const PLACES: u64 = 1 << 16;

/// A directory whose children are placed.
struct Place<'a> {
    path: &'a RelPath,
    target: &'a dyn Dir,
    placing: &'a dyn Placing,
    placer: &'a Placer,
    /// The MDT that it lies on.
    above: u32,
}

/// Child directories of one that is being listed, until they are made in the order of their names.
pub(super) struct Gathered<'a> {
    place: Place<'a>,
    names: Vec<Box<[u8]>>,
    /// Those that were made before.
    made: u64,
    most: usize,
}

impl CopyPass {
    /// The directory, if the policy says where its children are made.
    fn place<'a>(&'a self, path: &'a RelPath, target: &'a dyn Dir) -> Option<Place<'a>> {
        let placer = self.placer.as_ref().filter(|placer| placer.places_in(path))?;
        let placing = target.placing()?;
        match placing.mdt() {
            Ok(above) => Some(Place { path, target, placing, placer, above }),
            Err(e) => {
                tracing::warn!(path = escaped(path.as_bytes()), error = %e, "the target places directories by itself");
                None
            }
        }
    }

    /// Where child directories gather while this one is listed; none if they are made as they come.
    pub(super) fn gather<'a>(&'a self, pair: &'a Pair) -> Option<Gathered<'a>> {
        let place = self.place(&pair.path, pair.target.as_ref())?;
        Some(Gathered { place, names: Vec::new(), made: 0, most: GATHERED })
    }

    /// Takes in a child directory, and makes all of them if there are too many to hold.
    pub(super) fn gather_dir(
        &self,
        gathered: &mut Gathered<'_>,
        name: &[u8],
        out: &mut Outbox<'_>,
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        gathered.names.push(name.into());
        if gathered.names.len() >= gathered.most { self.make_gathered(gathered, out, run) } else { Ok(()) }
    }

    /// Makes what has gathered, and routes it.
    pub(super) fn make_gathered(
        &self,
        gathered: &mut Gathered<'_>,
        out: &mut Outbox<'_>,
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        let mut names = std::mem::take(&mut gathered.names);
        names.sort_unstable();
        for name in names {
            let made = self.make_on(&gathered.place, &name, gathered.made, run);
            gathered.made += 1;
            self.route_made(gathered.place.path, &name, made, out, run)?;
        }
        Ok(())
    }

    /// Makes a directory of which nobody knows what is beside it: its name alone says where.
    pub(super) fn make_dir(
        &self,
        path: &RelPath,
        target: &dyn Dir,
        name: &[u8],
        run: &mut Run<'_>,
    ) -> Result<Made, FsError> {
        match self.place(path, target) {
            Some(place) => self.make_on(&place, name, xxhash_rust::xxh3::xxh3_64(name) % PLACES, run),
            None => target.make_dir(name),
        }
    }

    /// Makes the `nth` directory of a placed one.
    fn make_on(&self, place: &Place<'_>, name: &[u8], nth: u64, run: &mut Run<'_>) -> Result<Made, FsError> {
        let mdts = place.placer.mdts_for(place.path, nth, place.above);
        let (made, mdt) = place.placing.make_dir_on(name, &mdts)?;
        if mdts.first().is_some_and(|wanted| *wanted != mdt) && (made == Made::New || self.was_made(place, name, run)) {
            let path = place.path.display_join(name);
            tracing::debug!(path = escaped(&path), wanted = mdts.first(), mdt, "a directory lies on another MDT");
            run.report.totals.misplaced += 1;
        }
        Ok(made)
    }

    /// Did a worker that was lost with this task make it, so that nobody has counted it? What free inodes decide may
    /// have been meant for another MDT then.
    fn was_made(&self, place: &Place<'_>, name: &[u8], run: &Run<'_>) -> bool {
        let is_settled = self.policy.lustre.mdt != MdtPolicy::Weighted;
        is_settled && run.redelivered && place.target.stat(name).is_ok_and(|m| m.ctime >= self.began)
    }

    /// Counts a directory that was gone through where it lies, if directories like it are placed.
    pub(super) fn count_place(&self, parent: &RelPath, mdt: impl FnOnce() -> Option<u32>, run: &mut Run<'_>) {
        if self.placer.as_ref().is_some_and(|placer| placer.places_in(parent))
            && let Some(mdt) = mdt()
        {
            run.report.place(mdt, 1);
        }
    }

    /// Opens a directory; one that was expected and is not there is made again.
    pub(super) fn reopen_dir(
        &self,
        path: &RelPath,
        parent: &dyn Dir,
        name: &[u8],
        run: &mut Run<'_>,
    ) -> Result<(Box<dyn Dir>, Made), FsError> {
        match parent.open_dir(name) {
            Ok(dir) => Ok((dir, Made::Existed)),
            Err(e) if matches!(e.class(), Class::Vanished | Class::OtherKind) => {
                let made = self.make_dir(path, parent, name, run)?;
                Ok((parent.open_dir(name)?, made))
            }
            // The owner may have locked themselves out: a normal user must let themselves in again.
            Err(e) if e.errno == libc::EACCES => {
                parent.edit(name)?.set_mode(0o700).map_err(|_| e)?;
                Ok((parent.open_dir(name)?, Made::Existed))
            }
            Err(e) => Err(e),
        }
    }

    /// Routes a directory that was made, or was there.
    pub(super) fn route_made(
        &self,
        path: &RelPath,
        name: &[u8],
        made: Result<Made, FsError>,
        out: &mut Outbox<'_>,
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        match made {
            Ok(made) => out.add_dir(name, made == Made::New, run),
            Err(e) => self.fail(path.display_join(name), Trouble::Target(e), run),
        }
    }
}

#[cfg(test)]
mod tests;
