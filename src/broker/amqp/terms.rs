//! On what terms a worker takes tasks at the moment.

/// What holds for all jobs of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Terms {
    /// Deliveries at a time, for dir actors and for file actors; 0 means that there are no such actors.
    pub prefetch: [u16; 2],
    /// It takes no task at all.
    pub paused: bool,
}
