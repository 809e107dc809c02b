//! Sources that keep coarse times: two changes of a file within one step of their clock look like one.

use super::CopyPass;
use crate::model::Timestamp;
use std::time::Duration;

impl CopyPass {
    /// Waits until every further change of a source file has a later time than this one: what is written after the file
    /// was read must not look like what was read. True if it took time, so that the file has to be looked at again.
    pub(super) fn outwait(&self, changed: Timestamp) -> bool {
        let left = until_over(changed, Timestamp::now(), self.source_step_ns);
        left.map(std::thread::sleep).is_some()
    }
}

/// From this on a step is long enough for a file to be copied and changed again within it, in ns.
const COARSE_NS: u32 = 100_000_000;
/// So far clocks of nodes that write to one filesystem may be apart, in ns.
const CLOCKS_NS: i128 = 20_000_000;

fn ns(t: Timestamp) -> i128 {
    i128::from(t.sec) * 1_000_000_000 + i128::from(t.ns)
}

/// How long until every further change has a later time than `changed`; none if it is so by now, or if that is no time
/// of now. At most a step.
fn until_over(changed: Timestamp, now: Timestamp, granularity_ns: u32) -> Option<Duration> {
    if granularity_ns < COARSE_NS {
        return None;
    }
    let step = i128::from(granularity_ns);
    let left = ns(changed.truncated(granularity_ns)) + step + CLOCKS_NS - ns(now);
    (1..=step + CLOCKS_NS).contains(&left).then(|| Duration::from_nanos(u64::try_from(left).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_second_is_waited_out_and_no_other() {
        let at = |sec, ns| Timestamp { sec, ns };
        let left = |changed, now, step| until_over(changed, now, step).map(|left| left.as_millis());
        let second = 1_000_000_000;
        assert_eq!(left(at(100, 0), at(100, 250_000_000), second), Some(770));
        assert_eq!(left(at(100, 999), at(101, 0), second), Some(20), "another node's clock may be behind");
        assert_eq!(left(at(100, 0), at(101, 20_000_000), second), None);
        assert_eq!(left(at(100, 0), at(100, 0), 2 * second), Some(2020));
        assert_eq!(left(at(50, 0), at(100, 0), second), None, "long ago");
        assert_eq!(left(at(102, 0), at(100, 0), second), None, "a time to come, as somebody set it");
        assert_eq!(left(at(100, 0), at(100, 0), 1), None, "a fine clock");
    }
}
