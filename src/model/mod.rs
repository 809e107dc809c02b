//! Pure data: paths, metadata, jobs, tasks, outcomes. Nothing here does I/O.
//!
//! Invariant: a value that exists is valid. A [`RelPath`] cannot leave its root, a name's check
//! cannot be skipped by a message, a [`Metadata`] never carries a kind that it cannot name.

pub mod escape;
pub mod filter;
pub mod fingerprint;
pub mod fleet;
pub mod job;
pub mod latency;
pub mod layout;
pub mod lustre;
pub mod metadata;
pub mod outcome;
pub mod path;
pub mod policy;
pub mod root;
pub mod slow;
pub mod spread;
pub mod task;
mod task_id;
pub mod timings;

pub use escape::escaped;
pub use filter::Filter;
pub use job::{JobId, JobSpec};
pub use layout::Layout;
pub use lustre::{LustrePolicy, Servers};
pub use metadata::{Kind, Metadata, Project, Timestamp};
pub use outcome::{Evidence, Failure, Finding, Half, Mark, Operation, Phase, Report, State, Totals};
pub use path::{PathError, RelPath, check_name};
pub use policy::{DeletePolicy, MaxDelete, Policy};
pub use root::RootIdentity;
pub use slow::{Slow, Slowest, Spent};
pub use spread::Spread;
pub use task::{Entries, Queue, Task};
pub use task_id::TaskId;
