//! A large cluster's Services: what they cost, and what a change of one endpoint is about.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy_agent::model::services::{
    Endpoint, EndpointPort, EndpointSlice, Hints, Readiness, Service, ServicePort, Vantage,
};
use policy_agent::model::{Changes, ObjectName, Protocol, Tracked};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn address(network: u8, number: u32) -> IpAddr {
    let [_, b, c, d] = number.to_be_bytes();
    Ipv4Addr::from([network, b, c, d]).into()
}

fn id(n: u32) -> ObjectName {
    ObjectName::new(format!("team-{}", n / 20), format!("service-{n:05}"))
}

fn service(n: u32) -> Service {
    let port = |name: &str, port, node_port| ServicePort {
        name: name.to_owned(),
        protocol: Protocol::Tcp,
        port,
        node_port,
    };
    Service {
        id: id(n),
        cluster_ips: vec![address(10, n)],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: [].into(),
        ports: [port("http", 80, None), port("metrics", 9090, None)].into(),
        affinity: None,
        internal_local: false,
    }
}

fn slice(n: u32, readiness: Readiness) -> EndpointSlice {
    let endpoint = |e: u32| {
        let place = n * ENDPOINTS + e;
        let hints = Hints { zones: [format!("zone-{}", place % 3).into()].into(), nodes: [].into() };
        Endpoint {
            address: address(11, place),
            readiness: if e == 0 { readiness } else { Readiness::Ready },
            node: Some(format!("node-{}", place % 1000).into()),
            hints: Some(Arc::new(hints)),
        }
    };
    let port = |name: &str, port| EndpointPort { name: name.to_owned(), protocol: Protocol::Tcp, port };
    let ObjectName { namespace, name } = id(n);
    EndpointSlice {
        id: ObjectName::new(namespace, format!("{name}-x7k2p")),
        service: Some(name),
        v4: true,
        ports: [port("http", 8080), port("metrics", 9090)].into(),
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
    }
}

/// What this process has in memory, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("our status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn ten_thousand_services_with_a_hundred_thousand_endpoints() {
    let (before, begun) = (resident(), Instant::now());
    let mut tracked = Tracked::default();
    for n in 0..SERVICES {
        tracked.insert_service(service(n));
        tracked.insert_slice(slice(n, Readiness::Ready));
    }
    let (loaded, memory) = (begun.elapsed(), resident().saturating_sub(before));
    assert_eq!(tracked.take_changes(), Changes::everything());
    let vantage =
        Vantage { node: Some("node-1".to_owned()), zone: Some("zone-1".to_owned()), addresses: Vec::new() };
    let begun = Instant::now();
    let all = tracked.cluster().services.all(&vantage);
    let resolved = begun.elapsed();
    assert_eq!(all.len(), 20_000);
    // A third of the endpoints, or one more, is in our zone.
    assert!(all.values().all(|target| (3..=4).contains(&target.backends.len())));

    // One endpoint of one slice: one Service, and no other is looked at.
    let begun = Instant::now();
    const CHANGES: u32 = 1000;
    for n in 0..CHANGES {
        tracked.insert_slice(slice(n, Readiness::Draining));
        let changes = tracked.take_changes();
        assert_eq!(changes, Changes { services: [id(n)].into(), ..Changes::default() });
        for (frontend, target) in tracked.cluster().services.frontends(&id(n), &vantage) {
            assert_eq!(tracked.cluster().services.target(&frontend, &vantage).as_ref(), Some(&target));
        }
    }
    let changed = begun.elapsed() / CHANGES;
    println!(
        "loaded in {loaded:?} with {} MiB, resolved in {resolved:?}, a change and what it is about in {changed:?}",
        memory >> 20
    );
    assert!(loaded < Duration::from_secs(5) && resolved < Duration::from_secs(5), "{loaded:?} {resolved:?}");
    assert!(changed < Duration::from_millis(5), "{changed:?}");
    assert!(memory < 48 << 20, "{} MiB", memory >> 20);
}
