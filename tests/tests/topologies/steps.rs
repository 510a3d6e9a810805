//! What must hold in every network, one step after another in one world.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use sluice_netns::{ALLOW_TIMEOUT, DENY_TIMEOUT, Outcome, Probe, Protocol, probe_all};
use sluice_tests::agent_world::endpoint;

use crate::bulk;
use crate::services::{OWN_SERVICE, node_port, watched_node_port};
use crate::setting::{KINDS, Setting, WATCHED, blocks, node};

const OPENS: Outcome = Outcome::Open;
const HANGS: Outcome = Outcome::TimedOut;

/// Two agents or more on one kernel, each with its own pods, whose interfaces it found by itself.
pub(crate) fn every_agent_has_the_pods_of_its_node(setting: &Setting) -> Result<()> {
    let lab = &setting.lab;
    for (number, agent) in setting.nodes().zip(&lab.agents) {
        let status = agent.status()?;
        let expected: BTreeSet<String> = KINDS.map(|kind| format!("shop/{kind}{number}")).into();
        let endpoints = status["endpoints"].as_array().context("status has no endpoints")?;
        let pods: BTreeSet<String> =
            endpoints.iter().filter_map(|endpoint| Some(endpoint["pod"].as_str()?.to_owned())).collect();
        assert_eq!(pods, expected, "on {}", node(number));
        for pod in expected {
            let found = endpoint(&status, &pod);
            assert_eq!(found["interface"], lab.world.pod(&pod)?.host_interface.as_str(), "{pod}");
            assert_eq!(found["state"], "enforcing", "{pod}");
        }
    }
    assert_eq!(lab.agents.len(), setting.nodes().count());
    Ok(())
}

pub(crate) fn everything_passes_without_policy(setting: &Setting) -> Result<()> {
    let pairs = "shop/friendA shop/webB tcp/80   opens
         shop/friendA shop/webB udp/5300 opens
         shop/friendA shop/webB ping     opens
         nodeA        shop/webB tcp/80   opens
         nodeA        shop/webB ping     opens
         shop/webA    nodeB     ping     opens";
    setting.lab.expect(&[setting.for_pairs(pairs), node_ports(setting, "opens", "opens")].concat());
    own_service(setting, [OPENS; 2])
}

/// Pods are seen as themselves, and the first node by the addresses that the network says. Later steps rest on this.
pub(crate) fn callers_are_seen_as_expected(setting: &Setting) -> Result<()> {
    let lab = &setting.lab;
    let (node1, client) = (lab.ns("node1")?, lab.ns("client")?);
    let friend = lab.world.pod("shop/friend1")?;
    let own = [IpAddr::V4(friend.ipv4), IpAddr::V6(friend.ipv6)];
    for number in setting.nodes() {
        let web = format!("shop/web{number}");
        let node = setting.seen_on(number)?;
        for (family, to) in lab.sockets(&web, WATCHED)?.into_iter().enumerate() {
            assert_eq!(setting.caller(&friend.ns, to, &web)?, own[family], "friend1 at {web}");
            assert_eq!(setting.caller(&node1, to, &web)?, node[family], "node1 at {web}");
            let address = lab.world.node("node1")?.addresses()[family];
            let port = SocketAddr::new(address, watched_node_port(number));
            assert_eq!(setting.caller(&client, port, &web)?, node[family], "a NodePort's client at {web}");
        }
    }
    // Through its own Service a pod is seen as its node.
    let (web, node) = (lab.ns("shop/web1")?, setting.seen_on(1)?);
    for (family, service) in OWN_SERVICE.into_iter().enumerate() {
        assert_eq!(setting.caller(&web, SocketAddr::new(service, WATCHED), "shop/web1")?, node[family]);
    }
    Ok(())
}

/// Under deny-all a pod is open to the kubelet of its own node and to nobody else: what others send through the node has its
/// address on the wire, and is not the node's.
pub(crate) fn a_closed_namespace_is_open_to_its_own_nodes_alone(setting: &Setting) -> Result<()> {
    let lab = &setting.lab;
    lab.apply("shop/deny", "podSelector: {}, policyTypes: [Ingress, Egress]")?;
    let own = "nodeA     shop/webA tcp/80   opens
               nodeA     shop/webA udp/5300 opens
               nodeA     shop/webA ping     opens
               shop/webA nodeA     ping     opens
               shop/webA shop/webA tcp/80   opens";
    let others = "nodeA     shop/webB tcp/80   hangs
                  nodeA     shop/webB udp/5300 hangs
                  nodeA     shop/webB ping     hangs
                  shop/webA nodeB     ping     hangs";
    let pods = "shop/friendA shop/webB tcp/80   hangs
                shop/friendA shop/webB udp/5300 hangs
                shop/friendA shop/webB ping     hangs
                client       shop/webB tcp/80   hangs
                shop/webA    client    tcp/80   hangs";
    let tables = [setting.for_each(own), setting.for_others(others), setting.for_pairs(pods)];
    lab.expect(&(tables.concat() + &node_ports(setting, "hangs", "hangs")));
    own_service(setting, [HANGS; 2])?;
    // Closed for ingress alone, the pod sends to its Service, and what comes back is known to be its own.
    lab.apply("shop/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    own_service(setting, [OPENS; 2])?;
    lab.delete("shop/deny")
}

/// Ingress by selector at the servers and egress by selector at some clients, on all nodes.
pub(crate) fn selectors_choose_pods_on_every_node(setting: &Setting) -> Result<()> {
    let lab = &setting.lab;
    let friends = "podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]";
    let to_web = "podSelector: {matchLabels: {app: friend}}, policyTypes: [Egress],
                  egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]";
    lab.apply("shop/in", friends)?;
    lab.apply("shop/out", to_web)?;
    lab.expect(&setting.for_pairs(
        "shop/friendA   shop/webB      tcp/80   opens
         shop/friendA   shop/webB      udp/5300 opens
         shop/friendA   shop/webB      ping     opens
         shop/friendA   shop/webB      tcp/81   refused
         shop/strangerA shop/webB      tcp/80   hangs
         shop/strangerA shop/webB      udp/5300 hangs
         shop/strangerA shop/webB      ping     hangs
         shop/friendA   shop/strangerB tcp/80   hangs
         shop/friendA   shop/strangerB udp/5300 hangs
         shop/friendA   shop/strangerB ping     hangs
         shop/strangerA shop/friendB   tcp/80   opens
         shop/strangerA shop/friendB   udp/5300 opens
         shop/strangerA shop/friendB   ping     opens",
    ));
    let friend = lab.ns("shop/friend1")?;
    for number in setting.nodes() {
        for to in lab.sockets(&format!("shop/web{number}"), 80)? {
            bulk::echo(&friend, to)?;
        }
    }
    lab.delete("shop/in")?;
    lab.delete("shop/out")
}

/// Blocks outside, in both directions.
pub(crate) fn blocks_choose_machines_outside(setting: &Setting) -> Result<()> {
    let lab = &setting.lab;
    let client = blocks(&lab.addresses("client")?);
    lab.apply(
        "shop/in",
        &format!("podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: [{client}]}}]"),
    )?;
    lab.apply(
        "shop/out",
        &format!("podSelector: {{matchLabels: {{app: friend}}}}, policyTypes: [Egress], egress: [{{to: [{client}]}}]"),
    )?;
    let each = "client       shop/webA tcp/80   opens
         client       shop/webA udp/5300 opens
         client       shop/webA ping     opens
         guest        shop/webA tcp/80   hangs
         guest        shop/webA ping     hangs
         shop/friendA client    tcp/80   opens
         shop/friendA client    ping     opens
         shop/friendA guest     tcp/80   hangs
         shop/friendA guest     ping     hangs";
    // By a NodePort of a pod's own node the client is known, to others it comes as the node.
    lab.expect(&(setting.for_each(each) + &node_ports(setting, "opens", "hangs")));
    lab.delete("shop/in")?;
    lab.delete("shop/out")
}

/// A node is the address that it is seen by, and whoever comes by its NodePort to another node is that too.
pub(crate) fn blocks_choose_nodes_as_they_are_seen(setting: &Setting) -> Result<()> {
    let lab = &setting.lab;
    for number in setting.nodes() {
        let web = format!("shop/web{number}");
        let node = setting.seen_on(number)?;
        let by_port = if number == 1 { "hangs" } else { "opens" };
        let spec = |addresses| {
            format!(
                "podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: [{}]}}]",
                blocks(addresses)
            )
        };
        lab.apply("shop/in", &spec(&node))?;
        let port = node_port(number);
        lab.expect_probes(&format!(
            "node1        {web} tcp/80     opens
             node1        {web} udp/5300   opens
             node1        {web} ping       opens
             client       node1 tcp/{port} {by_port}
             client       node1 udp/{port} {by_port}
             client       {web} tcp/80     hangs
             shop/friend1 {web} tcp/80     hangs
             node2        shop/web1 ping   hangs"
        ));
        own_service(setting, [OPENS; 2])?;
    }
    lab.delete("shop/in")
}

/// A table of what is to come of the first node's NodePorts to its own pod and to the others', for a client outside.
#[must_use]
fn node_ports(setting: &Setting, own: &str, others: &str) -> String {
    let lines = setting.nodes().map(|number| {
        let port = node_port(number);
        let outcome = if number == 1 { own } else { others };
        format!("client node1 tcp/{port} {outcome}\nclient node1 udp/{port} {outcome}\n")
    });
    lines.collect()
}

/// Checks what comes of a pod's call to its own Service, over IPv4 and IPv6. Its node masquerades it.
fn own_service(setting: &Setting, expected: [Outcome; 2]) -> Result<()> {
    let from = setting.lab.ns("shop/web1")?;
    let probe = |(to, expected): (_, &Outcome)| Probe {
        from: from.clone(),
        protocol: Protocol::Tcp,
        to,
        port: 80,
        timeout: if *expected == OPENS { ALLOW_TIMEOUT } else { DENY_TIMEOUT },
    };
    let probes: Vec<Probe> = OWN_SERVICE.into_iter().zip(&expected).map(probe).collect();
    assert_eq!(probe_all(&probes), expected, "shop/web1 to its own Service");
    Ok(())
}
