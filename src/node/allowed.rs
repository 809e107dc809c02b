//! Where this node lets a job work.
//!
//! Invariant: a job that is admitted gets the very directories that were looked at: they are held open, and their
//! descriptors stand in for the paths of the job. A symlink that somebody swaps meanwhile changes nothing.

use crate::fs;
use crate::model::{JobSpec, escaped};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Stands in for a directory that is not there, and never will be.
const NOWHERE: &[u8] = b"/proc/self/fd/none";

/// The directories at or below which a node's own configuration lets jobs work.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    roots: Option<Vec<PathBuf>>,
}

/// A job that may work here.
pub struct Checked {
    spec: JobSpec,
    held: Vec<Held>,
}

/// A directory that is held open, and the path that led there.
struct Held {
    fd: OwnedFd,
    given: Vec<u8>,
}

impl Held {
    fn path(&self) -> Vec<u8> {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into_bytes()
    }
}

impl Checked {
    /// The job, with paths that lead to the directories that were looked at, as long as this lives.
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// Puts the job's own paths back into a message.
    pub fn in_own_words(&self, message: &str) -> String {
        // The longer first: one number may begin another.
        let mut held: Vec<(String, String)> =
            self.held.iter().map(|h| (String::from_utf8_lossy(&h.path()).into_owned(), escaped(&h.given))).collect();
        held.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        held.iter().fold(message.to_owned(), |text, (path, given)| text.replace(path, given))
    }
}

impl Allowed {
    /// Jobs may work everywhere.
    pub fn everything() -> Self {
        Allowed::default()
    }

    /// Jobs may work at or below these directories; symlinks in them are followed.
    pub fn below(roots: Vec<PathBuf>) -> Self {
        Allowed { roots: Some(roots) }
    }

    /// Looks at all directories of a job: its roots, and where its removals go. What is made up or stored nowhere
    /// may be used by everybody.
    ///
    /// # Errors
    /// A message that names the directory and the way out.
    pub fn check(&self, spec: &JobSpec) -> Result<Checked, String> {
        let mut checked = Checked { spec: spec.clone(), held: Vec::new() };
        let Some(roots) = &self.roots else { return Ok(checked) };
        let absent = |what: &str, path: &[u8]| format!("{what} {}: no such directory: mount it", escaped(path));
        checked.spec.source =
            admit(roots, "source", &spec.source, &mut checked.held)?.ok_or_else(|| absent("source", &spec.source))?;
        // Whether the target must be there is for others to say.
        checked.spec.target =
            admit(roots, "target", &spec.target, &mut checked.held)?.unwrap_or_else(|| NOWHERE.to_vec());
        if let Some(delete) = &mut checked.spec.policy.delete
            && let Some(trash) = &mut delete.trash
        {
            // It is a path, whatever it looks like.
            let held = hold(roots, "trash", trash)?.ok_or_else(|| absent("trash", trash))?;
            **trash = held.path();
            checked.held.push(held);
        }
        Ok(checked)
    }
}

/// A root of a job, as it may be opened; none if it does not exist.
fn admit(roots: &[PathBuf], what: &str, root: &[u8], held: &mut Vec<Held>) -> Result<Option<Vec<u8>>, String> {
    let (adapter, path) = fs::adapter_of(root).map_err(|e| format!("{what}: {e}"))?;
    match adapter.scheme {
        "synth" | "null" => Ok(Some(root.to_vec())),
        "file" => {
            let found = hold(roots, what, path)?;
            let path = found.as_ref().map(Held::path);
            held.extend(found);
            Ok(path)
        }
        other => Err(format!("{what} {}: allowed_roots of this node says nothing of {other}://", escaped(root))),
    }
}

/// Opens a directory that lies at or below one of the roots; none if it does not exist.
fn hold(roots: &[PathBuf], what: &str, path: &[u8]) -> Result<Option<Held>, String> {
    if !path.starts_with(b"/") {
        return Err(format!("{what} {}: give an absolute path", escaped(path)));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(CWD, OsStr::from_bytes(path), flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(format!("{what} {}: {}", escaped(path), std::io::Error::from(e))),
    };
    let held = Held { fd, given: path.to_vec() };
    let real = rustix::fs::readlinkat(CWD, held.path(), Vec::new())
        .map_err(|e| format!("{what} {}: cannot tell where it is: {}", escaped(path), std::io::Error::from(e)))?;
    let real = PathBuf::from(std::ffi::OsString::from_vec(real.into_bytes()));
    // The kernel names what cannot be reached from here without a leading slash.
    let is_below = |root: &PathBuf| std::fs::canonicalize(root).is_ok_and(|root| real.starts_with(root));
    if real.is_absolute() && roots.iter().any(is_below) {
        return Ok(Some(held));
    }
    let leads = if real == Path::new(OsStr::from_bytes(path)) {
        String::new()
    } else {
        format!(", which is {},", escaped(real.as_os_str().as_bytes()))
    };
    Err(format!(
        "{what} {}{leads} is not below allowed_roots of this node; add it there if jobs may work on it",
        escaped(path)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::DeletePolicy;
    use crate::model::{JobId, Policy, Timestamp};
    use serde_bytes::ByteBuf;
    use std::fs::{create_dir_all, metadata, remove_file};
    use std::os::unix::fs::{MetadataExt, symlink};

    fn job(source: &Path, target: &[u8], trash: Option<&Path>) -> JobSpec {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let delete = trash.map(|path| DeletePolicy { trash: Some(ByteBuf::from(bytes(path))), ..Default::default() });
        JobSpec {
            id: JobId::random(),
            pass: "copy".to_owned(),
            source: bytes(source),
            target: target.to_vec(),
            policy: Policy { delete, ..Policy::default() },
            submitted: Timestamp::default(),
            priority: 1,
            source_root: crate::model::RootIdentity::default(),
            target_root: crate::model::RootIdentity::default(),
        }
    }

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Place(tempfile::tempdir().unwrap());
            for dir in ["data/project/deep", "data-2", "secret/x"] {
                create_dir_all(place.path(dir)).unwrap();
            }
            symlink(place.path("secret"), place.path("data/out")).unwrap();
            symlink(place.path("data"), place.path("alias")).unwrap();
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// What is said of a source, if it is refused.
        fn says(&self, roots: &[&str], source: &str) -> String {
            let allowed = Allowed::below(roots.iter().map(|r| self.path(r)).collect());
            allowed.check(&job(&self.path(source), b"null://", None)).err().unwrap_or_default()
        }
    }

    #[test]
    fn what_lies_at_or_below_a_root_is_allowed_wherever_its_symlinks_lead() {
        let p = Place::new();
        for (roots, source) in [
            (&["data"][..], "data"),
            (&["data"], "data/project/deep"),
            (&["data"], "alias/project"),
            (&["alias"], "data/project"),
            (&["nowhere", "data"], "data"),
            (&["data/project"], "data/project/../project/deep"),
        ] {
            assert_eq!(p.says(roots, source), "", "{roots:?} {source}");
        }
        for (roots, source) in [
            (&["data"][..], "data-2"),
            (&["data"], "secret"),
            (&["data"], "data/out"),
            (&["data"], "data/out/x"),
            (&["data"], "data/../secret"),
            (&["data/project"], "data"),
            (&["nowhere"], "data"),
            (&[], "data"),
        ] {
            let said = p.says(roots, source);
            assert!(said.contains("allowed_roots"), "{roots:?} {source}: {said}");
        }
        assert!(p.says(&["data"], "data/out").contains("which is"));
        assert!(p.says(&["data"], "data/none").contains("no such directory"));
    }

    #[test]
    fn target_and_trash_are_looked_at_as_well_and_what_is_made_up_is_free() {
        let p = Place::new();
        let allowed = Allowed::below(vec![p.path("data")]);
        let (data, secret) = (p.path("data"), p.path("secret"));
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let says = |source: &Path, target: &[u8], trash: Option<&Path>| {
            allowed.check(&job(source, target, trash)).err().unwrap_or_default()
        };
        assert_eq!(says(&data, &bytes(&p.path("data/project")), Some(&data)), "");
        assert_eq!(says(&data, &[b"file://", &bytes(&data)[..]].concat(), None), "");
        assert_eq!(says(Path::new("synth://?entries=3"), b"null://", None), "");
        assert!(says(&data, &bytes(&secret), None).starts_with("target "));
        assert!(says(&data, &[b"file://", &bytes(&secret)[..]].concat(), None).starts_with("target "));
        assert!(says(&data, &bytes(&data), Some(&secret)).starts_with("trash "));
        assert!(says(&data, &bytes(&data), Some(Path::new("data"))).contains("absolute"));
        assert!(says(&data, b"data", None).contains("absolute"));
        assert!(says(&data, b"nfs://server/x", None).starts_with("target"));
        assert!(Allowed::everything().check(&job(&secret, b"nfs://x", None)).is_ok());
    }

    #[test]
    fn a_symlink_that_is_swapped_after_the_look_leads_nowhere_else() {
        let p = Place::new();
        let way = p.path("way");
        symlink(p.path("data/project"), &way).unwrap();
        let allowed = Allowed::below(vec![p.path("data")]);
        let checked = allowed.check(&job(&way, way.as_os_str().as_bytes(), Some(&way))).unwrap();
        remove_file(&way).unwrap();
        symlink(p.path("secret"), &way).unwrap();
        let spec = checked.spec();
        let trash = spec.policy.delete.as_ref().and_then(|d| d.trash.as_ref()).unwrap();
        for path in [&spec.source, &spec.target, &**trash] {
            let there = metadata(OsStr::from_bytes(path)).unwrap().ino();
            assert_eq!(there, metadata(p.path("data/project")).unwrap().ino());
        }
        let message = format!("trash {} is full", String::from_utf8_lossy(trash));
        assert_eq!(checked.in_own_words(&message), format!("trash {} is full", way.display()));
    }
}
