//! What is happening, for people and machines. Never decides anything: with telemetry gone, no job is wrong.

mod board;
pub mod counts;
pub mod export;
mod ledger;
pub mod memcached;
mod partitions;

pub use board::{Board, Notes, Sink, Snapshot, Told};
