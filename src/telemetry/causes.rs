//! Failures by what caused them.
//!
//! Invariant: what is kept does not grow with the number of failures, and counts are exact, also after some were
//! taken back.

use crate::model::{Failure, outcome::Cause};
use std::collections::HashMap;

/// Most causes that are told apart; errors come from whatever filesystem, and from messages.
const MOST: usize = 256;
/// Failures that are kept of each.
const EXAMPLES: usize = 5;

/// Failures of one cause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CauseCount {
    /// What; none: all that there was no room for.
    pub cause: Option<Cause>,
    /// How many.
    pub count: u64,
    /// The first of them, by number.
    pub examples: Vec<(u64, Failure)>,
}

/// All causes of a job.
#[derive(Debug, Default)]
pub struct Causes(HashMap<Option<Cause>, CauseCount>);

impl Causes {
    fn key(&self, cause: Cause) -> Option<Cause> {
        let has_room = self.0.len() < MOST || self.0.contains_key(&Some(cause));
        has_room.then_some(cause)
    }

    /// Counts a failure, the so manieth from 1 that was told.
    pub fn count(&mut self, number: u64, failure: &Failure) {
        let cause = self.key(failure.cause());
        let known = self.0.entry(cause).or_insert_with(|| CauseCount { cause, ..CauseCount::default() });
        known.count += 1;
        if known.examples.len() < EXAMPLES {
            known.examples.push((number, Failure { counted: None, ..failure.clone() }));
        }
    }

    /// Takes failures back: how many of each cause, and their numbers.
    pub fn take_back(&mut self, causes: &[(Cause, u64)], numbers: &[u64]) {
        for (cause, count) in causes {
            // It was counted by itself, or among those for which there was no room.
            let key = Some(*cause).filter(|cause| self.0.contains_key(&Some(*cause)));
            if let Some(known) = self.0.get_mut(&key) {
                known.count = known.count.saturating_sub(*count);
            }
        }
        for known in self.0.values_mut() {
            known.examples.retain(|(number, _)| !numbers.contains(number));
        }
        self.0.retain(|_, known| known.count > 0);
    }

    /// The most frequent first.
    pub fn list(&self) -> Vec<CauseCount> {
        let mut list: Vec<CauseCount> = self.0.values().cloned().collect();
        let words = |c: &CauseCount| c.cause.map(|cause| (cause.operation.words(), cause.errno));
        list.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| words(a).cmp(&words(b))));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Operation;

    fn failure(operation: Operation, errno: i32) -> Failure {
        Failure::new(b"p".to_vec(), operation, Some(errno), "why".to_owned())
    }

    #[test]
    fn causes_are_counted_exactly_and_examples_are_few() {
        let mut causes = Causes::default();
        for number in 1..=1000 {
            causes.count(number, &failure(Operation::Open, 13));
        }
        causes.count(1001, &failure(Operation::Read, 13));
        let list = causes.list();
        assert_eq!(list.iter().map(|c| c.count).collect::<Vec<_>>(), [1000, 1]);
        assert_eq!(list[0].examples.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_is_taken_back_is_not_counted_any_more() {
        let mut causes = Causes::default();
        for number in 1..=10 {
            causes.count(number, &failure(Operation::Open, 13));
        }
        causes.count(11, &failure(Operation::Read, 5));
        let [open, read] = [failure(Operation::Open, 13).cause(), failure(Operation::Read, 5).cause()];
        causes.take_back(&[(open, 4), (read, 1)], &[1, 2, 3, 9, 11]);
        let list = causes.list();
        assert_eq!((list.len(), list[0].cause, list[0].count), (1, Some(open), 6));
        assert_eq!(list[0].examples.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn strange_errors_do_not_fill_the_memory() {
        let mut causes = Causes::default();
        for number in 1..=5000 {
            causes.count(number, &failure(Operation::Open, number as i32));
        }
        let list = causes.list();
        assert!(list.len() <= MOST + 1);
        assert_eq!(list.iter().map(|c| c.count).sum::<u64>(), 5000);
        assert_eq!((list[0].cause, list[0].count), (None, 5000 - MOST as u64));
    }
}
