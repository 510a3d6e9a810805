//! nftables mode: maps from addresses and ports to chains.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use policy_agent::model::services::Backend;

use crate::port::{Address, Port};
use crate::{Family, MASQUERADE};

/// Chains that hang on a hook, and what they jump to.
const BASE: [(&str, &str, &[&str]); 8] = [
    (
        "filter-prerouting-pre-dnat",
        "filter hook prerouting priority -110",
        &["ct state new jump firewall-check"],
    ),
    ("filter-output-pre-dnat", "filter hook output priority -110", &["ct state new jump firewall-check"]),
    (
        "filter-input",
        "filter hook input priority -110",
        &["ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"],
    ),
    ("filter-forward", "filter hook forward priority -110", &["ct state new jump service-endpoints-check"]),
    ("filter-output", "filter hook output priority -90", &["ct state new jump service-endpoints-check"]),
    ("nat-prerouting", "nat hook prerouting priority -100", &["jump services"]),
    ("nat-output", "nat hook output priority -100", &["jump services"]),
    ("nat-postrouting", "nat hook postrouting priority 100", &["jump masquerading"]),
];

/// Maps from an address, a protocol and a port, or from the latter two, to a verdict.
const BY_ADDRESS: [&str; 3] = ["service-ips", "no-endpoint-services", "firewall-ips"];
const BY_PORT: [&str; 2] = ["service-nodeports", "no-endpoint-nodeports"];

pub(crate) fn rules(family: Family, ports: &[Port], nodes: &[IpAddr], pods: &[IpNet]) -> String {
    let mut table = Table::new(family);
    for (chain, hook, jumps) in BASE {
        table.base(chain, hook);
        jumps.iter().for_each(|rule| table.rule(chain, rule));
    }
    let ip = table.ip;
    for (chain, rules) in [
        (
            "services",
            vec![
                format!("{ip} daddr . meta l4proto . th dport vmap @service-ips"),
                format!("{ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"),
            ],
        ),
        ("firewall-check", vec![format!("{ip} daddr . meta l4proto . th dport vmap @firewall-ips")]),
        (
            "service-endpoints-check",
            vec![format!("{ip} daddr . meta l4proto . th dport vmap @no-endpoint-services")],
        ),
        (
            "nodeport-endpoints-check",
            vec![format!("{ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports")],
        ),
        ("mark-for-masquerade", vec![format!("mark set mark or {MASQUERADE}")]),
        (
            "masquerading",
            vec![
                format!("mark and {MASQUERADE} == 0 return"),
                format!("mark set mark xor {MASQUERADE}"),
                "masquerade fully-random".to_owned(),
            ],
        ),
        ("reject-chain", vec!["reject".to_owned()]),
    ] {
        table.chain(chain);
        rules.iter().for_each(|rule| table.rule(chain, rule));
    }
    nodes.iter().for_each(|node| table.element("nodeport-ips", &node.to_string()));
    ports.iter().for_each(|port| table.port(port, pods));
    table.text()
}

/// A script: what is declared comes before what uses it.
struct Table {
    ip: &'static str,
    address: &'static str,
    declared: String,
    filled: String,
}

impl Table {
    fn new(family: Family) -> Self {
        let (ip, address) = match family {
            Family::V4 => ("ip", "ipv4_addr"),
            Family::V6 => ("ip6", "ipv6_addr"),
        };
        let mut table = Self { ip, address, declared: String::new(), filled: String::new() };
        table.declare(&format!("set {ip} kube-proxy nodeport-ips {{ type {address}; }}"));
        for map in BY_ADDRESS {
            table.declare(&format!(
                "map {ip} kube-proxy {map} {{ type {address} . inet_proto . inet_service : verdict; }}"
            ));
        }
        for map in BY_PORT {
            table.declare(&format!(
                "map {ip} kube-proxy {map} {{ type inet_proto . inet_service : verdict; }}"
            ));
        }
        table
    }

    /// The chains and sets of before stay, empty but for the clients of affinity: nobody jumps to them.
    fn text(self) -> String {
        let Self { ip, declared, filled, .. } = self;
        let mut text = format!("add table {ip} kube-proxy\n{declared}flush table {ip} kube-proxy\n");
        for (kind, names) in [("set", &["nodeport-ips"][..]), ("map", &BY_ADDRESS), ("map", &BY_PORT)] {
            for name in names {
                text.push_str(&format!("flush {kind} {ip} kube-proxy {name}\n"));
            }
        }
        text + &filled
    }

    fn declare(&mut self, what: &str) {
        let _ = writeln!(self.declared, "add {what}");
    }

    fn base(&mut self, name: &str, hook: &str) {
        let ip = self.ip;
        self.declare(&format!("chain {ip} kube-proxy {name} {{ type {hook}; }}"));
    }

    fn chain(&mut self, name: &str) {
        let ip = self.ip;
        self.declare(&format!("chain {ip} kube-proxy {name}"));
    }

    fn rule(&mut self, chain: &str, rule: &str) {
        let _ = writeln!(self.filled, "add rule {} kube-proxy {chain} {rule}", self.ip);
    }

    fn element(&mut self, of: &str, element: &str) {
        let _ = writeln!(self.filled, "add element {} kube-proxy {of} {{ {element} }}", self.ip);
    }

    fn port(&mut self, port: &Port, pods: &[IpNet]) {
        let Port { id, protocol, .. } = port;
        for (kind, list) in port.lists() {
            self.service(port, kind, list, pods);
        }
        let dispatch = |address: &Address, verdict: &str| {
            format!("{} . {protocol} . {} : {verdict}", address.ip, address.port)
        };
        for address in &port.cluster {
            match port.internal.is_empty() {
                true => self.element("no-endpoint-services", &dispatch(address, "goto reject-chain")),
                false => self.element("service-ips", &dispatch(address, &format!("goto service-c-{id}"))),
            }
        }
        if !port.all.is_empty() && (port.node_port.is_some() || port.outside().next().is_some()) {
            let chain = format!("external-{id}");
            self.chain(&chain);
            self.rule(&chain, "jump mark-for-masquerade");
            self.rule(&chain, &format!("goto service-x-{id}"));
        }
        for address in port.outside() {
            match port.all.is_empty() {
                true => self.element("no-endpoint-services", &dispatch(address, "goto reject-chain")),
                false => self.element("service-ips", &dispatch(address, &format!("goto external-{id}"))),
            }
        }
        if !port.restricted.is_empty() {
            let chain = format!("firewall-{id}");
            let list: Vec<String> = port.sources.iter().map(ToString::to_string).collect();
            self.chain(&chain);
            self.rule(&chain, &format!("{} saddr != {{ {} }} drop", self.ip, list.join(", ")));
            for address in &port.restricted {
                self.element("firewall-ips", &dispatch(address, &format!("goto {chain}")));
            }
        }
        if let Some(number) = port.node_port {
            match port.all.is_empty() {
                true => self
                    .element("no-endpoint-nodeports", &format!("{protocol} . {number} : goto reject-chain")),
                false => {
                    self.element("service-nodeports", &format!("{protocol} . {number} : goto external-{id}"));
                }
            }
        }
    }

    /// The chain that chooses an endpoint, and those of the endpoints.
    fn service(&mut self, port: &Port, kind: &str, list: &[Backend], pods: &[IpNet]) {
        let (ip, protocol) = (self.ip, port.protocol);
        let chain = format!("service-{kind}-{}", port.id);
        self.chain(&chain);
        if kind == "c" {
            for (address, net) in port.cluster.iter().flat_map(|a| pods.iter().map(move |net| (a, net))) {
                let Address { ip: to, port } = address;
                self.rule(
                    &chain,
                    &format!(
                        "{ip} daddr {to} {protocol} dport {port} {ip} saddr != {net} jump mark-for-masquerade"
                    ),
                );
            }
        }
        for backend in list {
            let id = port.endpoint_id(kind, backend);
            let endpoint = format!("endpoint-{id}");
            self.chain(&endpoint);
            self.rule(&endpoint, &format!("{ip} saddr {} jump mark-for-masquerade", backend.address));
            if let Some(seconds) = port.affinity {
                let address = self.address;
                self.declare(&format!(
                    "set {ip} kube-proxy affinity-{id} {{ type {address}; flags dynamic,timeout; timeout {seconds}s; }}"
                ));
                self.rule(&endpoint, &format!("update @affinity-{id} {{ {ip} saddr }}"));
                self.rule(&chain, &format!("{ip} saddr @affinity-{id} goto {endpoint}"));
            }
            let to = match backend.address {
                IpAddr::V4(v4) => format!("{v4}:{}", backend.port),
                IpAddr::V6(v6) => format!("[{v6}]:{}", backend.port),
            };
            self.rule(&endpoint, &format!("meta l4proto {protocol} dnat to {to}"));
        }
        let choices = list.iter().enumerate();
        let choices: Vec<String> = choices
            .map(|(n, backend)| format!("{n} : goto endpoint-{}", port.endpoint_id(kind, backend)))
            .collect();
        self.rule(&chain, &format!("numgen random mod {} vmap {{ {} }}", list.len(), choices.join(", ")));
    }
}
