//! The contract of Nullspace in Rust: generated messages and services, and what
//! the schema says beside them, and what every answer needs on both planes. This
//! is the only crate that includes generated code.

pub mod body;
pub mod codec;
pub mod deadline;
pub mod error;
pub mod id;
pub mod limits;
pub mod policy;
pub mod validate;

mod redacted;

pub use error::{Error, Reason, Result};

/// `nullspace.v1`: the public API.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("nullspace.v1");
}

/// `nullspace.agent`: what only the server asks of an agent.
pub mod agent {
    /// `nullspace.agent.v1`.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("nullspace.agent.v1");
    }
}

/// All protos with their options and comments, as an encoded FileDescriptorSet.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Stands for a secret in debug output.
struct Redacted;

impl std::fmt::Debug for Redacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}
