//! Nodes and pods out of network namespaces, and probes between them.
//!
//! A [`World`] is a small cluster on one machine: each node is a network namespace, each pod a namespace of its own whose
//! `eth0` is a veth to its node. Between them is one of the networks that flannel and Calico give their users
//! ([`Network`]). Nothing is faked between two pods: packets take the way that they take on a node of that network.
//!
//! Everything needs root. Nothing is skipped where it is missing: building a world fails and says why.

mod agent;
mod conn;
mod explain;
mod ip;
mod leftovers;
mod manifests;
mod matrix;
mod netns;
mod network;
mod patience;
mod probe;
mod process;
mod server;
mod spec;
mod sys;
mod world;

pub use agent::{Agent, AgentOptions};
pub use conn::{TcpConn, UdpConn};
pub use explain::{Explanation, Flow, Side, explain, explain_batch};
pub use manifests::Manifests;
pub use matrix::{Probe, Protocol, many_at_once, probe_all};
pub use netns::Netns;
pub use network::Network;
pub use patience::patience;
pub use probe::{
    ALLOW_TIMEOUT, CommandProbe, DENY_TIMEOUT, Outcome, http_get, ping, ping_command, ping_from,
    sctp_connect, sctp_connect_from, sctp_supported, tcp_connect, tcp_connect_from, udp_exchange,
    udp_exchange_from,
};
pub use process::Process;
pub use server::Server;
pub use spec::{ContainerPort, NodeSpec, PodSpec, WorldBuilder};
pub use sys::{catch_interrupts, interrupted};
pub use world::{Node, Outside, Pod, World};
