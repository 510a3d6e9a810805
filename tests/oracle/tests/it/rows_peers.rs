//! Which peers a rule names: rows 4-11 and 30-35.

use crate::support::{OUTSIDE, OUTSIDE_V6, no, world, yes};

/// Ingress to every pod of x from these peers.
fn from(peers: &str) -> String {
    format!("{{podSelector: {{}}, ingress: [{{from: {peers}}}]}}")
}

/// Egress of every pod of x to these peers.
fn to(peers: &str) -> String {
    format!("{{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: {peers}}}]}}")
}

#[test]
fn row_04_pod_selector_means_own_namespace() {
    let c = world(&[("x", &from("[{podSelector: {matchLabels: {app: a}}}]"))]);
    yes(&c, "x/a", "x/b", "TCP/80");
    no(&c, "y/a", "x/b", "TCP/80");
    let c = world(&[("x", &from("[{podSelector: {}}]"))]);
    yes(&c, "x/b", "x/a", "TCP/80");
    no(&c, "y/a", "x/a", "TCP/80");
    no(&c, OUTSIDE, "x/a", "TCP/80");
}

#[test]
fn row_05_namespace_selector_means_all_its_pods() {
    let c = world(&[("x", &from("[{namespaceSelector: {matchLabels: {team: '2'}}}]"))]);
    yes(&c, "y/a", "x/a", "TCP/80");
    no(&c, "x/b", "x/a", "TCP/80");
    let c = world(&[("x", &from("[{namespaceSelector: {}}]"))]);
    yes(&c, "y/a", "x/a", "TCP/80");
    yes(&c, "z/c", "x/a", "TCP/80");
    yes(&c, "x/b", "x/a", "TCP/80");
    no(&c, OUTSIDE, "x/a", "TCP/80");
}

#[test]
fn row_06_both_selectors_in_one_element_are_and() {
    let peers = "[{namespaceSelector: {matchLabels: {team: '2'}}, podSelector: {matchLabels: {app: a}}}]";
    let c = world(&[("x", &from(peers))]);
    yes(&c, "y/a", "x/b", "TCP/80");
    no(&c, "x/a", "x/b", "TCP/80");
    no(&c, "z/c", "x/b", "TCP/80");
    let c = world(&[("x", &to(peers))]);
    yes(&c, "x/b", "y/a", "TCP/80");
    no(&c, "x/b", "x/a", "TCP/80");
}

#[test]
fn row_07_two_elements_are_or() {
    let peers = "[{namespaceSelector: {matchLabels: {team: '2'}}}, {podSelector: {matchLabels: {app: a}}}]";
    let c = world(&[("x", &from(peers))]);
    yes(&c, "y/a", "x/b", "TCP/80");
    yes(&c, "x/a", "x/b", "TCP/80");
    no(&c, "z/c", "x/b", "TCP/80");
}

#[test]
fn row_08_absent_is_not_empty() {
    let c = world(&[("x", &from("[{namespaceSelector: {}, podSelector: null}]"))]);
    yes(&c, "y/a", "x/a", "TCP/80");
    let c = world(&[("x", &from("[{namespaceSelector: null, podSelector: {}}]"))]);
    no(&c, "y/a", "x/a", "TCP/80");
    let c = world(&[("x", &from("[{namespaceSelector: {}, podSelector: {}}]"))]);
    yes(&c, "y/a", "x/a", "TCP/80");
}

#[test]
fn rows_09_10_rejected_peers_match_nothing() {
    let peers = [
        "[{}]",
        "[{ipBlock: {cidr: 0.0.0.0/0}, podSelector: {}}]",
        "[{ipBlock: {cidr: 0.0.0.0/0}, namespaceSelector: {}}]",
    ];
    for peers in peers {
        let c = world(&[("x", &from(peers))]);
        no(&c, "x/b", "x/a", "TCP/80");
        no(&c, OUTSIDE, "x/a", "TCP/80");
    }
}

#[test]
fn row_11_selectors_never_match_other_addresses() {
    let mut c = world(&[("x", &from("[{namespaceSelector: {}}]")), ("x", &to("[{namespaceSelector: {}}]"))]);
    no(&c, OUTSIDE, "x/a", "TCP/80");
    no(&c, "x/a", OUTSIDE, "TCP/80");
    no(&c, "node:n2", "x/a", "TCP/80");
    no(&c, "x/a", "192.0.2.2", "TCP/80");
    // Once the pod has no address, what it had is nobody's.
    c.pods.iter_mut().find(|pod| pod.ns == "z").unwrap().ips.clear();
    no(&c, "10.244.1.30", "x/a", "TCP/80");
}

#[test]
fn row_30_sloppy_cidrs() {
    for cidr in ["10.244.2.20/24", "10.244.002.020/24", "010.244.2.0/24"] {
        let c = world(&[("x", &from(&format!("[{{ipBlock: {{cidr: {cidr}}}}}]")))]);
        yes(&c, "y/a", "x/a", "TCP/80");
        no(&c, "z/c", "x/a", "TCP/80");
    }
    let c = world(&[("x", &from("[{ipBlock: {cidr: 'FD00:0010::ffff/64'}}]"))]);
    yes(&c, "y/a@6", "x/a@6", "TCP/80");
    for cidr in
        ["10.244.2.20", "10.244.2/24", "10.244.2.0/33", "10.244.2.0/", "10.244.2.0/+8", "junk/0", "/0"]
    {
        let c = world(&[("x", &from(&format!("[{{ipBlock: {{cidr: '{cidr}'}}}}]")))]);
        no(&c, "y/a", "x/a", "TCP/80");
    }
}

#[test]
fn row_31_except_removes_from_its_peer_only() {
    let block = "{ipBlock: {cidr: 10.244.0.0/16, except: [10.244.2.0/24, 10.244.1.30/32]}}";
    let c = world(&[("x", &from(&format!("[{block}]")))]);
    yes(&c, "x/a", "x/b", "TCP/80");
    no(&c, "y/a", "x/b", "TCP/80");
    no(&c, "z/c", "x/b", "TCP/80");
    no(&c, OUTSIDE, "x/b", "TCP/80");
    // Another peer, another rule, another policy.
    let c = world(&[("x", &from(&format!("[{block}, {{ipBlock: {{cidr: 10.244.2.20/32}}}}]")))]);
    yes(&c, "y/a", "x/b", "TCP/80");
    no(&c, "z/c", "x/b", "TCP/80");
    let c = world(&[(
        "x",
        &format!(
            "{{podSelector: {{}}, ingress: [{{from: [{block}]}}, {{from: [{{namespaceSelector: {{matchLabels: {{team: '2'}}}}}}]}}]}}"
        ),
    )]);
    yes(&c, "y/a", "x/b", "TCP/80");
    let c = world(&[("x", &from(&format!("[{block}]"))), ("x", &from("[{ipBlock: {cidr: 10.244.1.0/24}}]"))]);
    yes(&c, "z/c", "x/b", "TCP/80");
    // What cannot be read excludes everything, rather than nothing.
    let c = world(&[("x", &from("[{ipBlock: {cidr: 10.244.0.0/16, except: [junk]}}]"))]);
    no(&c, "x/a", "x/b", "TCP/80");
    let c = world(&[("x", &from("[{ipBlock: {cidr: 10.244.0.0/16, except: []}}]"))]);
    yes(&c, "x/a", "x/b", "TCP/80");
}

#[test]
fn row_32_overlapping_blocks_add_up() {
    let c = world(&[(
        "x",
        "{podSelector: {}, ingress: [
            {from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 80}]},
            {from: [{ipBlock: {cidr: 10.244.2.20/32}}], ports: [{port: 81}]}]}",
    )]);
    yes(&c, "y/a", "x/a", "TCP/80");
    yes(&c, "y/a", "x/a", "TCP/81");
    no(&c, "y/a", "x/a", "TCP/82");
    yes(&c, "z/c", "x/a", "TCP/80");
    no(&c, "z/c", "x/a", "TCP/81");
}

#[test]
fn row_33_blocks_match_pods() {
    let c = world(&[("x", &to("[{ipBlock: {cidr: 10.244.2.20/32}}]"))]);
    yes(&c, "x/a", "y/a", "TCP/81");
    no(&c, "x/a", "x/b", "TCP/81");
    no(&c, "x/a@6", "y/a@6", "TCP/81");
}

#[test]
fn row_34_families_never_mix() {
    let c = world(&[("x", &from("[{ipBlock: {cidr: 0.0.0.0/0}}]"))]);
    yes(&c, OUTSIDE, "x/a", "TCP/80");
    yes(&c, "y/a", "x/a", "TCP/80");
    yes(&c, "node:n2", "x/a", "TCP/80");
    no(&c, OUTSIDE_V6, "x/a@6", "TCP/80");
    no(&c, "y/a@6", "x/a@6", "TCP/80");
    let c = world(&[("x", &to("[{ipBlock: {cidr: '::/0'}}]"))]);
    yes(&c, "x/a@6", OUTSIDE_V6, "TCP/80");
    yes(&c, "x/a@6", "y/a@6", "ICMP");
    no(&c, "x/a", OUTSIDE, "TCP/80");
    no(&c, "x/a", "y/a", "TCP/80");
}
