//! Two nodes with kube-proxy's rules, a client that policies isolate, and endpoints on both nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use policy_agent::model::Cluster;
use policy_agent::model::services::Vantage;
use policy_agent::source::{Store, read_folder};
use serde_json::{Value, json};
use sluice_kubeproxy::{KubeProxy, Mode};
use sluice_netns::{Netns, NodeSpec, PodSpec, World};
use sluice_tests::agent_world::{Lab, shell};

/// What the endpoints' pods listen on: another port than the Service's.
pub(crate) const TARGET: u16 = 8080;
/// The Service's ports of TCP and UDP.
pub(crate) const HTTP: u16 = 80;
pub(crate) const DNS: u16 = 53;
/// Its addresses, in both families.
pub(crate) const ADDRESSES: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];

pub(crate) struct Stage {
    pub(crate) lab: Lab,
    proxies: Vec<KubeProxy>,
}

/// An endpoint's pod and the port that it has for the Service's.
pub(crate) type Endpoints<'a> = &'a [(&'a str, u16)];

impl Stage {
    /// The agents run; nothing is isolated, and there is no Service.
    pub(crate) fn new(mode: Mode) -> Result<Self> {
        let server = |name, node| {
            PodSpec::new("shop", name, node)
                .label("app", name)
                .serve_tcp(TARGET)
                .serve_tcp(9090)
                .serve_udp(TARGET)
                .serve_udp(9090)
        };
        let world = World::builder("slsvc")
            .node(NodeSpec::new("node1"))
            .node(NodeSpec::new("node2"))
            .pod(server("near", "node1"))
            .pod(server("far", "node2"))
            .pod(server("client", "node1"));
        let mut lab = Lab::without_agents(world)?;
        let nodes = lab.world.nodes();
        let pods: Vec<_> =
            nodes.iter().map(|node| node.cidrs()).flat_map(|(v4, v6)| [v4.into(), v6.into()]).collect();
        let proxies = nodes.iter().map(|node| KubeProxy::new(node, mode, &pods)).collect();
        for node in nodes {
            // Services have no routes: packets to them are forwarded as those to anywhere. Elsewhere than they came from,
            // or the node's redirects use up its limit of ICMP messages, and nobody hears of a refusal.
            shell(
                node.ns(),
                "ip link add uplink type veth peer name nowhere && ip link set uplink up && ip link set nowhere up && \
                 ip -4 route add default dev uplink && ip -6 route add default dev uplink",
            )?;
        }
        lab.start_agents(&[])?;
        Ok(Self { lab, proxies })
    }

    /// Has kube-proxy and the agents know of the Service `shop/web` with these endpoints.
    pub(crate) fn serve(&self, endpoints: Endpoints<'_>) -> Result<()> {
        self.serve_as(endpoints, &json!({}))
    }

    /// The same with more in the Service's spec.
    pub(crate) fn serve_as(&self, endpoints: Endpoints<'_>, spec: &Value) -> Result<()> {
        self.write(endpoints, spec)?;
        self.sync()
    }

    /// Writes it, and waits for nobody.
    pub(crate) fn write(&self, endpoints: Endpoints<'_>, spec: &Value) -> Result<()> {
        let addressed = endpoints.iter().map(|(pod, port)| {
            let pod = self.lab.world.pod(&format!("shop/{pod}"))?;
            Ok(([pod.ipv4.into(), pod.ipv6.into()], *port, pod.node.clone()))
        });
        self.write_addresses(&addressed.collect::<Result<Vec<_>>>()?, spec)
    }

    pub(crate) fn serve_addresses(
        &self,
        endpoints: &[([IpAddr; 2], u16, String)],
        spec: &Value,
    ) -> Result<()> {
        self.write_addresses(endpoints, spec)?;
        self.sync()
    }

    fn write_addresses(&self, endpoints: &[([IpAddr; 2], u16, String)], spec: &Value) -> Result<()> {
        let mut list = vec![service(spec)];
        let ports: BTreeSet<u16> = endpoints.iter().map(|(_, port, _)| *port).collect();
        for (family, kind) in ["IPv4", "IPv6"].into_iter().enumerate() {
            for port in &ports {
                let own = endpoints.iter().filter(|(_, of, _)| of == port);
                let addresses: Vec<Value> = own
                    .map(|(addresses, _, node)| {
                        json!({"addresses": [addresses[family]], "nodeName": node, "conditions": {"ready": true}})
                    })
                    .collect();
                list.push(json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "namespace": "shop",
                        "name": format!("web-{}-{port}", kind.to_lowercase()),
                        "labels": {"kubernetes.io/service-name": "web"},
                    },
                    "addressType": kind,
                    "endpoints": addresses,
                    "ports": [
                        {"name": "http", "port": port, "protocol": "TCP"},
                        {"name": "dns", "port": port, "protocol": "UDP"},
                    ],
                }));
            }
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": list});
        self.lab.manifests.write("web.json", &list.to_string())?;
        Ok(())
    }

    /// Waits until the agents and kube-proxy have what the folder says.
    pub(crate) fn sync(&self) -> Result<()> {
        self.lab.sync()?;
        let cluster = self.cluster()?;
        for (proxy, node) in self.proxies.iter().zip(self.lab.world.nodes()) {
            proxy.sync(&cluster.services, &Vantage::of(&cluster, node.name()))?;
        }
        Ok(())
    }

    fn cluster(&self) -> Result<Cluster> {
        let mut store = Store::default();
        store.update(read_folder(self.lab.manifests.path()));
        ensure!(store.problems().is_empty(), "the manifests have problems");
        Ok(store.cluster().clone())
    }

    /// The client may open connections to these pods, at these ports only.
    pub(crate) fn allow(&self, peers: &[&str], ports: &[u16]) -> Result<()> {
        let peers: Vec<String> =
            peers.iter().map(|app| format!("{{podSelector: {{matchLabels: {{app: {app}}}}}}}")).collect();
        let ports: Vec<String> = ports
            .iter()
            .flat_map(|port| ["TCP", "UDP"].map(|protocol| format!("{{port: {port}, protocol: {protocol}}}")))
            .collect();
        let rules = match peers.is_empty() {
            true => "[]".to_owned(),
            false => format!("[{{to: [{}], ports: [{}]}}]", peers.join(", "), ports.join(", ")),
        };
        let spec =
            format!("podSelector: {{matchLabels: {{app: client}}}}, policyTypes: [Egress], egress: {rules}");
        self.lab.apply("shop/egress", &spec)
    }

    pub(crate) fn client(&self) -> Result<Netns> {
        self.lab.ns("shop/client")
    }

    /// The addresses of the Service's port of TCP.
    pub(crate) fn http() -> [SocketAddr; 2] {
        ADDRESSES.map(|address| SocketAddr::new(address.parse().expect("an address"), HTTP))
    }

    pub(crate) fn dns() -> [SocketAddr; 2] {
        ADDRESSES.map(|address| SocketAddr::new(address.parse().expect("an address"), DNS))
    }

    /// Who answered the client, of so many questions at once.
    pub(crate) fn who(&self, to: SocketAddr, times: usize) -> Result<BTreeSet<String>> {
        let client = self.client()?;
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..times).map(|_| scope.spawn(|| ask(&client, to, ONE_CHOICE))).collect();
            let answers = asked.into_iter().map(|asked| {
                asked.join().map_err(|_| anyhow::anyhow!("a thread that asked panicked")).flatten()
            });
            answers.collect()
        })
    }

    /// How often each pod answered the client, `hangs` and `refused` among them.
    pub(crate) fn answers(&self, to: SocketAddr, times: usize) -> Result<BTreeMap<String, usize>> {
        let mut answers = BTreeMap::new();
        let client = self.client()?;
        for _ in 0..times {
            *answers.entry(ask(&client, to, ONE_CHOICE)?).or_default() += 1;
        }
        Ok(answers)
    }
}

fn service(more: &Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ADDRESSES[0],
            "clusterIPs": ADDRESSES,
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                {"name": "http", "port": HTTP, "targetPort": "web", "protocol": "TCP"},
                {"name": "dns", "port": DNS, "targetPort": "web", "protocol": "UDP"},
            ],
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        service["spec"][key] = value.clone();
    }
    service
}

/// How long to wait for who does not come: below the second after which TCP asks again, so that each call is one choice.
pub(crate) const ONE_CHOICE: Duration = Duration::from_millis(600);

/// Who answers.
pub(crate) fn ask(from: &Netns, to: SocketAddr, patience: Duration) -> Result<String> {
    let asked = from.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().last().unwrap_or_default().to_owned())
    })?;
    Ok(match asked {
        Ok(name) => name,
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => "hangs".to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        Err(error) => anyhow::bail!("asking {to} from {}: {error}", from.name()),
    })
}
