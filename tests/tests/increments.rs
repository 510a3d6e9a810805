//! From change to change: what the incremental compiler and planner make of a cluster is what compiling and filling
//! from nothing makes of it, at every step; the oracle judges where it can, at the clusters that the steps lead to.
#![expect(clippy::unwrap_used, reason = "a test may fail so")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_agent::compile::{Compiled, Compiler, PortSet, Scope, compile};
use policy_agent::model::{Changes, Cluster, ObjectName, Owner, Pod, Tracked};
use policy_agent::plan::LocalEndpoint;
use policy_common::Direction;
use sluice_oracle::{Flow, Origin, Verdict, judge, random_cluster, random_flows};
use sluice_tests::cluster::{place, read, transport};
use sluice_tests::random::Random;
use sluice_tests::updates::{Chain, Counts, POOL, Question, answers, at_both_ends, filled_afresh};

/// Random clusters that one chain of changes leads to, one after the other.
const CLUSTERS: u64 = 5;

fn chains() -> u64 {
    let set = |name| std::env::var_os(name).is_some();
    match (set("SLUICE_TEST_LONG"), set("SLUICE_TEST_QUICK")) {
        (true, _) => 200,
        (false, true) => 10,
        (false, false) => 20,
    }
}

/// One thing that differs between two clusters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    Pod(ObjectName),
    BrokenPod(ObjectName),
    Namespace(String),
    Policy(ObjectName),
    Node(String),
}

fn differences(from: &Cluster, to: &Cluster) -> Vec<Difference> {
    let mut list = BTreeSet::new();
    for name in from.pods.names().chain(to.pods.names()) {
        if from.pods.get(name) != to.pods.get(name) {
            list.insert(Difference::Pod(name.clone()));
        }
    }
    for name in from.broken_pods.keys().chain(to.broken_pods.keys()) {
        if from.broken_pods.get(name) != to.broken_pods.get(name) {
            list.insert(Difference::BrokenPod(name.clone()));
        }
    }
    for name in from.namespaces.keys().chain(to.namespaces.keys()) {
        if from.namespaces.get(name) != to.namespaces.get(name) {
            list.insert(Difference::Namespace(name.clone()));
        }
    }
    for name in from.policies.keys().chain(to.policies.keys()) {
        if from.policies.get(name) != to.policies.get(name) {
            list.insert(Difference::Policy(name.clone()));
        }
    }
    for name in from.nodes.keys().chain(to.nodes.keys()) {
        if from.nodes.get(name) != to.nodes.get(name) {
            list.insert(Difference::Node(name.clone()));
        }
    }
    list.into_iter().collect()
}

fn take_over(tracked: &mut Tracked, to: &Cluster, difference: &Difference) {
    match difference {
        Difference::Pod(name) => match to.pods.get(name) {
            Some(pod) => tracked.insert_pod(Pod::clone(pod)),
            None => tracked.remove_pod(name),
        },
        Difference::BrokenPod(name) => match to.broken_pods.get(name) {
            Some(addresses) => tracked.insert_broken_pod(name.clone(), addresses.clone()),
            None if tracked.cluster().broken_pods.contains_key(name) => tracked.remove_pod(name),
            None => {}
        },
        Difference::Namespace(name) => match to.namespaces.get(name) {
            Some(labels) => tracked.insert_namespace(name.clone(), labels.clone()),
            None => tracked.remove_namespace(name),
        },
        Difference::Policy(name) => match to.policies.get(name) {
            Some(policy) => tracked.insert_policy(policy.clone()),
            None => tracked.remove_policy(name),
        },
        Difference::Node(name) => match to.nodes.get(name) {
            Some(node) => tracked.insert_node(name.clone(), node.clone()),
            None => tracked.remove_node(name),
        },
    }
}

/// What no oracle's cluster has: pods that claim an address that another one has, age, end, move and break.
fn disturb(tracked: &mut Tracked, random: &mut Random) {
    let pods: Vec<Arc<Pod>> = tracked.cluster().pods.values().cloned().collect();
    let (Some(one), Some(other)) = (random.pick(&pods).cloned(), random.pick(&pods).cloned()) else { return };
    let mut pod = Pod::clone(&one);
    match random.below(7) {
        0 => pod.terminating = !pod.terminating,
        1 => pod.finished = !pod.finished,
        2 => pod.created = i64::from(random.byte() % 3),
        3 => pod.node.clone_from(&other.node),
        4 => pod.addresses.clone_from(&other.addresses),
        5 => {
            pod.id.name = format!("{}-again", pod.id.name);
            pod.created += 1;
        }
        _ => return tracked.insert_broken_pod(pod.id, pod.addresses),
    }
    tracked.insert_pod(pod);
}

/// What a compilation lets pass in one direction between an endpoint and an address, in contents. `None`: not isolated.
fn row(
    compiled: &Compiled,
    endpoint: &ObjectName,
    direction: Direction,
    address: IpAddr,
) -> Option<(bool, BTreeSet<PortSet>)> {
    let set = compiled.endpoints[endpoint].set(direction)?;
    let row = compiled.row(&compiled.sets[set], compiled.signature_of(address));
    let ports = row.port_sets.iter().map(|id| compiled.port_sets.get(*id).unwrap().clone());
    Some((row.everything, ports.collect()))
}

fn assert_same(incremental: &Compiled, whole: &Compiled, cluster: &Cluster, scope: &Scope) {
    let names = |compiled: &Compiled| -> Vec<_> {
        compiled.endpoints.iter().map(|(name, e)| (name.clone(), e.policies.clone())).collect()
    };
    assert_eq!(names(incremental), names(whole));
    let mut addresses: BTreeSet<IpAddr> = cluster.pods.addresses().collect();
    addresses.extend(cluster.nodes.values().flat_map(|node| &node.addresses));
    addresses.extend(whole.addresses.keys().chain(incremental.addresses.keys()));
    let prefixes = whole.prefixes.keys().chain(incremental.prefixes.keys());
    addresses.extend(prefixes.flat_map(|net| [net.network(), net.broadcast()]));
    if let Scope::Node { addresses: own, .. } = scope {
        addresses.extend(own);
    }
    for endpoint in whole.endpoints.keys() {
        for direction in [Direction::Egress, Direction::Ingress] {
            for address in &addresses {
                assert_eq!(
                    row(incremental, endpoint, direction, *address),
                    row(whole, endpoint, direction, *address),
                    "{endpoint} {direction:?} {address}"
                );
            }
        }
    }
}

/// One node's agent, or one of all nodes.
struct World {
    tracked: Tracked,
    compiler: Compiler,
    chain: Chain,
    scope: Scope,
    interfaces: BTreeMap<ObjectName, u32>,
    present: Vec<LocalEndpoint>,
    contested: u64,
}

impl World {
    fn new(random: &mut Random) -> Self {
        let scope = if random.one_in(2) {
            Scope::Cluster
        } else {
            Scope::Node { name: Some("n1".to_owned()), addresses: BTreeSet::new() }
        };
        Self {
            tracked: Tracked::default(),
            compiler: Compiler::default(),
            chain: Chain::default(),
            scope,
            interfaces: BTreeMap::new(),
            present: Vec::new(),
            contested: 0,
        }
    }

    fn locals(&mut self) -> Vec<LocalEndpoint> {
        let compiled = self.compiler.compiled();
        let mut here = self.tracked.cluster().clone();
        let elsewhere: Vec<ObjectName> =
            here.pods.names().filter(|name| !compiled.endpoints.contains_key(name)).cloned().collect();
        for name in elsewhere {
            here.pods.remove(&name);
        }
        place(&here, &mut self.interfaces, &POOL)
    }

    fn step(&mut self, questions: &dyn Fn(&[LocalEndpoint]) -> Vec<Question>, random: &mut Random) {
        let mut changes = self.tracked.take_changes();
        if random.one_in(20) {
            // As after a source has begun anew; indices name other contents from here on.
            changes = Changes::everything();
        }
        let delta = self.compiler.update(self.tracked.cluster(), &self.scope, &changes);
        let whole = compile(self.tracked.cluster(), &self.scope);
        assert_same(self.compiler.compiled(), &whole, self.tracked.cluster(), &self.scope);
        let locals = self.locals();
        let stay: Vec<LocalEndpoint> =
            self.present.iter().filter(|local| locals.contains(local)).cloned().collect();
        let failures = if random.one_in(4) { 1 + random.below(2) } else { 0 };
        let Self { tracked, compiler, chain, scope, .. } = self;
        let mut delta = Some(delta);
        chain
            .update(&questions(&stay), failures, |planner| {
                // Another attempt has nothing new to tell.
                let nothing = || compiler.update(tracked.cluster(), scope, &Changes::default());
                let delta = delta.take().unwrap_or_else(nothing);
                planner.plan_changes(compiler.compiled(), &delta, &locals)
            })
            .unwrap();
        let all = questions(&locals);
        let fresh = filled_afresh(&whole, &locals).unwrap();
        assert_eq!(answers(&self.chain.tables, &all), answers(&fresh, &all));
        if random.one_in(2) {
            self.chain.unwatch().unwrap();
        }
        let contested = |address: &IpAddr| self.tracked.cluster().pods.owner(*address) == Owner::Contested;
        self.contested += self.tracked.cluster().pods.shared_addresses().filter(contested).count() as u64;
        self.present = locals;
    }
}

impl World {
    /// Pods go and come back as they were: nothing that the tables lack is needed. Returns the number of steps.
    fn come_and_go(
        &mut self,
        questions: &dyn Fn(&[LocalEndpoint]) -> Vec<Question>,
        random: &mut Random,
    ) -> u64 {
        for _ in 0..4 {
            let pods: Vec<Arc<Pod>> = self.tracked.cluster().pods.values().cloned().collect();
            let Some(pod) = random.pick(&pods) else { return 0 };
            self.tracked.remove_pod(&pod.id);
            self.step(questions, random);
            self.tracked.insert_pod(Pod::clone(pod));
            self.step(questions, random);
        }
        8
    }
}

#[test]
fn increments_are_what_a_whole_compilation_is() {
    let (mut counts, mut steps, mut contested, mut judged, mut denied) = (Counts::default(), 0, 0, 0, 0);
    for first in 0..chains() {
        let mut random = Random::new(first);
        let mut world = World::new(&mut random);
        for seed in first * CLUSTERS..(first + 1) * CLUSTERS {
            let cluster = random_cluster(seed);
            let goal = read(&cluster).unwrap();
            let flows = random_flows(&cluster, seed, 30);
            let questions = |locals: &[LocalEndpoint]| -> Vec<Question> {
                flows
                    .iter()
                    .flat_map(|flow| at_both_ends(flow.from, flow.to, transport(flow), locals))
                    .collect()
            };
            for _ in 0..random.below(8) {
                if random.one_in(2) {
                    disturb(&mut world.tracked, &mut random);
                }
                let left = differences(world.tracked.cluster(), &goal);
                for _ in 0..1 + random.below(2) {
                    if let Some(difference) = random.pick(&left) {
                        take_over(&mut world.tracked, &goal, difference);
                    }
                }
                if let Scope::Node { addresses, .. } = &mut world.scope
                    && random.one_in(4)
                {
                    let all: Vec<IpAddr> =
                        goal.nodes.values().flat_map(|node| &node.addresses).copied().collect();
                    *addresses = random.pick(&all).copied().into_iter().collect();
                }
                world.step(&questions, &mut random);
                steps += 1;
            }
            loop {
                let left = differences(world.tracked.cluster(), &goal);
                if left.is_empty() {
                    break;
                }
                for difference in left {
                    take_over(&mut world.tracked, &goal, &difference);
                }
            }
            if let Scope::Node { addresses, .. } = &mut world.scope {
                // The oracle's node has those that its object names.
                addresses.clear();
            }
            world.step(&questions, &mut random);
            steps += 1 + world.come_and_go(&questions, &mut random);
            // What a pod sends to itself crosses no interface.
            let on_the_wire = |flow: &&Flow| flow.origin == Origin::Wire && flow.from != flow.to;
            for flow in flows.iter().filter(on_the_wire) {
                let want = judge(&cluster, flow);
                for question in at_both_ends(flow.from, flow.to, transport(flow), &world.present) {
                    let want = match question.arrival.direction {
                        Direction::Egress => want.egress,
                        Direction::Ingress => want.ingress,
                    };
                    let got = answers(&world.chain.tables, std::slice::from_ref(&question));
                    assert_eq!(got, [want == Verdict::Allow], "seed {seed}, {flow}, {:?}", question.arrival);
                    judged += 1;
                    denied += u64::from(want == Verdict::Deny);
                }
            }
        }
        let Counts { checks, changed, barriers, failures, address_plans } = world.chain.counts;
        counts.checks += checks;
        counts.changed += changed;
        counts.barriers += barriers;
        counts.failures += failures;
        counts.address_plans += address_plans;
        contested += world.contested;
    }
    println!(
        "{steps} steps, {counts:?}, {contested} contested addresses, {judged} judged, {denied} of them denied"
    );
    assert!(counts.changed > 100 && counts.failures > 20 && counts.address_plans > 20, "{counts:?}");
    assert!(contested > 10 && denied > judged / 10 && denied < judged * 9 / 10);
}
