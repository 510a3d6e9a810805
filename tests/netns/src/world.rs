//! A cluster of namespaces, from building it to removing it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, io, process};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::netns::{self, Netns};
use crate::server::Server;
use crate::spec::{ContainerPort, NodeSpec, OutsideSpec, PodSpec, WorldBuilder};
use crate::sys;
use crate::topology::{self, NodeNet};

const BPFFS: &str = "/sys/fs/bpf";
static WORLDS: AtomicU32 = AtomicU32::new(0);

/// A node: a namespace with a bridge for its pods.
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

    /// Its addresses on the pods' bridge.
    #[must_use]
    pub fn gateways(&self) -> [IpAddr; 2] {
        [self.net.gateway4().into(), self.net.gateway6().into()]
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

/// A pod: a namespace whose `eth0` hangs on its node's bridge.
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
    wire: Netns,
    nodes: Vec<Node>,
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
            nodes: Vec::new(),
            namespaces: spec.namespaces,
            pods: BTreeMap::new(),
            outside: Vec::new(),
            servers: BTreeMap::new(),
            pods_made: 0,
        };
        netns::create(std::slice::from_ref(&world.wire))?;
        topology::build_wire(&world.wire)?;
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
            number,
            cidr4: spec.cidr4.unwrap_or(default4),
            cidr6: spec.cidr6.unwrap_or(default6),
        };
        let bpffs = Path::new(BPFFS).join(net.ns.name());
        netns::create(std::slice::from_ref(&net.ns))?;
        // Known before it is built: a failure half-way must find it to remove it.
        self.nodes.push(Node { name: spec.name, net: net.clone(), bpffs, next_host: 2 });
        topology::build_node(&net, &self.wire)?;
        for other in self.nodes.iter().filter(|other| other.net.number != number) {
            topology::join(&net, &other.net)?;
            topology::join(&other.net, &net)?;
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
        topology::build_outside(&ns, &port, (ipv4, ipv6), &self.wire, &nodes)
    }

    /// Adds a pod and starts its servers.
    pub fn add_pod(&mut self, spec: PodSpec) -> Result<&Pod> {
        let key = format!("{}/{}", spec.namespace, spec.name);
        ensure!(!self.pods.contains_key(&key), "there is a pod {key} already");
        let node = self.nodes.iter_mut().find(|node| node.name == spec.node);
        let Some(node) = node else { bail!("pod {key} is on {}, which is no node", spec.node) };
        let net = node.net.clone();
        let host = node.next_host;
        if spec.ipv4.is_none() || spec.ipv6.is_none() {
            node.next_host += 1;
        }
        self.pods_made += 1;
        let pod = Pod {
            ns: Netns::named(&format!("{}-{}.{}", self.id, spec.namespace, spec.name)),
            uid: format!("00000000-0000-4000-8000-{:012x}", self.pods_made),
            host_interface: format!("veth{:08x}", self.pods_made),
            ipv4: spec.ipv4.unwrap_or_else(|| topology::host4(net.cidr4, host)),
            ipv6: spec.ipv6.unwrap_or_else(|| topology::host6(net.cidr6, host)),
            namespace: spec.namespace,
            name: spec.name,
            node: spec.node,
            labels: spec.labels,
            ports: spec.ports,
        };
        self.namespaces.entry(pod.namespace.clone()).or_default();
        netns::create(std::slice::from_ref(&pod.ns))?;
        let (ns, interface, addresses) = (pod.ns.clone(), pod.host_interface.clone(), (pod.ipv4, pod.ipv6));
        self.pods.insert(key.clone(), pod);
        topology::build_pod(&ns, &interface, addresses, &net)
            .with_context(|| format!("building pod {key}"))?;
        for port in spec.tcp {
            self.keep(&key, Server::tcp(&ns, port, &key)?);
        }
        for port in spec.udp {
            self.keep(&key, Server::udp(&ns, port)?);
        }
        self.pod(&key)
    }

    /// Removes a pod, its namespace and with it its interfaces.
    pub fn remove_pod(&mut self, key: &str) -> Result<()> {
        self.servers.remove(key);
        let Some(pod) = self.pods.remove(key) else { bail!("there is no pod {key}") };
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
        removed
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
        let mut dead = Vec::new();
        for ns in netns::list()? {
            if is_leftover(ns.name(), prefix) {
                for pid in netns::processes(&ns)? {
                    // It may have ended since; what matters is that the namespace can go.
                    let _ = sys::send_signal(pid, libc::SIGKILL);
                }
                dead.push(ns);
            }
        }
        netns::remove(&dead).context("removing the namespaces of a dead process")?;
        let Ok(pins) = fs::read_dir(BPFFS) else { return Ok(()) };
        for entry in pins.flatten() {
            if entry.file_name().to_str().is_some_and(|name| is_leftover(name, prefix)) {
                remove_pins(&entry.path())?;
            }
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        self.servers.clear();
        let mut all: Vec<Netns> = self.pods.values().map(|pod| pod.ns.clone()).collect();
        all.extend(self.nodes.iter().map(|node| node.net.ns.clone()));
        all.extend(self.outside.iter().map(|machine| machine.ns.clone()));
        all.push(self.wire.clone());
        let removed = netns::remove(&all);
        for node in &self.nodes {
            remove_pins(&node.bpffs)?;
        }
        removed
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("world {} is not removed completely: {error:#}", self.id);
        }
    }
}

fn remove_pins(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Whether `name` is `PREFIX-PID-...` of a process that is no more.
fn is_leftover(name: &str, prefix: &str) -> bool {
    let pid = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')).and_then(|rest| {
        let (pid, _) = rest.split_once('-')?;
        pid.parse::<u32>().ok()
    });
    pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::is_leftover;

    #[test]
    fn only_names_of_dead_processes_are_leftovers() {
        let own = std::process::id();
        // Above the kernel's largest possible pid_max.
        let dead = 1 << 30;
        assert!(is_leftover(&format!("sl-{dead}-0-node1"), "sl"));
        assert!(!is_leftover(&format!("sl-{own}-0-node1"), "sl"));
        assert!(!is_leftover(&format!("slx-{dead}-0-node1"), "sl"));
        assert!(!is_leftover(&format!("sl-{dead}"), "sl"));
        assert!(!is_leftover("sl-web-0-node1", "sl"));
        assert!(!is_leftover("cni-1234", "sl"));
    }
}
