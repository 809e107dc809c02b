//! How long calls on a filesystem take: histograms that sum, over actors, nodes and time.

use serde::{Deserialize, Serialize};

/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = 28;

macro_rules! calls {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// A kind of call on a filesystem, as it is timed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Call { $($(#[$doc])* $variant,)* }
        impl Call {
            /// All of them.
            pub const ALL: &[Call] = &[$(Call::$variant),*];
            /// The word in keys, labels and tables.
            pub fn word(self) -> &'static str { match self { $(Call::$variant => $word,)* } }
        }
    };
}

calls! {
    /// Opening a directory.
    OpenDir = "opendir",
    /// Listing one, from its beginning to its end; what is done with the entries meanwhile is not in it.
    List = "list",
    /// Attributes of an entry.
    Stat = "stat",
    /// Opening a file.
    Open = "open",
    /// Reading data, where they pass through this process.
    Read = "read",
    /// Writing data; where the kernel copies, reading them as well.
    Write = "write",
    /// The text of a symbolic link.
    ReadLink = "readlink",
    /// Reading extended attributes.
    GetXattrs = "getxattr",
    /// Setting or removing one.
    SetXattr = "setxattr",
    /// Making a directory.
    MakeDir = "mkdir",
    /// Making a file, symbolic link or special file, without its data.
    Create = "create",
    /// The checked close of what was written.
    Close = "close",
    /// Giving what was made its name.
    Publish = "publish",
    /// Making a further name.
    Link = "link",
    /// Renaming.
    Rename = "rename",
    /// Removing what is no directory.
    Unlink = "unlink",
    /// Removing a directory.
    RemoveDir = "rmdir",
    /// Setting the owner.
    SetOwner = "chown",
    /// Setting permission bits.
    SetMode = "chmod",
    /// Setting times.
    SetTimes = "utimens",
    /// Taking a lock.
    Lock = "lock",
    /// Waiting for stable storage.
    Sync = "sync",
}

/// Durations in buckets by powers of two: bucket `i` holds what took less than 2^i microseconds and is in none before;
/// the last one, from about a minute on, all the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Histogram {
    /// How many, by bucket.
    pub counts: [u64; BUCKETS],
    /// All durations together, in nanoseconds.
    pub sum_ns: u64,
}

impl Histogram {
    /// The bucket of a duration in nanoseconds.
    pub fn bucket(ns: u64) -> usize {
        let us = ns / 1000;
        (u64::BITS - us.leading_zeros()).min(BUCKETS as u32 - 1) as usize
    }

    /// What is in a bucket took less than this, in seconds; none for the last one.
    pub fn upper_seconds(bucket: usize) -> Option<f64> {
        (bucket + 1 < BUCKETS).then(|| (1_u64 << bucket) as f64 / 1e6)
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(other.counts).for_each(|(n, more)| *n = n.saturating_add(more));
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The mean, in seconds.
    pub fn mean_seconds(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum_ns as f64 / 1e9 / count as f64)
    }

    /// A duration, in seconds, that at least this share of them do not exceed: the upper end of a bucket, or the lower
    /// end of the last one.
    pub fn quantile_seconds(&self, share: f64) -> Option<f64> {
        let count = self.count();
        let wanted = ((count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0_u64;
        let bucket = self.counts.iter().position(|n| {
            seen = seen.saturating_add(*n);
            seen >= wanted
        });
        (count > 0).then(|| Self::upper_seconds(bucket.unwrap_or(BUCKETS - 1).min(BUCKETS - 2)))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_below_whose_end_they_are() {
        for (ns, bucket) in [(0, 0), (999, 0), (1_000, 1), (1_999, 1), (2_000, 2), (4_000, 3), (u64::MAX, BUCKETS - 1)]
        {
            assert_eq!(Histogram::bucket(ns), bucket, "{ns}");
        }
        assert_eq!(Histogram::upper_seconds(10), Some(0.001_024));
        assert_eq!(Histogram::upper_seconds(BUCKETS - 1), None);
    }

    #[test]
    fn histograms_sum_and_know_their_quantiles() {
        let mut all = Histogram::default();
        assert_eq!((all.count(), all.mean_seconds(), all.quantile_seconds(0.5)), (0, None, None));
        for ns in [500, 1_500, 1_500, 3_000_000] {
            let mut one = Histogram { sum_ns: ns, ..Histogram::default() };
            one.counts[Histogram::bucket(ns)] = 1;
            all.add(&one);
        }
        assert_eq!(all.count(), 4);
        assert_eq!(all.quantile_seconds(0.5), Some(0.000_002));
        assert_eq!(all.quantile_seconds(1.0), Some(0.004_096));
        let strange = Histogram { counts: [u64::MAX; BUCKETS], sum_ns: u64::MAX };
        assert!(strange.quantile_seconds(0.99).is_some(), "of what cannot be");
        assert!((all.mean_seconds().unwrap() - 0.000_750_875).abs() < 1e-9);
    }
}
