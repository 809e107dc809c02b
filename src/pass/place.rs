//! What filters leave out by attributes and by place: on which servers of the source an entry lies.
//!
//! Invariant: every pass asks here, and of the same tree, so all of them leave out the same entries. What is nowhere to
//! be asked about, since the tree that knows has it no more, is left out: nobody can tell that it was meant.

use crate::fs::{Dir, Filesystem, FsError};
use crate::model::filter::{Filter, Matcher};
use crate::model::root::filesystem_name;
use crate::model::{Kind, Metadata, RelPath, escaped};

/// Does a filter leave out an entry that has these attributes? Directories never are; those that are no business of the
/// job were left out by name. `dir` is the directory that holds it in the tree that is asked, if that has it.
///
/// # Errors
/// The system's: nothing is known then.
pub(super) fn leaves_out(
    matcher: &Matcher,
    dir: Option<&dyn Dir>,
    name: &[u8],
    metadata: &Metadata,
) -> Result<bool, FsError> {
    if metadata.kind == Kind::Directory || !matcher.needs_metadata() {
        return Ok(false);
    }
    if !matcher.takes_metadata(metadata) {
        return Ok(true);
    }
    if !matcher.needs_place() {
        return Ok(false);
    }
    let Some(placing) = dir.and_then(Dir::placing) else { return Ok(true) };
    let taken = || {
        let is_there = !matcher.needs_mdt() || matcher.takes_mdt(placing.mdt_of(name)?);
        Ok(is_there && (!matcher.needs_layout() || matcher.takes_layout(placing.layout(name)?.as_ref())))
    };
    match taken() {
        Ok(taken) => Ok(!taken),
        // Of another filesystem that is mounted there.
        Err(FsError { errno: libc::ENOTTY | libc::EOPNOTSUPP, .. }) => Ok(true),
        Err(e) => Err(e),
    }
}

/// Can a filter be used on this source? What it asks for must be known there.
///
/// # Errors
/// Why not, with the option and the source as it was named.
pub fn check(filter: &Filter, source: &dyn Filesystem, shown: &[u8]) -> Result<(), String> {
    let Some(option) = filter.place_option() else { return Ok(()) };
    let looked = source.open_dir(&RelPath::root()).and_then(|root| Ok((root.placing().is_some(), source.identity()?)));
    let is = match looked {
        Ok((true, _)) => return Ok(()),
        Ok((false, identity)) if identity.fs_type == 0 => "none".to_owned(),
        Ok((false, identity)) => filesystem_name(identity.fs_type),
        Err(e) => return Err(format!("{option}: {}: {e}", escaped(shown))),
    };
    Err(format!("{option} needs a Lustre source; {} is {is}", escaped(shown)))
}
