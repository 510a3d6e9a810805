//! One cluster through the real pipeline: read, compiled, planned and written as a whole; then changes at a fixed pace.
//! It runs in a process of its own, because memory is part of what is measured.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use policy_agent::compile::{Compiler, Scope, compile};
use policy_agent::datapath::bpf::{AttachMode, BpfDatapath};
use policy_agent::datapath::{Datapath, WriteError, enforce_changes, unwatch};
use policy_agent::model::{ObjectName, Tracked};
use policy_agent::plan::{Capacity, LocalEndpoint, Op, Planner};
use serde::{Deserialize, Serialize};
use sluice_tests::kernel::Bpffs;
use sluice_tests::random::Random;

use super::cluster::Shape;
use crate::median;

/// Changes in a second.
pub(crate) const RATE: u32 = 1000;
pub(crate) const SECONDS: u32 = 20;
/// Policies that change in a second, every other one in a namespace of a pod of this node.
const POLICIES: u32 = 1;
/// Pods that are being replaced at any time.
const REPLACEMENTS: usize = 64;
/// Whole compilations whose median counts.
const COMPILATIONS: usize = 5;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) pods: u32,
    pub(crate) namespaces: u32,
    pub(crate) policies: u32,
    pub(crate) endpoints: usize,
    pub(crate) classes: usize,
    pub(crate) sets: usize,
    /// Addresses in the tables.
    pub(crate) addresses: usize,
    pub(crate) compile_ms: f64,
    pub(crate) plan_ms: f64,
    pub(crate) write_ms: f64,
    pub(crate) writes: usize,
    /// Resident, in MiB: before the cluster was read, with all of it enforced, and at the end.
    pub(crate) rss_before: f64,
    pub(crate) rss_enforced: f64,
    pub(crate) rss_end: f64,
    /// The highest at any time.
    pub(crate) rss_peak: f64,
    /// What a pod adds to the state, its share of namespaces and policies included.
    pub(crate) bytes_per_pod: f64,
    pub(crate) events: usize,
    /// Of those, how many took a write to a table.
    pub(crate) events_writing: usize,
    pub(crate) event_writes: usize,
    /// From when an event was due to after the last write, in milliseconds; of all events, and of those that took one.
    pub(crate) event_ms: Spread,
    /// The same where pods alone change.
    pub(crate) pods_ms: Spread,
    pub(crate) writing_ms: Spread,
    pub(crate) cpu_seconds: f64,
    /// Processor time of each update, in milliseconds, whatever else the machine did.
    pub(crate) update_cpu_ms: Spread,
    /// Barriers that changes took, and how long those were in all.
    pub(crate) barriers: usize,
    pub(crate) barriers_ms: f64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |part: usize| values.get((values.len() * part / 1000).min(values.len() - 1));
        let at = |part| at(part).copied().unwrap_or(0.0);
        Self { p50: at(500), p99: at(990), max: at(1000) }
    }
}

/// The tables, and how long barriers took.
struct Timed<'a> {
    tables: &'a mut BpfDatapath,
    barriers: &'a mut Barriers,
}

#[derive(Clone, Copy, Debug, Default)]
struct Barriers {
    count: usize,
    milliseconds: f64,
}

impl Datapath for Timed<'_> {
    fn apply(&mut self, op: &Op) -> Result<(), WriteError> {
        let began = Instant::now();
        let result = self.tables.apply(op);
        if *op == Op::Barrier {
            self.barriers.count += 1;
            self.barriers.milliseconds += milliseconds(began);
        }
        result
    }
}

struct Simulation {
    shape: Shape,
    random: Random,
    tracked: Tracked,
    scope: Scope,
    compiler: Compiler,
    planner: Planner,
    datapath: BpfDatapath,
    /// How often the pod at each place was replaced.
    generations: Vec<u32>,
    locals: BTreeMap<ObjectName, LocalEndpoint>,
    /// Replacements that have begun, and the step that each is at.
    begun: VecDeque<(u32, u8)>,
    variants: BTreeMap<u32, u32>,
    barriers: Barriers,
    update_cpu: Vec<f64>,
    /// Policies change too.
    with_policies: bool,
}

pub(crate) fn measure(pods: u32, object: &Path) -> anyhow::Result<Sample> {
    let object = std::fs::read(object).with_context(|| object.display().to_string())?;
    let pins = Bpffs::new("scale");
    let capacity = Capacity::default();
    let shape = Shape { pods };
    let mut simulation = Simulation {
        shape,
        random: Random::new(u64::from(pods)),
        tracked: Tracked::default(),
        scope: Scope::Node { name: Some("node-0".to_owned()), addresses: ["10.0.0.1".parse()?].into() },
        compiler: Compiler::default(),
        planner: Planner::new(capacity),
        datapath: BpfDatapath::load_object(&object, pins.path(), &capacity, AttachMode::Auto)?,
        generations: vec![0; pods as usize],
        locals: BTreeMap::new(),
        begun: VecDeque::new(),
        variants: BTreeMap::new(),
        barriers: Barriers::default(),
        update_cpu: Vec::new(),
        with_policies: false,
    };
    drop(object);
    simulation.run()
}

impl Simulation {
    fn run(&mut self) -> anyhow::Result<Sample> {
        let shape = self.shape;
        let rss_before = memory("VmRSS:")?;
        self.read();
        let rss_read = memory("VmRSS:")?;

        let changes = self.tracked.take_changes();
        let delta = self.compiler.update(self.tracked.cluster(), &self.scope, &changes);
        let locals = self.endpoints();
        let began = Instant::now();
        let plan = self.planner.plan_changes(self.compiler.compiled(), &delta, &locals)?;
        let plan_ms = milliseconds(began);
        let began = Instant::now();
        plan.iter().try_for_each(|op| self.datapath.apply(op))?;
        self.planner.applied();
        let write_ms = milliseconds(began);
        let writes = plan.len();
        drop(plan);
        unwatch(&mut self.planner, &mut self.datapath, &BTreeSet::new())?;
        let rss_enforced = memory("VmRSS:")?;

        let (pods_alone, _, _) = self.churn(locals)?;
        self.update_cpu.clear();
        self.barriers = Barriers::default();
        self.with_policies = true;
        let cpu = thread_cpu()?;
        let locals = self.endpoints();
        let (all, writing, event_writes) = self.churn(locals)?;
        let cpu_seconds = (thread_cpu()? - cpu).as_secs_f64();
        let (rss_end, rss_peak) = (memory("VmRSS:")?, memory("VmHWM:")?);

        let compilations = (0..COMPILATIONS).map(|_| {
            let began = Instant::now();
            drop(compile(self.tracked.cluster(), &self.scope));
            milliseconds(began)
        });
        let compile_ms = median(compilations.collect());
        let compiled = self.compiler.compiled();
        Ok(Sample {
            pods: shape.pods,
            namespaces: shape.namespaces(),
            policies: shape.policies(),
            endpoints: self.locals.len(),
            classes: compiled.signatures.len(),
            sets: compiled.sets.len(),
            addresses: compiled.addresses.len(),
            compile_ms,
            plan_ms,
            write_ms,
            writes,
            rss_before,
            rss_enforced,
            rss_end,
            rss_peak,
            bytes_per_pod: (rss_read - rss_before) * 1024.0 * 1024.0 / f64::from(shape.pods),
            events: all.len(),
            events_writing: writing.len(),
            event_writes,
            pods_ms: Spread::of(pods_alone),
            event_ms: Spread::of(all),
            writing_ms: Spread::of(writing),
            cpu_seconds,
            update_cpu_ms: Spread::of(std::mem::take(&mut self.update_cpu)),
            barriers: self.barriers.count,
            barriers_ms: self.barriers.milliseconds,
        })
    }

    fn read(&mut self) {
        let Self { shape, tracked, .. } = self;
        for number in 0..shape.namespaces() {
            let (name, labels) = Shape::namespace(number);
            tracked.insert_namespace(name, labels);
            tracked.insert_policy(Shape::policy(number, 0, 0));
            tracked.insert_policy(Shape::policy(number, 1, 0));
        }
        for place in 0..shape.pods {
            self.insert(place, 0, true);
        }
    }

    fn insert(&mut self, place: u32, generation: u32, address: bool) {
        let pod = self.shape.pod(place, generation, address);
        if self.shape.is_local(place) && address {
            let local = LocalEndpoint {
                pod: pod.id.clone(),
                ifindex: 100 + place / self.shape.nodes() * 8 + generation % 8,
                addresses: pod.addresses.clone(),
                sources: Vec::new(),
            };
            self.locals.insert(pod.id.clone(), local);
        }
        self.tracked.insert_pod(pod);
    }

    fn endpoints(&self) -> Vec<LocalEndpoint> {
        self.locals.values().cloned().collect()
    }

    /// Events as they are due, those that wait together; returns how long each took, how long those took that wrote, and
    /// how many writes there were.
    fn churn(&mut self, mut locals: Vec<LocalEndpoint>) -> anyhow::Result<(Vec<f64>, Vec<f64>, usize)> {
        let total = RATE * SECONDS;
        let (mut all, mut writing, mut writes) = (Vec::with_capacity(total as usize), Vec::new(), 0);
        let start = Instant::now();
        let due = |event: u32| start + Duration::from_secs(1) / RATE * event;
        let mut next = 0;
        while next < total {
            std::thread::sleep(due(next).saturating_duration_since(Instant::now()));
            let (first, cpu) = (next, thread_cpu()?);
            // A policy is taken by itself: together with pods it may take a barrier that neither takes alone.
            while next < total
                && due(next) <= Instant::now()
                && (next == first || !self.is_about_policy(next))
            {
                let here = self.event(next);
                if here {
                    locals = self.endpoints();
                }
                next += 1;
                if self.is_about_policy(next - 1) {
                    break;
                }
            }
            let changes = self.tracked.take_changes();
            let delta = self.compiler.update(self.tracked.cluster(), &self.scope, &changes);
            let compiled = self.compiler.compiled();
            let mut tables = Timed { tables: &mut self.datapath, barriers: &mut self.barriers };
            let written = enforce_changes(&mut self.planner, &mut tables, compiled, &delta, &locals)?;
            let now = Instant::now();
            self.update_cpu.push((thread_cpu()? - cpu).as_secs_f64() * 1000.0);
            for event in first..next {
                let took = now.duration_since(due(event)).as_secs_f64() * 1000.0;
                all.push(took);
                if written > 0 {
                    writing.push(took);
                }
            }
            writes += written;
            // As the agent does a second after a change, when it has looked through the flow table.
            if next / RATE > first / RATE {
                unwatch(&mut self.planner, &mut self.datapath, &BTreeSet::new())?;
            }
        }
        Ok((all, writing, writes))
    }

    const fn is_about_policy(&self, event: u32) -> bool {
        self.with_policies && event.is_multiple_of(RATE / POLICIES)
    }

    fn any_place(&mut self) -> u32 {
        // Below the number of pods, which is a u32.
        u32::try_from(self.random.below(self.shape.pods as usize)).unwrap_or(0)
    }

    /// One event of the API; returns whether it is about a pod of this node. A replacement is four: the new pod, its
    /// address, the old pod's deletion, its end.
    fn event(&mut self, number: u32) -> bool {
        if self.is_about_policy(number) {
            let local = (number / (RATE / POLICIES)).is_multiple_of(2);
            let place = self.any_place();
            let place = if local { place - place % self.shape.nodes() } else { place };
            let namespace = self.shape.namespace_of(place);
            let variant = self.variants.entry(namespace).or_default();
            *variant += 1;
            self.tracked.insert_policy(Shape::policy(namespace, 1, *variant));
            return false;
        }
        let place = self.any_place();
        let is_new = self.begun.len() < REPLACEMENTS && self.begun.iter().all(|(begun, _)| *begun != place);
        let (place, step) = match self.begun.pop_front() {
            Some(begun) if !is_new => begun,
            first => {
                self.begun.extend(first);
                (place, 0)
            }
        };
        let generation = self.generations[place as usize];
        match step {
            0 => self.insert(place, generation + 1, false),
            1 => self.insert(place, generation + 1, true),
            2 => {
                let old = self.shape.pod(place, generation, true);
                self.tracked.insert_pod(policy_agent::model::Pod { terminating: true, ..old });
            }
            _ => {
                let old = self.shape.pod_name(place, generation);
                self.tracked.remove_pod(&old);
                self.locals.remove(&old);
                self.generations[place as usize] += 1;
                return self.shape.is_local(place);
            }
        }
        self.begun.push_back((place, step + 1));
        self.shape.is_local(place)
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// In MiB.
fn memory(field: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("/proc/self/status")?;
    Ok(kib / 1024.0)
}

/// Of this thread, which is the only one that does anything.
fn thread_cpu() -> anyhow::Result<Duration> {
    Ok(nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
