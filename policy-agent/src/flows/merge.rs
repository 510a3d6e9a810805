//! One list out of two.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};

use super::translate::Tracked;
use super::{KnownFlow, Phase};

/// The flows, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) flows: Vec<KnownFlow>,
    /// How many nobody knows the opener of.
    pub(super) left_out: usize,
}

type Key = (IpAddr, u16, SocketAddr, u8);

fn key(flow: &KnownFlow) -> Key {
    (flow.pod, flow.local_port, flow.remote, flow.protocol)
}

pub(super) fn merge(tracked: Vec<Tracked>, sockets: Vec<KnownFlow>) -> Merged {
    let mut sockets: HashMap<Key, KnownFlow> = sockets.into_iter().map(|flow| (key(&flow), flow)).collect();
    let mut flows: HashMap<Key, KnownFlow> = HashMap::new();
    let mut left_out = 0;
    for Tracked { mut flow, midway } in tracked {
        let key = key(&flow);
        if midway {
            let Some(socket) = sockets.get(&key) else {
                left_out += 1;
                continue;
            };
            if flow.opener != socket.opener {
                flow.opener = socket.opener;
                // What was the opener's translation is none of the other side's.
                flow.through = None;
            }
        }
        match flows.entry(key) {
            // Zones of connection tracking may each have an entry: an old one must not hide the one in use.
            Entry::Occupied(mut known) if known.get().state != Phase::Established => {
                known.insert(flow);
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(flow);
            }
        }
    }
    sockets.retain(|key, _| !flows.contains_key(key));
    Merged { flows: flows.into_values().chain(sockets.into_values()).collect(), left_out }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use policy_common::flows::Opener;

    use super::*;

    fn flow(local_port: u16, opener: Opener, state: Phase, remaining: Option<u64>) -> KnownFlow {
        KnownFlow {
            pod: [10, 0, 0, 1].into(),
            local_port,
            remote: ([10, 0, 0, 2], 443).into(),
            through: None,
            protocol: 6,
            opener,
            state,
            remaining: remaining.map(Duration::from_secs),
        }
    }

    fn merged(tracked: &[(KnownFlow, bool)], sockets: &[KnownFlow]) -> (Vec<KnownFlow>, usize) {
        let tracked = tracked.iter().map(|&(flow, midway)| Tracked { flow, midway }).collect();
        let mut merged = merge(tracked, sockets.to_vec());
        merged.flows.sort_by_key(|flow| flow.local_port);
        (merged.flows, merged.left_out)
    }

    #[test]
    fn connection_tracking_wins_and_sockets_add_what_it_does_not_know() {
        let tracked = flow(1, Opener::Node, Phase::Established, Some(9));
        let socket = flow(1, Opener::Peer, Phase::Closing, None);
        let only_socket = flow(2, Opener::Pod, Phase::Established, None);
        let only_tracked = flow(3, Opener::Pod, Phase::Opening, Some(1));
        assert_eq!(
            merged(&[(tracked, false), (only_tracked, false)], &[socket, only_socket]),
            (vec![tracked, only_socket, only_tracked], 0)
        );
    }

    #[test]
    fn a_connection_met_midway_has_the_opener_that_its_socket_tells() {
        let tracked = flow(1, Opener::Pod, Phase::Established, Some(9));
        let socket = flow(1, Opener::Peer, Phase::Established, None);
        let expected = KnownFlow { opener: Opener::Peer, ..tracked };
        assert_eq!(merged(&[(tracked, true)], &[socket]), (vec![expected], 0));
        assert_eq!(merged(&[(tracked, true)], &[]), (vec![], 1));
    }

    #[test]
    fn an_old_entry_does_not_hide_the_one_in_use() {
        let old = flow(1, Opener::Pod, Phase::Closing, Some(2));
        let new = flow(1, Opener::Pod, Phase::Established, Some(9));
        for order in [[(old, false), (new, false)], [(new, false), (old, false)]] {
            assert_eq!(merged(&order, &[]), (vec![new], 0));
        }
    }
}
