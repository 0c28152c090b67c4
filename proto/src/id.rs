//! Ids: a prefix and a ULID of 26 characters, in lower case.

use std::sync::Mutex;

use ulid::Generator;

/// Longest id that a request may carry.
pub const MAX_LEN: usize = 64;

/// Ids made in one process are strictly ascending, so that sorting by id is
/// sorting by time of creation.
static GENERATOR: Mutex<Generator> = Mutex::new(Generator::new());

/// A new id without prefix.
pub fn ulid() -> String {
    let mut generator = GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // Fails only after 2^80 ids in one millisecond.
    let ulid = generator.generate().unwrap_or_else(|_| ulid::Ulid::new());
    ulid.to_string().to_lowercase()
}

/// A new sandbox id.
pub fn sandbox() -> String {
    format!("sb_{}", ulid())
}

/// A new API key id.
pub fn api_key() -> String {
    format!("key_{}", ulid())
}

/// A new request id.
pub fn request() -> String {
    format!("req_{}", ulid())
}

/// A new command id.
pub fn command() -> String {
    format!("cmd_{}", ulid())
}

/// Whether `id` may be chosen by a caller: `[A-Za-z0-9_-]{1,64}`.
pub fn is_well_formed(id: &str) -> bool {
    (1..=MAX_LEN).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_ascend() {
        let ids: Vec<_> = (0..10_000).map(|_| sandbox()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.iter().all(|id| id.len() == 29 && is_well_formed(id) && id.to_lowercase() == *id));
    }
}
