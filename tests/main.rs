//! End-to-end tests through the public API: a file for each service, and one
//! for each promise that spans them.
#![allow(missing_docs, clippy::unwrap_used)]

mod cli;
mod command;
mod crash;
mod file;
mod idempotency;
mod limits;
mod load;
mod network;
mod output;
mod peers;
mod pool;
mod quota;
mod routing;
mod rust_client;
mod sandbox;
mod startup;
mod store;
mod streams;
mod system;
