//! Debug output of messages that hold secrets.
include!(concat!(env!("OUT_DIR"), "/redacted.rs"));
