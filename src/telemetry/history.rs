//! How a job went over its time: a bounded number of samples, however long it takes.
//!
//! Invariant: samples are in order and about equally far apart. When there is no room for one more, every second goes.

use std::time::Duration;

/// Most samples: more than any plot shows.
const MOST: usize = 512;
/// Least time between two, at first.
const FIRST_STEP: Duration = Duration::from_millis(100);

/// What was done up to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Since the job began.
    pub at: Duration,
    /// Entries that were done with.
    pub entries: u64,
    /// Bytes that were written, or read to be compared.
    pub bytes: u64,
}

/// Samples of one job.
#[derive(Debug, Clone)]
pub struct History {
    step: Duration,
    samples: Vec<Sample>,
}

impl Default for History {
    fn default() -> Self {
        let begin = Sample { at: Duration::ZERO, entries: 0, bytes: 0 };
        History { step: FIRST_STEP, samples: vec![begin] }
    }
}

impl History {
    /// Takes a sample, if it is time for one.
    pub fn take(&mut self, sample: Sample) {
        if self.samples.last().is_some_and(|last| sample.at < last.at + self.step) {
            return;
        }
        if self.samples.len() >= MOST {
            let mut number = 0;
            self.samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.step *= 2;
            return self.take(sample);
        }
        self.samples.push(sample);
    }

    /// All of them, and how it stands at last.
    pub fn until(&self, last: Sample) -> Vec<Sample> {
        let mut samples = self.samples.clone();
        // One that lies too close to it would show a pace of its own.
        while samples.len() > 1 && samples.last().is_some_and(|before| last.at < before.at + self.step / 2) {
            samples.pop();
        }
        if samples.last().is_some_and(|before| before.at < last.at) {
            samples.push(last);
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ms: u64) -> Sample {
        Sample { at: Duration::from_millis(ms), entries: ms, bytes: 2 * ms }
    }

    #[test]
    fn a_week_has_room_and_is_sampled_evenly() {
        let mut history = History::default();
        let week_ms = 7 * 24 * 3600 * 1000;
        for ms in (0..week_ms).step_by(997) {
            history.take(sample(ms));
            assert!(history.samples.len() <= MOST);
        }
        let samples = history.until(sample(week_ms));
        assert!(samples.len() > MOST / 3, "{}", samples.len());
        assert_eq!((samples[0], samples.last().copied()), (sample(0), Some(sample(week_ms))));
        let gaps: Vec<u128> = samples.windows(2).map(|w| (w[1].at - w[0].at).as_millis()).collect();
        let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
        assert!(*least > 0 && *most <= 3 * *least, "{least} {most}");
    }

    #[test]
    fn a_short_job_has_its_beginning_and_its_end() {
        let mut history = History::default();
        for ms in [1, 5, 9, 99] {
            history.take(sample(ms));
        }
        assert_eq!(history.until(sample(120)), [sample(0), sample(120)]);
        assert_eq!(History::default().until(sample(0)), [sample(0)]);
    }
}
