//! Packets that nobody sends by accident, on both programs in the kernel and on the engine on the host: the verdicts
//! are equal, and what cannot be parsed is dropped with its own reason. Then random bytes, by the ten thousand.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail as the test does: by panicking")]

use std::collections::BTreeMap;

use etherparse::{IpNumber, PacketBuilder};
use policy_agent::compile::{Scope, compile};
use policy_agent::datapath::bpf::{AttachMode, BpfDatapath};
use policy_agent::datapath::enforce;
use policy_agent::datapath::memory::Memory;
use policy_agent::plan::{Capacity, Planner};
use policy_common::parse::Scratch;
use policy_common::{Arrival, Direction, DropReason, PassReason, Slice, Verdict, decide};
use sluice_tests::cluster::{place, read_manifests};
use sluice_tests::kernel::{Bpffs, run};
use sluice_tests::random::Random;

const WORLD: &str = "
kind: Pod
apiVersion: v1
metadata: {namespace: x, name: pod}
spec: {nodeName: n, containers: []}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {namespace: x, name: web}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ipBlock: {cidr: 10.0.0.2/32}}, {ipBlock: {cidr: 'fd00::2/128'}}]
    ports: [{port: 80}, {port: 53, protocol: UDP}, {port: 9003, protocol: SCTP}]
  egress:
  - to: [{ipBlock: {cidr: 10.0.0.3/32}}, {ipBlock: {cidr: 'fd00::3/128'}}]
";

const POD4: [u8; 4] = [10, 0, 0, 1];
const PEER4: [u8; 4] = [10, 0, 0, 2];
const FREE4: [u8; 4] = [10, 0, 0, 3];

const fn v6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

fn link() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
}

fn tcp4(src: [u8; 4], dst: [u8; 4], port: u16, syn: bool) -> Vec<u8> {
    let tcp = link().ipv4(src, dst, 64).tcp(40_000, port, 1, 1000);
    let tcp = if syn { tcp.syn() } else { tcp.ack(1) };
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, &[]).unwrap();
    bytes
}

fn tcp6(src: [u8; 16], dst: [u8; 16], port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    link().ipv6(src, dst, 64).tcp(40_000, port, 1, 1000).syn().write(&mut bytes, &[]).unwrap();
    bytes
}

fn other4(src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    link().ipv4(src, dst, 64).write(&mut bytes, IpNumber(protocol), payload).unwrap();
    bytes
}

fn arp4(sender: [u8; 4]) -> Vec<u8> {
    let from = [2, 0, 0, 0, 0, 1];
    [&[0xff; 6][..], &from, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &from, &sender, &[0; 6], &PEER4].concat()
}

/// An IPv6 packet whose headers behind the first are given as bytes.
fn raw6(src: [u8; 16], dst: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    // The builder takes no extension header that it did not make itself.
    link().ipv6(src, dst, 255).write(&mut bytes, IpNumber::IPV6_NO_NEXT_HEADER, payload).unwrap();
    with(bytes, &[(6, next)])
}

/// Changes bytes of a frame, counted from the IP header.
fn with(mut frame: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for (at, value) in changes {
        frame[14 + at] = *value;
    }
    frame
}

/// IPv4 options: four bytes of them, and the ports further back.
fn options4(frame: &[u8]) -> Vec<u8> {
    let mut out = frame[..34].to_vec();
    out[14] = 0x46;
    let total = u16::from_be_bytes([frame[16], frame[17]]) + 4;
    out[16..18].copy_from_slice(&total.to_be_bytes());
    // Record route, as if its pointer were the allowed port.
    out.extend([7, 4, 0, 80]);
    out.extend(&frame[34..]);
    out
}

const TCP_SYN_80: [u8; 20] = [0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x10, 0, 0, 0, 0, 0];
const TCP_SYN_81: [u8; 20] = [0x9c, 0x40, 0, 81, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x10, 0, 0, 0, 0, 0];

fn behind(headers: &[&[u8]]) -> Vec<u8> {
    headers.concat()
}

fn vectors() -> Vec<(&'static str, Direction, Vec<u8>, Verdict)> {
    use Direction::{Egress, Ingress};
    let drop = Verdict::Drop;
    let allowed = Verdict::Pass(PassReason::Policy);
    let policy = drop(DropReason::Policy);
    let neighbour = Verdict::Pass(PassReason::Neighbour);
    let good = tcp4(PEER4, POD4, 80, true);
    let hop = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let solicitation = behind(&[&[135, 0, 0, 0, 0, 0, 0, 0], &v6(1)]);
    let own_target = [(24, POD4[0]), (25, POD4[1]), (26, POD4[2]), (27, POD4[3])];
    vec![
        ("allowed port", Ingress, good.clone(), allowed),
        ("next port", Ingress, tcp4(PEER4, POD4, 81, true), policy),
        ("a stray ACK to another port", Ingress, tcp4(PEER4, POD4, 81, false), policy),
        ("another peer", Ingress, tcp4(FREE4, POD4, 80, true), policy),
        ("SCTP is not TCP", Ingress, other4(PEER4, POD4, 132, &TCP_SYN_80), policy),
        ("ping is not covered by ports", Ingress, other4(PEER4, POD4, 1, &[8, 0, 0, 0, 0, 7, 0, 1]), policy),
        ("ping by a rule without ports", Egress, other4(POD4, FREE4, 1, &[8, 0, 0, 0, 0, 7, 0, 1]), allowed),
        ("GRE by a rule without ports", Egress, other4(POD4, FREE4, 47, &[0; 8]), allowed),
        ("GRE to a pod with ports", Ingress, other4(PEER4, POD4, 47, &[0; 8]), policy),
        ("protocol 0", Ingress, other4(PEER4, POD4, 0, &TCP_SYN_80), policy),
        ("spoofed source", Egress, tcp4([10, 0, 0, 9], FREE4, 80, true), drop(DropReason::Spoofed)),
        ("spoofed IPv6 source", Egress, tcp6(v6(9), v6(3), 80), drop(DropReason::Spoofed)),
        ("IPv4 options do not shift the ports", Ingress, options4(&good), allowed),
        ("IPv4 options cannot hide a port", Ingress, options4(&tcp4(PEER4, POD4, 81, true)), policy),
        (
            "IPv4 header length below 20",
            Ingress,
            with(good.clone(), &[(0, 0x44)]),
            drop(DropReason::BadHeader),
        ),
        ("IPv4 version 5", Ingress, with(good.clone(), &[(0, 0x55)]), drop(DropReason::BadHeader)),
        (
            "IPv4 total length within the header",
            Ingress,
            with(good.clone(), &[(2, 0), (3, 19)]),
            drop(DropReason::BadHeader),
        ),
        (
            "IPv4 total length cuts the ports",
            Ingress,
            with(good.clone(), &[(2, 0), (3, 23)]),
            drop(DropReason::Truncated),
        ),
        (
            "first fragment without its ports",
            Ingress,
            with(other4(PEER4, POD4, 6, &[0, 80, 0, 80]), &[(6, 0x20)]),
            drop(DropReason::FragmentShort),
        ),
        (
            "orphan fragment with ports in its payload",
            Ingress,
            with(good.clone(), &[(6, 0), (7, 1), (4, 9)]),
            drop(DropReason::FragmentOrphan),
        ),
        ("UDP header cut", Ingress, other4(PEER4, POD4, 17, &[0, 53, 0, 53]), drop(DropReason::Truncated)),
        (
            "SCTP header cut",
            Ingress,
            other4(PEER4, POD4, 132, &[0, 80, 0x23, 0x2b, 0, 0, 0, 0]),
            drop(DropReason::Truncated),
        ),
        (
            "SCTP allowed",
            Ingress,
            other4(PEER4, POD4, 132, &[0, 80, 0x23, 0x2b, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4]),
            allowed,
        ),
        ("IPv6 allowed port", Ingress, tcp6(v6(2), v6(1), 80), allowed),
        ("IPv6 next port", Ingress, tcp6(v6(2), v6(1), 81), policy),
        ("IPv6 behind hop-by-hop", Ingress, raw6(v6(2), v6(1), 0, &behind(&[&hop(6), &TCP_SYN_80])), allowed),
        (
            "IPv6 hop-by-hop hides nothing",
            Ingress,
            raw6(v6(2), v6(1), 0, &behind(&[&hop(6), &TCP_SYN_81])),
            policy,
        ),
        (
            "IPv6 six extensions",
            Ingress,
            raw6(
                v6(2),
                v6(1),
                60,
                &behind(&[&hop(60), &hop(60), &hop(60), &hop(60), &hop(60), &hop(6), &TCP_SYN_80]),
            ),
            allowed,
        ),
        (
            "IPv6 seven extensions",
            Ingress,
            raw6(
                v6(2),
                v6(1),
                60,
                &behind(&[&hop(60), &hop(60), &hop(60), &hop(60), &hop(60), &hop(60), &hop(6), &TCP_SYN_80]),
            ),
            drop(DropReason::ExtensionChain),
        ),
        (
            "IPv6 orphan fragment",
            Ingress,
            raw6(v6(2), v6(1), 44, &behind(&[&[6, 0, 0, 8, 0, 0, 0, 1], &TCP_SYN_80])),
            drop(DropReason::FragmentOrphan),
        ),
        (
            "IPv6 atomic fragment",
            Ingress,
            raw6(v6(2), v6(1), 44, &behind(&[&[6, 0, 0, 0, 0, 0, 0, 1], &TCP_SYN_80])),
            allowed,
        ),
        (
            "IPv6 first fragment without its ports",
            Ingress,
            raw6(v6(2), v6(1), 44, &behind(&[&[6, 0, 0, 1, 0, 0, 0, 1], &[0, 80]])),
            drop(DropReason::FragmentShort),
        ),
        (
            "ICMPv6 is not allowed as such",
            Ingress,
            raw6(v6(2), v6(1), 58, &[128, 0, 0, 0, 0, 7, 0, 1]),
            policy,
        ),
        ("ICMPv6 in IPv4", Ingress, other4(PEER4, POD4, 58, &[135, 0, 0, 0, 0, 0, 0, 0]), policy),
        ("neighbour solicitation", Ingress, raw6(v6(2), v6(1), 58, &solicitation), neighbour),
        (
            "a neighbour solicitation without its target",
            Ingress,
            raw6(v6(2), v6(1), 58, &solicitation[..16]),
            drop(DropReason::Truncated),
        ),
        (
            "a forwarded neighbour solicitation",
            Ingress,
            with(raw6(v6(2), v6(1), 58, &solicitation), &[(7, 254)]),
            drop(DropReason::BadHeader),
        ),
        (
            "a pod advertises itself as a router",
            Egress,
            raw6(v6(1), v6(3), 58, &[134, 0, 0, 0, 0, 0, 0, 0]),
            drop(DropReason::RouterSpoof),
        ),
        (
            "an ICMP error about no flow",
            Ingress,
            other4(
                PEER4,
                POD4,
                1,
                &behind(&[&[3, 3, 0, 0, 0, 0, 0, 0], &tcp4(POD4, PEER4, 80, true)[14..42]]),
            ),
            drop(DropReason::IcmpError),
        ),
        ("ARP", Ingress, behind(&[&[2; 12], &[8, 6], &[0; 28]]), neighbour),
        ("VLAN tag", Ingress, behind(&[&good[..12], &[0x81, 0, 0, 5], &good[12..]]), drop(DropReason::Vlan)),
        (
            "double tag",
            Ingress,
            behind(&[&good[..12], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], &good[12..]]),
            drop(DropReason::Vlan),
        ),
        (
            "another ethertype",
            Ingress,
            behind(&[&good[..12], &[0x88, 0xcc], &good[14..]]),
            drop(DropReason::EtherType),
        ),
        ("to itself", Egress, tcp4(POD4, POD4, 81, true), Verdict::Pass(PassReason::Own)),
        ("somebody under the pod's own address", Ingress, tcp4(POD4, POD4, 81, true), policy),
        ("the same in IPv6", Ingress, tcp6(v6(1), v6(1), 81), policy),
        ("ARP for itself", Egress, arp4(POD4), neighbour),
        ("an ARP probe for its own address", Egress, with(arp4([0; 4]), &own_target), neighbour),
        ("an ARP probe for another's", Egress, arp4([0; 4]), drop(DropReason::Spoofed)),
        ("ARP for another", Egress, arp4(FREE4), drop(DropReason::Spoofed)),
        ("ARP of another", Ingress, arp4(FREE4), neighbour),
        (
            "advertises itself",
            Egress,
            raw6(v6(1), v6(3), 58, &behind(&[&[136, 0, 0, 0, 0x60, 0, 0, 0], &v6(1)])),
            neighbour,
        ),
        (
            "advertises another",
            Egress,
            raw6(v6(1), v6(3), 58, &behind(&[&[136, 0, 0, 0, 0x60, 0, 0, 0], &v6(2)])),
            drop(DropReason::Spoofed),
        ),
        (
            "solicits as another",
            Egress,
            raw6(v6(2), v6(3), 58, &behind(&[&[135, 0, 0, 0, 0, 0, 0, 0], &v6(3)])),
            drop(DropReason::Spoofed),
        ),
    ]
}

struct Both<'a> {
    kernel: &'a mut BpfDatapath,
    memory: Memory,
    ifindex: u32,
}

impl Both<'_> {
    fn judge(&mut self, direction: Direction, from_node: bool, frame: &[u8]) -> anyhow::Result<Verdict> {
        let arrival = Arrival { ifindex: self.ifindex, direction, from_node };
        let verdict = decide(&Slice(frame), &self.memory, &arrival, &mut Scratch::EMPTY.clone());
        // BPF_PROG_TEST_RUN refuses an IP frame without its whole header: those are the host's to judge.
        let least = match frame[12..14] {
            [8, 0] => 34,
            [0x86, 0xdd] => 54,
            _ => 14,
        };
        if frame.len() < least {
            anyhow::ensure!(verdict == Verdict::Drop(DropReason::Truncated), "{verdict:?}: {frame:02x?}");
            return Ok(verdict);
        }
        let passed = run(self.kernel, &arrival, frame, 1)?.passed;
        anyhow::ensure!(
            passed == verdict.is_pass(),
            "{direction:?}: the engine says {verdict:?}, the kernel {}: {frame:02x?}",
            if passed { "passes" } else { "drops" }
        );
        Ok(verdict)
    }
}

impl Both<'_> {
    /// Packets that the kernel has counted under a verdict.
    fn counted(&self, verdict: Verdict, direction: Direction) -> anyhow::Result<u64> {
        let totals = self.kernel.totals()?;
        Ok(match verdict {
            Verdict::Drop(reason) => totals.dropped(reason, direction),
            Verdict::Pass(reason) => totals.passed(reason, direction),
        }
        .packets)
    }
}

fn with_both(name: &str, test: impl FnOnce(&mut Both<'_>) -> anyhow::Result<()> + Send) {
    let cluster = read_manifests(WORLD).unwrap();
    let compiled = compile(&cluster, &Scope::Cluster);
    sluice_tests::namespace::with_interfaces(1, |interfaces| {
        let pins = Bpffs::new(name);
        let capacity = Capacity {
            words: 1024,
            rows: 4096,
            endpoints: 8,
            peers: 64,
            cidrs: 64,
            sources: 16,
            services: 64,
            backends: 256,
            flow_sets: 65_536,
            index_blocks: 1024,
        };
        let mut kernel = BpfDatapath::load(pins.path(), &capacity, AttachMode::Auto)?;
        let mut memory = Memory::new(&capacity);
        let local = place(&cluster, &mut BTreeMap::new(), interfaces);
        enforce(&mut Planner::new(capacity), &mut kernel, &compiled, &local)?;
        enforce(&mut Planner::new(capacity), &mut memory, &compiled, &local)?;
        test(&mut Both { kernel: &mut kernel, memory, ifindex: interfaces[0] })
    })
    .unwrap();
}

#[test]
fn each_vector_has_its_verdict_in_the_kernel_and_on_the_host() {
    with_both("vectors", |both| {
        for (name, direction, frame, want) in vectors() {
            let before = both.counted(want, direction)?;
            let got = both.judge(direction, false, &frame)?;
            assert_eq!(got, want, "{name}");
            assert_eq!(both.counted(want, direction)?, before + 1, "{name}: counted under its reason");
        }
        Ok(())
    });
}

#[test]
fn truncation_at_every_byte_never_opens() {
    with_both("truncate", |both| {
        for (name, direction, frame, want) in vectors() {
            for length in 14..frame.len() {
                let got = both.judge(direction, false, &frame[..length])?;
                // What lies behind the header that decides may be cut: the receiver's business.
                assert!(!got.is_pass() || want.is_pass(), "{name} cut at {length}: {got:?}");
            }
        }
        Ok(())
    });
}

/// A connection: its packets in order, each with the verdict that it must have.
#[test]
fn replies_errors_and_fragments_follow_their_flow() {
    use Direction::{Egress, Ingress};
    let reply = |src: [u8; 4], dst: [u8; 4], from: u16, to: u16, flags: u8| {
        let mut frame = tcp4(src, dst, to, false);
        frame[34..36].copy_from_slice(&from.to_be_bytes());
        frame[47] = flags;
        frame
    };
    let udp = |src: [u8; 4], dst: [u8; 4], from: u16, to: u16| {
        let mut bytes = Vec::new();
        link().ipv4(src, dst, 64).udp(from, to).write(&mut bytes, &[0; 4]).unwrap();
        bytes
    };
    let quote =
        |frame: &[u8]| other4([192, 0, 2, 7], POD4, 1, &behind(&[&[3, 4, 0, 0, 0, 0, 5, 0], &frame[14..42]]));
    let pass = Verdict::Pass;
    let denied = Verdict::Drop(DropReason::Policy);
    let first = with(udp(PEER4, POD4, 5000, 53), &[(4, 1), (5, 2), (6, 0x20)]);
    let later = with(udp(PEER4, POD4, 0, 0), &[(4, 1), (5, 2), (6, 0), (7, 1)]);
    let steps = [
        ("an answer before any question", Egress, reply(POD4, PEER4, 80, 40_000, 0x12), denied),
        ("the peer opens", Ingress, tcp4(PEER4, POD4, 80, true), pass(PassReason::Policy)),
        ("the pod answers", Egress, reply(POD4, PEER4, 80, 40_000, 0x12), pass(PassReason::Reply)),
        ("and goes on", Egress, reply(POD4, PEER4, 80, 40_000, 0x10), pass(PassReason::Reply)),
        ("a SYN back is no answer", Egress, reply(POD4, PEER4, 80, 40_000, 0x02), denied),
        ("an answer to another port of the peer", Egress, reply(POD4, PEER4, 80, 40_001, 0x10), denied),
        ("an answer from another port of the pod", Egress, reply(POD4, PEER4, 81, 40_000, 0x10), denied),
        ("an answer to another peer", Egress, reply(POD4, [10, 0, 0, 7], 80, 40_000, 0x10), denied),
        (
            "a path-MTU error about it",
            Ingress,
            quote(&reply(POD4, PEER4, 80, 40_000, 0x10)),
            pass(PassReason::IcmpError),
        ),
        (
            "an error about another flow",
            Ingress,
            quote(&reply(POD4, PEER4, 80, 40_002, 0x10)),
            Verdict::Drop(DropReason::IcmpError),
        ),
        (
            "the pod pings",
            Egress,
            other4(POD4, FREE4, 1, &[8, 0, 0, 0, 0, 7, 0, 1]),
            pass(PassReason::Policy),
        ),
        (
            "the echo's answer",
            Ingress,
            other4(FREE4, POD4, 1, &[0, 0, 0, 0, 0, 7, 0, 1]),
            pass(PassReason::Reply),
        ),
        (
            "an answer with another identifier",
            Ingress,
            other4(FREE4, POD4, 1, &[0, 0, 0, 0, 0, 8, 0, 1]),
            denied,
        ),
        ("a ping back is no answer", Ingress, other4(FREE4, POD4, 1, &[8, 0, 0, 0, 0, 7, 0, 1]), denied),
        (
            "a later fragment before its first",
            Ingress,
            later.clone(),
            Verdict::Drop(DropReason::FragmentOrphan),
        ),
        ("a first fragment", Ingress, first, pass(PassReason::Policy)),
        ("its later fragment", Ingress, later, pass(PassReason::Fragment)),
        ("the pod asks by UDP", Egress, udp(POD4, FREE4, 6000, 53), pass(PassReason::Policy)),
        ("and is answered", Ingress, udp(FREE4, POD4, 53, 6000), pass(PassReason::Reply)),
        ("another UDP port is no answer", Ingress, udp(FREE4, POD4, 54, 6000), denied),
    ];
    with_both("flows", |both| {
        for (name, direction, frame, want) in steps {
            assert_eq!(both.judge(direction, false, &frame)?, want, "{name}");
        }
        // The node's own connection is allowed by its origin, and so is the answer to it.
        let probe = tcp4([192, 0, 2, 1], POD4, 8080, true);
        assert_eq!(both.judge(Ingress, false, &probe)?, denied);
        assert_eq!(both.judge(Ingress, true, &probe)?, pass(PassReason::Host));
        let answer = reply(POD4, [192, 0, 2, 1], 8080, 40_000, 0x12);
        assert_eq!(both.judge(Egress, false, &answer)?, pass(PassReason::Reply));
        // Time only passes on the host: an answered UDP flow ends two minutes after its last packet.
        let late = udp(FREE4, POD4, 53, 6000);
        let arrival = Arrival { ifindex: both.ifindex, direction: Ingress, from_node: false };
        for (seconds, want) in [(119, pass(PassReason::Reply)), (121, denied)] {
            both.memory.advance_seconds(seconds);
            let verdict = decide(&Slice(&late), &both.memory, &arrival, &mut Scratch::EMPTY.clone());
            assert_eq!(verdict, want, "after {seconds} s more");
        }
        Ok(())
    });
}

/// Mutated vectors: bytes changed, cut and joined. Kernel and engine agree on each, state included.
#[test]
fn kernel_and_engine_agree_on_mutated_packets() {
    let count = if std::env::var_os("SLUICE_TEST_QUICK").is_some() { 5_000 } else { 100_000 };
    with_both("mutate", |both| {
        let vectors = vectors();
        let mut random = Random::new(0);
        let mut passed = 0;
        for _ in 0..count {
            let (_, _, frame, _) = &vectors[random.below(vectors.len())];
            let mut frame = frame.clone();
            for _ in 0..random.below(4) {
                let at = 12 + random.below(frame.len() - 12);
                frame[at] = random.byte();
            }
            if random.below(4) == 0 {
                frame.truncate(14 + random.below(frame.len() - 13));
            }
            let direction = if random.below(2) == 0 { Direction::Egress } else { Direction::Ingress };
            passed += usize::from(both.judge(direction, random.below(8) == 0, &frame)?.is_pass());
        }
        println!("{passed} of {count} passed");
        assert!(passed > count / 20 && passed < count * 19 / 20, "the packets tell nothing");
        Ok(())
    });
}
