//! A rate that a sender keeps, whatever else the machine does.

use std::thread;
use std::time::{Duration, Instant};

/// Who is behind by more than this doesn't catch up: a burst of thousands is no steady traffic.
const FORGIVEN: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, next: Instant::now() }
    }

    /// Sleeps until the next one is due; not at all where it is late.
    pub(super) fn wait(&mut self) {
        self.next += self.every;
        let now = Instant::now();
        match self.next.checked_duration_since(now) {
            Some(early) => thread::sleep(early),
            None if now.duration_since(self.next) > FORGIVEN => self.next = now,
            None => {}
        }
    }
}
