//! The loaded program in the kernel agrees with the engine on the host and with the oracle. Needs root and BPF.

use std::collections::BTreeMap;

use policy_agent::compile::{Scope, compile};
use policy_agent::datapath::bpf::{AttachMode, BpfDatapath};
use policy_agent::datapath::enforce;
use policy_agent::datapath::memory::Memory;
use policy_agent::explain::frame;
use policy_agent::plan::{Capacity, LocalEndpoint, Planner};
use policy_common::parse::Scratch;
use policy_common::{Arrival, Direction, Slice, decide};
use sluice_oracle::{Cluster, Flow, Origin, Verdict, judge, random_cluster, random_flows};
use sluice_tests::kernel::Bpffs;

fn clusters() -> u64 {
    if std::env::var_os("SLUICE_TEST_QUICK").is_some() { 20 } else { 120 }
}

/// Whether a packet comes to a pod from another machine or pod: its verdict needs the interface that it has come in by.
fn is_received(arrival: &Arrival) -> bool {
    arrival.direction == Direction::Ingress && !arrival.from_node
}

/// One side of a flow, and what the oracle says of it.
fn sides(cluster: &Cluster, flow: &Flow, locals: &[LocalEndpoint]) -> Vec<(Arrival, bool)> {
    let judged = judge(cluster, flow);
    let mut sides = Vec::new();
    for (direction, own, verdict) in
        [(Direction::Egress, flow.from, judged.egress), (Direction::Ingress, flow.to, judged.ingress)]
    {
        // A node's own process is told by where its packet comes from, and it sends to its own pods only here.
        let from_node = flow.origin != Origin::Wire;
        if from_node && direction == Direction::Egress {
            continue;
        }
        // A pod's packets to itself never come back to it over the wire; what does is somebody else's.
        if flow.from == flow.to && direction == Direction::Ingress {
            continue;
        }
        if from_node && !from_own_node(cluster, flow) {
            continue;
        }
        if let Some(ifindex) = sluice_tests::cluster::owner(locals, own) {
            sides.push((Arrival { ifindex, direction, from_node }, verdict == Verdict::Allow));
        }
    }
    sides
}

fn from_own_node(cluster: &Cluster, flow: &Flow) -> bool {
    match &flow.origin {
        Origin::Node(name) => cluster.pod_at(flow.to).is_some_and(|pod| pod.node.as_ref() == Some(name)),
        Origin::Wire => false,
    }
}

#[test]
fn kernel_engine_and_oracle_agree_on_what_pods_and_nodes_send() {
    agree_where(|arrival| !is_received(arrival)).unwrap();
}

/// A test run names the interface from Linux 5.18 on; before, what pods receive is tried with real packets, by the suites
/// `packets_*`.
#[test]
fn kernel_engine_and_oracle_agree_on_what_pods_receive() {
    agree_where(is_received).unwrap();
}

fn agree_where(wanted: fn(&Arrival) -> bool) -> anyhow::Result<()> {
    sluice_tests::namespace::with_interfaces(16, |pool| {
        let pins = Bpffs::new("agree");
        let capacity = Capacity {
            words: 4096,
            rows: 65_536,
            endpoints: 64,
            peers: 1024,
            cidrs: 1024,
            sources: 64,
            services: 64,
            backends: 256,
            flow_sets: 1024,
            index_blocks: 1024,
        };
        let mut kernel = BpfDatapath::load(pins.path(), &capacity, AttachMode::Auto)?;
        let mut memory = Memory::new(&capacity);
        // One planner each through all clusters: the tables are what updates made of them, not what a fresh start would.
        let (mut for_kernel, mut for_memory) = (Planner::new(capacity), Planner::new(capacity));
        let mut interfaces = BTreeMap::new();
        let (mut checked, mut denied) = (0_u64, 0_u64);
        for seed in 0..clusters() {
            let cluster = random_cluster(seed);
            let read = sluice_tests::cluster::read(&cluster)?;
            let locals = sluice_tests::cluster::place(&read, &mut interfaces, pool);
            let compiled = compile(&read, &Scope::Cluster);
            enforce(&mut for_kernel, &mut kernel, &compiled, &locals)?;
            enforce(&mut for_memory, &mut memory, &compiled, &locals)?;
            for flow in random_flows(&cluster, seed, 60) {
                let bytes = frame(flow.from, flow.to, sluice_tests::cluster::transport(&flow));
                for (arrival, want) in sides(&cluster, &flow, &locals).into_iter().filter(|(a, _)| wanted(a))
                {
                    memory.forget_flows();
                    let engine = decide(&Slice(&bytes), &memory, &arrival, &mut Scratch::EMPTY.clone());
                    let seen = sluice_tests::kernel::run(&mut kernel, &arrival, &bytes, 1)?.passed;
                    assert_eq!(
                        (seen, engine.is_pass()),
                        (want, want),
                        "seed {seed}, {flow}, {arrival:?}: (kernel, engine) against the oracle; {engine:?}"
                    );
                    checked += 1;
                    denied += u64::from(!want);
                }
            }
        }
        println!("{checked} verdicts, {denied} denied");
        assert!(denied > checked / 10, "the flows tell nothing: {denied} of {checked} denied");
        Ok(())
    })
}
