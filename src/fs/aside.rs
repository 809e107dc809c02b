//! Names of working files, and the hidden directory at a target's root.
//!
//! Invariant: a working file carries the id of its job, so that a later job can tell what a killed one
//! left from what a running one still needs. A part file, which holds a large file's data while it is copied in
//! chunks, also carries the key of its record: it outlives its job as long as the record names it.

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

const PART_PREFIX: &[u8] = b".treehaul-part-";
/// Hex digits of a record's key.
const KEY_CHARS: usize = 32;

/// Name of a part file: the record's key, the job that made it, and a number that no other has. 78 bytes.
pub fn part_name(key: u128, job: JobId, number: u64) -> Vec<u8> {
    format!(".treehaul-part-{key:032x}-{job}-{number:016x}").into_bytes()
}

/// Key and maker of a part file of this name; none if it is no part file's.
pub fn part_of(name: &[u8]) -> Option<(u128, JobId)> {
    let (key, rest) = name.strip_prefix(PART_PREFIX)?.split_at_checked(KEY_CHARS)?;
    let (job, number) = rest.strip_prefix(b"-")?.split_at_checked(ID_CHARS)?;
    let number = number.strip_prefix(b"-")?;
    let is_hex = |text: &[u8]| text.iter().all(u8::is_ascii_hexdigit);
    if number.len() != 16 || !is_hex(number) || !is_hex(key) {
        return None;
    }
    let key = u128::from_str_radix(std::str::from_utf8(key).ok()?, 16).ok()?;
    Some((key, JobId::parse(job)?))
}

/// Is it the name of a working file of any kind? It is nobody's data.
pub fn is_working_file(name: &[u8]) -> bool {
    name.starts_with(PREFIX) && (job_of(name).is_some() || part_of(name).is_some())
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

    #[test]
    fn a_part_file_tells_its_record_and_is_not_taken_for_another_working_file() {
        let job = JobId::random();
        for key in [0, 7, u128::MAX] {
            let name = part_name(key, job, 3);
            assert_eq!(part_of(&name), Some((key, job)));
            assert_eq!(job_of(&name), None);
            assert!(is_working_file(&name) && name.len() == 78);
            assert_eq!(part_of(&name[..name.len() - 1]), None);
        }
        assert_eq!(part_of(&aside_name(job)), None);
        assert!(is_working_file(&aside_name(job)) && !is_working_file(b".treehaul-part-notes"));
    }
}
