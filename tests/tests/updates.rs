//! Make-before-break: between any two table writes of an update, every flow has the verdict of before or of after.

use std::collections::BTreeMap;

use policy_agent::compile::{Scope, compile};
use policy_agent::datapath::Datapath as _;
use policy_agent::datapath::memory::Memory;
use policy_agent::explain::frame;
use policy_agent::plan::{Capacity, LocalEndpoint, Op, Planner};
use policy_common::parse::Scratch;
use policy_common::{Arrival, Direction, Slice, decide};
use sluice_oracle::{random_cluster, random_flows};

const POOL: [u32; 16] = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 70_001, 70_002, 70_003, 70_004, 70_005];
const SMALL: Capacity =
    Capacity { words: 4096, rows: 65_536, endpoints: 32, peers: 256, cidrs: 256, sources: 64, flow_sets: 64 };

struct Question {
    arrival: Arrival,
    bytes: Vec<u8>,
}

/// Both sides of random flows between endpoints that are there before and after.
fn questions(cluster: &sluice_oracle::Cluster, seed: u64, locals: &[LocalEndpoint]) -> Vec<Question> {
    let mut questions = Vec::new();
    for flow in random_flows(cluster, seed, 40) {
        let bytes = frame(flow.from, flow.to, sluice_tests::cluster::transport(&flow));
        for (direction, own) in [(Direction::Egress, flow.from), (Direction::Ingress, flow.to)] {
            if let Some(ifindex) = sluice_tests::cluster::owner(locals, own) {
                let arrival = Arrival { ifindex, direction, from_node: false };
                questions.push(Question { arrival, bytes: bytes.clone() });
            }
        }
    }
    questions
}

fn answers(tables: &Memory, questions: &[Question]) -> Vec<bool> {
    questions
        .iter()
        .map(|q| {
            tables.forget_flows();
            decide(&Slice(&q.bytes), tables, &q.arrival, &mut Scratch::EMPTY.clone()).is_pass()
        })
        .collect()
}

fn updates() -> u64 {
    if std::env::var_os("SLUICE_TEST_QUICK").is_some() { 180 } else { 600 }
}

/// Chains of random clusters through one planner. In every third update an operation fails on the way, once or twice.
#[test]
fn no_third_verdict_between_any_two_writes() {
    let (mut checks, mut changed, mut barriers) = (0_u64, 0_u64, 0_u64);
    for chain in 0..updates() / 6 {
        let mut planner = Planner::new(SMALL);
        let mut tables = Memory::new(&SMALL);
        let mut interfaces = BTreeMap::new();
        let mut present: Vec<LocalEndpoint> = Vec::new();
        for step in 0..6 {
            let seed = chain * 6 + step;
            let cluster = random_cluster(seed);
            let read = sluice_tests::cluster::read(&cluster).unwrap();
            let locals = sluice_tests::cluster::place(&read, &mut interfaces, &POOL);
            let compiled = compile(&read, &Scope::Cluster);
            let stay: Vec<LocalEndpoint> =
                present.iter().filter(|local| locals.contains(local)).cloned().collect();
            let questions = questions(&cluster, seed, &stay);
            let before = answers(&tables, &questions);

            let mut failures = if seed % 3 == 0 { 2 } else { 0 };
            let mut history: Vec<Vec<bool>> = Vec::new();
            loop {
                let ops = planner.plan(&compiled, &locals).unwrap();
                let mut failed = None;
                for (index, op) in ops.iter().enumerate() {
                    if failures > 0 && index == (ops.len() * failures).div_ceil(3) && *op != Op::Barrier {
                        failed = Some(index);
                        failures -= 1;
                        break;
                    }
                    barriers += u64::from(*op == Op::Barrier);
                    tables.apply(op).unwrap();
                    // Painting a protocol is 65,536 writes alike: a sample of them is enough.
                    if !matches!(op, Op::Port { .. }) || index % 997 == 0 {
                        history.push(answers(&tables, &questions));
                    }
                }
                match failed {
                    Some(index) => planner.failed(index),
                    None => break planner.applied(),
                }
            }
            let after = answers(&tables, &questions);
            for (index, question) in questions.iter().enumerate() {
                changed += u64::from(before[index] != after[index]);
                for (write, seen) in history.iter().enumerate() {
                    checks += 1;
                    assert!(
                        seen[index] == before[index] || seen[index] == after[index],
                        "seed {seed}: {:?} was {}, becomes {}, and is {} after write {write}",
                        question.arrival,
                        before[index],
                        after[index],
                        seen[index]
                    );
                }
            }
            // The chain's tables say the same as tables that were filled from nothing.
            let mut fresh = Memory::new(&SMALL);
            for op in Planner::new(SMALL).plan(&compiled, &locals).unwrap() {
                fresh.apply(&op).unwrap();
            }
            let all = self::questions(&cluster, seed, &locals);
            assert_eq!(answers(&tables, &all), answers(&fresh, &all), "seed {seed}");
            assert_eq!(
                planner.plan(&compiled, &locals).unwrap().iter().filter(|op| **op != Op::Barrier).count(),
                0
            );
            planner.applied();
            present = locals;
        }
    }
    println!("{checks} verdicts checked between writes, {changed} flows changed, {barriers} barriers");
    assert!(changed > 100);
}

/// A plan that does not fit says which table, and leaves tables and planner as they were.
#[test]
fn a_plan_that_does_not_fit_changes_nothing() {
    let full = [
        ("rows", Capacity { rows: 128, ..SMALL }),
        ("bits", Capacity { words: 8, ..SMALL }),
        ("endpoints", Capacity { endpoints: 4, ..SMALL }),
        ("peers", Capacity { peers: 4, ..SMALL }),
        ("cidrs", Capacity { cidrs: 4, ..SMALL }),
    ];
    for (table, capacity) in full {
        let mut refused = 0;
        let mut planner = Planner::new(capacity);
        let mut tables = Memory::new(&capacity);
        let mut interfaces = BTreeMap::new();
        let mut enforced: Option<(u64, Vec<LocalEndpoint>)> = None;
        for seed in 0..200 {
            let read = sluice_tests::cluster::read(&random_cluster(seed)).unwrap();
            let locals = sluice_tests::cluster::place(&read, &mut interfaces, &POOL);
            match planner.plan(&compile(&read, &Scope::Cluster), &locals) {
                Ok(ops) => {
                    for op in &ops {
                        tables.apply(op).unwrap();
                    }
                    planner.applied();
                    enforced = Some((seed, locals));
                }
                Err(error) => {
                    assert!(error.to_string().contains(table), "{table}: {error}");
                    refused += 1;
                    // What was enforced still is: nothing is left to write but bits of port classes that were given up.
                    if let Some((seed, locals)) = &enforced {
                        let read = sluice_tests::cluster::read(&random_cluster(*seed)).unwrap();
                        let ops = planner.plan(&compile(&read, &Scope::Cluster), locals).unwrap();
                        for op in &ops {
                            assert!(matches!(op, Op::Barrier | Op::Word { .. }), "{table}: {op:?}");
                            tables.apply(op).unwrap();
                        }
                        planner.applied();
                    }
                }
            }
        }
        assert!(refused > 0, "{table} was never full");
    }
}
