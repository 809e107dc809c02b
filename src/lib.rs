//! treehaul moves whole filesystem trees with a fleet of workers, or alone.
//!
//! The map of the house; a module imports only modules further down:
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | arguments, rendering, exit codes; no I/O on trees |
//! | [`web`] | what is served over HTTP: a page, health, metrics |
//! | [`node`] | the composition root: opens roots and broker, wires and stops actors |
//! | [`actor`] | thin actix shells: pools of dir actors and file actors |
//! | [`pass`] | the work itself, free of actix |
//! | [`fs`], [`broker`], [`telemetry`] | ports and their adapters |
//! | [`model`] | pure data |

pub mod actor;
pub mod broker;
pub mod cli;
pub mod exit_code;
pub mod fs;
pub mod model;
pub mod node;
pub mod pass;
pub mod telemetry;
pub mod web;
