//! Waiting for a descriptor to become readable.
#![expect(unsafe_code, reason = "tokio leaves it to its caller that a registered descriptor stays open")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Says when `source` can be read. To be called within a tokio runtime that has IO enabled.
pub(crate) fn readiness(source: &impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    // A descriptor of its own: whatever happens to `source`, this one stays open.
    let descriptor = source.as_fd().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is open and has the same number until it is dropped, and only the `AsyncFd` has it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}
