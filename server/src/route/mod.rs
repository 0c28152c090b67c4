//! The sandbox plane: calls into a sandbox are passed to its agent frame by
//! frame, in both directions, without being decoded.

mod first;
pub mod pool;
mod relay;

pub use relay::Relay;
