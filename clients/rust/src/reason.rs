//! Why a call failed, as a value to match on.

use nullspace_proto::Reason as Wire;

/// Declares the reasons of the schema and those that only a client knows. The
/// compiler checks that no reason of the schema is missing.
macro_rules! reasons {
    (
        wire { $($(#[$doc:meta])* $name:ident,)* }
        client { $($(#[$own_doc:meta])* $own:ident = ($text:literal, $retryable:literal, $action:literal),)* }
    ) => {
        /// Why a call failed. Never changes its meaning; new ones may come.
        ///
        /// Each reason of the server has a page in the project's docs/errors.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
            $($(#[$own_doc])* $own,)*
        }

        impl Reason {
            /// The reason's name, such as `SANDBOX_NOT_FOUND`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => Wire::$name.name(),)*
                    $(Self::$own => $text,)*
                }
            }

            /// Whether the same call may succeed later.
            pub fn is_retryable(self) -> bool {
                match self {
                    $(Self::$name => Wire::$name.is_retryable(),)*
                    $(Self::$own => $retryable,)*
                }
            }

            /// What the caller can do, in one sentence.
            pub fn suggested_action(self) -> &'static str {
                match self {
                    $(Self::$name => Wire::$name.action(),)*
                    $(Self::$own => $action,)*
                }
            }
        }

        impl From<Wire> for Reason {
            fn from(reason: Wire) -> Self {
                match reason {
                    $(Wire::$name => Self::$name,)*
                    Wire::Unspecified => Self::Unrecognized,
                }
            }
        }
    };
}

reasons! {
    wire {
        /// One or more fields are bad; [`Error::violations`](crate::Error::violations) names each.
        InvalidRequest,
        /// No API key came with the call, or none was found before it.
        ApiKeyMissing,
        /// The key is unknown, revoked or expired.
        ApiKeyInvalid,
        /// The key lacks a scope; the error's metadata has `scope`.
        ScopeMissing,
        /// The server has no such method.
        MethodUnknown,
        /// The request is compressed.
        EncodingUnsupported,
        /// A message is larger than can be sent.
        MessageTooLarge,
        /// The time that the caller gave has passed.
        DeadlineExceeded,
        /// The idempotency key was used before with another request.
        IdempotencyKeyReused,
        /// A call with the same key is still running.
        CallInProgress,
        /// A fault of the server. The request id finds it in the server's log.
        Internal,
        /// The server is stopping.
        ServerStopping,
        /// There is no such sandbox, or it belongs to another owner.
        SandboxNotFound,
        /// The sandbox is still being created.
        SandboxNotReady,
        /// The sandbox was destroyed.
        SandboxStopped,
        /// The sandbox's kernel died. What ran in it is gone.
        AgentLost,
        /// The server cannot reach the sandbox's agent.
        AgentUnreachable,
        /// Another execution of the sandbox runs.
        StaleIncarnation,
        /// The template is unknown.
        TemplateNotFound,
        /// The host has no room for another sandbox, or its disk none for records.
        CapacityExceeded,
        /// The engine could not start the sandbox.
        SandboxStartFailed,
        /// There is no such command, or it is forgotten.
        CommandNotFound,
        /// The program does not exist or is not on PATH.
        ProgramNotFound,
        /// The program cannot be executed.
        ProgramNotExecutable,
        /// The working directory does not exist or is none.
        WorkingDirectoryInvalid,
        /// The sandbox has no such user.
        UserNotFound,
        /// The sandbox may not have more processes.
        ProcessLimitReached,
        /// The sandbox remembers as many commands as it may.
        CommandLimitReached,
        /// The command has ended.
        CommandEnded,
        /// The command takes no input (any more).
        InputClosed,
        /// Input was sent past what is accepted next.
        InputGap,
        /// The position belongs to another branch of the sandbox's history.
        OutputDiverged,
        /// A newer attach with the same client id took over.
        AttachSuperseded,
        /// The program could not be started for another cause.
        CommandStartFailed,
        /// There is no such file or directory.
        FileNotFound,
        /// The path is a directory where a file was asked for.
        PathIsDirectory,
        /// A part of the path is not a directory.
        PathNotDirectory,
        /// The file system does not allow this.
        FilePermissionDenied,
        /// The sandbox's disk is full.
        DiskFull,
        /// The file system refused for another cause.
        FileOperationFailed,
        /// There is no such API key.
        ApiKeyNotFound,
        /// The API key to rotate has ended or was rotated before.
        ApiKeyEnded,
        /// The key, or the sandbox, has as many calls or streams as it may.
        ConcurrencyLimitReached,
    }
    client {
        /// The connection failed, and trying again did not help or was not safe.
        Transport = ("TRANSPORT", true, "Check that the server can be reached, and call again."),
        /// The server broke the contract.
        InvalidResponse = ("INVALID_RESPONSE", false, "Report it."),
        /// The command was ended by its own timeout;
        /// [`Error::result`](crate::Error::result) has what it wrote.
        CommandTimedOut = ("COMMAND_TIMED_OUT", false, "Give the command more time, or run it in the background."),
        /// What the caller gave to be sent could not be read.
        SourceFailed = ("SOURCE_FAILED", false, "Look at the error's source."),
        /// An error that this version does not know;
        /// [`Error::reason_name`](crate::Error::reason_name) has its name.
        Unrecognized = ("UNRECOGNIZED", false, "Check the versions of client and server."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_the_schema_keep_name_and_policy() {
        for wire in Wire::all() {
            let reason = Reason::from(wire);
            assert_ne!(reason, Reason::Unrecognized);
            assert_eq!(reason.name(), wire.name());
            assert_eq!(reason.is_retryable(), wire.is_retryable());
            assert_eq!(reason.suggested_action(), wire.action());
        }
    }
}
