//! Jobs that are over, on the node that submitted them: what `--since JOB` goes by.
//!
//! Invariant: a job is found only if what it left alone may be taken for right by another one: it copied between the
//! same roots, by the same filters, kept at least the same attributes, and nothing failed.

use crate::model::{JobId, JobSpec, Policy, Timestamp, escaped};
use anyhow::Context;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

/// The file in the state directory, one JSON object a line.
const FILE: &str = "jobs.jsonl";
/// So many jobs are remembered.
const KEPT: usize = 1000;
/// Somebody else may put a shorter file in its place so often while it is being locked.
const MAX_TRIES: u32 = 10;
/// Passes after which the target is a copy of the source.
const COPYING: [&str; 2] = ["copy", "sync"];

/// One job that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    job: String,
    pass: String,
    /// As they were given; the bytes only where the name does not say it all.
    source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source_bytes: Option<Vec<u8>>,
    target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_bytes: Option<Vec<u8>>,
    /// When it was submitted, by that node's clock.
    sec: i64,
    ns: u32,
    exit_code: u8,
    /// What took part, as a hash.
    filter: String,
    /// What was kept of it.
    kept: Vec<String>,
}

/// Why a job says nothing about what may be skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// There is no record of it.
    #[error(
        "job {job} is not known here ({file}): jobs are remembered where they were submitted, the last {KEPT}; give a time instead"
    )]
    Unknown {
        /// The job.
        job: JobId,
        /// Where it was looked for.
        file: String,
    },
    /// It worked on something else.
    #[error("job {job} was between other roots: {source_root} and {target_root}")]
    OtherRoots {
        /// The job.
        job: JobId,
        /// Its source.
        source_root: String,
        /// Its target.
        target_root: String,
    },
    /// It did not copy.
    #[error("job {job} was a '{pass}', which copies nothing")]
    NoCopy {
        /// The job.
        job: JobId,
        /// Its pass.
        pass: String,
    },
    /// Some of it is not done.
    #[error(
        "job {job} ended with exit code {exit_code}: what failed then must be looked at again, so leave --since out"
    )]
    Incomplete {
        /// The job.
        job: JobId,
        /// How it ended.
        exit_code: u8,
    },
    /// It left out other entries.
    #[error("job {job} had other filters: what it left out would never be copied")]
    OtherFilters {
        /// The job.
        job: JobId,
    },
    /// It did not keep something that this job is to keep.
    #[error("job {job} did not keep {what}: entries would stay without")]
    KeptLess {
        /// The job.
        job: JobId,
        /// What it left alone.
        what: String,
    },
}

/// Parts of a policy that say what is kept.
fn kept(policy: &Policy) -> Vec<String> {
    let parts = [
        (policy.owner, "owners"),
        (policy.mode, "modes"),
        (policy.times, "times"),
        (policy.xattrs, "extended attributes"),
        (policy.acls, "ACLs"),
        (policy.hard_links, "hard links"),
        (policy.specials, "special files"),
    ];
    parts.iter().filter(|(on, _)| *on).map(|(_, what)| (*what).to_owned()).collect()
}

fn digest(policy: &Policy) -> String {
    let text = serde_json::to_vec(&policy.filter).unwrap_or_default();
    format!("{:032x}", xxh3_128(&text))
}

/// A root for the record: text, and its bytes if those are something else.
fn told(root: &[u8]) -> (String, Option<Vec<u8>>) {
    let shown = escaped(root);
    let differs = shown.as_bytes() != root;
    (shown, differs.then(|| root.to_vec()))
}

impl Record {
    fn of(spec: &JobSpec, exit_code: u8) -> Self {
        let (source, source_bytes) = told(&spec.source);
        let (target, target_bytes) = told(&spec.target);
        Record {
            job: spec.id.to_string(),
            pass: spec.pass.clone(),
            source,
            source_bytes,
            target,
            target_bytes,
            sec: spec.submitted.sec,
            ns: spec.submitted.ns,
            exit_code,
            filter: digest(&spec.policy),
            kept: kept(&spec.policy),
        }
    }

    /// When it was submitted, if this job may go by it.
    fn basis(&self, job: JobId, source: &[u8], target: &[u8], policy: &Policy) -> Result<Timestamp, HistoryError> {
        let (source, target) = (told(source), told(target));
        if (&self.source, &self.source_bytes, &self.target, &self.target_bytes)
            != (&source.0, &source.1, &target.0, &target.1)
        {
            let (source_root, target_root) = (escaped(self.source.as_bytes()), escaped(self.target.as_bytes()));
            return Err(HistoryError::OtherRoots { job, source_root, target_root });
        }
        if !COPYING.contains(&self.pass.as_str()) {
            return Err(HistoryError::NoCopy { job, pass: escaped(self.pass.as_bytes()) });
        }
        if self.exit_code != 0 {
            return Err(HistoryError::Incomplete { job, exit_code: self.exit_code });
        }
        if self.filter != digest(policy) {
            return Err(HistoryError::OtherFilters { job });
        }
        if let Some(what) = kept(policy).into_iter().find(|what| !self.kept.contains(what)) {
            return Err(HistoryError::KeptLess { job, what });
        }
        Ok(Timestamp { sec: self.sec, ns: self.ns })
    }
}

/// Where treehaul keeps what it remembers: `TREEHAUL_STATE_DIR`, else /var/lib/treehaul for root, else below
/// `XDG_STATE_HOME` or the home directory. None if there is no such place.
pub fn state_dir() -> Option<PathBuf> {
    let given = |name: &str| std::env::var_os(name).filter(|v: &OsString| !v.is_empty()).map(PathBuf::from);
    given("TREEHAUL_STATE_DIR").or_else(|| {
        if rustix::process::geteuid().is_root() {
            return Some(PathBuf::from("/var/lib/treehaul"));
        }
        let state = given("XDG_STATE_HOME").filter(|p| p.is_absolute());
        state.or_else(|| given("HOME").map(|home| home.join(".local/state"))).map(|p| p.join("treehaul"))
    })
}

/// Remembers a job that is over. Where that cannot be written down the job is none the worse for it.
pub fn remember(spec: &JobSpec, exit_code: u8) {
    if spec.policy.dry_run {
        return;
    }
    let Some(dir) = state_dir() else { return };
    if let Err(e) = append(&dir, &Record::of(spec, exit_code)) {
        tracing::debug!(error = format!("{e:#}"), "the job is not remembered for --since");
    }
}

fn append(dir: &Path, record: &Record) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).context("cannot make the state directory")?;
    let path = dir.join(FILE);
    let mut file = locked(&path)?;
    let mut before = Vec::new();
    file.read_to_end(&mut before)?;
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    if before.last().is_some_and(|b| *b != b'\n') {
        line.insert(0, b'\n'); // a kill in the middle of a line costs that line alone
    }
    let lines = before.iter().filter(|b| **b == b'\n').count();
    if lines < KEPT {
        return file.write_all(&line).context("cannot write to it");
    }
    // The oldest go, some at a time.
    let first = before.split_inclusive(|b| *b == b'\n').skip(lines + 1 - KEPT * 9 / 10);
    let mut fresh = tempfile::NamedTempFile::new_in(dir)?;
    for old in first {
        fresh.write_all(old)?;
    }
    fresh.write_all(&line)?;
    fresh.persist(&path)?;
    Ok(())
}

/// The file, locked and still the one of that name.
fn locked(path: &Path) -> anyhow::Result<File> {
    let mut options = File::options();
    options.read(true).append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    for _ in 0..MAX_TRIES {
        let file = options.open(path).context("cannot open the list of jobs")?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).context("cannot lock the list of jobs")?;
        let held = file.metadata()?;
        if std::fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino())) {
            return Ok(file);
        }
    }
    anyhow::bail!("the list of jobs is being replaced all the time")
}

/// When a job was submitted that another one, between these roots and by this policy, may go by.
///
/// # Errors
/// [`HistoryError`], which says what stands in the way.
pub fn find(job: JobId, source: &[u8], target: &[u8], policy: &Policy) -> Result<Timestamp, HistoryError> {
    find_in(state_dir().as_deref(), job, source, target, policy)
}

fn find_in(
    dir: Option<&Path>,
    job: JobId,
    source: &[u8],
    target: &[u8],
    policy: &Policy,
) -> Result<Timestamp, HistoryError> {
    let file = dir.map(|dir| dir.join(FILE)).unwrap_or_default();
    let text = std::fs::read(&file).unwrap_or_default();
    let name = job.to_string();
    let mut records = text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice::<Record>(line).ok());
    let Some(record) = records.rfind(|r| r.job == name) else {
        return Err(HistoryError::Unknown { job, file: escaped(file.as_os_str().as_encoded_bytes()) });
    };
    record.basis(job, source, target, policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RootIdentity;

    fn spec() -> JobSpec {
        JobSpec {
            priority: 10,
            id: JobId::random(),
            pass: "copy".into(),
            source: b"/s\xff".to_vec(),
            target: b"/t".to_vec(),
            policy: Policy::default(),
            submitted: Timestamp { sec: 1_800_000_000, ns: 5 },
            source_root: RootIdentity::default(),
            target_root: RootIdentity::default(),
        }
    }

    fn found(dir: &Path, spec: &JobSpec) -> Result<Timestamp, HistoryError> {
        find_in(Some(dir), spec.id, &spec.source, &spec.target, &spec.policy)
    }

    #[test]
    fn a_job_that_is_complete_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let spec = spec();
        append(&state, &Record::of(&spec, 0)).unwrap();
        assert_eq!(found(&state, &spec), Ok(spec.submitted));
        assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(state.join(FILE)).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_job_that_proves_nothing_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let good = spec();
        assert!(matches!(found(dir.path(), &good), Err(HistoryError::Unknown { .. })));
        append(dir.path(), &Record::of(&good, 0)).unwrap();
        let other = |change: fn(&mut JobSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            found(dir.path(), &spec).unwrap_err()
        };
        assert!(matches!(other(|s| s.source = b"/s".to_vec()), HistoryError::OtherRoots { .. }));
        assert!(matches!(other(|s| s.source = b"/s\\xff".to_vec()), HistoryError::OtherRoots { .. }));
        assert!(matches!(other(|s| s.policy.filter.max_depth = Some(3)), HistoryError::OtherFilters { .. }));
        let failed = spec();
        append(dir.path(), &Record::of(&failed, 3)).unwrap();
        assert!(matches!(found(dir.path(), &failed), Err(HistoryError::Incomplete { exit_code: 3, .. })));
        let mut bare = spec();
        bare.policy.acls = false;
        append(dir.path(), &Record::of(&bare, 0)).unwrap();
        assert_eq!(found(dir.path(), &bare), Ok(bare.submitted));
        bare.policy.acls = true;
        assert!(matches!(found(dir.path(), &bare), Err(HistoryError::KeptLess { .. })));
        let scan = JobSpec { pass: "scan".into(), ..spec() };
        append(dir.path(), &Record::of(&scan, 0)).unwrap();
        assert!(matches!(found(dir.path(), &scan), Err(HistoryError::NoCopy { .. })));
    }

    #[test]
    fn the_list_stays_short_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let one = spec();
        let line = serde_json::to_string(&Record::of(&one, 0)).unwrap() + "\n";
        std::fs::write(dir.path().join(FILE), line.repeat(KEPT)).unwrap();
        let last = spec();
        append(dir.path(), &Record::of(&last, 0)).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(text.lines().count(), KEPT * 9 / 10);
        assert_eq!(found(dir.path(), &last), Ok(last.submitted));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "working files are left");
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let specs: Vec<JobSpec> = (0..40).map(|_| spec()).collect();
        std::fs::write(dir.path().join(FILE), "not a record\n{\"cut").unwrap();
        std::thread::scope(|scope| {
            for spec in &specs {
                scope.spawn(|| append(dir.path(), &Record::of(spec, 0)).unwrap());
            }
        });
        assert!(specs.iter().all(|spec| found(dir.path(), spec).is_ok()));
    }
}
