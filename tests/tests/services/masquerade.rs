//! What comes masqueraded to a pod of the node that masquerades it is judged by where it comes from.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_kubeproxy::Mode;
use sluice_netns::{ALLOW_TIMEOUT, DENY_TIMEOUT, Netns, Outcome, TcpConn, UdpConn};

use crate::stage::{Stage, TARGET};
use crate::translation::echo;

const HTTP: u16 = 30080;
const DNS: u16 = 30053;

/// `shop/near` behind node ports of its node; who calls is the other node.
struct Ports {
    stage: Stage,
    outside: Netns,
    http: Vec<SocketAddr>,
    dns: Vec<SocketAddr>,
}

impl Ports {
    fn new(mode: Mode) -> Result<Self> {
        let stage = Stage::new(mode)?;
        let spec = json!({
            "type": "NodePort",
            "ports": [
                {"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP", "nodePort": HTTP},
                {"name": "dns", "port": 53, "targetPort": "web", "protocol": "UDP", "nodePort": DNS},
            ],
        });
        stage.serve_as(&[("near", TARGET)], &spec)?;
        let node = stage.lab.world.node("node1")?.addresses();
        let at = |port| node.iter().map(|address| SocketAddr::new(*address, port)).collect();
        let outside = stage.lab.world.node("node2")?.ns().clone();
        Ok(Self { outside, http: at(HTTP), dns: at(DNS), stage })
    }

    /// Isolates the pod in both directions: it opens nothing, and lets in what comes from these nodes' addresses.
    fn let_in(&self, nodes: &[&str]) -> Result<()> {
        let mut blocks = Vec::new();
        for node in nodes {
            let node = self.stage.lab.world.node(node)?;
            let addresses = [node.addresses(), node.gateways(), node.pod_gateways(), node.tunnel_addresses()];
            for address in addresses.concat() {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                blocks.push(format!("{{ipBlock: {{cidr: '{address}/{bits}'}}}}"));
            }
        }
        let rules =
            if nodes.is_empty() { String::new() } else { format!("{{from: [{}]}}", blocks.join(", ")) };
        let spec = format!(
            "podSelector: {{matchLabels: {{app: near}}}}, policyTypes: [Ingress, Egress], ingress: [{rules}]"
        );
        self.stage.lab.apply("shop/ingress", &spec)
    }

    fn open(&self) -> Result<Conns> {
        Ok(Conns {
            streams: self
                .http
                .iter()
                .map(|to| TcpConn::open(&self.outside, *to, ALLOW_TIMEOUT))
                .collect::<Result<_>>()?,
            datagrams: self.dns.iter().map(|to| UdpConn::open(&self.outside, *to)).collect::<Result<_>>()?,
        })
    }

    fn is_closed(&self, what: &str) -> Result<()> {
        for to in &self.http {
            ensure!(TcpConn::open(&self.outside, *to, DENY_TIMEOUT).is_err(), "{what}: {to} opens");
        }
        Ok(())
    }
}

struct Conns {
    streams: Vec<TcpConn>,
    datagrams: Vec<UdpConn>,
}

impl Conns {
    #[track_caller]
    fn expect(&mut self, expected: &Outcome, what: &str) {
        let patience = if *expected == Outcome::Open { ALLOW_TIMEOUT } else { DENY_TIMEOUT };
        for conn in &mut self.streams {
            assert_eq!(conn.echo(patience), *expected, "{what}");
        }
        for conn in &mut self.datagrams {
            assert_eq!(conn.echo(patience), *expected, "{what}");
        }
    }
}

fn judged_by_the_client(mode: Mode) -> Result<()> {
    let ports = Ports::new(mode)?;
    let mut before = ports.open()?;
    before.expect(&Outcome::Open, "nothing isolates the pod");
    // The node's own addresses let in nobody but the node.
    ports.let_in(&["node1"])?;
    before.expect(&Outcome::TimedOut, "opened before; only the node's own addresses are let in");
    ports.is_closed("only the node's own addresses are let in")?;
    ports.let_in(&["node2"])?;
    before.expect(&Outcome::Open, "opened before; the client is let in");
    let mut conns = ports.open()?;
    conns.expect(&Outcome::Open, "the client is let in");
    for to in &ports.dns {
        // Who sends the first large one may be told that the way to pods takes less.
        let _ = echo(&ports.outside, *to, &[1400]);
        // In fragments, both ways.
        echo(&ports.outside, *to, &[1, 1400, 4000, 20_000])?;
    }
    ports.let_in(&[])?;
    conns.expect(&Outcome::TimedOut, "nobody is let in");
    ports.is_closed("nobody is let in")?;
    ports.let_in(&["node2"])?;
    conns.expect(&Outcome::Open, "let in again");
    Ok(())
}

#[test]
fn a_client_of_a_node_port_is_judged_by_its_own_address_behind_nftables() -> Result<()> {
    judged_by_the_client(Mode::Nftables)
}

#[test]
fn a_client_of_a_node_port_is_judged_by_its_own_address_behind_iptables() -> Result<()> {
    judged_by_the_client(Mode::Iptables)
}

/// The address of its own that comes back to a pod is its own where it has sent it.
#[test]
fn a_pod_that_is_closed_for_ingress_alone_reaches_itself_by_its_service() -> Result<()> {
    let stage = Stage::new(Mode::Nftables)?;
    stage.serve(&[("client", TARGET)])?;
    let open = || -> Result<Vec<TcpConn>> {
        Stage::http().into_iter().map(|to| TcpConn::open(&stage.client()?, to, ALLOW_TIMEOUT)).collect()
    };
    let mut before = open()?;
    before.iter_mut().for_each(|conn| assert_eq!(conn.echo(ALLOW_TIMEOUT), Outcome::Open));
    stage.lab.apply("shop/ingress", "podSelector: {matchLabels: {app: client}}, policyTypes: [Ingress]")?;
    before.iter_mut().for_each(|conn| assert_eq!(conn.echo(ALLOW_TIMEOUT), Outcome::Open, "opened before"));
    for to in Stage::http() {
        ensure!(stage.answers(to, 3)? == [("shop/client".to_owned(), 3)].into(), "{to}");
    }
    for mut conn in open()? {
        assert_eq!(conn.echo(ALLOW_TIMEOUT), Outcome::Open);
    }
    for to in Stage::dns() {
        echo(&stage.client()?, to, &[1, 1400, 4000])?;
    }
    Ok(())
}
