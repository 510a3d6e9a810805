//! The pipeline from end to end: compile, plan, apply, attach.

mod generations;
pub(super) mod repair;
mod room;
pub(super) mod standing;
pub(super) mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use policy_common::maps::Event;

use super::connections::Connections;
use super::drops::{Drops, describe};
use super::errors::Errors;
use super::flow_words::flows_in_words;
use super::held::Held;
use super::input::Input;
use super::overlay::{Overlay, strangers};
use super::place::{Found, Leave, Places, addresses};
use super::status::{EndpointState, EndpointStatus, FlowStatus, Status};
use super::{FAILED_RETRY, WAITING_RETRY};
use crate::compile::{Compiled, Compiler, Delta, Scope};
use crate::config::{Fallback, RunOptions};
use crate::datapath::bpf::{BpfDatapath, Totals, pinned_capacity};
use crate::endpoints::{self, Cache, Scan, scan};
use crate::metrics::Metrics;
use crate::model::{Changes, ObjectName};
use crate::plan::{Limits, LocalEndpoint, Planner};
use repair::Repairs;
use room::Refused;
use tables::FlowCount;

/// What is looked at besides what the source says has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The interfaces of the node may have changed too; where that was seen, when.
    AtInterfaces(Option<Instant>),
    OnlyAtObjects,
}

pub(super) struct Core {
    pub(super) input: Input,
    node: Option<String>,
    close_strangers: bool,
    pub(super) overlay: Overlay,
    cache: Cache,
    scan: Scan,
    /// The last look at the interfaces succeeded.
    looked: bool,
    compiler: Compiler,
    limits: Limits,
    planner: Planner,
    datapath: BpfDatapath,
    places: Places,
    found: BTreeMap<ObjectName, Found>,
    locals: Vec<LocalEndpoint>,
    connections: Connections,
    /// Interfaces by index, as last enforced: events name them.
    interfaces: BTreeMap<u32, (ObjectName, String)>,
    errors: Errors,
    status: Status,
    settled: bool,
    /// Interfaces must move to tables of a new generation.
    moving: bool,
    /// Looks in a row that changed nothing.
    unchanged: u32,
    metrics: Metrics,
    /// Interfaces of pods, and when each was first seen; those that were there before this agent have no such moment.
    seen: BTreeMap<u32, Option<Instant>>,
    /// The numbers of our programs.
    programs: BTreeSet<u32>,
    flow_count: Option<FlowCount>,
    held: Held,
    refused: Refused,
    /// Tables that something does not fit into.
    full: BTreeSet<&'static str>,
    memory: u64,
    repairs: Repairs,
    /// Warnings of other policy engines.
    neighbours: Vec<String>,
}

impl Core {
    pub(super) fn start(options: &RunOptions, input: Input, metrics: Metrics) -> anyhow::Result<Self> {
        let limits = options.tables.limits()?;
        let bpffs = &options.enforcement.bpffs.bpffs;
        // Those of the agent before may have grown.
        let capacity =
            pinned_capacity(bpffs).filter(|found| limits.allow(found)).unwrap_or_else(|| limits.start());
        let enforcement = &options.enforcement;
        let mut datapath = BpfDatapath::load(&enforcement.bpffs.bpffs, &capacity, enforcement.attach)?;
        tracing::info!(
            "programs loaded, pinned below {}; {} interfaces were enforced before",
            enforcement.bpffs.bpffs.display(),
            datapath.attached().len()
        );
        Ok(Self {
            input,
            node: options.source.node.clone(),
            close_strangers: enforcement.unknown_endpoints == Fallback::Closed,
            overlay: Overlay::default(),
            cache: Cache::new(endpoints::Options {
                netns_dir: enforcement.netns_dir.clone(),
                proc_scan: enforcement.proc_scan,
            }),
            scan: Scan::default(),
            looked: false,
            compiler: Compiler::default(),
            planner: Planner::new(capacity),
            programs: datapath.program_ids()?,
            datapath,
            places: Places::default(),
            found: BTreeMap::new(),
            locals: Vec::new(),
            connections: Connections::default(),
            interfaces: BTreeMap::new(),
            errors: Errors::default(),
            status: Status::default(),
            settled: false,
            moving: false,
            unchanged: 0,
            metrics,
            seen: BTreeMap::new(),
            flow_count: None,
            held: Held::default(),
            refused: Refused::default(),
            full: BTreeSet::new(),
            memory: limits.memory(),
            limits,
            repairs: Repairs::default(),
            neighbours: Vec::new(),
        })
    }

    pub(super) const fn programs(&self) -> &BTreeSet<u32> {
        &self.programs
    }

    pub(super) fn interface_names(&self) -> Vec<String> {
        self.interfaces.values().map(|(_, name)| name.clone()).collect()
    }

    /// Says what is no error of ours, and may be one of the node's.
    pub(super) fn set_warnings(&mut self, warnings: Vec<String>) {
        self.neighbours = warnings;
        self.status.warnings = self.warnings();
    }

    pub(super) fn totals(&self) -> anyhow::Result<Totals> {
        Ok(self.datapath.totals()?)
    }

    pub(super) fn lost_events(&self) -> Option<u64> {
        let lost = self.datapath.lost_events();
        lost.inspect_err(|error| tracing::warn!("reading how many drops were not reported: {error}")).ok()
    }

    pub(super) fn is_in_force(&self) -> bool {
        let Errors { tables, room, interfaces, .. } = &self.errors;
        tables.is_empty() && room.is_empty() && interfaces.is_empty()
    }

    pub(super) const fn status(&self) -> &Status {
        &self.status
    }

    /// The pods of this node that policies can select.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &ObjectName> + Clone {
        self.compiled().endpoints.keys()
    }

    const fn compiled(&self) -> &Compiled {
        self.compiler.compiled()
    }

    pub(super) fn is_node(&self, name: &str) -> bool {
        self.node.as_deref() == Some(name)
    }

    pub(super) fn drops(&mut self) -> anyhow::Result<Drops> {
        Ok(self.datapath.events()?)
    }

    pub(super) fn follow_debug_log(&mut self) {
        self.datapath.follow_debug_log();
    }

    pub(super) fn report(&self, events: &[Event]) {
        for event in events {
            tracing::debug!("{}", describe(event, &self.interfaces));
        }
    }

    /// How long until something that could not be done should be tried again.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let any = |state| self.status.endpoints.iter().any(|e| e.state == state);
        if any(EndpointState::Waiting) {
            // Ever slower while nothing changes: most of what it waits for announces itself.
            Some((WAITING_RETRY * 2_u32.saturating_pow(self.unchanged)).min(FAILED_RETRY))
        } else if any(EndpointState::Failed) || !self.status.synced {
            Some(FAILED_RETRY)
        } else {
            None
        }
    }

    /// The flow table, in words; empty where it cannot be read.
    pub(super) fn flows(&mut self) -> Vec<FlowStatus> {
        match self.datapath.flows() {
            Ok((flows, now)) => flows_in_words(&flows, now, &self.interfaces),
            Err(error) => {
                tracing::warn!("reading the flow table: {error}");
                Vec::new()
            }
        }
    }

    /// When the flow table should be looked through.
    pub(super) const fn sweep_at(&self) -> Option<Instant> {
        self.connections.sweep_at()
    }

    pub(super) fn sweep(&mut self) {
        match self.connections.sweep(&mut self.planner, &mut self.datapath) {
            Ok(count) => self.flow_count = count.or(self.flow_count),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Brings the kernel to what the source and the interfaces say now. `received`: when the source told it.
    pub(super) fn reconcile(&mut self, look: Look, received: Option<Instant>) {
        self.errors.source = self.input.problems();
        if !self.input.has_begun() {
            self.status.errors = self.errors.list();
            return;
        }
        let started = Instant::now();
        let at_interfaces = matches!(look, Look::AtInterfaces(_));
        if at_interfaces || !self.looked {
            self.look(look);
        }
        self.write_overlay();
        let changes = self.input.tracked().take_changes();
        let changes = self.hold_back(changes);
        let delta = self.compile(&changes);
        let retried = !self.is_in_force() || self.status.generation == 0;
        let endpoints =
            at_interfaces || retried || delta.concerns_endpoints() || self.is_about_endpoints(&changes);
        if endpoints {
            self.locate();
            let compiled = self.compiler.compiled();
            self.errors.connections =
                self.connections.learn(&mut self.datapath, compiled, &self.locals, &self.scan);
        }
        let written = self.enforce(&delta, (!changes.everything).then_some(&changes.policies));
        if retried && self.errors.tables.is_empty() {
            // Endpoints may have gone while nobody looked, or in a plan that failed midway.
            let frontends = &self.compiler.compiled().frontends;
            if let Err(error) = self.datapath.forsake_stale(frontends) {
                tracing::warn!("looking for endpoints that are gone: {error}");
            }
        }
        // Also after a failure: an interface without its entry in the tables is closed, without a program it is open.
        let attached = if endpoints || std::mem::take(&mut self.moving) { self.attach() } else { 0 };
        if let Some(received) = received.filter(|_| written > 0 && self.errors.tables.is_empty()) {
            self.metrics.implemented(received.elapsed());
        }
        self.publish(written, attached, started);
        self.held.restore(self.input.tracked());
    }

    /// Whether a change may make, move or alter an endpoint of this node.
    fn is_about_endpoints(&self, changes: &Changes) -> bool {
        let (scope, cluster) = (self.scope(), self.input.cluster());
        let is_endpoint = |name: &ObjectName| {
            self.found.contains_key(name)
                || self.compiled().endpoints.contains_key(name)
                || cluster.pods.get(name).is_some_and(|pod| scope.is_endpoint(pod))
        };
        changes.everything || changes.pods.iter().any(is_endpoint)
    }

    fn look(&mut self, look: Look) {
        let first = !self.looked;
        self.errors.scan.clear();
        let scanned = scan(&mut self.cache);
        self.looked = scanned.is_ok();
        match scanned {
            Ok(scan) => self.scan = scan,
            Err(error) => self.errors.scan.push(format!("looking for the pods' interfaces: {error}")),
        }
        self.errors.scan.extend(self.scan.problems.iter().cloned());
        let there: BTreeSet<u32> = self.scan.interfaces.values().map(|interface| interface.ifindex).collect();
        self.seen.retain(|ifindex, _| there.contains(ifindex));
        let seen = match look {
            Look::AtInterfaces(Some(seen)) if !first => Some(seen),
            _ => None,
        };
        for ifindex in there {
            self.seen.entry(ifindex).or_insert(seen);
        }
    }

    fn write_overlay(&mut self) {
        let strangers = match self.close_strangers {
            true => strangers(self.input.cluster(), &self.scan),
            false => BTreeMap::new(),
        };
        self.overlay.apply(self.input.tracked(), strangers);
    }

    fn scope(&self) -> Scope {
        Scope::Node { name: self.node.clone(), addresses: self.scan.own_addresses.clone() }
    }

    fn compile(&mut self, changes: &Changes) -> Delta {
        let (scope, started) = (self.scope(), Instant::now());
        let delta = self.compiler.update(self.input.cluster(), &scope, changes);
        if !delta.is_empty() {
            self.metrics.compiled(started.elapsed());
        }
        delta
    }

    /// Finds the endpoints' interfaces, and lets those go that no pod has any more.
    fn locate(&mut self) {
        self.errors.places.clear();
        self.errors.interfaces.clear();
        let cluster = self.input.cluster();
        self.found = self.places.find(cluster, self.compiler.compiled(), &self.scan, &mut self.errors.places);
        let all_known = self.looked && self.input.is_whole();
        for (ifindex, attached) in self.datapath.attached().clone() {
            match self.places.leave(ifindex, &attached.name, &self.found, all_known) {
                Leave::Wanted => {}
                Leave::Detach => {
                    if let Err(error) = self.datapath.detach(ifindex) {
                        self.errors.interfaces.push(error.to_string());
                    }
                }
                Leave::AsItIs => self.errors.places.push(format!(
                    "interface {}: enforced by an agent before this one, and no pod that could be read explains it: \
                     it stays as it was",
                    attached.name
                )),
            }
        }
        self.locals = self
            .found
            .iter()
            .filter_map(|(name, found)| {
                let addresses = addresses(cluster, name)?.to_vec();
                let sources = cluster.pods.get(name).map(|pod| pod.sources.clone()).unwrap_or_default();
                Some(LocalEndpoint {
                    pod: name.clone(),
                    ifindex: found.interface()?.ifindex,
                    addresses,
                    sources,
                })
            })
            .collect();
    }

    /// Hangs the programs on every endpoint's interface; returns on how many they were not before.
    fn attach(&mut self) -> usize {
        let mut attached = BTreeSet::new();
        self.interfaces.clear();
        for (name, found) in &self.found {
            let Some(interface) = found.interface() else { continue };
            if self.refused.closed.contains_key(name)
                && self.datapath.attached().get(&interface.ifindex).is_some_and(|attached| !attached.current)
            {
                // An agent before this one had room for it: what it enforced stays.
                continue;
            }
            self.interfaces.insert(interface.ifindex, (name.clone(), interface.name.clone()));
            let uid = self.input.cluster().pods.get(name).map(|pod| pod.uid.as_str());
            if self.places.has_changed_hands(interface.ifindex, name, uid) {
                self.datapath.doubt(interface.ifindex);
            }
            let before = self.datapath.attached().get(&interface.ifindex).cloned();
            if let Err(error) = self.datapath.attach(interface.ifindex, &interface.name) {
                self.metrics.attach_failed();
                self.errors.interfaces.push(format!("pod {name}: {error}"));
            } else if self.datapath.attached().get(&interface.ifindex) != before.as_ref() {
                attached.insert(interface.ifindex);
                if let Some(seen) = self.seen.insert(interface.ifindex, None).flatten() {
                    self.metrics.protected_after(seen.elapsed());
                }
            }
        }
        let compiled = self.compiler.compiled();
        let again = self.connections.learn_again(&mut self.datapath, compiled, &attached, &self.scan);
        self.errors.connections.extend(again);
        self.places.remember(&self.found, self.input.cluster());
        attached.len()
    }

    fn publish(&mut self, written: usize, attached: usize, started: Instant) {
        let in_force = self.is_in_force();
        let synced = self.input.is_current() && in_force;
        if synced && !self.settled {
            match self.datapath.settle() {
                Ok(()) => self.settled = true,
                Err(error) => self.errors.interfaces.push(error.to_string()),
            }
        }
        let advance = written + attached > 0 || self.status.generation == 0;
        let status = Status {
            synced,
            generation: self.status.generation + u64::from(advance),
            endpoints: self.endpoint_status(),
            errors: self.errors.list(),
            warnings: self.status.warnings.clone(),
            ..Status::default()
        };
        let endpoints_changed = status.endpoints != self.status.endpoints;
        if synced != self.status.synced || endpoints_changed || status.errors != self.status.errors {
            if advance {
                tracing::info!(
                    "generation {}: {written} table writes, {attached} attachments in {:?}",
                    status.generation,
                    started.elapsed()
                );
            }
            // What is wrong with objects was told when it was read.
            let own = status.errors.iter().skip(self.errors.source.len());
            for error in own.filter(|error| !self.status.errors.contains(error)) {
                tracing::warn!("{error}");
            }
        } else if advance {
            tracing::debug!(
                "generation {}: {written} table writes in {:?}",
                status.generation,
                started.elapsed()
            );
        }
        self.unchanged = if status == self.status { (self.unchanged + 1).min(8) } else { 0 };
        self.status = status;
    }

    fn endpoint_status(&self) -> Vec<EndpointStatus> {
        let in_force = self.errors.tables.is_empty() && self.errors.interfaces.is_empty();
        let status = |(name, found): (&ObjectName, &Found)| {
            let policy = self.compiled().endpoints.get(name)?;
            let (interface, state) = match found {
                Found::Interface(interface) if in_force && self.lacks_room_for(name).is_none() => {
                    (interface.name.clone(), EndpointState::Enforcing)
                }
                Found::Interface(interface) | Found::Lost(interface) => {
                    (interface.name.clone(), EndpointState::Failed)
                }
                Found::Nowhere => (String::new(), EndpointState::Waiting),
                Found::Several => (String::new(), EndpointState::Failed),
            };
            Some(EndpointStatus {
                pod: name.to_string(),
                interface,
                state,
                ingress_isolated: policy.ingress.is_some(),
                egress_isolated: policy.egress.is_some(),
                policies: policy.policies.iter().map(ToString::to_string).collect(),
            })
        };
        self.found.iter().filter_map(status).collect()
    }
}
