//! What is happening, for people and machines. Never decides anything: with telemetry gone, no job is wrong.

mod at_work;
mod board;
mod causes;
pub mod counts;
pub mod export;
mod flusher;
mod history;
mod ledger;
pub mod memcached;
mod meters;
mod partitions;

pub use at_work::{AtWork, Working, at_work, attend, begin};
pub use board::{Board, Chronicle, Notes, Share, Sink, Snapshot, Told};
pub use causes::CauseCount;
pub use flusher::{Flusher, Look, Outlet, Unsent};
pub use history::Sample;
pub use meters::{ActorMeter, Counter, Meters};
