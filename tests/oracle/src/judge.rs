//! The verdict on a connection.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::{Cluster, Flow, Origin, Pod, Policy, Protocol};
use crate::selector::{block_covers, selects, selects_or_absent};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Deny,
}

/// What each end says. An end without a policed pod (outside, node, hostNetwork pod, finished pod) allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub egress: Verdict,
    pub ingress: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl Judgement {
    /// Both ends must allow (row 20).
    pub fn allowed(self) -> bool {
        self.egress == Verdict::Allow && self.ingress == Verdict::Allow
    }
}

impl From<bool> for Verdict {
    fn from(allow: bool) -> Verdict {
        if allow { Verdict::Allow } else { Verdict::Deny }
    }
}

/// Judges a new connection, given the policies of this instant (row 48). `from` and `to` must be of one family.
pub fn judge(cluster: &Cluster, flow: &Flow) -> Judgement {
    // What a node starts leaves no pod, whatever its source address says (row 36).
    let source = match flow.origin {
        Origin::Wire => cluster.pod_at(flow.from),
        Origin::Node(_) => None,
    };
    let destination = cluster.pod_at(flow.to);

    // Never leaves the pod (row 39).
    if let (Some(source), Some(destination)) = (source, destination)
        && std::ptr::eq(source, destination)
    {
        return Judgement { egress: Verdict::Allow, ingress: Verdict::Allow };
    }

    let egress = match source {
        None => true,
        Some(pod) => egress_allowed(cluster, pod, flow),
    };
    let ingress = match destination {
        None => true,
        Some(pod) => ingress_allowed(cluster, pod, flow),
    };
    Judgement { egress: egress.into(), ingress: ingress.into() }
}

fn egress_allowed(cluster: &Cluster, pod: &Pod, flow: &Flow) -> bool {
    // A pod reaches its own node (row 37; section 3 "pod to its own node").
    if is_address_of_own_node(cluster, pod, flow.to) {
        return true;
    }
    direction_allowed(cluster, pod, Direction::Egress, flow.to, flow)
}

fn ingress_allowed(cluster: &Cluster, pod: &Pod, flow: &Flow) -> bool {
    // A node reaches its own pods, by packet origin (row 36). Any other node is an ordinary source (row 38).
    if let Origin::Node(node) = &flow.origin
        && pod.node.as_ref() == Some(node)
    {
        return true;
    }
    direction_allowed(cluster, pod, Direction::Ingress, flow.from, flow)
}

fn is_address_of_own_node(cluster: &Cluster, pod: &Pod, address: IpAddr) -> bool {
    let Some(name) = &pod.node else {
        return false;
    };
    match cluster.nodes.get(name) {
        Some(node) => node.ips.contains(&address),
        None => false,
    }
}

/// One direction of one pod: open while no policy isolates it, else the union of all rules (rows 19, 20).
/// `remote` is the other end.
fn direction_allowed(
    cluster: &Cluster,
    pod: &Pod,
    direction: Direction,
    remote: IpAddr,
    flow: &Flow,
) -> bool {
    let mut isolated = false;
    for policy in &cluster.policies {
        if !is_subject(policy, pod) || !applies_to(&policy.spec, direction) {
            continue;
        }
        isolated = true;
        if some_rule_allows(cluster, policy, direction, remote, flow) {
            return true;
        }
    }
    !isolated
}

/// spec.podSelector, in the policy's own namespace; absent selects all (rows 1, 2).
fn is_subject(policy: &Policy, pod: &Pod) -> bool {
    policy.ns == pod.ns && selects_or_absent(policy.spec.pod_selector.as_ref(), &pod.labels)
}

/// policyTypes: when given, they win over the rules (row 13). When not, Ingress always, and Egress if there is at
/// least one egress rule (row 12).
fn applies_to(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.is_empty() {
        return match direction {
            Direction::Ingress => true,
            Direction::Egress => !spec.egress.as_deref().unwrap_or_default().is_empty(),
        };
    }
    let wanted = match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    };
    types.iter().any(|name| name == wanted)
}

/// Absent, null and empty rule lists allow nothing (row 14). A rule needs its peers AND its ports (row 18).
fn some_rule_allows(
    cluster: &Cluster,
    policy: &Policy,
    direction: Direction,
    remote: IpAddr,
    flow: &Flow,
) -> bool {
    match direction {
        Direction::Ingress => {
            for rule in policy.spec.ingress.iter().flatten() {
                if some_peer_matches(cluster, policy, rule.from.as_deref(), remote)
                    && some_port_matches(cluster, rule.ports.as_deref(), flow)
                {
                    return true;
                }
            }
        }
        Direction::Egress => {
            for rule in policy.spec.egress.iter().flatten() {
                if some_peer_matches(cluster, policy, rule.to.as_deref(), remote)
                    && some_port_matches(cluster, rule.ports.as_deref(), flow)
                {
                    return true;
                }
            }
        }
    }
    false
}

/// from / to: absent or empty is everyone, the outside included (rows 15, 16); else one of them (row 7).
fn some_peer_matches(
    cluster: &Cluster,
    policy: &Policy,
    peers: Option<&[NetworkPolicyPeer]>,
    remote: IpAddr,
) -> bool {
    let peers = peers.unwrap_or_default();
    peers.is_empty() || peers.iter().any(|peer| peer_matches(cluster, policy, peer, remote))
}

/// One peer. The API rejects a peer without fields (row 9) and an ipBlock beside a selector (row 10): they match
/// nothing.
fn peer_matches(cluster: &Cluster, policy: &Policy, peer: &NetworkPolicyPeer, remote: IpAddr) -> bool {
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        // An ipBlock matches whatever holds the address: pods and nodes too (rows 33, 34).
        (Some(block), None, None) => block_covers(block, remote),
        (Some(_), _, _) => false,
        (None, None, None) => false,
        // Selectors match pods only (row 11).
        (None, namespace_selector, pod_selector) => {
            let Some(pod) = cluster.pod_at(remote) else {
                return false;
            };
            // Without a namespaceSelector, the policy's own namespace (rows 4, 5, 8).
            let namespace_matches = match namespace_selector {
                None => pod.ns == policy.ns,
                Some(selector) => selects(selector, &cluster.namespace_labels(&pod.ns)),
            };
            // Both in one element: AND (row 6).
            namespace_matches && selects_or_absent(pod_selector.as_ref(), &pod.labels)
        }
    }
}

/// ports: absent or empty restricts nothing, not even the protocol (row 17). A rule with ports never covers a
/// protocol without them (row 56; section 3 "ping and other ICMP").
fn some_port_matches(cluster: &Cluster, ports: Option<&[NetworkPolicyPort]>, flow: &Flow) -> bool {
    let ports = ports.unwrap_or_default();
    ports.is_empty() || ports.iter().any(|port| port_matches(cluster, port, flow))
}

/// One ports entry (rows 21-28). Entries that the API would reject match nothing.
fn port_matches(cluster: &Cluster, entry: &NetworkPolicyPort, flow: &Flow) -> bool {
    // TCP unless told otherwise (row 21). SCTP is a protocol like the others, and never another one (row 29).
    let protocol = Protocol::from_api_name(entry.protocol.as_deref().unwrap_or("TCP"));
    if protocol != Some(flow.protocol) {
        return false;
    }
    let port = i32::from(flow.port);
    match (&entry.port, entry.end_port) {
        // Protocol only (row 22).
        (None, None) => true,
        (Some(IntOrString::Int(first)), None) => port == *first,
        // An inclusive range (row 28).
        (Some(IntOrString::Int(first)), Some(last)) => *first >= 1 && *first <= port && port <= last,
        (Some(IntOrString::String(name)), None) => named_port_is(cluster, name, flow),
        (None, Some(_)) | (Some(IntOrString::String(_)), Some(_)) => false,
    }
}

/// A named port is the destination pod's, in both directions: on ingress that is the subject itself (row 24), on
/// egress the other end (row 25). Name and protocol must both fit. A destination that is no pod, or whose containers
/// do not declare the name, matches nothing (rows 25, 26).
fn named_port_is(cluster: &Cluster, name: &str, flow: &Flow) -> bool {
    let Some(pod) = cluster.pod_at(flow.to) else {
        return false;
    };
    pod.ports.iter().any(|port| {
        port.name.as_deref() == Some(name) && port.protocol == flow.protocol && port.port == flow.port
    })
}
