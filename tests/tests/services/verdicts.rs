//! Who is reached through a Service, and who is not.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_kubeproxy::Mode;
use sluice_netns::{ALLOW_TIMEOUT, DENY_TIMEOUT, Outcome, Server, udp_exchange};

use crate::stage::{DNS, Stage, TARGET, ask};

const BOTH: [(&str, u16); 2] = [("near", TARGET), ("far", TARGET)];

/// Asks often enough that each of two endpoints is chosen, but for one case in 2^20.
fn who(stage: &Stage, to: SocketAddr, times: usize) -> Result<BTreeSet<String>> {
    stage.who(to, times)
}

fn refusal(stage: &Stage, to: SocketAddr) -> Result<BTreeSet<String>> {
    Ok([ask(&stage.client()?, to, ALLOW_TIMEOUT)?].into())
}

#[track_caller]
fn expect(stage: &Stage, what: &str, expected: &[&str]) {
    for to in Stage::http() {
        let times = if expected.len() > 1 { 20 } else { 6 };
        let found = match expected {
            // The node's redirects may have used up its limit of ICMP messages: the next one comes in a second.
            ["refused"] => refusal(stage, to),
            _ => who(stage, to, times),
        };
        let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
        let found = found.map_err(|error| format!("{error:#}"));
        assert_eq!(found, Ok(expected), "{what}: {to}");
    }
}

fn every_combination(mode: Mode) -> Result<()> {
    let stage = Stage::new(mode)?;
    stage.serve(&BOTH)?;
    expect(&stage, "nothing isolates the client", &["shop/near", "shop/far"]);
    stage.allow(&["near", "far"], &[TARGET])?;
    expect(&stage, "both are allowed", &["shop/near", "shop/far"]);
    stage.allow(&["near"], &[TARGET])?;
    expect(&stage, "one is allowed", &["shop/near", "hangs"]);
    stage.allow(&["far"], &[TARGET])?;
    expect(&stage, "the other one is", &["shop/far", "hangs"]);
    stage.allow(&[], &[])?;
    expect(&stage, "none is", &["hangs"]);
    // Policy is about the endpoint's port, not the Service's.
    stage.allow(&["near", "far"], &[80])?;
    expect(&stage, "the Service's port", &["hangs"]);
    // Endpoint by endpoint: a named target port is another number in each pod.
    stage.allow(&["near", "far"], &[9090])?;
    stage.serve(&[("near", TARGET), ("far", 9090)])?;
    expect(&stage, "ports that differ", &["shop/far", "hangs"]);
    // kube-proxy rejects what has no endpoint.
    stage.serve(&[])?;
    expect(&stage, "no endpoint", &["refused"]);
    stage.allow(&[], &[])?;
    expect(&stage, "no endpoint, and nothing allowed", &["refused"]);
    for to in Stage::dns() {
        let refused = udp_exchange(&stage.client()?, to, ALLOW_TIMEOUT);
        ensure!(refused == Outcome::Refused, "{to}: {refused}");
    }
    Ok(())
}

#[test]
fn every_combination_of_two_endpoints_behind_nftables() -> Result<()> {
    every_combination(Mode::Nftables)
}

#[test]
fn every_combination_of_two_endpoints_behind_iptables() -> Result<()> {
    every_combination(Mode::Iptables)
}

/// A datagram that went to an endpoint which is not allowed is lost; sent again, it finds one that is.
#[test]
fn datagrams_find_the_endpoint_that_is_allowed() -> Result<()> {
    let stage = Stage::new(Mode::Nftables)?;
    stage.serve(&BOTH)?;
    stage.allow(&["far"], &[TARGET])?;
    let client = stage.client()?;
    for to in Stage::dns() {
        for _ in 0..4 {
            let outcome = udp_exchange(&client, to, ALLOW_TIMEOUT);
            ensure!(outcome == Outcome::Open, "{to}: {outcome}");
        }
    }
    stage.allow(&[], &[])?;
    for to in Stage::dns() {
        let outcome = udp_exchange(&client, to, DENY_TIMEOUT);
        ensure!(outcome == Outcome::TimedOut, "{to}: {outcome}");
    }
    Ok(())
}

/// The node's own address with a node port is no way around policy, nor is an external address.
#[test]
fn node_ports_and_external_addresses_are_judged_by_the_endpoint() -> Result<()> {
    let stage = Stage::new(Mode::Nftables)?;
    let node = stage.lab.world.node("node1")?.addresses();
    let external = json!({
        "type": "NodePort",
        // Also the node's own, which take nothing from its node ports.
        "externalIPs": ["203.0.113.7", "2001:db8:113::7", node[0], node[1]],
        "ports": [
            {"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP", "nodePort": 30080},
            {"name": "dns", "port": DNS, "targetPort": "web", "protocol": "UDP"},
        ],
    });
    stage.serve_as(&BOTH, &external)?;
    // The addresses themselves are allowed, on all ports: what counts is who is behind them.
    let spec = |more: &str| {
        format!(
            "podSelector: {{matchLabels: {{app: client}}}}, policyTypes: [Egress], egress: [{{to: [
                {{ipBlock: {{cidr: {}/32}}}}, {{ipBlock: {{cidr: '{}/128'}}}},
                {{ipBlock: {{cidr: 203.0.113.0/24}}}}, {{ipBlock: {{cidr: '2001:db8:113::/64'}}}}, {more}]}}]",
            node[0], node[1]
        )
    };
    let frontends: Vec<SocketAddr> = node
        .into_iter()
        .map(|address| SocketAddr::new(address, 30080))
        .chain(node.into_iter().map(|address| SocketAddr::new(address, 80)))
        .chain(["203.0.113.7:80".parse()?, "[2001:db8:113::7]:80".parse()?])
        .collect();
    stage.lab.apply("shop/egress", &spec(""))?;
    for to in &frontends {
        let found = who(&stage, *to, 4)?;
        ensure!(found == ["hangs".to_owned()].into(), "{to}: {found:?}");
    }
    stage.lab.apply("shop/egress", &spec("{podSelector: {matchLabels: {app: near}}}"))?;
    for to in &frontends {
        let found = who(&stage, *to, 20)?;
        ensure!(found == ["hangs".to_owned(), "shop/near".to_owned()].into(), "{to}: {found:?}");
    }
    Ok(())
}

/// As the API server's: the endpoint is an address of a node.
#[test]
fn an_endpoint_that_is_a_node_is_judged_by_the_nodes_address_behind_iptables() -> Result<()> {
    let stage = Stage::new(Mode::Iptables)?;
    let mut servers = Vec::new();
    for name in ["node1", "node2"] {
        let node = stage.lab.world.node(name)?;
        servers.push(Server::tcp(node.ns(), 6443, name)?);
        stage.serve_addresses(&[(node.addresses(), 6443, name.to_owned())], &json!({}))?;
        stage.allow(&[], &[])?;
        // A pod always reaches its own node.
        let denied = if name == "node1" { name } else { "hangs" };
        expect(&stage, name, &[denied]);
        let [v4, v6] = node.addresses();
        let block = |port: u16| {
            format!(
                "podSelector: {{matchLabels: {{app: client}}}}, policyTypes: [Egress], egress: [{{ports: [{{port: {port}}}],
                 to: [{{ipBlock: {{cidr: {v4}/32}}}}, {{ipBlock: {{cidr: '{v6}/128'}}}}]}}]"
            )
        };
        stage.lab.apply("shop/egress", &block(6443))?;
        expect(&stage, name, &[name]);
        stage.lab.apply("shop/egress", &block(80))?;
        expect(&stage, name, &[denied]);
    }
    Ok(())
}
