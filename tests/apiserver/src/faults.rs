//! What goes wrong, as a test wants it.

use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub streaming: Streaming,
    pub gone: Gone,
    /// Answers of an error, by resource.
    pub refuse: BTreeMap<String, Refusal>,
    /// Before every answer.
    pub delay: Duration,
    /// Watches end after as many events.
    pub cut_watches_after: Option<usize>,
    /// Watches that are cut end in the middle of their next line, and of their connection.
    pub cut_in_line: bool,
    /// As many further pages of lists, after each list's first, are answered with 500.
    pub break_pages: u32,
    /// Between bookmarks; none where this is `None`.
    pub bookmarks: Option<Duration>,
}

/// What becomes of `sendInitialEvents`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streaming {
    #[default]
    Supported,
    /// 422, as servers with the feature switched off answer.
    Refused,
    /// As by servers older than the feature: an ordinary watch, without an end of the list.
    Ignored,
}

/// How a watch learns that its version is too old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gone {
    /// As an event in a stream that began with 200.
    #[default]
    Event,
    /// As the answer's status.
    Status,
}

#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: u16,
    pub retry_after: Option<u32>,
    /// How many times; `None`: always.
    pub times: Option<u32>,
}

impl Refusal {
    pub const fn always(code: u16) -> Self {
        Self { code, retry_after: None, times: None }
    }
}
