//! On which MDT a directory is made.
//!
//! Invariant: what is answered depends on the policy, the MDTs, the directory above and the place among its
//! directories alone; and it is always each usable MDT once, the wanted one first.

use super::{LustrePolicy, Mdt, MdtPolicy};
use crate::model::RelPath;
use xxhash_rust::xxh3::xxh3_64;

/// The golden ratio's fraction of 2^64: multiples of it are spread evenly, however many there are.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// More than any MDT has; the shares of all that there may be still add up.
const MOST_INODES: u64 = 1 << 40;

/// Decides on which MDT directories are made, ready to use.
#[derive(Debug, Clone)]
pub struct Placer {
    way: Way,
    depth: u32,
    missing: Vec<u32>,
}

#[derive(Debug, Clone)]
enum Way {
    /// Where the directory above is.
    Inherit,
    /// Each place of the list in turn. MDTs that are not usable are passed over; others are in it.
    Turns { list: Vec<u32>, usable: Vec<u32> },
    /// MDTs, and up to where their shares reach, added up.
    Shares { mdts: Vec<u32>, reach: Vec<u64> },
}

impl Placer {
    /// Prepares a policy for a target with these MDTs. None if nothing is to be placed: the policy says so, or there
    /// are no two MDTs to choose from and none that the policy names is missing.
    pub fn new(policy: &LustrePolicy, mdts: &[Mdt]) -> Option<Self> {
        let mut active: Vec<&Mdt> = mdts.iter().filter(|mdt| mdt.active).collect();
        active.sort_by_key(|mdt| mdt.index);
        active.dedup_by_key(|mdt| mdt.index);
        let all: Vec<u32> = active.iter().map(|mdt| mdt.index).collect();
        let mut missing = Vec::new();
        let way = match &policy.mdt {
            MdtPolicy::Off => return None,
            MdtPolicy::Inherit => Way::Inherit,
            MdtPolicy::RoundRobin => Way::Turns { list: all.clone(), usable: all.clone() },
            MdtPolicy::Weighted => shares(&active),
            MdtPolicy::List(list) => {
                missing = without_repetitions(list.iter().copied().filter(|index| !all.contains(index)));
                let usable: Vec<u32> = list.iter().copied().filter(|index| all.contains(index)).collect();
                match usable.is_empty() {
                    true => Way::Turns { list: all.clone(), usable: all.clone() },
                    false => Way::Turns { list: list.clone(), usable },
                }
            }
        };
        let is_idle = all.is_empty() || all.len() < 2 && missing.is_empty();
        (!is_idle).then_some(Placer { way, depth: policy.mdt_depth, missing })
    }

    /// Is a directory in `parent` placed at all?
    pub fn places_in(&self, parent: &RelPath) -> bool {
        let path = parent.as_bytes();
        let slashes = path.iter().filter(|b| **b == b'/').count();
        let depth = if parent.is_root() { 0 } else { slashes + 1 };
        u32::try_from(depth).is_ok_and(|depth| depth < self.depth)
    }

    /// MDTs to try, the best first, for the `nth` directory (from 0, by name) in `parent`, which lies on MDT `above`.
    pub fn mdts_for(&self, parent: &RelPath, nth: u64, above: u32) -> Vec<u32> {
        // Below the root each directory begins elsewhere: the lone children of many are not all on one MDT.
        let begin = if parent.is_root() { 0 } else { xxh3_64(parent.as_bytes()) };
        match &self.way {
            Way::Inherit => vec![above],
            Way::Turns { list, usable } => {
                let len = list.len().max(1);
                let places = len as u64;
                let first = usize::try_from((begin % places + nth % places) % places).unwrap_or_default();
                let turn = list.iter().cycle().skip(first).take(len).copied();
                without_repetitions(turn.filter(|index| usable.contains(index)))
            }
            Way::Shares { mdts, reach } => {
                let point = begin.wrapping_add(nth.wrapping_mul(GOLDEN));
                let whole = u128::from(reach.last().copied().unwrap_or_default());
                let at = (u128::from(point) * whole) >> 64;
                let first = reach.iter().position(|reach| u128::from(*reach) > at).unwrap_or_default();
                mdts.iter().cycle().skip(first).take(mdts.len()).copied().collect()
            }
        }
    }

    /// MDTs that the policy names and that the target has not, or that are not active.
    pub fn missing(&self) -> &[u32] {
        &self.missing
    }
}

/// Shares by free inodes; equal ones where no MDT says how many it has.
fn shares(active: &[&Mdt]) -> Way {
    let is_told = active.iter().any(|mdt| mdt.free_inodes > 0);
    let mut sum: u64 = 0;
    let reach = active.iter().map(|mdt| {
        sum += if is_told { mdt.free_inodes.min(MOST_INODES) } else { 1 };
        sum
    });
    Way::Shares { reach: reach.collect(), mdts: active.iter().map(|mdt| mdt.index).collect() }
}

fn without_repetitions(indices: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut all = Vec::new();
    for index in indices {
        if !all.contains(&index) {
            all.push(index);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mdt(index: u32, free_inodes: u64) -> Mdt {
        Mdt { index, active: true, free_inodes, ..Mdt::default() }
    }

    fn mdts(indices: &[u32]) -> Vec<Mdt> {
        indices.iter().map(|index| mdt(*index, 1000)).collect()
    }

    fn policy(mdt: MdtPolicy) -> LustrePolicy {
        LustrePolicy { mdt, ..LustrePolicy::default() }
    }

    fn placer(way: MdtPolicy, mdts: &[Mdt]) -> Placer {
        Placer::new(&policy(way), mdts).unwrap()
    }

    /// The wanted MDTs of the first directories of the root.
    fn wanted(placer: &Placer, count: u64) -> Vec<u32> {
        (0..count).map(|nth| placer.mdts_for(&RelPath::root(), nth, 0)[0]).collect()
    }

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn first_level_directories_take_turns() {
        assert_eq!(wanted(&placer(MdtPolicy::RoundRobin, &mdts(&[0, 1])), 5), [0, 1, 0, 1, 0]);
        let sparse = placer(MdtPolicy::RoundRobin, &mdts(&[5, 0, 2]));
        assert_eq!(wanted(&sparse, 4), [0, 2, 5, 0]);
        assert_eq!(sparse.mdts_for(&RelPath::root(), 1, 0), [2, 5, 0], "the next ones stand in");
    }

    #[test]
    fn an_inactive_mdt_gets_nothing() {
        let mut all = mdts(&[0, 1, 2]);
        all[1].active = false;
        assert_eq!(wanted(&placer(MdtPolicy::RoundRobin, &all), 4), [0, 2, 0, 2]);
        assert_eq!(wanted(&placer(MdtPolicy::Weighted, &all), 4), [0, 2, 0, 2]);
        let list = placer(MdtPolicy::List(vec![1, 2, 7, 1]), &all);
        assert_eq!(list.missing(), [1, 7]);
        assert_eq!(wanted(&list, 4), [2, 2, 2, 2]);
        assert_eq!(list.mdts_for(&RelPath::root(), 0, 0), [2], "0 was not asked for");
    }

    #[test]
    fn a_list_is_followed_in_its_order() {
        let all = mdts(&[0, 1, 2, 3]);
        assert_eq!(wanted(&placer(MdtPolicy::List(vec![3, 0]), &all), 4), [3, 0, 3, 0]);
        let weights = placer(MdtPolicy::List(vec![0, 0, 1]), &all);
        assert_eq!(wanted(&weights, 6), [0, 0, 1, 0, 0, 1]);
        assert_eq!(weights.mdts_for(&RelPath::root(), 0, 0), [0, 1]);
        assert!(weights.missing().is_empty());
        let gap = placer(MdtPolicy::List(vec![0, 9, 2]), &all);
        assert_eq!(wanted(&gap, 4), [0, 2, 2, 0], "only what was meant for the missing one moves");
        let nothing_right = placer(MdtPolicy::List(vec![8, 9]), &all);
        assert_eq!((wanted(&nothing_right, 4), nothing_right.missing()), (vec![0, 1, 2, 3], &[8, 9][..]));
        assert_eq!(wanted(&placer(MdtPolicy::List(vec![1]), &all), 3), [1, 1, 1]);
    }

    #[test]
    fn nothing_is_placed_where_there_is_no_choice() {
        let none = |way, mdts: &[Mdt]| Placer::new(&policy(way), mdts).is_none();
        assert!(none(MdtPolicy::Off, &mdts(&[0, 1])));
        for way in [MdtPolicy::RoundRobin, MdtPolicy::Weighted, MdtPolicy::Inherit, MdtPolicy::List(vec![0])] {
            assert!(none(way.clone(), &mdts(&[0])) && none(way.clone(), &[]), "{way:?}");
        }
        let alone = placer(MdtPolicy::List(vec![0, 1]), &mdts(&[0]));
        assert_eq!((alone.missing(), wanted(&alone, 2)), (&[1][..], vec![0, 0]), "it has to be told");
    }

    #[test]
    fn directories_stay_with_the_one_above() {
        let placer = placer(MdtPolicy::Inherit, &mdts(&[0, 1]));
        assert_eq!(placer.mdts_for(&RelPath::root(), 0, 1), [1]);
        assert_eq!(placer.mdts_for(&path("a"), 3, 0), [0]);
    }

    #[test]
    fn weights_are_kept_however_many_directories_there_are() {
        let all = [mdt(0, 100), mdt(1, 500), mdt(4, 0), mdt(7, 400)];
        let placer = placer(MdtPolicy::Weighted, &all);
        for parent in ["", "a", "a/b"].map(path) {
            for count in [100, 10_000_u64] {
                let got: Vec<u32> = (0..count).map(|nth| placer.mdts_for(&parent, nth, 0)[0]).collect();
                for mdt in &all {
                    let share = got.iter().filter(|index| **index == mdt.index).count() as f64 / count as f64;
                    let meant = mdt.free_inodes as f64 / 1000.0;
                    assert!((share - meant).abs() < 0.04, "MDT {}: {share} of {count}", mdt.index);
                }
            }
        }
    }

    #[test]
    fn weights_of_any_size_are_shares() {
        for free in [u64::MAX, 1, 0] {
            let placer = placer(MdtPolicy::Weighted, &[mdt(0, free), mdt(1, free)]);
            let first = wanted(&placer, 1000).iter().filter(|index| **index == 0).count();
            assert!((480..=520).contains(&first), "{first} of 1000 with {free} each");
        }
    }

    #[test]
    fn only_so_many_levels_are_placed() {
        let mut policy = policy(MdtPolicy::RoundRobin);
        let placed = |policy: &LustrePolicy| {
            let placer = Placer::new(policy, &mdts(&[0, 1])).unwrap();
            ["", "a", "a/b"].map(|parent| placer.places_in(&path(parent)))
        };
        assert_eq!(placed(&policy), [true, false, false]);
        policy.mdt_depth = 2;
        assert_eq!(placed(&policy), [true, true, false]);
        policy.mdt_depth = 0;
        assert_eq!(placed(&policy), [false; 3]);
    }

    #[test]
    fn lone_children_are_spread() {
        for way in [MdtPolicy::RoundRobin, MdtPolicy::Weighted] {
            let placer = placer(way, &mdts(&[0, 1]));
            let parents = (0..1000).map(|n| path(&format!("d{n}")));
            let first = parents.filter(|parent| placer.mdts_for(parent, 0, 0)[0] == 0).count();
            assert!((400..=600).contains(&first), "{first}");
        }
    }

    fn ways() -> impl Strategy<Value = MdtPolicy> {
        prop_oneof![
            Just(MdtPolicy::RoundRobin),
            Just(MdtPolicy::Weighted),
            proptest::collection::vec(0..8_u32, 1..6).prop_map(MdtPolicy::List),
        ]
    }

    proptest! {
        #[test]
        fn each_usable_mdt_is_tried_once_and_the_answer_is_always_the_same(
            way in ways(),
            servers in proptest::collection::vec((0..8_u32, any::<bool>(), any::<u64>()), 2..8),
            parent in "[a-c]{0,3}",
            nth in any::<u64>(),
        ) {
            let all: Vec<Mdt> = servers.into_iter().map(|(index, active, free)| Mdt { active, ..mdt(index, free) }).collect();
            let Some(placer) = Placer::new(&policy(way.clone()), &all) else { return Ok(()) };
            let active = |index: u32| all.iter().any(|mdt| mdt.index == index && mdt.active);
            let mut usable: Vec<u32> = match way {
                MdtPolicy::List(list) if list.iter().any(|index| active(*index)) => list,
                _ => (0..8).collect(),
            };
            usable.retain(|index| active(*index));
            usable.sort_unstable();
            usable.dedup();
            let parent = path(&parent);
            let got = placer.mdts_for(&parent, nth, 0);
            prop_assert_eq!(&got, &placer.clone().mdts_for(&parent, nth, 7));
            let mut sorted = got;
            sorted.sort_unstable();
            prop_assert_eq!(sorted, usable);
        }
    }
}
