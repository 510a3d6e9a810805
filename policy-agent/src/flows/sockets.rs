//! The pods' own sockets, by sock_diag in their network namespaces.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt as _;

use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::message::SockDiagMessage;
use nix::sched::{CloneFlags, setns};
use policy_common::flows::Opener;
use policy_common::parse::protocol;
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;

use super::dump::{Unread, dump};
use super::{KnownFlow, Phase, PodNamespace};

/// Shows the namespace of the thread that opens it.
const LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The kernel's default of it.
const DEFAULT_RANGE: RangeInclusive<u16> = 32_768..=60_999;

/// A socket, with IPv4 addresses as such also where the socket is of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    protocol: u8,
    local: SocketAddr,
    remote: SocketAddr,
    /// TCP's states, which sock_diag uses for UDP too.
    state: u8,
}

/// Moves the calling thread into the pod's namespace and adds the flows of its sockets to `flows`. Says of each protocol how
/// reading it went.
pub(super) fn look_into(
    pod: &PodNamespace,
    flows: &mut Vec<KnownFlow>,
) -> io::Result<Vec<(&'static str, io::Result<Unread>)>> {
    // Without O_NONBLOCK, opening a pipe waits for its writer.
    let namespace = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&pod.netns)?;
    setns(&namespace, CloneFlags::CLONE_NEWNET)?;
    let mut sockets = Vec::new();
    let mut reads = Vec::new();
    for (name, protocol) in [("TCP", protocol::TCP), ("UDP", protocol::UDP)] {
        for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            reads.push((name, read_sockets(family, any, protocol, &mut sockets)));
        }
    }
    let handed_out = fs::read_to_string(LOCAL_PORT_RANGE)
        .ok()
        .and_then(|text| parse_range(&text))
        .unwrap_or(DEFAULT_RANGE);
    flows.extend(infer(&sockets, &pod.addresses, &handed_out));
    Ok(reads)
}

fn read_sockets(family: u8, any: SocketId, protocol: u8, sockets: &mut Vec<Socket>) -> io::Result<Unread> {
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: any,
    });
    dump(NETLINK_SOCK_DIAG, request, |message| {
        if let SockDiagMessage::InetResponse(response) = message {
            let id = response.header.socket_id;
            sockets.push(Socket {
                protocol,
                local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
                remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
                state: response.header.state,
            });
        }
        Ok(())
    })
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some(first.parse().ok()?..=last.trim().parse().ok()?)
}

/// The flows of sockets that are connected from one of `addresses`. `handed_out`: the ports that a socket gets which doesn't
/// ask for one.
fn infer(
    sockets: &[Socket],
    addresses: &BTreeSet<IpAddr>,
    handed_out: &RangeInclusive<u16>,
) -> Vec<KnownFlow> {
    let listeners: HashSet<(u8, SocketAddr)> = sockets
        .iter()
        .filter(|socket| match socket.protocol {
            protocol::TCP => socket.state == TCP_LISTEN,
            // One that is bound and not connected takes what anybody sends.
            _ => socket.state == TCP_CLOSE,
        })
        .map(|socket| (socket.protocol, socket.local))
        .collect();
    let listens = |protocol, local: SocketAddr| {
        let on = |address: IpAddr| listeners.contains(&(protocol, SocketAddr::new(address, local.port())));
        // By default a socket on IPv6's unspecified address takes IPv4 as well.
        on(local.ip())
            || on(Ipv6Addr::UNSPECIFIED.into())
            || (local.is_ipv4() && on(Ipv4Addr::UNSPECIFIED.into()))
    };
    let connected = sockets.iter().filter(|socket| {
        !matches!(socket.state, TCP_LISTEN | TCP_CLOSE)
            && socket.remote.port() != 0
            && addresses.contains(&socket.local.ip())
    });
    connected
        .filter_map(|socket| {
            let (listened, ephemeral) =
                (listens(socket.protocol, socket.local), handed_out.contains(&socket.local.port()));
            let opener = match socket.state {
                TCP_SYN_SENT => Opener::Pod,
                TCP_SYN_RECV => Opener::Peer,
                // A connected UDP socket proves no packet of its peer's: a pod could pass its own for answers.
                _ if listened && !ephemeral && socket.protocol == protocol::TCP => Opener::Peer,
                _ if ephemeral && !listened => Opener::Pod,
                // A client that asked for this port, a server that has stopped listening, or both at once.
                _ => return None,
            };
            Some(KnownFlow {
                through: None,
                pod: socket.local.ip(),
                local_port: socket.local.port(),
                remote: socket.remote,
                protocol: socket.protocol,
                opener,
                state: match socket.state {
                    // A connected UDP socket may never have been answered.
                    TCP_ESTABLISHED if socket.protocol == protocol::TCP => Phase::Established,
                    TCP_ESTABLISHED | TCP_SYN_SENT | TCP_SYN_RECV => Phase::Opening,
                    _ => Phase::Closing,
                },
                remaining: None,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use netlink_packet_sock_diag::constants::{TCP_CLOSE_WAIT, TCP_TIME_WAIT};

    use super::*;

    const POD: &str = "10.244.1.2";
    const POD6: &str = "fd00::2";
    const PEER: &str = "10.244.2.9:443";

    fn socket(protocol: u8, local: &str, remote: &str, state: u8) -> Socket {
        Socket { protocol, local: local.parse().unwrap(), remote: remote.parse().unwrap(), state }
    }

    /// What comes of sockets, as `PROTOCOL PORT OPENER PHASE`.
    fn seen(sockets: &[Socket]) -> Vec<String> {
        let addresses = [POD, POD6].map(|address| address.parse().unwrap()).into();
        infer(sockets, &addresses, &DEFAULT_RANGE)
            .iter()
            .map(|flow| format!("{} {} {:?} {:?}", flow.protocol, flow.local_port, flow.opener, flow.state))
            .collect()
    }

    #[test]
    fn who_listens_was_called() {
        for (listener, local) in [
            ("0.0.0.0:8080", "10.244.1.2:8080"),
            ("[::]:8080", "10.244.1.2:8080"),
            ("10.244.1.2:8080", "10.244.1.2:8080"),
            ("[::]:8080", "[fd00::2]:8080"),
        ] {
            let sockets =
                [socket(6, local, PEER, TCP_ESTABLISHED), socket(6, listener, "0.0.0.0:0", TCP_LISTEN)];
            assert_eq!(seen(&sockets), ["6 8080 Peer Established"], "{listener}");
        }
    }

    #[test]
    fn who_does_not_listen_has_called() {
        let client = socket(6, "10.244.1.2:40000", PEER, TCP_ESTABLISHED);
        assert_eq!(seen(&[client]), ["6 40000 Pod Established"]);
        for (protocol, listener, state) in [
            (6, "10.244.1.3:40000", TCP_LISTEN),
            (6, "0.0.0.0:40001", TCP_LISTEN),
            (17, "0.0.0.0:40000", TCP_CLOSE),
            // A port that is bound for a client's sake.
            (6, "0.0.0.0:40000", TCP_CLOSE),
        ] {
            let sockets = [client, socket(protocol, listener, "0.0.0.0:0", state)];
            assert_eq!(seen(&sockets), ["6 40000 Pod Established"], "{listener}");
        }
        let client6 = socket(6, "[fd00::2]:40000", "[fd00::9]:443", TCP_ESTABLISHED);
        let listener = socket(6, "0.0.0.0:40000", "0.0.0.0:0", TCP_LISTEN);
        assert_eq!(seen(&[client6, listener]), ["6 40000 Pod Established"]);
    }

    #[test]
    fn a_port_that_was_asked_for_without_a_listener_tells_nothing() {
        assert_eq!(seen(&[socket(6, "10.244.1.2:8080", PEER, TCP_ESTABLISHED)]), [""; 0]);
        assert_eq!(seen(&[socket(17, "10.244.1.2:5353", PEER, TCP_ESTABLISHED)]), [""; 0]);
    }

    #[test]
    fn a_handshake_tells_its_opener() {
        let sockets = [
            socket(6, "10.244.1.2:900", PEER, TCP_SYN_SENT),
            socket(6, "10.244.1.2:50000", PEER, TCP_SYN_RECV),
        ];
        assert_eq!(seen(&sockets), ["6 900 Pod Opening", "6 50000 Peer Opening"]);
    }

    #[test]
    fn what_ends_is_closing() {
        let sockets = [
            socket(6, "10.244.1.2:40000", PEER, TCP_CLOSE_WAIT),
            socket(6, "10.244.1.2:40001", PEER, TCP_TIME_WAIT),
            socket(6, "10.244.1.2:40002", PEER, TCP_CLOSE),
        ];
        assert_eq!(seen(&sockets), ["6 40000 Pod Closing", "6 40001 Pod Closing"]);
    }

    #[test]
    fn a_connected_udp_socket_is_a_flow_of_the_pod_or_of_nobody() {
        let client = socket(17, "10.244.1.2:40000", PEER, TCP_ESTABLISHED);
        assert_eq!(seen(&[client]), ["17 40000 Pod Opening"]);
        let server = socket(17, "[::]:40000", "[::]:0", TCP_CLOSE);
        // Whoever binds a port and connects from it has heard of nobody yet.
        assert_eq!(seen(&[client, server]), [""; 0]);
    }

    #[test]
    fn loopback_and_other_addresses_are_none_of_the_pods() {
        assert_eq!(
            seen(&[
                socket(6, "127.0.0.1:40000", "127.0.0.1:80", TCP_ESTABLISHED),
                socket(6, "192.168.0.1:40000", PEER, TCP_ESTABLISHED),
            ]),
            [""; 0]
        );
    }

    #[test]
    fn a_range_of_ports_is_read() {
        assert_eq!(parse_range("32768\t60999\n"), Some(DEFAULT_RANGE));
        assert_eq!(parse_range("1024 65535"), Some(1024..=65535));
        for text in ["", "1024", "a b", "70000 80000"] {
            assert_eq!(parse_range(text), None, "{text:?}");
        }
    }
}
