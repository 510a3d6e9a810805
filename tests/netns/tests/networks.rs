//! Every network carries everything between its pods, and the CNI plugins do what a container runtime has them do.

mod common;

use std::io::Read as _;
use std::process::Command;

use anyhow::{Result, ensure};
use common::reach_every_pod;
use sluice_netns::{ALLOW_TIMEOUT, Network, NodeSpec, Outcome, PodSpec, World, WorldBuilder, ping};
use socket2::{Domain, Protocol as IpProtocol, Socket, Type};

fn pod(name: &str, node: &str) -> PodSpec {
    PodSpec::new("default", name, node).serve_tcp(80).serve_udp(5300)
}

/// Three nodes: with direct routing two in one subnet, and one behind the router.
fn builder(network: Network) -> WorldBuilder {
    let nodes = ["node1", "node2", "node3"].map(NodeSpec::new);
    let world = World::builder("sltnet").network(network);
    nodes.into_iter().fold(world, WorldBuilder::node)
}

fn everything_reaches_every_pod(builder: WorldBuilder) -> Result<World> {
    let world = builder
        .outside("client", "203.0.113.7".parse()?, Some("2001:db8::7".parse()?))
        .outside("other", "203.0.113.8".parse()?, None)
        .pod(pod("a", "node1"))
        .pod(pod("b", "node1"))
        .pod(pod("c", "node2"))
        .pod(pod("d", "node3"))
        .build()?;
    assert_eq!(reach_every_pod(&world), (4 + 3 + 1) * 4 * 2 * 3);
    Ok(world)
}

/// What `ip` shows of a node.
fn show(world: &World, node: &str, what: &[&str]) -> Result<String> {
    let output = world.node(node)?.ns().output(Command::new("ip").args(what))?;
    ensure!(output.status.success(), "ip {what:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn vxlan_with_direct_routing_has_both_ways() -> Result<()> {
    let world = everything_reaches_every_pod(builder(Network::VxlanDirectRouting))?;
    for (family, near, far) in
        [("-4", "10.244.2.0/24", "10.244.3.0/24"), ("-6", "fd00:10:244:2::/64", "fd00:10:244:3::/64")]
    {
        let near = show(&world, "node1", &[family, "route", "show", near])?;
        let far = show(&world, "node1", &[family, "route", "show", far])?;
        assert!(near.contains("dev eth0"), "{near}");
        assert!(far.contains("dev flannel"), "{far}");
    }
    Ok(())
}

#[test]
fn host_gw_has_no_tunnel() -> Result<()> {
    let world = everything_reaches_every_pod(builder(Network::HostGw))?;
    assert!(!show(&world, "node1", &["link"])?.contains("flannel"));
    Ok(())
}

#[test]
fn ipip_is_the_way_of_ipv4_alone() -> Result<()> {
    let world = everything_reaches_every_pod(builder(Network::Ipip))?;
    let ipv4 = show(&world, "node1", &["route", "get", "10.244.2.2"])?;
    let ipv6 = show(&world, "node1", &["-6", "route", "get", "fd00:10:244:2::2"])?;
    assert!(ipv4.contains("dev ipip1"), "{ipv4}");
    assert!(ipv6.contains("dev eth0"), "{ipv6}");
    // And so it is on the wire, whoever is the tunnel.
    let (sender, receiver) = (world.pod("default/a")?, world.pod("default/c")?);
    let wiretap = || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(IpProtocol::from(4)))?;
        socket.set_read_timeout(Some(ALLOW_TIMEOUT))?;
        Ok::<_, std::io::Error>(socket)
    };
    let mut wiretap = world.node("node2")?.ns().run(wiretap)??;
    assert_eq!(ping(&sender.ns, receiver.ipv4.into(), ALLOW_TIMEOUT), Outcome::Open);
    let mut packet = [0; 40];
    wiretap.read_exact(&mut packet)?;
    let addresses = |header: &[u8]| <[u8; 8]>::try_from(&header[12..20]);
    assert_eq!(addresses(&packet)?, [192, 0, 2, 1, 192, 0, 2, 2]);
    let inner = [sender.ipv4.octets(), receiver.ipv4.octets()].concat();
    assert_eq!(addresses(&packet[20..])?.as_slice(), inner);
    Ok(())
}

#[test]
fn routed_pods_share_no_subnet() -> Result<()> {
    let world = everything_reaches_every_pod(builder(Network::Routed))?;
    assert!(!show(&world, "node1", &["link"])?.contains("cni0"));
    let inside = world.pod("default/a")?.ns.output(Command::new("ip").arg("route"))?;
    let inside = String::from_utf8(inside.stdout)?;
    assert_eq!(inside.trim_end(), "default via 169.254.1.1 dev eth0 \n169.254.1.1 dev eth0 scope link");
    Ok(())
}

/// The plugins' pods, with chosen and with wanted addresses, and what is left when one goes.
fn plugins_make_pods(network: Network) -> Result<()> {
    let mut world = everything_reaches_every_pod(builder(network).cni_plugins())?;
    let wanted = || {
        let spec = PodSpec::new("default", "wanted", "node1");
        Ok::<_, anyhow::Error>(spec.address("10.244.1.77".parse()?).address("fd00:10:244:1::77".parse()?))
    };
    let pod = world.add_pod(wanted()?)?.clone();
    assert_eq!((pod.ipv4, pod.ipv6), ("10.244.1.77".parse()?, "fd00:10:244:1::77".parse()?));
    assert!(show(&world, "node1", &["link"])?.contains(&pod.host_interface));
    let taken = world.add_pod(PodSpec::new("default", "second", "node1").address("10.244.1.77".parse()?));
    let error = format!("{:#}", taken.expect_err("an address for two pods"));
    assert!(error.contains("10.244.1.77"), "{error}");
    world.remove_pod("default/wanted")?;
    assert!(!show(&world, "node1", &["link"])?.contains(&pod.host_interface));
    // host-local has its addresses back.
    world.add_pod(wanted()?)?;
    Ok(())
}

#[test]
fn the_bridge_plugin_makes_pods() -> Result<()> {
    plugins_make_pods(Network::Vxlan)?;
    plugins_make_pods(Network::HostGw)
}

#[test]
fn the_ptp_plugin_makes_pods() -> Result<()> {
    plugins_make_pods(Network::Routed)
}
