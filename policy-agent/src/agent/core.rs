//! The pipeline from end to end: read, compile, plan, apply, attach.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use policy_common::maps::Event;

use super::connections::Connections;
use super::drops::{Drops, describe};
use super::flow_words::flows_in_words;
use super::place::{Found, Leave, Places, addresses};
use super::status::{EndpointState, EndpointStatus, FlowStatus, Status};
use super::{FAILED_RETRY, Options, WAITING_RETRY};
use crate::compile::{Compiled, Scope, compile};
use crate::datapath::bpf::BpfDatapath;
use crate::datapath::enforce;
use crate::endpoints::{Cache, Scan, scan};
use crate::model::ObjectName;
use crate::plan::{Capacity, LocalEndpoint, Planner};
use crate::source::{Store, read_folder};

pub(super) struct Core {
    manifests: std::path::PathBuf,
    node: Option<String>,
    store: Store,
    cache: Cache,
    scan: Scan,
    planner: Planner,
    datapath: BpfDatapath,
    /// Interfaces by index, as last enforced: events name them.
    interfaces: BTreeMap<u32, (ObjectName, String)>,
    status: Status,
    settled: bool,
    places: Places,
    connections: Connections,
    /// The folder itself could be read.
    readable: bool,
    /// Reconciliations in a row that changed nothing.
    unchanged: u32,
}

impl Core {
    pub(super) fn start(options: &Options) -> anyhow::Result<Self> {
        let capacity = Capacity::default();
        let datapath = BpfDatapath::load(&options.bpffs, &capacity, options.attach)?;
        tracing::info!(
            "programs loaded, pinned below {}; {} interfaces were enforced before",
            options.bpffs.display(),
            datapath.attached().len()
        );
        Ok(Self {
            manifests: options.manifests.clone(),
            node: options.node.clone(),
            store: Store::default(),
            cache: Cache::default(),
            scan: Scan::default(),
            planner: Planner::new(capacity),
            datapath,
            interfaces: BTreeMap::new(),
            status: Status::default(),
            settled: false,
            places: Places::default(),
            connections: Connections::default(),
            readable: false,
            unchanged: 0,
        })
    }

    pub(super) const fn status(&self) -> &Status {
        &self.status
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
        if let Err(error) = self.connections.sweep(&mut self.planner, &mut self.datapath) {
            tracing::warn!("{error}");
        }
    }

    /// Takes what the folder holds now into the store.
    pub(super) fn read(&mut self) {
        let read = read_folder(&self.manifests);
        self.readable = read.problem.is_none();
        self.store.update(read);
    }

    /// Brings the kernel to what the store and the interfaces say now.
    pub(super) fn reconcile(&mut self) {
        let started = Instant::now();
        let mut errors: Vec<String> = self.store.problems().iter().map(ToString::to_string).collect();
        let scanned = scan(&mut self.cache);
        let looked = scanned.is_ok();
        match scanned {
            Ok(scan) => self.scan = scan,
            Err(error) => errors.push(format!("looking for the pods' interfaces: {error}")),
        }
        errors.extend(self.scan.problems.iter().cloned());
        let scope = Scope::Node { name: self.node.clone(), addresses: self.scan.own_addresses.clone() };
        let cluster = self.store.cluster();
        let compiled = compile(cluster, &scope);
        let found = self.places.find(cluster, &compiled, &self.scan, &mut errors);
        let mut synced = self.readable;
        let all_known = self.readable && self.store.problems().is_empty() && looked;
        for (ifindex, attached) in self.datapath.attached().clone() {
            match self.places.leave(ifindex, &attached.name, &found, all_known) {
                Leave::Wanted => {}
                Leave::Detach => {
                    if let Err(error) = self.datapath.detach(ifindex) {
                        synced = false;
                        errors.push(error.to_string());
                    }
                }
                Leave::AsItIs => errors.push(format!(
                    "interface {}: enforced by an agent before this one, and no pod that could be read explains it: \
                     it stays as it was",
                    attached.name
                )),
            }
        }
        let locals: Vec<LocalEndpoint> = found
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
        errors.extend(self.connections.learn(&mut self.datapath, &compiled, &locals, &self.scan));
        let changes = match enforce(&mut self.planner, &mut self.datapath, &compiled, &locals) {
            Ok(changes) => {
                if changes > 0 {
                    self.connections.changed();
                }
                changes
            }
            Err(error) => {
                synced = false;
                errors.push(error.to_string());
                0
            }
        };
        // Also after a failure: an interface without its entry in the tables is closed, without a program it is open.
        let mut attached = BTreeSet::new();
        self.interfaces.clear();
        for (name, found) in &found {
            let Some(interface) = found.interface() else { continue };
            self.interfaces.insert(interface.ifindex, (name.clone(), interface.name.clone()));
            let before = self.datapath.attached().get(&interface.ifindex).cloned();
            if let Err(error) = self.datapath.attach(interface.ifindex, &interface.name) {
                synced = false;
                errors.push(format!("pod {name}: {error}"));
            } else if self.datapath.attached().get(&interface.ifindex) != before.as_ref() {
                attached.insert(interface.ifindex);
            }
        }
        errors.extend(Connections::learn_again(&mut self.datapath, &attached, &self.scan));
        let attached = attached.len();
        if synced && !self.settled {
            match self.datapath.settle() {
                Ok(()) => self.settled = true,
                Err(error) => errors.push(error.to_string()),
            }
        }
        let generation =
            self.status.generation + u64::from(changes + attached > 0 || self.status.generation == 0);
        self.places.remember(&found);
        let endpoints = endpoint_status(&compiled, &found, synced);
        let status = Status { synced, generation, endpoints, errors };
        if status != self.status {
            tracing::info!(
                "generation {generation}: {changes} table writes, {attached} attachments in {:?}",
                started.elapsed()
            );
            for error in status.errors.iter().filter(|e| !self.status.errors.contains(e)) {
                tracing::warn!("{error}");
            }
        }
        self.unchanged = if status == self.status { (self.unchanged + 1).min(8) } else { 0 };
        self.status = status;
    }
}

fn endpoint_status(
    compiled: &Compiled,
    found: &BTreeMap<ObjectName, Found>,
    synced: bool,
) -> Vec<EndpointStatus> {
    found
        .iter()
        .filter_map(|(name, found)| {
            let policy = compiled.endpoints.get(name)?;
            let (interface, state) = match found {
                Found::Interface(interface) if synced => (interface.name.clone(), EndpointState::Enforcing),
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
        })
        .collect()
}
