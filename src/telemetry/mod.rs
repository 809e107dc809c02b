//! What is happening, for people and machines. Never decides anything: with telemetry gone, no job is wrong.

mod board;
mod causes;
pub mod counts;
mod history;
mod ledger;
mod partitions;

pub use board::{Board, Chronicle, Notes, Share, Sink, Snapshot, Told};
pub use causes::CauseCount;
pub use history::Sample;
