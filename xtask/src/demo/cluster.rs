//! The two nodes of the story, and an agent on each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sluice_netns::{
    Agent, AgentOptions, Explanation, Flow, Manifests, Netns, NodeSpec, PodSpec, World, explain,
};

use super::story::{CLIENT, Change, DEV, PROD};

const CLIENT_IPV4: Ipv4Addr = Ipv4Addr::new(172, 16, 8, 10);
const CLIENT_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x16, 8, 0, 0, 0, 0x10);

/// Somebody who can probe, or be probed.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// A pod's `namespace/name`, or the client's name.
    pub(crate) key: String,
    /// Its node, or nothing for the client.
    pub(crate) node: Option<String>,
    pub(crate) ns: Netns,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
}

impl Machine {
    pub(crate) fn is_pod(&self) -> bool {
        self.node.is_some()
    }

    /// How `explain` is asked about it.
    pub(crate) fn name_for_explain(&self, address: IpAddr) -> String {
        if self.is_pod() { self.key.clone() } else { address.to_string() }
    }
}

/// The world of the story. Its parts are dropped in their order: agents must be gone before their nodes are.
#[derive(Debug)]
pub(crate) struct Cluster {
    agents: Vec<Agent>,
    manifests: Manifests,
    binary: PathBuf,
    world: World,
}

impl Cluster {
    /// Builds the nodes and pods and writes their manifests; nothing is enforced yet.
    pub(crate) fn build(binary: &Path) -> Result<Self> {
        let pod = |namespace, name, node| {
            PodSpec::new(namespace, name, node).port(Some("web"), 80, "TCP").serve_tcp(80)
        };
        let node = |name, third: u8| -> Result<NodeSpec> {
            Ok(NodeSpec::new(name)
                .cidr4(format!("172.16.{third}.0/24").parse()?)
                .cidr6(format!("fd00:172:16:{third}::/64").parse()?))
        };
        let world = World::builder("sldemo")
            .node(node("node1", 1)?)
            .node(node("node2", 2)?)
            .outside(CLIENT, CLIENT_IPV4, Some(CLIENT_IPV6))
            .pod(pod(DEV, "dev-1", "node1"))
            .pod(pod(DEV, "dev-2", "node1"))
            .pod(pod(PROD, "prod-1", "node1"))
            .pod(pod(DEV, "dev-3", "node2"))
            .pod(pod(PROD, "prod-2", "node2"))
            .build()
            .context("building the nodes and pods")?;
        let manifests = Manifests::of(&world)?;
        let mut cluster = Self { agents: Vec::new(), manifests, binary: binary.to_owned(), world };
        // So that the table at the end has a full row and column for it.
        let client = cluster.machine(CLIENT)?.ns;
        cluster.world.keep(CLIENT, sluice_netns::Server::tcp(&client, 80, CLIENT)?);
        Ok(cluster)
    }

    /// Starts an agent on each node.
    pub(crate) fn start_agents(&mut self) -> Result<()> {
        for node in self.world.nodes() {
            let options = AgentOptions::new(&self.binary, self.manifests.path(), node);
            let agent =
                Agent::spawn(node.ns(), options).with_context(|| format!("the agent on {}", node.name()))?;
            self.agents.push(agent);
        }
        Ok(())
    }

    /// The commands that [`Cluster::start_agents`] amounts to, shortened for the eye.
    pub(crate) fn agent_commands(&self) -> Vec<String> {
        let command = |node: &sluice_netns::Node| {
            format!(
                "nsenter --net={} policy-agent run --manifests {} --node {}",
                node.ns().path().display(),
                self.manifests.path().display(),
                node.name()
            )
        };
        self.world.nodes().iter().map(command).collect()
    }

    /// Changes the folder of manifests. The agents see it by themselves; [`Cluster::sync`] says when they have.
    pub(crate) fn change(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Apply { file, text } => self.manifests.write(file, text),
            Change::Delete { file } => self.manifests.remove(file),
            Change::Label { pod, key, value } => {
                let pod = self.world.pod_mut(pod)?;
                pod.labels.insert((*key).to_owned(), (*value).to_owned());
                self.manifests.pod(pod)
            }
        }
    }

    /// Waits until every agent enforces what the folder says; gives their generations and how long it took.
    pub(crate) fn sync(&self) -> Result<(Vec<u64>, Duration)> {
        let begin = Instant::now();
        let generations = self.agents.iter().map(Agent::sync).collect::<Result<_>>()?;
        Ok((generations, begin.elapsed()))
    }

    /// Why a flow is allowed or not, by the agent's own words.
    pub(crate) fn explain(&self, flow: &Flow) -> Result<Explanation> {
        explain(&self.binary, self.manifests.path(), flow)
    }

    /// The same for many flows.
    pub(crate) fn explain_all(&self, flows: &[Flow]) -> Result<Vec<Explanation>> {
        sluice_netns::explain_batch(&self.binary, self.manifests.path(), flows)
    }

    /// All pods by name, then the client.
    pub(crate) fn machines(&self) -> Vec<Machine> {
        let mut all: Vec<Machine> = self
            .world
            .pods()
            .map(|pod| Machine {
                key: pod.key(),
                node: Some(pod.node.clone()),
                ns: pod.ns.clone(),
                ipv4: pod.ipv4,
                ipv6: pod.ipv6,
            })
            .collect();
        all.extend(self.world.outside().iter().map(|machine| Machine {
            key: machine.name.clone(),
            node: None,
            ns: machine.ns.clone(),
            ipv4: machine.ipv4,
            ipv6: machine.ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED),
        }));
        all
    }

    /// A pod by its `namespace/name`, or the client.
    pub(crate) fn machine(&self, key: &str) -> Result<Machine> {
        self.machines()
            .into_iter()
            .find(|machine| machine.key == key)
            .with_context(|| format!("nobody is called {key}"))
    }

    /// What the agents have logged.
    pub(crate) fn logs(&self) -> impl Iterator<Item = (&str, String)> {
        self.world.nodes().iter().zip(&self.agents).map(|(node, agent)| (node.name(), agent.log()))
    }

    /// Stops the agents and takes out of the kernel what they enforced.
    pub(crate) fn uninstall(&mut self) -> Result<()> {
        for agent in &mut self.agents {
            agent.stop()?;
            agent.uninstall()?;
        }
        Ok(())
    }
}
