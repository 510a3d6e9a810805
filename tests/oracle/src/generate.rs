//! Random clusters and connections, from vocabularies so small that labels, addresses, ports and names collide.
//!
//! Everything generated passes API validation and stays clear of what SEMANTICS leaves undefined: no two live pods
//! share an address, and no pod declares one port name twice for the same protocol.

mod addresses;
mod flows;
mod policies;

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::model::{Cluster, ContainerPort, Flow, Labels, NAMESPACE_NAME_LABEL, Node, Phase, Pod, Protocol};

pub use flows::flow;

const NAMESPACES: [&str; 4] = ["x", "y", "z", "w"];
/// `env` is a key of both pods and namespaces, so that a mix-up of the two shows.
const NAMESPACE_KEYS: [&str; 2] = ["team", "env"];
const POD_KEYS: [&str; 3] = ["app", "tier", "env"];
/// An empty value is not an absent label (row 3); "1" is a string that a YAML writer must quote.
const VALUES: [&str; 3] = ["", "a", "1"];
const PORT_NAMES: [&str; 4] = ["web", "dns", "api", "metrics"];
const PORTS: [u16; 9] = [1, 53, 80, 81, 443, 8080, 8081, 32768, 65535];

/// Upper bounds; lower bounds are one namespace, one node, one pod and no policy.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// At most 4.
    pub namespaces: usize,
    /// At most 200.
    pub nodes: usize,
    /// At most 200.
    pub pods: usize,
    pub policies: usize,
}

impl Default for Size {
    fn default() -> Size {
        Size { namespaces: 4, nodes: 3, pods: 10, policies: 8 }
    }
}

/// A cluster with policies that name its own labels, addresses and ports.
pub fn cluster(size: Size) -> impl Strategy<Value = Cluster> {
    base(size).prop_flat_map(move |base| {
        let policies = policies::policies(&base, size.policies);
        policies.prop_map(move |policies| Cluster { policies, ..base.clone() })
    })
}

/// The same cluster for the same seed, as long as the generator does not change.
pub fn random_cluster(seed: u64) -> Cluster {
    draw(&mut runner(seed, b"cluster"), &cluster(Size::default()))
}

/// The same `n` flows for the same cluster and seed.
pub fn random_flows(cluster: &Cluster, seed: u64, n: usize) -> Vec<Flow> {
    let mut runner = runner(seed, b"flows");
    let strategy = flow(cluster);
    (0..n).map(|_| draw(&mut runner, &strategy)).collect()
}

fn runner(seed: u64, purpose: &[u8]) -> TestRunner {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(seed.to_le_bytes().iter().chain(purpose)) {
        *to = *from;
    }
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn draw<S: Strategy>(runner: &mut TestRunner, strategy: &S) -> S::Value {
    strategy.new_tree(runner).expect("only a filter can fail to draw, and no strategy here has one").current()
}

/// Namespaces, nodes and pods.
fn base(size: Size) -> impl Strategy<Value = Cluster> {
    let namespaces = vec(namespace(), 1..=size.namespaces.clamp(1, NAMESPACES.len()));
    let nodes = 1..=size.nodes.clamp(1, 200);
    let pods = vec(pod_draft(), 1..=size.pods.clamp(1, 200));
    (namespaces, nodes, pods).prop_map(|(namespace_drafts, node_count, pod_drafts)| {
        let names = &NAMESPACES[..namespace_drafts.len()];
        let mut namespaces = BTreeMap::new();
        for (name, draft) in names.iter().zip(namespace_drafts) {
            if let Some((mut labels, with_name_label)) = draft {
                if with_name_label {
                    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), (*name).to_owned());
                }
                namespaces.insert((*name).to_owned(), labels);
            }
        }
        let nodes: BTreeMap<String, Node> = (1..=node_count).map(node).collect();
        let mut pods = Vec::new();
        let mut live_addresses = Vec::new();
        for (index, draft) in pod_drafts.into_iter().enumerate() {
            pods.push(draft.into_pod(index, names, &nodes, &mut live_addresses));
        }
        Cluster { namespaces, nodes, pods, policies: Vec::new() }
    })
}

/// A namespace's labels and whether its manifest spells out the name label; some exist only because pods name them.
fn namespace() -> impl Strategy<Value = Option<(Labels, bool)>> {
    option::weighted(0.9, (labels(&NAMESPACE_KEYS), any::<bool>()))
}

fn labels(keys: &'static [&'static str]) -> impl Strategy<Value = Labels> {
    vec(option::weighted(0.7, select(&VALUES[..])), keys.len()).prop_map(move |values| {
        let pairs = keys.iter().zip(values);
        pairs.filter_map(|(key, value)| Some(((*key).to_owned(), value?.to_owned()))).collect()
    })
}

/// A node has the addresses that flannel gives it as well: its overlay address and the bridge of its pods.
fn node(number: usize) -> (String, Node) {
    let name = format!("n{number}");
    let labels = Labels::from([("kubernetes.io/hostname".to_owned(), name.clone())]);
    (name, Node { labels, ips: addresses::node_addresses(number) })
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Live {
        phase: Phase,
        terminating: bool,
    },
    Host {
        phase: Phase,
    },
    /// Keeps an address that may already be a live pod's (row 44).
    Finished {
        phase: Phase,
        reused: bool,
    },
    /// Scheduled or not, the network plugin has not given it an address (row 11).
    WithoutAddress {
        scheduled: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Families {
    V4,
    V6,
    Dual,
}

#[derive(Clone, Debug)]
struct PodDraft {
    ns: Index,
    node: Index,
    labels: Labels,
    kind: Kind,
    families: Families,
    ports: Vec<ContainerPort>,
    reused: Index,
}

fn pod_draft() -> impl Strategy<Value = PodDraft> {
    let kind = prop_oneof![
        10 => prop::bool::weighted(0.15).prop_map(|terminating| Kind::Live { phase: Phase::Running, terminating }),
        2 => Just(Kind::Live { phase: Phase::Pending, terminating: false }),
        2 => select(vec![Phase::Running, Phase::Succeeded]).prop_map(|phase| Kind::Host { phase }),
        2 => (select(vec![Phase::Succeeded, Phase::Failed]), any::<bool>())
            .prop_map(|(phase, reused)| Kind::Finished { phase, reused }),
        1 => any::<bool>().prop_map(|scheduled| Kind::WithoutAddress { scheduled }),
    ];
    let families = prop_oneof![2 => Just(Families::V4), 1 => Just(Families::V6), 5 => Just(Families::Dual)];
    let parts = (any::<Index>(), any::<Index>(), labels(&POD_KEYS), kind, families, ports(), any::<Index>());
    parts.prop_map(|(ns, node, labels, kind, families, ports, reused)| PodDraft {
        ns,
        node,
        labels,
        kind,
        families,
        ports,
        reused,
    })
}

fn ports() -> impl Strategy<Value = Vec<ContainerPort>> {
    let protocol = select(vec![Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    let name = option::weighted(0.8, select(&PORT_NAMES[..]));
    let port = (name, protocol, select(&PORTS[..]), prop::bool::weighted(0.15));
    vec(port, 0..=6).prop_map(|drafts| {
        let mut ports: Vec<ContainerPort> = Vec::new();
        for (name, protocol, port, init) in drafts {
            let name = name.map(str::to_owned);
            let declared = |other: &ContainerPort| other.name == name && other.protocol == protocol;
            if name.is_none() || !ports.iter().any(declared) {
                ports.push(ContainerPort { name, protocol, port, init });
            }
        }
        ports
    })
}

impl PodDraft {
    /// `live_addresses` are those of the live pods so far: what a finished pod can have lost its address to.
    fn into_pod(
        self,
        index: usize,
        namespaces: &[&str],
        nodes: &BTreeMap<String, Node>,
        live_addresses: &mut Vec<Vec<IpAddr>>,
    ) -> Pod {
        let number = 1 + self.node.index(nodes.len());
        let node = Some(format!("n{number}"));
        let own: Vec<IpAddr> = addresses::pod_addresses(number, index)
            .into_iter()
            .filter(|ip| match self.families {
                Families::V4 => ip.is_ipv4(),
                Families::V6 => ip.is_ipv6(),
                Families::Dual => true,
            })
            .collect();
        let mut pod = Pod {
            ns: (*self.ns.get(namespaces)).to_owned(),
            name: format!("p{index}"),
            labels: self.labels,
            node,
            ports: self.ports,
            ..Pod::default()
        };
        match self.kind {
            Kind::Live { phase, terminating } => {
                pod.phase = phase;
                pod.terminating = terminating;
                live_addresses.push(own.clone());
                pod.ips = own;
            }
            Kind::Host { phase } => {
                pod.phase = phase;
                pod.host_network = true;
                pod.ips = addresses::host_network_addresses(number);
            }
            Kind::Finished { phase, reused } => {
                pod.phase = phase;
                pod.ips = match reused && !live_addresses.is_empty() {
                    true => self.reused.get(live_addresses).clone(),
                    false => own,
                };
            }
            Kind::WithoutAddress { scheduled } => {
                pod.phase = Phase::Pending;
                if !scheduled {
                    pod.node = None;
                }
            }
        }
        pod
    }
}
