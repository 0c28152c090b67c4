//! The Rust client of Nullspace, which runs code that you do not trust in
//! sandboxes.
//!
//! ```no_run
//! # async fn example() -> nullspace::Result<()> {
//! use nullspace::Client;
//!
//! let client = Client::from_env()?;
//! let sandbox = client.create_sandbox().await?;
//!
//! let result = sandbox.commands().run("python3").args(["-c", "print(6 * 7)"]).await?;
//! assert_eq!(result.stdout_text(), "42\n");
//!
//! sandbox.files().write("/workspace/data.bin", vec![0, 1]).await?;
//! sandbox.kill().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Builders are awaited: nothing is sent before. Everything runs on the caller's
//! [tokio](https://docs.rs/tokio) runtime, which needs its I/O and time drivers.
//! Streams are those of `futures-core`; `tokio_stream::StreamExt` or
//! `futures::StreamExt` has `next()`.
//!
//! What breaks is mended where that is safe: a call that was lost is made again,
//! and a stream is opened again where it stopped, with no byte lost and none
//! twice. What is not safe is never repeated. Every wait has a bound.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod client;
mod codec;
mod command;
mod config;
mod connection;
mod error;
mod file;
mod limits;
mod method;
mod page;
mod reason;
mod records;
mod retry;
mod sandbox;
mod signal;
mod status;
mod stream;
mod system;
mod transport;

pub use bytes::Bytes;
pub use tonic::Code;

pub use self::{
    client::{Client, ClientBuilder},
    command::{AttachCommand, Command, Commands, ListCommands, OutputSlice, ReadOutput, RunCommand},
    error::{Error, Result, Violation},
    file::{FileStream, Files, ReadFile, WriteFile},
    page::{Call, Entries, Page},
    reason::Reason,
    records::{
        ApiKey, Capabilities, CommandInfo, CommandResult, CreatedApiKey, Engine, Exit, FileInfo, FileKind, Lifetime,
        Metadata, MetricsSample, Outcome, OutputStream, Overflow, Program, Resources, SandboxInfo, SandboxState,
        Template, TerminationReason, TimeoutAction, Version,
    },
    sandbox::{ConnectSandbox, CreateSandbox, ListSandboxes, RunOnce, Sandbox, SetTimeout},
    signal::Signal,
    stream::{Event, Events, Output, Position},
    system::{CreateApiKey, ListApiKeys, RotateApiKey, System},
};
