//! From netfilter's view of a connection to that at a pod's interface.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use policy_common::flows::Opener;
use policy_common::parse::protocol;

use super::KnownFlow;
use super::conntrack::Entry;

/// A flow out of connection tracking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tracked {
    pub(super) flow: KnownFlow,
    /// The connection was met midway: the opener may be the other side.
    pub(super) midway: bool,
}

/// The flows of a connection: one for each end that is a pod of this node.
pub(super) fn flows(
    entry: &Entry,
    pods: &BTreeSet<IpAddr>,
    node_addresses: &BTreeSet<IpAddr>,
) -> impl Iterator<Item = Tracked> {
    let Entry { original, reply, .. } = entry;
    let has_ports = matches!(entry.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    let called = SocketAddr::new(original.destination, original.destination_port);
    let answers = SocketAddr::new(reply.source, reply.source_port);
    // What the client sent is what passes its interface.
    let client = pods.contains(&original.source).then(|| KnownFlow {
        pod: original.source,
        local_port: original.source_port,
        remote: called,
        through: (has_ports && called != answers).then_some(answers),
        protocol: entry.protocol,
        opener: Opener::Pod,
        state: entry.phase,
        remaining: entry.remaining,
    });
    // What came by with one of the node's addresses for its source doesn't get past routing: it began here. Masquerading
    // shows in the reply only, so that the original source is still the true one, also of the node's own connections to a
    // Service, whose source may be translated from one of its addresses to another.
    let by_node = node_addresses.contains(&original.source) || original.source.is_loopback();
    let from = SocketAddr::new(original.source, original.source_port);
    let seen = SocketAddr::new(reply.destination, reply.destination_port);
    let server = pods.contains(&reply.source).then(|| KnownFlow {
        pod: reply.source,
        local_port: reply.source_port,
        remote: seen,
        through: (has_ports && !by_node && seen.ip() != from.ip()).then_some(from),
        protocol: entry.protocol,
        opener: if by_node { Opener::Node } else { Opener::Peer },
        state: entry.phase,
        remaining: entry.remaining,
    });
    let midway = entry.midway;
    client.into_iter().chain(server).map(move |flow| Tracked { flow, midway })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::flows::Phase;
    use crate::flows::conntrack::Ends;

    const POD: &str = "10.244.1.2";
    const OTHER: &str = "10.244.1.3";
    const REMOTE: &str = "10.244.2.9";
    const NODE: &str = "192.0.2.1";
    const GATEWAY: &str = "10.244.1.1";
    const SERVICE: &str = "10.96.0.10";
    const OUTSIDE: &str = "203.0.113.7";

    fn ends((source, source_port): (&str, u16), (destination, destination_port): (&str, u16)) -> Ends {
        Ends {
            source: source.parse().unwrap(),
            source_port,
            destination: destination.parse().unwrap(),
            destination_port,
        }
    }

    /// What comes of a TCP connection, as `POD:PORT OPENER REMOTE`.
    fn seen(original: Ends, reply: Ends) -> Vec<String> {
        let entry = Entry {
            protocol: 6,
            original,
            reply,
            phase: Phase::Established,
            remaining: Some(Duration::from_secs(7)),
            midway: false,
        };
        let pods = [POD, OTHER].map(|address| address.parse().unwrap()).into();
        let node = [NODE, GATEWAY].map(|address| address.parse().unwrap()).into();
        flows(&entry, &pods, &node)
            .map(|Tracked { flow, midway }| {
                assert!(!midway);
                assert_eq!((flow.state, flow.remaining), (entry.phase, entry.remaining));
                assert_eq!(flow.protocol, 6);
                let through = flow.through.map(|through| format!(" through {through}")).unwrap_or_default();
                format!("{}:{} {:?} {}{through}", flow.pod, flow.local_port, flow.opener, flow.remote)
            })
            .collect()
    }

    #[test]
    fn two_pods_of_this_node_have_a_flow_each() {
        let found = seen(ends((POD, 40000), (OTHER, 80)), ends((OTHER, 80), (POD, 40000)));
        assert_eq!(found, ["10.244.1.2:40000 Pod 10.244.1.3:80", "10.244.1.3:80 Peer 10.244.1.2:40000"]);
    }

    #[test]
    fn a_client_sees_the_service_and_the_server_sees_the_client() {
        let found = seen(ends((POD, 40000), (SERVICE, 80)), ends((OTHER, 8080), (POD, 40000)));
        assert_eq!(
            found,
            [
                "10.244.1.2:40000 Pod 10.96.0.10:80 through 10.244.1.3:8080",
                "10.244.1.3:8080 Peer 10.244.1.2:40000"
            ]
        );
        let found = seen(ends((POD, 40000), (SERVICE, 80)), ends((REMOTE, 8080), (POD, 40000)));
        assert_eq!(found, ["10.244.1.2:40000 Pod 10.96.0.10:80 through 10.244.2.9:8080"]);
    }

    #[test]
    fn a_client_masqueraded_on_its_way_out_sees_nothing_of_it() {
        let found = seen(ends((POD, 40000), (OUTSIDE, 443)), ends((OUTSIDE, 443), (NODE, 61000)));
        assert_eq!(found, ["10.244.1.2:40000 Pod 203.0.113.7:443"]);
    }

    #[test]
    fn what_is_masqueraded_has_the_nodes_address_and_comes_from_its_opener() {
        // A NodePort with externalTrafficPolicy Cluster, then Local.
        let found = seen(ends((OUTSIDE, 50000), (NODE, 30080)), ends((POD, 8080), (GATEWAY, 61000)));
        assert_eq!(found, ["10.244.1.2:8080 Peer 10.244.1.1:61000 through 203.0.113.7:50000"]);
        let found = seen(ends((OUTSIDE, 50000), (NODE, 30080)), ends((POD, 8080), (OUTSIDE, 50000)));
        assert_eq!(found, ["10.244.1.2:8080 Peer 203.0.113.7:50000"]);
    }

    #[test]
    fn what_the_node_opens_is_the_nodes() {
        let found = seen(ends((GATEWAY, 50000), (POD, 8080)), ends((POD, 8080), (GATEWAY, 50000)));
        assert_eq!(found, ["10.244.1.2:8080 Node 10.244.1.1:50000"]);
        // To a Service, masqueraded from the address of one interface to that of another.
        let found = seen(ends((NODE, 50000), (SERVICE, 80)), ends((POD, 8080), (GATEWAY, 61000)));
        assert_eq!(found, ["10.244.1.2:8080 Node 10.244.1.1:61000"]);
        let found =
            seen(ends(("127.0.0.1", 50000), ("127.0.0.1", 30080)), ends((POD, 8080), (GATEWAY, 61000)));
        assert_eq!(found, ["10.244.1.2:8080 Node 10.244.1.1:61000"]);
    }

    #[test]
    fn a_pod_that_reaches_itself_by_its_service_has_both_ends() {
        let found = seen(ends((POD, 40000), (SERVICE, 80)), ends((POD, 8080), (GATEWAY, 61000)));
        assert_eq!(
            found,
            [
                "10.244.1.2:40000 Pod 10.96.0.10:80 through 10.244.1.2:8080",
                "10.244.1.2:8080 Peer 10.244.1.1:61000 through 10.244.1.2:40000"
            ]
        );
    }

    #[test]
    fn connections_of_others_are_none_of_ours() {
        assert_eq!(seen(ends((REMOTE, 1), (OUTSIDE, 2)), ends((OUTSIDE, 2), (REMOTE, 1))), [""; 0]);
        assert_eq!(seen(ends((NODE, 1), (OUTSIDE, 2)), ends((OUTSIDE, 2), (NODE, 1))), [""; 0]);
    }
}
