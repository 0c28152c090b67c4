//! Who makes a call.

use std::sync::Arc;

use nullspace_proto::{Error, Result};
use tonic::Request;

use crate::keys::KeyRecord;

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose things it reaches.
    pub owner: String,
    /// The key it came with.
    pub key: Arc<KeyRecord>,
}

impl Caller {
    /// The caller of a request that passed the front.
    pub fn of<T>(request: &Request<T>) -> Result<Self> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| Error::internal("a request reached a method without authentication"))
    }
}
