//! What this node's kernel shows of Lustre servers that run on it, in files.
//!
//! Invariant: nothing is asked of another node, and nothing is changed.

use std::path::{Path, PathBuf};

/// Where the kernel shows it: as of 2.10 below `/sys`, before that below `/proc`.
pub(super) struct Kernel {
    /// Directories of parameters, each with one below it for a kind of device.
    parameters: Vec<PathBuf>,
    devices: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        Kernel::at(Path::new("/"))
    }
}

impl Kernel {
    fn at(root: &Path) -> Self {
        let below = ["sys/fs/lustre", "sys/kernel/debug/lustre", "proc/fs/lustre"];
        Kernel { parameters: below.map(|path| root.join(path)).to_vec(), devices: root.join("dev") }
    }

    /// What `hsm_control` says on each MDT of a filesystem that runs here; empty if none does.
    pub fn hsm_control(&self, fsname: &str) -> Vec<String> {
        self.of_mdts("mdt", fsname, "hsm_control").into_iter().map(|text| text.trim().to_owned()).collect()
    }

    /// Copytools that are at the service of MDTs that run here.
    pub fn copytools(&self, fsname: &str) -> usize {
        let lists = self.of_mdts("mdt", fsname, "hsm/agents");
        // Each has itself put down with every MDT.
        lists.iter().map(|text| text.lines().filter(|line| line.starts_with("uuid=")).count()).max().unwrap_or(0)
    }

    /// Users of the changelogs of MDTs that run here; none if none does.
    pub fn changelog_users(&self, fsname: &str) -> Option<usize> {
        let lists = self.of_mdts("mdd", fsname, "changelog_users");
        let users = |text: &String| text.lines().filter(|line| is_user(line)).count();
        (!lists.is_empty()).then(|| lists.iter().map(users).sum())
    }

    /// Has this node got the devices that changelogs are read from?
    pub fn has_changelog_devices(&self, fsname: &str) -> bool {
        let prefix = format!("changelog-{fsname}-MDT");
        let Ok(names) = std::fs::read_dir(&self.devices) else { return false };
        names.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
    }

    /// Number and size of the stripes of a file that nothing else is said of, as the servers told this client; a
    /// negative number is one stripe on each OST.
    pub fn usual_stripes(&self, fsname: &str) -> Option<(i64, u64)> {
        let first = |name| self.of_all("lov", &format!("{fsname}-clilov-"), name).into_iter().next();
        let (count, size) = (first("stripecount")?, first("stripesize")?);
        Some((count.trim().parse().ok()?, size.trim().parse().ok()?))
    }

    /// The contents of one parameter of every MDT.
    fn of_mdts(&self, kind: &str, fsname: &str, name: &str) -> Vec<String> {
        self.of_all(kind, &format!("{fsname}-MDT"), name)
    }

    /// The contents of one parameter of every device of a kind whose name begins so.
    fn of_all(&self, kind: &str, prefix: &str, name: &str) -> Vec<String> {
        let all = self.parameters.iter().filter_map(|path| std::fs::read_dir(path.join(kind)).ok());
        let mut devices: Vec<_> = all.flat_map(|dir| dir.flatten().map(|entry| entry.path())).collect();
        devices.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
        devices.iter().filter_map(|path| std::fs::read_to_string(path.join(name)).ok()).collect()
    }
}

/// `cl1`, or `cl1-name`, in the first column.
fn is_user(line: &str) -> bool {
    line.strip_prefix("cl").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn put(root: &Path, path: &str, text: &str) {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), text).unwrap();
    }

    #[test]
    fn a_client_alone_knows_nothing_and_a_server_what_runs_on_it() {
        let root = tempfile::tempdir().unwrap();
        let kernel = Kernel::at(root.path());
        assert_eq!((kernel.hsm_control("a"), kernel.changelog_users("a")), (Vec::new(), None));
        assert!(!kernel.has_changelog_devices("a"));
        put(root.path(), "dev/changelog-a-MDT0000", "");
        put(root.path(), "sys/fs/lustre/mdt/a-MDT0000/hsm_control", "enabled\n");
        put(root.path(), "sys/fs/lustre/mdt/a-MDT0001/hsm_control", "stopped\n");
        put(root.path(), "sys/fs/lustre/mdt/ab-MDT0000/hsm_control", "disabled\n");
        let agents = "uuid=1 archive_id=ANY requests=[]\nuuid=2 archive_id=1 requests=[]\n";
        put(root.path(), "sys/kernel/debug/lustre/mdt/a-MDT0000/hsm/agents", agents);
        let users = "current_index: 4\nID    index (idle) mask\ncl1   4 (3)\ncl2-robin 0 (9) mask=HSM\n";
        put(root.path(), "sys/kernel/debug/lustre/mdd/a-MDT0000/changelog_users", users);
        put(root.path(), "proc/fs/lustre/mdd/a-MDT0001/changelog_users", "current_index: 0\nID index\n");
        let mut states = kernel.hsm_control("a");
        states.sort();
        assert_eq!(states, ["enabled", "stopped"]);
        assert_eq!((kernel.copytools("a"), kernel.changelog_users("a")), (2, Some(2)));
        assert_eq!(kernel.usual_stripes("a"), None);
        put(root.path(), "sys/fs/lustre/lov/a-MDT0000-mdtlov/stripecount", "7\n");
        put(root.path(), "sys/fs/lustre/lov/a-clilov-ffff8881/stripecount", "-1\n");
        put(root.path(), "sys/fs/lustre/lov/a-clilov-ffff8881/stripesize", "4194304\n");
        assert_eq!(kernel.usual_stripes("a"), Some((-1, 4 << 20)));
        assert!(kernel.has_changelog_devices("a") && !kernel.has_changelog_devices("b"));
    }
}
