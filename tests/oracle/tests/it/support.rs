//! A small fixed cluster, and questions to it in one line each.

use std::net::IpAddr;

use sluice_oracle::{
    Cluster, ContainerPort, Flow, Judgement, Labels, Node, Origin, Phase, Pod, Policy, Protocol, judge,
};

/// Outside of every pod and node range.
pub(crate) const OUTSIDE: &str = "203.0.113.9";
pub(crate) const OUTSIDE_V6: &str = "2001:db8::9";

/// | pod | node | address | labels | ports |
/// |---|---|---|---|---|
/// | x/a | n1 | 10.244.1.10, fd00:10::10 | app=a | web TCP 80, dns UDP 53 |
/// | x/b | n2 | 10.244.2.11, fd00:10::11 | app=b, tier="" | web TCP 8080, dns TCP 5353 |
/// | y/a | n2 | 10.244.2.20, fd00:10::20 | app=a | web TCP 81 |
/// | z/c | n1 | 10.244.1.30, fd00:10::30 | app=c | none |
/// | y/host | n1 | the node's | app=a | web TCP 80 |
///
/// Namespaces: x team=1; y team=2, env=""; z exists only by its pod.
pub(crate) fn world(policies: &[(&str, &str)]) -> Cluster {
    let mut cluster = Cluster {
        namespaces: [
            ("x".to_owned(), labels(&[("team", "1")])),
            ("y".to_owned(), labels(&[("team", "2"), ("env", "")])),
        ]
        .into(),
        nodes: [node(1), node(2)].into(),
        pods: vec![
            pod("x/a", "n1", &["10.244.1.10", "fd00:10::10"], &[("app", "a")]),
            pod("x/b", "n2", &["10.244.2.11", "fd00:10::11"], &[("app", "b"), ("tier", "")]),
            pod("y/a", "n2", &["10.244.2.20", "fd00:10::20"], &[("app", "a")]),
            pod("z/c", "n1", &["10.244.1.30", "fd00:10::30"], &[("app", "c")]),
            Pod {
                host_network: true,
                ..pod("y/host", "n1", &["192.0.2.1", "fd00:c0de::1"], &[("app", "a")])
            },
        ],
        policies: Vec::new(),
    };
    pod_mut(&mut cluster, "x/a").ports = vec![port("web", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)];
    pod_mut(&mut cluster, "x/b").ports =
        vec![port("web", Protocol::Tcp, 8080), port("dns", Protocol::Tcp, 5353)];
    pod_mut(&mut cluster, "y/a").ports = vec![port("web", Protocol::Tcp, 81)];
    pod_mut(&mut cluster, "y/host").ports = vec![port("web", Protocol::Tcp, 80)];
    for (index, (ns, spec)) in policies.iter().enumerate() {
        let spec = serde_saphyr::from_str(spec).unwrap();
        cluster.policies.push(Policy { ns: (*ns).to_owned(), name: format!("p{index}"), spec });
    }
    cluster
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn node(number: u8) -> (String, Node) {
    let ips = [format!("192.0.2.{number}"), format!("fd00:c0de::{number}")];
    let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    (format!("n{number}"), Node { labels: Labels::new(), ips })
}

pub(crate) fn pod(full_name: &str, node: &str, ips: &[&str], pairs: &[(&str, &str)]) -> Pod {
    let (ns, name) = full_name.split_once('/').unwrap();
    Pod {
        ns: ns.to_owned(),
        name: name.to_owned(),
        labels: labels(pairs),
        node: Some(node.to_owned()),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        phase: Phase::Running,
        ..Pod::default()
    }
}

pub(crate) fn port(name: &str, protocol: Protocol, port: u16) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), protocol, port, init: false }
}

pub(crate) fn pod_mut<'a>(cluster: &'a mut Cluster, full_name: &str) -> &'a mut Pod {
    cluster.pods.iter_mut().find(|pod| pod.full_name() == full_name).unwrap()
}

/// `from` and `to`: a pod (its IPv4 address; `x/a@6` its IPv6 address), an address, and for `from` `node:n1`.
/// `pp`: `TCP/80`, `ICMP`.
pub(crate) fn judged(cluster: &Cluster, from: &str, to: &str, pp: &str) -> Judgement {
    let origin = match from.strip_prefix("node:") {
        Some(node) => Origin::Node(node.to_owned()),
        None => Origin::Wire,
    };
    let (protocol, port) = pp.split_once('/').unwrap_or((pp, "0"));
    let flow = Flow {
        from: address(cluster, from),
        to: address(cluster, to),
        protocol: Protocol::from_api_name(protocol).unwrap_or(Protocol::Icmp),
        port: port.parse().unwrap(),
        origin,
    };
    judge(cluster, &flow)
}

fn address(cluster: &Cluster, end: &str) -> IpAddr {
    if let Ok(ip) = end.parse() {
        return ip;
    }
    if let Some(node) = end.strip_prefix("node:") {
        return cluster.nodes[node].ips[0];
    }
    let (full_name, v6) = match end.strip_suffix("@6") {
        Some(full_name) => (full_name, true),
        None => (end, false),
    };
    let mut pods = cluster.pods.iter().filter(|pod| pod.full_name() == full_name);
    *pods.next().unwrap().ips.iter().find(|ip| ip.is_ipv6() == v6).unwrap()
}

#[track_caller]
pub(crate) fn yes(cluster: &Cluster, from: &str, to: &str, pp: &str) {
    let judgement = judged(cluster, from, to, pp);
    assert!(judgement.allowed(), "{from} -> {to} {pp} should be allowed, got {judgement:?}");
}

#[track_caller]
pub(crate) fn no(cluster: &Cluster, from: &str, to: &str, pp: &str) {
    let judgement = judged(cluster, from, to, pp);
    assert!(!judgement.allowed(), "{from} -> {to} {pp} should be denied, got {judgement:?}");
}
