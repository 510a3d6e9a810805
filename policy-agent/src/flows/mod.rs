//! The connections that pods already have, from what the kernel knows of them (issue 3: an agent that starts, or a pod that
//! becomes isolated, must not cut what policy allows).
//!
//! Two sources, each optional:
//! - ctnetlink, the node's own connection tracking. It sees all protocols and who sent first, and undoes address
//!   translation. Nodes without netfilter rules don't track, and neither does a bridge without br_netfilter.
//! - sock_diag in the pods' network namespaces: the pods' own sockets. A socket doesn't tell who opened its connection: that
//!   is inferred from whether the pod listens on its port.
//!
//! Where both know a flow, connection tracking wins, unless it met the connection midway: then the first packet that it saw
//! may have been an answer, and the sockets tell the opener. A flow whose opener nobody knows is left out: the engine then
//! asks for policy to allow both directions, which is stricter than any guess.
//!
//! Limits:
//! - Sockets only tell TCP, and UDP sockets that are connected. An unconnected UDP socket has no flow to tell, and SCTP
//!   associations have several addresses at each end: connection tracking alone knows these. Flows without a handshake
//!   are known again from the opener's next packet anyway.
//! - A pod that closed its listening socket, but not the connections that came of it, looks to sock_diag as if it had opened
//!   them where the port is one that the kernel hands out by itself (`ip_local_port_range`).
//! - Of sockets alone, a server on a port that the kernel also hands out (32,768 and above by default) could be a client:
//!   its connections are left out.
//! - Sockets don't tell [`Opener::Node`]: a connection masqueraded to the node's address looks the same from the pod. It is
//!   told as the peer's, which policy judges. The node's own packets pass by their origin whatever is told here.
//! - A listing is a moment's: what opens or closes meanwhile may be in it or not.

mod conntrack;
mod dump;
mod merge;
mod sockets;
mod translate;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use policy_common::flows::Opener;

use crate::endpoints::Interface;

/// A connection as seen at the host end of the pod's veth: where the pod is the client before the destination is
/// translated, where it is the server after both addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownFlow {
    /// The pod's address.
    pub pod: IpAddr,
    /// The pod's port; of ICMP the identifier of the query.
    pub local_port: u16,
    /// The other end. Its port is 0 for ICMP: the opener tells who asks.
    pub remote: SocketAddr,
    /// Who really answers, where the node translates the destination.
    pub through: Option<SocketAddr>,
    /// 6, 17 and 132, and 1 or 58 with the family that it belongs to.
    pub protocol: u8,
    /// Who opened it.
    pub opener: Opener,
    /// How far it is.
    pub state: Phase,
    /// How long the source keeps it without another packet, if it says.
    pub remaining: Option<Duration>,
}

/// What a connection has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// It is not known whether both sides have been heard, or TCP's handshake isn't complete.
    Opening,
    /// Both sides have been heard.
    Established,
    /// A FIN or RST was seen, or another protocol's equivalent.
    Closing,
}

/// Where to look for a pod's sockets, and what its addresses are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNamespace {
    /// The file of its network namespace.
    pub netns: PathBuf,
    /// Its addresses. Other addresses in its namespace don't count.
    pub addresses: BTreeSet<IpAddr>,
}

impl PodNamespace {
    /// The pods that a scan found: their interfaces, each address once.
    pub fn of<'a>(interfaces: impl IntoIterator<Item = &'a Interface>) -> Vec<Self> {
        let mut addresses: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
        for interface in interfaces {
            addresses.entry(&interface.netns).or_default().insert(interface.address);
        }
        addresses.into_iter().map(|(netns, addresses)| Self { netns: netns.into(), addresses }).collect()
    }
}

/// What was found, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Each flow once, in no particular order.
    pub flows: Vec<KnownFlow>,
    /// What failed, each a sentence.
    pub problems: Vec<String>,
    /// What this kernel doesn't have, and flows left out, each a sentence.
    pub notes: Vec<String>,
}

/// Whether to read the node's connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// It tells most.
    Read,
    /// It can be large: the pods' sockets alone.
    LeaveOut,
}

/// Lists the flows of `pods`. The calling thread must be in the node's network namespace; `node_addresses` are those of that
/// namespace.
///
/// Blocks: for about three microseconds an entry of the node's whole connection tracking (100,000: 0.3 s), so
/// ask once for many pods; and for 0.6 ms in each pod. The work
/// is done on a thread of its own, the only one that leaves the caller's namespace.
#[must_use]
pub fn known_flows(pods: &[PodNamespace], node_addresses: &BTreeSet<IpAddr>, tracking: Tracking) -> Listing {
    let failed = |problem: String| Listing { problems: vec![problem], ..Listing::default() };
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("flows".to_owned())
            .spawn_scoped(scope, || list_here(pods, node_addresses, tracking));
        match worker {
            Ok(worker) => worker
                .join()
                .unwrap_or_else(|_| failed("the thread that lists connections panicked".to_owned())),
            Err(error) => failed(format!("starting the thread that lists connections: {error}")),
        }
    })
}

/// Leaves the calling thread in one of the pods' namespaces.
fn list_here(pods: &[PodNamespace], node_addresses: &BTreeSet<IpAddr>, tracking: Tracking) -> Listing {
    let mut listing = Listing::default();
    let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| &pod.addresses).copied().collect();
    let mut tracked = Vec::new();
    let read = match tracking {
        Tracking::Read => conntrack::entries(|entry| {
            tracked.extend(translate::flows(&entry, &addresses, node_addresses));
        }),
        Tracking::LeaveOut => Ok(dump::Unread::default()),
    };
    listing.account("connection tracking (ctnetlink)", read, |error| {
        // nfnetlink says EINVAL of a subsystem that it doesn't have.
        error.raw_os_error() == Some(libc::EINVAL)
    });
    let mut from_sockets = Vec::new();
    for pod in pods {
        let what = format!("sockets in {}", pod.netns.display());
        match sockets::look_into(pod, &mut from_sockets) {
            Ok(reads) => {
                for (protocol, read) in reads {
                    // sock_diag says ENOENT of a protocol that it doesn't have.
                    listing.account(&format!("{protocol} {what}"), read, |error| {
                        error.raw_os_error() == Some(libc::ENOENT)
                    });
                }
            }
            // The pod is gone, and its connections are.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => listing.problems.push(format!("{what}: {error}")),
        }
    }
    let merged = merge::merge(tracked, from_sockets);
    if merged.left_out > 0 {
        listing.notes.push(format!(
            "{} connections are left out: connection tracking met them midway, and no socket tells who opened them",
            merged.left_out
        ));
    }
    listing.flows = merged.flows;
    listing
}

impl Listing {
    /// Notes how reading a source went. `missing` says which error means that the kernel has no such thing.
    fn account(&mut self, what: &str, read: io::Result<dump::Unread>, missing: fn(&io::Error) -> bool) {
        match read {
            Ok(dump::Unread { count: 0, .. }) => {}
            Ok(unread) => self.problems.push(format!(
                "{what}: {} messages make no sense, the first because of: {}",
                unread.count, unread.first
            )),
            Err(error)
                if missing(&error)
                    || matches!(
                        error.raw_os_error(),
                        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
                    ) =>
            {
                self.notes.push(format!("this kernel has no {what}"));
            }
            Err(error) => self.problems.push(format!("{what}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_lacks_is_no_problem() {
        let mut listing = Listing::default();
        let code = io::Error::from_raw_os_error;
        let missing = |error: &io::Error| error.raw_os_error() == Some(libc::ENOENT);
        listing.account("x", Err(code(libc::ENOENT)), missing);
        listing.account("x", Err(code(libc::EPROTONOSUPPORT)), missing);
        listing.account("x", Ok(dump::Unread::default()), missing);
        assert_eq!(listing.problems, [""; 0]);
        assert_eq!(listing.notes.len(), 2);
        listing.account("x", Err(code(libc::EPERM)), missing);
        listing.account("x", Ok(dump::Unread { count: 3, first: "y".to_owned() }), missing);
        assert_eq!(listing.problems.len(), 2, "{:?}", listing.problems);
        assert_eq!(listing.notes.len(), 2);
    }

    #[test]
    fn a_pod_that_is_gone_is_no_problem() {
        let gone =
            PodNamespace { netns: "/var/run/netns/sluice-no-such-pod".into(), addresses: BTreeSet::new() };
        let mut flows = Vec::new();
        let error = sockets::look_into(&gone, &mut flows).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
