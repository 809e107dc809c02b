//! Listing directories in both trees at once, matching names, and routing what is in them.

use super::table::Table;
use super::{HALVES, Pair, Scope, Trouble, VerifyPass, list_failure, list_one};
use crate::broker::Stopped;
use crate::fs::{Class, Dir, FsError, aside};
use crate::model::task::{Entries, Entry, MAX_TASK_ENTRIES, Names, tag};
use crate::model::{Half, Kind, Operation, Phase, Queue, RelPath, Task, Totals, check_name};
use crate::pass::{Run, names_from};

/// Sibling directories in one task.
const GROUP: usize = 32;

/// What has been listed and not been posted yet, for entries of one scope.
struct Outbox {
    scope: Scope,
    dirs: Names,
    entries: Entries,
}

/// A directory being routed.
struct Route<'a, 'b, 'r> {
    pair: &'a Pair,
    boxes: [Outbox; 6],
    run: &'b mut Run<'r>,
    stopped: Result<(), Stopped>,
}

impl Route<'_, '_, '_> {
    fn push(&mut self, scope: Scope, name: &[u8], kind: Option<Kind>) {
        let Some(out) = self.boxes.iter_mut().find(|b| b.scope == scope) else { return };
        let is_dir = kind == Some(Kind::Directory);
        // Names were checked before.
        let _ = match is_dir {
            true => out.dirs.push(scope.0, name),
            false => out.entries.push(&Entry { name, kind, metadata: None }),
        };
        if out.dirs.len() >= GROUP || out.entries.len() >= MAX_TASK_ENTRIES {
            self.flush(scope);
        }
    }

    fn flush(&mut self, scope: Scope) {
        for out in self.boxes.iter_mut().filter(|b| b.scope == scope) {
            if !out.entries.is_empty() && self.stopped.is_ok() {
                let (dir, entries) = (self.pair.path.clone(), std::mem::take(&mut out.entries));
                self.stopped = self.run.ticket.post(Task::Batch { dir, entries, tag: scope.0 });
            }
            if !out.dirs.is_empty() && self.stopped.is_ok() {
                let (parent, names) = (self.pair.path.clone(), std::mem::take(&mut out.dirs));
                self.stopped = self.run.ticket.post(Task::Dirs { parent, names });
            }
        }
    }
}

const UNSURE: Scope = Scope(tag::EXTRA | tag::UNSURE);

/// Has entries of a directory routed, and posts them.
fn routed<T>(pair: &Pair, run: &mut Run<'_>, each: impl FnOnce(&mut Route<'_, '_, '_>) -> T) -> Result<T, Stopped> {
    let scopes = [
        Scope::BOTH,
        Scope::SOURCE,
        Scope::TARGET,
        UNSURE,
        Scope::SOURCE.with(tag::COUNTED),
        Scope::TARGET.with(tag::COUNTED),
    ];
    let boxes = scopes.map(|scope| Outbox { scope, dirs: Names::default(), entries: Entries::default() });
    let mut route = Route { pair, boxes, run, stopped: Ok(()) };
    let done = each(&mut route);
    scopes.into_iter().for_each(|scope| route.flush(scope));
    route.stopped.map(|()| done)
}

impl VerifyPass {
    /// Lists sibling directories one after the other; what is left goes back when another actor has nothing to do.
    pub(super) fn walk(&self, parent: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        if names.is_empty() {
            run.report.totals.found += 1;
            return match self.open_pair(parent, self.scope(0)) {
                Ok(pair) => self.directory(&pair, run),
                Err(trouble) => {
                    self.fail(Vec::new(), trouble, run);
                    Ok(())
                }
            };
        }
        let mut above: Option<Pair> = None;
        for (i, (bits, name)) in names.iter().enumerate() {
            if i > 0 && (run.ticket.is_hungry(Queue::Dirs) || run.turn.is_over()) {
                return run.ticket.post(Task::Dirs { parent: parent.clone(), names: names_from(names, i) });
            }
            let scope = self.scope(bits);
            if above.as_ref().is_none_or(|pair| pair.scope != scope) {
                above = match self.open_pair(parent, scope) {
                    Ok(pair) => Some(pair),
                    Err(trouble) => {
                        self.fail(parent.display_join(name), trouble, run);
                        continue;
                    }
                };
            }
            if let Some(above) = &above {
                self.child(above, name, run)?;
            }
        }
        Ok(())
    }

    fn child(&self, above: &Pair, name: &[u8], run: &mut Run<'_>) -> Result<(), Stopped> {
        let open = |half: Half| above.dir(half).map(|d| d.open_dir(name).map_err(Trouble::new(half))).transpose();
        let scope = above.scope;
        let path = above.path.join(name).map_err(|_| Trouble {
            half: Half::Source,
            error: FsError { operation: Operation::OpenDirectory, errno: libc::ENAMETOOLONG },
        });
        let opened = path.and_then(|path| Ok((path, open(Half::Source)?))).and_then(|(path, source)| {
            match open(Half::Target) {
                // It was there a moment ago; now only the source has it.
                Err(trouble) if trouble.is_absent() && scope.is_both() => {
                    Ok(Pair { path, dirs: [source, None], scope: Scope::SOURCE })
                }
                target => Ok(Pair { path, dirs: [source, target?], scope }),
            }
        });
        match opened {
            Ok(pair) => self.directory(&pair, run),
            // It became something else since it was listed: it is worked on as what it is.
            Err(trouble) if trouble.error.class() == Class::OtherKind => {
                let mut entries = Entries::default();
                let _ = entries.push(&Entry { name, kind: None, metadata: None });
                run.ticket.post(Task::Batch { dir: above.path.clone(), entries, tag: scope.0 })
            }
            Err(trouble) => {
                self.fail(above.path.display_join(name), trouble, run);
                Ok(())
            }
        }
    }

    /// One directory: itself, then what is in it.
    fn directory(&self, pair: &Pair, run: &mut Run<'_>) -> Result<(), Stopped> {
        let compared = self.compare_directory(pair, run);
        let listed = if self.is_entered(pair) { self.list(pair, run)? } else { Ok(()) };
        match compared.and_then(|count| listed.map(|()| count)) {
            Ok(Some(count)) => *count(&mut run.report.totals) += 1,
            Ok(None) => {}
            Err(trouble) if pair.scope.is_counted() => {
                list_failure(pair.path.as_bytes().to_vec(), trouble, &mut run.report);
            }
            // What is in it is compared, and in the sums: it cannot be gone through again.
            Err(trouble) => {
                self.fail_in(Phase::Whole, pair.path.as_bytes().to_vec(), trouble, Totals::default(), run);
            }
        }
        Ok(())
    }

    fn is_entered(&self, pair: &Pair) -> bool {
        let is_apart = || {
            let half = if pair.scope.has(Half::Source) { Half::Source } else { Half::Target };
            let here = pair.dir(half).map(Dir::metadata);
            here.is_some_and(|m| m.is_ok_and(|m| m.dev != self.devices[half as usize]))
        };
        self.matcher.enters(&pair.path) && !(self.matcher.one_file_system() && is_apart())
    }

    /// Lists a directory in the trees that have it and posts what is in it.
    fn list(&self, pair: &Pair, run: &mut Run<'_>) -> Result<Result<(), Trouble>, Stopped> {
        let below = pair.scope.below();
        routed(
            pair,
            run,
            |route| {
                if below.is_both() { self.list_both(route) } else { self.list_one_side(below, route) }
            },
        )
    }

    /// Entries that were named, and everything in those that are directories.
    pub(super) fn pick(&self, dir: &RelPath, names: &Names, run: &mut Run<'_>) -> Result<(), Stopped> {
        if !self.matcher.takes_with_parents(dir) {
            run.report.totals.found += names.len() as u64;
            run.report.totals.filtered += names.len() as u64;
            return Ok(());
        }
        let open = |half: Half| match self.roots[half as usize].open_dir(dir) {
            Ok(dir) => Ok(Some(dir)),
            Err(e) if matches!(e.class(), Class::Vanished | Class::OtherKind) => Ok(None),
            Err(e) => Err(Trouble::new(half)(e)),
        };
        let pair = match open(Half::Source).and_then(|source| Ok([source, open(Half::Target)?])) {
            Ok(dirs) => Pair { path: dir.clone(), dirs, scope: Scope::BOTH },
            Err(trouble) => {
                run.report.totals.found += names.len() as u64;
                names.iter().for_each(|(_, name)| self.fail(dir.display_join(name), trouble, run));
                return Ok(());
            }
        };
        routed(&pair, run, |route| names.iter().for_each(|(_, name)| self.pick_one(name, route)))
    }

    fn pick_one(&self, name: &[u8], route: &mut Route<'_, '_, '_>) {
        let pair = route.pair;
        let stat = |half: Half| match pair.dir(half).map(|dir| dir.stat(name)) {
            Some(Ok(m)) => Ok(Some(m.kind)),
            Some(Err(e)) if !e.is_absent() => Err(Trouble::new(half)(e)),
            _ => Ok(None),
        };
        match stat(Half::Source).and_then(|source| Ok((source, stat(Half::Target)?))) {
            Ok((Some(source), Some(target))) => self.route_pair(name, [Some(source), Some(target)], route),
            Ok((Some(kind), None)) => self.route(Scope::SOURCE, Half::Source, name, Some(kind), route),
            Ok((None, Some(kind))) => self.route(Scope::TARGET, Half::Target, name, Some(kind), route),
            Ok((None, None)) => {
                route.run.report.totals.found += 1;
                route.run.report.totals.vanished += 1;
            }
            Err(trouble) => {
                route.run.report.totals.found += 1;
                self.fail(pair.path.display_join(name), trouble, route.run);
            }
        }
    }

    fn list_one_side(&self, scope: Scope, route: &mut Route<'_, '_, '_>) -> Result<(), Trouble> {
        for half in HALVES.into_iter().filter(|h| scope.has(*h)) {
            if let Some(dir) = route.pair.dir(half) {
                let listed = dir.list(&mut |e| self.route(scope, half, e.name, e.kind, route));
                listed.map_err(Trouble::new(half))?;
            }
        }
        Ok(())
    }

    /// The target's names are held, as many as there is room for; the source's are matched with them as they come.
    fn list_both(&self, route: &mut Route<'_, '_, '_>) -> Result<(), Trouble> {
        let pair = route.pair;
        let (Some(source), Some(target)) = (pair.dir(Half::Source), pair.dir(Half::Target)) else { return Ok(()) };
        let mut table = Table::default();
        let mut is_whole = true;
        // A name that the target's listing did not give may still be there, if the listing is not complete.
        let listed_target = target.list(&mut |e| is_whole = is_whole && table.push(e.name, e.kind));
        is_whole &= listed_target.is_ok();
        table.sort();
        let listed_source = source.list(&mut |e| match table.find(e.name) {
            Some(kind) => self.route_pair(e.name, [e.kind, kind], route),
            None if is_whole => self.route(Scope::SOURCE, Half::Source, e.name, e.kind, route),
            None => self.route(Scope::BOTH, Half::Source, e.name, e.kind, route),
        });
        listed_target.map_err(Trouble::new(Half::Target))?;
        if is_whole && listed_source.is_ok() {
            for (name, kind) in table.unseen() {
                self.route(Scope::TARGET, Half::Target, name, kind, route);
            }
        } else {
            // Each is looked up in the source by itself.
            let again = target.list(&mut |e| self.route(UNSURE, Half::Target, e.name, e.kind, route));
            again.map_err(Trouble::new(Half::Target))?;
        }
        listed_source.map_err(Trouble::new(Half::Source))
    }

    /// A name that both trees have.
    fn route_pair(&self, name: &[u8], kinds: [Option<Kind>; 2], route: &mut Route<'_, '_, '_>) {
        let is_dir = |kind| kind == Kind::Directory;
        match kinds {
            // What is no directory is compared with whatever it is by a file actor.
            [Some(source), Some(target)] if is_dir(source) != is_dir(target) && self.takes(name, source, route) => {
                route.run.report.totals.found += 1;
                self.count_kinds(name, [source, target], route);
            }
            [source, _] => self.route(Scope::BOTH, Half::Source, name, source, route),
        }
    }

    /// One of them is a directory and the other is not: said here, and each goes its way.
    fn count_kinds(&self, name: &[u8], kinds: [Kind; 2], route: &mut Route<'_, '_, '_>) {
        super::differences::list_kinds(route.pair.path.display_join(name), kinds, &mut route.run.report);
        for (half, kind) in HALVES.into_iter().zip(kinds) {
            route.push(Scope::of(half).with(tag::COUNTED), name, Some(kind));
        }
    }

    fn takes(&self, name: &[u8], kind: Kind, route: &Route<'_, '_, '_>) -> bool {
        let path = &route.pair.path;
        let is_ours = aside::is_working_file(name) || (path.is_root() && name == aside::WORK_DIR);
        !is_ours && check_name(name).is_ok() && self.matcher.takes(path, name, kind)
    }

    /// Posts a name of the tree that is listed; in another scope it may be in both.
    fn route(&self, scope: Scope, half: Half, name: &[u8], kind: Option<Kind>, route: &mut Route<'_, '_, '_>) {
        let pair = route.pair;
        if route.stopped.is_err() || aside::is_working_file(name) || (pair.path.is_root() && name == aside::WORK_DIR) {
            return;
        }
        let totals = &mut route.run.report.totals;
        totals.found += u64::from(!scope.is_unsure());
        let looked = match kind {
            Some(kind) => Ok(kind),
            None => pair.dir(half).map_or(Ok(Kind::File), |d| d.stat(name).map(|m| m.kind)),
        };
        let checked = check_name(name).map_err(|_| FsError { operation: Operation::List, errno: libc::ENAMETOOLONG });
        match checked.and(looked) {
            Ok(kind) if !self.matcher.takes(&pair.path, name, kind) => {
                totals.filtered += u64::from(!scope.is_unsure());
            }
            // Directories are few enough to be looked up here.
            Ok(Kind::Directory) if scope.is_unsure() => self.route_unsure_directory(name, route),
            Ok(kind) => route.push(scope, name, Some(kind)),
            Err(error) => {
                totals.found += u64::from(scope.is_unsure());
                self.fail(pair.path.display_join(name), Trouble { half, error }, route.run);
            }
        }
    }

    fn route_unsure_directory(&self, name: &[u8], route: &mut Route<'_, '_, '_>) {
        match route.pair.dir(Half::Source).map(|d| d.stat(name)) {
            Some(Ok(_)) => {} // the source's listing sees to it
            Some(Err(error)) if error.class() != Class::Vanished => {
                route.run.report.totals.found += 1;
                self.fail(route.pair.path.display_join(name), Trouble { half: Half::Source, error }, route.run);
            }
            _ => {
                route.run.report.totals.found += 1;
                route.push(Scope::TARGET, name, Some(Kind::Directory));
            }
        }
    }

    /// Something was found to be a directory only when its turn came.
    pub(super) fn became_directory(
        &self,
        dir: &RelPath,
        name: &[u8],
        scope: Scope,
        run: &mut Run<'_>,
    ) -> Result<(), Stopped> {
        run.ticket.post(list_one(dir, name, scope))
    }
}
