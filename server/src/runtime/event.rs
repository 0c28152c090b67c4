//! Descriptors that become readable: the one place of this crate with unsafe
//! code.
#![allow(unsafe_code)]

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// A descriptor whose events can be waited for.
#[derive(Debug)]
pub struct Event(AsyncFd<OwnedFd>);

impl Event {
    /// Waits for `interest` on `fd`.
    pub fn new(fd: impl Into<OwnedFd>, interest: Interest) -> io::Result<Self> {
        // SAFETY: the value is an OwnedFd, which always names the same open
        // file until it is dropped, and nothing here takes it out again.
        let fd = unsafe { AsyncFd::register_with_interest(fd.into(), interest) };
        Ok(Self(fd?))
    }

    /// The descriptor.
    pub fn fd(&self) -> &OwnedFd {
        self.0.get_ref()
    }

    /// Waits for the event. One that stays, such as the end of a process, is
    /// there at once at the next call.
    pub async fn happened(&self, interest: Interest) -> io::Result<()> {
        let ready = self.0.ready(interest).await?;
        drop(ready);
        Ok(())
    }

    /// Waits for the event, and then for the next one at the next call.
    pub async fn next(&self, interest: Interest) -> io::Result<()> {
        self.0.ready(interest).await?.clear_ready();
        Ok(())
    }
}
