//! A node with pods behind a Service, a machine outside, and questions to them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use policy_agent::model::services::{
    Endpoint, EndpointPort, EndpointSlice, Readiness, Service, ServicePort, Services, Vantage,
};
use policy_agent::model::{ObjectName, Protocol};
use sluice_kubeproxy::{KubeProxy, Mode};
use sluice_netns::{Netns, Node, NodeSpec, PodSpec, World};

/// Of a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
pub(crate) const TARGET: u16 = 8080;

/// Pods `a` and `b` serve; `client` asks; `visitor` is outside.
pub(crate) struct Stage {
    pub(crate) world: World,
    proxy: KubeProxy,
}

impl Stage {
    pub(crate) fn new(mode: Mode) -> Result<Self> {
        let server = |name| PodSpec::new("shop", name, "node1").serve_tcp(TARGET).serve_udp(TARGET);
        let world = World::builder("slproxy")
            .node(NodeSpec::new("node1"))
            .pod(server("a"))
            .pod(server("b"))
            .pod(PodSpec::new("shop", "client", "node1"))
            .outside("visitor", [172, 30, 0, 200].into(), Some("fd00:172:30::200".parse()?))
            .build()?;
        let node = world.node("node1")?;
        let (v4, v6) = node.cidrs();
        let proxy = KubeProxy::new(node, mode, &[v4.into(), v6.into()]);
        // Services have no routes: packets to them are forwarded as those to anywhere. Elsewhere than they came from, or
        // the node's redirects use up its limit of ICMP messages, and nobody hears of a refusal.
        ip(node.ns(), "link add uplink type veth peer name nowhere")?;
        ip(node.ns(), "link set uplink up")?;
        ip(node.ns(), "link set nowhere up")?;
        ip(node.ns(), "-4 route add default dev uplink")?;
        ip(node.ns(), "-6 route add default dev uplink")?;
        let visitor = &world.outside()[0];
        for (index, address) in node.addresses().into_iter().enumerate() {
            let net = ["203.0.113.0/24", "2001:db8:113::/64"][index];
            ip(&visitor.ns, &format!("route add {net} via {address}"))?;
        }
        Ok(Self { world, proxy })
    }

    pub(crate) fn node(&self) -> Result<&Node> {
        self.world.node("node1")
    }

    pub(crate) fn client(&self) -> Result<Netns> {
        Ok(self.world.pod("shop/client")?.ns.clone())
    }

    pub(crate) fn visitor(&self) -> Netns {
        self.world.outside()[0].ns.clone()
    }

    /// Of both families.
    pub(crate) fn addresses(&self, pod: &str) -> Result<[IpAddr; 2]> {
        let pod = self.world.pod(&format!("shop/{pod}"))?;
        Ok([pod.ipv4.into(), pod.ipv6.into()])
    }

    /// Has the proxy translate the Service for these pods.
    pub(crate) fn serve(&self, service: &Service, pods: &[&str]) -> Result<()> {
        let mut services = Services::default();
        services.insert(service.clone());
        for (family, v4) in [(0, true), (1, false)] {
            let endpoint = |pod: &&str| -> Result<Endpoint> {
                let address = self.addresses(pod)?[family];
                Ok(Endpoint { address, readiness: Readiness::Ready, node: None, hints: None })
            };
            let endpoints: Vec<Endpoint> = pods.iter().map(endpoint).collect::<Result<_>>()?;
            let ports: Vec<EndpointPort> = service
                .ports
                .iter()
                .map(|port| EndpointPort { name: port.name.clone(), protocol: port.protocol, port: TARGET })
                .collect();
            services.insert_slice(EndpointSlice {
                id: ObjectName::new("shop", format!("web-{family}").as_str()),
                service: Some(service.id.name.to_string()),
                v4,
                ports: ports.into(),
                endpoints: endpoints.into(),
            });
        }
        let addresses = self.node()?.addresses().to_vec();
        self.proxy.sync(&services, &Vantage { node: Some("node1".to_owned()), zone: None, addresses })
    }

    /// How often each pod answered, of so many connections.
    pub(crate) fn answers(
        &self,
        from: &Netns,
        to: SocketAddr,
        times: usize,
    ) -> Result<BTreeMap<String, usize>> {
        let mut answers = BTreeMap::new();
        for _ in 0..times {
            *answers.entry(ask(from, to)?).or_default() += 1;
        }
        Ok(answers)
    }
}

/// The Service `shop/web`: ports 80 of TCP and 53 of UDP, with addresses of both families.
pub(crate) fn web() -> Result<Service> {
    let port = |name: &str, protocol, port, node_port| ServicePort {
        name: name.to_owned(),
        protocol,
        port,
        node_port,
    };
    Ok(Service {
        id: ObjectName::new("shop", "web"),
        cluster_ips: vec!["10.96.0.10".parse()?, "fd00:10:96::10".parse()?],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: [].into(),
        ports: [port("http", Protocol::Tcp, 80, Some(30080)), port("dns", Protocol::Udp, 53, None)].into(),
        affinity: None,
        internal_local: false,
    })
}

/// Who answers.
pub(crate) fn ask(from: &Netns, to: SocketAddr) -> Result<String> {
    let asked = from.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().last().unwrap_or_default().to_owned())
    })?;
    asked.with_context(|| format!("asking {to} from {}", from.name()))
}

fn ip(ns: &Netns, arguments: &str) -> Result<()> {
    let output = ns.output(Command::new("ip").args(arguments.split(' ')))?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
