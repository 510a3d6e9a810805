//! Two Services that claim one frontend.

use super::*;

#[test]
fn the_first_by_name_has_it_and_the_next_when_that_goes() {
    let mut all = services(&[service("b"), service("c"), service("a")], &[]);
    let owner = |all: &Services| table(all, &vantage());
    assert_eq!(owner(&all), ["10.96.0.1:80/TCP a []"]);
    assert_eq!(all.rivals(&service("b")), [id("a"), id("c")].into());
    all.insert(Service { cluster_ips: vec![ip("10.96.0.9")], ..service("a") });
    assert_eq!(owner(&all), ["10.96.0.1:80/TCP b []", "10.96.0.9:80/TCP a []"]);
    all.remove(&id("b"));
    all.remove(&id("a"));
    assert_eq!(owner(&all), ["10.96.0.1:80/TCP c []"]);
    assert_eq!(all.rivals(&service("c")), BTreeSet::new());
    // What each of them claims is told of each.
    all.insert(service("a"));
    assert_eq!(all.frontends(&id("c"), &vantage()).len(), 1);
    assert_eq!(behind(&all, &vantage(), "10.96.0.1:80"), Some(vec![]));
}

#[test]
fn a_node_port_gives_way_to_an_address() {
    let on_port = |name: &str, number| Service {
        ports: [port("", Protocol::Tcp, 80, Some(number))].into(),
        cluster_ips: vec![ip("10.96.0.1")],
        ..service(name)
    };
    let external = Service {
        cluster_ips: vec![ip("10.96.0.2")],
        external_ips: vec![ip("192.0.2.1")],
        ports: [port("", Protocol::Tcp, 30_080, None)].into(),
        ..service("z")
    };
    let all = services(&[on_port("a", 30_080), external.clone()], &[]);
    let owner = |all: &Services| {
        all.target(&frontend("192.0.2.1:30080", Protocol::Tcp), &vantage()).map(|target| target.service.name)
    };
    assert_eq!(owner(&all).as_deref(), Some("z"));
    assert_eq!(
        all.all(&vantage()).get(&frontend("192.0.2.1:30080", Protocol::Tcp)).map(|t| t.service.name.as_str()),
        Some("z")
    );
    // Each is the other's rival, wherever our node's addresses are.
    assert_eq!(all.rivals(&external), [id("a")].into());
    assert_eq!(all.rivals(&on_port("a", 30_080)), [id("z")].into());
    // Of another protocol, port or family, it is not.
    assert_eq!(all.rivals(&on_port("a", 30_081)), BTreeSet::new());
    // A Service that has both is told once.
    let itself = Service {
        external_ips: vec![ip("192.0.2.1")],
        ports: [port("", Protocol::Tcp, 80, Some(80))].into(),
        ..service("web")
    };
    let list = services(&[itself], &[]).frontends(&id("web"), &vantage());
    assert_eq!(list.len(), 2, "{list:?}");
}
