//! What is happening, for people and machines. Never decides anything: with telemetry gone, no job is wrong.

mod at_work;
mod board;
pub mod counts;
mod flusher;
mod ledger;
mod meters;
mod partitions;

pub use at_work::{AtWork, Working, at_work, begin};
pub use board::{Board, Notes, Sink, Snapshot, Told};
pub use flusher::{Flusher, Look, Outlet, Unsent};
pub use meters::{ActorMeter, Counter, Meters};
