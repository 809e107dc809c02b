//! Attributes: what differs, and setting it in the one safe order.
//!
//! Owner, then extended attributes, ACLs and capabilities, then mode, then times. Changing the owner clears
//! capabilities and setuid; an ACL changes the mode; so each comes after what would undo it, and the mode
//! that lets others in comes when all that restricts them is in place.

use super::Trouble;
use crate::fs::{Class, Edit, FsError, NewEntry, Traits, Xattrs};
use crate::model::{Kind, Metadata, Policy, Timestamp, Totals};

const SETUID_SETGID: u32 = 0o6000;

/// What an entry should have.
pub struct Wanted<'a> {
    /// Attributes of the source.
    pub metadata: &'a Metadata,
    /// Extended attributes of the source, as far as the policy wants them.
    pub xattrs: &'a Xattrs,
}

/// Is it an ACL rather than another extended attribute?
fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// Leaves only what the policy wants.
pub fn filtered(mut xattrs: Xattrs, policy: &Policy) -> Xattrs {
    if !(policy.xattrs && policy.acls) {
        xattrs.retain(|(name, _)| if is_acl(name) { policy.acls } else { policy.xattrs });
    }
    xattrs
}

/// May an attribute that only the target has be removed? Labels that the system sets by itself stay.
fn is_removable(name: &[u8], policy: &Policy) -> bool {
    if is_acl(name) {
        return policy.acls;
    }
    policy.xattrs && (name.starts_with(b"user.") || name.starts_with(b"trusted.") || name == b"security.capability")
}

/// Permission bits that a copy gets.
fn mode_of(metadata: &Metadata, policy: &Policy) -> u32 {
    match (policy.mode, metadata.kind) {
        (true, _) => metadata.mode,
        (false, Kind::Directory) => 0o755,
        (false, _) => 0o644,
    }
}

/// Is the modification time right, as far as the target can keep it?
pub fn same_mtime(source: &Metadata, target: &Metadata, traits: &Traits) -> bool {
    traits.kept(source.mtime) == target.mtime
}

/// Would [`apply`] have anything to do? Access times alone are no reason.
pub fn differs(want: &Wanted<'_>, have: &Metadata, have_xattrs: &Xattrs, policy: &Policy, traits: &Traits) -> bool {
    let m = want.metadata;
    (policy.owner && (m.uid, m.gid) != (have.uid, have.gid))
        || (policy.mode && m.kind != Kind::Symlink && m.mode != have.mode)
        || (policy.times && !same_mtime(m, have, traits))
        || (want.xattrs != have_xattrs && xattrs_differ(want.xattrs, have_xattrs, policy))
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
}

/// Sets all attributes of a new entry. What the target or the process cannot keep is counted as lost.
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
    let owner = policy.owner && !new.is_owned_by(m.uid, m.gid);
    Setter { edit: new, want, policy, traits, totals, error: None }.run(owner, &Xattrs::new(), None).map(drop)
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
    let owner = policy.owner && (want.metadata.uid, want.metadata.gid) != (have.metadata.uid, have.metadata.gid);
    let setter = Setter { edit, want, policy, traits, totals, error: None };
    setter.run(owner, have.xattrs, Some(have.metadata))
}

struct Setter<'a, E: Edit + ?Sized> {
    edit: &'a E,
    want: &'a Wanted<'a>,
    policy: &'a Policy,
    traits: &'a Traits,
    totals: &'a mut Totals,
    error: Option<FsError>,
}

impl<E: Edit + ?Sized> Setter<'_, E> {
    fn run(mut self, owner: bool, have_xattrs: &Xattrs, have: Option<&Metadata>) -> Result<bool, Trouble> {
        let m = self.want.metadata;
        let owner_kept = !owner || self.owner();
        let owner_set = owner && owner_kept;
        let xattrs_set = self.xattrs(have_xattrs);
        let mut mode = mode_of(m, self.policy);
        if !owner_kept && m.kind == Kind::File && mode & SETUID_SETGID != 0 {
            // Setuid for somebody else than in the source would be a right that nobody gave.
            mode &= !SETUID_SETGID;
            self.totals.lost_mode += 1;
        }
        let mode_wanted = match have {
            None => true,
            Some(h) => self.policy.mode && (h.mode != mode || owner_set || xattrs_set),
        };
        let mode_set = mode_wanted && m.kind != Kind::Symlink && self.mode(mode);
        let times_wanted = self.policy.times && have.is_none_or(|h| !same_mtime(m, h, self.traits));
        let times_set = times_wanted && self.times(m.atime, m.mtime);
        match self.error {
            Some(e) => Err(Trouble::Target(e)),
            None => Ok(owner_set || xattrs_set || mode_set || times_set),
        }
    }

    /// Something that cannot be kept here is a loss; anything else is remembered as the entry's error.
    /// True if it was set.
    fn settle(&mut self, done: Result<(), FsError>, lost: fn(&mut Totals) -> &mut u64) -> bool {
        match done {
            Ok(()) => return true,
            Err(e) if e.class() == Class::Unsupported || matches!(e.errno, libc::EINVAL | libc::EACCES) => {
                *lost(self.totals) += 1;
            }
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

    fn xattrs(&mut self, have: &Xattrs) -> bool {
        let want = self.want.xattrs;
        if want == have {
            return false;
        }
        let mut any = false;
        for (name, value) in want.iter().filter(|x| !have.contains(x)) {
            let lost: fn(&mut Totals) -> &mut u64 =
                if is_acl(name) { |t| &mut t.lost_acls } else { |t| &mut t.lost_xattrs };
            any |= self.settle(self.edit.set_xattr(name, value), lost);
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
