//! Frontends in the tables, from one change to the next: at every write a frontend has the list of before or that of
//! after, whole, whatever fails and whoever takes over.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Result, ensure};
use policy_agent::compile::{Compiled, Scope, compile};
use policy_agent::datapath::Datapath as _;
use policy_agent::datapath::memory::Memory;
use policy_agent::model::services::{Backend, Frontend, Target};
use policy_agent::model::{Cluster, ObjectName, Protocol};
use policy_agent::plan::{Capacity, Op, Planner};
use policy_common::Tables as _;
use policy_common::maps::{Addr6, SERVICE_AFFINITY, SERVICE_CLOSED, SERVICE_MOST, ServiceKey};
use sluice_tests::random::Random;

/// Small enough that space runs out and is used again.
const SMALL: Capacity = Capacity {
    words: 64,
    rows: 256,
    endpoints: 16,
    peers: 16,
    cidrs: 16,
    sources: 16,
    services: 24,
    backends: 400,
    flow_sets: 1024,
    index_blocks: 256,
};

/// What a packet to a frontend would find: the backends, and the seconds of affinity.
type Found = Option<(Vec<Backend>, Option<u32>, bool)>;

fn frontend(number: usize) -> Frontend {
    let last = u8::try_from(number % 5).unwrap_or(0);
    let address = match number % 2 {
        0 => IpAddr::from([10, 96, 0, last]),
        _ => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 96, u16::from(last)]),
    };
    let protocol = Protocol::ALL[number % 3];
    Frontend { address, port: 80, protocol }
}

const FRONTENDS: usize = 24;

fn random_target(random: &mut Random, v4: bool) -> Target {
    let backend = |n: usize| Backend {
        address: match v4 {
            true => Ipv4Addr::from_bits(0x0af4_0000 + u32::try_from(n).unwrap_or(0)).into(),
            false => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 1, u16::try_from(n).unwrap_or(0)]),
        },
        port: 8080,
    };
    let count = [0, 1, 2, 3, 7, 12][random.below(6)];
    // Few contents, so that lists are shared.
    let first = random.below(3);
    let backends: Arc<[Backend]> = (first..first + count).map(backend).collect();
    let closed = random.one_in(8);
    Target {
        service: ObjectName::new("ns", format!("s{}", random.below(3))),
        port_name: String::new(),
        backends,
        affinity: random.one_in(3).then_some(600),
        sources: if closed {
            ["192.0.2.0/24".parse().ok()].into_iter().flatten().collect()
        } else {
            [].into()
        },
    }
}

fn random_frontends(random: &mut Random, before: &BTreeMap<Frontend, Target>) -> BTreeMap<Frontend, Target> {
    let mut all = before.clone();
    for _ in 0..=random.below(6) {
        let frontend = frontend(random.below(FRONTENDS));
        if random.one_in(3) {
            all.remove(&frontend);
        } else {
            all.insert(frontend, random_target(random, frontend.address.is_ipv4()));
        }
    }
    all
}

fn wanted(target: Option<&Target>) -> Found {
    target.map(|target| match target.sources.is_empty() {
        true if target.backends.is_empty() => (Vec::new(), None, false),
        true => (target.backends.to_vec(), target.affinity, false),
        false => (Vec::new(), None, true),
    })
}

fn found(tables: &Memory, frontend: &Frontend) -> Found {
    let (address, family) = Addr6::of(frontend.address);
    let key = ServiceKey { address, port: frontend.port, protocol: frontend.protocol.number(), family };
    if !tables.may_be_frontend(&address.words()) {
        return None;
    }
    let to = tables.service(&key)?;
    if to.count & SERVICE_CLOSED != 0 {
        return Some((Vec::new(), None, true));
    }
    let places = to.first..to.first + (to.count & SERVICE_MOST);
    let read = |entry: policy_common::maps::BackendEntry| Backend {
        address: entry.address.ip(family),
        port: entry.port,
    };
    let backends = places.filter_map(|place| tables.backend(place)).map(read).collect();
    let head = (to.count & SERVICE_AFFINITY != 0).then(|| tables.backend(to.first - 1)).flatten();
    Some((backends, head.map(|head| head.address.words()[0]), false))
}

struct Chain {
    planner: Planner,
    tables: Memory,
    compiled: Compiled,
}

impl Chain {
    fn new() -> Self {
        let compiled = compile(&Cluster::default(), &Scope::Cluster);
        Self { planner: Planner::new(SMALL), tables: Memory::new(&SMALL), compiled }
    }

    /// Applies so many operations of the plan at the most; each leaves old or new lists.
    fn update(&mut self, after: BTreeMap<Frontend, Target>, most: usize) -> Result<()> {
        let before: Vec<Found> = (0..FRONTENDS).map(|n| found(&self.tables, &frontend(n))).collect();
        self.compiled.frontends = after;
        let plan = self.planner.plan(&self.compiled, &[])?;
        for (index, op) in plan.iter().enumerate() {
            if index == most {
                self.planner.failed(index);
                return Ok(());
            }
            self.tables.apply(op)?;
            for (number, before) in before.iter().enumerate() {
                let at = frontend(number);
                let (now, after) = (found(&self.tables, &at), wanted(self.compiled.frontends.get(&at)));
                ensure!(
                    now == *before || now == after,
                    "{at:?} after {op:?}: {now:?}\n{before:?}\n{after:?}"
                );
            }
        }
        self.planner.applied();
        for number in 0..FRONTENDS {
            let at = frontend(number);
            ensure!(found(&self.tables, &at) == wanted(self.compiled.frontends.get(&at)), "{at:?}");
        }
        Ok(())
    }

    /// Another agent takes the tables over.
    fn adopt(&mut self) -> Result<()> {
        let present = self.tables.present();
        self.planner =
            Planner::adopt(SMALL, present, &self.compiled, &[]).map_err(|why| anyhow::anyhow!("{why}"))?;
        Ok(())
    }
}

fn chains(seeds: std::ops::Range<u64>, steps: usize, failures: bool) -> Result<()> {
    for seed in seeds {
        let (mut random, mut chain) = (Random::new(seed), Chain::new());
        for step in 0..steps {
            let after = random_frontends(&mut random, &chain.compiled.frontends);
            let most = if failures && random.one_in(3) { random.below(20) } else { usize::MAX };
            let done = chain.update(after, most);
            done.map_err(|error| error.context(format!("seed {seed}, step {step}")))?;
            if failures && random.one_in(4) {
                chain.adopt()?;
            }
        }
    }
    Ok(())
}

#[test]
fn lists_are_those_of_before_or_after_at_every_write() -> Result<()> {
    chains(0..40, 60, false)
}

#[test]
fn they_are_so_after_failed_writes_and_under_agents_that_take_over() -> Result<()> {
    chains(1000..1040, 60, true)
}

#[test]
fn who_takes_over_what_is_right_writes_nothing() -> Result<()> {
    for seed in 0..20 {
        let (mut random, mut chain) = (Random::new(seed), Chain::new());
        for _ in 0..8 {
            let after = random_frontends(&mut random, &chain.compiled.frontends);
            chain.update(after, usize::MAX)?;
        }
        chain.adopt()?;
        let plan = chain.planner.plan(&chain.compiled, &[])?;
        let writes: Vec<&Op> = plan.iter().filter(|op| **op != Op::Barrier).collect();
        ensure!(writes.is_empty(), "seed {seed}: {writes:?}");
    }
    Ok(())
}

#[test]
fn what_does_not_fit_changes_nothing_and_says_which_table() -> Result<()> {
    let mut chain = Chain::new();
    chain.update(BTreeMap::from([(frontend(0), random_target(&mut Random::new(3), true))]), usize::MAX)?;
    let before = chain.tables.present();
    let many = |count: u32| Target {
        service: ObjectName::new("ns", "many"),
        port_name: String::new(),
        backends: (0..count)
            .map(|n| Backend { address: Ipv4Addr::from_bits(0x0af5_0000 + n).into(), port: 1 })
            .collect(),
        affinity: None,
        sources: [].into(),
    };
    chain.compiled.frontends.insert(frontend(2), many(500));
    let full = chain.planner.plan(&chain.compiled, &[]).map_err(|full| full.table);
    ensure!(full == Err("backends"), "{full:?}");
    chain.compiled.frontends = (0..25).map(|n| (Frontend { port: n, ..frontend(0) }, many(1))).collect();
    let full = chain.planner.plan(&chain.compiled, &[]).map_err(|full| full.table);
    ensure!(full == Err("services"), "{full:?}");
    ensure!(chain.tables.present() == before);
    Ok(())
}
