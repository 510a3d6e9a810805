//! Keeping the entry where networks rewrite their configuration, as flannel does when it starts.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

use super::{Changed, InstallError, Installer};
use crate::ready::readiness;

/// Nothing has happened in the folder for this long: what was being written is.
const QUIET: Duration = Duration::from_millis(50);
/// How often to look although nothing was told: for a folder that is replaced, or not there yet.
const POLL: Duration = Duration::from_secs(5);

/// Puts the entry back whenever it is missing, for as long as the program is installed. Never returns; a tokio runtime with
/// IO and time is needed. A configuration that is gone is not made again.
pub async fn keep_installed(installer: Installer) {
    let mut told = None;
    loop {
        if !installer.program().is_file() {
            // Nobody installed it, or somebody took it away.
            sleep(POLL).await;
            continue;
        }
        // The watch first: what changes after the look wakes the next one.
        let watch = Watch::new(&installer.conf_dir).ok();
        let looking = installer.clone();
        // Reading again what somebody is writing takes some time.
        let looked = tokio::task::spawn_blocking(move || looking.ensure()).await;
        match looked {
            Ok(Ok(changed)) => {
                report(&changed);
                told = None;
            }
            Ok(Err(error)) => tell(&error, &mut told),
            Err(error) => tracing::error!("looking after the network configuration: {error}"),
        }
        match watch {
            Some(watch) => watch.changed().await,
            None => sleep(POLL).await,
        }
    }
}

fn report(changed: &Changed) {
    for change in &changed.changes {
        tracing::info!("CNI: {change}");
    }
    for note in &changed.notes {
        tracing::warn!("CNI: {note}");
    }
}

/// Once for each error in a row.
fn tell(error: &InstallError, told: &mut Option<String>) {
    let text = error.to_string();
    if told.as_ref() != Some(&text) {
        tracing::warn!("pods may start before their policy is in force: {text}");
    }
    *told = Some(text);
}

struct Watch {
    inotify: Inotify,
    ready: AsyncFd<OwnedFd>,
}

impl Watch {
    fn new(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        inotify.add_watch(folder, flags | AddWatchFlags::IN_ONLYDIR)?;
        Ok(Self { ready: readiness(&inotify)?, inotify })
    }

    /// Until something has happened and then nothing for a while, or it is time to look anyway.
    async fn changed(&self) {
        if timeout(POLL, self.event()).await.is_ok() {
            // A folder that never rests is looked at all the same.
            for _ in 0..5 {
                if timeout(QUIET, self.event()).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn event(&self) {
        loop {
            let Ok(mut ready) = self.ready.readable().await else { return sleep(POLL).await };
            match ready.try_io(|_| Ok(self.inotify.read_events()?)) {
                Err(_) => {}
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Ok(_) => return,
            }
        }
    }
}
