//! Watching a folder of manifests.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use super::settle::Settle;
use super::stamp::{Stamp, format, is_lock, stamps};
use crate::ready::readiness;

/// How often to look at what no event tells: where the folder's path leads, and the files behind links.
const POLL: Duration = Duration::from_secs(2);
const POLL_MISSING: Duration = Duration::from_millis(200);

/// Tells when the manifests of a folder have changed, and that nobody is in the middle of writing one.
///
/// Knows editors that write in place, that rename over and that delete and create; the `..data` link of a mounted
/// ConfigMap; a folder that is removed, replaced, or not there yet.
#[derive(Debug)]
pub struct FolderWatch {
    dir: PathBuf,
    /// `None`: inotify has failed, and looking now and then must do.
    inotify: Option<Events>,
    watched: Option<Watched>,
    /// What can't be watched, at the last look.
    stamps: BTreeMap<OsString, Option<Stamp>>,
    settle: Settle,
    next_poll: Instant,
}

#[derive(Debug)]
struct Events {
    inotify: Inotify,
    ready: AsyncFd<OwnedFd>,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    descriptor: WatchDescriptor,
    place: Place,
}

/// Device and inode: which folder it is that the path leads to.
type Place = (u64, u64);

fn place(dir: &Path) -> Option<Place> {
    fs::metadata(dir).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl FolderWatch {
    /// Begins to watch: what changes from now on is told by the first [`changed`](Self::changed), so make the watch before
    /// reading. The folder may be missing. Needs a tokio runtime with IO and time; fails where inotify gives nothing to
    /// the agent (`fs.inotify.max_user_instances`).
    pub fn new(dir: impl Into<PathBuf>) -> io::Result<Self> {
        Handle::try_current().map_err(io::Error::other)?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let ready = readiness(&inotify)?;
        let mut watch = Self {
            dir: dir.into(),
            inotify: Some(Events { inotify, ready }),
            watched: None,
            stamps: BTreeMap::new(),
            settle: Settle::default(),
            next_poll: Instant::now(),
        };
        watch.rewatch();
        Ok(watch)
    }

    /// As where inotify has failed.
    #[cfg(test)]
    pub(super) fn by_looking(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let mut watch = Self::new(dir)?;
        (watch.inotify, watch.watched) = (None, None);
        watch.look();
        Ok(watch)
    }

    /// Waits for the next change to be done. Nothing is lost when it is dropped before.
    pub async fn changed(&mut self) {
        loop {
            let due = self.settle.due();
            tokio::select! {
                biased;
                events = read_events(self.inotify.as_ref()) => match events {
                    Ok(events) => self.take(&events),
                    Err(error) => {
                        tracing::warn!(dir = %self.dir.display(), %error, "inotify failed: looking every 2 s instead");
                        (self.inotify, self.watched) = (None, None);
                        self.settle.touch(Instant::now());
                    }
                },
                () = sleep_until(due.unwrap_or(self.next_poll)), if due.is_some() => {
                    let now = Instant::now();
                    if !self.look() || !self.settle.postpone(now) {
                        self.settle.told(now);
                        return;
                    }
                }
                () = sleep_until(self.next_poll) => self.poll(),
            }
        }
    }

    fn poll(&mut self) {
        if self.look() {
            self.settle.touch(Instant::now());
        }
        let now = place(&self.dir);
        if now != self.watched.map(|w| w.place) && self.inotify.is_some() {
            // A folder that is there and can't be watched is no news every time.
            let before = self.watched.is_some();
            self.rewatch();
            if before || self.watched.is_some() {
                self.settle.touch(Instant::now());
            }
        }
        self.next_poll = Instant::now() + if now.is_some() { POLL } else { POLL_MISSING };
    }

    /// Whether something has changed that isn't watched.
    fn look(&mut self) -> bool {
        let now = stamps(&self.dir, self.watched.is_some());
        let changed = now != self.stamps;
        self.stamps = now;
        changed
    }

    fn rewatch(&mut self) {
        let Some(Events { inotify, .. }) = &self.inotify else { return };
        if let Some(old) = self.watched.take() {
            // EINVAL: the kernel has removed it with its folder.
            let _ = inotify.rm_watch(old.descriptor);
        }
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        if let Some(place) = place(&self.dir) {
            match inotify.add_watch(&self.dir, flags) {
                // Should the path lead elsewhere by now, the next poll finds out.
                Ok(descriptor) => self.watched = Some(Watched { descriptor, place }),
                Err(error) => {
                    tracing::debug!(dir = %self.dir.display(), %error, "not watched: looking every 2 s instead");
                }
            }
        }
        self.stamps = stamps(&self.dir, self.watched.is_some());
    }

    fn take(&mut self, events: &[InotifyEvent]) {
        let gone = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_IGNORED;
        for event in events {
            let now = Instant::now();
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.settle.touch(now);
            } else if Some(event.wd) != self.watched.map(|w| w.descriptor) {
                // From a watch that was given up.
            } else if event.mask.intersects(gone) {
                self.rewatch();
                self.settle.touch(now);
                self.next_poll = now;
            } else {
                match &event.name {
                    Some(name) => self.entry(name, event.mask, now),
                    None => self.settle.touch(now),
                }
            }
        }
    }

    fn entry(&mut self, name: &OsString, mask: AddWatchFlags, now: Instant) {
        let written = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE;
        let other = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_CLOSE_WRITE;
        if format(name).is_none() || is_lock(name) {
            // An editor's own file, or something that manifests' links lead through.
            if !mask.intersects(AddWatchFlags::IN_MODIFY | other) && self.look() {
                self.settle.touch(now);
            }
        } else if mask.contains(AddWatchFlags::IN_ATTRIB) {
            self.settle.touch(now);
        } else if mask.intersects(written) && (mask.contains(AddWatchFlags::IN_MODIFY) || self.is_new(name)) {
            self.settle.written(name.clone(), now);
        } else {
            self.settle.closed(name, now);
        }
    }

    /// A file whose writer will close it; nobody closes a link, hard or soft.
    fn is_new(&self, name: &OsString) -> bool {
        fs::symlink_metadata(self.dir.join(name)).is_ok_and(|m| m.is_file() && m.nlink() == 1)
    }
}

async fn read_events(events: Option<&Events>) -> io::Result<Vec<InotifyEvent>> {
    let Some(Events { inotify, ready }) = events else { return std::future::pending().await };
    loop {
        let mut ready = ready.readable().await?;
        if let Ok(events) = ready.try_io(|_| Ok(inotify.read_events()?)) {
            return events;
        }
    }
}
