use netlink_packet_netfilter::conntrack::{Protocol, TCPFlags};
use rtnetlink::packet_core::{
    NLA_F_NESTED, NetlinkDeserializable as _, NetlinkHeader, NetlinkSerializable as _,
};

use super::*;

/// Attributes that the kernel gives and the library has no constructor for.
fn flags(flags: u8) -> TCPFlags {
    TCPFlags::parse(&[flags, 0]).unwrap()
}

fn tuple(protocol: u8, source: &str, destination: &str, rest: Vec<ProtoTuple>) -> Vec<Tuple> {
    let mut proto = vec![ProtoTuple::Protocol(Protocol::from(protocol))];
    proto.extend(rest);
    vec![
        Tuple::Ip(vec![
            IPTuple::SourceAddress(source.parse().unwrap()),
            IPTuple::DestinationAddress(destination.parse().unwrap()),
        ]),
        Tuple::Proto(proto),
    ]
}

fn ports(source: u16, destination: u16) -> Vec<ProtoTuple> {
    vec![ProtoTuple::SourcePort(source), ProtoTuple::DestinationPort(destination)]
}

fn tuples(protocol: u8) -> Vec<ConntrackAttribute> {
    vec![
        ConntrackAttribute::CtaTupleOrig(tuple(protocol, "10.0.0.1", "10.96.0.1", ports(4000, 80))),
        ConntrackAttribute::CtaTupleReply(tuple(protocol, "10.0.0.2", "10.0.0.1", ports(8080, 4000))),
    ]
}

fn tcp(state: u8, original: u8, reply: u8) -> Vec<ConntrackAttribute> {
    let mut attributes = tuples(6);
    attributes.push(ConntrackAttribute::CtaStatus(Status::SeenReply | Status::Assured));
    attributes.push(ConntrackAttribute::CtaTimeout(431_999));
    attributes.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(vec![
        ProtoInfoTCP::State(state),
        ProtoInfoTCP::OriginalFlags(flags(original)),
        ProtoInfoTCP::ReplyFlags(flags(reply)),
    ])]));
    attributes
}

fn icmp(id: u16, (id_kind, type_kind): (u16, u16), kind: u8) -> Vec<ProtoTuple> {
    vec![
        ProtoTuple::Other(DefaultNla::new(id_kind, id.to_be_bytes().to_vec())),
        ProtoTuple::Other(DefaultNla::new(type_kind, vec![kind])),
    ]
}

/// Over the wire and back, so that what is tested is what the kernel sends.
fn read(attributes: Vec<ConntrackAttribute>) -> Result<Option<Entry>, String> {
    let bytes = payload(attributes);
    let inner = parse(&bytes).map_err(|error| error.to_string())?.inner;
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = inner else {
        panic!("not an entry");
    };
    read_entry(&attributes)
}

fn payload(attributes: Vec<ConntrackAttribute>) -> Vec<u8> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    let message = NetfilterMessage::new(header, ConntrackMessage::New(attributes));
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn parse(payload: &[u8]) -> Result<NetfilterMessage, rtnetlink::packet_core::DecodeError> {
    let mut header = NetlinkHeader::default();
    // Subsystem 1 (ctnetlink), message 0 (an entry).
    header.message_type = 0x100;
    NetfilterMessage::deserialize(&header, payload)
}

#[test]
fn a_tcp_connection_is_read() {
    let entry = read(tcp(3, 3, 3)).unwrap().unwrap();
    let expected = Entry {
        protocol: 6,
        original: Ends {
            source: [10, 0, 0, 1].into(),
            source_port: 4000,
            destination: [10, 96, 0, 1].into(),
            destination_port: 80,
        },
        reply: Ends {
            source: [10, 0, 0, 2].into(),
            source_port: 8080,
            destination: [10, 0, 0, 1].into(),
            destination_port: 4000,
        },
        phase: Phase::Established,
        remaining: Some(Duration::from_secs(431_999)),
        midway: false,
    };
    assert_eq!(entry, expected);
}

#[test]
fn tcp_states_are_phases() {
    for (state, phase) in [
        (1, Phase::Opening),
        (2, Phase::Opening),
        (3, Phase::Established),
        (4, Phase::Closing),
        (7, Phase::Closing),
        (8, Phase::Closing),
        (9, Phase::Opening),
    ] {
        assert_eq!(read(tcp(state, 0, 0)).unwrap().unwrap().phase, phase, "{state}");
    }
}

#[test]
fn a_connection_met_midway_is_liberal_at_both_ends() {
    for (original, reply, midway) in [(0x0a, 0x0a, true), (0x0a, 0x02, false), (0x02, 0x0a, false)] {
        assert_eq!(read(tcp(3, original, reply)).unwrap().unwrap().midway, midway);
    }
}

#[test]
fn without_a_state_the_answer_counts() {
    for protocol in [6, 17, 132] {
        let mut attributes = tuples(protocol);
        assert_eq!(read(attributes.clone()).unwrap().unwrap().phase, Phase::Opening);
        attributes.push(ConntrackAttribute::CtaStatus(Status::SeenReply));
        let entry = read(attributes).unwrap().unwrap();
        assert_eq!((entry.phase, entry.protocol, entry.remaining), (Phase::Established, protocol, None));
    }
}

#[test]
fn sctp_states_are_phases() {
    for (state, phase) in [
        (2, Phase::Opening),
        (3, Phase::Opening),
        (4, Phase::Established),
        (5, Phase::Closing),
        (7, Phase::Closing),
    ] {
        let mut attributes = tuples(132);
        let nested = vec![5, 0, SCTP_STATE.to_ne_bytes()[0], SCTP_STATE.to_ne_bytes()[1], state, 0, 0, 0];
        attributes.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::Other(DefaultNla::new(
            PROTOINFO_SCTP | NLA_F_NESTED,
            nested,
        ))]));
        assert_eq!(read(attributes).unwrap().unwrap().phase, phase, "{state}");
    }
}

#[test]
fn an_echo_has_its_identifier_for_a_port() {
    let attributes = vec![
        ConntrackAttribute::CtaTupleOrig(tuple(58, "fd00::1", "fd00::2", icmp(77, (7, 8), 128))),
        ConntrackAttribute::CtaTupleReply(tuple(58, "fd00::2", "fd00::1", icmp(78, (7, 8), 129))),
    ];
    let entry = read(attributes).unwrap().unwrap();
    assert_eq!((entry.original.source_port, entry.original.destination_port), (77, 0));
    assert_eq!((entry.reply.source_port, entry.reply.destination_port), (78, 0));
    let attributes = vec![
        ConntrackAttribute::CtaTupleOrig(tuple(1, "10.0.0.1", "10.0.0.2", icmp(9, (4, 5), 8))),
        ConntrackAttribute::CtaTupleReply(tuple(1, "10.0.0.2", "10.0.0.1", icmp(9, (4, 5), 0))),
    ];
    assert_eq!(read(attributes).unwrap().unwrap().original.source_port, 9);
}

#[test]
fn what_the_engine_has_no_flows_for_is_passed_over() {
    assert_eq!(read(tuples(47)), Ok(None));
    let attributes = vec![
        ConntrackAttribute::CtaTupleOrig(tuple(58, "fd00::1", "fd00::2", icmp(0, (7, 8), 135))),
        ConntrackAttribute::CtaTupleReply(tuple(58, "fd00::2", "fd00::1", icmp(0, (7, 8), 136))),
    ];
    assert_eq!(read(attributes), Ok(None));
}

#[test]
fn what_is_incomplete_is_an_error() {
    assert!(read(Vec::new()).is_err());
    assert!(read(tuples(6).drain(..1).collect()).is_err());
    let mut attributes = tuples(6);
    attributes[1] = ConntrackAttribute::CtaTupleReply(tuple(6, "10.0.0.2", "10.0.0.1", Vec::new()));
    assert!(read(attributes).is_err());
}

#[test]
fn damaged_messages_are_errors_and_no_panics() {
    let whole = payload(tcp(3, 3, 3));
    for length in 0..whole.len() {
        read_damaged(&whole[..length]);
    }
    for at in 0..whole.len() {
        for value in [0, 1, 3, 4, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            read_damaged(&bytes);
        }
    }
}

fn read_damaged(bytes: &[u8]) {
    if let Ok(message) = parse(bytes)
        && let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner
    {
        // Whether it still makes sense depends on the damage: it must return.
        let _ = read_entry(&attributes);
    }
}
