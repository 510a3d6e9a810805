//! Which endpoints are behind a frontend.

use super::*;

/// What is behind `web` for our node.
fn reached(service: Service, slices: &[EndpointSlice]) -> Vec<String> {
    behind(&services(&[service], slices), &vantage(), "10.96.0.1:80").expect("a frontend")
}

fn on(node: &str, endpoint: Endpoint) -> Endpoint {
    Endpoint { node: Some(node.into()), ..endpoint }
}

fn as_is(readiness: Readiness, endpoint: Endpoint) -> Endpoint {
    Endpoint { readiness, ..endpoint }
}

fn hinted(zones: &[&str], nodes: &[&str], endpoint: Endpoint) -> Endpoint {
    let list = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
    Endpoint { hints: Some(Arc::new(Hints { zones: list(zones), nodes: list(nodes) })), ..endpoint }
}

#[test]
fn conditions_that_are_missing_are_good() {
    use Readiness::{Draining, NotReady, Ready};
    let (yes, no) = (Some(true), Some(false));
    // (ready, serving, terminating)
    let table = [
        ((None, None, None), Ready),
        ((yes, no, no), Ready),
        // Of a Service that publishes addresses that are not ready.
        ((yes, no, yes), Ready),
        ((None, no, yes), Ready),
        ((no, yes, yes), Draining),
        ((no, None, yes), Draining),
        ((no, no, yes), NotReady),
        ((no, yes, no), NotReady),
        ((no, yes, None), NotReady),
        ((no, None, None), NotReady),
    ];
    for ((ready, serving, terminating), expected) in table {
        assert_eq!(
            Readiness::of(ready, serving, terminating),
            expected,
            "{ready:?} {serving:?} {terminating:?}"
        );
    }
}

#[test]
fn ready_endpoints_and_where_there_are_none_those_that_still_serve() {
    use Readiness::{Draining, NotReady, Ready};
    let table: [(&[Readiness], &[&str]); 5] = [
        (&[], &[]),
        (&[NotReady], &[]),
        (&[Ready, Draining, NotReady], &["10.0.0.1:8080"]),
        (&[NotReady, Draining, Draining], &["10.0.0.2:8080", "10.0.0.3:8080"]),
        (&[Ready, NotReady, Ready], &["10.0.0.1:8080", "10.0.0.3:8080"]),
    ];
    for (readiness, expected) in table {
        let all =
            (1..).zip(readiness).map(|(n, readiness)| as_is(*readiness, endpoint(&format!("10.0.0.{n}"))));
        let all: Vec<Endpoint> = all.collect();
        assert_eq!(reached(service("web"), &[slice("s", &all)]), expected, "{readiness:?}");
    }
}

#[test]
fn internal_traffic_that_stays_on_the_node() {
    use Readiness::{Draining, Ready};
    let local = Service { internal_local: true, external_ips: vec![ip("198.51.100.1")], ..service("web") };
    type Case<'a> = (&'a [(&'a str, Readiness)], &'a [&'a str], &'a [&'a str]);
    let table: [Case<'_>; 4] = [
        (&[(OURS, Ready), ("n2", Ready)], &["10.0.0.1:8080"], &["10.0.0.1:8080", "10.0.0.2:8080"]),
        // Nothing of ours: kube-proxy drops, although there are others.
        (&[("n2", Ready)], &[], &["10.0.0.1:8080"]),
        // One of ours that drains is better than one elsewhere; for others it is none.
        (&[(OURS, Draining), ("n2", Ready)], &["10.0.0.1:8080"], &["10.0.0.2:8080"]),
        (&[(OURS, Draining), (OURS, Ready)], &["10.0.0.2:8080"], &["10.0.0.2:8080"]),
    ];
    for (endpoints, internal, external) in table {
        let all = (1..).zip(endpoints);
        let all: Vec<Endpoint> = all
            .map(|(n, (node, readiness))| on(node, as_is(*readiness, endpoint(&format!("10.0.0.{n}")))))
            .collect();
        let services = services(std::slice::from_ref(&local), &[slice("s", &all)]);
        assert_eq!(
            behind(&services, &vantage(), "10.96.0.1:80").expect("it is there"),
            internal,
            "{endpoints:?}"
        );
        // A pod's traffic to an external address goes everywhere, as if it had left the cluster.
        assert_eq!(
            behind(&services, &vantage(), "198.51.100.1:80").expect("it is there"),
            external,
            "{endpoints:?}"
        );
    }
    // Without a node, nothing is local; an endpoint without a node is nobody's.
    let services = services(&[local], &[slice("s", &[endpoint("10.0.0.1")])]);
    assert_eq!(behind(&services, &Vantage::default(), "10.96.0.1:80"), Some(vec![]));
}

#[test]
fn topology_hints() {
    let one = |zones: &[&str], nodes: &[&str]| hinted(zones, nodes, endpoint("10.0.0.1"));
    let two = |zones: &[&str], nodes: &[&str]| hinted(zones, nodes, endpoint("10.0.0.2"));
    let both: &[&str] = &["10.0.0.1:8080", "10.0.0.2:8080"];
    let table: [(&str, Vec<Endpoint>, &[&str]); 9] = [
        ("for our zone", vec![one(&["z1"], &[]), two(&["z2"], &[])], &["10.0.0.1:8080"]),
        ("for several", vec![one(&["z2", "z1"], &[]), two(&["z1"], &[])], both),
        ("one has none", vec![one(&["z1"], &[]), endpoint("10.0.0.2")], both),
        ("nothing is for us", vec![one(&["z2"], &[]), two(&["z3"], &[])], both),
        ("the node comes first", vec![one(&["z1"], &["n2"]), two(&["z2"], &[OURS])], &["10.0.0.2:8080"]),
        ("not every one names nodes", vec![one(&["z1"], &[]), two(&["z2"], &[OURS])], &["10.0.0.1:8080"]),
        ("no node is ours", vec![one(&["z1"], &["n2"]), two(&["z2"], &["n3"])], &["10.0.0.1:8080"]),
        // Only those that are ready are asked.
        (
            "what is not ready needs none",
            vec![one(&["z1"], &[]), two(&["z2"], &[]), as_is(Readiness::NotReady, endpoint("10.0.0.3"))],
            &["10.0.0.1:8080"],
        ),
        // Those that drain are for everybody.
        (
            "nothing is ready",
            vec![
                as_is(Readiness::Draining, one(&["z2"], &[])),
                as_is(Readiness::Draining, two(&["z1"], &[])),
            ],
            both,
        ),
    ];
    for (what, endpoints, expected) in table {
        assert_eq!(reached(service("web"), &[slice("s", &endpoints)]), expected, "{what}");
    }
    // A node without a zone takes all.
    let services = services(&[service("web")], &[slice("s", &[one(&["z1"], &[]), two(&["z2"], &[])])]);
    let nowhere = Vantage { zone: None, ..vantage() };
    assert_eq!(behind(&services, &nowhere, "10.96.0.1:80").expect("it is there"), both);
    // `Local` knows no zones.
    let local = Service { internal_local: true, ..service("web") };
    let endpoints = [on(OURS, one(&["z2"], &[])), on("n2", two(&["z1"], &[]))];
    assert_eq!(reached(local, &[slice("s", &endpoints)]), ["10.0.0.1:8080"]);
}

#[test]
fn ports_are_found_by_name_and_protocol() {
    let slice_port = |name: &str, protocol, port| EndpointPort { name: name.to_owned(), protocol, port };
    let web = Service {
        ports: [
            port("http", Protocol::Tcp, 80, None),
            port("dns", Protocol::Udp, 53, None),
            port("lost", Protocol::Sctp, 99, None),
        ]
        .into(),
        ..service("web")
    };
    // A name of a container's port stands for other numbers in other pods: each number has a slice.
    let slices = [
        EndpointSlice {
            ports: [slice_port("http", Protocol::Tcp, 8080), slice_port("dns", Protocol::Udp, 5353)].into(),
            ..slice("a", &[endpoint("10.0.0.1")])
        },
        EndpointSlice {
            ports: [slice_port("http", Protocol::Tcp, 9090), slice_port("lost", Protocol::Tcp, 99)].into(),
            ..slice("b", &[endpoint("10.0.0.2")])
        },
        EndpointSlice { ports: [].into(), ..slice("c", &[endpoint("10.0.0.3")]) },
        EndpointSlice {
            ports: [slice_port("", Protocol::Tcp, 80)].into(),
            ..slice("d", &[endpoint("10.0.0.4")])
        },
    ];
    assert_eq!(
        table(&services(&[web], &slices), &vantage()),
        [
            r#"10.96.0.1:53/UDP web ["10.0.0.1:5353"]"#,
            r#"10.96.0.1:80/TCP web ["10.0.0.1:8080", "10.0.0.2:9090"]"#,
            "10.96.0.1:99/SCTP web []",
        ]
    );
}

#[test]
fn an_endpoint_of_several_slices_is_one() {
    use Readiness::{Draining, NotReady, Ready};
    let at = |readiness, node: &str| on(node, as_is(readiness, endpoint("10.0.0.1")));
    let table: [(&[Endpoint], &[&str]); 4] = [
        (&[at(Ready, "n2"), at(Ready, "n2")], &["10.0.0.1:8080"]),
        (&[at(NotReady, "n2"), at(Ready, "n2")], &["10.0.0.1:8080"]),
        (&[at(Ready, "n2"), at(NotReady, "n2"), at(Draining, "n2")], &["10.0.0.1:8080"]),
        // The one that says that it is local counts.
        (&[at(NotReady, OURS), at(Ready, "n2")], &[]),
    ];
    for (endpoints, expected) in table {
        for turned in [false, true] {
            let named = |(place, endpoint): (usize, &Endpoint)| {
                let place = if turned { 9 - place } else { place };
                slice(&place.to_string(), std::slice::from_ref(endpoint))
            };
            let slices: Vec<EndpointSlice> = endpoints.iter().enumerate().map(named).collect();
            assert_eq!(reached(service("web"), &slices), expected, "{endpoints:?}");
        }
    }
}
