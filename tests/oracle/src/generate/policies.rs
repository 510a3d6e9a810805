//! Random NetworkPolicies over the vocabulary of a cluster: every operator, absent and empty fields, nested blocks.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use super::addresses::{OUTSIDE, moved_into};
use super::{NAMESPACE_KEYS, NAMESPACES, POD_KEYS, PORT_NAMES, PORTS, VALUES};
use crate::model::{Cluster, NAMESPACE_NAME_LABEL, Policy};

const V4_LENGTHS: [u8; 14] = [0, 1, 4, 7, 8, 12, 16, 20, 23, 24, 28, 30, 31, 32];
const V6_LENGTHS: [u8; 14] = [0, 1, 3, 8, 16, 31, 32, 47, 48, 64, 120, 124, 127, 128];

type Terms = Vec<(&'static str, Vec<&'static str>)>;

/// 0..=`most` policies, in namespaces that exist or are at least named by pods.
pub(super) fn policies(base: &Cluster, most: usize) -> impl Strategy<Value = Vec<Policy>> + use<> {
    let mut namespaces: Vec<String> = base.pods.iter().map(|pod| pod.ns.clone()).collect();
    namespaces.extend(base.namespaces.keys().cloned());
    let mut pool: Vec<IpAddr> = base.pods.iter().flat_map(|pod| pod.ips.clone()).collect();
    pool.extend(base.nodes.values().flat_map(|node| node.ips.clone()));
    pool.extend(OUTSIDE);

    // Full more often than sparse: policies must meet on one pod to be worth a draw.
    let draft = (select(namespaces), spec(pool)).boxed();
    let drafts = prop_oneof![1 => vec(draft.clone(), 0..=most), 2 => vec(draft, most / 2..=most)];
    drafts.prop_map(|drafts| {
        let named = drafts.into_iter().enumerate();
        named.map(|(index, (ns, spec))| Policy { ns, name: format!("policy.{index}"), spec }).collect()
    })
}

fn spec(pool: Vec<IpAddr>) -> impl Strategy<Value = NetworkPolicySpec> {
    let ingress = optional_list((optional_list(peer(pool.clone()), 3), optional_list(port(), 3)), 3);
    let egress = optional_list((optional_list(peer(pool), 3), optional_list(port(), 3)), 3);
    let types: Vec<Option<Vec<&str>>> = vec![
        None,
        None,
        Some(vec![]),
        Some(vec!["Ingress"]),
        Some(vec!["Egress"]),
        Some(vec!["Ingress", "Egress"]),
        Some(vec!["Egress", "Ingress"]),
    ];
    // Broad more often than peers are: a policy without a subject tests nothing.
    let everyone = select(vec![None, Some(LabelSelector::default())]);
    let subject = prop_oneof![1 => everyone, 2 => selector(pod_terms()).prop_map(Some)];
    (subject, ingress, egress, select(types)).prop_map(|(pod_selector, ingress, egress, types)| {
        NetworkPolicySpec {
            pod_selector,
            ingress: ingress.map(|rules| {
                rules.into_iter().map(|(from, ports)| NetworkPolicyIngressRule { from, ports }).collect()
            }),
            egress: egress.map(|rules| {
                rules.into_iter().map(|(to, ports)| NetworkPolicyEgressRule { to, ports }).collect()
            }),
            policy_types: types.map(|types| types.into_iter().map(str::to_owned).collect()),
        }
    })
}

/// Absent, empty, or 1..=`most` items.
fn optional_list<S: Strategy>(item: S, most: usize) -> impl Strategy<Value = Option<Vec<S::Value>>> {
    (0..10u8, vec(item, 1..=most)).prop_map(|(shape, items)| match shape {
        0 | 1 => None,
        2 => Some(Vec::new()),
        _ => Some(items),
    })
}

fn peer(pool: Vec<IpAddr>) -> impl Strategy<Value = NetworkPolicyPeer> {
    prop_oneof![
        3 => selector(pod_terms()).prop_map(|pods| NetworkPolicyPeer {
            pod_selector: Some(pods),
            ..NetworkPolicyPeer::default()
        }),
        3 => selector(namespace_terms()).prop_map(|namespaces| NetworkPolicyPeer {
            namespace_selector: Some(namespaces),
            ..NetworkPolicyPeer::default()
        }),
        3 => (selector(namespace_terms()), selector(pod_terms())).prop_map(|(namespaces, pods)| {
            NetworkPolicyPeer {
                namespace_selector: Some(namespaces),
                pod_selector: Some(pods),
                ..NetworkPolicyPeer::default()
            }
        }),
        4 => block(pool).prop_map(|block| NetworkPolicyPeer {
            ip_block: Some(block),
            ..NetworkPolicyPeer::default()
        }),
    ]
}

fn pod_terms() -> Terms {
    let mut terms: Terms = POD_KEYS.iter().map(|key| (*key, VALUES.to_vec())).collect();
    terms.push(("never-set", VALUES.to_vec()));
    terms
}

fn namespace_terms() -> Terms {
    let mut terms: Terms = NAMESPACE_KEYS.iter().map(|key| (*key, VALUES.to_vec())).collect();
    terms.push((NAMESPACE_NAME_LABEL, NAMESPACES.to_vec()));
    terms
}

/// Often broad, so that something matches: {} or a single term in most draws.
fn selector(terms: Terms) -> impl Strategy<Value = LabelSelector> {
    let expressions = vec(requirement(terms.clone()), 1..=2);
    let pair = select(terms).prop_flat_map(|(key, values)| (Just(key.to_owned()), select(values)));
    let labels = vec(pair.prop_map(|(key, value)| (key, value.to_owned())), 1..=2);
    (0..12u8, labels, expressions).prop_map(|(shape, labels, expressions)| {
        let labels = labels.into_iter().collect();
        let (match_labels, match_expressions) = match shape {
            0 | 1 => (None, None),
            2 => (Some(Default::default()), Some(Vec::new())),
            3..6 => (Some(labels), None),
            6 => (Some(labels), Some(Vec::new())),
            7..11 => (None, Some(expressions)),
            _ => (Some(labels), Some(expressions)),
        };
        LabelSelector { match_expressions, match_labels }
    })
}

fn requirement(terms: Terms) -> impl Strategy<Value = LabelSelectorRequirement> {
    let values = select(terms).prop_flat_map(|(key, values)| (Just(key), subsequence(values, 1..=2)));
    let operator = select(vec!["In", "In", "NotIn", "NotIn", "Exists", "DoesNotExist"]);
    (operator, values, any::<bool>()).prop_map(|(operator, (key, values), spell_empty)| {
        let values = match operator {
            "In" | "NotIn" => Some(values.into_iter().map(str::to_owned).collect()),
            _ => spell_empty.then(Vec::new),
        };
        LabelSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values }
    })
}

fn port() -> impl Strategy<Value = NetworkPolicyPort> {
    let protocol = select(vec![None, None, Some("TCP"), Some("TCP"), Some("UDP"), Some("UDP"), Some("SCTP")]);
    let first = select(&PORTS[..]).prop_map(i32::from);
    let range = (first.clone(), select(vec![0, 1, 28, 1000, 65535]));
    let name = prop_oneof![9 => select(&PORT_NAMES[..]), 1 => Just("undeclared")];
    let number = prop_oneof![
        2 => Just((None, None)),
        3 => first.prop_map(|first| (Some(IntOrString::Int(first)), None)),
        3 => range.prop_map(|(first, width)| {
            (Some(IntOrString::Int(first)), Some((first + width).min(65535)))
        }),
        4 => name.prop_map(|name| (Some(IntOrString::String(name.to_owned())), None)),
    ];
    (protocol, number).prop_map(|(protocol, (port, end_port))| NetworkPolicyPort {
        end_port,
        port,
        protocol: protocol.map(str::to_owned),
    })
}

/// A block around an address of the pool, with excepts around others moved into it; some spelled with host bits.
fn block(pool: Vec<IpAddr>) -> impl Strategy<Value = IPBlock> {
    let around = (select(pool), any::<Index>(), any::<bool>());
    (around.clone(), optional_list(around, 3)).prop_map(|((address, length, host_bits), excepts)| {
        let lengths = if address.is_ipv4() { V4_LENGTHS } else { V6_LENGTHS };
        let length = *length.get(&lengths);
        let cidr = IpNet::new(address, length).unwrap_or(IpNet::from(address));
        let longer: Vec<u8> = lengths.into_iter().filter(|other| *other > length).collect();
        let except = excepts.map(|excepts| {
            let mut inside = Vec::new();
            for (address, length, host_bits) in excepts {
                // Of the other family, or nothing is longer than the block: there is no strict subset to make.
                if let Some(address) = moved_into(address, cidr)
                    && !longer.is_empty()
                    && let Ok(except) = IpNet::new(address, *length.get(&longer))
                {
                    inside.push(spell(except, host_bits));
                }
            }
            inside
        });
        IPBlock { cidr: spell(cidr, host_bits), except }
    })
}

fn spell(net: IpNet, host_bits: bool) -> String {
    if host_bits { net.to_string() } else { net.trunc().to_string() }
}
