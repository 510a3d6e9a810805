//! Connections that began before the agent, and the watch over those that lost their permission.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_netns::{ALLOW_TIMEOUT, DENY_TIMEOUT, NodeSpec, Outcome, PodSpec, TcpConn, World, WorldBuilder};
use sluice_tests::agent_world::{Lab, eventually, policy, policy_file, shell};

/// Some seconds more than the agent waits before it looks through its flow table.
const SWEPT: Duration = Duration::from_secs(10);

fn shop() -> WorldBuilder {
    let server = |name, node| PodSpec::new("shop", name, node).serve_tcp(80).serve_tcp(8080);
    World::builder("slold")
        .node(NodeSpec::new("node1"))
        .node(NodeSpec::new("node2"))
        .pod(PodSpec::new("guest", "client", "node1"))
        .pod(server("near", "node1"))
        .pod(server("far", "node2"))
}

fn connections(lab: &Lab, port: u16) -> Result<Vec<TcpConn>> {
    let mut all = Vec::new();
    for server in ["shop/near", "shop/far"] {
        for to in lab.sockets(server, port)? {
            all.push(lab.connect("guest/client", to)?);
        }
    }
    Ok(all)
}

#[track_caller]
fn expect(connections: &mut [TcpConn], outcome: &Outcome) {
    let timeout = if *outcome == Outcome::Open { ALLOW_TIMEOUT } else { DENY_TIMEOUT };
    let outcomes: Vec<Outcome> = connections.iter_mut().map(|connection| connection.echo(timeout)).collect();
    assert!(outcomes.iter().all(|o| o == outcome), "not all {outcome}: {outcomes:?}");
}

/// Both pods are isolated in both directions, so that every answer needs somebody who remembers the opener.
const CLOSED: [(&str, &str); 2] = [
    ("shop/closed", "podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}]"),
    ("guest/closed", "podSelector: {}, policyTypes: [Ingress, Egress], egress: [{ports: [{port: 80}]}]"),
];

fn agents_come_late(prepare: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let mut lab = Lab::without_agents(shop())?;
    prepare(&lab)?;
    let (mut allowed, mut denied) = (connections(&lab, 80)?, connections(&lab, 8080)?);
    for (name, spec) in CLOSED {
        lab.manifests.write(&policy_file(name), &policy(name, spec))?;
    }
    lab.start_agents(&[])?;
    expect(&mut allowed, &Outcome::Open);
    expect(&mut denied, &Outcome::TimedOut);
    // The agents did come into force.
    lab.expect("guest/client shop/near tcp/8080 hangs\nguest/client shop/far tcp/80 opens");
    Ok(())
}

#[test]
fn connections_older_than_the_agent_go_on_on_nodes_that_track_connections() -> Result<()> {
    agents_come_late(|lab| {
        for node in lab.world.nodes() {
            shell(
                node.ns(),
                "nft 'add table inet track; \
                 add chain inet track seen { type filter hook prerouting priority 0; }; \
                 add rule inet track seen ct state established counter'",
            )?;
        }
        Ok(())
    })
}

#[test]
fn connections_older_than_the_agent_go_on_where_only_their_sockets_know_them() -> Result<()> {
    agents_come_late(|_| Ok(()))
}

/// Endpoints of a node that are watched, as `bpftool` shows them.
fn watched(bpffs: &Path) -> Result<usize> {
    let map = bpffs.join("v1/maps/ENDPOINTS");
    let output = Command::new("bpftool").args(["--json", "map", "dump", "pinned"]).arg(&map).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dump: Value = serde_json::from_slice(&output.stdout)?;
    let entries = dump.as_array().context("no array")?;
    Ok(entries.iter().filter(|entry| entry["formatted"]["value"]["watch"] == 1).count())
}

#[test]
fn the_watch_ends_when_nothing_lacks_its_permission_and_not_before() -> Result<()> {
    let lab = Lab::start(shop())?;
    let node = lab.world.node("node2")?;
    let quiet = |most: usize| {
        eventually(SWEPT, || {
            let watched = watched(node.bpffs())?;
            Ok((watched > most).then(|| format!("{watched} endpoints are watched")))
        })
    };
    let mut connection = lab.connect("guest/client", lab.sockets("shop/far", 8080)?[0])?;
    lab.apply("shop/open", "podSelector: {}, ingress: [{}]")?;
    quiet(0)?;
    assert_eq!(connection.echo(ALLOW_TIMEOUT), Outcome::Open);
    lab.apply("shop/open", "podSelector: {}, ingress: [{ports: [{port: 80}]}]")?;
    assert_eq!(watched(node.bpffs())?, 1, "a change of policy sets the watch");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(watched(node.bpffs())?, 1, "the connection is still there, and has no permission");
    assert_eq!(connection.echo(DENY_TIMEOUT), Outcome::TimedOut);
    lab.apply("shop/open", "podSelector: {}, ingress: [{}]")?;
    quiet(0)?;
    assert_eq!(connection.echo(ALLOW_TIMEOUT), Outcome::Open);
    Ok(())
}
