//! Filesystems around filesystems: behaviour that is added by wrapping, the same for every adapter.
//!
//! Invariant: a layer keeps the contract of the port, and what it does not concern it passes on as it is.

pub mod dry_run;
#[cfg(test)]
pub mod faulty;
mod ghost;
pub mod limiter;
pub mod metered;
#[cfg(test)]
pub mod pretend;
#[cfg(test)]
pub mod striped;
pub mod throttle;

pub use limiter::Limiter;
