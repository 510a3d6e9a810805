//! Path-MTU discovery behind policies that allow one flow and nothing else: errors about that flow come back, others
//! don't.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use policy_common::{Direction, DropReason, PassReason};
use sluice_netns::{ALLOW_TIMEOUT, Netns};
use sluice_tests::agent_world::{Lab, eventually, outside6, shell};
use sluice_tests::packets::counters::Counters;
use sluice_tests::packets::frames::{ICMP, ICMP6, Route, TCP, icmp, ip, tcp};
use sluice_tests::packets::three_pods;
use sluice_tests::packets::wire::{Wire, mac};

const PORT: u16 = 5001;
/// The narrow hop's. IPv6 has no smaller one.
const NARROW4: u16 = 1000;
const NARROW6: u16 = 1280;
const BYTES: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Beyond `router`, a machine that lets only small packets through on their way to `server`; the way back is wide. The
/// pods may do nothing but one thing: the client calls `server`, and `server` calls the servers.
fn narrow_world() -> Result<Lab> {
    let world = three_pods("slpmtu").outside("router", [172, 16, 8, 1].into(), Some(outside6(8, 1))).outside(
        "server",
        [172, 16, 9, 10].into(),
        Some(outside6(9, 10)),
    );
    let lab = Lab::start(world)?;
    let router = lab.ns("router")?;
    router.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        // It forwards through the interface that the packet came from, and is to say nothing about that.
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/eth0/send_redirects", "0"),
    ])?;
    shell(
        &router,
        &format!(
            "ip route add 172.16.9.10/32 dev eth0 mtu lock {NARROW4} && ip route add {}/128 dev eth0 mtu {NARROW6}",
            outside6(9, 10)
        ),
    )?;
    for node in ["node1", "node2"] {
        shell(
            &lab.ns(node)?,
            &format!(
                "ip route replace 172.16.9.10/32 via 172.16.8.1 dev eth0 onlink && \
                 ip route replace {}/128 via {} dev eth0 onlink",
                outside6(9, 10),
                outside6(8, 1)
            ),
        )?;
    }
    let only = |direction: &str, peer: &str| {
        format!(
            "podSelector: {{}}, policyTypes: [Ingress, Egress], {direction}: [{{ports: [{{port: {PORT}}}], {peer}: \
             [{{ipBlock: {{cidr: 172.16.9.10/32}}}}, {{ipBlock: {{cidr: '{}/128'}}}}]}}]",
            outside6(9, 10)
        )
    };
    lab.apply("guest/only", &only("egress", "to"))?;
    lab.apply("shop/only", &only("ingress", "from"))?;
    Ok(lab)
}

fn servers() -> [SocketAddr; 2] {
    [(Ipv4Addr::new(172, 16, 9, 10), PORT).into(), (outside6(9, 10), PORT).into()]
}

/// The MTU of the way to `to` as the pod knows it now.
fn known_mtu(lab: &Lab, pod: &str, to: IpAddr) -> Result<Option<u16>> {
    let route = shell(&lab.ns(pod)?, &format!("ip route get {to}"))?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    Ok(words.nth(1).and_then(|mtu| mtu.parse().ok()))
}

const fn narrow(address: IpAddr) -> u16 {
    if address.is_ipv4() { NARROW4 } else { NARROW6 }
}

/// One end writes, the other reads: how many bytes arrive.
fn pour(mut from: TcpStream, mut into: TcpStream) -> Result<u64> {
    from.set_write_timeout(Some(PATIENCE))?;
    into.set_read_timeout(Some(PATIENCE))?;
    thread::scope(|scope| {
        let writer = scope
            .spawn(move || from.write_all(&vec![0x5a; BYTES]).and_then(|()| from.shutdown(Shutdown::Write)));
        let arrived = io::copy(&mut into, &mut io::sink()).context("reading")?;
        writer.join().expect("the writer does not panic").context("writing")?;
        Ok(arrived)
    })
}

/// A connection: its caller's end and its listener's.
fn connected(caller: &Netns, listener: &Netns, to: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let listening = listener.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, to.port())))??;
    let call =
        caller.run(|| TcpStream::connect_timeout(&to, ALLOW_TIMEOUT))?.with_context(|| to.to_string())?;
    Ok((call, listening.accept()?.0))
}

#[test]
fn bulk_data_of_isolated_pods_gets_through_a_narrow_hop() -> Result<()> {
    let lab = narrow_world()?;
    let server = lab.ns("server")?;
    for (pod, node) in [("guest/client", "node1"), ("shop/near", "node1"), ("shop/far", "node2")] {
        let counters = Counters::of(lab.world.node(node)?)?;
        let ns = lab.ns(pod)?;
        for (far, own) in servers().into_iter().zip(lab.sockets(pod, PORT)?) {
            let before = counters.passed(PassReason::IcmpError, Direction::Ingress)?.packets;
            ensure!(known_mtu(&lab, pod, far.ip())?.is_none(), "{pod} knows the way to {far} already");
            // The client uploads to the machine outside; from the servers it downloads.
            let arrived = if pod == "guest/client" {
                let (call, taken) = connected(&ns, &server, far)?;
                pour(call, taken)
            } else {
                let (call, taken) = connected(&server, &ns, own)?;
                pour(taken, call)
            };
            let arrived = arrived.with_context(|| format!("{pod} and {far}"))?;
            assert_eq!(arrived, BYTES as u64, "{pod} and {far}");
            assert_eq!(known_mtu(&lab, pod, far.ip())?, Some(narrow(far.ip())), "{pod} and {far}");
            let errors = counters.passed(PassReason::IcmpError, Direction::Ingress)?.packets - before;
            assert!(errors > 0, "{pod} and {far}: the hop's error was not counted as one");
        }
    }
    Ok(())
}

/// "Too big" from the router, about a segment that the pod sent from `port` to `to` (RFC 792, RFC 1191, RFC 4443).
fn too_big(lab: &Lab, wire: &Wire, (port, to): (u16, SocketAddr), mtu: u16) -> Result<Vec<u8>> {
    let node = lab.world.node("node1")?;
    let pod = lab.world.pod("guest/client")?;
    let (from_mac, to_mac) = (wire.mac, mac(node.ns(), "eth0")?);
    let [high, low] = mtu.to_be_bytes();
    let (pod, router): (IpAddr, IpAddr) = match to {
        SocketAddr::V4(_) => (pod.ipv4.into(), Ipv4Addr::new(172, 16, 8, 1).into()),
        SocketAddr::V6(_) => (pod.ipv6.into(), outside6(8, 1).into()),
    };
    let sent = Route { from_mac, to_mac, src: pod, dst: to.ip() };
    let quoted = ip(sent, TCP, &tcp(sent, port, to.port(), 0x10, b""))?.split_off(14);
    let back = Route { from_mac, to_mac, src: router, dst: pod };
    if to.is_ipv4() {
        ip(back, ICMP, &icmp(back, 3, 4, [0, 0, high, low], &quoted))
    } else {
        ip(back, ICMP6, &icmp(back, 2, 0, [0, 0, high, low], &quoted))
    }
}

#[test]
fn an_error_about_an_unknown_flow_is_dropped_as_such_and_changes_nothing() -> Result<()> {
    const FORGED: u16 = 1300;
    let lab = narrow_world()?;
    let counters = Counters::of(lab.world.node("node1")?)?;
    let wire = Wire::open(&lab.ns("router")?, "eth0")?;
    let dropped = || counters.dropped(DropReason::IcmpError, Direction::Ingress);
    let passed =
        || Ok::<_, anyhow::Error>(counters.passed(PassReason::IcmpError, Direction::Ingress)?.packets);
    let mut living = Vec::new();
    for far in servers() {
        let (call, taken) = connected(&lab.ns("guest/client")?, &lab.ns("server")?, far)?;
        let port = call.local_addr()?.port();
        let denied = SocketAddr::new(far.ip(), PORT + 1);
        // Another port of the pod's, and another of the machine's: neither is a flow.
        let unknown = [(port ^ 1, far), (port, denied)];
        for (at, flow) in (1..).zip(unknown) {
            let before = dropped()?;
            wire.send(&too_big(&lab, &wire, flow, FORGED)?)?;
            eventually(ALLOW_TIMEOUT, || {
                let count = dropped()?;
                Ok((count == before).then(|| format!("error {at} about {far} is not counted")))
            })?;
            assert_eq!(dropped()?, before + 1);
        }
        assert_eq!(known_mtu(&lab, "guest/client", far.ip())?, None, "{far}");
        // The same about the flow that there is: it was not dropped for its shape.
        let before = (dropped()?, passed()?);
        wire.send(&too_big(&lab, &wire, (port, far), FORGED)?)?;
        eventually(ALLOW_TIMEOUT, || {
            Ok((passed()? == before.1).then(|| format!("an error about the flow to {far} does not pass")))
        })?;
        assert_eq!(dropped()?, before.0);
        living.push((port, far, call, taken));
    }
    // The permission gone, the flow is as good as unknown.
    lab.apply("guest/only", "podSelector: {}, policyTypes: [Ingress, Egress]")?;
    for (port, far, _call, _taken) in &living {
        let before = dropped()?;
        wire.send(&too_big(&lab, &wire, (*port, *far), FORGED)?)?;
        eventually(ALLOW_TIMEOUT, || {
            Ok((dropped()? == before)
                .then(|| format!("an error about the revoked flow to {far} is not counted")))
        })?;
    }
    Ok(())
}
