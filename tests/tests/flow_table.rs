//! The flow table in the kernel under floods: who loses an entry, and who doesn't. The rules themselves are tested in
//! `policy-common`; here they are the loaded program's.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail as the test does: by panicking")]

use std::collections::BTreeMap;

use etherparse::PacketBuilder;
use policy_agent::compile::{Scope, compile};
use policy_agent::datapath::bpf::{AttachMode, BpfDatapath};
use policy_agent::datapath::enforce;
use policy_agent::plan::{Capacity, Planner};
use policy_common::flows::{FlowState, WAYS};
use policy_common::{Arrival, Direction};
use sluice_tests::cluster::{place, read_manifests};
use sluice_tests::kernel::{Bpffs, run};

/// Both pods may be called on port 80 and call everybody: their answers, and those to them, need the table.
const WORLD: &str = "
kind: Pod
apiVersion: v1
metadata: {namespace: x, name: loud}
spec: {nodeName: n, containers: []}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
---
kind: Pod
apiVersion: v1
metadata: {namespace: x, name: quiet}
spec: {nodeName: n, containers: []}
status: {phase: Running, podIPs: [{ip: 10.0.0.2}]}
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {namespace: x, name: web}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 80}]}]
  egress: [{ports: [{port: 443}, {port: 53, protocol: UDP}]}]
";

const LOUD: [u8; 4] = [10, 0, 0, 1];
const QUIET: [u8; 4] = [10, 0, 0, 2];
/// 64 sets of 8.
const SETS: u32 = 64;
const ENTRIES: usize = SETS as usize * WAYS;
/// Connections that the quiet pod has: few for the table, so that each set has room for them.
const KEPT: u16 = 24;
const FLOOD: u32 = 20_000;

const SYN: u8 = 2;
const ACK: u8 = 16;
const SYN_ACK: u8 = SYN | ACK;

struct Table<'a> {
    kernel: &'a mut BpfDatapath,
    loud: u32,
    quiet: u32,
}

fn tcp(src: [u8; 4], dst: [u8; 4], from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    link.ipv4(src, dst, 64).tcp(from, to, 1, 1000).write(&mut frame, &[]).unwrap();
    frame[47] = flags;
    frame
}

fn udp(src: [u8; 4], dst: [u8; 4], from: u16, to: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    link.ipv4(src, dst, 64).udp(from, to).write(&mut frame, &[0; 8]).unwrap();
    frame
}

impl Table<'_> {
    fn passes(&mut self, ifindex: u32, direction: Direction, frame: &[u8]) -> bool {
        run(self.kernel, &Arrival { ifindex, direction, from_node: false }, frame, 1).unwrap().passed
    }

    /// The quiet pod's connections from these ports, with a handshake and an answer.
    fn open(&mut self, ports: impl Iterator<Item = u16>) {
        let (quiet, peer) = (self.quiet, [192, 0, 2, 9]);
        for port in ports {
            assert!(self.passes(quiet, Direction::Egress, &tcp(QUIET, peer, port, 443, SYN)));
            assert!(self.passes(quiet, Direction::Ingress, &tcp(peer, QUIET, 443, port, SYN_ACK)));
            assert!(self.passes(quiet, Direction::Ingress, &tcp(peer, QUIET, 443, port, ACK)));
        }
    }

    /// How many of them still get answers.
    fn alive(&mut self, ports: impl Iterator<Item = u16>) -> usize {
        let quiet = self.quiet;
        ports
            .filter(|port| {
                self.passes(quiet, Direction::Ingress, &tcp([192, 0, 2, 9], QUIET, 443, *port, ACK))
            })
            .count()
    }

    fn entries(&mut self) -> usize {
        self.kernel.flows().unwrap().0.len()
    }
}

fn with_table(name: &str, test: impl FnOnce(&mut Table<'_>) + Send) {
    let cluster = read_manifests(WORLD).unwrap();
    let compiled = compile(&cluster, &Scope::Cluster);
    sluice_tests::namespace::with_interfaces(2, |interfaces| {
        let pins = Bpffs::new(name);
        let capacity = Capacity { flow_sets: SETS, ..Capacity::default() };
        let mut kernel = BpfDatapath::load(pins.path(), &capacity, AttachMode::Auto)?;
        let locals = place(&cluster, &mut BTreeMap::new(), interfaces);
        enforce(&mut Planner::new(capacity), &mut kernel, &compiled, &locals)?;
        test(&mut Table { kernel: &mut kernel, loud: interfaces[0], quiet: interfaces[1] });
        Ok(())
    })
    .unwrap();
}

/// The number as an address outside and a port.
fn stranger(number: u32) -> ([u8; 4], u16) {
    let [_, b, c, d] = number.to_be_bytes();
    ([198, 18 + (b & 1), c, d], 1024 + u16::try_from(number % 60_000).unwrap())
}

#[test]
fn a_pod_that_floods_takes_nothing_from_another() {
    with_table("share", |table| {
        let ports = || 2000..2000 + KEPT;
        table.open(ports());
        let loud = table.loud;
        for number in 0..FLOOD {
            let (to, from) = stranger(number);
            // SYNs, and datagrams that are answered: entries that look as good as anybody's.
            assert!(table.passes(loud, Direction::Egress, &tcp(LOUD, to, from, 443, SYN)));
            assert!(table.passes(loud, Direction::Egress, &udp(LOUD, to, from, 53)));
            assert!(table.passes(loud, Direction::Ingress, &udp(to, LOUD, 53, from)));
        }
        assert!(table.entries() > ENTRIES * 9 / 10, "the table is full: {} entries", table.entries());
        assert_eq!(table.alive(ports()), usize::from(KEPT));
        // And a new connection, while the flood goes on between each of its packets.
        let quiet = table.quiet;
        for port in 3000..3000 + KEPT {
            assert!(table.passes(quiet, Direction::Egress, &tcp(QUIET, [192, 0, 2, 9], port, 443, SYN)));
            for number in 0..100 {
                let (to, from) = stranger(FLOOD + u32::from(port) * 100 + number);
                assert!(table.passes(loud, Direction::Egress, &tcp(LOUD, to, from, 443, SYN)));
            }
            assert!(table.passes(quiet, Direction::Ingress, &tcp([192, 0, 2, 9], QUIET, 443, port, SYN_ACK)));
        }
    });
}

#[test]
fn a_flood_of_syns_to_a_server_leaves_its_established_connections_alone() {
    with_table("synflood", |table| {
        let ports = || 2000..2000 + KEPT;
        table.open(ports());
        let quiet = table.quiet;
        for number in 0..FLOOD {
            let (from, port) = stranger(number);
            assert!(table.passes(quiet, Direction::Ingress, &tcp(from, QUIET, port, 80, SYN)));
            // The server answers: the source is forged, so nothing comes of it.
            assert!(table.passes(quiet, Direction::Egress, &tcp(QUIET, from, 80, port, SYN_ACK)));
        }
        assert!(table.entries() > ENTRIES * 9 / 10, "the table is full: {} entries", table.entries());
        assert_eq!(table.alive(ports()), usize::from(KEPT));
    });
}

#[test]
fn a_reset_and_an_end_of_the_pods_own_shorten_a_flow() {
    with_table("states", |table| {
        table.open(2000..2003);
        let (quiet, peer) = (table.quiet, [192, 0, 2, 9]);
        assert!(table.passes(quiet, Direction::Egress, &tcp(QUIET, peer, 2001, 443, 1 | ACK)));
        assert!(table.passes(quiet, Direction::Egress, &tcp(QUIET, peer, 2002, 443, 4)));
        // Of the other side they may be forged.
        table.open(2003..2005);
        assert!(table.passes(quiet, Direction::Ingress, &tcp(peer, QUIET, 443, 2003, 4)));
        assert!(table.passes(quiet, Direction::Ingress, &tcp(peer, QUIET, 443, 2004, 1 | ACK)));
        let (flows, now) = table.kernel.flows().unwrap();
        let mut left: Vec<(u16, FlowState, u32)> = flows
            .iter()
            .map(|flow| (flow.key.local_port, flow.state, (flow.until - now).div_ceil(10) * 10))
            .collect();
        left.sort_by_key(|(port, _, _)| *port);
        // In steps of ten seconds; nf_conntrack's defaults.
        assert_eq!(
            left,
            [
                (2000, FlowState::Established, 432_010),
                (2001, FlowState::Closing, 130),
                (2002, FlowState::Closed, 20),
                (2003, FlowState::Answered, 432_010),
                (2004, FlowState::Answered, 432_010),
            ]
        );
    });
}
