//! The flow table in words.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use policy_common::flows::{FlowEntry, FlowState, Opener, Tracked};
use policy_common::parse::protocol;

use super::drops::protocol_name;
use super::status::FlowStatus;
use crate::model::ObjectName;

/// Entries of the flow table as `policy-agent flows` shows them, in order.
pub(super) fn flows_in_words(
    flows: &[FlowEntry],
    now: u32,
    interfaces: &BTreeMap<u32, (ObjectName, String)>,
) -> Vec<FlowStatus> {
    let mut all: Vec<FlowStatus> = flows.iter().map(|flow| in_words(flow, now, interfaces)).collect();
    all.sort_unstable();
    all
}

fn in_words(flow: &FlowEntry, now: u32, interfaces: &BTreeMap<u32, (ObjectName, String)>) -> FlowStatus {
    let key = &flow.key;
    let pod = match interfaces.get(&key.ifindex) {
        Some((pod, _)) => pod.to_string(),
        None => format!("interface {}", key.ifindex),
    };
    let fragments = key.tracked != Tracked::Flow as u8;
    let protocol = match protocol_name(key.protocol) {
        _ if fragments => "fragments".to_owned(),
        Some(name) => name.to_owned(),
        None => key.protocol.to_string(),
    };
    let opener = match flow.opener {
        Opener::Nobody => "",
        Opener::Pod => "pod",
        Opener::Peer => "peer",
        Opener::Node => "node",
    };
    let state = match flow.state {
        FlowState::Free => "free",
        FlowState::Opening => "opening",
        FlowState::Answered => "answered",
        FlowState::Established => "established",
        FlowState::Closing => "closing",
        FlowState::Closed => "closed",
    };
    let with_port = matches!(key.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) && !fragments;
    let remote = key.remote_address();
    FlowStatus {
        pod,
        protocol,
        local_port: key.local_port,
        remote: if with_port {
            SocketAddr::new(remote, key.remote_port).to_string()
        } else {
            remote.to_string()
        },
        opener: opener.to_owned(),
        state: state.to_owned(),
        seen_seconds: now.saturating_sub(flow.seen),
        left_seconds: flow.until.saturating_sub(now),
    }
}
