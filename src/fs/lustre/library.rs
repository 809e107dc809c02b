//! Lustre's library, opened when it is first needed. Older ones lack some calls, and most machines have none at all:
//! then files below `/sys` and `/proc` tell, or it stays unknown.

use super::sys::Api;
use std::ffi::{CString, OsString};
use std::path::Path;
use std::sync::OnceLock;

/// Names another shared object, for installations in odd places.
const LIBRARY_VARIABLE: &str = "TREEHAUL_LIBLUSTREAPI";
/// The version of its interface is part of the name.
const LIBRARY: &str = "liblustreapi.so.1";
/// Where the client's version stands (Lustre 2.9 and later, and before).
const VERSION_FILES: [&str; 2] = ["/sys/fs/lustre/version", "/proc/fs/lustre/version"];
/// Where pools are listed: a folder for each mount of a filesystem, named after it.
const POOL_FOLDERS: [&str; 2] = ["/proc/fs/lustre/lov", "/sys/kernel/debug/lustre/lov"];

/// What is not asked of the kernel itself.
pub struct Library(Option<Api>);

impl Library {
    /// The library of this process. It stays open.
    pub fn get() -> &'static Library {
        static LIBRARY_OF_THIS_PROCESS: OnceLock<Library> = OnceLock::new();
        LIBRARY_OF_THIS_PROCESS.get_or_init(|| {
            let name = std::env::var_os(LIBRARY_VARIABLE).filter(|name| !name.is_empty());
            Library(Api::open(&name.unwrap_or_else(|| OsString::from(LIBRARY))))
        })
    }

    /// Is it there?
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Version of the client.
    pub fn version(&self) -> Option<String> {
        let told = self.0.as_ref().and_then(Api::version);
        told.or_else(|| VERSION_FILES.iter().find_map(|file| version_in(&std::fs::read_to_string(file).ok()?)))
    }

    /// Name of the filesystem that a path lies on. Only the library tells.
    pub fn filesystem_of(&self, path: &[u8]) -> Option<String> {
        self.0.as_ref()?.filesystem_of(&CString::new(path).ok()?)
    }

    /// Names of a filesystem's pools, sorted; none where that cannot be told.
    pub fn pools(&self, filesystem: &str) -> Option<Vec<String>> {
        let told = self.0.as_ref().and_then(|api| api.pools(&CString::new(filesystem).ok()?));
        let names = match told {
            Some(names) => names.into_iter().map(|name| without_filesystem(&name, filesystem)).collect(),
            None => POOL_FOLDERS.iter().find_map(|folder| pools_in(Path::new(folder), filesystem))?,
        };
        let mut names: Vec<String> = names;
        names.sort_unstable();
        Some(names)
    }
}

fn without_filesystem(name: &str, filesystem: &str) -> String {
    name.strip_prefix(filesystem).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name).to_owned()
}

/// `2.17.0`, or in older ones `lustre: 2.5.3` and lines of other things.
fn version_in(text: &str) -> Option<String> {
    let line = text.lines().next()?;
    let version = line.strip_prefix("lustre:").unwrap_or(line).trim();
    (!version.is_empty()).then(|| version.to_owned())
}

/// Pools are files in `<filesystem>-clilov-<instance>/pools`; servers have folders of other names, which hold the same.
fn pools_in(folder: &Path, filesystem: &str) -> Option<Vec<String>> {
    let is_of = |name: &str| name.strip_prefix(filesystem).is_some_and(|rest| rest.starts_with("-clilov"));
    let mounts = std::fs::read_dir(folder).ok()?.flatten();
    let mut mounts = mounts.filter(|entry| is_of(&entry.file_name().to_string_lossy()));
    let pools = std::fs::read_dir(mounts.next()?.path().join("pools")).ok()?;
    Some(pools.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_new_and_old_files() {
        assert_eq!(version_in("2.17.0\n").as_deref(), Some("2.17.0"));
        assert_eq!(version_in("lustre: 2.5.3\nkernel: patchless_client\n").as_deref(), Some("2.5.3"));
        assert_eq!((version_in(""), version_in("\n")), (None, None));
    }

    #[test]
    fn pools_of_the_right_filesystem_are_listed_and_an_unknown_one_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a-clilov-ffff01/pools", "ab-clilov-ffff02/pools", "b-clilov-ffff03"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        std::fs::write(dir.path().join("a-clilov-ffff01/pools/fast"), "").unwrap();
        assert_eq!(pools_in(dir.path(), "a"), Some(vec!["fast".to_owned()]));
        assert_eq!(pools_in(dir.path(), "ab"), Some(Vec::new()));
        assert_eq!((pools_in(dir.path(), "b"), pools_in(dir.path(), "c")), (None, None));
        assert_eq!(pools_in(&dir.path().join("nothing"), "a"), None);
    }

    #[test]
    fn a_pools_name_is_its_own() {
        assert_eq!(without_filesystem("lsrc.fast", "lsrc"), "fast");
        assert_eq!(without_filesystem("fast", "lsrc"), "fast");
        assert_eq!(without_filesystem("other.fast", "lsrc"), "other.fast");
    }
}
