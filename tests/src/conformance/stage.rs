//! A world with agents that is made to look like a cluster of the oracle's, step after step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_kubeproxy::Mode;
use sluice_netns::{
    Agent, Explanation, Flow, Manifests, Netns, Node, Outcome, Pod as WorldPod, PodSpec, World, WorldBuilder,
    explain_batch, many_at_once,
};
use sluice_oracle::cases::{Case, Family, Place, World as CasesWorld};
use sluice_oracle::{Cluster, Pod};

use super::layout::Layout;
use super::settle::{settle, spare};
use super::through::Through;
use super::wire::{Proof, Servers, WireProbe};
use crate::agent_world::{Lab, shell};

/// The stage of all cases of one world. What isn't in a case's cluster may stay built, without manifests: to the agents it
/// doesn't exist.
#[derive(Debug)]
pub(super) struct Stage {
    // Dropped in this order: listeners before the namespaces that they listen in.
    servers: Servers,
    lab: Lab,
    layout: Layout,
    /// The folder of manifests: what each file holds.
    folder: BTreeMap<String, String>,
    /// Of the pods that have a manifest.
    uids: BTreeMap<String, u32>,
    next_uid: u32,
    /// Services before the pods.
    through: Option<Through>,
    /// What the manifests say.
    shown: Cluster,
}

impl Stage {
    /// Builds a world for all of `cases` upon `base`, and starts an agent on each node.
    pub(super) fn build(
        base: WorldBuilder,
        agent: PathBuf,
        world: &CasesWorld,
        cases: &[&Case],
        services: Option<Mode>,
    ) -> Result<Self> {
        let layout = Layout::of(world, cases)?;
        let built = layout.builder(base).build()?;
        bear_addresses(&built, world)?;
        let lab = Lab { agents: Vec::new(), manifests: Manifests::new()?, world: built, binary: agent };
        let mut stage = Self {
            servers: Servers::new(),
            lab,
            layout,
            folder: BTreeMap::new(),
            uids: BTreeMap::new(),
            next_uid: 0,
            through: None,
            shown: Cluster::default(),
        };
        stage.through = services.map(|mode| Through::new(&stage.lab.world, mode));
        stage.lab.start_agents(&[])?;
        Ok(stage)
    }

    /// Fills in what a cluster does by itself: see [`settle`].
    pub(super) fn settle(&self, cluster: &mut Cluster) -> Result<()> {
        let world = &self.lab.world;
        let given = |name: &str| world.node(name).map(node_addresses).unwrap_or_default();
        let keys: BTreeSet<String> = cluster.pods.iter().map(Pod::full_name).collect();
        let borne = world.pods().filter(|pod| keys.contains(&pod.key()));
        let borne: Vec<IpAddr> = borne.flat_map(|pod| [pod.ipv4.into(), IpAddr::from(pod.ipv6)]).collect();
        settle(cluster, &self.layout, given, borne)
    }

    /// Makes the world and the manifests those of `cluster`; `before` is the cluster that they were of, where it matters
    /// which pods go.
    pub(super) fn show(&mut self, cluster: &Cluster, before: Option<&Cluster>) -> Result<()> {
        let pods: BTreeMap<String, &Pod> = cluster.pods.iter().map(|pod| (pod.full_name(), pod)).collect();
        for gone in before.into_iter().flat_map(|before| &before.pods) {
            if !pods.contains_key(&gone.full_name()) {
                self.remove_pod(&gone.full_name())?;
            }
        }
        let (live, finished): (Vec<&Pod>, Vec<&Pod>) = cluster.pods.iter().partition(|pod| pod.is_policed());
        for pod in live {
            self.build_pod(pod).with_context(|| format!("building {}", pod.full_name()))?;
        }
        for pod in finished.into_iter().filter(|pod| !pod.host_network) {
            // Its address may be somebody else's by now.
            if pod.ips.iter().all(|ip| self.bearer(*ip).is_none_or(|key| key == pod.full_name())) {
                self.build_pod(pod).with_context(|| format!("building {}", pod.full_name()))?;
            }
        }
        self.write(cluster)
    }

    /// The key of the pod that bears an address in the world.
    fn bearer(&self, ip: IpAddr) -> Option<String> {
        self.lab.world.pods().find(|pod| ip == pod.ipv4 || ip == pod.ipv6).map(WorldPod::key)
    }

    fn remove_pod(&mut self, key: &str) -> Result<()> {
        let Ok(pod) = self.lab.world.pod(key) else { return Ok(()) };
        let ns = pod.ns.clone();
        self.servers.forget(&ns);
        self.lab.world.remove_pod(key)
    }

    /// Sees to it that the pod's namespace is there with its addresses, and nobody else bears them.
    fn build_pod(&mut self, pod: &Pod) -> Result<()> {
        let key = pod.full_name();
        let (Some(node), false) = (&pod.node, pod.ips.is_empty()) else { return Ok(()) };
        let as_wanted = self.lab.world.pod(&key).is_ok_and(|built| {
            built.node == *node && pod.ips.iter().all(|ip| *ip == built.ipv4 || *ip == built.ipv6)
        });
        if as_wanted {
            return Ok(());
        }
        self.remove_pod(&key)?;
        for ip in &pod.ips {
            if let Some(other) = self.bearer(*ip) {
                self.remove_pod(&other)?;
            }
        }
        let networks = *self.layout.nodes.get(node).with_context(|| format!("there is no node {node}"))?;
        let mut taken: BTreeSet<IpAddr> = self.layout.pods.clone();
        taken.extend(self.lab.world.pods().flat_map(|pod| [pod.ipv4.into(), IpAddr::from(pod.ipv6)]));
        let mut spec = PodSpec::new(&pod.ns, &pod.name, node);
        for family in [Family::Ipv4, Family::Ipv6] {
            // The world gives its pods both families; what the case doesn't name, nobody is told of.
            let named = pod.ips.iter().copied().find(|ip| Family::of(*ip) == family);
            let ip = named.or_else(|| spare(networks, family, &taken)).context("no address is left")?;
            spec = spec.address(ip);
        }
        self.lab.world.add_pod(spec)?;
        self.forget_neighbours(&pod.ips)
    }

    /// An address that moved to another interface: who knew it asks again, as after a network plugin's announcement.
    fn forget_neighbours(&self, ips: &[IpAddr]) -> Result<()> {
        let world = &self.lab.world;
        let all: Vec<&Netns> =
            world.nodes().iter().map(|node| node.ns()).chain(world.pods().map(|pod| &pod.ns)).collect();
        for ip in ips {
            let flush = |ns: &&Netns| shell(ns, &format!("ip neigh flush to {ip}")).map(drop);
            many_at_once(&all, flush).into_iter().collect::<Result<()>>()?;
        }
        Ok(())
    }

    /// One file for each object; only what differs is written.
    fn write(&mut self, cluster: &Cluster) -> Result<()> {
        let mut wanted = BTreeMap::new();
        let mut uids = BTreeMap::new();
        for (name, mut object) in cluster.to_objects() {
            if object["kind"] == "Pod" {
                let uid = *self.uids.get(&name).unwrap_or(&self.next_uid);
                self.next_uid = self.next_uid.max(uid + 1);
                object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{uid:012x}"));
                uids.insert(name.clone(), uid);
            }
            wanted.insert(format!("{name}.json"), format!("{object:#}\n"));
        }
        let services = self.through.as_mut().map(|through| through.objects(cluster)).unwrap_or_default();
        wanted.extend(
            services.into_iter().map(|(name, object)| (format!("{name}.json"), format!("{object:#}\n"))),
        );
        self.shown.clone_from(cluster);
        self.uids = uids;
        for file in self.folder.keys().filter(|file| !wanted.contains_key(*file)) {
            self.lab.manifests.remove(file)?;
        }
        for (file, text) in wanted.iter().filter(|(file, text)| self.folder.get(*file) != Some(*text)) {
            self.lab.manifests.write(file, text)?;
        }
        self.folder = wanted;
        Ok(())
    }

    /// Waits until every agent enforces what the folder says, all of it and on every pod.
    pub(super) fn sync(&self) -> Result<()> {
        let outcomes = many_at_once(&self.lab.agents, |agent| {
            agent.sync()?;
            enforced(&agent.status()?)
        });
        outcomes.into_iter().collect::<Result<()>>()?;
        match &self.through {
            Some(through) => through.sync(self.lab.manifests.path()),
            None => Ok(()),
        }
    }

    /// Ends the agents in order and starts them again on what they left in the kernel.
    pub(super) fn restart_agents(&mut self) -> Result<()> {
        for agent in &mut self.lab.agents {
            agent.stop()?;
        }
        self.lab.agents.iter_mut().try_for_each(Agent::restart)
    }

    /// What the agent's `explain` says of the flows.
    pub(super) fn explain(&self, flows: &[Flow]) -> Result<Vec<Explanation>> {
        explain_batch(&self.lab.binary, self.lab.manifests.path(), flows)
    }

    /// Makes the probes.
    pub(super) fn probe(&mut self, probes: &[WireProbe]) -> Result<Vec<Outcome>> {
        let Some(through) = &mut self.through else { return self.servers.probe(probes) };
        let (mut probes, cluster, mut all_known) = (probes.to_vec(), self.shown.clone(), true);
        // A pod that calls itself: what kube-proxy makes of it is nobody's rule.
        let by_pod = |probe: &WireProbe| {
            cluster.pods.iter().any(|pod| pod.ips.contains(&probe.source)) && probe.source != probe.to
        };
        for probe in probes.iter_mut().filter(|probe| by_pod(probe)) {
            let called = through.service(&cluster, probe.to, probe.protocol, probe.port);
            all_known &= called.is_none_or(|(_, _, known)| known);
            probe.called = called.map(|(address, port, _)| (address, port));
        }
        if !all_known {
            self.write(&cluster)?;
            self.sync()?;
        }
        self.servers.probe(&probes)
    }

    #[must_use]
    pub(super) const fn proof(&self, protocol: sluice_oracle::Protocol) -> Proof {
        self.servers.proof(protocol)
    }

    /// The network namespace of an end, if anybody is there.
    #[must_use]
    pub(super) fn namespace(&self, place: &Place, address: IpAddr, cluster: &Cluster) -> Option<Netns> {
        let world = &self.lab.world;
        let node = |name: &str| world.node(name).ok().map(|node| node.ns().clone());
        match place {
            Place::Pod { ns, name } => {
                let pod = cluster.pods.iter().find(|pod| pod.ns == *ns && pod.name == *name)?;
                if pod.host_network {
                    return node(pod.node.as_ref()?);
                }
                let built = world.pod(&pod.full_name()).ok()?;
                pod.ips.contains(&address).then(|| built.ns.clone())
            }
            Place::Node(name) => node(name),
            Place::External(_) | Place::Address(_) => {
                let pod =
                    self.bearer(address).filter(|key| cluster.pods.iter().any(|p| p.full_name() == *key));
                if let Some(pod) = pod {
                    return world.pod(&pod).ok().map(|pod| pod.ns.clone());
                }
                if let Some((name, _)) = cluster.nodes.iter().find(|(_, node)| node.ips.contains(&address)) {
                    return node(name);
                }
                let machine = world
                    .outside()
                    .iter()
                    .find(|machine| address == machine.ipv4 || machine.ipv6.is_some_and(|ip| address == ip));
                machine.map(|machine| machine.ns.clone())
            }
            Place::Service(_) | Place::NodePort { .. } => None,
        }
    }
}

/// Whether an agent enforces everything, by its own status.
fn enforced(status: &Value) -> Result<()> {
    let errors = status["errors"].as_array().context("status has no errors")?;
    ensure!(errors.is_empty(), "the agent could not enforce everything: {errors:?}");
    let endpoints = status["endpoints"].as_array().context("status has no endpoints")?;
    let waiting: Vec<&Value> = endpoints.iter().filter(|endpoint| endpoint["state"] != "enforcing").collect();
    ensure!(waiting.is_empty(), "not every pod is enforced: {waiting:?}");
    Ok(())
}

/// What the network gives a node: on the wire between the nodes, on the tunnel, on the pods' side.
fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let (cidr4, cidr6) = node.cidrs();
    let tunnel = [cidr4.network().into(), cidr6.network().into()];
    node.addresses().into_iter().chain(tunnel).chain(node.gateways()).collect()
}

/// Gives the nodes those of their addresses, the file's above all, that the network didn't.
fn bear_addresses(built: &World, file: &CasesWorld) -> Result<()> {
    for (name, node) in &file.nodes {
        let own = built.node(name)?;
        let borne = shell(own.ns(), "ip -o addr show")?;
        let (cidr4, cidr6) = own.cidrs();
        for ip in node.ips.iter().chain(&node_addresses(own)) {
            if borne
                .split_whitespace()
                .any(|word| word.split_once('/').is_some_and(|(a, _)| a == ip.to_string()))
            {
                continue;
            }
            let length = if ip.is_ipv4() { 32 } else { 128 };
            let nodad = if ip.is_ipv4() { "" } else { " nodad" };
            shell(own.ns(), &format!("ip addr replace {ip}/{length} dev eth0{nodad}"))?;
            let routed = match ip {
                IpAddr::V4(ip) => cidr4.contains(ip),
                IpAddr::V6(ip) => cidr6.contains(ip),
            };
            for other in built.nodes().iter().filter(|other| other.name() != name && !routed) {
                shell(other.ns(), &format!("ip route replace {ip}/{length} dev eth0"))?;
            }
        }
    }
    Ok(())
}
