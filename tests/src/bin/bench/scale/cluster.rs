//! A cluster of any size: workloads with replicas, a team to each namespace, policies of the usual shapes. Nothing is
//! drawn but who is replaced: a pod follows from its place and how often it was replaced, so that the simulation holds
//! no second copy of the cluster beside the one that is measured.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use policy_agent::model::{
    Block, ContainerPort, Labels, NamespaceMatch, ObjectName, Peer, Pod, Policy, PortMatch, Protocol,
    Requirement, Rule, Selector,
};

const REPLICAS: u32 = 5;
const PODS_PER_NODE: u32 = 110;
const PODS_PER_NAMESPACE: u32 = 20;
const TEAMS: u32 = 25;
const TIER_COUNT: u32 = 4;
const TIERS: [&str; 4] = ["frontend", "backend", "worker", "database"];

/// The shape of a cluster. Places of pods go from 0 to `pods`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) pods: u32,
}

impl Shape {
    pub(crate) const fn nodes(self) -> u32 {
        self.pods.div_ceil(PODS_PER_NODE)
    }

    pub(crate) const fn namespaces(self) -> u32 {
        self.pods / PODS_PER_NAMESPACE
    }

    /// Two for each namespace.
    pub(crate) const fn policies(self) -> u32 {
        self.namespaces() * 2
    }

    /// Pods are spread over the nodes; the first is the one whose agent is measured.
    pub(crate) const fn is_local(self, place: u32) -> bool {
        place.is_multiple_of(self.nodes())
    }

    const fn workload(place: u32) -> u32 {
        place / REPLICAS
    }

    pub(crate) const fn namespace_of(self, place: u32) -> u32 {
        Self::workload(place) / TIER_COUNT % self.namespaces()
    }

    pub(crate) fn namespace(number: u32) -> (String, Labels) {
        let labels = [
            ("team".to_owned(), team(number)),
            ("env".to_owned(), ["production", "staging", "test"][number as usize % 3].to_owned()),
            ("cost-center".to_owned(), format!("cc-{}", number % 97)),
        ];
        (namespace_name(number), labels.into())
    }

    pub(crate) fn pod_name(self, place: u32, generation: u32) -> ObjectName {
        let workload = Self::workload(place);
        let tier = TIERS[workload as usize % TIERS.len()];
        // As a ReplicaSet names them: its template's hash, and five letters.
        let name =
            format!("{tier}-{:010x}-{:05x}", hash(workload), hash(place ^ generation << 20) & 0xf_ffff);
        ObjectName::new(namespace_name(self.namespace_of(place)), name)
    }

    /// Not on the network yet where `address` is not wanted.
    pub(crate) fn pod(self, place: u32, generation: u32, address: bool) -> Pod {
        let workload = Self::workload(place);
        let tier = TIERS[workload as usize % TIERS.len()];
        let label = |key: &str, value: String| (key.to_owned(), value);
        let labels = [
            label("app", format!("app-{workload}")),
            label("app.kubernetes.io/name", tier.to_owned()),
            label("app.kubernetes.io/instance", format!("app-{workload}-{tier}")),
            label("app.kubernetes.io/version", format!("1.{}.0", workload % 30)),
            label("tier", tier.to_owned()),
            label("pod-template-hash", format!("{:010x}", hash(workload))),
        ];
        let port =
            |name: &str, port| ContainerPort { name: Some(name.to_owned()), protocol: Protocol::Tcp, port };
        let serial = u64::from(hash(place)) << 32 | u64::from(hash(generation));
        Pod {
            id: self.pod_name(place, generation),
            uid: format!("{:08x}-{:04x}-4000-8000-{serial:012x}", hash(place), generation & 0xffff),
            labels: Arc::new(labels.into()),
            node: Some(format!("node-{}", place % self.nodes()).into()),
            addresses: if address { vec![self.address(place, generation)] } else { Vec::new() },
            host_network: false,
            finished: false,
            terminating: false,
            created: i64::from(generation),
            // A few workloads listen elsewhere under the same name.
            ports: [port("http", 8080 + (workload % 16 / 15) as u16), port("metrics", 9090)].into(),
            sources: Vec::new(),
        }
    }

    /// Each node has a /24; a replacement gets another of its addresses than the pod before it.
    pub(crate) fn address(self, place: u32, generation: u32) -> IpAddr {
        let (node, at) = (place % self.nodes(), place / self.nodes());
        let host = 2 + at + generation % 2 * (PODS_PER_NODE + 5);
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + (node << 8) + host).into()
    }

    /// Number 0 of each namespace isolates and allows DNS; number 1 allows what the namespace's kind wants, `variant`
    /// being another kind each.
    pub(crate) fn policy(namespace: u32, number: u32, variant: u32) -> Policy {
        let name = namespace_name(namespace);
        if number == 0 {
            return Policy {
                id: ObjectName::new(&name, "default-deny"),
                subject: Selector::everything(),
                ingress: Some(Vec::new()),
                egress: (!namespace.is_multiple_of(3)).then(|| vec![dns()]),
            };
        }
        let own = |pods| Peer::Pods { namespaces: NamespaceMatch::Named(name.clone()), pods };
        let of = |namespaces, pods| Peer::Pods { namespaces: NamespaceMatch::Selected(namespaces), pods };
        let (subject, ingress, egress) = match (namespace + variant) % 8 {
            0 => (Selector::everything(), vec![rule(vec![own(Selector::everything())], None)], None),
            1 => {
                let peers = vec![
                    own(is("tier", "frontend")),
                    of(is("team", &team(namespace)), is("tier", "backend")),
                ];
                (is("tier", "backend"), vec![rule(peers, Some(named("http")))], None)
            }
            2 => {
                let partners = of(is("team", &team(namespace + 1)), Selector::everything());
                (Selector::everything(), vec![rule(vec![partners], Some(tcp(&[8080, 8443])))], None)
            }
            3 => {
                let outside = block("0.0.0.0/0", &["10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16"]);
                let own = own(Selector::everything());
                (
                    Selector::everything(),
                    vec![rule(vec![own.clone()], None)],
                    Some(vec![rule(vec![outside], Some(tcp(&[443]))), rule(vec![own], Some(named("http")))]),
                )
            }
            4 => {
                let office = format!("172.{}.0.0/16", 16 + namespace % 16);
                let except = format!("172.{}.7.0/24", 16 + namespace % 16);
                let peers =
                    vec![block(&office, &[&except]), of(is("env", "production"), is("tier", "frontend"))];
                (is("tier", "frontend"), vec![rule(peers, Some(tcp(&[8080])))], None)
            }
            5 => {
                // Metrics are for everybody in the cluster.
                let all = of(Selector::everything(), Selector::everything());
                (Selector::everything(), vec![rule(vec![all], Some(named("metrics")))], None)
            }
            6 => {
                let backends = own(is("tier", "backend"));
                (is("tier", "database"), vec![rule(vec![backends], Some(tcp(&[5432])))], Some(Vec::new()))
            }
            _ => {
                let ours = [Requirement::NotIn { key: "env".to_owned(), values: ["test".to_owned()].into() }];
                let peers =
                    vec![of(ours.into_iter().collect(), is("tier", "worker")), own(Selector::everything())];
                (Selector::everything(), vec![rule(peers, None)], None)
            }
        };
        Policy { id: ObjectName::new(&name, "allow"), subject, ingress: Some(ingress), egress }
    }
}

fn namespace_name(number: u32) -> String {
    format!("project-{number:05}")
}

fn team(number: u32) -> String {
    format!("team-{}", number % TEAMS)
}

/// Spreads; nothing depends on more.
const fn hash(n: u32) -> u32 {
    let mixed = (n ^ n >> 16).wrapping_mul(0x45d9_f3b5);
    (mixed ^ mixed >> 15).wrapping_mul(0x2c1b_3c6d) ^ mixed >> 13
}

fn is(key: &str, value: &str) -> Selector {
    [Requirement::In { key: key.to_owned(), values: [value.to_owned()].into() }].into_iter().collect()
}

const fn rule(peers: Vec<Peer>, ports: Option<Vec<PortMatch>>) -> Rule {
    Rule { peers: Some(peers), ports }
}

fn named(name: &str) -> Vec<PortMatch> {
    vec![PortMatch::Named { protocol: Protocol::Tcp, name: name.to_owned() }]
}

fn tcp(ports: &[u16]) -> Vec<PortMatch> {
    let one = |port: &u16| PortMatch::Range { protocol: Protocol::Tcp, first: *port, last: *port };
    ports.iter().map(one).collect()
}

fn dns() -> Rule {
    let resolver = Peer::Pods {
        namespaces: NamespaceMatch::Selected(is("kubernetes.io/metadata.name", &namespace_name(0))),
        pods: is("tier", "backend"),
    };
    let port = |protocol| PortMatch::Range { protocol, first: 53, last: 53 };
    rule(vec![resolver], Some(vec![port(Protocol::Udp), port(Protocol::Tcp)]))
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let net = |text: &str| text.parse().unwrap_or_else(|_| unreachable!("{text} is written here"));
    Peer::Block(Block { cidr: net(cidr), except: except.iter().map(|text| net(text)).collect() })
}
