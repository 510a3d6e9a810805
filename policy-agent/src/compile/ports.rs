//! Port sets, and the partition of all ports into classes that no port set tells apart.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Protocol;

/// A union of port ranges, in canonical form: sorted, disjoint, not adjacent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortSet {
    ranges: Vec<(Protocol, u16, u16)>,
}

impl PortSet {
    pub fn single(protocol: Protocol, port: u16) -> Self {
        Self { ranges: vec![(protocol, port, port)] }
    }

    pub fn new(mut ranges: Vec<(Protocol, u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(Protocol, u16, u16)> = Vec::with_capacity(ranges.len());
        for (protocol, first, last) in ranges {
            match merged.last_mut() {
                Some((p, _, end)) if *p == protocol && u32::from(first) <= u32::from(*end) + 1 => {
                    *end = (*end).max(last);
                }
                _ => merged.push((protocol, first, last)),
            }
        }
        Self { ranges: merged }
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub fn ranges(&self) -> &[(Protocol, u16, u16)] {
        &self.ranges
    }

    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.ranges.iter().any(|(p, first, last)| *p == protocol && (*first..=*last).contains(&port))
    }
}

/// Ports that the same port sets contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInterval {
    pub protocol: Protocol,
    pub first: u16,
    pub last: u16,
    /// Ids of the port sets that contain it, as given to `partition`.
    pub members: BTreeSet<u32>,
}

/// Cuts the ports of all protocols at every border of the sets. Intervals that no set contains are left out.
pub fn partition<'a>(sets: impl IntoIterator<Item = (u32, &'a PortSet)>) -> Vec<PortInterval> {
    let mut intervals = Vec::new();
    sweep(sets, |protocol, first, last, members| {
        intervals.push(PortInterval { protocol, first, last, members: members.clone() });
    });
    intervals
}

/// Tells each such interval, and the sets that contain it.
pub(super) fn sweep<'a>(
    sets: impl IntoIterator<Item = (u32, &'a PortSet)>,
    mut each: impl FnMut(Protocol, u16, u16, &BTreeSet<u32>),
) {
    // (protocol, port) -> sets that begin there, sets that end before it
    let mut borders: BTreeMap<(Protocol, u32), (Vec<u32>, Vec<u32>)> = BTreeMap::new();
    for (id, set) in sets {
        for (protocol, first, last) in &set.ranges {
            borders.entry((*protocol, u32::from(*first))).or_default().0.push(id);
            borders.entry((*protocol, u32::from(*last) + 1)).or_default().1.push(id);
        }
    }
    let mut members: BTreeSet<u32> = BTreeSet::new();
    let mut open: Option<(Protocol, u32)> = None;
    for ((protocol, port), (begin, end)) in borders {
        if let Some((before, first)) = open
            && before == protocol
            && !members.is_empty()
            && let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(port - 1))
        {
            each(protocol, first, last, &members);
        }
        for id in end {
            members.remove(&id);
        }
        members.extend(begin);
        open = Some((protocol, port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Tcp, Udp};

    #[test]
    fn ranges_are_merged() {
        let set = PortSet::new(vec![(Tcp, 80, 90), (Udp, 1, 1), (Tcp, 91, 91), (Tcp, 85, 88), (Tcp, 93, 93)]);
        assert_eq!(set.ranges(), [(Tcp, 80, 91), (Tcp, 93, 93), (Udp, 1, 1)]);
        assert!(set.contains(Tcp, 91) && !set.contains(Tcp, 92) && !set.contains(Udp, 80));
    }

    #[test]
    fn the_whole_range_ends_at_the_last_port() {
        let all = PortSet::new(vec![(Tcp, 0, u16::MAX), (Tcp, u16::MAX, u16::MAX)]);
        assert_eq!(all.ranges(), [(Tcp, 0, u16::MAX)]);
        let parts = partition([(0, &all)]);
        assert_eq!(parts.len(), 1);
        assert_eq!((parts[0].first, parts[0].last), (0, u16::MAX));
    }

    #[test]
    fn partition_tells_apart_exactly_what_the_sets_do() {
        let a = PortSet::new(vec![(Tcp, 80, 100), (Udp, 53, 53)]);
        let b = PortSet::new(vec![(Tcp, 90, 65535)]);
        let parts = partition([(0, &a), (1, &b)]);
        for protocol in Protocol::ALL {
            for port in 0..=u16::MAX {
                let inside: Vec<_> = parts
                    .iter()
                    .filter(|i| i.protocol == protocol && (i.first..=i.last).contains(&port))
                    .collect();
                let want: BTreeSet<u32> = [(0, &a), (1, &b)]
                    .into_iter()
                    .filter(|(_, s)| s.contains(protocol, port))
                    .map(|(id, _)| id)
                    .collect();
                match inside.as_slice() {
                    [] => assert!(want.is_empty(), "{protocol:?}/{port}"),
                    [one] => assert_eq!(one.members, want, "{protocol:?}/{port}"),
                    more => panic!("{protocol:?}/{port} is in {more:?}"),
                }
            }
        }
    }
}
