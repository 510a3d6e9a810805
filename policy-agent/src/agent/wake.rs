//! What wakes the loop besides questions: changes in the folder, and of interfaces. Each watcher has a task of its own,
//! so that no wait of one is cut short by another.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::endpoints::LinkWatch;
use crate::source::FolderWatch;

#[derive(Clone, Copy, Debug)]
pub(super) enum Wake {
    Folder,
    /// With the moment in which the first change was seen.
    Links(Instant),
}

/// All that has come, as one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Woken {
    pub(super) folder: bool,
    pub(super) links: Option<Instant>,
}

impl Woken {
    pub(super) fn gather(first: Wake, wakes: &mut mpsc::Receiver<Wake>) -> Self {
        let mut all = Self::default();
        let mut next = Some(first);
        while let Some(wake) = next {
            match wake {
                Wake::Folder => all.folder = true,
                Wake::Links(seen) => all.links = Some(all.links.map_or(seen, |before| before.min(seen))),
            }
            next = wakes.try_recv().ok();
        }
        all
    }
}

pub(super) fn watch(folder: Option<&Path>, netns_dir: &Path) -> anyhow::Result<mpsc::Receiver<Wake>> {
    let (wake, woken) = mpsc::channel(8);
    let mut links = LinkWatch::new(netns_dir).context("watching interfaces")?;
    if let Some(dir) = folder {
        let watch = FolderWatch::new(dir);
        let mut folder = watch.with_context(|| format!("watching the folder {}", dir.display()))?;
        let wake = wake.clone();
        tokio::spawn(async move {
            loop {
                folder.changed().await;
                if wake.send(Wake::Folder).await.is_err() {
                    return;
                }
            }
        });
    }
    tokio::spawn(async move {
        loop {
            let seen = links.changed().await;
            if wake.send(Wake::Links(seen)).await.is_err() {
                return;
            }
        }
    });
    Ok(woken)
}
