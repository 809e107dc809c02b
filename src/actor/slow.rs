//! Where an actor's time goes, told of directories that took long.
//!
//! Invariant: what is told is little, however many directories there are. A directory is told of when an actor spent a
//! thousandth of its time in it; so the longer an actor works, the more it takes to be told.

use crate::model::{JobId, Slow, Spent, Task};
use std::collections::HashMap;
use std::time::Duration;

/// Directories that an actor keeps in mind; it rarely comes back to one later.
const KEPT: usize = 64;
/// A directory is told of if it took this part of the actor's time.
const PART: u32 = 1000;
/// But not if it took less than that.
const LEAST: Duration = Duration::from_millis(1);
/// And always if it took that.
const MOST: Duration = Duration::from_secs(1);

/// What one actor spent its time on lately.
#[derive(Default)]
pub(super) struct Spending {
    busy: Duration,
    directories: HashMap<(JobId, Vec<u8>), Spent>,
}

impl Spending {
    /// Takes in what a task took. Tells of its directory, if it is worth it.
    pub fn take(&mut self, job: JobId, task: &Task, took: Duration, mut spent: Spent) -> Option<Slow> {
        self.busy += took;
        spent.micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let key = (job, directory_of(task));
        if let Some(before) = self.directories.get(&key) {
            spent.add(*before);
        }
        if Duration::from_micros(spent.micros) >= (self.busy / PART).clamp(LEAST, MOST) {
            self.directories.remove(&key);
            return Some(Slow { directory: key.1, spent });
        }
        self.directories.insert(key, spent);
        if self.directories.len() > KEPT {
            self.forget();
        }
        None
    }

    /// Forgets the half that took least.
    fn forget(&mut self) {
        let mut times: Vec<u64> = self.directories.values().map(|spent| spent.micros).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        self.directories.retain(|_, spent| spent.micros > median);
    }
}

/// The directory that a task is about. One about several directories belongs to the one that holds them.
fn directory_of(task: &Task) -> Vec<u8> {
    match task {
        Task::Dirs { parent, .. } | Task::Finish { parent, .. } => match task.only_name() {
            Some(name) => parent.display_join(name),
            None => parent.as_bytes().to_vec(),
        },
        _ => task.directory().as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RelPath;
    use crate::model::task::Names;

    const TEN: Spent = Spent { micros: 0, entries: 10, bytes: 100 };

    fn task(parent: &str, children: &[&str]) -> Task {
        let mut names = Names::default();
        children.iter().for_each(|name| names.push(0, name.as_bytes()).unwrap());
        Task::Dirs { parent: RelPath::parse(parent.as_bytes().to_vec()).unwrap(), names }
    }

    #[test]
    fn a_task_about_one_directory_is_that_ones_and_one_about_several_their_parents() {
        assert_eq!(directory_of(&task("a", &["b"])), b"a/b");
        assert_eq!(directory_of(&task("a", &["b", "c"])), b"a");
        assert_eq!(directory_of(&Task::root()), b"");
        let (dir, names) = (RelPath::parse(b"a".to_vec()).unwrap(), Names::default());
        assert_eq!(directory_of(&Task::Pick { dir, names }), b"a");
    }

    #[test]
    fn short_tasks_of_one_directory_are_told_together_and_once() {
        let (mut spending, job) = (Spending::default(), JobId::random());
        let mut take = |micros| spending.take(job, &task("a", &["b"]), Duration::from_micros(micros), TEN);
        assert_eq!((take(400), take(400)), (None, None));
        let told = take(400).unwrap();
        assert_eq!(told, Slow { directory: b"a/b".to_vec(), spent: Spent { micros: 1200, entries: 30, bytes: 300 } });
        assert_eq!(take(400), None);
    }

    #[test]
    fn what_is_told_and_kept_is_little_and_what_takes_long_is_told() {
        let (mut spending, job) = (Spending::default(), JobId::random());
        let mut told = 0;
        for n in 0..200_000 {
            let name = n.to_string();
            told += u64::from(spending.take(job, &task("a", &[&name]), Duration::from_millis(5), TEN).is_some());
            assert!(spending.directories.len() <= KEPT);
        }
        assert!((1..=2000).contains(&told), "{told}");
        assert!(spending.take(job, &task("a", &["long"]), MOST, TEN).is_some());
    }
}
