//! How files are spread over sizes and ages: a few classes each, with their files and bytes.
//!
//! Invariant: a file is in one class of sizes and in one of ages, chosen by its attributes and the job's submission
//! alone, so that it does not matter who counts it, or when. What travels is as long as what is in it.

use super::{Metadata, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Classes of sizes: nothing; up to 1 KiB; then up to four times as much each, up to 1 TiB; more.
pub const SIZES: usize = 18;
/// Classes of ages: [`AGE_DAYS`], older, and newer than the job.
pub const AGES: usize = AGE_DAYS.len() + 2;
/// Files of a class were changed at most so many days before the job was submitted.
pub const AGE_DAYS: [u32; 9] = [1, 7, 30, 90, 180, 365, 730, 1825, 3650];
/// The class of what was changed after the job was submitted.
pub const NEWER: usize = AGES - 1;

const DAY_SECONDS: i64 = 86_400;
const NUMBERS: usize = 2 * (SIZES + AGES);

/// Files and bytes of one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Class {
    /// How many files.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
}

/// Regular files by size and by age.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spread {
    /// By size, smallest first; see [`size_limit`].
    pub sizes: [Class; SIZES],
    /// By the time since they were changed, newest first but for those newer than the job, at [`NEWER`].
    pub ages: [Class; AGES],
}

/// The class of a size.
pub fn size_class(bytes: u64) -> usize {
    let Some(below) = bytes.checked_sub(1) else { return 0 };
    let bits = u64::BITS - below.leading_zeros();
    (1 + bits.saturating_sub(10).div_ceil(2) as usize).min(SIZES - 1)
}

/// Files of a class hold at most so many bytes; none: there is no limit.
pub fn size_limit(class: usize) -> Option<u64> {
    match class {
        0 => Some(0),
        c if c < SIZES - 1 => Some(1 << (10 + 2 * (c - 1))),
        _ => None,
    }
}

/// The class of a file that was changed at a time, in a job that was submitted at another.
pub fn age_class(changed: Timestamp, submitted: Timestamp) -> usize {
    if changed > submitted {
        return NEWER;
    }
    // Whoever writes times before the universe began gets the oldest class.
    let seconds = submitted.sec.saturating_sub(changed.sec);
    AGE_DAYS.iter().position(|days| seconds <= i64::from(*days) * DAY_SECONDS).unwrap_or(AGE_DAYS.len())
}

impl Spread {
    /// Counts a regular file.
    pub fn count(&mut self, file: &Metadata, submitted: Timestamp) {
        let places = [&mut self.sizes[size_class(file.size)], &mut self.ages[age_class(file.mtime, submitted)]];
        for class in places {
            class.files += 1;
            class.bytes = class.bytes.saturating_add(file.size);
        }
    }

    fn classes(&self) -> impl Iterator<Item = &Class> {
        self.sizes.iter().chain(&self.ages)
    }

    fn each(&mut self, other: &Spread, change: impl Fn(u64, u64) -> u64) {
        for (class, more) in self.sizes.iter_mut().chain(&mut self.ages).zip(other.classes()) {
            (class.files, class.bytes) = (change(class.files, more.files), change(class.bytes, more.bytes));
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Spread) {
        self.each(other, u64::saturating_add);
    }

    /// Takes out what was added before.
    pub fn take_back(&mut self, other: &Spread) {
        self.each(other, u64::saturating_sub);
    }

    /// Nothing in it?
    pub fn is_empty(&self) -> bool {
        self.classes().all(|class| *class == Class::default())
    }

    /// Its numbers in the order in which they travel.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        self.classes().flat_map(|class| [class.files, class.bytes])
    }

    /// Puts a number where [`numbers`](Spread::numbers) has it; none if there is no such place.
    fn set(&mut self, place: usize, number: u64) -> Option<()> {
        let class = self.sizes.iter_mut().chain(&mut self.ages).nth(place / 2)?;
        *(if place.is_multiple_of(2) { &mut class.files } else { &mut class.bytes }) = number;
        Some(())
    }
}

/// Only what is not zero travels, as pairs of place and number.
impl Serialize for Spread {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let told: Vec<(u8, u64)> = (0..).zip(self.numbers()).filter(|(_, number)| *number != 0).collect();
        told.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Spread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let told = Vec::<(u8, u64)>::deserialize(deserializer)?;
        let strange = || serde::de::Error::custom("no such class of files");
        if told.len() > NUMBERS {
            return Err(strange());
        }
        let mut spread = Spread::default();
        for (place, number) in told {
            spread.set(usize::from(place), number).ok_or_else(strange)?;
        }
        Ok(spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SUBMITTED: Timestamp = Timestamp { sec: 1_700_000_000, ns: 500 };

    fn written<T: Serialize>(value: &T) -> Vec<u8> {
        bincode::serde::encode_to_vec(value, bincode::config::standard()).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Spread, bincode::error::DecodeError> {
        bincode::serde::decode_from_slice(bytes, bincode::config::standard()).map(|(spread, _)| spread)
    }

    fn before(days: i64, seconds: i64) -> Timestamp {
        Timestamp { sec: SUBMITTED.sec - days * DAY_SECONDS - seconds, ..SUBMITTED }
    }

    #[test]
    fn a_size_that_is_a_limit_is_in_the_class_below_it() {
        for (bytes, class) in [
            (0, 0),
            (1, 1),
            (1024, 1),
            (1025, 2),
            (4096, 2),
            (4097, 3),
            (1 << 20, 6),
            ((1 << 20) + 1, 7),
            (1 << 40, SIZES - 2),
            ((1 << 40) + 1, SIZES - 1),
            (u64::MAX, SIZES - 1),
        ] {
            assert_eq!(size_class(bytes), class, "{bytes}");
        }
    }

    #[test]
    fn an_age_is_counted_from_the_submission() {
        for (changed, class) in [
            (SUBMITTED, 0),
            (Timestamp { ns: 501, ..SUBMITTED }, NEWER),
            (before(1, 0), 0),
            (before(1, 1), 1),
            (before(365, 0), 5),
            (before(3650, 1), AGE_DAYS.len()),
            (Timestamp { sec: i64::MIN, ns: 0 }, AGE_DAYS.len()),
            (Timestamp { sec: i64::MAX, ns: 0 }, NEWER),
        ] {
            assert_eq!(age_class(changed, SUBMITTED), class, "{changed:?}");
        }
    }

    #[test]
    fn an_empty_one_is_a_byte_and_a_strange_one_is_refused() {
        assert_eq!(written(&Spread::default()), [0]);
        assert!(read(&written(&vec![(NUMBERS as u8, 7_u64)])).is_err());
        assert!(read(&written(&vec![(0_u8, 7_u64); NUMBERS + 1])).is_err());
    }

    proptest! {
        #[test]
        fn every_size_is_within_the_limits_of_its_class(bytes: u64) {
            let class = size_class(bytes);
            prop_assert!(size_limit(class).is_none_or(|most| bytes <= most));
            prop_assert!(class == 0 || size_limit(class - 1).is_some_and(|most| bytes > most));
        }

        #[test]
        fn what_travels_and_what_is_taken_back_is_what_was_added(
            ours in proptest::collection::vec((0..NUMBERS, any::<u32>()), 0..9),
            theirs in proptest::collection::vec((0..NUMBERS, any::<u32>()), 0..9),
        ) {
            let make = |numbers: Vec<(usize, u32)>| {
                let mut spread = Spread::default();
                numbers.into_iter().for_each(|(place, n)| spread.set(place, n.into()).unwrap());
                spread
            };
            let (ours, theirs) = (make(ours), make(theirs));
            let mut both = ours;
            both.add(&theirs);
            let sum = |s: &Spread| s.numbers().sum::<u64>();
            prop_assert_eq!(sum(&both), sum(&ours) + sum(&theirs));
            prop_assert_eq!(read(&written(&both)).unwrap(), both);
            both.take_back(&theirs);
            prop_assert_eq!(both, ours);
        }
    }
}
