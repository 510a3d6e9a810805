//! A node with a client, a server, and a thousand Services.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use anyhow::Context as _;
use policy_agent::model::services::Vantage;
use policy_agent::source::{Store, read_folder};
use serde_json::{Value, json};
use sluice_kubeproxy::{KubeProxy, Mode};
use sluice_netns::{Network, NodeSpec, PodSpec, World};
use sluice_tests::agent_world::Lab;

use crate::path::traffic::Ends;

const PORT: u16 = 5201;
const SERVICE: [u8; 4] = [10, 96, 0, 1];
/// Others than the one that is called, with ten endpoints each.
const OTHERS: u32 = 1000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    sluice: bool,
    service: bool,
}

/// The first is what others are compared with.
pub(crate) const VARIANTS: [Variant; 4] = [
    Variant { sluice: false, service: false },
    Variant { sluice: false, service: true },
    Variant { sluice: true, service: false },
    Variant { sluice: true, service: true },
];

impl Variant {
    pub(crate) fn name(self) -> String {
        let by = if self.service { "by Service" } else { "by address" };
        let with = if self.sluice { "Sluice isolates the client" } else { "kube-proxy's iptables alone" };
        format!("{by}; {with}")
    }
}

pub(crate) struct Stage {
    pub(crate) variant: Variant,
    pub(crate) ends: Ends,
    _lab: Lab,
}

impl Stage {
    pub(crate) fn build(variant: Variant) -> anyhow::Result<Self> {
        let world = World::builder("slbsvc")
            .network(Network::HostGw)
            .node(NodeSpec::new("node1"))
            .pod(PodSpec::new("bench", "client", "node1").label("app", "client"))
            .pod(PodSpec::new("bench", "server", "node1").label("app", "server"));
        let mut lab = Lab::without_agents(world)?;
        let (client, server) =
            (lab.world.pod("bench/client")?.clone(), lab.world.pod("bench/server")?.clone());
        client.ns.sysctl(&[("net/ipv4/ip_local_port_range", "1024 65000")])?;
        let node = lab.world.node("node1")?;
        // As kubeadm has it on every node.
        node.ns()
            .sysctl(&[("net/bridge/bridge-nf-call-iptables", "1")])
            .context("the kernel has no br_netfilter")?;
        let mut items = vec![service("web", SERVICE), slice("web", &[server.ipv4.to_string()], PORT)];
        for n in 0..OTHERS {
            let (name, [_, _, high, low]) = (format!("other-{n}"), n.to_be_bytes());
            let endpoints: Vec<String> = (0..10).map(|at| format!("10.{}.{high}.{low}", 100 + at)).collect();
            items.extend([service(&name, [10, 97, high, low]), slice(&name, &endpoints, 8080)]);
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        lab.manifests.write("services.json", &list.to_string())?;
        let mut store = Store::default();
        store.update(read_folder(lab.manifests.path()));
        let cluster = store.cluster();
        let (v4, v6) = node.cidrs();
        KubeProxy::new(node, Mode::Iptables, &[v4.into(), v6.into()])
            .sync(&cluster.services, &Vantage::of(cluster, "node1"))?;
        if variant.sluice {
            let ports = format!("[{{port: {PORT}}}, {{port: {PORT}, protocol: UDP}}]");
            let policy = format!(
                "podSelector: {{matchLabels: {{app: client}}}}, policyTypes: [Egress],
                 egress: [{{to: [{{podSelector: {{matchLabels: {{app: server}}}}}}], ports: {ports}}}]"
            );
            let name = "bench/egress";
            lab.manifests.write("policy.yaml", &sluice_tests::agent_world::policy(name, &policy))?;
            lab.start_agents(&[])?;
        }
        let at = |port| SocketAddr::from((server.ipv4, port));
        let tcp = server.ns.run(|| TcpListener::bind(at(PORT)))?.context("a TCP server")?;
        let udp = |port| server.ns.run(|| UdpSocket::bind(at(port)))?.context("a UDP server");
        let ends = Ends {
            client: client.ns,
            tcp,
            udp: udp(PORT)?,
            denied_udp: udp(PORT + 1)?,
            denies: variant.sluice,
            called: variant.service.then(|| SocketAddr::from((SERVICE, 80))),
        };
        Ok(Self { variant, ends, _lab: lab })
    }
}

fn service(name: &str, address: [u8; 4]) -> Value {
    let address = std::net::Ipv4Addr::from(address);
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "bench", "name": name},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
            "ports": [
                {"name": "tcp", "port": 80, "protocol": "TCP"}, {"name": "udp", "port": 80, "protocol": "UDP"},
            ],
        },
    })
}

fn slice(name: &str, addresses: &[String], port: u16) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "bench", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "endpoints": endpoints,
        "ports": [{"name": "tcp", "port": port, "protocol": "TCP"}, {"name": "udp", "port": port, "protocol": "UDP"}],
    })
}
