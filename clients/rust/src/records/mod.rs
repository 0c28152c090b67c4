//! What the server tells: plain values.

mod command;
mod file;
mod sandbox;
mod system;

use std::time::{Duration, SystemTime};

pub(crate) use self::sandbox::to_struct;
pub use self::{
    command::{CommandInfo, CommandResult, Exit, Outcome, OutputStream, Overflow, Program, TerminationReason},
    file::{FileInfo, FileKind},
    sandbox::{Lifetime, Metadata, MetricsSample, Resources, SandboxInfo, SandboxState, TimeoutAction},
    system::{ApiKey, Capabilities, CreatedApiKey, Engine, Template, Version},
};

/// Declares an enum of the schema: its values by name, and one for what a later
/// server may say.
macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident from $wire:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$value_doc])* $value,)*
            /// What this version does not know: its number.
            Unknown(i32),
        }

        impl $name {
            /// As in the schema, without prefix and in lower case.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                    Self::Unknown(_) => "unknown",
                }
            }

            pub(crate) fn from_wire(number: i32) -> Self {
                match nullspace_proto::v1::$wire::try_from(number) {
                    $(Ok(nullspace_proto::v1::$wire::$value) => Self::$value,)*
                    _ => Self::Unknown(number),
                }
            }

            #[allow(dead_code)] // Not every enum is also sent.
            pub(crate) fn to_wire(self) -> i32 {
                match self {
                    $(Self::$value => nullspace_proto::v1::$wire::$value.into(),)*
                    Self::Unknown(number) => number,
                }
            }
        }

        impl From<nullspace_proto::v1::$wire> for $name {
            fn from(value: nullspace_proto::v1::$wire) -> Self {
                Self::from_wire(value.into())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    Self::Unknown(number) => write!(f, "unknown_{number}"),
                    known => f.write_str(known.name()),
                }
            }
        }
    };
}
use wire_enum;

/// A time of the wire. One that no clock shows is as good as none.
fn time(timestamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    SystemTime::try_from(timestamp?).ok()
}

/// A duration of the wire. A negative one counts as none.
fn duration(duration: Option<prost_types::Duration>) -> Duration {
    duration.and_then(|duration| Duration::try_from(duration).ok()).unwrap_or_default()
}
