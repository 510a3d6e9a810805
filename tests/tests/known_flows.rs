//! The listing of connections that pods already have, against real connections on a node that tracks connections and on one
//! that doesn't.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use policy_agent::endpoints::{Cache, scan};
use policy_agent::flows::{KnownFlow, Listing, PodNamespace, Tracking, known_flows};
use sluice_netns::{ALLOW_TIMEOUT, Netns, Node, NodeSpec, Outcome, PodSpec, World, ping};

const SERVICES: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];
const POD: &str = "guest/pod";
const FAR: &str = "shop/far";

/// One pod on node1, whose flows are listed, and one on node2.
fn world() -> Result<World> {
    World::builder("slknown")
        .node(NodeSpec::new("node1"))
        .node(NodeSpec::new("node2"))
        .pod(PodSpec::new("guest", "pod", "node1").serve_tcp(80).serve_udp(5300))
        .pod(PodSpec::new("shop", "far", "node2").serve_tcp(80).serve_udp(5300))
        .build()
}

fn nft(node: &Node, rules: &str) -> Result<()> {
    let output = node.ns().output(Command::new("nft").arg(rules))?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Turns connection tracking on in the node's namespace.
fn track(node: &Node) -> Result<()> {
    nft(
        node,
        "table inet track {
            chain arriving {
                type filter hook prerouting priority filter;
                ct state established counter;
            }
        }",
    )
}

/// What kube-proxy does: a Service whose endpoint is the far pod, and a NodePort, masqueraded, to the pod.
fn translate(world: &World) -> Result<()> {
    let [pod4, pod6] = addresses(world, POD)?;
    let [far4, far6] = addresses(world, FAR)?;
    let node = world.node("node1")?;
    let [node4, node6] = node.addresses();
    let [service4, service6] = SERVICES;
    nft(
        node,
        &format!(
            "table inet services {{
                chain arriving {{
                    type nat hook prerouting priority dstnat;
                    ip daddr {service4} tcp dport 443 dnat ip to {far4}:80;
                    ip6 daddr {service6} tcp dport 443 dnat ip6 to [{far6}]:80;
                    ip daddr {node4} tcp dport 30080 dnat ip to {pod4}:80;
                    ip6 daddr {node6} tcp dport 30080 dnat ip6 to [{pod6}]:80;
                }}
                chain leaving {{
                    type nat hook postrouting priority srcnat;
                    meta l4proto tcp ct original proto-dst 30080 masquerade;
                }}
            }}"
        ),
    )
}

fn addresses(world: &World, pod: &str) -> Result<[IpAddr; 2]> {
    let pod = world.pod(pod)?;
    Ok([pod.ipv4.into(), pod.ipv6.into()])
}

/// Lists the flows of node1's pods as its agent would.
fn list(world: &World) -> Result<Listing> {
    let node = world.node("node1")?;
    let listing = node.ns().run(|| {
        let scan = scan(&mut Cache::default())?;
        Ok::<_, anyhow::Error>(known_flows(
            &PodNamespace::of(scan.interfaces.values()),
            &scan.own_addresses,
            Tracking::Read,
        ))
    })??;
    ensure!(listing.problems.is_empty(), "{:?}", listing.problems);
    ensure!(listing.notes.is_empty(), "{:?}", listing.notes);
    Ok(listing)
}

fn lines(flows: &[KnownFlow]) -> BTreeSet<String> {
    let lines: BTreeSet<String> = flows
        .iter()
        .map(|flow| {
            line(flow.protocol, (flow.pod, flow.local_port), &format!("{:?}", flow.opener), flow.remote)
                + &format!(" {:?}", flow.state)
        })
        .collect();
    assert_eq!(lines.len(), flows.len(), "a flow is listed twice");
    lines
}

fn line(protocol: u8, local: (IpAddr, u16), opener: &str, remote: SocketAddr) -> String {
    format!("{protocol} {} {opener} {remote}", SocketAddr::from(local))
}

/// A TCP connection over which a line went to the echo server and back.
fn tcp(from: &Netns, to: SocketAddr) -> Result<TcpStream> {
    let mut stream = from
        .run(|| TcpStream::connect_timeout(&to, ALLOW_TIMEOUT))?
        .with_context(|| format!("{} to {to}", from.name()))?;
    stream.set_read_timeout(Some(ALLOW_TIMEOUT))?;
    stream.write_all(b"hello\n")?;
    let mut echo = [0; 6];
    stream.read_exact(&mut echo).with_context(|| format!("{} to {to}", from.name()))?;
    Ok(stream)
}

/// A connected UDP socket over which a datagram went to the echo server and back.
fn udp(from: &Netns, to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = from.run(|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        Ok::<_, io::Error>(socket)
    })??;
    socket.set_read_timeout(Some(ALLOW_TIMEOUT))?;
    socket.send(b"hello")?;
    socket.recv(&mut [0; 16]).with_context(|| format!("{} to {to}", from.name()))?;
    Ok(socket)
}

/// Open connections of both families, and the lines that they should be listed as.
#[derive(Default)]
struct Connections {
    tcp: Vec<TcpStream>,
    udp: Vec<UdpSocket>,
    expected: BTreeSet<String>,
}

impl Connections {
    fn expect(&mut self, line: String, phase: &str) {
        self.expected.insert(format!("{line} {phase}"));
    }

    /// TCP both ways between the pod and the far one, and from the node to the pod, whose opener is told as `node`.
    fn open_tcp(&mut self, world: &World, node: &str) -> Result<()> {
        let (inside, outside) = (&world.pod(POD)?.ns, &world.pod(FAR)?.ns);
        for (pod, far) in addresses(world, POD)?.into_iter().zip(addresses(world, FAR)?) {
            let remote = SocketAddr::new(far, 80);
            let stream = tcp(inside, remote)?;
            self.expect(line(6, (pod, stream.local_addr()?.port()), "Pod", remote), "Established");
            self.tcp.push(stream);
            for (from, opener) in [(outside, "Peer"), (world.node("node1")?.ns(), node)] {
                let stream = tcp(from, SocketAddr::new(pod, 80))?;
                self.expect(line(6, (pod, 80), opener, stream.local_addr()?), "Established");
                self.tcp.push(stream);
            }
        }
        Ok(())
    }

    /// UDP from the pod to the far one, told as `phase`; and from there to the pod, if that can be told at all.
    fn open_udp(&mut self, world: &World, phase: &str, server_is_told: bool) -> Result<()> {
        let (inside, outside) = (&world.pod(POD)?.ns, &world.pod(FAR)?.ns);
        for (pod, far) in addresses(world, POD)?.into_iter().zip(addresses(world, FAR)?) {
            let remote = SocketAddr::new(far, 5300);
            let socket = udp(inside, remote)?;
            self.expect(line(17, (pod, socket.local_addr()?.port()), "Pod", remote), phase);
            self.udp.push(socket);
            let socket = udp(outside, SocketAddr::new(pod, 5300))?;
            if server_is_told {
                self.expect(line(17, (pod, 5300), "Peer", socket.local_addr()?), phase);
            }
            self.udp.push(socket);
        }
        Ok(())
    }
}

#[test]
fn connection_tracking_tells_all_flows_as_the_pod_sees_them() -> Result<()> {
    let world = world()?;
    let node = world.node("node1")?;
    track(node)?;
    translate(&world)?;
    let mut connections = Connections::default();
    connections.open_tcp(&world, "Node")?;
    connections.open_udp(&world, "Established", true)?;
    for (((pod, service), at), gateway) in
        addresses(&world, POD)?.into_iter().zip(SERVICES).zip(node.addresses()).zip(node.gateways())
    {
        let service = SocketAddr::new(service.parse()?, 443);
        let stream = tcp(&world.pod(POD)?.ns, service)?;
        connections.expect(line(6, (pod, stream.local_addr()?.port()), "Pod", service), "Established");
        connections.tcp.push(stream);
        // Masquerading keeps the port where nobody has it.
        let stream = tcp(world.node("node2")?.ns(), SocketAddr::new(at, 30080))?;
        let masqueraded = SocketAddr::new(gateway, stream.local_addr()?.port());
        connections.expect(line(6, (pod, 80), "Peer", masqueraded), "Established");
        connections.tcp.push(stream);
    }
    let listing = list(&world)?;
    assert_eq!(lines(&listing.flows), connections.expected);
    let day = Duration::from_secs(86_400);
    for flow in &listing.flows {
        let remaining = flow.remaining.context("connection tracking didn't say how long")?;
        assert_eq!(remaining > day, flow.protocol == 6, "{flow:?}");
    }
    Ok(())
}

#[test]
fn a_query_of_icmp_is_told_by_who_asked() -> Result<()> {
    let world = world()?;
    track(world.node("node1")?)?;
    let mut expected = BTreeSet::new();
    for (protocol, (pod, far)) in
        [1, 58].into_iter().zip(addresses(&world, POD)?.into_iter().zip(addresses(&world, FAR)?))
    {
        for (from, to, opener) in [(POD, far, "Pod"), (FAR, pod, "Peer")] {
            let outcome = ping(&world.pod(from)?.ns, to, ALLOW_TIMEOUT);
            ensure!(outcome == Outcome::Open, "{from} to {to}: {outcome}");
            expected.insert(format!("{protocol} {pod} {opener} {far}"));
        }
    }
    let listing = list(&world)?;
    let mut found = BTreeSet::new();
    for flow in &listing.flows {
        assert_eq!(flow.remote.port(), 0, "{flow:?}");
        assert_ne!(flow.local_port, 0, "the kernel gives every socket an identifier: {flow:?}");
        found.insert(format!("{} {} {:?} {}", flow.protocol, flow.pod, flow.opener, flow.remote.ip()));
    }
    assert_eq!(found, expected);
    assert_eq!(listing.flows.len(), expected.len());
    Ok(())
}

#[test]
fn sockets_tell_flows_where_connections_are_not_tracked() -> Result<()> {
    let world = world()?;
    let mut connections = Connections::default();
    // A socket doesn't tell that its peer is a process of the node.
    connections.open_tcp(&world, "Peer")?;
    // Nor does the server's socket have a peer, or the client's know of the answer.
    connections.open_udp(&world, "Opening", false)?;
    let listing = list(&world)?;
    assert_eq!(lines(&listing.flows), connections.expected);
    assert!(listing.flows.iter().all(|flow| flow.remaining.is_none()), "something tracks connections here");
    Ok(())
}

#[test]
fn connections_older_than_their_tracking_keep_their_opener() -> Result<()> {
    let world = world()?;
    let mut expected = BTreeSet::new();
    let mut pairs = Vec::new();
    let [pod, _] = addresses(&world, POD)?;
    let [far, _] = addresses(&world, FAR)?;
    for (client, server, address) in [(FAR, POD, pod), (POD, FAR, far)] {
        let listener = world.pod(server)?.ns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 7000)))??;
        let to = SocketAddr::new(address, 7000);
        let client = world.pod(client)?.ns.run(|| TcpStream::connect_timeout(&to, ALLOW_TIMEOUT))??;
        let (accepted, _) = listener.accept()?;
        let port = client.local_addr()?.port();
        expected.insert(if server == POD {
            line(6, (pod, 7000), "Peer", SocketAddr::new(far, port)) + " Established"
        } else {
            line(6, (pod, port), "Pod", to) + " Established"
        });
        pairs.push((client, accepted, listener));
    }
    track(world.node("node1")?)?;
    // The servers speak first, so that connection tracking takes them for those who called.
    for (client, accepted, _) in &pairs {
        for (mut from, mut to) in [(accepted, client), (client, accepted)] {
            from.write_all(b"x")?;
            to.set_read_timeout(Some(ALLOW_TIMEOUT))?;
            to.read_exact(&mut [0])?;
        }
    }
    let listing = list(&world)?;
    assert_eq!(lines(&listing.flows), expected);
    assert!(listing.flows.iter().all(|flow| flow.remaining.is_some()), "the connections aren't tracked");
    Ok(())
}

#[test]
fn a_large_table_is_listed_whole() -> Result<()> {
    const PORTS: u16 = 50_000;
    let world = world()?;
    let node = world.node("node1")?;
    track(node)?;
    // Half a minute is not enough for an emulated machine to send them all.
    node.ns().run(|| std::fs::write("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "600"))??;
    let [gateway, _] = node.gateways();
    let mut expected = BTreeSet::new();
    let [pod, _] = addresses(&world, POD)?;
    for _ in 0..2 {
        let socket = world.pod(POD)?.ns.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        for port in 1..=PORTS {
            socket.send_to(b"x", (gateway, port))?;
            expected.insert((pod, socket.local_addr()?.port(), SocketAddr::new(gateway, port)));
        }
    }
    let begin = Instant::now();
    let listing = list(&world)?;
    println!("{} flows listed in {:?}", listing.flows.len(), begin.elapsed());
    let found: BTreeSet<_> =
        listing.flows.iter().map(|flow| (flow.pod, flow.local_port, flow.remote)).collect();
    assert_eq!(found.len(), listing.flows.len(), "a flow is listed twice");
    let missing = expected.difference(&found).count();
    assert_eq!((missing, found.len()), (0, expected.len()));
    Ok(())
}
