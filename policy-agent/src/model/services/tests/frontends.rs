//! What a pod can address of a Service.

use super::*;

#[test]
fn addresses_of_every_sort() {
    let web = Service {
        external_ips: vec![ip("198.51.100.1")],
        load_balancer_ips: vec![ip("203.0.113.1")],
        ports: [port("a", Protocol::Tcp, 80, Some(30_080)), port("b", Protocol::Sctp, 90, None)].into(),
        ..service("web")
    };
    let all = services(&[web], &[]);
    assert_eq!(
        table(&all, &vantage()),
        [
            "10.96.0.1:80/TCP web []",
            "10.96.0.1:90/SCTP web []",
            "192.0.2.1:30080/TCP web []",
            "198.51.100.1:80/TCP web []",
            "198.51.100.1:90/SCTP web []",
            "203.0.113.1:80/TCP web []",
            "203.0.113.1:90/SCTP web []",
        ]
    );
    let names: Vec<String> =
        all.frontends(&id("web"), &vantage()).into_iter().map(|(_, target)| target.port_name).collect();
    assert_eq!(names, ["a", "a", "a", "b", "b", "b", "a"]);
    // Another node's addresses are another node's business, and a name that is no Service's has nothing.
    assert_eq!(behind(&all, &vantage(), "192.0.2.2:30080"), None);
    assert_eq!(all.frontends(&id("other"), &vantage()), []);
}

#[test]
fn a_family_without_a_cluster_address_is_not_served() {
    let sorts = || Service {
        external_ips: vec![ip("198.51.100.1"), ip("2001:db8:1::1")],
        load_balancer_ips: vec![ip("203.0.113.1"), ip("2001:db8:2::1")],
        ports: [port("", Protocol::Tcp, 80, Some(30_080))].into(),
        ..service("web")
    };
    let slices = [slice("four", &[endpoint("10.0.0.1")]), slice("six", &[endpoint("fd00::1")])];
    let four = r#"["10.0.0.1:8080"]"#;
    let six = r#"["[fd00::1]:8080"]"#;
    let of_four = ["10.96.0.1:80", "192.0.2.1:30080", "198.51.100.1:80", "203.0.113.1:80"];
    let of_six = ["[2001:db8::1]:30080", "[2001:db8:1::1]:80", "[2001:db8:2::1]:80", "[fd00:96::1]:80"];
    let line = |at: &str, backends: &str| format!("{at}/TCP web {backends}");
    let lines_of_four = || of_four.iter().map(|at| line(at, four));
    let lines_of_six = || of_six.iter().map(|at| line(at, six));
    let shown = |service: Service| table(&services(&[service], &slices), &vantage());
    assert_eq!(shown(sorts()), lines_of_four().collect::<Vec<_>>());
    let single_six = Service { cluster_ips: vec![ip("fd00:96::1")], ..sorts() };
    assert_eq!(shown(single_six), lines_of_six().collect::<Vec<_>>());
    let dual = Service { cluster_ips: vec![ip("fd00:96::1"), ip("10.96.0.1")], ..sorts() };
    assert_eq!(shown(dual), lines_of_four().chain(lines_of_six()).collect::<Vec<_>>());
    // Headless, of type ExternalName, or without an address yet.
    let headless = Service { cluster_ips: Vec::new(), ..sorts() };
    assert_eq!(shown(headless), [""; 0]);
}

#[test]
fn affinity_is_told() {
    let sticky = Service { affinity: Some(DEFAULT_AFFINITY_SECONDS), ..service("web") };
    let target = services(&[sticky], &[]).target(&frontend("10.96.0.1:80", Protocol::Tcp), &vantage());
    assert_eq!(target.map(|target| target.affinity), Some(Some(10_800)));
}

/// kube-proxy drops what comes to a load balancer's address from elsewhere; other addresses are open to all.
#[test]
fn source_ranges_are_of_the_load_balancers_addresses() {
    let net = |text: &str| text.parse::<ipnet::IpNet>().expect("a network");
    let web = Service {
        cluster_ips: vec![ip("10.96.0.1"), ip("fd00:96::1")],
        external_ips: vec![ip("198.51.100.1"), ip("203.0.113.1")],
        load_balancer_ips: vec![ip("203.0.113.1"), ip("2001:db8:2::1")],
        source_ranges: [net("10.0.0.0/8"), net("192.0.2.0/24")].into(),
        ports: [port("", Protocol::Tcp, 80, Some(30_080))].into(),
        ..service("web")
    };
    let all = services(&[web], &[]);
    let sources = |text: &str| {
        let target = all.target(&frontend(text, Protocol::Tcp), &vantage()).expect("a frontend");
        target.sources.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(sources("203.0.113.1:80"), ["10.0.0.0/8", "192.0.2.0/24"], "an external address too");
    for open in ["10.96.0.1:80", "198.51.100.1:80", "192.0.2.1:30080", "[2001:db8:2::1]:80"] {
        assert_eq!(sources(open), [""; 0], "{open}");
    }
}

#[test]
fn where_a_node_stands_is_in_its_object() {
    let mut cluster = crate::model::Cluster::default();
    let node = crate::model::Node { addresses: vec![ip("192.0.2.1")], zone: Some("z1".into()) };
    cluster.nodes.insert(OURS.to_owned(), node);
    let expected = Vantage { addresses: vec![ip("192.0.2.1")], ..vantage() };
    assert_eq!(Vantage::of(&cluster, OURS), expected);
    let unknown = Vantage { node: Some("n2".to_owned()), zone: None, addresses: Vec::new() };
    assert_eq!(Vantage::of(&cluster, "n2"), unknown);
}

#[test]
fn slices_come_and_go_before_and_after_their_service() {
    let mut all = services(&[], &[slice("s", &[endpoint("10.0.0.1")])]);
    assert_eq!(table(&all, &vantage()), [""; 0]);
    all.insert(service("web"));
    assert_eq!(behind(&all, &vantage(), "10.96.0.1:80").expect("it is there"), ["10.0.0.1:8080"]);
    // It becomes another Service's, nobody's, and its first one's again.
    for (name, expected) in [(Some("db"), &[][..]), (None, &[]), (Some("web"), &["10.0.0.1:8080"])] {
        all.insert_slice(EndpointSlice {
            service: name.map(str::to_owned),
            ..slice("s", &[endpoint("10.0.0.1")])
        });
        assert_eq!(behind(&all, &vantage(), "10.96.0.1:80").expect("it is there"), expected, "{name:?}");
    }
    // A Service of the same name in another namespace has none of it.
    all.insert(Service {
        id: ObjectName::new("prod", "web"),
        cluster_ips: vec![ip("10.96.0.2")],
        ..service("web")
    });
    assert_eq!(behind(&all, &vantage(), "10.96.0.2:80"), Some(vec![]));
    assert!(all.remove_slice(&id("s")).is_some() && all.remove_slice(&id("s")).is_none());
    assert_eq!(behind(&all, &vantage(), "10.96.0.1:80"), Some(vec![]));
    assert_eq!((all.slices().count(), all.slices_of(&id("web")).len(), all.len()), (0, 0, 2));
}
