//! A case in progress: the cluster after each step, and the connection that each expectation means there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use super::expect::{
    Expectation, Family, OutOfScope, Place, Want, Whence, grid_expectations, probe_expectation, read_protocol,
};
use super::file::{Action, Case, CasesFile, Serve, Served, Step, World, WorldPod};
use crate::model::{Cluster, ContainerPort, Flow, Node, Origin, Phase, Pod, Policy};

/// The cluster while the steps of one case run.
#[derive(Clone, Debug)]
pub struct State {
    pub cluster: Cluster,
    /// Names of the ClusterNetworkPolicies that exist: the oracle cannot judge while there are any.
    pub cluster_policies: BTreeSet<String>,
    /// Instructions in words of the latest step ("verb: text").
    pub words: Vec<String>,
    serve: Serve,
}

impl CasesFile {
    /// The state before the first step of a case.
    pub fn start(&self, case: &Case) -> Result<State> {
        let world = self.worlds.get(&case.world).with_context(|| format!("no world {}", case.world))?;
        let mut cluster = world.cluster()?;
        if let Some(only) = &case.only_pods {
            for name in only {
                ensure!(world.pods.contains_key(name), "only_pods names {name}, which the world lacks");
            }
            cluster.pods.retain(|pod| only.contains(&pod.full_name()));
        }
        Ok(State {
            cluster,
            cluster_policies: BTreeSet::new(),
            words: Vec::new(),
            serve: world.serve.clone(),
        })
    }

    /// Every step of a case, with the state that it leaves behind and what is expected then.
    pub fn steps<'a>(
        &self,
        case: &'a Case,
    ) -> Result<impl Iterator<Item = Result<(&'a Step, State, Vec<Expectation>)>> + use<'a>> {
        let mut state = self.start(case)?;
        Ok(case.steps.iter().map(move |step| {
            state.take(step)?;
            Ok((step, state.clone(), state.expectations(step)?))
        }))
    }
}

impl World {
    pub fn cluster(&self) -> Result<Cluster> {
        let nodes = self
            .nodes
            .iter()
            .map(|(name, node)| (name.clone(), Node { labels: node.labels.clone(), ips: node.ips.clone() }));
        let mut cluster =
            Cluster { namespaces: self.namespaces.clone(), nodes: nodes.collect(), ..Cluster::default() };
        for (name, set) in &self.pods {
            let (ns, name) = name.split_once('/').with_context(|| format!("pod {name} without namespace"))?;
            set_pod(&mut cluster, &self.serve, ns, name, set)?;
        }
        Ok(cluster)
    }
}

impl State {
    /// Carries out the actions of a step.
    pub fn take(&mut self, step: &Step) -> Result<()> {
        self.words.clear();
        step.actions.iter().try_for_each(|action| self.act(action))
    }

    /// Carries out one action.
    pub fn act(&mut self, action: &Action) -> Result<()> {
        let cluster = &mut self.cluster;
        match action {
            Action::Policy { ns, name, spec } => {
                cluster.policies.retain(|policy| (&policy.ns, &policy.name) != (ns, name));
                cluster.policies.push(Policy { ns: ns.clone(), name: name.clone(), spec: spec.clone() });
            }
            Action::DeletePolicy { ns, name } => {
                let before = cluster.policies.len();
                cluster.policies.retain(|policy| (&policy.ns, &policy.name) != (ns, name));
                ensure!(cluster.policies.len() < before, "del_np {ns}/{name}: no such policy");
            }
            Action::ClusterPolicy { name, .. } => {
                self.cluster_policies.insert(name.clone());
            }
            Action::DeleteClusterPolicy { name } => {
                ensure!(self.cluster_policies.remove(name), "del_cnp {name}: no such policy");
            }
            Action::Namespace { name, labels } => {
                cluster.namespaces.insert(name.clone(), labels.clone());
            }
            // A namespace takes its contents with it.
            Action::DeleteNamespace { name } => {
                ensure!(cluster.namespaces.remove(name).is_some(), "del_ns {name}: no such namespace");
                cluster.pods.retain(|pod| pod.ns != *name);
                cluster.policies.retain(|policy| policy.ns != *name);
            }
            Action::Pod { ns, name, set } => set_pod(cluster, &self.serve, ns, name, set)?,
            Action::DeletePod { ns, name } => {
                let before = cluster.pods.len();
                cluster.pods.retain(|pod| (&pod.ns, &pod.name) != (ns, name));
                ensure!(cluster.pods.len() < before, "del_pod {ns}/{name}: no such pod");
            }
            Action::Node { name, labels } => {
                cluster.nodes.entry(name.clone()).or_default().labels = labels.clone();
            }
            Action::Words { verb, text } => self.words.push(format!("{verb}: {text}")),
        }
        Ok(())
    }

    /// What a step expects, grids first. Call after [`State::take`].
    pub fn expectations(&self, step: &Step) -> Result<Vec<Expectation>> {
        let mut expectations = Vec::new();
        for (index, grid) in step.grids.iter().enumerate() {
            let cells = grid_expectations(index, grid, &self.cluster);
            expectations.extend(cells.with_context(|| Whence::Grid(index).to_string())?);
        }
        for (index, probe) in step.probes.iter().enumerate() {
            let expectation = probe_expectation(index, probe);
            expectations.push(expectation.with_context(|| Whence::Probe(index).to_string())?);
        }
        Ok(expectations)
    }

    /// The connection to judge for an expectation, or why there is none.
    pub fn flow(&self, expectation: &Expectation) -> Result<Flow, OutOfScope> {
        if !self.cluster_policies.is_empty() {
            return Err(OutOfScope::ClusterNetworkPolicy);
        }
        if let Some(special) = expectation.special() {
            return Err(OutOfScope::Special(special));
        }
        if matches!(expectation.want, Want::Choice | Want::Mixed) {
            return Err(OutOfScope::NoSingleVerdict);
        }
        self.connection(expectation, expectation.via)
    }

    /// The connection that an expectation means, in a family where one is given: for whoever makes it, whatever judges it.
    pub fn connection(&self, expectation: &Expectation, family: Option<Family>) -> Result<Flow, OutOfScope> {
        let sources = match expectation.src_ip {
            Some(ip) => vec![ip],
            None => self.addresses(&expectation.from)?,
        };
        let mut pairs = Vec::new();
        for to in self.addresses(&expectation.to)? {
            for from in &sources {
                let both = Family::of(to);
                if Family::of(*from) == both && family.is_none_or(|family| family == both) {
                    pairs.push((*from, to));
                }
            }
        }
        let (from, to) = *pairs.first().ok_or(OutOfScope::NoAddress)?;
        let origin = self.origin(&expectation.from);
        Ok(Flow { from, to, protocol: expectation.protocol, port: expectation.port, origin })
    }

    /// The addresses that somebody at `place` has.
    pub fn addresses(&self, place: &Place) -> Result<Vec<IpAddr>, OutOfScope> {
        match place {
            Place::Pod { ns, name } => Ok(self.pod(ns, name).map(|pod| pod.ips.clone()).unwrap_or_default()),
            Place::Node(name) => {
                Ok(self.cluster.nodes.get(name).map(|node| node.ips.clone()).unwrap_or_default())
            }
            Place::External(ip) | Place::Address(ip) => Ok(vec![*ip]),
            Place::Service(_) | Place::NodePort { .. } => Err(OutOfScope::Service),
        }
    }

    /// A hostNetwork pod is a process of its node.
    fn origin(&self, from: &Place) -> Origin {
        let node = match from {
            Place::Node(name) => Some(name.clone()),
            Place::Pod { ns, name } => {
                self.pod(ns, name).filter(|pod| pod.host_network).and_then(|pod| pod.node.clone())
            }
            _ => None,
        };
        node.map_or(Origin::Wire, Origin::Node)
    }

    fn pod(&self, ns: &str, name: &str) -> Option<&Pod> {
        self.cluster.pods.iter().find(|pod| pod.ns == ns && pod.name == name)
    }
}

/// Creates a pod, or replaces the given fields of the one that exists.
fn set_pod(cluster: &mut Cluster, serve: &Serve, ns: &str, name: &str, set: &WorldPod) -> Result<()> {
    let index = match cluster.pods.iter().position(|pod| pod.ns == ns && pod.name == name) {
        Some(index) => index,
        None => {
            let host_network = set.host_network == Some(true);
            let ports = if host_network { &serve.host_network } else { &serve.pods };
            cluster.pods.push(Pod {
                ns: ns.to_owned(),
                name: name.to_owned(),
                ports: container_ports(ports)?,
                ..Pod::default()
            });
            cluster.pods.len() - 1
        }
    };
    let pod = cluster.pods.get_mut(index).context("the pod just found")?;
    if let Some(labels) = &set.labels {
        pod.labels = labels.clone();
    }
    if let Some(node) = &set.node {
        pod.node = Some(node.clone());
    }
    if let Some(ips) = &set.ips {
        pod.ips.clone_from(ips);
    }
    if let Some(host_network) = set.host_network {
        pod.host_network = host_network;
    }
    if let Some(ports) = &set.ports {
        pod.ports = container_ports(ports)?;
    }
    if let Some(phase) = &set.phase {
        let phases = [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed];
        let known = phases.into_iter().find(|known| known.api_name() == phase);
        pod.phase = known.with_context(|| format!("phase {phase}"))?;
    }
    Ok(())
}

fn container_ports(ports: &[Served]) -> Result<Vec<ContainerPort>> {
    let read = |served: &Served| -> Result<ContainerPort> {
        let name = (!served.name.is_empty()).then(|| served.name.clone());
        Ok(ContainerPort { name, protocol: read_protocol(&served.proto)?, port: served.port, init: false })
    };
    ports.iter().map(read).collect()
}
