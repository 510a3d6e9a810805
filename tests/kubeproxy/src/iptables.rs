//! iptables mode: a rule for each address, and a chain for each port and endpoint, in the tables `nat` and `filter`.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use policy_agent::model::services::Backend;

use crate::port::{Address, Port};
use crate::{Family, MASQUERADE};

pub(crate) fn rules(family: Family, ports: &[Port], pods: &[IpNet]) -> String {
    let mut nat = Table::new("nat");
    for (hook, chain) in
        [("PREROUTING", "KUBE-SERVICES"), ("OUTPUT", "KUBE-SERVICES"), ("POSTROUTING", "KUBE-POSTROUTING")]
    {
        nat.builtin(hook);
        nat.chain(chain);
        nat.rule(hook, &format!("-j {chain}"));
    }
    nat.chain("KUBE-NODEPORTS");
    nat.chain("KUBE-MARK-MASQ");
    nat.rule("KUBE-MARK-MASQ", &format!("-j MARK --or-mark {MASQUERADE}"));
    nat.rule("KUBE-POSTROUTING", &format!("-m mark ! --mark {MASQUERADE}/{MASQUERADE} -j RETURN"));
    nat.rule("KUBE-POSTROUTING", &format!("-j MARK --xor-mark {MASQUERADE}"));
    nat.rule("KUBE-POSTROUTING", "-j MASQUERADE --random-fully");
    let mut filter = Table::new("filter");
    for (hook, chains) in [
        ("INPUT", &["KUBE-PROXY-FIREWALL", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES"][..]),
        ("FORWARD", &["KUBE-PROXY-FIREWALL", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"]),
        ("OUTPUT", &["KUBE-PROXY-FIREWALL", "KUBE-SERVICES"]),
    ] {
        filter.builtin(hook);
        for chain in chains {
            filter.chain(chain);
            filter.rule(hook, &format!("-m conntrack --ctstate NEW -j {chain}"));
        }
    }
    let reject = match family {
        Family::V4 => "REJECT --reject-with icmp-port-unreachable",
        Family::V6 => "REJECT --reject-with icmp6-port-unreachable",
    };
    ports.iter().for_each(|port| write(port, pods, reject, &mut nat, &mut filter));
    // The last of all: what no address has matched.
    nat.rule("KUBE-SERVICES", "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS");
    nat.text() + &filter.text()
}

/// One table, whole: `iptables-restore` replaces it in one step.
struct Table {
    name: &'static str,
    chains: Vec<String>,
    rules: String,
}

impl Table {
    const fn new(name: &'static str) -> Self {
        Self { name, chains: Vec::new(), rules: String::new() }
    }

    fn builtin(&mut self, name: &str) {
        self.chains.push(format!(":{name} ACCEPT [0:0]"));
    }

    fn chain(&mut self, name: &str) {
        let line = format!(":{name} - [0:0]");
        if !self.chains.contains(&line) {
            self.chains.push(line);
        }
    }

    fn rule(&mut self, chain: &str, rule: &str) {
        let _ = writeln!(self.rules, "-A {chain} {rule}");
    }

    fn text(&self) -> String {
        format!("*{}\n{}\n{}COMMIT\n", self.name, self.chains.join("\n"), self.rules)
    }
}

fn to(address: &Address, protocol: &str) -> String {
    format!("-d {} -p {protocol} -m {protocol} --dport {}", address.ip, address.port)
}

fn write(port: &Port, pods: &[IpNet], reject: &str, nat: &mut Table, filter: &mut Table) {
    let Port { id, protocol, .. } = port;
    for (kind, list) in port.lists() {
        choose(port, kind, list, pods, nat);
    }
    for address in &port.cluster {
        let to = to(address, protocol);
        match port.internal.is_empty() {
            true => filter.rule("KUBE-SERVICES", &format!("{to} -j {reject}")),
            false => nat.rule("KUBE-SERVICES", &format!("{to} -j KUBE-SVC-C{id}")),
        }
    }
    let external = format!("KUBE-EXT-{id}");
    if !port.all.is_empty() && (port.node_port.is_some() || port.outside().next().is_some()) {
        nat.chain(&external);
        nat.rule(&external, "-j KUBE-MARK-MASQ");
        nat.rule(&external, &format!("-j KUBE-SVC-X{id}"));
    }
    for address in port.outside() {
        let to = to(address, protocol);
        if port.all.is_empty() {
            filter.rule("KUBE-EXTERNAL-SERVICES", &format!("{to} -j {reject}"));
        } else if !port.restricted.contains(address) {
            nat.rule("KUBE-SERVICES", &format!("{to} -j {external}"));
        }
    }
    for address in port.restricted.iter().filter(|_| !port.all.is_empty()) {
        let (to, firewall) = (to(address, protocol), format!("KUBE-FW-{id}"));
        nat.chain(&firewall);
        nat.rule("KUBE-SERVICES", &format!("{to} -j {firewall}"));
        // What was not translated came from elsewhere.
        filter.rule("KUBE-PROXY-FIREWALL", &format!("{to} -j DROP"));
    }
    if !port.restricted.is_empty() && !port.all.is_empty() {
        for net in &port.sources {
            nat.rule(&format!("KUBE-FW-{id}"), &format!("-s {net} -j {external}"));
        }
    }
    if let Some(number) = port.node_port {
        let to = format!("-p {protocol} -m {protocol} --dport {number}");
        match port.all.is_empty() {
            true => filter.rule("KUBE-NODEPORTS", &format!("{to} -m addrtype --dst-type LOCAL -j {reject}")),
            false => nat.rule("KUBE-NODEPORTS", &format!("{to} -j {external}")),
        }
    }
}

/// The chain that chooses an endpoint, and those of the endpoints.
fn choose(port: &Port, kind: &str, list: &[Backend], pods: &[IpNet], nat: &mut Table) {
    let protocol = port.protocol;
    let chain = format!("KUBE-SVC-{}{}", kind.to_uppercase(), port.id);
    nat.chain(&chain);
    if kind == "c" {
        for (address, net) in port.cluster.iter().flat_map(|a| pods.iter().map(move |net| (a, net))) {
            nat.rule(&chain, &format!("{} ! -s {net} -j KUBE-MARK-MASQ", to(address, protocol)));
        }
    }
    let endpoint = |backend: &Backend| format!("KUBE-SEP-{}", port.endpoint_id(kind, backend));
    for backend in list.iter().filter(|_| port.affinity.is_some()) {
        let (name, seconds) = (endpoint(backend), port.affinity.unwrap_or_default());
        nat.rule(
            &chain,
            &format!("-m recent --name {name} --rcheck --seconds {seconds} --reap --rsource -j {name}"),
        );
    }
    for (backend, left) in list.iter().zip((1..=list.len()).rev()) {
        let name = endpoint(backend);
        nat.chain(&name);
        nat.rule(&name, &format!("-s {} -j KUBE-MARK-MASQ", backend.address));
        let set =
            port.affinity.map(|_| format!("-m recent --name {name} --set --rsource ")).unwrap_or_default();
        let to = match backend.address {
            IpAddr::V4(v4) => format!("{v4}:{}", backend.port),
            IpAddr::V6(v6) => format!("[{v6}]:{}", backend.port),
        };
        nat.rule(&name, &format!("{set}-p {protocol} -m {protocol} -j DNAT --to-destination {to}"));
        // The first has its share of all, the second of what is left, and the last takes the rest.
        let chance = match left {
            1 => String::new(),
            #[expect(clippy::cast_precision_loss, reason = "a handful of endpoints")]
            left => format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64),
        };
        nat.rule(&chain, &format!("{chance}-j {name}"));
    }
}
