//! What the two arguments of a job mean, checked before anything is touched.

use super::NodeError;
use super::layers::{self, Timed};
use crate::fs::posix::{RootKind, check_roots, kind_of};
use crate::fs::{self, Options, RootError, Side};
use crate::model::{JobId, Kind, Policy, RelPath, escaped};
use crate::pass::{Access, Roots, filtered};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is to be worked on.
pub enum Prepared {
    /// A tree.
    Tree(Roots),
    /// A single entry that is no directory; the roots are the directories that hold it and its copy.
    Single {
        /// The two directories.
        roots: Roots,
        /// Its name.
        name: Vec<u8>,
        /// The name of its copy.
        target_name: Vec<u8>,
    },
}

impl Prepared {
    /// The roots.
    pub fn roots(&self) -> &Roots {
        match self {
            Prepared::Tree(roots) | Prepared::Single { roots, .. } => roots,
        }
    }
}

fn bad(text: String) -> NodeError {
    NodeError::Root(RootError::BadUrl(text))
}

/// Opens both roots of a job, whose calls are `timed`. The target directory is made if it does not exist and the pass
/// makes it; its parent is not.
///
/// # Errors
/// A message that names the root and the way out; nothing was touched then.
pub fn prepare(
    source: &[u8],
    target: &[u8],
    job: JobId,
    access: Access,
    policy: &Policy,
    timed: Timed<'_>,
) -> Result<Prepared, NodeError> {
    let options = Options::of(job, policy);
    let (source_adapter, source_path) = fs::adapter_of(source)?;
    let (target_adapter, target_path) = fs::adapter_of(target)?;
    let posix = |adapter: &fs::Adapter| adapter.scheme == "file";
    let single = if posix(source_adapter) {
        match kind_of(source_path)? {
            RootKind::Absent => return Err(bad(format!("source {}: no such file or directory", escaped(source)))),
            RootKind::Directory => false,
            RootKind::Other(_) => true,
        }
    } else {
        false
    };
    let there = if posix(target_adapter) { kind_of(target_path)? } else { RootKind::Directory };
    if single && access != Access::Make {
        return Err(bad(format!("source {} is no directory: this needs one", escaped(source))));
    }
    if posix(target_adapter) {
        check_target(target, target_path, there, single)?;
    }
    if there == RootKind::Absent && access != Access::Make {
        return Err(bad(format!(
            "target {}: no such directory; check the path and whether it is mounted",
            escaped(target)
        )));
    }
    if posix(source_adapter) && posix(target_adapter) && access != Access::Inspect {
        check_roots(source_path, target_path)?;
    }
    if single {
        return prepare_single(source, source_path, target, target_path, there, &options, policy);
    }
    let shown = source;
    let source = layers::open_source(source, &options, timed)?;
    filtered::check(&policy.filter, source.as_ref(), shown).map_err(NodeError::Refused)?;
    let target = layers::open_target(target, access, policy, &options, timed)?;
    Ok(Prepared::Tree(layers::limited(Roots { source, target }, policy, None)))
}

fn check_target(target: &[u8], path: &[u8], there: RootKind, single: bool) -> Result<(), NodeError> {
    match there {
        RootKind::Other(kind) if !single => Err(bad(format!(
            "target {} is a {}, and a tree needs a directory: name another target or remove it",
            escaped(target),
            kind.noun()
        ))),
        RootKind::Absent => {
            let (parent, _) = split(path);
            match kind_of(parent.as_os_str().as_bytes())? {
                RootKind::Directory => Ok(()),
                _ => Err(bad(format!(
                    "target {}: its parent {} is no directory; make it first: mkdir -p",
                    escaped(target),
                    escaped(parent.as_os_str().as_bytes())
                ))),
            }
        }
        _ => Ok(()),
    }
}

/// Directory and name of a path.
fn split(path: &[u8]) -> (&Path, Vec<u8>) {
    let path = Path::new(OsStr::from_bytes(path));
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    (parent, path.file_name().unwrap_or_default().as_bytes().to_vec())
}

fn prepare_single(
    source: &[u8],
    source_path: &[u8],
    target: &[u8],
    target_path: &[u8],
    there: RootKind,
    options: &Options,
    policy: &Policy,
) -> Result<Prepared, NodeError> {
    let (source_dir, name) = split(source_path);
    let source_fs = fs::open(source_dir.as_os_str().as_bytes(), Side::Source, options)?;
    filtered::check(&policy.filter, source_fs.as_ref(), source).map_err(NodeError::Refused)?;
    let (target_dir, target_name) = if there == RootKind::Directory {
        (target.to_vec(), name.clone())
    } else {
        let (dir, name) = split(target_path);
        (dir.as_os_str().as_bytes().to_vec(), name)
    };
    let target_fs = layers::open_target(&target_dir, Access::Make, policy, options, None)?;
    let id = |root: &dyn fs::Filesystem, name: &[u8]| {
        root.open_dir(&RelPath::root()).and_then(|d| d.stat(name)).map(|m| (m.dev, m.ino, m.kind)).ok()
    };
    let (ours, theirs) = (id(source_fs.as_ref(), &name), id(target_fs.as_ref(), &target_name));
    if ours.is_some() && ours == theirs {
        return Err(bad(format!("source and target are the same: {} and {}", escaped(source), escaped(target))));
    }
    if theirs.is_some_and(|(_, _, kind)| kind == Kind::Directory) {
        return Err(bad(format!("target {} has a directory of that name", escaped(target))));
    }
    let roots = layers::limited(Roots { source: source_fs, target: target_fs }, policy, None);
    Ok(Prepared::Single { roots, name, target_name })
}
