//! The integration tests: one binary, one module a subject. They run the real program on real trees.

mod architecture;
mod changes;
mod chunks;
mod fidelity;
mod fleet;
mod kill;
mod scale;
mod support;
mod trouble;
