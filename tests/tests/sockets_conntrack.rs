//! Connections under policies that change, with real sockets through the real agent.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluice_netns::{
    ALLOW_TIMEOUT, DENY_TIMEOUT, Netns, NodeSpec, Outcome, PodSpec, TcpConn, UdpConn, World, WorldBuilder,
};
use sluice_tests::agent_world::{Lab, shell};

/// `guest/client` on node1 and servers on both nodes.
fn shop() -> WorldBuilder {
    let server = |name, node| PodSpec::new("shop", name, node).serve_tcp(80).serve_udp(5300);
    World::builder("slconn")
        .node(NodeSpec::new("node1"))
        .node(NodeSpec::new("node2"))
        .pod(PodSpec::new("guest", "client", "node1").serve_tcp(80).serve_udp(5300))
        .pod(server("near", "node1"))
        .pod(server("far", "node2"))
}

const SERVERS: [&str; 2] = ["shop/near", "shop/far"];

/// Connections of the client to a port of both servers over both families.
fn connections(lab: &Lab) -> Result<Vec<TcpConn>> {
    let mut all = Vec::new();
    for server in SERVERS {
        for to in lab.sockets(server, 80)? {
            all.push(lab.connect("guest/client", to)?);
        }
    }
    Ok(all)
}

fn datagrams(lab: &Lab) -> Result<Vec<UdpConn>> {
    let ns = lab.ns("guest/client")?;
    let mut all = Vec::new();
    for server in SERVERS {
        for to in lab.sockets(server, 5300)? {
            all.push(UdpConn::open(&ns, to)?);
        }
    }
    Ok(all)
}

/// What comes of an echo on all of them at the same time.
fn echo_all(tcp: &mut [TcpConn], udp: &mut [UdpConn], timeout: Duration) -> Vec<Outcome> {
    thread::scope(|scope| {
        let mut running: Vec<_> =
            tcp.iter_mut().map(|conn| scope.spawn(move || conn.echo(timeout))).collect();
        running.extend(udp.iter_mut().map(|conn| scope.spawn(move || conn.echo(timeout))));
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Outcome::Failed("a panic".to_owned())))
            .collect()
    })
}

#[track_caller]
fn expect_echo(tcp: &mut [TcpConn], udp: &mut [UdpConn], expected: &Outcome) {
    let timeout = if *expected == Outcome::Open { ALLOW_TIMEOUT } else { DENY_TIMEOUT };
    let outcomes = echo_all(tcp, udp, timeout);
    assert!(outcomes.iter().all(|outcome| outcome == expected), "not all {expected}: {outcomes:?}");
}

/// Both ends of one connection, to a port where nobody else listens: the server end can speak first.
fn pair(lab: &Lab, from: &str, to: SocketAddr, server: &str) -> Result<(TcpStream, TcpStream)> {
    let listener = lab.ns(server)?.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, to.port())))??;
    let client = lab.ns(from)?.run(|| TcpStream::connect_timeout(&to, ALLOW_TIMEOUT))??;
    let (accepted, _) = listener.accept()?;
    for stream in [&client, &accepted] {
        stream.set_nodelay(true)?;
    }
    Ok((client, accepted))
}

/// Whether a byte that one end writes arrives at the other.
fn arrives(from: &mut TcpStream, to: &mut TcpStream, timeout: Duration) -> Result<bool> {
    from.write_all(b"x")?;
    to.set_read_timeout(Some(timeout))?;
    match to.read(&mut [0]) {
        Ok(1) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        other => anyhow::bail!("reading: {other:?}"),
    }
}

#[test]
fn answers_pass_where_the_other_direction_is_denied() -> Result<()> {
    let lab = Lab::start(shop())?;
    lab.apply("guest/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    lab.apply("shop/deny", "podSelector: {}, policyTypes: [Egress]")?;
    lab.expect(
        "guest/client shop/near    tcp/80   opens
         guest/client shop/far     tcp/80   opens
         guest/client shop/near    udp/5300 opens
         guest/client shop/far     udp/5300 opens
         guest/client shop/near    ping     opens
         guest/client shop/far     ping     opens
         guest/client shop/far     tcp/81   refused
         guest/client shop/near    udp/81   refused
         shop/near    guest/client tcp/80   hangs
         shop/far     guest/client tcp/80   hangs
         shop/near    guest/client udp/5300 hangs
         shop/far     guest/client ping     hangs",
    );
    expect_echo(&mut connections(&lab)?, &mut datagrams(&lab)?, &Outcome::Open);
    // That somebody has called gives nobody a right to call back.
    lab.delete("shop/deny")?;
    lab.expect(
        "shop/near guest/client tcp/80   hangs
         shop/far  guest/client udp/5300 hangs
         shop/far  guest/client ping     hangs",
    );
    Ok(())
}

#[test]
fn what_is_forbidden_stops_at_once_and_what_is_allowed_again_goes_on() -> Result<()> {
    const ALLOW: &str = "podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]";
    let lab = Lab::start(shop())?;
    lab.apply("shop/allow", ALLOW)?;
    let (mut tcp, mut udp) = (connections(&lab)?, datagrams(&lab)?);
    expect_echo(&mut tcp, &mut udp, &Outcome::Open);
    lab.apply("shop/allow", "podSelector: {}, policyTypes: [Ingress]")?;
    expect_echo(&mut tcp, &mut udp, &Outcome::TimedOut);
    lab.apply("shop/allow", ALLOW)?;
    expect_echo(&mut tcp, &mut udp, &Outcome::Open);
    // The same at the other end.
    lab.apply("guest/out", "podSelector: {}, policyTypes: [Egress]")?;
    expect_echo(&mut tcp, &mut udp, &Outcome::TimedOut);
    lab.apply("guest/out", "podSelector: {}, policyTypes: [Egress], egress: [{}]")?;
    expect_echo(&mut tcp, &mut udp, &Outcome::Open);
    Ok(())
}

/// What arrives (at the client, at the server) on connections whose permission was taken by `spec`; the server end
/// speaks first.
fn after_revocation(spec: &str) -> Result<Vec<(bool, bool)>> {
    let lab = Lab::start(shop())?;
    let mut ends = Vec::new();
    for server in SERVERS {
        for (to, port) in lab.sockets(server, 0)?.into_iter().zip([7004, 7006]) {
            ends.push(pair(&lab, "guest/client", SocketAddr::new(to.ip(), port), server)?);
        }
    }
    lab.apply("shop/deny", spec)?;
    let both = |(client, server): &mut (TcpStream, TcpStream)| -> Result<(bool, bool)> {
        let to_client = arrives(server, client, DENY_TIMEOUT)?;
        Ok((to_client, arrives(client, server, DENY_TIMEOUT)?))
    };
    thread::scope(|scope| {
        let running: Vec<_> = ends.iter_mut().map(|pair| scope.spawn(move || both(pair))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a panic"))).collect()
    })
}

#[test]
fn a_revoked_connection_carries_nothing_in_either_direction() -> Result<()> {
    let arrived = after_revocation(
        "podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}], egress: [{ports: [{port: 1}]}]",
    )?;
    assert_eq!(arrived, [(false, false); 4]);
    Ok(())
}

/// Each segment is allowed in one direction, as any other of the pod: the connection is not.
#[test]
fn a_revoked_connection_carries_nothing_where_only_one_direction_is_isolated() -> Result<()> {
    let arrived = after_revocation("podSelector: {}, ingress: [{ports: [{port: 80}]}]")?;
    assert_eq!(arrived, [(false, false); 4]);
    Ok(())
}

#[test]
fn connections_from_before_the_policy_are_judged_by_who_opened_them() -> Result<()> {
    let lab = Lab::start(shop())?;
    let (mut out_tcp, mut out_udp) = (connections(&lab)?, datagrams(&lab)?);
    expect_echo(&mut out_tcp, &mut out_udp, &Outcome::Open);
    let (mut in_tcp, mut in_udp) = (Vec::new(), Vec::new());
    for from in SERVERS {
        for (tcp, udp) in lab.sockets("guest/client", 80)?.into_iter().zip(lab.sockets("guest/client", 5300)?)
        {
            in_tcp.push(lab.connect(from, tcp)?);
            in_udp.push(UdpConn::open(&lab.ns(from)?, udp)?);
        }
    }
    expect_echo(&mut in_tcp, &mut in_udp, &Outcome::Open);
    lab.apply("guest/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    expect_echo(&mut out_tcp, &mut out_udp, &Outcome::Open);
    expect_echo(&mut in_tcp, &mut in_udp, &Outcome::TimedOut);
    // In the other direction, the other ones.
    lab.delete("guest/deny")?;
    expect_echo(&mut in_tcp, &mut in_udp, &Outcome::Open);
    lab.apply("guest/deny", "podSelector: {}, policyTypes: [Egress]")?;
    expect_echo(&mut out_tcp, &mut out_udp, &Outcome::TimedOut);
    expect_echo(&mut in_tcp, &mut in_udp, &Outcome::Open);
    Ok(())
}

#[test]
fn a_pushing_server_reaches_a_client_that_was_isolated_later() -> Result<()> {
    let lab = Lab::start(shop())?;
    let mut ends = Vec::new();
    for server in SERVERS {
        for (to, port) in lab.sockets(server, 0)?.into_iter().zip([7004, 7006]) {
            ends.push((server, pair(&lab, "guest/client", SocketAddr::new(to.ip(), port), server)?));
        }
    }
    lab.apply("guest/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    for (server, (client, accepted)) in &mut ends {
        ensure!(arrives(accepted, client, ALLOW_TIMEOUT)?, "{server} cannot push to its client");
    }
    Ok(())
}

#[test]
fn many_flows_at_once() -> Result<()> {
    const FLOWS: usize = 150;
    let lab = Lab::start(shop())?;
    lab.apply("guest/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    lab.apply(
        "shop/allow",
        "podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}], policyTypes: [Ingress, Egress]",
    )?;
    let ns = lab.ns("guest/client")?;
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for index in 0..FLOWS {
        let server = SERVERS[index % 2];
        tcp.push(lab.connect("guest/client", lab.sockets(server, 80)?[index / 2 % 2])?);
        udp.push(UdpConn::open(&ns, lab.sockets(server, 5300)?[index / 2 % 2])?);
    }
    expect_echo(&mut tcp, &mut udp, &Outcome::Open);
    lab.apply("shop/allow", "podSelector: {}, policyTypes: [Ingress, Egress]")?;
    expect_echo(&mut tcp, &mut udp, &Outcome::TimedOut);
    Ok(())
}

#[test]
fn a_large_transfer_and_large_datagrams_pass_whole() -> Result<()> {
    const BYTES: usize = 8 << 20;
    let lab = Lab::start(shop())?;
    lab.apply("guest/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    lab.apply(
        "shop/allow",
        "podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}, {port: 5300, protocol: UDP}]}]",
    )?;
    // What comes to the client from the other node meets a smaller MTU at the client's, whose error must reach the server:
    // it is isolated too. Neither end knows of it.
    shell(&lab.ns("node1")?, "ip link set cni0 mtu 1300")?;
    let ns = lab.ns("guest/client")?;
    let pattern: Vec<u8> = (0..BYTES).map(|n| u8::try_from(n * 31 % 251).unwrap_or_default()).collect();
    thread::scope(|scope| -> Result<()> {
        let mut running = Vec::new();
        for server in SERVERS {
            for (tcp, udp) in lab.sockets(server, 80)?.into_iter().zip(lab.sockets(server, 5300)?) {
                let (ns, pattern) = (&ns, &pattern);
                running.push((server, scope.spawn(move || transfer(ns, tcp, pattern))));
                running.push((server, scope.spawn(move || fragments(ns, udp))));
            }
        }
        for (server, thread) in running {
            thread.join().unwrap().with_context(|| server.to_owned())?;
        }
        Ok(())
    })
}

/// Sends everything and gets everything back, in pieces as large as the kernel likes.
fn transfer(ns: &Netns, to: SocketAddr, pattern: &[u8]) -> Result<()> {
    let stream = ns.run(|| TcpStream::connect_timeout(&to, ALLOW_TIMEOUT))??;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // Or a transfer that stops would leave the writer, and the test, waiting for ever.
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    thread::scope(|scope| {
        let writer = scope.spawn(|| (&stream).write_all(pattern));
        let mut back = vec![0; pattern.len()];
        (&stream).read_exact(&mut back).with_context(|| format!("{to}: reading it back"))?;
        writer
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a panic")))
            .with_context(|| format!("{to}: writing"))?;
        ensure!(back == pattern, "{to}: another content");
        stream.shutdown(Shutdown::Both)?;
        Ok(())
    })
}

/// A datagram of two fragments, and its echo.
fn fragments(ns: &Netns, to: SocketAddr) -> Result<()> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = ns.run(|| UdpSocket::bind((any, 0)))??;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let datagram = [b'f'; 2000];
    let mut buffer = [0; 4096];
    // The first ones may be lost to path-MTU discovery.
    for _ in 0..6 {
        let _ = socket.send(&datagram);
        if let Ok(length) = socket.recv(&mut buffer) {
            ensure!(length == datagram.len(), "{to}: {length} bytes came back");
            return Ok(());
        }
    }
    anyhow::bail!("{to}: no datagram of two fragments came back")
}
