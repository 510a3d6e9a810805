//! The frames that are judged. The program of the bench fills in the end of the remote address.

use std::net::IpAddr;

use policy_common::Direction;
use sluice_tests::packets::frames::{self, Piece, Route, TCP, UDP, flag};

pub(crate) const LOCAL_PORT: u16 = 80;
pub(crate) const REMOTE_PORT: u16 = 40_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    TcpData,
    TcpSyn,
    TcpSynAck,
    Udp,
    /// Of a UDP datagram.
    FirstFragment,
    LaterFragment,
}

/// A multiple of eight, as fragments must be.
const PAYLOAD: [u8; 64] = [0; 64];
/// Identifies the datagram of the fragments.
const DATAGRAM: u16 = 0x5349;
/// Where the later fragment begins: behind the first one's UDP header and payload.
const SECOND_AT: u16 = 8 + 64;

pub(crate) fn frame(
    direction: Direction,
    packet: Packet,
    pod: IpAddr,
    remote: IpAddr,
) -> anyhow::Result<Vec<u8>> {
    let (src, dst, from, to) = match direction {
        Direction::Egress => (pod, remote, LOCAL_PORT, REMOTE_PORT),
        Direction::Ingress => (remote, pod, REMOTE_PORT, LOCAL_PORT),
    };
    let route = Route { from_mac: [2, 0, 0, 0, 0, 1], to_mac: [2, 0, 0, 0, 0, 2], src, dst };
    let segment = |flags, payload| frames::ip(route, TCP, &frames::tcp(route, from, to, flags, payload));
    match packet {
        Packet::TcpData => segment(flag::ACK, &PAYLOAD),
        Packet::TcpSyn => segment(flag::SYN, &[]),
        Packet::TcpSynAck => segment(flag::SYN | flag::ACK, &[]),
        Packet::Udp => frames::ip(route, UDP, &frames::udp(route, from, to, &PAYLOAD)?),
        Packet::FirstFragment => {
            let piece = Piece { id: DATAGRAM, offset: 0, more: true };
            frames::fragment(route, UDP, piece, &frames::udp(route, from, to, &PAYLOAD)?)
        }
        Packet::LaterFragment => {
            frames::fragment(route, UDP, Piece { id: DATAGRAM, offset: SECOND_AT, more: false }, &PAYLOAD)
        }
    }
}
