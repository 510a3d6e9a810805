//! TCP that no ordinary client speaks: both ends open at once, a port comes back, segments of no connection.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use policy_common::{Direction, DropReason};
use sluice_netns::{ALLOW_TIMEOUT, DENY_TIMEOUT, Netns};
use sluice_tests::agent_world::{Lab, shell};
use sluice_tests::packets::counters::Counters;
use sluice_tests::packets::crossing::Crossing;
use sluice_tests::packets::frames::{Route, TCP, flag, ip, tcp};
use sluice_tests::packets::three_pods;
use socket2::{Domain, Socket, Type};

const WORD: &[u8; 12] = b"simultaneous";

/// A socket with a port of its own, which may be one that was closed a moment ago.
fn bound(ns: &Netns, local: SocketAddr) -> Result<Socket> {
    let bind = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(local), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&local.into())?;
        Ok(socket)
    };
    ns.run(bind)?.with_context(|| format!("{local} in {}", ns.name()))
}

/// Both ends send their first segment. Nobody listens: only a simultaneous open (RFC 9293, figure 7) connects them.
fn open_both(lab: &Lab, [client, server]: [SocketAddr; 2]) -> Result<[Socket; 2]> {
    let ends = [bound(&lab.ns("guest/client")?, client)?, bound(&lab.ns("shop/near")?, server)?];
    for (end, to) in ends.iter().zip([server, client]) {
        end.set_nonblocking(true)?;
        match end.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
            other => anyhow::bail!("connecting to {to}: {other:?}"),
        }
        end.set_nonblocking(false)?;
    }
    Ok(ends)
}

/// Whether a word of each end arrives at the other.
fn carries(ends: &[Socket; 2], timeout: Duration) -> Result<bool> {
    for (mut from, mut to) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
        // A socket that is still connecting waits that long for its connection, too.
        from.set_write_timeout(Some(timeout))?;
        to.set_read_timeout(Some(timeout))?;
        let mut word = [0; WORD.len()];
        if from.write_all(WORD).is_err() || to.read_exact(&mut word).is_err() {
            return Ok(false);
        }
        ensure!(word == *WORD, "another word: {word:?}");
    }
    Ok(true)
}

/// Who may open: the client at the server's port, the server at the client's, and whether a connection comes of it.
struct Case {
    name: &'static str,
    client_sends: bool,
    server_takes: bool,
    server_sends: bool,
    client_takes: bool,
    connects: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "both may",
        client_sends: true,
        server_takes: true,
        server_sends: true,
        client_takes: true,
        connects: true,
    },
    Case {
        name: "the client may",
        client_sends: true,
        server_takes: true,
        server_sends: false,
        client_takes: false,
        connects: true,
    },
    Case {
        name: "the server may",
        client_sends: false,
        server_takes: false,
        server_sends: true,
        client_takes: true,
        connects: true,
    },
    Case {
        name: "both may send, and neither takes",
        client_sends: true,
        server_takes: false,
        server_sends: true,
        client_takes: false,
        connects: false,
    },
];

impl Case {
    fn apply(&self, lab: &Lab, [client, server]: [u16; 2]) -> Result<()> {
        let rule = |allowed: bool, port: u16| {
            if allowed { format!("[{{ports: [{{port: {port}}}]}}]") } else { "[]".to_owned() }
        };
        let spec = |egress: String, ingress: String| {
            format!("podSelector: {{}}, policyTypes: [Ingress, Egress], egress: {egress}, ingress: {ingress}")
        };
        lab.apply("guest/open", &spec(rule(self.client_sends, server), rule(self.client_takes, client)))?;
        lab.apply("shop/open", &spec(rule(self.server_sends, client), rule(self.server_takes, server)))
    }
}

#[test]
fn a_simultaneous_open_connects_where_either_side_may_open() -> Result<()> {
    // The first segments are lost, or wait for a neighbour that nobody can ask for: TCP and neighbour discovery both try
    // again after one second (RFC 6298, RFC 4861).
    const SECOND_TRY: Duration = Duration::from_millis(2500);
    let lab = Lab::start(three_pods("sltcp"))?;
    let node = lab.ns("node1")?;
    let ports: Vec<&str> = ["guest/client", "shop/near"]
        .iter()
        .map(|pod| Ok(lab.world.pod(pod)?.host_interface.as_str()))
        .collect::<Result<_>>()?;
    let bridge = |state: &str| -> Result<()> {
        for port in &ports {
            shell(&node, &format!("bridge link set dev {port} state {state}"))?;
        }
        Ok(())
    };
    for (case, at) in CASES.iter().zip(0..) {
        let (client, server) = (7100 + at, 7200 + at);
        case.apply(&lab, [client, server])?;
        let pairs: Vec<[SocketAddr; 2]> = lab
            .sockets("guest/client", client)?
            .into_iter()
            .zip(lab.sockets("shop/near", server)?)
            .map(|(client, server)| [client, server])
            .collect();
        // Each end has sent before the other's segment can arrive. A port that is merely "blocking" doesn't stay so
        // without the spanning tree protocol.
        bridge("disabled")?;
        let opened: Vec<[Socket; 2]> =
            pairs.iter().map(|pair| open_both(&lab, *pair)).collect::<Result<_>>()?;
        bridge("forwarding")?;
        let connected: Vec<bool> = thread::scope(|scope| {
            let running: Vec<_> =
                opened.iter().map(|ends| scope.spawn(|| carries(ends, SECOND_TRY))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect::<Result<_>>()
        })?;
        assert_eq!(connected, [case.connects; 2], "{} (IPv4, IPv6)", case.name);
    }
    Ok(())
}

/// Whether a connection from exactly `from` opens and carries a byte. `reset`: the client ends it, at once and with a
/// reset; otherwise the server ends it, in order, and keeps its half in TIME_WAIT.
fn opens_from(
    lab: &Lab,
    from: SocketAddr,
    listener: &TcpListener,
    to: SocketAddr,
    reset: bool,
) -> Result<bool> {
    let client = bound(&lab.ns("guest/client")?, from)?;
    if client.connect_timeout(&to.into(), DENY_TIMEOUT).is_err() {
        return Ok(false);
    }
    let (mut server, _) = listener.accept()?;
    for end in [&client, &Socket::from(server.try_clone()?)] {
        end.set_read_timeout(Some(ALLOW_TIMEOUT))?;
    }
    let mut byte = [0];
    (&client).write_all(b"?")?;
    server.read_exact(&mut byte)?;
    server.write_all(b"!")?;
    (&client).read_exact(&mut byte)?;
    if reset {
        client.set_linger(Some(Duration::ZERO))?;
    } else {
        drop(server);
        ensure!((&client).read(&mut byte)? == 0, "the server's end of the connection did not come");
    }
    Ok(true)
}

#[test]
fn a_port_that_comes_back_is_a_new_connection() -> Result<()> {
    let lab = Lab::start(three_pods("sltcp"))?;
    // Every answer needs the memory of who opened it.
    lab.apply(
        "guest/open",
        "podSelector: {}, policyTypes: [Ingress, Egress], egress: [{ports: [{port: 80}]}]",
    )?;
    let allow = "podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}]";
    lab.apply("shop/open", allow)?;
    let listener = lab.ns("shop/near")?.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)))??;
    let pairs: Vec<(SocketAddr, SocketAddr)> =
        lab.sockets("guest/client", 40_100)?.into_iter().zip(lab.sockets("shop/near", 80)?).collect();
    for (from, to) in &pairs {
        for (round, reset) in [false, true, true, false, false, true].into_iter().enumerate() {
            ensure!(opens_from(&lab, *from, &listener, *to, reset)?, "{from} -> {to}, round {round}");
        }
    }
    lab.delete("shop/open")?;
    lab.apply("shop/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    for (from, to) in &pairs {
        ensure!(!opens_from(&lab, *from, &listener, *to, true)?, "{from} -> {to} opens without its rule");
    }
    lab.delete("shop/deny")?;
    lab.apply("shop/open", allow)?;
    for (from, to) in &pairs {
        ensure!(opens_from(&lab, *from, &listener, *to, true)?, "{from} -> {to} with its rule again");
    }
    Ok(())
}

fn segment(route: Route, from_port: u16, to_port: u16, flags: u8) -> Result<Vec<u8>> {
    ip(route, TCP, &tcp(route, from_port, to_port, flags, b""))
}

#[test]
fn a_first_segment_on_a_living_tuple_is_judged_anew() -> Result<()> {
    const CLIENT: u16 = 40_200;
    const SERVER: u16 = 80;
    let lab = Lab::start(three_pods("sltcp"))?;
    lab.apply("guest/open", "podSelector: {}, policyTypes: [Ingress]")?;
    lab.apply("shop/open", "podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 80}]}]")?;
    let listener = lab.ns("shop/near")?.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, SERVER)))??;
    let mut living = Vec::new();
    for (from, to) in lab.sockets("guest/client", CLIENT)?.into_iter().zip(lab.sockets("shop/near", SERVER)?)
    {
        let client = bound(&lab.ns("guest/client")?, from)?;
        client.connect_timeout(&to.into(), ALLOW_TIMEOUT)?;
        living.push((client, listener.accept()?.0));
    }
    let forth = Crossing::between(&lab, "guest/client", "shop/near")?;
    let back = Crossing::between(&lab, "shop/near", "guest/client")?;
    let again: Vec<Vec<u8>> = forth
        .routes()
        .iter()
        .map(|route| segment(*route, CLIENT, SERVER, flag::SYN))
        .collect::<Result<_>>()?;
    let returned = |flags: u8| -> Result<Vec<Vec<u8>>> {
        back.routes().iter().map(|route| segment(*route, SERVER, CLIENT, flags)).collect()
    };
    // The server answers on the connection, and opens none over it.
    assert_eq!(back.arrivals(&returned(flag::ACK)?)?, [true; 2]);
    assert_eq!(back.arrivals(&returned(flag::SYN)?)?, [false; 2]);
    assert_eq!(forth.arrivals(&again)?, [true; 2]);
    lab.delete("shop/open")?;
    lab.apply("shop/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    assert_eq!(forth.arrivals(&again)?, [false; 2]);
    Ok(())
}

/// Every kind of segment but the one that opens a connection.
const STRAYS: [u8; 7] =
    [flag::ACK, flag::SYN | flag::ACK, flag::FIN, flag::FIN | flag::ACK, flag::RST, flag::RST | flag::ACK, 0];

#[test]
fn segments_of_no_connection_do_not_enter_or_leave_an_isolated_pod() -> Result<()> {
    let lab = Lab::start(three_pods("sltcp"))?;
    let counters = Counters::of(lab.world.node("node1")?)?;
    let way = Crossing::between(&lab, "guest/client", "shop/near")?;
    let strays = |port: u16| -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        for route in way.routes() {
            for flags in STRAYS {
                frames.push(segment(route, 40_300, port, flags)?);
            }
        }
        Ok(frames)
    };
    let frames = strays(8000)?;
    assert_eq!(way.arrivals(&frames)?, vec![true; frames.len()], "nobody is isolated");
    for (policy, kinds, direction, port) in [
        // What the pod may send by itself makes no stray segment an answer.
        ("shop/deny", "Ingress", Direction::Ingress, 8001),
        ("shop/deny", "Ingress, Egress", Direction::Ingress, 8002),
        ("guest/deny", "Egress", Direction::Egress, 8003),
        ("guest/deny", "Ingress, Egress", Direction::Egress, 8004),
    ] {
        lab.apply(policy, &format!("podSelector: {{}}, policyTypes: [{kinds}]"))?;
        let before = counters.dropped(DropReason::Policy, direction)?;
        let frames = strays(port)?;
        assert_eq!(way.arrivals(&frames)?, vec![false; frames.len()], "{policy}, {kinds}");
        let dropped = counters.dropped(DropReason::Policy, direction)? - before;
        assert!(dropped >= frames.len() as u64, "{policy}, {kinds}: {dropped} counted");
        lab.delete(policy)?;
    }
    Ok(())
}
