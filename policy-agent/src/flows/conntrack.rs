//! The node's connection tracking, entry by entry, by ctnetlink.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use policy_common::parse::protocol;
use rtnetlink::packet_core::{DefaultNla, NLA_TYPE_MASK, Nla as _, NlasIterator};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::Phase;
use super::dump::{Unread, dump};

/// `IP_CT_TCP_FLAG_BE_LIBERAL` of `linux/netfilter/nf_conntrack_tcp.h`: set at both ends where the handshake wasn't seen.
const BE_LIBERAL: u8 = 0x08;
/// `CTA_PROTOINFO_SCTP` and its `CTA_PROTOINFO_SCTP_STATE`, of `linux/netfilter/nfnetlink_conntrack.h`.
const PROTOINFO_SCTP: u16 = 3;
const SCTP_STATE: u16 = 1;
/// `CTA_PROTO_ICMP_ID` and `CTA_PROTO_ICMP_TYPE`, then those of ICMPv6.
const ICMP_ID: [u16; 2] = [4, 7];
const ICMP_TYPE: [u16; 2] = [5, 8];

/// A connection as netfilter sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) protocol: u8,
    /// What the opener sent, before any translation.
    pub(super) original: Ends,
    /// What an answer looks like before its translation is undone: its source is who really answers.
    pub(super) reply: Ends,
    pub(super) phase: Phase,
    pub(super) remaining: Option<Duration>,
    /// The handshake wasn't seen: `original` may be the answering side.
    pub(super) midway: bool,
}

/// Source and destination. Of an ICMP query the source's port is the identifier, the destination's 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) source: IpAddr,
    pub(super) source_port: u16,
    pub(super) destination: IpAddr,
    pub(super) destination_port: u16,
}

/// Calls `each` with all entries of both families that the engine can have flows for, as the calling thread's namespace has
/// them.
pub(super) fn entries(mut each: impl FnMut(Entry)) -> io::Result<Unread> {
    // Without a family, all families come.
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let request = NetfilterMessage::new(header, ConntrackMessage::Get(Vec::new()));
    dump(NETLINK_NETFILTER, request, |message| {
        if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner {
            read_entry(&attributes)?.into_iter().for_each(&mut each);
        }
        Ok(())
    })
}

/// Reads one entry: `None` where it is of no interest, an error where something is missing.
fn read_entry(attributes: &[ConntrackAttribute]) -> Result<Option<Entry>, String> {
    let (mut original, mut reply) = (None, None);
    let mut proto_info: &[ProtoInfo] = &[];
    let mut status = Status::empty();
    let mut remaining = None;
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = Some(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = Some(parts),
            ConntrackAttribute::CtaProtoInfo(info) => proto_info = info,
            ConntrackAttribute::CtaStatus(value) => status = *value,
            ConntrackAttribute::CtaTimeout(seconds) => {
                remaining = Some(Duration::from_secs((*seconds).into()))
            }
            _ => {}
        }
    }
    let original = original.ok_or("an entry has no original tuple")?;
    let reply = reply.ok_or("an entry has no reply tuple")?;
    let protocol = protocol_of(original).ok_or("an entry has no protocol")?;
    let icmp = matches!(protocol, protocol::ICMP | protocol::ICMPV6);
    if !icmp && !matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        return Ok(None);
    }
    // Other ICMP than queries has no flow of its own.
    if icmp && !icmp_type(original).is_some_and(|kind| is_query(protocol, kind)) {
        return Ok(None);
    }
    let tcp =
        proto_info.iter().find_map(|info| if let ProtoInfo::TCP(parts) = info { Some(parts) } else { None });
    let phase = match protocol {
        protocol::TCP => tcp.and_then(|parts| tcp_phase(parts)),
        protocol::SCTP => sctp_phase(proto_info),
        _ => None,
    };
    // Protocols without states; and offloaded connections, whose state netfilter doesn't tell.
    let by_status = if status.contains(Status::SeenReply) { Phase::Established } else { Phase::Opening };
    Ok(Some(Entry {
        protocol,
        original: ends(original, icmp).ok_or("an entry's original tuple is incomplete")?,
        reply: ends(reply, icmp).ok_or("an entry's reply tuple is incomplete")?,
        phase: phase.unwrap_or(by_status),
        remaining,
        midway: tcp.is_some_and(|parts| met_midway(parts)),
    }))
}

fn parts(tuple: &[Tuple]) -> impl Iterator<Item = &ProtoTuple> {
    tuple.iter().filter_map(|part| if let Tuple::Proto(parts) = part { Some(parts) } else { None }).flatten()
}

fn protocol_of(tuple: &[Tuple]) -> Option<u8> {
    parts(tuple)
        .find_map(|part| if let ProtoTuple::Protocol(number) = part { Some((*number).into()) } else { None })
}

/// The value of the first part of one of these kinds, all its bytes.
fn other<const N: usize>(tuple: &[Tuple], kinds: [u16; 2]) -> Option<[u8; N]> {
    parts(tuple).find_map(|part| match part {
        ProtoTuple::Other(attribute) if kinds.contains(&attribute.kind()) => value(attribute).try_into().ok(),
        _ => None,
    })
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

fn icmp_type(tuple: &[Tuple]) -> Option<u8> {
    other(tuple, ICMP_TYPE).map(|[kind]| kind)
}

/// As the engine's: echo, timestamp and address mask requests.
const fn is_query(protocol: u8, kind: u8) -> bool {
    if protocol == protocol::ICMP { matches!(kind, 8 | 13 | 17) } else { kind == 128 }
}

fn ends(tuple: &[Tuple], icmp: bool) -> Option<Ends> {
    let (mut source, mut destination) = (None, None);
    for part in tuple {
        let Tuple::Ip(parts) = part else { continue };
        for part in parts {
            match part {
                IPTuple::SourceAddress(address) => source = Some(*address),
                IPTuple::DestinationAddress(address) => destination = Some(*address),
                _ => {}
            }
        }
    }
    let (mut source_port, mut destination_port) = (None, None);
    if icmp {
        source_port = other(tuple, ICMP_ID).map(u16::from_be_bytes);
        destination_port = Some(0);
    }
    for part in parts(tuple) {
        match part {
            ProtoTuple::SourcePort(port) => source_port = Some(*port),
            ProtoTuple::DestinationPort(port) => destination_port = Some(*port),
            _ => {}
        }
    }
    Some(Ends {
        source: source?,
        source_port: source_port?,
        destination: destination?,
        destination_port: destination_port?,
    })
}

/// `enum tcp_conntrack` of `linux/netfilter/nf_conntrack_tcp.h`.
fn tcp_phase(parts: &[ProtoInfoTCP]) -> Option<Phase> {
    let state = parts
        .iter()
        .find_map(|part| if let ProtoInfoTCP::State(state) = part { Some(*state) } else { None })?;
    Some(match state {
        // NONE, SYN_SENT, SYN_RECV, SYN_SENT2
        0..=2 | 9 => Phase::Opening,
        3 => Phase::Established,
        // FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE
        _ => Phase::Closing,
    })
}

fn met_midway(parts: &[ProtoInfoTCP]) -> bool {
    let liberal = |wanted: fn(&ProtoInfoTCP) -> Option<u8>| {
        parts.iter().find_map(wanted).is_some_and(|flags| flags & BE_LIBERAL != 0)
    };
    liberal(|part| if let ProtoInfoTCP::OriginalFlags(flags) = part { Some(flags.flags) } else { None })
        && liberal(|part| if let ProtoInfoTCP::ReplyFlags(flags) = part { Some(flags.flags) } else { None })
}

/// `enum sctp_conntrack` of `linux/netfilter/nf_conntrack_sctp.h`.
fn sctp_phase(info: &[ProtoInfo]) -> Option<Phase> {
    let nested = info.iter().find_map(|info| match info {
        ProtoInfo::Other(attribute) if attribute.kind() & NLA_TYPE_MASK == PROTOINFO_SCTP => {
            Some(value(attribute))
        }
        _ => None,
    })?;
    let state = NlasIterator::new(&nested)
        .map_while(Result::ok)
        .find_map(|part| if part.kind() == SCTP_STATE { part.value().first().copied() } else { None })?;
    Some(match state {
        // NONE, COOKIE_WAIT, COOKIE_ECHOED; HEARTBEAT_SENT: another path of an association
        0 | 2 | 3 | 8 => Phase::Opening,
        4 => Phase::Established,
        // CLOSED, SHUTDOWN_SENT, SHUTDOWN_RECD, SHUTDOWN_ACK_SENT
        _ => Phase::Closing,
    })
}

#[cfg(test)]
mod tests;
