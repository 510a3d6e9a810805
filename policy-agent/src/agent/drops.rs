//! Dropped packets in words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy_common::maps::{Addr6, Event};
use policy_common::parse::protocol;
use policy_common::{Direction, DropReason};

use crate::model::ObjectName;

pub(super) type Drops = crate::datapath::bpf::EventStream;

pub(super) fn describe(event: &Event, interfaces: &BTreeMap<u32, (ObjectName, String)>) -> String {
    let reason = DropReason::from_number(event.reason).map_or("unknown", DropReason::name);
    let direction =
        if event.direction == Direction::Ingress as u8 { Direction::Ingress } else { Direction::Egress };
    let pod = match interfaces.get(&event.ifindex) {
        Some((pod, interface)) => format!("{pod} ({interface})"),
        None => format!("interface {}", event.ifindex),
    };
    let protocol = match protocol_name(event.protocol) {
        Some(name) => name.to_owned(),
        None => format!("protocol {}", event.protocol),
    };
    let end = |address: Addr6, port: u16| match event.family {
        4 => format!("{}:{port}", IpAddr::from(address.v4())),
        6 => format!("[{}]:{port}", IpAddr::from(address.addr)),
        _ => "?".to_owned(),
    };
    format!(
        "dropped {} of {pod}: {} -> {} {protocol}, {} bytes: {reason}",
        direction.name(),
        end(event.src, event.src_port),
        end(event.dst, event.dst_port),
        event.length
    )
}

/// What users call a protocol that policies or flows tell apart.
pub(super) const fn protocol_name(number: u8) -> Option<&'static str> {
    match number {
        protocol::TCP => Some("TCP"),
        protocol::UDP => Some("UDP"),
        protocol::SCTP => Some("SCTP"),
        protocol::ICMP | protocol::ICMPV6 => Some("ICMP"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_pod_ends_and_reason() {
        let event = Event {
            src: Addr6::from_words(&[u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0]),
            dst: Addr6::from_words(&[u32::from_ne_bytes([10, 0, 0, 2]), 0, 0, 0]),
            ifindex: 7,
            length: 74,
            src_port: 40_000,
            dst_port: 80,
            family: 4,
            protocol: 6,
            reason: DropReason::Policy as u8,
            direction: Direction::Ingress as u8,
        };
        let interfaces = BTreeMap::from([(7, (ObjectName::new("dev", "web"), "veth1".to_owned()))]);
        assert_eq!(
            describe(&event, &interfaces),
            "dropped ingress of dev/web (veth1): 10.0.0.1:40000 -> 10.0.0.2:80 TCP, 74 bytes: policy"
        );
    }
}
