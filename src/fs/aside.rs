//! Names of working files, and the hidden directory at a target's root.
//!
//! Invariant: a working file carries the id of its job, so that a later job can tell what a killed one
//! left from what a running one still needs.

use crate::model::JobId;
use crate::model::job::ID_CHARS;
use std::sync::atomic::{AtomicU64, Ordering};

/// The hidden directory at a target's root: one folder for each job that is at work.
pub const WORK_DIR: &[u8] = b".treehaul";
const PREFIX: &[u8] = b".treehaul-";

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// A name that no other process and no other call makes: job, process, sequence. 61 bytes at most, so
/// that it fits beside a name of 255.
pub fn aside_name(job: JobId) -> Vec<u8> {
    static PROCESS: std::sync::OnceLock<JobId> = std::sync::OnceLock::new();
    let process = PROCESS.get_or_init(JobId::random);
    let n = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    format!(".treehaul-{job}-{process}-{n:x}").into_bytes()
}

/// The job that made a working file of this name; none if it is no working file's.
pub fn job_of(name: &[u8]) -> Option<JobId> {
    let rest = name.strip_prefix(PREFIX)?;
    let (job, rest) = rest.split_at_checked(ID_CHARS)?;
    let (dash, rest) = rest.split_first()?;
    let (process, rest) = rest.split_at_checked(ID_CHARS)?;
    let sequence = rest.strip_prefix(b"-")?;
    let is_hex = !sequence.is_empty() && sequence.iter().all(u8::is_ascii_hexdigit);
    (*dash == b'-' && is_hex && JobId::parse(process).is_some()).then(|| JobId::parse(job))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_file_tells_its_job_and_a_users_file_does_not() {
        let job = JobId::random();
        let name = aside_name(job);
        assert_eq!(job_of(&name), Some(job));
        assert_ne!(name, aside_name(job));
        for other in [&b".treehaul"[..], b".treehaul-notes", b".treehaul-0000000000000-x-1", b"a", &name[1..]] {
            assert_eq!(job_of(other), None);
        }
    }
}
