//! A node with a client, a server and a stranger on its bridge, and one variant of policy in between.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sluice_netns::{Netns, Network, NodeSpec, PodSpec, World};
use sluice_tests::agent_world::Lab;

use super::netfilter;
use super::traffic::{Ends, KINDS, Pair};
use super::variant::{Engine, Shape, Variant};

/// Where the client may connect, and where it may not although somebody listens.
pub(crate) const PORT: u16 = 5201;
const DENIED_PORT: u16 = 5999;

/// CIDRs of one policy: an object of Kubernetes has at most 1.5 MiB.
const CIDRS_OF_A_POLICY: usize = 10_000;

/// What passes does so at once; what hangs is given this long.
const OPENS_WITHIN: Duration = Duration::from_secs(3);
const HANGS_FOR: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Stage {
    pub variant: Variant,
    ends: Ends,
    /// Listens where the client may not connect.
    _denied: TcpListener,
    lab: Lab,
}

impl Stage {
    pub(crate) fn build(variant: Variant) -> anyhow::Result<Self> {
        // 1500 bytes, as between pods of one node without a tunnel's share.
        let world = World::builder("path")
            .network(Network::HostGw)
            .node(NodeSpec::new("node1"))
            .pod(PodSpec::new("bench", "client", "node1"))
            .pod(PodSpec::new("bench", "stranger", "node1"))
            .pod(PodSpec::new("bench", "server", "node1").label("app", "server"));
        let mut lab = Lab::without_agents(world)?;
        let (client, server) =
            (lab.world.pod("bench/client")?.clone(), lab.world.pod("bench/server")?.clone());
        // More connections than the usual range of ports has room for.
        client.ns.sysctl(&[("net/ipv4/ip_local_port_range", "1024 65000")])?;
        let node = lab.world.node("node1")?.ns().clone();
        // As kubeadm has it on every node, whoever enforces: it costs time by itself.
        node.sysctl(&[("net/bridge/bridge-nf-call-iptables", "1")])
            .context("the kernel has no br_netfilter, without which iptables sees nothing on a bridge")?;
        let sources = variant.sources(client.ipv4);
        match variant.engine {
            Engine::Nobody => {}
            Engine::Sluice => {
                for (number, spec) in policies(variant.shape, &sources)?.into_iter().enumerate() {
                    let name = format!("policy-{number}");
                    let policy = json!({
                        "apiVersion": "networking.k8s.io/v1",
                        "kind": "NetworkPolicy",
                        "metadata": { "namespace": "bench", "name": name },
                        "spec": spec,
                    });
                    lab.manifests.write(&format!("{name}.json"), &policy.to_string())?;
                }
                lab.start_agents(&[])?;
            }
            Engine::Nft => netfilter::nft(&node, server.ipv4, &sources, variant.shape)?,
            Engine::Iptables => netfilter::iptables(&node, server.ipv4, &sources, variant.shape)?,
        }
        let at = |port| SocketAddr::from((server.ipv4, port));
        let tcp = |port| server.ns.run(|| TcpListener::bind(at(port)))?.context("a TCP server");
        let udp = |port| server.ns.run(|| UdpSocket::bind(at(port)))?.context("a UDP server");
        let ends = Ends {
            client: client.ns,
            tcp: tcp(PORT)?,
            udp: udp(PORT)?,
            denied_udp: udp(DENIED_PORT)?,
            denies: variant.engine != Engine::Nobody,
            called: None,
        };
        Ok(Self { variant, ends, _denied: tcp(DENIED_PORT)?, lab })
    }

    /// Fails unless the policy does what it is there for: a variant that denies nothing is fast, and means nothing.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let server = self.lab.world.pod("bench/server")?.ipv4;
        let client = &self.lab.world.pod("bench/client")?.ns;
        let stranger = &self.lab.world.pod("bench/stranger")?.ns;
        ensure!(self.opens(client, server, PORT, true)?, "the client does not reach the server");
        let open = !self.ends.denies;
        ensure!(self.opens(client, server, DENIED_PORT, open)? == open, "another port: not as it should be");
        ensure!(self.opens(stranger, server, PORT, open)? == open, "the stranger: not as it should be");
        Ok(())
    }

    /// Each kind of traffic under no policy, and under this one right after.
    pub(crate) fn measure_beside(&self, nobody: &Self) -> anyhow::Result<Pair> {
        let mut pair = Pair::default();
        for (at, kind) in KINDS.iter().enumerate() {
            pair.nobody[at] =
                (kind.measure)(&nobody.ends).with_context(|| format!("no policy: {}", kind.title))?;
            pair.own[at] = (kind.measure)(&self.ends).context(kind.title)?;
        }
        Ok(pair)
    }

    fn opens(&self, from: &Netns, to: Ipv4Addr, port: u16, expected: bool) -> anyhow::Result<bool> {
        let patience = if expected { OPENS_WITHIN } else { HANGS_FOR };
        let opened =
            from.run(|| TcpStream::connect_timeout(&SocketAddr::from((to, port)), patience))?.is_ok();
        if opened && port == PORT {
            // Nobody else may find it in the queue.
            drop(self.ends.tcp.accept()?);
        }
        Ok(opened)
    }
}

/// The policies of the server, each with its share of the CIDRs.
fn policies(shape: Shape, sources: &[ipnet::Ipv4Net]) -> anyhow::Result<Vec<Value>> {
    let ports = json!([{ "protocol": "TCP", "port": PORT }, { "protocol": "UDP", "port": PORT }]);
    let policy = |sources: &[ipnet::Ipv4Net]| {
        let blocks: Vec<Value> =
            sources.iter().map(|cidr| json!({ "ipBlock": { "cidr": cidr.to_string() } })).collect();
        let rules: Vec<Value> = match shape {
            Shape::OneRule => vec![json!({ "from": blocks, "ports": ports })],
            Shape::RuleEach => {
                blocks.iter().map(|block| json!({ "from": [block], "ports": ports })).collect()
            }
        };
        json!({ "podSelector": { "matchLabels": { "app": "server" } }, "policyTypes": ["Ingress"], "ingress": rules })
    };
    Ok(sources.chunks(CIDRS_OF_A_POLICY).map(policy).collect())
}
