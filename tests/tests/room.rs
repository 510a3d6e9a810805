//! What a planner does without where its tables are full: nothing that it leaves out opens anything.
#![expect(clippy::unwrap_used, reason = "a test may fail so")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy_agent::compile::{Scope, compile};
use policy_agent::datapath::Datapath as _;
use policy_agent::datapath::memory::Memory;
use policy_agent::model::ObjectName;
use policy_agent::plan::{Capacity, LocalEndpoint, Op, Planner};
use sluice_oracle::{random_cluster, random_flows};
use sluice_tests::updates::{POOL, Question, SMALL, answers, at_both_ends, filled_afresh};

fn apply(planner: &mut Planner, tables: &mut Memory, ops: &[Op]) {
    for op in ops {
        tables.apply(op).unwrap();
    }
    planner.applied();
}

/// Random clusters in tables with room for few addresses. What is left out is denied or decided as it would be with room
/// for all, and the next plan, with room, brings everything.
#[test]
fn addresses_that_are_left_out_open_nothing() {
    let clusters = if std::env::var_os("SLUICE_TEST_LONG").is_some() { 3000 } else { 100 };
    let (mut left_out, mut closed, mut refused) = (0, 0, 0);
    for seed in 0..clusters {
        let cluster = random_cluster(seed);
        let read = sluice_tests::cluster::read(&cluster).unwrap();
        let locals = sluice_tests::cluster::place(&read, &mut BTreeMap::new(), &POOL);
        let compiled = compile(&read, &Scope::Cluster);
        let at = |flow: &sluice_oracle::Flow| {
            at_both_ends(flow.from, flow.to, sluice_tests::cluster::transport(flow), &locals)
        };
        let questions: Vec<Question> = random_flows(&cluster, seed, 60).iter().flat_map(at).collect();
        let whole = answers(&filled_afresh(&compiled, &locals).unwrap(), &questions);
        let capacity = Capacity { peers: 1 + (seed % 4) as u32, ..SMALL };
        let (mut planner, mut tables) = (Planner::new(capacity), Memory::new(&capacity));
        planner.set_lenient(true);
        let Ok(ops) = planner.plan(&compiled, &locals) else {
            // An address that a block excepts cannot be left out.
            refused += 1;
            continue;
        };
        apply(&mut planner, &mut tables, &ops);
        left_out += planner.left_out().len();
        for ((question, got), full) in questions.iter().zip(answers(&tables, &questions)).zip(&whole) {
            assert!(!got || *full, "seed {seed}: {question:?} is open without room, and closed with it");
            closed += u32::from(!got && *full);
        }
    }
    println!("{left_out} addresses left out, {closed} verdicts closed by that, {refused} clusters refused");
    assert!(left_out > 100 && closed > 10 && refused < clusters / 2);
}

fn local(pod: &str, ifindex: u32, sources: &[&str]) -> LocalEndpoint {
    let [_, a, b, c] = ifindex.to_be_bytes();
    LocalEndpoint {
        pod: ObjectName::new("dev", pod),
        ifindex,
        addresses: vec![IpAddr::from([10, a, b, c])],
        sources: sources.iter().map(|net| net.parse().unwrap()).collect(),
    }
}

/// Interface indexes beyond the array have a hash of 4,096 entries.
#[test]
fn interfaces_with_large_indexes_are_counted() {
    let capacity = Capacity { endpoints: 8192, ..SMALL };
    let compiled = compile(&Default::default(), &Scope::Cluster);
    let many: Vec<LocalEndpoint> = (0..4097).map(|n| local(&format!("p{n}"), 70_000 + n, &[])).collect();
    let mut planner = Planner::new(capacity);
    let full = planner.plan(&compiled, &many).unwrap_err();
    assert_eq!((full.table, full.needed, full.capacity), ("interfaces", 4097, 4096));
    let admission = planner.admit(&many);
    assert_eq!((admission.endpoints.len(), admission.closed.len()), (4096, 1));
    assert_eq!(admission.closed.values().next(), Some(&full));
    let mut tables = Memory::new(&capacity);
    let ops = planner.plan(&compiled, &admission.endpoints).unwrap();
    apply(&mut planner, &mut tables, &ops);
    // Those that are there go first, whatever their names; indexes that the array reaches need no room.
    let mut others = vec![local("a", 5, &[]), local("b", 69_999, &[])];
    others.extend(many[1..].iter().cloned());
    let admission = planner.admit(&others);
    let closed: Vec<&ObjectName> = admission.closed.keys().collect();
    assert_eq!(closed, [&ObjectName::new("dev", "b"), &ObjectName::new("dev", "p4096")]);
    // One goes; its place is free.
    let ops = planner.retire(&many[1..]);
    assert!(ops.iter().all(|op| matches!(op, Op::Slot { slot: None, .. })) && ops.len() == 1, "{ops:?}");
    apply(&mut planner, &mut tables, &ops);
    assert_eq!(planner.admit(&others).closed.len(), 1);
}

#[test]
fn endpoints_and_sources_go_as_far_as_there_is_room() {
    let capacity = Capacity { endpoints: 2, sources: 4, ..SMALL };
    let compiled = compile(&Default::default(), &Scope::Cluster);
    let mut planner = Planner::new(capacity);
    let mut tables = Memory::new(&capacity);
    let first = local("a", 3, &["198.18.0.0/24", "198.18.1.0/24"]);
    let ops = planner.plan(&compiled, std::slice::from_ref(&first)).unwrap();
    apply(&mut planner, &mut tables, &ops);
    // The same again takes no more room than it has.
    assert!(planner.plan(&compiled, std::slice::from_ref(&first)).is_ok());
    planner.applied();
    let second = local("b", 4, &["198.18.2.0/24", "198.18.3.0/24"]);
    let third = local("c", 5, &[]);
    let all = [third, second, first.clone()];
    let admission = planner.admit(&all);
    let names =
        |pods: &BTreeMap<ObjectName, _>| pods.keys().map(|pod| pod.name.to_string()).collect::<Vec<_>>();
    // In the order of the list, after those that are there.
    assert_eq!(names(&admission.closed), ["b"]);
    assert!(admission.curtailed.is_empty());
    let admission = planner.admit(&all[1..]);
    assert_eq!(names(&admission.curtailed), ["b"]);
    let kept: BTreeSet<usize> = admission.endpoints.iter().map(|local| local.sources.len()).collect();
    assert_eq!(kept, BTreeSet::from([1, 2]));
    let ops = planner.plan(&compiled, &admission.endpoints).unwrap();
    apply(&mut planner, &mut tables, &ops);
    assert_eq!(planner.endpoints(), 2);
}
