//! Watching a directory that may not be there yet.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{self, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use crate::ready::readiness;

/// Tells when an entry of a directory appears or vanishes, or the directory itself does.
#[derive(Debug)]
pub(super) struct DirectoryWatch {
    inotify: Inotify,
    ready: AsyncFd<OwnedFd>,
    directory: PathBuf,
    /// The directory, or the nearest one above it that is there.
    watched: Option<(PathBuf, WatchDescriptor)>,
}

impl DirectoryWatch {
    /// Needs a tokio runtime with IO.
    pub(super) fn new(directory: PathBuf) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let ready = readiness(&inotify)?;
        let mut watch = Self { inotify, ready, directory: path::absolute(directory)?, watched: None };
        watch.settle()?;
        Ok(watch)
    }

    /// Waits for a change. Nothing is lost when it is dropped before it is done.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        if self.watched.is_none() {
            // After an error, nothing tells what has been missed.
            return self.settle();
        }
        loop {
            let mut ready = self.ready.readable().await?;
            let Ok(events) = ready.try_io(|_| Ok(self.inotify.read_events()?)) else { continue };
            drop(ready);
            if self.take(&events?)? {
                return Ok(());
            }
        }
    }

    /// Takes what has happened already without waiting.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        loop {
            match self.inotify.read_events() {
                Ok(events) => self.take(&events)?,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
        }
    }

    /// Whether the events say that the directory has changed.
    fn take(&mut self, events: &[InotifyEvent]) -> io::Result<bool> {
        let gone = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_IGNORED
            | AddWatchFlags::IN_Q_OVERFLOW;
        let current = self.watched.as_ref().map(|(_, descriptor)| *descriptor);
        // What comes from a watch that was given up tells nothing; a queue that overflowed has no watch.
        let mut events = events
            .iter()
            .filter(|event| Some(event.wd) == current || event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW))
            .peekable();
        if events.peek().is_none() {
            return Ok(false);
        }
        let arrived = self.arrived();
        if !arrived || events.any(|event| event.mask.intersects(gone)) {
            self.settle()?;
        }
        Ok(arrived || self.arrived())
    }

    fn arrived(&self) -> bool {
        self.watched.as_ref().is_some_and(|(path, _)| *path == self.directory)
    }

    /// Watches the directory, or what is there of the way to it.
    fn settle(&mut self) -> io::Result<()> {
        let inotify = &self.inotify;
        if let Some((_, old)) = self.watched.take() {
            // EINVAL: the kernel has removed it with its directory. Should the new watch be on the same directory, as after an
            // overflow, it gets another number.
            let _ = inotify.rm_watch(old);
        }
        let above = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let inside = above | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
        // From the top down: what appears below a directory before it is watched is found by the next step, what appears
        // later is told by the watch.
        let mut way: Vec<&Path> = self.directory.ancestors().filter(|path| *path != Path::new("")).collect();
        way.reverse();
        for path in way {
            let flags = if path == self.directory { inside } else { above };
            let added = match inotify.add_watch(path, flags) {
                Ok(descriptor) => descriptor,
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) if self.watched.is_some() => {
                    return Ok(());
                }
                Err(error) => {
                    if let Some((_, above)) = self.watched.take() {
                        let _ = inotify.rm_watch(above);
                    }
                    let kind = io::Error::from(error).kind();
                    return Err(io::Error::new(kind, format!("watching {}: {error}", path.display())));
                }
            };
            if let Some((_, above)) = self.watched.replace((path.to_owned(), added))
                && above != added
            {
                let _ = inotify.rm_watch(above);
            }
        }
        Ok(())
    }
}
