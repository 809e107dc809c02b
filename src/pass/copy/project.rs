//! Quota projects: what entries shall belong to, and when what is new gets there.
//!
//! A file belongs to its project before it has contents, so that they are charged to nobody else. One exception: a
//! directory of the target that hands another project down takes no name of it (`EXDEV`), so there the file gets its
//! name first. What is of no project in the source is of whichever the target hands down.

use super::attributes::{apply_project, inherited, project_of_kind, wanted_project};
use super::{CopyPass, Pair, Trouble};
use crate::fs::{Dir, Edit, FsError};
use crate::model::{Kind, Metadata, Project, Totals};

/// The quota project of an entry that is being made.
pub(super) struct NewProject {
    want: Option<Project>,
    have: Option<Project>,
    /// Only when it has its name.
    late: bool,
}

impl NewProject {
    /// What is new in a directory and is to belong to this project.
    fn new(want: Option<Project>, dir: impl FnOnce() -> Result<Project, FsError>) -> Result<Self, Trouble> {
        if want.is_none() {
            return Ok(NewProject { want, have: None, late: false });
        }
        let dir = dir().map_err(Trouble::Target)?;
        let late = dir.inherit && want.is_some_and(|want| want.id != dir.id);
        Ok(NewProject { want, have: Some(inherited(dir)), late })
    }

    /// What it shall belong to before it has its name.
    pub(super) fn early(&self) -> Option<Project> {
        self.want.filter(|_| !self.late)
    }

    /// What it must be of when it gets its name, if that is not left alone.
    fn for_name(&self) -> Option<Project> {
        if self.late { self.have } else { self.want }
    }

    /// Before it has contents.
    pub(super) fn set_on<E: Edit + ?Sized>(&self, new: &E, totals: &mut Totals) -> Result<(), Trouble> {
        apply_project(new, self.early(), self.have, totals).map(drop).map_err(Trouble::Target)
    }

    /// What it is before it gets its name, if it is needed afterwards.
    pub(super) fn seen<E: Edit + ?Sized>(&self, new: &E) -> Result<Option<Metadata>, Trouble> {
        if self.late { new.metadata().map(Some).map_err(Trouble::Target) } else { Ok(None) }
    }

    /// After it got its name. What stands there instead by now is left alone.
    pub(super) fn set_late(
        &self,
        dir: &dyn Dir,
        name: &[u8],
        seen: Option<Metadata>,
        totals: &mut Totals,
    ) -> Result<(), Trouble> {
        let Some(seen) = seen.filter(|_| self.late) else { return Ok(()) };
        let edit = dir.edit(name).map_err(Trouble::Target)?;
        let now = edit.metadata().map_err(Trouble::Target)?;
        if (now.dev, now.ino) != (seen.dev, seen.ino) {
            return Ok(());
        }
        apply_project(edit.as_ref(), self.want, self.have, totals).map(drop).map_err(Trouble::Target)
    }
}

impl CopyPass {
    /// Quota project of a child, or of the directory itself for the empty name; none where they are not carried.
    pub(super) fn project_of(&self, dir: &dyn Dir, name: &[u8], kind: Kind) -> Result<Option<Project>, FsError> {
        if !self.projects {
            return Ok(None);
        }
        dir.project(name).map(|project| project_of_kind(kind, project))
    }

    /// Quota projects of both sides of an entry of one kind.
    pub(super) fn projects_of(
        &self,
        source: (&dyn Dir, &[u8]),
        target: (&dyn Dir, &[u8]),
        kind: Kind,
    ) -> Result<(Option<Project>, Option<Project>), Trouble> {
        let want = wanted_project(kind, self.project_of(source.0, source.1, kind).map_err(Trouble::Source)?);
        if want.is_none() {
            return Ok((None, None));
        }
        Ok((want, self.project_of(target.0, target.1, kind).map_err(Trouble::Target)?))
    }

    /// Of an entry that is made in the pair's target; `source` tells what the source's belongs to.
    pub(super) fn new_project(
        &self,
        pair: &Pair,
        kind: Kind,
        source: impl FnOnce() -> Result<Option<Project>, FsError>,
    ) -> Result<NewProject, Trouble> {
        let want = if self.projects { source().map_err(Trouble::Source)? } else { None };
        NewProject::new(wanted_project(kind, want), || pair.project())
    }

    /// What a file that was made in the pair's target a while ago has to be of to get its name there: the directory may
    /// hand down another project by now than it did then. None if that does not matter.
    pub(super) fn project_for_name(&self, pair: &Pair, new: &NewProject) -> Result<Option<Project>, Trouble> {
        if new.want.is_some() || !self.projects {
            return Ok(new.for_name());
        }
        let dir = pair.project().map_err(Trouble::Target)?;
        Ok(dir.inherit.then(|| inherited(dir)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(id: u32, inherit: bool) -> Option<Project> {
        Some(Project { id, inherit })
    }

    /// Is it set at all, and when?
    fn plan(want: Option<Project>, dir: Option<Project>) -> (bool, bool) {
        let new = NewProject::new(want, || Ok(dir.unwrap_or_default())).unwrap();
        (super::super::attributes::project_differs(new.want, new.have), new.late)
    }

    #[test]
    fn a_new_entry_gets_its_project_before_its_name_unless_the_directory_would_not_take_it() {
        assert_eq!(plan(project(7, false), project(0, false)), (true, false));
        assert_eq!(plan(project(7, false), project(9, false)), (true, false), "nothing is handed down");
        assert_eq!(plan(project(7, false), project(7, true)), (false, false), "it has it already");
        assert_eq!(plan(project(7, false), project(9, true)), (true, true));
        assert_eq!(plan(project(7, false), None), (true, false));
    }

    #[test]
    fn a_file_that_is_named_late_belongs_to_its_directory_until_then() {
        let for_name = |want, dir: Project| NewProject::new(want, || Ok(dir)).unwrap().for_name();
        assert_eq!(for_name(project(7, false), Project { id: 9, inherit: true }), project(9, false));
        assert_eq!(for_name(project(7, false), Project { id: 9, inherit: false }), project(7, false));
        assert_eq!(for_name(project(7, false), Project { id: 7, inherit: true }), project(7, false));
    }

    #[test]
    fn a_source_without_a_project_wishes_for_none() {
        assert_eq!(wanted_project(Kind::Directory, project(0, true)), None);
        assert_eq!(wanted_project(Kind::Directory, project(7, true)), project(7, true));
        assert_eq!(wanted_project(Kind::File, project(7, true)), project(7, false));
        assert_eq!(wanted_project(Kind::File, None), None);
    }

    #[test]
    fn without_a_wish_nobody_is_asked() {
        assert!(NewProject::new(None, || unreachable!()).is_ok_and(|new| new.early().is_none()));
        assert_eq!(project_of_kind(Kind::File, project(7, true)), project(7, false), "files hand nothing down");
    }
}
