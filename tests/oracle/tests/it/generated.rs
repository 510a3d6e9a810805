//! The generators: deterministic, valid, and worth their time.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use sluice_oracle::generate::{cluster, flow};
use sluice_oracle::selector::parse_cidr;
use sluice_oracle::{Cluster, Origin, Protocol, Size, Verdict, judge, random_cluster, random_flows};

#[test]
fn seeds_are_reproducible_and_differ() {
    let first = random_cluster(7);
    assert_eq!(first, random_cluster(7));
    assert_ne!(first, random_cluster(8));
    let flows = random_flows(&first, 1, 50);
    assert_eq!(flows.len(), 50);
    assert_eq!(flows, random_flows(&first, 1, 50));
    assert_ne!(flows, random_flows(&first, 2, 50));
}

/// If one verdict or one kind of end were rare, thousands of clusters would prove little.
#[test]
fn verdicts_and_corners_all_occur() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let mut total = 0;
    for seed in 0..500 {
        let cluster = random_cluster(seed);
        for flow in random_flows(&cluster, seed, 40) {
            total += 1;
            let judgement = judge(&cluster, &flow);
            let (from, to) = (cluster.pod_at(flow.from), cluster.pod_at(flow.to));
            let from_node = matches!(flow.origin, Origin::Node(_));
            let facts = [
                ("egress denied", judgement.egress == Verdict::Deny),
                ("ingress denied", judgement.ingress == Verdict::Deny),
                ("allowed", judgement.allowed()),
                ("allowed under a policy", judgement.allowed() && is_under_policy(&cluster, &flow)),
                ("pod to pod", from.is_some() && to.is_some() && !from_node),
                ("from a node", from_node && to.is_some()),
                (
                    "node address over the wire",
                    !from_node && cluster.nodes.values().any(|node| node.ips.contains(&flow.from)),
                ),
                ("from outside", from.is_none() && !from_node),
                ("to outside", to.is_none()),
                ("loopback", from.is_some() && from == to),
                ("IPv6", flow.from.is_ipv6()),
                ("ICMP", flow.protocol == Protocol::Icmp),
                ("SCTP", flow.protocol == Protocol::Sctp),
            ];
            assert_eq!(flow.from.is_ipv6(), flow.to.is_ipv6());
            for (fact, holds) in facts {
                *seen.entry(fact).or_default() += u32::from(holds);
            }
        }
    }
    println!("of {total}: {seen:#?}");
    for (fact, count) in &seen {
        assert!(*count > total / 100, "{fact}: {count} of {total}");
    }
    for often in ["egress denied", "ingress denied", "allowed under a policy"] {
        assert!(seen[often] > total / 7, "{often}: {} of {total}", seen[often]);
    }
}

/// Whether the flow would be denied if all rules were taken away.
fn is_under_policy(cluster: &Cluster, flow: &sluice_oracle::Flow) -> bool {
    let mut bare = cluster.clone();
    for policy in &mut bare.policies {
        let egress = policy.spec.egress.take().is_some_and(|rules| !rules.is_empty());
        policy.spec.ingress = None;
        if egress && policy.spec.policy_types.as_deref().unwrap_or_default().is_empty() {
            policy.spec.policy_types = Some(vec!["Ingress".to_owned(), "Egress".to_owned()]);
        }
    }
    !judge(&bare, flow).allowed()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// API validation, and the states whose right answer is undefined.
    #[test]
    fn clusters_are_valid(cluster in cluster(Size::default())) {
        let mut addresses = Vec::new();
        for pod in &cluster.pods {
            if pod.is_policed() {
                addresses.extend(pod.ips.iter().copied());
            }
            prop_assert!(pod.node.as_ref().is_none_or(|node| cluster.nodes.contains_key(node)));
            let mut names: Vec<_> =
                pod.ports.iter().filter(|port| port.name.is_some()).map(|port| (&port.name, port.protocol)).collect();
            let count = names.len();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), count);
        }
        for node in cluster.nodes.values() {
            addresses.extend(node.ips.iter().copied());
        }
        let count = addresses.len();
        addresses.sort();
        addresses.dedup();
        prop_assert_eq!(addresses.len(), count);

        for policy in &cluster.policies {
            for rule in policy.spec.ingress.iter().flatten() {
                rule.from.iter().flatten().try_for_each(peer_is_valid)?;
                rule.ports.iter().flatten().try_for_each(port_is_valid)?;
            }
            for rule in policy.spec.egress.iter().flatten() {
                rule.to.iter().flatten().try_for_each(peer_is_valid)?;
                rule.ports.iter().flatten().try_for_each(port_is_valid)?;
            }
        }
    }

    /// A policy more, with no rules, never allows anything that was denied; without policies nothing is denied.
    #[test]
    fn isolation_only_takes_away((cluster, flow) in cluster(Size::default())
        .prop_flat_map(|cluster| { let flow = flow(&cluster); (Just(cluster), flow) }))
    {
        let before = judge(&cluster, &flow);
        let mut fewer = cluster.clone();
        fewer.policies.clear();
        prop_assert!(judge(&fewer, &flow).allowed());
        let mut without_rules = cluster.clone();
        for policy in &mut without_rules.policies {
            policy.spec.ingress = None;
            policy.spec.egress = None;
            policy.spec.policy_types = Some(vec!["Ingress".to_owned(), "Egress".to_owned()]);
        }
        let closed = judge(&without_rules, &flow);
        prop_assert!(before.allowed() || !closed.allowed());
        let mut reversed = cluster;
        reversed.policies.reverse();
        prop_assert_eq!(judge(&reversed, &flow), before);
    }
}

fn peer_is_valid(peer: &NetworkPolicyPeer) -> Result<(), TestCaseError> {
    let Some(block) = &peer.ip_block else {
        prop_assert!(peer.pod_selector.is_some() || peer.namespace_selector.is_some());
        return Ok(());
    };
    prop_assert!(peer.pod_selector.is_none() && peer.namespace_selector.is_none());
    let cidr = parse_cidr(&block.cidr);
    prop_assert!(cidr.is_some());
    for except in block.except.iter().flatten() {
        let inside = parse_cidr(except)
            .zip(cidr)
            .is_some_and(|(except, cidr)| cidr.contains(&except) && except.prefix_len() > cidr.prefix_len());
        prop_assert!(inside, "{} in {}", except, block.cidr);
    }
    Ok(())
}

fn port_is_valid(port: &NetworkPolicyPort) -> Result<(), TestCaseError> {
    match &port.port {
        Some(IntOrString::Int(first)) => {
            prop_assert!((1..=65535).contains(first));
            prop_assert!(port.end_port.is_none_or(|last| (*first..=65535).contains(&last)));
        }
        _ => prop_assert!(port.end_port.is_none()),
    }
    Ok(())
}
