//! What a policy puts around the roots of a job, the same alone and on every worker.

use crate::fs::layers::{Limiter, dry_run, metered::metered, throttle};
use crate::fs::{self, Filesystem, Options, RootError, Side};
use crate::model::Policy;
use crate::model::policy::Limits;
use crate::model::timings::Timings;
use crate::pass::{Access, Roots};
use std::sync::Arc;

/// What is timed of a job's calls, if anything is.
pub type Timed<'a> = Option<&'a Arc<Timings>>;

/// Opens the source's root.
///
/// # Errors
/// [`RootError`], which names the root and the way out.
pub fn open_source(source: &[u8], options: &Options, timed: Timed<'_>) -> Result<Arc<dyn Filesystem>, RootError> {
    fs::open(source, Side::Source, options).map(|fs| metered(fs, timed))
}

/// Opens the target's root. In a dry run of a pass that makes its target, nothing is made and nothing is written.
///
/// # Errors
/// [`RootError`], which names the root and the way out.
pub fn open_target(
    target: &[u8],
    access: Access,
    policy: &Policy,
    options: &Options,
    timed: Timed<'_>,
) -> Result<Arc<dyn Filesystem>, RootError> {
    if !(policy.dry_run && access == Access::Make) {
        return fs::open(target, access.side(), options).map(|fs| metered(fs, timed));
    }
    match fs::open(target, Side::Trial, options) {
        Err(RootError::Fs { error, .. }) if error.is_absent() => Ok(dry_run::nowhere()),
        opened => opened.map(|fs| dry_run::over(metered(fs, timed))),
    }
}

/// Keeps both roots together within the job's limits, and within the node's own, which may be set at any time: without
/// any it costs a look at a number a call.
pub fn limited(roots: Roots, policy: &Policy, node: Option<&Arc<Limiter>>) -> Roots {
    let job = (policy.limits != Limits::default()).then(|| Arc::new(Limiter::new(policy.limits)));
    let limiters: Vec<Arc<Limiter>> = job.into_iter().chain(node.cloned()).collect();
    Roots { source: throttle::throttled(roots.source, &limiters), target: throttle::throttled(roots.target, &limiters) }
}
