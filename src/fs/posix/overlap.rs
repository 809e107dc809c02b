//! Whether two roots are apart, before anything is touched.

use super::super::RootError;
use crate::model::{Kind, escaped};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a path given as a root leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKind {
    /// Nothing.
    Absent,
    /// A directory, possibly through a symlink.
    Directory,
    /// Something else.
    Other(Kind),
}

/// What a path leads to; the user's own symlink is followed.
///
/// # Errors
/// [`RootError::Fs`] for anything but absence.
pub fn kind_of(path: &[u8]) -> Result<RootKind, RootError> {
    use super::super::FsError;
    use crate::model::Operation;
    match rustix::fs::stat(OsStr::from_bytes(path)) {
        Ok(s) => Ok(match super::dir::kind_of(FileType::from_raw_mode(s.st_mode)) {
            Some(Kind::Directory) => RootKind::Directory,
            Some(kind) => RootKind::Other(kind),
            None => RootKind::Absent,
        }),
        Err(rustix::io::Errno::NOENT) => Ok(RootKind::Absent),
        Err(e) => Err(RootError::Fs { path: path.to_vec(), error: FsError::new(Operation::OpenRoot, e) }),
    }
}

/// Refuses a source and a target of which one is, or lies in, the other.
///
/// # Errors
/// [`RootError::BadUrl`] that says which lies in which.
pub fn check_roots(source: &[u8], target: &[u8]) -> Result<(), RootError> {
    let refuse = |what: &str| {
        let (s, t) = (escaped(source), escaped(target));
        Err(RootError::BadUrl(format!("{what}: source {s}, target {t}; choose a target outside the source")))
    };
    let id = |path: &[u8]| rustix::fs::stat(OsStr::from_bytes(path)).map(|s| (s.st_dev, s.st_ino)).ok();
    let (source_id, target_id) = (id(source), id(target));
    if source_id.is_some() && source_id == target_id {
        return refuse("source and target are the same");
    }
    if let Some(id) = source_id
        && ancestors(target).contains(&id)
    {
        return refuse("the target lies inside the source");
    }
    if let Some(id) = target_id
        && ancestors(source).contains(&id)
    {
        return refuse("the source lies inside the target");
    }
    Ok(())
}

/// Device and inode of every directory above a path, by climbing `..`, so that symlinks on the way do not deceive.
pub fn ancestors(path: &[u8]) -> Vec<(u64, u64)> {
    let path = Path::new(OsStr::from_bytes(path));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The nearest part that exists: the root itself (whose own id was compared), or what it will be made in.
    let open = |p: &Path| rustix::fs::openat(CWD, p, flags, Mode::empty()).ok();
    let parent = path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    let Some(mut at) = open(path).or_else(|| parent.and_then(open)) else { return Vec::new() };
    let mut found: Vec<(u64, u64)> = Vec::new();
    while let Ok(s) = rustix::fs::statat(&at, "", AtFlags::EMPTY_PATH) {
        if found.last() == Some(&(s.st_dev, s.st_ino)) {
            break; // `..` of the topmost directory is itself
        }
        found.push((s.st_dev, s.st_ino));
        match rustix::fs::openat(&at, "..", flags, Mode::empty()) {
            Ok(up) => at = up,
            Err(_) => break,
        }
    }
    found
}
