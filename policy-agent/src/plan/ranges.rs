//! Extents of an array: first fit, with what was freed held back until no program can be reading it.

use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    /// Start -> length; neighbours are merged.
    free: BTreeMap<u32, u32>,
    /// Freed, but a packet in flight may still read them: a barrier releases them.
    quarantine: Vec<(u32, u32)>,
}

impl Ranges {
    pub(crate) fn new(first: u32, end: u32) -> Self {
        Self { free: BTreeMap::from([(first, end.saturating_sub(first))]), quarantine: Vec::new() }
    }

    pub(crate) fn allocate(&mut self, length: u32) -> Option<u32> {
        let start = self.free.iter().find(|(_, have)| **have >= length).map(|(start, _)| *start)?;
        let have = self.free.remove(&start)?;
        if have > length {
            self.free.insert(start + length, have - length);
        }
        Some(start)
    }

    /// What an allocation of one would give.
    pub(crate) fn lowest(&self) -> Option<u32> {
        self.free.keys().next().copied()
    }

    pub(crate) fn free(&mut self, start: u32, length: u32) {
        self.quarantine.push((start, length));
    }

    pub(crate) fn is_quarantine_empty(&self) -> bool {
        self.quarantine.is_empty()
    }

    pub(crate) fn release(&mut self) {
        for (start, length) in std::mem::take(&mut self.quarantine) {
            self.insert(start, length);
        }
    }

    /// The ids that `count` allocations of one would give: the highest of them.
    pub(crate) fn highest_of(&self, count: usize) -> Option<u32> {
        let last = u32::try_from(count).ok()?.checked_sub(1)?;
        let mut left = last;
        for (start, length) in &self.free {
            if left < *length {
                return Some(start + left);
            }
            left -= length;
        }
        None
    }

    /// Everything between `first` and `end` is free but for `used`; what was not free before is held back.
    pub(crate) fn rebuild(first: u32, end: u32, used: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut used: Vec<(u32, u32)> = used.collect();
        used.sort_unstable();
        let mut quarantine = Vec::new();
        let mut at = first;
        for (start, length) in used {
            if start > at {
                quarantine.push((at, start - at));
            }
            at = at.max(start + length);
        }
        if at < end {
            quarantine.push((at, end - at));
        }
        Self { free: BTreeMap::new(), quarantine }
    }

    fn insert(&mut self, mut start: u32, mut length: u32) {
        if let Some((before, have)) = self.free.range(..start).next_back().map(|(s, l)| (*s, *l))
            && before + have == start
        {
            self.free.remove(&before);
            start = before;
            length += have;
        }
        if let Some(have) = self.free.remove(&(start + length)) {
            length += have;
        }
        self.free.insert(start, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_space_is_held_back_until_released_and_then_merged() {
        let mut ranges = Ranges::new(0, 8);
        let a = ranges.allocate(4).unwrap();
        let b = ranges.allocate(4).unwrap();
        assert_eq!((a, b, ranges.allocate(1)), (0, 4, None));
        ranges.free(a, 4);
        ranges.free(b, 4);
        assert_eq!(ranges.allocate(1), None);
        ranges.release();
        assert_eq!(ranges.allocate(8), Some(0));
    }
}
