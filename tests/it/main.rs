//! The integration tests: one binary, one module a subject. They run the real program on real trees.

mod architecture;
mod brokers;
mod changes;
mod chunks;
mod control;
mod delete;
mod dirtime;
mod doctor;
mod dry_run;
mod fidelity;
mod filters;
mod fleet;
mod history;
mod hosts;
mod kill;
mod limits;
mod links;
mod scale;
mod security;
mod since;
mod support;
mod swap;
mod trouble;
mod trouble_broker;
mod verify;
mod workers_script;
