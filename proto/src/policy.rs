//! What the schema says of each method (options.proto), as a table.

use crate::v1::Idempotency;

/// One method of the API and its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// As in the request line: `/package.Service/Method`.
    pub path: &'static str,
    /// The agent answers, not the server.
    pub sandbox_plane: bool,
    /// What the API key must hold. Empty: any valid key will do.
    pub scope: &'static str,
    /// Whether the call may be repeated.
    pub idempotency: Idempotency,
    /// The call may resume a paused sandbox.
    pub wakes: bool,
    /// The call restarts the idle clock.
    pub activity: bool,
    /// The call moves large amounts of data.
    pub bulk: bool,
    /// The request is a stream, so its first message is `open`.
    pub opens: bool,
    /// The request or the answer is a stream.
    pub streams: bool,
}

/// Every method of every service, in the order of the files.
pub const METHODS: &[Method] = include!(concat!(env!("OUT_DIR"), "/policies.rs"));

/// Methods of this package are not for callers of the API.
const INTERNAL: &str = "/nullspace.agent.";

/// Finds a public method by its path.
pub fn find(path: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.path == path && !path.starts_with(INTERNAL))
}

/// Every scope that a public method asks for, sorted.
pub fn scopes() -> Vec<&'static str> {
    let public = METHODS.iter().filter(|method| !method.path.starts_with(INTERNAL) && !method.scope.is_empty());
    let mut scopes: Vec<_> = public.map(|method| method.scope).collect();
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_public_method_but_the_open_ones_asks_for_a_scope() {
        let open: Vec<_> =
            METHODS.iter().filter(|m| find(m.path).is_some() && m.scope.is_empty()).map(|m| m.path).collect();
        assert_eq!(
            open,
            [
                "/nullspace.v1.SystemService/GetVersion",
                "/nullspace.v1.SystemService/GetCapabilities",
                "/nullspace.v1.SystemService/WhoAmI"
            ]
        );
    }

    #[test]
    fn calls_into_a_sandbox_wake_it() {
        assert!(METHODS.iter().filter(|m| m.sandbox_plane && find(m.path).is_some()).all(|m| m.wakes));
    }

    #[test]
    fn the_agents_own_service_is_not_public() {
        assert!(METHODS.iter().any(|m| m.path == "/nullspace.agent.v1.AgentService/Assign"));
        assert_eq!(find("/nullspace.agent.v1.AgentService/Assign"), None);
    }
}
