//! A cluster of namespaces, from building it to removing it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::leftovers;
use crate::netns::{self, Netns};
use crate::network::cni::{Container, Plugins};
use crate::network::ipip::Tunnel;
use crate::network::{self, Link, Network, NodeNet};
use crate::server::Server;
use crate::spec::{ContainerPort, NodeSpec, OutsideSpec, PodSpec, WorldBuilder};
use crate::sys;

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// Numbers of pods' addresses in their node's network, from this one to before the last.
const FIRST_HOST: u16 = 2;
const LAST_HOST: u16 = 255;

/// A node: a namespace that forwards for its pods.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) name: String,
    pub(crate) net: NodeNet,
    pub(crate) bpffs: PathBuf,
    next_host: u16,
}

impl Node {
    /// Its Kubernetes name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace. A probe from here is a probe from the node itself, as the kubelet's are.
    #[must_use]
    pub fn ns(&self) -> &Netns {
        &self.net.ns
    }

    /// Its addresses on the network between the nodes.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.net.underlay4().into(), self.net.underlay6().into()]
    }

    /// Its addresses on the pods' bridge; where the network has none, those on the network between the nodes.
    #[must_use]
    pub fn gateways(&self) -> [IpAddr; 2] {
        if self.net.network.has_bridge() { self.pod_gateways() } else { self.addresses() }
    }

    /// The first addresses of its pod networks: its own on a bridge, and on each host end that the `ptp` plugin makes.
    #[must_use]
    pub fn pod_gateways(&self) -> [IpAddr; 2] {
        [self.net.gateway4().into(), self.net.gateway6().into()]
    }

    /// Its addresses on its tunnel: VXLAN has one for each family, IPIP one for IPv4.
    #[must_use]
    pub fn tunnel_addresses(&self) -> [IpAddr; 2] {
        [self.net.tunnel4().into(), self.net.tunnel6().into()]
    }

    /// The pod networks.
    #[must_use]
    pub fn cidrs(&self) -> (Ipv4Net, Ipv6Net) {
        (self.net.cidr4, self.net.cidr6)
    }

    /// A directory of this node's own for pinned objects. The agent makes it.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }
}

/// A pod: a namespace whose `eth0` is a veth to its node.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// The name of its node.
    pub node: String,
    /// Its unique id, another one for each pod ever made.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The ports that its container declares.
    pub ports: Vec<ContainerPort>,
    /// Its network namespace.
    pub ns: Netns,
    /// The name of its veth's end on the node.
    pub host_interface: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
}

impl Pod {
    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A machine outside of the cluster.
#[derive(Clone, Debug)]
pub struct Outside {
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub ns: Netns,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address, where it has one.
    pub ipv6: Option<Ipv6Addr>,
}

/// A small cluster. Dropping it stops its servers and removes every namespace that it made: agents and connections in it
/// must go first.
#[derive(Debug)]
pub struct World {
    id: String,
    network: Network,
    wire: Netns,
    nodes: Vec<Node>,
    /// Where no kernel has the nodes' tunnels.
    tunnels: BTreeMap<u8, Tunnel>,
    /// Where they make the pods' interfaces.
    plugins: Option<Plugins>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pods: BTreeMap<String, Pod>,
    outside: Vec<Outside>,
    servers: BTreeMap<String, Vec<Server>>,
    pods_made: u32,
}

impl World {
    /// Begins a world. Its namespaces are called `PREFIX-PID-NUMBER-...`, so that worlds don't meet and leftovers are
    /// known.
    #[must_use]
    pub fn builder(prefix: &str) -> WorldBuilder {
        WorldBuilder::new(prefix)
    }

    pub(crate) fn build(spec: WorldBuilder) -> Result<Self> {
        ensure!(
            sys::is_root(),
            "network namespaces need root: run this as root (nothing is skipped without it, it fails)"
        );
        ensure!(
            !spec.prefix.is_empty() && !spec.prefix.contains(['-', '/']),
            "a prefix that leftovers can be known by has no '-' or '/': {:?}",
            spec.prefix
        );
        Self::sweep(&spec.prefix)?;
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{}-{number}", spec.prefix, process::id());
        let mut world = Self {
            wire: Netns::named(&format!("{id}-wire")),
            id,
            network: spec.network,
            nodes: Vec::new(),
            tunnels: BTreeMap::new(),
            plugins: if spec.cni_plugins { Some(Plugins::find()?) } else { None },
            namespaces: spec.namespaces,
            pods: BTreeMap::new(),
            outside: Vec::new(),
            servers: BTreeMap::new(),
            pods_made: 0,
        };
        netns::create(std::slice::from_ref(&world.wire))?;
        network::wire::build_wire(&world.wire, world.network)?;
        for node in spec.nodes {
            world.add_node(node)?;
        }
        for machine in spec.outside {
            world.add_outside(machine)?;
        }
        for pod in spec.pods {
            world.add_pod(pod)?;
        }
        Ok(world)
    }

    fn add_node(&mut self, spec: NodeSpec) -> Result<()> {
        ensure!(self.nodes.iter().all(|node| node.name != spec.name), "two nodes are called {}", spec.name);
        let number = u8::try_from(self.nodes.len() + 1).context("too many nodes")?;
        let default4 = Ipv4Net::new(Ipv4Addr::new(10, 244, number, 0), 24)?;
        let default6 = Ipv6Net::new(Ipv6Addr::new(0xfd00, 0x10, 0x244, number.into(), 0, 0, 0, 0), 64)?;
        let net = NodeNet {
            ns: Netns::named(&format!("{}-{}", self.id, spec.name)),
            network: self.network,
            number,
            cidr4: spec.cidr4.unwrap_or(default4),
            cidr6: spec.cidr6.unwrap_or(default6),
        };
        let bpffs = Path::new(leftovers::BPFFS).join(net.ns.name());
        netns::create(std::slice::from_ref(&net.ns))?;
        // Known before it is built: a failure half-way must find it to remove it.
        self.nodes.push(Node { name: spec.name, net: net.clone(), bpffs, next_host: FIRST_HOST });
        if let Some(tunnel) = network::build_node(&net, &self.wire, self.plugins.is_some())? {
            self.tunnels.insert(number, tunnel);
        }
        for other in self.nodes.iter().filter(|other| other.net.number != number) {
            network::join(&net, &other.net)?;
            network::join(&other.net, &net)?;
        }
        for (own, tunnel) in &self.tunnels {
            let others = self.nodes.iter().map(|node| &node.net).filter(|net| net.number != *own);
            tunnel.set_peers(others.map(|net| (net.cidr4, net.underlay4())).collect());
        }
        Ok(())
    }

    fn add_outside(&mut self, spec: OutsideSpec) -> Result<()> {
        let OutsideSpec { name, ipv4, ipv6 } = spec;
        let ns = Netns::named(&format!("{}-{name}", self.id));
        let port = format!("x{}", self.outside.len() + 1);
        netns::create(std::slice::from_ref(&ns))?;
        self.outside.push(Outside { name, ns: ns.clone(), ipv4, ipv6 });
        let nodes: Vec<NodeNet> = self.nodes.iter().map(|node| node.net.clone()).collect();
        network::wire::build_outside(&ns, &port, (ipv4, ipv6), &self.wire, &nodes)
    }

    /// Adds a pod and starts its servers.
    pub fn add_pod(&mut self, spec: PodSpec) -> Result<&Pod> {
        let key = format!("{}/{}", spec.namespace, spec.name);
        ensure!(!self.pods.contains_key(&key), "there is a pod {key} already");
        let node = self.nodes.iter().find(|node| node.name == spec.node);
        let Some(node) = node else { bail!("pod {key} is on {}, which is no node", spec.node) };
        let net = node.net.clone();
        self.pods_made += 1;
        let ns = Netns::named(&format!("{}-{}.{}", self.id, spec.namespace, spec.name));
        let uid = format!("00000000-0000-4000-8000-{:012x}", self.pods_made);
        let made = netns::create(std::slice::from_ref(&ns)).and_then(|()| self.link(&spec, &net, &ns, &uid));
        let link = made.or_else(|error| {
            // Not known yet as a pod, it would stay.
            netns::remove(std::slice::from_ref(&ns))?;
            Err(error.context(format!("building pod {key}")))
        })?;
        let pod = Pod {
            ns: ns.clone(),
            uid,
            host_interface: link.host_interface,
            ipv4: link.ipv4,
            ipv6: link.ipv6,
            namespace: spec.namespace,
            name: spec.name,
            node: spec.node,
            labels: spec.labels,
            ports: spec.ports,
        };
        self.namespaces.entry(pod.namespace.clone()).or_default();
        self.pods.insert(key.clone(), pod);
        for port in spec.tcp {
            self.keep(&key, Server::tcp(&ns, port, &key)?);
        }
        for port in spec.udp {
            self.keep(&key, Server::udp(&ns, port)?);
        }
        self.pod(&key)
    }

    /// Makes the interface of a pod whose namespace is there.
    fn link(&mut self, spec: &PodSpec, net: &NodeNet, ns: &Netns, uid: &str) -> Result<Link> {
        network::prepare(ns)?;
        if let Some(plugins) = &self.plugins {
            return plugins.add(net, Container { id: uid, ns }, (spec.ipv4, spec.ipv6));
        }
        let taken: BTreeSet<IpAddr> =
            self.pods.values().flat_map(|pod| [pod.ipv4.into(), pod.ipv6.into()]).collect();
        let node = self.nodes.iter_mut().find(|node| node.name == spec.node).context("the node is gone")?;
        let is_free = |host: &u16| {
            let addresses =
                [network::host4(net.cidr4, *host).into(), network::host6(net.cidr6, *host).into()];
            !addresses.iter().any(|address| taken.contains(address))
        };
        // Round and round, as the plugin host-local does it: an address that was freed rests as long as possible.
        let mut hosts = (node.next_host..LAST_HOST).chain(FIRST_HOST..node.next_host);
        let host = hosts.find(is_free).context("the node has no address left")?;
        if spec.ipv4.is_none() || spec.ipv6.is_none() {
            node.next_host = if host + 1 < LAST_HOST { host + 1 } else { FIRST_HOST };
        }
        let ipv4 = spec.ipv4.unwrap_or_else(|| network::host4(net.cidr4, host));
        let ipv6 = spec.ipv6.unwrap_or_else(|| network::host6(net.cidr6, host));
        network::build_pod(ns, self.pods_made, (ipv4, ipv6), net)
    }

    /// Has the plugins remove what they made for a pod.
    fn unlink(&self, pod: &Pod) -> Result<()> {
        let Some(plugins) = &self.plugins else { return Ok(()) };
        plugins.del(&self.node(&pod.node)?.net, Container { id: &pod.uid, ns: &pod.ns })
    }

    /// Removes a pod, its namespace and with it its interfaces.
    pub fn remove_pod(&mut self, key: &str) -> Result<()> {
        self.servers.remove(key);
        let Some(pod) = self.pods.remove(key) else { bail!("there is no pod {key}") };
        let unlinked = self.unlink(&pod);
        let removed = netns::remove(std::slice::from_ref(&pod.ns));
        // A socket that is still open keeps the namespace, and with it the veth, alive without a name.
        let node = &self.node(&pod.node)?.net.ns;
        let link = format!("link del {}\n", pod.host_interface);
        if node.run(|| Path::new("/proc/sys/net/ipv4/conf").join(&pod.host_interface).exists())? {
            crate::ip::ip(node, &link).or_else(|error| {
                // The kernel may have got there first.
                let words = format!("{error:#}");
                let gone = ["Cannot find device", "No such device"].iter().any(|gone| words.contains(gone));
                if gone { Ok(()) } else { Err(error) }
            })?;
        }
        removed.and(unlinked)
    }

    /// Lets a server live as long as the pod.
    pub fn keep(&mut self, pod: &str, server: Server) {
        self.servers.entry(pod.to_owned()).or_default().push(server);
    }

    /// What every name of this world begins with.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("there is no node {name}"))
    }

    /// The pods, ordered by `namespace/name`.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// A pod by its `namespace/name`.
    pub fn pod(&self, key: &str) -> Result<&Pod> {
        self.pods.get(key).with_context(|| format!("there is no pod {key}"))
    }

    /// A pod, to change its labels; its manifest has to be written again.
    pub fn pod_mut(&mut self, key: &str) -> Result<&mut Pod> {
        self.pods.get_mut(key).with_context(|| format!("there is no pod {key}"))
    }

    /// The machines outside of the cluster.
    #[must_use]
    pub fn outside(&self) -> &[Outside] {
        &self.outside
    }

    /// The Kubernetes namespaces with their labels.
    #[must_use]
    pub fn namespaces(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.namespaces
    }

    /// Removes what worlds of dead processes have left: processes, namespaces and pins under names that begin with `prefix`
    /// and carry the id of a process that is no more.
    pub fn sweep(prefix: &str) -> Result<()> {
        leftovers::sweep(prefix)
    }

    fn remove(&mut self) -> Result<()> {
        self.servers.clear();
        let unlinked = self.pods.values().try_for_each(|pod| self.unlink(pod));
        self.tunnels.clear();
        let mut all: Vec<Netns> = self.pods.values().map(|pod| pod.ns.clone()).collect();
        all.extend(self.nodes.iter().map(|node| node.net.ns.clone()));
        all.extend(self.outside.iter().map(|machine| machine.ns.clone()));
        all.push(self.wire.clone());
        let removed = netns::remove(&all);
        for node in &self.nodes {
            leftovers::remove_pins(&node.bpffs)?;
        }
        removed.and(unlinked)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("world {} is not removed completely: {error:#}", self.id);
        }
    }
}
