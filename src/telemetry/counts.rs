//! What is counted, and under which names it is known outside.
//!
//! Invariant: [`COUNTERS`] is the one description of counters; a key, a path and a metric of one are made from its row.

use crate::model::latency::{Call, Histogram};
use crate::model::{JobId, Totals};

/// A counter of an actor.
#[derive(Debug)]
pub struct Counter {
    /// The last part of its memcached key and Graphite path.
    pub key: &'static str,
    /// The name of its Prometheus family, in base units, without `_total`.
    pub metric: &'static str,
    /// What it counts.
    pub help: &'static str,
}

macro_rules! counters {
    ($($field:ident: $key:literal, $metric:literal, $help:literal;)* + $($own:ident: $own_key:literal, $own_metric:literal, $own_help:literal;)*) => {
        /// Every counter: those of [`Totals`], then what only an actor knows.
        pub const COUNTERS: &[Counter] = &[
            $(Counter { key: $key, metric: $metric, help: $help },)*
            $(Counter { key: $own_key, metric: $own_metric, help: $own_help },)*
        ];
        /// How many there are.
        pub const COUNTED: usize = COUNTERS.len();
        /// What an actor counted, in the order of [`COUNTERS`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Tally {
            /// From reports of tasks.
            pub totals: Totals,
            $(#[doc = $own_help] pub $own: u64,)*
        }
        impl Tally {
            /// The values.
            pub fn values(&self) -> [u64; COUNTED] {
                [$(self.totals.$field,)* $(self.$own,)*]
            }
            /// Adds another's.
            pub fn add(&mut self, other: &Tally) {
                self.totals.add(&other.totals);
                $(self.$own = self.$own.saturating_add(other.$own);)*
            }
        }
    };
}

counters! {
    found: "found", "treehaul_found_entries", "Entries found";
    copied: "copied", "treehaul_copied_entries", "Entries made or written anew";
    updated: "updated", "treehaul_updated_entries", "Entries of which only attributes were set";
    unchanged: "skipped", "treehaul_skipped_entries", "Entries that were right already";
    failed: "failed", "treehaul_failed_entries", "Entries that failed";
    vanished: "vanished", "treehaul_vanished_entries", "Entries that were gone when their turn came";
    changed_while_copying: "changed", "treehaul_changed_entries", "Files that kept changing while they were copied";
    filtered: "filtered", "treehaul_filtered_entries", "Entries left out by filters and options";
    deleted: "deleted", "treehaul_deleted_entries", "Entries removed from the target";
    same: "same", "treehaul_same_entries", "Entries verified to be the same";
    different: "different", "treehaul_different_entries", "Entries verified to be different";
    extra: "extra", "treehaul_extra_entries", "Entries that only the target has";
    target_found: "target_found", "treehaul_target_found_entries", "Entries of the target looked at for what only it has";
    directories: "dirs", "treehaul_directories", "Directories gone through";
    files: "files", "treehaul_files", "Regular files gone through";
    symlinks: "symlinks", "treehaul_symlinks", "Symbolic links gone through";
    specials: "specials", "treehaul_specials", "Fifos, sockets and device nodes gone through";
    hard_links: "links", "treehaul_hard_links", "Names made as further hard links";
    bytes_copied: "bytes", "treehaul_copied_bytes", "Data written";
    bytes_read: "bytes_read", "treehaul_read_bytes", "Data read to be compared";
    bytes_found: "bytes_found", "treehaul_found_bytes", "Sizes of all files gone through";
    leftovers_removed: "leftovers", "treehaul_removed_leftovers", "Working files of killed runs that were removed";
    lost_owner: "lost_owner", "treehaul_lost_owners", "Entries whose owner or group could not be kept";
    lost_mode: "lost_mode", "treehaul_lost_modes", "Entries whose permission bits could not be kept";
    lost_times: "lost_times", "treehaul_lost_times", "Entries whose times could not be kept";
    lost_xattrs: "lost_xattrs", "treehaul_lost_xattrs", "Extended attributes that could not be kept";
    lost_acls: "lost_acls", "treehaul_lost_acls", "ACLs that could not be kept";
    lost_hard_links: "lost_links", "treehaul_lost_hard_links", "Groups of hard links that became separate files";
    lost_projects: "lost_projects", "treehaul_lost_projects", "Quota projects that could not be kept";
    lost_layouts: "lost_layouts", "treehaul_lost_layouts", "Layouts that the target would not take";
    lost_pools: "lost_pools", "treehaul_lost_pools", "Pools in layouts that the target has not";
    misplaced: "misplaced", "treehaul_misplaced_directories", "Directories on another MDT than meant";
    released: "released", "treehaul_released_files", "Files left out since their data are only in an archive";
    +
    tasks: "tasks", "treehaul_tasks", "Tasks worked on";
    retried: "retried", "treehaul_retried_tasks", "Tasks that somebody may have worked on before";
    panicked: "panicked", "treehaul_panicked_tasks", "Tasks that panicked their actor";
}

/// An actor of a node, and what it counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorCounts {
    /// For which job.
    pub job: JobId,
    /// "dirs" or "files".
    pub pool: &'static str,
    /// Its number in the pool.
    pub number: u64,
    /// By [`COUNTERS`].
    pub values: [u64; COUNTED],
}

/// How long calls of a job took on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallTimes {
    /// For which job.
    pub job: JobId,
    /// Which call.
    pub call: Call,
    /// How long.
    pub times: Histogram,
}

/// How full a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetSpace {
    /// Of which job.
    pub job: JobId,
    /// How full.
    pub space: crate::model::fleet::Space,
}

/// What a node is doing at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gauges {
    /// Actors, by pool: dirs, files.
    pub actors: [u32; 2],
    /// Those with a task in hand.
    pub busy: [u32; 2],
    /// Deliveries that it holds.
    pub in_flight: u64,
    /// How long tasks that were taken lately had waited since they were posted, on average, in microseconds.
    pub queue_wait_us: u64,
    /// The broker takes no messages: it has an alarm.
    pub blocked: bool,
    /// Memory that the process holds, in bytes.
    pub rss_bytes: u64,
    /// How full targets are.
    pub targets: Vec<TargetSpace>,
}

/// What a node counted: since it was last asked, or in all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// By actor; those that counted nothing need not be named.
    pub actors: Vec<ActorCounts>,
    /// By job and call; those that nobody made need not be named.
    pub calls: Vec<CallTimes>,
    /// At this moment.
    pub gauges: Gauges,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_total_is_a_counter_of_its_own_name() {
        let names = |of: fn(&Counter) -> &'static str| COUNTERS.iter().map(of).collect::<BTreeSet<_>>().len();
        assert_eq!((names(|c| c.key), names(|c| c.metric)), (COUNTED, COUNTED));
        let tally = Tally { totals: Totals { hard_links: 7, ..Totals::default() }, retried: 3, ..Tally::default() };
        let value = |key: &str| tally.values()[COUNTERS.iter().position(|c| c.key == key).unwrap()];
        assert_eq!((value("links"), value("retried"), value("files")), (7, 3, 0));
        assert_eq!(Totals::default().iter().count() + 3, COUNTED);
    }
}
