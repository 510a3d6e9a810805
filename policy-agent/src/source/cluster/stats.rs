//! What the watches count, for metrics and readiness.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::object::Kind;

/// Shared between the watches, which write, and whoever shows it.
#[derive(Debug, Default)]
pub struct WatchStats {
    kinds: [KindStats; Kind::ALL.len()],
    /// Events on objects that the API server has taken.
    pub reports_sent: AtomicU64,
    /// Events on objects that were lost: too many at once, or refused.
    pub reports_lost: AtomicU64,
}

#[derive(Debug, Default)]
pub struct KindStats {
    events: [AtomicU64; EventType::ALL.len()],
    relists: [AtomicU64; Relist::ALL.len()],
    /// Answers other than success, connections that broke, streams that made no sense.
    pub errors: AtomicU64,
    /// Seconds since 1970 of the last event or bookmark, 0 before the first.
    last_heard: AtomicU64,
    /// A complete list has come.
    listed: AtomicBool,
    /// The watch is open, or was closed in order and is being opened again.
    open: AtomicBool,
}

/// The type of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Of a list, streamed or paged.
    Listed,
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

impl EventType {
    pub const ALL: [Self; 6] =
        [Self::Listed, Self::Added, Self::Modified, Self::Deleted, Self::Bookmark, Self::Error];

    /// As the label of a metric has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Added => "added",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
            Self::Bookmark => "bookmark",
            Self::Error => "error",
        }
    }
}

/// Why everything was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relist {
    Start,
    /// The server no longer has what changed since we last heard from it (410).
    Gone,
    /// A list broke off, or was refused.
    Broken,
    /// The server does not stream lists.
    NoStreaming,
}

impl Relist {
    pub const ALL: [Self; 4] = [Self::Start, Self::Gone, Self::Broken, Self::NoStreaming];

    /// As the label of a metric has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Gone => "gone",
            Self::Broken => "broken",
            Self::NoStreaming => "no-streaming",
        }
    }
}

impl WatchStats {
    pub const fn kind(&self, kind: Kind) -> &KindStats {
        let [namespaces, nodes, pods, policies, services, slices] = &self.kinds;
        match kind {
            Kind::Namespace => namespaces,
            Kind::Node => nodes,
            Kind::Pod => pods,
            Kind::NetworkPolicy => policies,
            Kind::Service => services,
            Kind::EndpointSlice => slices,
        }
    }

    /// Every kind was listed, and every watch is open.
    pub fn is_current(&self) -> bool {
        self.kinds.iter().all(KindStats::is_current)
    }
}

impl KindStats {
    pub fn events(&self, of: EventType) -> u64 {
        self.events.get(of as usize).map_or(0, |count| count.load(Relaxed))
    }

    pub fn relists(&self, because: Relist) -> u64 {
        self.relists.get(because as usize).map_or(0, |count| count.load(Relaxed))
    }

    /// Seconds since 1970 of the last event, bookmark or list; `None` before the first.
    pub fn last_heard(&self) -> Option<u64> {
        Some(self.last_heard.load(Relaxed)).filter(|seconds| *seconds > 0)
    }

    pub fn is_current(&self) -> bool {
        self.listed.load(Relaxed) && self.open.load(Relaxed)
    }

    pub(crate) fn heard(&self, what: EventType) {
        if let Some(count) = self.events.get(what as usize) {
            count.fetch_add(1, Relaxed);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.last_heard.store(now, Relaxed);
    }

    pub(super) fn listing(&self, because: Relist) {
        if let Some(count) = self.relists.get(because as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn listed(&self) {
        self.listed.store(true, Relaxed);
    }

    pub(super) fn set_open(&self, open: bool) {
        self.open.store(open, Relaxed);
    }
}
