//! When to look again.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use super::directory::DirectoryWatch;
use crate::ready::readiness;

/// A pod comes with a dozen events within a few milliseconds; the first look should find it as early as it can.
const FIRST: Duration = Duration::from_millis(2);
/// Looks do not follow each other sooner, or a node that starts many pods would do nothing else.
const BETWEEN: Duration = Duration::from_millis(20);
/// What doesn't work is tried again, but not in a circle.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// A flood of events must not keep the watch reading: what it leaves is the next change.
const MOST_READS: usize = 1024;

/// Tells when links or addresses have changed, here or in a namespace that a link of ours leads to, or when a named
/// namespace has come or gone.
///
/// A change that comes before the first [`changed`](Self::changed) is kept: make the watch, scan, and wait then.
///
/// Other namespaces' addresses are told only where the agent has CAP_NET_BROADCAST. Without, and for namespaces that have no
/// name, an address that is added to a pod later makes itself known by nothing: look again now and then while a pod is
/// not found.
#[derive(Debug)]
pub struct LinkWatch {
    links: Announcements,
    directory: DirectoryWatch,
    /// A change that has been seen and not been told yet: when it was seen, and when to tell.
    due: Option<(Instant, Instant)>,
    told: Option<Instant>,
}

impl LinkWatch {
    /// Begins to watch the calling thread's namespace and `netns_dir`, which may not exist yet. To be called within a tokio
    /// runtime that has IO and time enabled.
    pub fn new(netns_dir: impl Into<PathBuf>) -> io::Result<Self> {
        let groups = [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR];
        let links = Announcements::of(&groups)?;
        if let Err(error) = links.socket.set_listen_all_namespaces(true) {
            tracing::info!(%error, "addresses added inside pods are not announced");
        }
        Ok(Self { links, directory: DirectoryWatch::new(netns_dir.into())?, due: None, told: None })
    }

    /// Waits for a change, and a moment for those that come with it; returns when the first was seen. Nothing is lost when
    /// it is dropped before it is done.
    pub async fn changed(&mut self) -> std::time::Instant {
        let (seen, due) = match self.due {
            Some(due) => due,
            None => {
                let seen = tokio::select! {
                    seen = self.links.next() => seen,
                    seen = self.directory.changed() => seen,
                };
                let now = Instant::now();
                let due = match seen {
                    Ok(()) => (now + FIRST).max(self.told.map_or(now, |told| told + BETWEEN)),
                    Err(error) => {
                        tracing::warn!(%error, "watching for network interfaces");
                        now + AFTER_ERROR
                    }
                };
                *self.due.insert((now, due))
            }
        };
        sleep_until(due).await;
        // Errors stay for the next call to find.
        let _ = drain(&self.links.socket);
        let _ = self.directory.drain();
        self.due = None;
        self.told = Some(Instant::now());
        seen.into_std()
    }
}

/// What rtnetlink announces to groups of listeners in the calling thread's namespace.
#[derive(Debug)]
pub(crate) struct Announcements {
    socket: Socket,
    ready: AsyncFd<OwnedFd>,
}

impl Announcements {
    /// To be called within a tokio runtime that has IO enabled.
    pub(crate) fn of(groups: &[u32]) -> io::Result<Self> {
        // tokio panics without.
        Handle::try_current().map_err(io::Error::other)?;
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self { ready: readiness(&socket)?, socket })
    }

    /// Waits until something is announced. Nothing is lost when it is dropped before it is done.
    pub(crate) async fn next(&self) -> io::Result<()> {
        loop {
            if let Ok(read) = self.ready.readable().await?.try_io(|_| drain(&self.socket)) {
                return read;
            }
        }
    }
}

/// Reads what has come; `WouldBlock` where nothing has.
fn drain(socket: &Socket) -> io::Result<()> {
    // That something came is all there is to know: the rest of each message is dropped.
    let mut buffer = Vec::with_capacity(64);
    let mut read = 0;
    while read < MOST_READS {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => {}
            // Events were lost: a change, whatever they were.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && read > 0 => return Ok(()),
            Err(error) => return Err(error),
        }
        read += 1;
    }
    Ok(())
}
