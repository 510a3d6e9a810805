//! What is measured.

use std::net::IpAddr;

use anyhow::Context as _;
use aya::maps::Array;
use policy_agent::datapath::bpf::BpfDatapath;
use policy_common::maps::Rotation;
use policy_common::{Arrival, Direction, DropReason};
use sluice_tests::kernel::{Run, run_program};

use super::REPEAT;
use super::frames::{LOCAL_PORT, Packet, frame};
use super::setting::{self, Family, NETWORK_SIZE, Remotes};
use crate::median;

/// How many remotes take turns.
const ALL_SIZES: &[u32] = &[1, 1_000, 100_000];
/// 100,000 datagrams in fragments, each with its flow, would not fit into the flow table of one pod.
const FRAGMENT_SIZES: &[u32] = &[1, 1_000];
const FLOOD_SIZES: &[u32] = &[1_000, 100_000];
/// What is beside the remotes of a flood: ports below those of other flows.
const FLOOD_PORTS: u32 = 38_000;
const FLOOD_FIRST_PORT: u32 = 1024;
/// SYNs that come before the measurement: several times what the flow table holds.
const FLOOD: u32 = 1_500_000;
/// And before each round.
const FLOOD_AGAIN: u32 = 50_000;

/// One packet that every remote sends, or is sent, before the measurement.
type Step = (Direction, Packet);
const HANDSHAKE: &[Step] = &[
    (Direction::Ingress, Packet::TcpSyn),
    (Direction::Egress, Packet::TcpSynAck),
    (Direction::Ingress, Packet::TcpData),
    (Direction::Egress, Packet::TcpData),
];
const ANSWERED_DATAGRAM: &[Step] = &[(Direction::Ingress, Packet::Udp), (Direction::Egress, Packet::Udp)];
const FIRST_FRAGMENT: &[Step] = &[(Direction::Ingress, Packet::FirstFragment)];

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub name: &'static str,
    pub sizes: &'static [u32],
    pub family: Family,
    pub remotes: Remotes,
    pub direction: Direction,
    /// Directions that policy allows towards the remotes.
    pub allow: &'static [Direction],
    pub packet: Packet,
    pub before: &'static [Step],
    /// The flow table is full of the remotes' SYNs, each from another port.
    pub flooded: bool,
    /// The packets that are measured are of the flood themselves.
    pub of_flood: bool,
    /// Policy has just changed: the agent has not looked yet whether a connection lost its permission.
    pub watched: bool,
    pub passes: bool,
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
    /// How many of the packets got the verdict that the scenario is about.
    pub share: f64,
}

pub(crate) fn all() -> Vec<Scenario> {
    use Direction::{Egress, Ingress};
    let base = Scenario {
        name: "",
        sizes: ALL_SIZES,
        family: Family::V4,
        remotes: Remotes::Pods,
        direction: Ingress,
        allow: &[Ingress],
        packet: Packet::TcpData,
        before: &[],
        flooded: false,
        of_flood: false,
        watched: false,
        passes: true,
    };
    let v6 = Scenario { family: Family::V6, ..base.clone() };
    let reply = Scenario { direction: Egress, before: HANDSHAKE, ..base.clone() };
    let denied = Scenario { allow: &[], passes: false, ..base.clone() };
    let flooded = Scenario { flooded: true, sizes: FLOOD_SIZES, ..base.clone() };
    vec![
        Scenario { name: "allowed established, pods", ..base.clone() },
        Scenario { name: "allowed established, CIDRs", remotes: Remotes::Cidrs, ..base.clone() },
        Scenario {
            name: "the same, pods, just after a change",
            before: HANDSHAKE,
            watched: true,
            ..base.clone()
        },
        Scenario { name: "reply through conntrack", ..reply.clone() },
        Scenario { name: "new flow (SYN)", packet: Packet::TcpSyn, ..base.clone() },
        Scenario {
            name: "allowed UDP, both directions known",
            packet: Packet::Udp,
            before: ANSWERED_DATAGRAM,
            ..base.clone()
        },
        Scenario {
            name: "first fragment (UDP)",
            sizes: FRAGMENT_SIZES,
            packet: Packet::FirstFragment,
            ..base.clone()
        },
        Scenario {
            name: "later fragment (UDP)",
            sizes: FRAGMENT_SIZES,
            packet: Packet::LaterFragment,
            before: FIRST_FRAGMENT,
            ..base.clone()
        },
        Scenario { name: "denied (UDP)", packet: Packet::Udp, ..denied.clone() },
        Scenario { name: "denied (SYN)", packet: Packet::TcpSyn, ..denied.clone() },
        Scenario { name: "denied (no SYN)", ..denied },
        Scenario { name: "IPv6 allowed established, pods", ..v6.clone() },
        Scenario { name: "IPv6 allowed established, CIDRs", remotes: Remotes::Cidrs, ..v6.clone() },
        Scenario { name: "IPv6 reply through conntrack", family: Family::V6, ..reply.clone() },
        Scenario { name: "IPv6 denied (SYN)", packet: Packet::TcpSyn, allow: &[], passes: false, ..v6 },
        Scenario { name: "SYN flood, table full", packet: Packet::TcpSyn, of_flood: true, ..flooded.clone() },
        Scenario { name: "allowed established in a SYN flood", ..flooded },
        Scenario { name: "reply in a SYN flood", flooded: true, sizes: &[1_000], ..reply },
    ]
}

pub(crate) fn measure(
    datapath: &mut BpfDatapath,
    ifindex: u32,
    scenario: &Scenario,
    size: u32,
    rounds: u32,
) -> anyhow::Result<Row> {
    setting::fill(datapath, ifindex, scenario, size)?;
    let mut bench = Bench { datapath, ifindex, scenario, size };
    for step in scenario.before {
        bench.rotate(false)?;
        // The rotation is no permutation of a count that is no power of two: some more turns reach everyone.
        let run = bench.run(*step, size.saturating_mul(12).max(16))?;
        anyhow::ensure!(run.passed, "{}: {step:?} did not pass", scenario.name);
    }
    if scenario.flooded {
        bench.flood(FLOOD)?;
    }
    // Once through, so that tables and caches are as they are in use.
    let step = (scenario.direction, scenario.packet);
    bench.rotate(scenario.of_flood)?;
    bench.run(step, size.min(REPEAT))?;
    let (mut totals, mut no_ops, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    let (mut right, mut wrong) = (0, 0);
    for _ in 0..rounds {
        if scenario.flooded {
            bench.flood(FLOOD_AGAIN)?;
        }
        bench.rotate(scenario.of_flood)?;
        let no_op = bench.no_op(step)?.duration.as_nanos() as f64;
        let before = bench.dropped()?;
        let total = bench.run(step, REPEAT)?.duration.as_nanos() as f64;
        let dropped = bench.dropped()? - before;
        let passed = u64::from(REPEAT) - dropped;
        let (r, w) = if scenario.passes { (passed, dropped) } else { (dropped, passed) };
        right += r;
        wrong += w;
        totals.push(total);
        no_ops.push(no_op);
        differences.push(total - no_op);
    }
    let share = right as f64 / (right + wrong) as f64;
    anyhow::ensure!(share > 0.95, "{} ({size}): only {share:.3} got the right verdict", scenario.name);
    let (total_ns, no_op_ns) = (median(totals), median(no_ops));
    Ok(Row {
        scenario: scenario.name,
        remotes: size,
        total_ns,
        no_op_ns,
        over_no_op_ns: median(differences),
        ratio: total_ns / no_op_ns,
        share,
    })
}

struct Bench<'a> {
    datapath: &'a mut BpfDatapath,
    ifindex: u32,
    scenario: &'a Scenario,
    size: u32,
}

impl Bench<'_> {
    fn run(&mut self, step: Step, repeat: u32) -> anyhow::Result<Run> {
        let program = match step.0 {
            Direction::Egress => "rotate_from_pod",
            Direction::Ingress => "rotate_to_pod",
        };
        self.run_program(program, step, repeat)
    }

    fn no_op(&mut self, step: Step) -> anyhow::Result<Run> {
        self.run_program("rotate_no_op", step, REPEAT)
    }

    fn run_program(
        &mut self,
        program: &'static str,
        (direction, packet): Step,
        repeat: u32,
    ) -> anyhow::Result<Run> {
        let Scenario { family, remotes, .. } = *self.scenario;
        let frame = frame(direction, packet, family.pod(), remotes.first(family))?;
        let arrival = Arrival { ifindex: self.ifindex, direction, from_node: false };
        run_program(self.datapath, program, &arrival, &frame, repeat)
    }

    /// New connections of the same remotes, each from a port of its own.
    fn flood(&mut self, count: u32) -> anyhow::Result<()> {
        self.rotate(true)?;
        let run = self.run((Direction::Ingress, Packet::TcpSyn), count)?;
        anyhow::ensure!(run.passed, "{}: the flood did not pass", self.scenario.name);
        Ok(())
    }

    /// Which addresses take turns; and which ports, where they do.
    fn rotate(&mut self, ports: bool) -> anyhow::Result<()> {
        let Scenario { family, remotes, .. } = *self.scenario;
        let first = match remotes.first(family) {
            IpAddr::V4(first) => first.to_bits(),
            IpAddr::V6(first) => {
                let [.., a, b, c, d] = first.octets();
                u32::from_be_bytes([a, b, c, d])
            }
        };
        let step = match remotes {
            Remotes::Pods => 1,
            Remotes::Cidrs => NETWORK_SIZE,
        };
        let addresses = Rotation { first, step, count: self.size, zero: 0 };
        // The remote's port is the first of the two, in the upper half of the word.
        let first = FLOOD_FIRST_PORT << 16 | u32::from(LOCAL_PORT);
        let count = if ports { FLOOD_PORTS } else { 0 };
        let ports = Rotation { first, step: 1 << 16, count, zero: 0 };
        let map = self.datapath.ebpf().map_mut("ROTATION");
        let map = map.context("the object was built without the bench's programs")?;
        let mut map: Array<_, [u8; 16]> = Array::try_from(map)?;
        for (index, rotation) in [(0, addresses), (1, ports)] {
            map.set(index, bytemuck::cast::<Rotation, [u8; 16]>(rotation), 0)?;
        }
        Ok(())
    }

    /// Packets dropped so far in the direction that is measured.
    fn dropped(&self) -> anyhow::Result<u64> {
        let totals = self.datapath.totals()?;
        let direction = self.scenario.direction;
        Ok(DropReason::ALL.into_iter().map(|reason| totals.dropped(reason, direction).packets).sum())
    }
}
