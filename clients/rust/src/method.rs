//! The methods of the API: path and messages. What a method does is read from
//! the options in the schema.

use std::marker::PhantomData;

use http::uri::PathAndQuery;
use nullspace_proto::{
    policy,
    v1::{self, Idempotency},
};

/// One method.
pub(crate) struct Method<Q, R> {
    pub path: &'static str,
    messages: PhantomData<fn(Q) -> R>,
}

impl<Q, R> Clone for Method<Q, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q, R> Copy for Method<Q, R> {}

impl<Q, R> Method<Q, R> {
    const fn new(path: &'static str) -> Self {
        Self { path, messages: PhantomData }
    }

    /// As it goes on the wire.
    pub fn uri(self) -> PathAndQuery {
        PathAndQuery::from_static(self.path)
    }

    /// Whether a request may be sent again after it was lost. Every keyed one
    /// that this client makes has its key.
    pub fn is_repeatable(self) -> bool {
        policy::find(self.path).is_some_and(|method| {
            matches!(method.idempotency, Idempotency::Read | Idempotency::Idempotent | Idempotency::Keyed)
        })
    }
}

macro_rules! methods {
    ($($name:ident: $service:literal / $method:ident ($request:ident) -> $response:ident;)*) => {
        $(pub(crate) const $name: Method<v1::$request, v1::$response> =
            Method::new(concat!("/nullspace.v1.", $service, "/", stringify!($method)));)*

        #[cfg(test)]
        const PATHS: &[&str] = &[$($name.path,)*];
    };
}

methods! {
    CREATE_SANDBOX: "SandboxService" / CreateSandbox(CreateSandboxRequest) -> CreateSandboxResponse;
    GET_SANDBOX: "SandboxService" / GetSandbox(GetSandboxRequest) -> GetSandboxResponse;
    LIST_SANDBOXES: "SandboxService" / ListSandboxes(ListSandboxesRequest) -> ListSandboxesResponse;
    CONNECT_SANDBOX: "SandboxService" / ConnectSandbox(ConnectSandboxRequest) -> ConnectSandboxResponse;
    SET_SANDBOX_TIMEOUT: "SandboxService" / SetSandboxTimeout(SetSandboxTimeoutRequest) -> SetSandboxTimeoutResponse;
    DESTROY_SANDBOX: "SandboxService" / DestroySandbox(DestroySandboxRequest) -> DestroySandboxResponse;
    GET_SANDBOX_METRICS: "SandboxService" / GetSandboxMetrics(GetSandboxMetricsRequest) -> GetSandboxMetricsResponse;
    RUN_ONCE: "SandboxService" / RunOnce(RunOnceRequest) -> RunOnceResponse;
    ATTACH_COMMAND: "CommandService" / AttachCommand(AttachCommandRequest) -> AttachCommandResponse;
    START_COMMAND: "CommandService" / StartCommand(StartCommandRequest) -> StartCommandResponse;
    READ_COMMAND_OUTPUT: "CommandService" / ReadCommandOutput(ReadCommandOutputRequest) -> ReadCommandOutputResponse;
    WRITE_COMMAND_INPUT: "CommandService" / WriteCommandInput(WriteCommandInputRequest) -> WriteCommandInputResponse;
    SIGNAL_COMMAND: "CommandService" / SignalCommand(SignalCommandRequest) -> SignalCommandResponse;
    WAIT_COMMAND: "CommandService" / WaitCommand(WaitCommandRequest) -> WaitCommandResponse;
    GET_COMMAND: "CommandService" / GetCommand(GetCommandRequest) -> GetCommandResponse;
    LIST_COMMANDS: "CommandService" / ListCommands(ListCommandsRequest) -> ListCommandsResponse;
    READ_FILE: "FileService" / ReadFile(ReadFileRequest) -> ReadFileResponse;
    WRITE_FILE: "FileService" / WriteFile(WriteFileRequest) -> WriteFileResponse;
    GET_VERSION: "SystemService" / GetVersion(GetVersionRequest) -> GetVersionResponse;
    GET_CAPABILITIES: "SystemService" / GetCapabilities(GetCapabilitiesRequest) -> GetCapabilitiesResponse;
    WHO_AM_I: "SystemService" / WhoAmI(WhoAmIRequest) -> WhoAmIResponse;
    CREATE_API_KEY: "SystemService" / CreateApiKey(CreateApiKeyRequest) -> CreateApiKeyResponse;
    LIST_API_KEYS: "SystemService" / ListApiKeys(ListApiKeysRequest) -> ListApiKeysResponse;
    ROTATE_API_KEY: "SystemService" / RotateApiKey(RotateApiKeyRequest) -> RotateApiKeyResponse;
    REVOKE_API_KEY: "SystemService" / RevokeApiKey(RevokeApiKeyRequest) -> RevokeApiKeyResponse;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_public_method_is_here_and_nothing_else() {
        let mut wanted: Vec<_> =
            policy::METHODS.iter().map(|method| method.path).filter(|path| policy::find(path).is_some()).collect();
        let mut known = PATHS.to_vec();
        wanted.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, wanted);
    }
}
