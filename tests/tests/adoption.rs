//! An agent may die between any two table writes. The next one reads the tables, takes over what is as it should be and
//! repairs the rest; and whatever it found, no flow ever has a verdict but that of before or of after.
#![expect(clippy::unwrap_used, reason = "a test may fail so")]

use std::collections::BTreeMap;

use policy_agent::compile::{Compiled, Scope, compile};
use policy_agent::datapath::Datapath as _;
use policy_agent::plan::{LocalEndpoint, Op, Planner};
use sluice_oracle::{random_cluster, random_flows};
use sluice_tests::random::Random;
use sluice_tests::updates::{Chain, POOL, Question, SMALL, adopt, answers, at_both_ends, filled_afresh};

/// A cluster as the agent has compiled it.
struct Step {
    seed: u64,
    cluster: sluice_oracle::Cluster,
    compiled: Compiled,
    locals: Vec<LocalEndpoint>,
}

/// Clusters that follow one another, on the same interfaces.
fn steps(first: u64, count: u64) -> Vec<Step> {
    let mut interfaces = BTreeMap::new();
    let step = |seed| {
        let cluster = random_cluster(seed);
        let read = sluice_tests::cluster::read(&cluster).unwrap();
        let locals = sluice_tests::cluster::place(&read, &mut interfaces, &POOL);
        Step { seed, cluster, compiled: compile(&read, &Scope::Cluster), locals }
    };
    (first..first + count).map(step).collect()
}

impl Step {
    /// Both sides of random flows between the endpoints that stay.
    fn questions(&self, before: &[LocalEndpoint]) -> Vec<Question> {
        let stay: Vec<LocalEndpoint> = before.iter().filter(|l| self.locals.contains(l)).cloned().collect();
        let at = |flow: &sluice_oracle::Flow| {
            at_both_ends(flow.from, flow.to, sluice_tests::cluster::transport(flow), &stay)
        };
        random_flows(&self.cluster, self.seed, 24).iter().flat_map(at).collect()
    }

    fn assert_in_force(&self, chain: &mut Chain) {
        let all = self.questions(&self.locals);
        let fresh = filled_afresh(&self.compiled, &self.locals).unwrap();
        assert_eq!(answers(&chain.tables, &all), answers(&fresh, &all), "seed {}", self.seed);
        let left = chain.planner.plan(&self.compiled, &self.locals).unwrap();
        assert_eq!(left, [], "seed {}", self.seed);
        chain.planner.applied();
    }
}

fn is_quick() -> bool {
    std::env::var_os("SLUICE_TEST_QUICK").is_some()
}

/// Chains of random clusters; in each update agents die, one after the other, at random writes.
#[test]
fn agents_that_die_at_random_writes_show_no_third_verdict() {
    let chains = if is_quick() { 10 } else { 60 };
    let (mut deaths, mut checks) = (0, 0);
    for first in 0..chains {
        let mut chain = Chain::default();
        let mut present: Vec<LocalEndpoint> = Vec::new();
        let mut random = Random::new(first);
        for step in steps(10_000 + first * 6, 6) {
            let mut left = 3;
            let stop = |length: usize| {
                left -= usize::from(left > 0);
                (left > 0 && length > 0).then(|| random.below(length))
            };
            chain
                .update_by_mortals(&step.questions(&present), stop, &step.compiled, &step.locals)
                .unwrap_or_else(|error| panic!("seed {}: {error}", step.seed));
            step.assert_in_force(&mut chain);
            chain.unwatch().unwrap();
            present = step.locals;
        }
        deaths += chain.counts.failures;
        checks += chain.counts.checks;
    }
    println!("{deaths} deaths, {checks} verdicts checked between writes");
    assert!(deaths > chains * 5 && checks > 10_000);
}

/// Writes of one update before which an agent dies.
fn sample() -> usize {
    if std::env::var_os("SLUICE_TEST_LONG").is_some() { 2000 } else { 40 }
}

/// One update, and an agent that dies before each of its writes in turn.
#[test]
fn an_agent_may_die_before_every_single_write() {
    let updates = if is_quick() { 1 } else { 4 };
    let mut deaths = 0;
    for seed in 0..updates {
        let [before, after] = &steps(20_000 + seed * 2, 2)[..] else { panic!("two steps") };
        let filled = || {
            let mut chain = Chain::default();
            chain.update_by_mortals(&[], |_| None, &before.compiled, &before.locals).unwrap();
            let ops = chain.planner.plan(&after.compiled, &after.locals).unwrap();
            (chain, ops)
        };
        let writes = filled().1.len();
        for death in (0..=writes).step_by((writes / sample()).max(1)) {
            // Only what the second agent does is looked at write by write: each of the first one's has its turn.
            let (mut chain, ops) = filled();
            ops.iter().take(death).for_each(|op| chain.tables.apply(op).unwrap());
            chain.planner = adopt(&chain.tables, &after.compiled, &after.locals).unwrap();
            let questions = after.questions(&before.locals);
            chain
                .update_by_mortals(&questions, |_| None, &after.compiled, &after.locals)
                .unwrap_or_else(|error| panic!("seed {}, write {death}: {error}", after.seed));
            after.assert_in_force(&mut chain);
            deaths += 1;
        }
    }
    println!("{deaths} deaths");
}

/// Where nothing has changed nothing is written, however the tables came about.
#[test]
fn what_is_as_it_should_be_is_not_written_again() {
    let chains = if is_quick() { 5 } else { 20 };
    for first in 0..chains {
        let mut chain = Chain::default();
        for step in steps(30_000 + first * 4, 4) {
            chain.update_by_mortals(&[], |_| None, &step.compiled, &step.locals).unwrap();
            let mut next = adopt(&chain.tables, &step.compiled, &step.locals).unwrap();
            let plan = next.plan(&step.compiled, &step.locals).unwrap();
            let rewritten: Vec<&Op> = plan.iter().filter(|op| !is_tidying(op)).collect();
            assert!(rewritten.is_empty(), "seed {}: {rewritten:#?}", step.seed);
        }
    }
}

/// Bits of port classes that no port has any more.
const fn is_tidying(op: &Op) -> bool {
    matches!(op, Op::Word { .. } | Op::Barrier)
}

/// Another agent's tables, with something in them that no planner writes, are refused as a whole.
#[test]
fn what_no_planner_leaves_is_not_taken_over() {
    let [step] = &steps(40_000, 1)[..] else { panic!("one step") };
    let tables = filled_afresh(&step.compiled, &step.locals).unwrap();
    let adopt = |present| Planner::adopt(SMALL, present, &step.compiled, &step.locals);
    assert!(adopt(tables.present()).is_ok());
    let (ifindex, slot) = tables.present().slots.into_iter().next().unwrap();
    let mut cut = tables.present();
    cut.rows.pop();
    assert!(adopt(cut).is_err(), "a table of another size");
    let mut shared = tables.present();
    shared.slots.insert(ifindex + 1000, slot);
    assert!(adopt(shared).is_err(), "two interfaces with one slot");
    let mut beyond = tables.present();
    beyond.sets[slot as usize].egress = SMALL.rows;
    assert!(adopt(beyond).is_err(), "a policy set that reaches beyond the table");
    let mut odd = tables.present();
    let row = odd.sets.iter().find_map(|sets| sets.egress.max(sets.ingress).checked_sub(1)).unwrap();
    let word = odd.rows[row as usize] as usize;
    odd.words[word] = 1;
    assert!(adopt(odd).is_err(), "a row that allows what has no port, and no port");
}
