//! Where the cluster's objects come from, and whether all of them are known.

use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{Cluster, Tracked};
use crate::source::cluster::{Event, LiveStore, Reference, WatchStats};
use crate::source::{ObjectKey, Problem, Store, read_folder};

/// Of problems with objects, that many are told: nobody reads more, and every answer on the control socket has them.
pub(super) const MOST_PROBLEMS: usize = 1000;

/// The source and what was read of it.
#[derive(Debug)]
pub(super) enum Input {
    Folder(Box<Folder>),
    Cluster(Box<Live>),
}

#[derive(Debug)]
pub(super) struct Live {
    store: LiveStore,
    stats: Arc<WatchStats>,
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
        Self::Folder(Box::new(Folder {
            dir,
            store: Store::default(),
            tracked: Tracked::default(),
            readable: false,
            read_once: false,
        }))
    }

    pub(super) fn cluster_api(stats: Arc<WatchStats>) -> Self {
        Self::Cluster(Box::new(Live { store: LiveStore::default(), stats }))
    }

    /// Takes what an API server told; returns what is wrong since then.
    pub(super) fn apply(&mut self, events: Vec<Event>) -> Vec<Problem> {
        match self {
            Self::Folder(_) => Vec::new(),
            Self::Cluster(live) => live.store.apply(events).new_problems,
        }
    }

    /// Takes what the folder holds now; returns what is wrong since then. An API server tells by itself.
    pub(super) fn read(&mut self) -> Vec<Problem> {
        match self {
            Self::Cluster(_) => Vec::new(),
            Self::Folder(folder) => {
                let read = read_folder(&folder.dir);
                folder.readable = read.problem.is_none();
                folder.read_once = true;
                let update = folder.store.update(read);
                folder.tracked.replace(folder.store.cluster().clone());
                update.new_problems
            }
        }
    }

    pub(super) const fn cluster(&self) -> &Cluster {
        match self {
            Self::Cluster(live) => live.store.cluster(),
            Self::Folder(folder) => folder.tracked.cluster(),
        }
    }

    pub(super) const fn tracked(&mut self) -> &mut Tracked {
        match self {
            Self::Cluster(live) => live.store.tracked(),
            Self::Folder(folder) => &mut folder.tracked,
        }
    }

    /// Objects that are not understood, where an API server tells of them.
    pub(super) fn broken(&self) -> impl Iterator<Item = (&ObjectKey, &[Problem])> {
        let live = match self {
            Self::Cluster(live) => Some(live),
            Self::Folder(_) => None,
        };
        live.into_iter().flat_map(|live| live.store.broken())
    }

    pub(super) fn reference(&self, key: &ObjectKey) -> Option<Reference> {
        match self {
            Self::Cluster(live) => live.store.reference(key),
            Self::Folder(_) => None,
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let words = |problems: &[Problem]| {
            let mut words: Vec<String> =
                problems.iter().take(MOST_PROBLEMS).map(ToString::to_string).collect();
            if let Some(more @ 1..) = problems.len().checked_sub(MOST_PROBLEMS) {
                words.push(format!("and {more} more problems with objects"));
            }
            words
        };
        match self {
            Self::Cluster(live) => words(&live.store.problems()),
            Self::Folder(folder) => words(folder.store.problems()),
        }
    }

    /// Whether there is anything to enforce yet: half a list of policies would open pods.
    pub(super) fn has_begun(&self) -> bool {
        match self {
            Self::Cluster(live) => live.store.synced(),
            Self::Folder(folder) => folder.read_once,
        }
    }

    /// Whether what is known is what is so now.
    pub(super) fn is_current(&self) -> bool {
        match self {
            Self::Cluster(live) => live.store.synced() && live.stats.is_current(),
            Self::Folder(folder) => folder.readable,
        }
    }

    /// Whether every object could be read: an interface that no pod explains then is no pod's.
    pub(super) fn is_whole(&self) -> bool {
        self.is_current()
            && match self {
                Self::Cluster(live) => live.store.problems().is_empty(),
                Self::Folder(folder) => folder.store.problems().is_empty(),
            }
    }
}
