//! What the policies mean, with real sockets through the real agent: two nodes joined by VXLAN, IPv4 and IPv6.

use anyhow::Result;
use sluice_netns::{NodeSpec, PodSpec, Server, WorldBuilder, sctp_supported};
use sluice_tests::agent_world::{Lab, outside6, shell};

/// `ns/near` and `ns/far` are on different nodes; everybody serves TCP 80 and UDP 5300.
fn pod(key: &str, node: &str) -> PodSpec {
    let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
    PodSpec::new(namespace, name, node).serve_tcp(80).serve_udp(5300)
}

fn two_nodes() -> WorldBuilder {
    sluice_netns::World::builder("slstory").node(NodeSpec::new("node1")).node(NodeSpec::new("node2"))
}

fn town() -> WorldBuilder {
    two_nodes()
        .outside("client", [172, 16, 8, 10].into(), Some(outside6(8, 10)))
        .outside("friend", [172, 16, 9, 10].into(), Some(outside6(9, 10)))
        .pod(pod("dev/web", "node1"))
        .pod(pod("dev/near", "node1"))
        .pod(pod("dev/far", "node2"))
        .pod(pod("prod/near", "node1"))
        .pod(pod("prod/far", "node2"))
}

#[test]
fn deny_ingress_closes_a_namespace_to_all_but_its_node() -> Result<()> {
    let lab = Lab::start(town())?;
    lab.expect(
        "prod/near dev/web tcp/80   opens
         prod/far  dev/web udp/5300 opens
         client    dev/web ping     opens
         prod/far  dev/web tcp/81   refused
         prod/near dev/web udp/81   refused",
    );
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    lab.expect(
        "prod/near dev/web  tcp/80   hangs
         prod/far  dev/web  tcp/80   hangs
         prod/far  dev/web  tcp/81   hangs
         prod/near dev/web  udp/5300 hangs
         prod/far  dev/web  udp/5300 hangs
         prod/near dev/web  udp/81   hangs
         prod/far  dev/web  ping     hangs
         client    dev/web  tcp/80   hangs
         client    dev/web  ping     hangs
         prod/near dev/far  tcp/80   hangs
         # Pods of one namespace are strangers to each other too.
         dev/near  dev/web  tcp/80   hangs
         dev/far   dev/web  udp/5300 hangs
         dev/far   dev/web  ping     hangs
         # The other node is an address like any other.
         node2     dev/web  tcp/80   hangs
         node2     dev/web  udp/5300 hangs
         node2     dev/web  ping     hangs
         # The own node always comes through, and a pod to itself.
         node1     dev/web  tcp/80   opens
         node1     dev/web  tcp/81   refused
         node1     dev/web  udp/5300 opens
         node1     dev/web  ping     opens
         node2     dev/far  tcp/80   opens
         dev/web   dev/web  tcp/80   opens
         dev/web   dev/web  ping     opens
         # Egress is nobody's business, and the answers come in.
         dev/web   prod/near tcp/80   opens
         dev/web   prod/far  tcp/80   opens
         dev/web   prod/far  udp/5300 opens
         dev/web   prod/far  udp/81   refused
         dev/web   client    ping     opens
         dev/web   node1     ping     opens
         dev/web   node2     ping     opens
         # Another namespace is as it was.
         dev/near  prod/near tcp/80   opens
         prod/near prod/far  tcp/80   opens
         client    prod/far  udp/5300 opens",
    );
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress], ingress: [{}]")?;
    lab.expect(
        "prod/near dev/web tcp/80   opens
         prod/far  dev/web tcp/80   opens
         prod/far  dev/web tcp/81   refused
         prod/near dev/web udp/81   refused
         dev/near  dev/web udp/5300 opens
         client    dev/web ping     opens
         node2     dev/web ping     opens",
    );
    lab.delete("dev/deny")?;
    lab.expect("prod/far dev/web tcp/80 opens");
    Ok(())
}

#[test]
fn an_ip_block_allows_its_addresses_except_some_on_its_ports() -> Result<()> {
    let lab = Lab::start(town())?;
    let spec = |ports: &str| {
        format!(
            "podSelector: {{}}, ingress: [{{from: [
                {{ipBlock: {{cidr: 172.16.0.0/16, except: [172.16.8.0/24]}}}},
                {{ipBlock: {{cidr: 'fd00:172:16::/48', except: ['fd00:172:16:8::/64']}}}}], ports: {ports}}}]"
        )
    };
    lab.apply("dev/allow", &spec("[{port: 80}]"))?;
    lab.expect(
        "friend    dev/web tcp/80   opens
         friend    dev/far tcp/80   opens
         friend    dev/web tcp/81   hangs
         friend    dev/web udp/5300 hangs
         friend    dev/web ping     hangs
         client    dev/web tcp/80   hangs
         client    dev/far tcp/80   hangs
         prod/near dev/web tcp/80   hangs
         node2     dev/web tcp/80   hangs",
    );
    lab.apply("dev/allow", &spec("[{port: 80}, {port: 81}, {protocol: UDP, port: 5300}]"))?;
    lab.expect(
        "friend dev/web tcp/80   opens
         friend dev/web tcp/81   refused
         friend dev/web udp/5300 opens
         friend dev/web udp/81   hangs
         client dev/web tcp/81   hangs",
    );
    // What `except` takes from one peer, another policy may give; and one family says nothing of the other.
    lab.apply(
        "dev/more",
        "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 172.16.8.10/32}}], ports: [{port: 80}]}]",
    )?;
    lab.expect(
        "client dev/web tcp/80 opens v4
         client dev/web tcp/80 hangs v6
         client dev/web tcp/81 hangs",
    );
    // Pods and other nodes are addresses as well: the other node by the one that it has on the overlay.
    lab.apply(
        "dev/more",
        "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.2.0/32}}, {ipBlock: {cidr: 'fd00:10:244:1::/64'}}]}]",
    )?;
    lab.expect(
        "node2     dev/web tcp/80 opens v4
         node2     dev/web tcp/80 hangs v6
         prod/near dev/web ping   opens v6
         prod/near dev/web ping   hangs v4
         prod/far  dev/web tcp/80 hangs
         client    dev/web tcp/80 hangs",
    );
    Ok(())
}

#[test]
fn deny_egress_keeps_a_pod_in_except_to_its_node() -> Result<()> {
    let mut lab = Lab::start(town())?;
    for node in ["node1", "node2"] {
        let ns = lab.ns(node)?;
        lab.world.keep(node, Server::tcp(&ns, 8080, node)?);
        lab.world.keep(node, Server::udp(&ns, 8080)?);
    }
    lab.apply("prod/deny", "podSelector: {}, policyTypes: [Egress]")?;
    let closed = "
         prod/near dev/web      tcp/80   hangs
         prod/near dev/far      tcp/80   hangs
         prod/near prod/far     udp/5300 hangs
         prod/near dev/far      ping     hangs
         prod/near dev/near     ping     hangs
         prod/near client       ping     hangs
         prod/near node2        tcp/8080 hangs
         prod/near node2        ping     hangs
         prod/near node2.bridge ping     hangs
         prod/near node1        tcp/8080 opens
         prod/near node1        tcp/8081 refused
         # By the address that a node's UDP server answers from.
         prod/near node1.bridge udp/8080 opens
         prod/near node1        ping     opens
         prod/near node1.bridge tcp/8080 opens
         prod/near node1.bridge ping     opens
         prod/near prod/near    tcp/80   opens
         # Answers to whoever comes in, the own node included.
         node1    prod/near tcp/80   opens
         node1    prod/near udp/5300 opens
         node1    prod/near ping     opens
         node2    prod/near tcp/80   opens
         node2    prod/near ping     opens
         dev/web  prod/near tcp/80   opens
         dev/far  prod/near udp/5300 opens
         dev/far  prod/near ping     opens
         client   prod/far  tcp/80   opens
         client   prod/near ping     opens
         dev/web  prod/near tcp/81   refused
         dev/web  prod/near udp/81   refused
         # Another namespace is as it was.
         dev/web  dev/far   tcp/80   opens";
    lab.expect(closed);
    lab.apply("prod/deny", "podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}]")?;
    lab.expect(closed);
    lab.apply("prod/deny", "podSelector: {}, policyTypes: [Egress], egress: [{}]")?;
    lab.expect(
        "prod/near dev/far  ping     opens
         prod/near client   ping     opens
         prod/near dev/web  tcp/80   opens
         prod/near dev/web  udp/5300 opens
         prod/near node2    tcp/8080 opens",
    );
    // A rule with ports says nothing of ping.
    lab.apply(
        "prod/deny",
        "podSelector: {}, egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: dev}}}],
         ports: [{protocol: UDP, port: 5300}]}], policyTypes: [Egress]",
    )?;
    lab.expect(
        "prod/near dev/web  udp/5300 opens
         prod/near dev/far  udp/5300 opens
         prod/near dev/far  udp/81   hangs
         prod/near dev/far  tcp/80   hangs
         prod/near dev/far  ping     hangs
         prod/near prod/far udp/5300 hangs",
    );
    Ok(())
}

#[test]
fn a_closed_pod_and_its_own_node_reach_each_other() -> Result<()> {
    let mut lab = Lab::start(town())?;
    let ns = lab.ns("node1")?;
    lab.world.keep("node1", Server::tcp(&ns, 8080, "node1")?);
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress, Egress]")?;
    lab.expect(
        "node1   dev/web      tcp/80   opens
         node1   dev/web      udp/5300 opens
         node1   dev/web      udp/81   refused
         node1   dev/web      ping     opens
         dev/web node1        tcp/8080 opens
         dev/web node1.bridge tcp/8080 opens
         dev/web node1.bridge ping     opens
         dev/web dev/web      tcp/80   opens
         node2   dev/web      tcp/80   hangs
         dev/web node2        ping     hangs
         dev/web dev/near     tcp/80   hangs
         dev/web prod/far     tcp/80   hangs
         prod/far dev/web     tcp/80   hangs",
    );
    Ok(())
}

#[test]
fn both_ends_must_allow() -> Result<()> {
    let lab = Lab::start(town())?;
    lab.apply(
        "dev/in",
        "podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {}}], ports: [{port: 80}]}]",
    )?;
    lab.apply("prod/out", "podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 81}]}]")?;
    lab.expect(
        "prod/near dev/web  tcp/80 hangs
         prod/near dev/web  tcp/81 hangs
         prod/far  dev/web  tcp/80 hangs
         prod/near prod/far tcp/81 refused
         dev/near  dev/web  tcp/80 opens
         dev/near  dev/web  tcp/81 hangs",
    );
    // Policies add up, on each side for itself.
    lab.apply("prod/more", "podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]")?;
    lab.expect(
        "prod/near dev/web tcp/80   opens
         prod/far  dev/web tcp/80   opens
         prod/far  dev/web tcp/81   hangs
         prod/far  dev/web udp/5300 hangs",
    );
    Ok(())
}

fn selector_world() -> WorldBuilder {
    two_nodes()
        .namespace("mine", &[])
        .namespace("x", &[("team", "x")])
        .namespace("y", &[("team", "y")])
        .pod(pod("mine/target", "node1").label("app", "target"))
        .pod(pod("mine/web", "node2").label("app", "web"))
        .pod(pod("x/web", "node1").label("app", "web"))
        .pod(pod("x/db", "node2").label("app", "db"))
        .pod(pod("y/web", "node2").label("app", "web"))
        .pod(pod("y/db", "node1"))
}

#[test]
fn selectors_in_one_peer_are_and_in_two_are_or() -> Result<()> {
    /// Peers of the one rule, and who of them all gets in.
    const CASES: &[(&str, &[&str])] = &[
        ("{namespaceSelector: {matchLabels: {team: x}}, podSelector: {matchLabels: {app: web}}}", &["x/web"]),
        (
            "{namespaceSelector: {matchLabels: {team: x}}}, {podSelector: {matchLabels: {app: web}}}",
            &["x/web", "x/db", "mine/web"],
        ),
        ("{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}", &["mine/web", "x/web", "y/web"]),
        ("{podSelector: {}}", &["mine/web"]),
        ("{namespaceSelector: {}}", &["mine/web", "x/web", "x/db", "y/web", "y/db"]),
        (
            "{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [x]}]}}",
            &["mine/web", "y/web", "y/db"],
        ),
        (
            "{namespaceSelector: {matchExpressions: [{key: team, operator: Exists}]},
              podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}}",
            &["x/db", "y/db"],
        ),
    ];
    let lab = Lab::start(selector_world())?;
    for (peers, allowed) in CASES {
        lab.apply(
            "mine/select",
            &format!("podSelector: {{matchLabels: {{app: target}}}}, ingress: [{{from: [{peers}]}}]"),
        )?;
        let table: Vec<String> = ["mine/web", "x/web", "x/db", "y/web", "y/db"]
            .iter()
            .map(|from| {
                let outcome = if allowed.contains(from) { "opens" } else { "hangs" };
                format!("{from} mine/target tcp/80 {outcome}")
            })
            .collect();
        lab.expect(&table.join("\n"));
    }
    // Only what it selects is isolated.
    lab.expect("y/db mine/web tcp/80 opens");
    Ok(())
}

#[test]
fn labels_that_change_change_who_is_meant() -> Result<()> {
    let mut lab = Lab::start(selector_world())?;
    lab.apply(
        "mine/select",
        "podSelector: {matchLabels: {app: target}}, ingress: [{from: [
         {namespaceSelector: {matchLabels: {team: x}}, podSelector: {matchLabels: {app: web}}}]}]",
    )?;
    lab.expect(
        "x/web mine/target tcp/80 opens
         x/db  mine/target tcp/80 hangs
         y/web mine/target tcp/80 hangs
         y/web mine/web    tcp/80 opens",
    );
    for (pod, app) in [("x/web", "db"), ("x/db", "web"), ("mine/web", "target")] {
        let pod = lab.world.pod_mut(pod)?;
        pod.labels.insert("app".to_owned(), app.to_owned());
        lab.manifests.pod(pod)?;
    }
    lab.manifests.namespace("y", &[("team", "x")])?;
    lab.sync()?;
    lab.expect(
        "x/web mine/target tcp/80 hangs
         x/db  mine/target tcp/80 opens
         y/web mine/target tcp/80 opens
         y/db  mine/target tcp/80 hangs
         x/web mine/web    tcp/80 hangs
         x/db  mine/web    tcp/80 opens",
    );
    Ok(())
}

#[test]
fn a_named_port_is_what_each_pod_calls_so() -> Result<()> {
    let server = |name: &str, node: &str| {
        PodSpec::new("shop", name, node).serve_tcp(8081).serve_tcp(8082).serve_udp(8081).serve_udp(8082)
    };
    let lab = Lab::start(
        two_nodes()
            .pod(server("one", "node1").port(Some("web"), 8081, "TCP").port(Some("dns"), 8082, "UDP"))
            .pod(server("two", "node2").port(Some("web"), 8082, "TCP"))
            .pod(server("udp", "node1").port(Some("web"), 8081, "UDP"))
            .pod(server("none", "node2").port(None, 8081, "TCP"))
            .pod(PodSpec::new("guest", "near", "node1").label("app", "guest"))
            .pod(PodSpec::new("guest", "far", "node2").label("app", "guest")),
    )?;
    let table = "
        guest/near shop/one  tcp/8081 opens
        guest/far  shop/one  tcp/8081 opens
        guest/far  shop/one  tcp/8082 hangs
        guest/far  shop/one  udp/8081 hangs
        guest/near shop/two  tcp/8081 hangs
        guest/near shop/two  tcp/8082 opens
        guest/far  shop/two  tcp/8082 opens
        guest/near shop/udp  tcp/8081 hangs
        guest/near shop/udp  udp/8081 hangs
        guest/near shop/none tcp/8081 hangs
        guest/near shop/one  ping     hangs";
    lab.apply("shop/named", "podSelector: {}, ingress: [{ports: [{port: web}]}]")?;
    lab.expect(table);
    lab.expect("guest/near shop/one udp/8082 hangs");
    lab.apply(
        "shop/named",
        "podSelector: {}, ingress: [{ports: [{port: web, protocol: UDP}, {port: dns, protocol: UDP}]}]",
    )?;
    lab.expect(
        "guest/near shop/one  tcp/8081 hangs
         guest/near shop/one  udp/8082 opens
         guest/near shop/one  udp/8081 hangs
         guest/near shop/udp  udp/8081 opens
         guest/far  shop/udp  udp/8082 hangs",
    );
    // From the other side it is still the destination that the name is looked up in.
    lab.delete("shop/named")?;
    lab.apply("guest/named", "podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]")?;
    lab.expect(table);
    Ok(())
}

#[test]
fn a_range_of_ports_ends_where_it_says() -> Result<()> {
    let lab = Lab::start(
        two_nodes()
            .pod(pod("shop/server", "node1").serve_tcp(8005).serve_udp(8005))
            .pod(pod("guest/near", "node1"))
            .pod(pod("guest/far", "node2")),
    )?;
    lab.apply(
        "shop/range",
        "podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8010}, {port: 8005, protocol: UDP, endPort: 8005},
         {port: 65530, endPort: 65535}]}]",
    )?;
    lab.expect(
        "guest/near shop/server tcp/7999  hangs
         guest/near shop/server tcp/8000  refused
         guest/far  shop/server tcp/8005  opens
         guest/near shop/server tcp/8010  refused
         guest/near shop/server tcp/8011  hangs
         guest/near shop/server udp/8004  hangs
         guest/far  shop/server udp/8005  opens
         guest/near shop/server udp/8006  hangs
         guest/near shop/server tcp/65535 refused
         guest/near shop/server tcp/65529 hangs",
    );
    // Every port of a protocol, and none of another.
    lab.apply("shop/range", "podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]")?;
    lab.expect(
        "guest/near shop/server udp/8005 opens
         guest/near shop/server udp/1     refused
         guest/near shop/server tcp/8005 hangs
         guest/far  shop/server ping     hangs",
    );
    Ok(())
}

#[test]
fn sctp_is_isolated_like_the_others_where_the_kernel_has_it() -> Result<()> {
    let mut lab = Lab::start(two_nodes().pod(pod("shop/server", "node1")).pod(pod("guest/far", "node2")))?;
    if !sctp_supported() {
        // The crafted packets of tests/kernel.rs prove it for every kernel; here only sockets are missing.
        eprintln!("THIS KERNEL HAS NO SCTP SOCKETS: nothing to see here");
        return Ok(());
    }
    let ns = lab.ns("shop/server")?;
    lab.world.keep("shop/server", Server::sctp(&ns, 9003, "server")?);
    lab.apply("shop/deny", "podSelector: {}, ingress: [{ports: [{port: 9003}]}]")?;
    lab.expect("guest/far shop/server sctp/9003 hangs");
    lab.apply("shop/deny", "podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 9003}]}]")?;
    lab.expect("guest/far shop/server sctp/9003 opens");
    Ok(())
}

#[test]
fn a_closed_pod_answers_for_no_address_but_its_own() -> Result<()> {
    let lab = Lab::start(town())?;
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress, Egress]")?;
    let (foreign4, foreign6) = ("10.244.1.77", "fd00:10:244:1::77");
    shell(
        &lab.ns("dev/near")?,
        &format!("ip addr add {foreign4}/32 dev eth0; ip addr add {foreign6}/128 dev eth0 nodad"),
    )?;
    let asker = lab.ns("prod/near")?;
    for foreign in [foreign4, foreign6] {
        let known = shell(&asker, &format!("ping -c 1 -W 1 {foreign} >/dev/null; ip neigh show {foreign}"))?;
        assert!(!known.contains("lladdr"), "{known}");
    }
    Ok(())
}
