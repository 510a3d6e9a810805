//! Pods that route: an annotation lists what else they may send from.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_netns::{
    ALLOW_TIMEOUT, DENY_TIMEOUT, NodeSpec, Outcome, PodSpec, World, WorldBuilder, udp_exchange_from,
};
use sluice_tests::agent_world::{Lab, shell};

const EXTRA: [&str; 2] = ["10.8.0.5", "fd00:8::5"];

fn village() -> WorldBuilder {
    World::builder("slsrc")
        .node(NodeSpec::new("node1"))
        .pod(PodSpec::new("dev", "router", "node1"))
        .pod(PodSpec::new("dev", "server", "node1").serve_udp(5300))
}

/// The router has two addresses more, and the node knows the way to them.
fn give_addresses(lab: &Lab) -> Result<()> {
    let router = lab.world.pod("dev/router")?;
    let node = lab.world.node("node1")?;
    for (address, via) in EXTRA.into_iter().zip([IpAddr::from(router.ipv4), router.ipv6.into()]) {
        let length = if via.is_ipv4() { 32 } else { 128 };
        shell(&router.ns, &format!("ip addr add {address}/{length} dev eth0 nodad"))?;
        shell(node.ns(), &format!("ip route add {address}/{length} via {via}"))?;
    }
    Ok(())
}

/// The router's manifest with this annotation.
fn annotate(lab: &Lab, ranges: &str) -> Result<()> {
    let router = lab.world.pod("dev/router")?;
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "dev", "name": "router", "uid": router.uid,
            "annotations": {"sluice.dev/source-ranges": ranges},
        },
        "spec": {"nodeName": "node1", "containers": []},
        "status": {"phase": "Running", "podIPs": [{"ip": router.ipv4}, {"ip": router.ipv6}]},
    });
    lab.manifests.write("pod-dev-router.json", &pod.to_string())?;
    lab.sync()
}

fn exchanges(lab: &Lab, timeout: Duration) -> Result<Vec<Outcome>> {
    let (router, server) = (lab.ns("dev/router")?, lab.sockets("dev/server", 5300)?);
    let ask = |(source, to): (&str, _)| Ok(udp_exchange_from(&router, source.parse()?, to, timeout));
    EXTRA.into_iter().zip(server).map(ask).collect()
}

#[test]
fn a_pod_sends_from_the_ranges_that_its_annotation_lists_and_from_no_others() -> Result<()> {
    let lab = Lab::start(village())?;
    give_addresses(&lab)?;
    assert_eq!(exchanges(&lab, DENY_TIMEOUT)?, [Outcome::TimedOut, Outcome::TimedOut]);
    annotate(&lab, "10.8.0.0/16, fd00:8::/32")?;
    assert_eq!(exchanges(&lab, ALLOW_TIMEOUT)?, [Outcome::Open, Outcome::Open]);
    let map = lab.world.node("node1")?.bpffs().join("v1/maps/SOURCES");
    let dump = shell(lab.world.node("node1")?.ns(), &format!("bpftool map dump pinned {}", map.display()))?;
    for field in ["prefix_len", "ifindex", "family", "address"] {
        ensure!(dump.contains(&format!("\"{field}\":")), "the dump shows no {field}: {dump}");
    }
    annotate(&lab, "10.9.0.0/16,fd00:8::/32")?;
    assert_eq!(exchanges(&lab, DENY_TIMEOUT)?, [Outcome::TimedOut, Outcome::Open]);
    // Policy is as strict with them as with its own address.
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Egress]")?;
    assert_eq!(exchanges(&lab, DENY_TIMEOUT)?, [Outcome::TimedOut, Outcome::TimedOut]);
    Ok(())
}

#[test]
fn an_annotation_that_is_no_list_of_ranges_is_an_error_that_names_it_and_what_was_allowed_stays() -> Result<()>
{
    let lab = Lab::start(village())?;
    give_addresses(&lab)?;
    annotate(&lab, "10.8.0.0/16,fd00:8::/32")?;
    assert_eq!(exchanges(&lab, ALLOW_TIMEOUT)?, [Outcome::Open, Outcome::Open]);
    annotate(&lab, "10.8.0.0/33")?;
    let errors = lab.errors()?;
    let named = |error: &String| {
        ["dev/router", "sluice.dev/source-ranges", "10.8.0.0/33"].iter().all(|word| error.contains(word))
    };
    ensure!(errors.iter().any(named), "{errors:?}");
    assert_eq!(exchanges(&lab, ALLOW_TIMEOUT)?, [Outcome::Open, Outcome::Open]);
    Ok(())
}
