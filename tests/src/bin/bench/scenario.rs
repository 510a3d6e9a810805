//! What is measured.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use aya::maps::Array;
use etherparse::PacketBuilder;
use policy_agent::datapath::bpf::BpfDatapath;
use policy_common::maps::Rotation;
use policy_common::{Arrival, Direction};
use sluice_tests::kernel::run_program;

use super::setting::{self, NETWORK_SIZE, NETWORKS, PEERS, POD, Remotes};
use super::{REPEAT, ROUNDS};

pub(crate) const SIZES: [u32; 3] = [1, 1_000, 100_000];

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub name: &'static str,
    pub size: u32,
    pub remotes: Remotes,
    pub direction: Direction,
    /// Directions that policy allows towards the remotes.
    pub allow: &'static [Direction],
    pub packet: Packet,
    /// Each flow is opened before it is measured.
    pub opened: bool,
    pub passes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    TcpData,
    TcpSyn,
    Udp,
}

#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Row {
    pub scenario: &'static str,
    pub remotes: u32,
    /// Medians, nanoseconds per packet.
    pub total_ns: f64,
    pub no_op_ns: f64,
    pub over_no_op_ns: f64,
    pub ratio: f64,
}

pub(crate) fn all(size: u32) -> Vec<Scenario> {
    let base = Scenario {
        name: "",
        size,
        remotes: Remotes::Pods,
        direction: Direction::Ingress,
        allow: &[Direction::Ingress],
        packet: Packet::TcpData,
        opened: false,
        passes: true,
    };
    let from_pod = Direction::Egress;
    vec![
        Scenario { name: "allowed established, pods", ..base.clone() },
        Scenario { name: "allowed established, CIDRs", remotes: Remotes::Cidrs, ..base.clone() },
        Scenario { name: "reply through conntrack", direction: from_pod, opened: true, ..base.clone() },
        Scenario { name: "new flow (SYN)", packet: Packet::TcpSyn, ..base.clone() },
        Scenario { name: "denied (UDP)", packet: Packet::Udp, allow: &[], passes: false, ..base.clone() },
        Scenario { name: "denied (SYN)", packet: Packet::TcpSyn, allow: &[], passes: false, ..base.clone() },
        Scenario { name: "denied (no SYN)", allow: &[], passes: false, ..base },
    ]
}

pub(crate) fn measure(datapath: &mut BpfDatapath, ifindex: u32, scenario: &Scenario) -> anyhow::Result<Row> {
    setting::fill(datapath, ifindex, scenario.remotes, scenario.size, scenario.allow)?;
    rotate_over(datapath, scenario)?;
    let arrival = Arrival { ifindex, direction: scenario.direction, from_node: false };
    let frame = frame(scenario.direction, scenario.packet)?;
    let program = match scenario.direction {
        Direction::Egress => "rotate_from_pod",
        Direction::Ingress => "rotate_to_pod",
    };
    if scenario.opened {
        open_flows(datapath, ifindex, scenario)?;
    }
    // Once through, so that tables and caches are as they are in use.
    let warm = run_program(datapath, program, &arrival, &frame, scenario.size.min(REPEAT))?;
    anyhow::ensure!(warm.passed == scenario.passes, "{}: the packet got the wrong verdict", scenario.name);
    let (mut totals, mut no_ops, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let nanos = |run: sluice_tests::kernel::Run| run.duration.as_nanos() as f64;
        let no_op = nanos(run_program(datapath, "rotate_no_op", &arrival, &frame, REPEAT)?);
        let total = nanos(run_program(datapath, program, &arrival, &frame, REPEAT)?);
        totals.push(total);
        no_ops.push(no_op);
        differences.push(total - no_op);
    }
    let (total_ns, no_op_ns) = (median(totals), median(no_ops));
    Ok(Row {
        scenario: scenario.name,
        remotes: scenario.size,
        total_ns,
        no_op_ns,
        over_no_op_ns: median(differences),
        ratio: total_ns / no_op_ns,
    })
}

/// The remotes open a connection each, so that the pod's answers have entries to be found by.
fn open_flows(datapath: &mut BpfDatapath, ifindex: u32, scenario: &Scenario) -> anyhow::Result<()> {
    let arrival = Arrival { ifindex, direction: scenario.direction.opposite(), from_node: false };
    let frame = frame(arrival.direction, Packet::TcpSyn)?;
    let program = match arrival.direction {
        Direction::Egress => "rotate_from_pod",
        Direction::Ingress => "rotate_to_pod",
    };
    // The rotation is no permutation of a count that is no power of two: some more turns reach everyone.
    let opened = run_program(datapath, program, &arrival, &frame, scenario.size.saturating_mul(12).max(16))?;
    anyhow::ensure!(opened.passed, "{}: the flows could not be opened", scenario.name);
    Ok(())
}

fn rotate_over(datapath: &mut BpfDatapath, scenario: &Scenario) -> anyhow::Result<()> {
    let (first, step) = match scenario.remotes {
        Remotes::Pods => (PEERS.to_bits(), 1),
        Remotes::Cidrs => (NETWORKS.to_bits() + 1, NETWORK_SIZE),
    };
    let rotation = Rotation { first, step, count: scenario.size, zero: 0 };
    let map =
        datapath.ebpf().map_mut("ROTATION").context("the object was built without the bench's programs")?;
    let mut map: Array<_, [u8; 16]> = Array::try_from(map)?;
    Ok(map.set(0, bytemuck::cast::<Rotation, [u8; 16]>(rotation), 0)?)
}

/// The remote address is the program's to fill in.
fn frame(direction: Direction, packet: Packet) -> anyhow::Result<Vec<u8>> {
    let remote = Ipv4Addr::UNSPECIFIED;
    let (src, dst) = match direction {
        Direction::Egress => (POD, remote),
        Direction::Ingress => (remote, POD),
    };
    let (src_port, dst_port) = match direction {
        Direction::Egress => (80, 40_000),
        Direction::Ingress => (40_000, 80),
    };
    let ip =
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(src.octets(), dst.octets(), 64);
    let mut bytes = Vec::new();
    match packet {
        Packet::TcpData => ip.tcp(src_port, dst_port, 1, 64_240).ack(1).write(&mut bytes, &[0; 64])?,
        Packet::TcpSyn => ip.tcp(src_port, dst_port, 1, 64_240).syn().write(&mut bytes, &[])?,
        Packet::Udp => ip.udp(src_port, dst_port).write(&mut bytes, &[0; 64])?,
    }
    Ok(bytes)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
