//! Without any policy, everything in a world reaches everything, and failures are told apart.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Result, ensure};
use sluice_netns::{
    ALLOW_TIMEOUT, DENY_TIMEOUT, NodeSpec, Outcome, PodSpec, Probe, Protocol, Server, TcpConn, UdpConn,
    World, http_get, ping_command, sctp_supported, tcp_connect, udp_exchange,
};

use common::reach_every_pod;

const OUTSIDE4: &str = "203.0.113.7";
const OUTSIDE6: &str = "2001:db8::7";

fn pod(name: &str, node: &str) -> PodSpec {
    PodSpec::new("default", name, node).serve_tcp(80).serve_udp(5300)
}

fn two_nodes() -> Result<World> {
    World::builder("slt")
        .node(NodeSpec::new("node1"))
        .node(NodeSpec::new("node2"))
        .outside("client", OUTSIDE4.parse()?, Some(OUTSIDE6.parse()?))
        .pod(pod("a", "node1"))
        .pod(pod("b", "node1"))
        .pod(pod("c", "node2"))
        .pod(pod("d", "node2"))
        .build()
}

#[test]
fn everything_reaches_every_pod() -> Result<()> {
    let world = two_nodes()?;
    assert_eq!(reach_every_pod(&world), 7 * 4 * 2 * 3);
    Ok(())
}

#[test]
fn pods_keep_their_address_and_reach_the_outside() -> Result<()> {
    let world = two_nodes()?;
    let client = &world.outside()[0];
    let _server = Server::tcp(&client.ns, 80, "client")?;
    for pod in world.pods() {
        for (to, own) in [(OUTSIDE4, IpAddr::from(pod.ipv4)), (OUTSIDE6, pod.ipv6.into())] {
            let mut conn = TcpConn::open(&pod.ns, SocketAddr::new(to.parse()?, 80), ALLOW_TIMEOUT)?;
            assert_eq!(conn.local_addr()?.ip(), own);
            assert_eq!(conn.echo(ALLOW_TIMEOUT), Outcome::Open);
        }
    }
    Ok(())
}

#[test]
fn a_port_without_a_server_is_refused() -> Result<()> {
    let world = two_nodes()?;
    let (a, c) = (world.pod("default/a")?, world.pod("default/c")?);
    for to in [IpAddr::from(c.ipv4), c.ipv6.into()] {
        let to = SocketAddr::new(to, 81);
        assert_eq!(tcp_connect(&a.ns, to, ALLOW_TIMEOUT), Outcome::Refused);
        assert_eq!(udp_exchange(&a.ns, to, ALLOW_TIMEOUT), Outcome::Refused);
        assert_eq!(http_get(&a.ns, to).outcome, Outcome::Refused);
    }
    Ok(())
}

#[test]
fn an_unreachable_address_is_told_from_silence() -> Result<()> {
    let world = two_nodes()?;
    let a = world.pod("default/a")?;
    let nobody = SocketAddr::from(([10, 244, 2, 200], 80));
    assert_eq!(tcp_connect(&a.ns, nobody, DENY_TIMEOUT), Outcome::TimedOut);
    assert_eq!(http_get(&a.ns, nobody).outcome, Outcome::TimedOut);
    let nowhere = SocketAddr::from(([198, 51, 100, 1], 80));
    for outcome in [tcp_connect(&a.ns, nowhere, DENY_TIMEOUT), http_get(&a.ns, nowhere).outcome] {
        assert!(matches!(outcome, Outcome::Unreachable(_)), "{outcome:?}");
    }
    // From another pod: the node sends few of these errors to one address.
    let ping = ping_command(&world.pod("default/b")?.ns, nowhere.ip());
    assert!(matches!(ping.outcome, Outcome::Unreachable(_)), "{ping:?}");
    Ok(())
}

#[test]
fn commands_tell_who_answered() -> Result<()> {
    let world = two_nodes()?;
    let (a, d) = (world.pod("default/a")?, world.pod("default/d")?);
    for to in [IpAddr::from(d.ipv4), d.ipv6.into()] {
        let curl = http_get(&a.ns, SocketAddr::new(to, 80));
        assert_eq!((curl.outcome, curl.answer.as_str()), (Outcome::Open, "default/d"));
        assert_eq!(ping_command(&a.ns, to).outcome, Outcome::Open);
    }
    Ok(())
}

/// Takes the pod's cable out or puts it back.
fn cable(world: &World, pod: &str, state: &str) -> Result<()> {
    let pod = world.pod(pod)?;
    let node = world.node(&pod.node)?.ns();
    let set = node.output(Command::new("ip").args(["link", "set", &pod.host_interface, state]))?;
    ensure!(set.status.success(), "ip link set {} {state}: {set:?}", pod.host_interface);
    Ok(())
}

#[test]
fn long_lived_flows_stop_and_go_on() -> Result<()> {
    let world = two_nodes()?;
    let (a, c) = (world.pod("default/a")?, world.pod("default/c")?);
    let mut tcp = TcpConn::open(&a.ns, SocketAddr::new(c.ipv4.into(), 80), ALLOW_TIMEOUT)?;
    let mut udp = UdpConn::open(&a.ns, SocketAddr::new(c.ipv4.into(), 5300))?;
    for _ in 0..3 {
        assert_eq!((tcp.echo(ALLOW_TIMEOUT), udp.echo(ALLOW_TIMEOUT)), (Outcome::Open, Outcome::Open));
    }
    cable(&world, "default/c", "down")?;
    assert_eq!((tcp.echo(DENY_TIMEOUT), udp.echo(DENY_TIMEOUT)), (Outcome::TimedOut, Outcome::TimedOut));
    cable(&world, "default/c", "up")?;
    assert_eq!((tcp.echo(ALLOW_TIMEOUT), udp.echo(ALLOW_TIMEOUT)), (Outcome::Open, Outcome::Open));
    Ok(())
}

#[test]
fn sctp_where_the_kernel_has_it() -> Result<()> {
    let mut world = two_nodes()?;
    let (a, c) = (world.pod("default/a")?.clone(), world.pod("default/c")?.clone());
    let server = Server::sctp(&c.ns, 9999, "c");
    if !sctp_supported() {
        eprintln!(
            "THIS KERNEL HAS NO SCTP: only its absence is tested here; the crafted packets and the VM kernels prove it"
        );
        assert!(server.is_err());
        return Ok(());
    }
    world.keep("default/c", server?);
    for to in [IpAddr::from(c.ipv4), c.ipv6.into()] {
        let probe =
            Probe { from: a.ns.clone(), protocol: Protocol::Sctp, to, port: 9999, timeout: ALLOW_TIMEOUT };
        assert_eq!(probe.run(), Outcome::Open);
    }
    Ok(())
}
