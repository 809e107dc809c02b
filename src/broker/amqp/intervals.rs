//! A set of numbers that are mostly counted up.
//!
//! Invariant: no two runs touch, so the set is as large as it has gaps, however many numbers are in it.

use std::collections::BTreeMap;

/// Numbers, kept as runs without a gap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Intervals {
    /// First number of each run, and its last one.
    runs: BTreeMap<u64, u64>,
}

impl Intervals {
    /// Puts a number in; false if it was there already.
    pub fn insert(&mut self, number: u64) -> bool {
        let before = self.runs.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= number) {
            return false;
        }
        let after = number.checked_add(1).and_then(|next| self.runs.remove(&next));
        let first = match before {
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        self.runs.insert(first, after.unwrap_or(number));
        true
    }

    /// Is the number in it?
    pub fn contains(&self, number: u64) -> bool {
        self.runs.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// The largest number in it.
    pub fn last(&self) -> Option<u64> {
        self.runs.last_key_value().map(|(_, last)| *last)
    }

    /// How much of it is kept.
    #[cfg(test)]
    pub fn runs(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0..40_u64, (u64::MAX - 20)..=u64::MAX]
    }

    proptest! {
        #[test]
        fn it_is_a_set_that_keeps_only_gaps(numbers in proptest::collection::vec(number(), 0..120)) {
            let (mut intervals, mut set) = (Intervals::default(), BTreeSet::new());
            for n in numbers {
                prop_assert_eq!(intervals.insert(n), set.insert(n));
                prop_assert_eq!(intervals.last(), set.last().copied());
            }
            for n in (0..42).chain(u64::MAX - 22..=u64::MAX) {
                prop_assert_eq!(intervals.contains(n), set.contains(&n));
            }
            let begins = set.iter().filter(|n| n.checked_sub(1).is_none_or(|before| !set.contains(&before)));
            prop_assert_eq!(intervals.runs(), begins.count());
        }
    }
}
