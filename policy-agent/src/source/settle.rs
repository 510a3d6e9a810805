//! When a change has settled: a half-written manifest must not be read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use tokio::time::Instant;

/// Nothing has happened for this long: the change is done.
const QUIET: Duration = Duration::from_millis(50);
/// Changes that never end are told at this pace.
const LONGEST: Duration = Duration::from_millis(500);
/// Who writes a manifest and doesn't close it holds everybody's changes up, but not for longer.
const LONGEST_WRITER: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Settle {
    /// The first and the last event that haven't been told.
    events: Option<(Instant, Instant)>,
    /// Files that have been written to and not been closed, and since when.
    writers: BTreeMap<OsString, Instant>,
    not_before: Option<Instant>,
}

impl Settle {
    pub(super) fn touch(&mut self, now: Instant) {
        self.events = Some((self.events.map_or(now, |(first, _)| first), now));
    }

    pub(super) fn written(&mut self, name: OsString, now: Instant) {
        self.writers.entry(name).or_insert(now);
        self.touch(now);
    }

    pub(super) fn closed(&mut self, name: &OsString, now: Instant) {
        self.writers.remove(name);
        self.touch(now);
    }

    /// What was looked at has changed since the last look: look again. Whether there was time for that.
    pub(super) fn postpone(&mut self, now: Instant) -> bool {
        self.not_before = Some(now + QUIET);
        self.events.is_some_and(|(first, _)| now < first + LONGEST_WRITER)
    }

    /// When to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        let (first, last) = self.events?;
        let quiet = (last + QUIET).min(first + LONGEST);
        let writers = self.writers.values().map(|since| *since + LONGEST_WRITER).max();
        let held = writers.max(self.not_before).map_or(quiet, |until| until.min(first + LONGEST_WRITER));
        Some(quiet.max(held))
    }

    pub(super) fn told(&mut self, now: Instant) {
        self.events = None;
        self.not_before = None;
        // Who still writes begins anew with the next event.
        self.writers.retain(|_, since| now < *since + LONGEST_WRITER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn one_event_and_many() {
        let start = Instant::now();
        let mut settle = Settle::default();
        assert_eq!(settle.due(), None);
        settle.touch(start);
        assert_eq!(settle.due(), Some(start + ms(50)));
        settle.touch(start + ms(40));
        assert_eq!(settle.due(), Some(start + ms(90)));
        for n in 2..100 {
            settle.touch(start + ms(20 * n));
        }
        assert_eq!(settle.due(), Some(start + ms(500)));
        settle.told(start + ms(500));
        assert_eq!(settle.due(), None);
    }

    #[test]
    fn a_writer_holds_until_it_closes() {
        let start = Instant::now();
        let name = OsString::from("a.yaml");
        let mut settle = Settle::default();
        settle.written(name.clone(), start);
        assert_eq!(settle.due(), Some(start + ms(2000)));
        settle.touch(start + ms(700));
        assert_eq!(settle.due(), Some(start + ms(2000)));
        settle.closed(&name, start + ms(900));
        assert_eq!(settle.due(), Some(start + ms(500)), "at once: there was time enough");
    }

    #[test]
    fn a_writer_that_never_closes_holds_for_two_seconds_at_a_time() {
        let start = Instant::now();
        let name = OsString::from("a.yaml");
        let mut settle = Settle::default();
        settle.written(name.clone(), start);
        settle.told(start + ms(2000));
        assert_eq!(settle.due(), None);
        settle.written(name, start + ms(3000));
        assert_eq!(settle.due(), Some(start + ms(5000)));
    }

    #[test]
    fn looking_again_has_an_end() {
        let start = Instant::now();
        let mut settle = Settle::default();
        settle.touch(start);
        assert!(settle.postpone(start + ms(50)));
        assert_eq!(settle.due(), Some(start + ms(100)));
        assert!(settle.postpone(start + ms(1990)));
        assert_eq!(settle.due(), Some(start + ms(2000)));
        assert!(!settle.postpone(start + ms(2000)));
    }
}
