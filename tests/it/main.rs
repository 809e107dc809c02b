//! The integration tests: one binary, one module a subject. They run the real program on real trees.

mod architecture;
mod changes;
mod doctor;
mod dry_run;
mod fidelity;
mod fleet;
mod history;
mod kill;
mod limits;
mod scale;
mod support;
mod trouble;
