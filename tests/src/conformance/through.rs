//! Every pod behind a Service of its own, with kube-proxy's rules on every node: what cases say of a pod must hold for whom
//! calls its Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use policy_agent::model::services::Vantage;
use policy_agent::source::{Store, read_folder};
use serde_json::{Value, json};
use sluice_kubeproxy::{KubeProxy, Mode};
use sluice_netns::World;
use sluice_oracle::cases::Family;
use sluice_oracle::{Cluster, Pod, Protocol};

/// What a Service's port is more than its target port.
const BEYOND: u16 = 10_000;

#[derive(Debug)]
pub(super) struct Through {
    proxies: Vec<(String, KubeProxy)>,
    /// Of each pod's Service.
    numbers: BTreeMap<String, u16>,
    ports: BTreeSet<(&'static str, u16)>,
}

impl Through {
    pub(super) fn new(world: &World, mode: Mode) -> Self {
        let nets = world.nodes().iter().map(|node| node.cidrs());
        let pods: Vec<IpNet> = nets.flat_map(|(v4, v6)| [v4.into(), v6.into()]).collect();
        let proxy = |node| KubeProxy::new(node, mode, &pods);
        let proxies = world.nodes().iter().map(|node| (node.name().to_owned(), proxy(node))).collect();
        Self { proxies, numbers: BTreeMap::new(), ports: BTreeSet::new() }
    }

    /// The address and port of a pod's Service, and whether the Service has the port already; `None`: no Service leads there.
    pub(super) fn service(
        &mut self,
        cluster: &Cluster,
        to: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Option<(IpAddr, u16, bool)> {
        let name = match protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
            Protocol::Icmp => return None,
        };
        let pod = cluster.pods.iter().find(|pod| has_service(pod) && pod.ips.contains(&to))?;
        let known = self.numbers.contains_key(&pod.full_name()) && !self.ports.insert((name, port));
        Some((self.address(pod, Family::of(to)), port.checked_add(BEYOND)?, known))
    }

    fn address(&mut self, pod: &Pod, family: Family) -> IpAddr {
        let next = u16::try_from(self.numbers.len()).unwrap_or(u16::MAX);
        let number = *self.numbers.entry(pod.full_name()).or_insert(next) + 1;
        match family {
            Family::Ipv4 => {
                let [high, low] = number.to_be_bytes();
                [10, 96, high, low].into()
            }
            Family::Ipv6 => [0xfd00, 0x10, 0x96, 0, 0, 0, 0, number].into(),
        }
    }

    /// The Services and their slices, by file name.
    pub(super) fn objects(&mut self, cluster: &Cluster) -> BTreeMap<String, Value> {
        let mut objects = BTreeMap::new();
        if self.ports.is_empty() {
            return objects;
        }
        for pod in cluster.pods.iter().filter(|pod| has_service(pod)) {
            let addresses: Vec<IpAddr> =
                pod.ips.iter().map(|ip| self.address(pod, Family::of(*ip))).collect();
            let families: Vec<&str> = pod.ips.iter().map(|ip| family_name(*ip)).collect();
            let name = |protocol: &str, port: u16| format!("{}-{port}", protocol.to_lowercase());
            let ports = self.ports.iter();
            let ports =
                ports.filter_map(|(protocol, port)| Some((protocol, port, port.checked_add(BEYOND)?)));
            let ports: Vec<Value> = ports
                .map(|(protocol, port, own)| {
                    json!({"name": name(protocol, *port), "protocol": protocol, "port": own, "targetPort": port})
                })
                .collect();
            let service = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": pod.ns, "name": pod.name},
                "spec": {
                    "type": "ClusterIP", "clusterIP": addresses.first(), "clusterIPs": addresses,
                    "ipFamilies": families, "ports": ports,
                },
            });
            objects.insert(format!("service-{}-{}", pod.ns, pod.name), service);
            for ip in &pod.ips {
                let kind = family_name(*ip);
                let targets: Vec<Value> = self
                    .ports
                    .iter()
                    .map(|(protocol, port)| {
                        json!({"name": name(protocol, *port), "protocol": protocol, "port": port})
                    })
                    .collect();
                let slice = json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": kind,
                    "metadata": {
                        "namespace": pod.ns, "name": format!("{}-{}", pod.name, kind.to_lowercase()),
                        "labels": {"kubernetes.io/service-name": pod.name},
                    },
                    "endpoints": [{"addresses": [ip], "nodeName": pod.node, "conditions": {"ready": true}}],
                    "ports": targets,
                });
                objects.insert(format!("slice-{}-{}-{kind}", pod.ns, pod.name), slice);
            }
        }
        objects
    }

    /// Has kube-proxy translate what the folder says.
    pub(super) fn sync(&self, manifests: &Path) -> Result<()> {
        let mut store = Store::default();
        store.update(read_folder(manifests));
        let cluster = store.cluster();
        self.proxies.iter().try_for_each(|(node, proxy)| {
            proxy
                .sync(&cluster.services, &Vantage::of(cluster, node))
                .with_context(|| format!("kube-proxy's rules on {node}"))
        })
    }
}

fn has_service(pod: &Pod) -> bool {
    pod.is_policed() && !pod.host_network && !pod.ips.is_empty()
}

const fn family_name(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}
