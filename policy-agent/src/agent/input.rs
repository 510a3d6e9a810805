//! Where the cluster's objects come from, and whether all of them are known.

use std::path::PathBuf;

use crate::model::{Cluster, Tracked};
use crate::source::{Store, read_folder};

/// The source and what was read of it.
#[derive(Debug)]
pub(super) enum Input {
    Folder(Folder),
}

#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    store: Store,
    tracked: Tracked,
    /// The folder itself could be read the last time.
    readable: bool,
    read_once: bool,
}

impl Input {
    pub(super) fn folder(dir: PathBuf) -> Self {
        Self::Folder(Folder {
            dir,
            store: Store::default(),
            tracked: Tracked::default(),
            readable: false,
            read_once: false,
        })
    }

    /// Takes what the folder holds now. An API server tells by itself.
    pub(super) fn read(&mut self) {
        match self {
            Self::Folder(folder) => {
                let read = read_folder(&folder.dir);
                folder.readable = read.problem.is_none();
                folder.read_once = true;
                folder.store.update(read);
                folder.tracked.replace(folder.store.cluster().clone());
            }
        }
    }

    pub(super) const fn cluster(&self) -> &Cluster {
        match self {
            Self::Folder(folder) => folder.tracked.cluster(),
        }
    }

    pub(super) const fn tracked(&mut self) -> &mut Tracked {
        match self {
            Self::Folder(folder) => &mut folder.tracked,
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        match self {
            Self::Folder(folder) => folder.store.problems().iter().map(ToString::to_string).collect(),
        }
    }

    /// Whether there is anything to enforce yet: half a list of policies would open pods.
    pub(super) const fn has_begun(&self) -> bool {
        match self {
            Self::Folder(folder) => folder.read_once,
        }
    }

    /// Whether what is known is what is so now.
    pub(super) const fn is_current(&self) -> bool {
        match self {
            Self::Folder(folder) => folder.readable,
        }
    }

    /// Whether every object could be read: an interface that no pod explains then is no pod's.
    pub(super) fn is_whole(&self) -> bool {
        self.is_current()
            && match self {
                Self::Folder(folder) => folder.store.problems().is_empty(),
            }
    }
}
