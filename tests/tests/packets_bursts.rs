//! What segmentation offload makes of bulk data: the programs see packets far larger than the MTU, over the bridge and
//! over VXLAN, and let them through whole.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;
use policy_common::{Direction, PassReason};
use sluice_netns::{ALLOW_TIMEOUT, Netns};
use sluice_tests::agent_world::Lab;
use sluice_tests::packets::counters::{Count, Counters};
use sluice_tests::packets::three_pods;

const TCP_PORT: u16 = 5001;
const UDP_PORT: u16 = 5002;
const MTU: u64 = 1430;
const BYTES: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
/// How often an upload may be repeated for being slow or losing packets.
const TRIES: usize = 4;

/// The servers with the nodes that they are on.
const SERVERS: [(&str, &str); 2] = [("shop/near", "node1"), ("shop/far", "node2")];

/// Everybody isolated in both directions, and the one way allowed: from the client to both servers' two ports.
fn isolate(lab: &Lab) -> Result<()> {
    let ports = "[{ports: [{port: 5001}, {port: 5002, protocol: UDP}]}]";
    lab.apply("guest/out", &format!("podSelector: {{}}, policyTypes: [Ingress, Egress], egress: {ports}"))?;
    lab.apply("shop/in", &format!("podSelector: {{}}, policyTypes: [Ingress, Egress], ingress: {ports}"))
}

/// Sends it all, and gives the time that the last byte took to arrive.
fn upload(from: &Netns, at: &Netns, to: SocketAddr) -> Result<Duration> {
    let listener = at.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, to.port())))??;
    let mut client = from.run(|| TcpStream::connect_timeout(&to, ALLOW_TIMEOUT))??;
    let (mut server, _) = listener.accept()?;
    client.set_write_timeout(Some(PATIENCE))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let piece = vec![0x5a; 1 << 20];
    let began = Instant::now();
    let arrived = thread::scope(|scope| -> Result<u64> {
        let writer = scope.spawn(move || -> io::Result<()> {
            for _ in 0..BYTES / piece.len() {
                client.write_all(&piece)?;
            }
            client.shutdown(Shutdown::Write)
        });
        let arrived = io::copy(&mut server, &mut io::sink()).context("reading")?;
        writer.join().expect("the writer does not panic").context("writing")?;
        Ok(arrived)
    })?;
    ensure!(arrived == BYTES as u64, "{arrived} bytes arrived at {to}");
    Ok(began.elapsed())
}

/// Segments that TCP of this namespace has sent, and those that it has sent again.
fn segments(ns: &Netns) -> Result<(u64, u64)> {
    // The thread's own, not the process's: only the thread is in the namespace.
    let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let value = |wanted: &str| {
        let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == wanted);
        found.and_then(|(_, value)| value.parse().ok()).with_context(|| format!("no {wanted}"))
    };
    Ok((value("OutSegs")?, value("RetransSegs")?))
}

/// What the two ends of a way have let through by a rule.
fn passed(ends: &[&Counters; 2]) -> Result<[Count; 2]> {
    let [from, to] = ends;
    Ok([
        from.passed(PassReason::Policy, Direction::Egress)?,
        to.passed(PassReason::Policy, Direction::Ingress)?,
    ])
}

/// One upload as a bulk transfer: in super-packets, next to nothing sent again, not much slower than without policies.
fn bulk(client: &Netns, at: &Netns, to: SocketAddr, ends: &[&Counters; 2], free: Duration) -> Result<()> {
    let (before, sent) = (passed(ends)?, segments(client)?);
    let took = upload(client, at, to)?;
    let (after, sent_after) = (passed(ends)?, segments(client)?);
    let (all, again) = (sent_after.0 - sent.0, sent_after.1 - sent.1);
    for (after, before) in after.iter().zip(before) {
        let Count { packets, bytes } = after.since(before);
        eprintln!(
            "{to}: {bytes} bytes in {packets} packets, {again} again, {took:?}, {free:?} without policies"
        );
        // Every byte was judged, and few of them in packets of their own.
        ensure!(bytes > BYTES as u64, "{to}: only {bytes} bytes were judged");
        ensure!(bytes / packets > 4 * MTU, "{to}: no super-packets: {bytes} bytes in {packets}");
    }
    ensure!(again * 100 <= all, "{to}: {again} of {all} segments were sent again");
    // A lost super-packet costs a time-out of a fifth of a second at least, and TCP its speed.
    ensure!(took < free * 4 + Duration::from_secs(1), "{to}: {took:?}, without policies {free:?}");
    Ok(())
}

#[test]
fn super_packets_of_tcp_pass_over_bridge_and_vxlan() -> Result<()> {
    let lab = Lab::start(three_pods("slburst"))?;
    let counters = [Counters::of(lab.world.node("node1")?)?, Counters::of(lab.world.node("node2")?)?];
    let client = lab.ns("guest/client")?;
    let mut without = Vec::new();
    for (server, _) in SERVERS {
        for to in lab.sockets(server, TCP_PORT)? {
            without.push(upload(&client, &lab.ns(server)?, to)?);
        }
    }
    isolate(&lab)?;
    let mut without = without.into_iter();
    for (server, node) in SERVERS {
        let ends = [&counters[0], &counters[usize::from(node == "node2")]];
        for to in lab.sockets(server, TCP_PORT)? {
            let free = without.next().context("as many uploads without policies")?;
            // A machine that is busy elsewhere overruns a queue of the kernel's now and then. A program that loses
            // super-packets loses them every time.
            let once = || bulk(&client, &lab.ns(server)?, to, &ends, free);
            let mut result = once();
            for _ in 1..TRIES {
                let Err(error) = &result else { break };
                eprintln!("{to}, once more: {error:#}");
                result = once();
            }
            result?;
        }
    }
    Ok(())
}

/// Datagrams that the kernel cuts from one large buffer (`UDP_SEGMENT`, udp(7)), as QUIC sends them.
fn segmented(from: &Netns, at: &Netns, to: SocketAddr) -> Result<()> {
    const SEGMENT: u16 = 1200;
    const AT_ONCE: usize = 40;
    const BURSTS: usize = 50;
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let receiver = at.run(|| UdpSocket::bind(to))??;
    receiver.set_read_timeout(Some(ALLOW_TIMEOUT))?;
    let sender = from.run(|| UdpSocket::bind((any, 0)))??;
    sender.connect(to)?;
    setsockopt(&sender, UdpGsoSegment, &i32::from(SEGMENT)).context("UDP_SEGMENT")?;
    let length = usize::from(SEGMENT);
    let mut buffer = [0; 2048];
    for burst in 0..BURSTS {
        let mut datagrams = vec![0; length * AT_ONCE];
        for (number, datagram) in datagrams.chunks_mut(length).enumerate() {
            datagram[..8].copy_from_slice(&((burst * AT_ONCE + number) as u64).to_be_bytes());
        }
        sender.send(&datagrams)?;
        // All of them, before the next burst could fill the receiver's buffer.
        for datagram in datagrams.chunks(length) {
            let got = receiver.recv(&mut buffer).with_context(|| format!("burst {burst} to {to}"))?;
            ensure!(buffer[..got] == *datagram, "{to}: another datagram in burst {burst}");
        }
    }
    Ok(())
}

#[test]
fn super_packets_of_udp_pass_over_bridge_and_vxlan() -> Result<()> {
    let lab = Lab::start(three_pods("slburst"))?;
    isolate(&lab)?;
    let counters = [Counters::of(lab.world.node("node1")?)?, Counters::of(lab.world.node("node2")?)?];
    let client = lab.ns("guest/client")?;
    for (server, node) in SERVERS {
        let ends = [&counters[0], &counters[usize::from(node == "node2")]];
        for to in lab.sockets(server, UDP_PORT)? {
            let before = passed(&ends)?;
            segmented(&client, &lab.ns(server)?, to)?;
            for (after, before) in passed(&ends)?.iter().zip(before) {
                let Count { packets, bytes } = after.since(before);
                eprintln!("{server} {to}: {bytes} bytes in {packets} packets");
                ensure!(bytes / packets > 4 * MTU, "{to}: no super-packets: {bytes} bytes in {packets}");
            }
        }
    }
    Ok(())
}
