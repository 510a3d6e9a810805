//! Make-before-break: between any two table writes of an update, every flow has the verdict of before or of after.

use std::collections::BTreeMap;

use policy_agent::compile::{Scope, compile};
use policy_agent::datapath::Datapath as _;
use policy_agent::datapath::memory::Memory;
use policy_agent::plan::{Capacity, LocalEndpoint, Op, Planner};
use sluice_oracle::{random_cluster, random_flows};
use sluice_tests::updates::{Chain, POOL, Question, SMALL, answers, at_both_ends, filled_afresh};

/// Both sides of random flows between endpoints.
fn questions(cluster: &sluice_oracle::Cluster, seed: u64, locals: &[LocalEndpoint]) -> Vec<Question> {
    let at = |flow: &sluice_oracle::Flow| {
        at_both_ends(flow.from, flow.to, sluice_tests::cluster::transport(flow), locals)
    };
    random_flows(cluster, seed, 40).iter().flat_map(at).collect()
}

fn updates() -> u64 {
    if std::env::var_os("SLUICE_TEST_QUICK").is_some() { 180 } else { 600 }
}

/// Chains of random clusters through one planner. In every third update an operation fails on the way, once or twice.
#[test]
fn no_third_verdict_between_any_two_writes() {
    let (mut checks, mut changed, mut barriers) = (0_u64, 0_u64, 0_u64);
    for first in 0..updates() / 6 {
        let mut chain = Chain::default();
        let mut interfaces = BTreeMap::new();
        let mut present: Vec<LocalEndpoint> = Vec::new();
        for step in 0..6 {
            let seed = first * 6 + step;
            let cluster = random_cluster(seed);
            let read = sluice_tests::cluster::read(&cluster).unwrap();
            let locals = sluice_tests::cluster::place(&read, &mut interfaces, &POOL);
            let compiled = compile(&read, &Scope::Cluster);
            let stay: Vec<LocalEndpoint> =
                present.iter().filter(|local| locals.contains(local)).cloned().collect();
            let questions = questions(&cluster, seed, &stay);
            let failures = if seed % 3 == 0 { 2 } else { 0 };
            chain
                .update(&questions, failures, |planner| planner.plan(&compiled, &locals))
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            // The chain's tables say the same as tables that were filled from nothing.
            let fresh = filled_afresh(&compiled, &locals).unwrap();
            let all = self::questions(&cluster, seed, &locals);
            assert_eq!(answers(&chain.tables, &all), answers(&fresh, &all), "seed {seed}");
            let left = chain.planner.plan(&compiled, &locals).unwrap();
            assert_eq!(left.iter().filter(|op| **op != Op::Barrier).count(), 0);
            chain.planner.applied();
            chain.unwatch().unwrap();
            present = locals;
        }
        checks += chain.counts.checks;
        changed += chain.counts.changed;
        barriers += chain.counts.barriers;
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
