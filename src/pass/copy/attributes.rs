//! Attributes: what differs, and setting it in the one safe order.
//!
//! Owner, then project, extended attributes, ACLs and capabilities, then mode, then times. Changing the owner clears
//! capabilities and setuid; an ACL changes the mode; so each comes after what would undo it, and the mode
//! that lets others in comes when all that restricts them is in place.

use super::Trouble;
use crate::fs::{Class, Edit, FsError, NewEntry, Traits, Xattrs};
use crate::model::{Kind, Metadata, Operation, Policy, Project, Timestamp, Totals};

const SETUID_SETGID: u32 = 0o6000;

/// What an entry should have.
pub struct Wanted<'a> {
    /// Attributes of the source.
    pub metadata: &'a Metadata,
    /// Extended attributes of the source, as far as the policy wants them.
    pub xattrs: &'a Xattrs,
    /// Quota project that is wanted ([`wanted_project`]); none leaves it alone.
    pub project: Option<Project>,
}

/// Is it an ACL rather than another extended attribute?
fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// Does the policy need to know extended attributes? An ACL that is left out still tells what the mode may grant.
pub fn reads_xattrs(policy: &Policy) -> bool {
    policy.xattrs || policy.acls || policy.mode
}

/// What an access ACL grants the owning group: `stat` shows the mask instead, which would be more. Entries of
/// 8 bytes (tag, permissions, id) after a head of 4, little endian (`linux/posix_acl_xattr.h`).
fn owning_group(acl: &[u8]) -> u32 {
    const GROUP_OBJ: u16 = 4;
    const MASK: u16 = 16;
    let (mut group, mut mask) = (0, 7);
    for entry in acl.get(4..).unwrap_or_default().chunks_exact(8) {
        let permissions = u32::from(entry[2]) & 7;
        match u16::from_le_bytes([entry[0], entry[1]]) {
            GROUP_OBJ => group = permissions,
            MASK => mask = permissions,
            _ => {}
        }
    }
    group & mask
}

/// The mode of an entry whose access ACL is not kept: nobody gets more than the ACL gave them.
fn without_acl(mode: u32, acl: &[u8]) -> u32 {
    mode & !0o070 | owning_group(acl) << 3
}

/// What is wanted of an entry with these attributes: the mode narrowed if its ACL is left out.
pub fn wanted(metadata: Metadata, xattrs: Xattrs, policy: &Policy) -> (Metadata, Xattrs) {
    let acl = xattrs.iter().find(|(name, _)| name == b"system.posix_acl_access").filter(|_| !policy.acls);
    let mode = acl.map_or(metadata.mode, |(_, acl)| without_acl(metadata.mode, acl));
    (Metadata { mode, ..metadata }, filtered(xattrs, policy))
}

/// Leaves only what the policy wants.
pub fn filtered(mut xattrs: Xattrs, policy: &Policy) -> Xattrs {
    if !(policy.xattrs && policy.acls) {
        xattrs.retain(|(name, _)| if is_acl(name) { policy.acls } else { policy.xattrs });
    }
    xattrs
}

/// May an attribute that only the target has be removed? Labels that the system sets by itself stay.
pub fn is_removable(name: &[u8], policy: &Policy) -> bool {
    if is_acl(name) {
        return policy.acls;
    }
    policy.xattrs && (name.starts_with(b"user.") || name.starts_with(b"trusted.") || name == b"security.capability")
}

/// Permission bits that a copy gets.
fn mode_of(metadata: &Metadata, policy: &Policy) -> u32 {
    match (policy.mode, metadata.kind) {
        (true, _) => metadata.mode,
        (false, Kind::Directory) => metadata.mode & 0o755,
        (false, _) => metadata.mode & 0o644,
    }
}

/// Is the modification time right, as far as the target can keep it?
pub fn same_mtime(source: &Metadata, target: &Metadata, traits: &Traits) -> bool {
    traits.kept(source.mtime) == traits.kept(target.mtime)
}

/// Would [`apply`] have anything to do? Access times alone are no reason.
pub fn differs(want: &Wanted<'_>, have: &Have<'_>, policy: &Policy, traits: &Traits) -> bool {
    let (m, there) = (want.metadata, have.metadata);
    (policy.owner && (m.uid, m.gid) != (there.uid, there.gid))
        || (policy.mode && m.kind != Kind::Symlink && m.mode != there.mode)
        || (policy.times && !same_mtime(m, there, traits))
        || project_differs(want.project, have.project)
        || (want.xattrs != have.xattrs && xattrs_differ(want.xattrs, have.xattrs, policy))
}

/// What one side does not tell is no difference.
pub fn project_differs(want: Option<Project>, have: Option<Project>) -> bool {
    want.zip(have).is_some_and(|(want, have)| want != have)
}

/// A project as it is compared: only a directory hands it down.
pub fn project_of_kind(kind: Kind, project: Option<Project>) -> Option<Project> {
    project.map(|p| Project { inherit: p.inherit && kind == Kind::Directory, ..p })
}

/// What an entry shall belong to whose source is of this project. Where that is of none, there is no wish: what is new
/// gets what its directory hands down, and what is there keeps what it has.
pub fn wanted_project(kind: Kind, source: Option<Project>) -> Option<Project> {
    project_of_kind(kind, source).filter(|project| project.id != 0)
}

/// What is made in a directory has its project, if that hands it down.
pub fn inherited(dir: Project) -> Project {
    Project { id: if dir.inherit { dir.id } else { 0 }, inherit: false }
}

fn xattrs_differ(want: &Xattrs, have: &Xattrs, policy: &Policy) -> bool {
    want.iter().any(|x| !have.contains(x))
        || have.iter().any(|(name, _)| is_removable(name, policy) && !want.iter().any(|(n, _)| n == name))
}

/// Attributes that an entry has now.
pub struct Have<'a> {
    /// Basic ones.
    pub metadata: &'a Metadata,
    /// Extended ones.
    pub xattrs: &'a Xattrs,
    /// Quota project; none if that cannot be told, or is not asked.
    pub project: Option<Project>,
}

/// Sets the quota project of an entry, if it is not the wanted one.
///
/// # Errors
/// As [`apply_new`].
pub fn apply_project<E: Edit + ?Sized>(
    edit: &E,
    want: Option<Project>,
    have: Option<Project>,
    totals: &mut Totals,
) -> Result<bool, FsError> {
    let Some(project) = want.filter(|_| project_differs(want, have)) else { return Ok(false) };
    match edit.set_project(project) {
        Ok(()) => Ok(true),
        Err(e) if is_loss(&e) => {
            totals.lost_projects += 1;
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// The target cannot keep it, or the process may not set it.
fn is_loss(e: &FsError) -> bool {
    // An extended attribute can be too large for a filesystem (ENOSPC on ext4) that is not full.
    e.class() == Class::Unsupported
        || matches!(e.errno, libc::EINVAL | libc::EACCES)
        || (e.operation == Operation::SetXattr && matches!(e.errno, libc::ENOSPC | libc::E2BIG | libc::ERANGE))
        || (e.operation == Operation::SetProject && e.errno == libc::ENOTTY)
}

/// Sets all attributes of a new entry but for its project, which it gets before it has contents. What the target or the
/// process cannot keep is counted as lost.
///
/// # Errors
/// The first error that is no such loss; the other attributes are set all the same.
pub fn apply_new(
    new: &dyn NewEntry,
    want: &Wanted<'_>,
    policy: &Policy,
    traits: &Traits,
    totals: &mut Totals,
) -> Result<(), Trouble> {
    let m = want.metadata;
    let owned = new.is_owned_by(m.uid, m.gid);
    let setter = Setter { edit: new, want, policy, traits, totals, error: None, acl_lost: false };
    setter.run(owned, None, None).map(drop)
}

/// As [`apply_new`], for a file that was written in parts and has these attributes.
///
/// # Errors
/// As [`apply_new`].
pub fn apply_part(
    part: &dyn Edit,
    have: &Have<'_>,
    want: &Wanted<'_>,
    policy: &Policy,
    traits: &Traits,
    totals: &mut Totals,
) -> Result<(), Trouble> {
    let owned = (want.metadata.uid, want.metadata.gid) == (have.metadata.uid, have.metadata.gid);
    let setter = Setter { edit: part, want, policy, traits, totals, error: None, acl_lost: false };
    setter.run(owned, None, have.project).map(drop)
}

/// Sets what differs. True if anything did and could be set.
///
/// # Errors
/// As [`apply_new`].
pub fn apply(
    edit: &dyn Edit,
    want: &Wanted<'_>,
    have: &Have<'_>,
    policy: &Policy,
    traits: &Traits,
    totals: &mut Totals,
) -> Result<bool, Trouble> {
    let owned = (want.metadata.uid, want.metadata.gid) == (have.metadata.uid, have.metadata.gid);
    let setter = Setter { edit, want, policy, traits, totals, error: None, acl_lost: false };
    setter.run(owned, Some(have), have.project)
}

struct Setter<'a, E: Edit + ?Sized> {
    edit: &'a E,
    want: &'a Wanted<'a>,
    policy: &'a Policy,
    traits: &'a Traits,
    totals: &'a mut Totals,
    error: Option<FsError>,
    acl_lost: bool,
}

impl<E: Edit + ?Sized> Setter<'_, E> {
    /// Sets what is not as `have`; of what is new nothing is right but perhaps its owner and its project.
    fn run(mut self, owned: bool, there: Option<&Have<'_>>, have_project: Option<Project>) -> Result<bool, Trouble> {
        let m = self.want.metadata;
        let have = there.map(|there| there.metadata);
        let owner = self.policy.owner && !owned;
        if let Some(h) =
            have.filter(|h| owner && self.policy.mode && m.kind != Kind::Symlink && h.mode & !m.mode & 0o777 != 0)
        {
            // The new owner and group must not have, for a moment, what only the old ones were to have.
            self.mode(h.mode & m.mode & 0o777);
        }
        let owner_set = owner && self.owner();
        let owner_kept = owned || owner_set;
        let project_set = self.project(have_project);
        let xattrs_set = self.xattrs(there.map_or(&Xattrs::new(), |there| there.xattrs));
        let mut mode = mode_of(m, self.policy);
        if self.acl_lost
            && let Some((_, acl)) = self.want.xattrs.iter().find(|(n, _)| n == b"system.posix_acl_access")
        {
            mode = without_acl(mode, acl);
        }
        if !owner_kept && m.kind == Kind::File && mode & SETUID_SETGID != 0 {
            // Setuid for somebody else than in the source would be a right that nobody gave.
            mode &= !SETUID_SETGID;
            self.totals.lost_mode += 1;
        }
        let mode_wanted = match have {
            None => true,
            Some(h) => self.policy.mode && (h.mode != mode || owner || xattrs_set),
        };
        let mode_set = mode_wanted && m.kind != Kind::Symlink && self.mode(mode);
        let times_wanted = self.policy.times && have.is_none_or(|h| !same_mtime(m, h, self.traits));
        let times_set = times_wanted && self.times(m.atime, m.mtime);
        match self.error {
            Some(e) => Err(Trouble::Target(e)),
            None => Ok(owner_set || project_set || xattrs_set || mode_set || times_set),
        }
    }

    /// Something that cannot be kept here is a loss; anything else is remembered as the entry's error.
    /// True if it was set.
    fn settle(&mut self, done: Result<(), FsError>, lost: fn(&mut Totals) -> &mut u64) -> bool {
        match done {
            Ok(()) => return true,
            Err(e) if is_loss(&e) => *lost(self.totals) += 1,
            Err(e) => self.error = self.error.or(Some(e)),
        }
        false
    }

    fn owner(&mut self) -> bool {
        let m = self.want.metadata;
        let both = self.edit.set_owner(Some(m.uid), Some(m.gid));
        if both.is_err() {
            // A normal user may still give it to one of their groups.
            let _ = self.edit.set_owner(None, Some(m.gid));
        }
        self.settle(both, |t| &mut t.lost_owner)
    }

    fn project(&mut self, have: Option<Project>) -> bool {
        apply_project(self.edit, self.want.project, have, self.totals).unwrap_or_else(|e| {
            self.error = self.error.or(Some(e));
            false
        })
    }

    fn xattrs(&mut self, have: &Xattrs) -> bool {
        let want = self.want.xattrs;
        if want == have {
            return false;
        }
        let mut any = false;
        for (name, value) in want.iter().filter(|x| !have.contains(x)) {
            let lost: fn(&mut Totals) -> &mut u64 =
                if is_acl(name) { |t| &mut t.lost_acls } else { |t| &mut t.lost_xattrs };
            let set = self.settle(self.edit.set_xattr(name, value), lost);
            self.acl_lost |= !set && name == b"system.posix_acl_access";
            any |= set;
        }
        for (name, _) in have {
            if is_removable(name, self.policy) && !want.iter().any(|(n, _)| n == name) {
                any |= self.settle(self.edit.remove_xattr(name), |t| &mut t.lost_xattrs);
            }
        }
        any
    }

    fn mode(&mut self, mode: u32) -> bool {
        self.settle(self.edit.set_mode(mode), |t| &mut t.lost_mode)
    }

    fn times(&mut self, atime: Timestamp, mtime: Timestamp) -> bool {
        self.settle(self.edit.set_times(atime, mtime), |t| &mut t.lost_times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, permissions) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(u32::MAX.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn an_acl_that_is_left_out_does_not_widen_the_mode() {
        // user::rw- user:N:rw- group::--- mask::rw- other::---, which stat shows as 0660.
        let value = acl(&[(1, 6), (2, 6), (4, 0), (16, 6), (32, 0)]);
        assert_eq!(without_acl(0o660, &value), 0o600);
        assert_eq!(without_acl(0o660, &acl(&[(1, 6), (4, 6), (16, 4), (32, 0)])), 0o640);
        assert_eq!(without_acl(0o666, b"short"), 0o606);
    }
}
