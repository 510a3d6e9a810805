//! Two documents for one object, two pods for one address.

use std::net::IpAddr;

use super::*;
use crate::model::{Requirement, Selector};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn app(value: &str) -> Selector {
    [Requirement::In { key: "app".into(), values: [value.to_owned()].into() }].into_iter().collect()
}

fn addresses(store: &Store) -> Vec<(&str, Vec<IpAddr>)> {
    store.cluster().pods.values().map(|p| (p.id.name.as_str(), p.addresses.clone())).collect()
}

#[test]
fn one_object_twice() {
    let web = policy_text("x", "podSelector: {matchLabels: {app: web}}\ningress: [{}]");
    let db = policy_text("x", "podSelector: {matchLabels: {app: db}}\npolicyTypes: [Egress]");
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &web), ("b.yaml", &format!("{db}---\n{db}"))]);
    assert_eq!(
        texts(store.problems()),
        ["a.yaml: NetworkPolicy dev/x: is defined 3 times: in a.yaml, b.yaml#1, b.yaml#2"]
    );
    let closed = [
        Policy::closed(dev("x"), app("web"), true, false),
        Policy::closed(dev("x <b.yaml#1>"), app("db"), false, true),
    ];
    assert_eq!(store.cluster().policies.values().collect::<Vec<_>>(), closed.iter().collect::<Vec<_>>());

    // One selection, both directions.
    let mut store = Store::default();
    let egress = db.replace("app: db", "app: web");
    update(&mut store, &[("a.yaml", &web), ("b.yaml", &egress)]);
    let closed = Policy::closed(dev("x"), app("web"), true, true);
    assert_eq!(store.cluster().policies.values().collect::<Vec<_>>(), [&closed]);

    // The last good version stays.
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &web)]);
    let good = store.cluster().clone();
    assert!(!update(&mut store, &[("a.yaml", &web), ("b.yaml", &db)]).changed);
    assert_eq!((store.cluster(), store.problems().len()), (&good, 1));
    update(&mut store, &[("b.yaml", &db)]);
    assert_eq!(store.problems(), []);
    assert!(store.cluster() != &good);
}

#[test]
fn copies_say_the_same() {
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: dev, labels: {a: b}}}";
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", namespace), ("b.yaml", namespace)]);
    assert_eq!(texts(store.problems()), ["a.yaml: Namespace dev: is defined 2 times: in a.yaml, b.yaml"]);
    assert_eq!(store.cluster().namespaces.len(), 1);
}

#[test]
fn a_pod_twice_is_broken() {
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &pod_text("p", "10.0.0.1")), ("b.yaml", &pod_text("p", "10.0.0.2"))]);
    assert_eq!(addresses(&store), []);
    assert_eq!(broken_pods(&store), [(dev("p"), vec![ip("10.0.0.1"), ip("10.0.0.2")])]);
}

#[test]
fn two_first_read_pods_with_one_address() {
    let mut store = Store::default();
    let files = [("a.yaml", pod_text("p", "10.0.0.1")), ("b.yaml", pod_text("q", "10.0.0.1"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    for _ in 0..2 {
        update(&mut store, &files);
        assert_eq!(addresses(&store), [("p", vec![ip("10.0.0.1")]), ("q", vec![ip("10.0.0.1")])]);
        assert_eq!(
            texts(store.problems()),
            [r#"a.yaml: Pod dev/p: status.podIPs: "10.0.0.1": is also the address of Pod dev/q"#]
        );
    }
    update(&mut store, &files[1..]);
    assert_eq!((addresses(&store), store.problems()), (vec![("q", vec![ip("10.0.0.1")])], &[][..]));
}

#[test]
fn who_has_an_address_keeps_it() {
    let mut store = Store::default();
    let (p, q) = (pod_text("p", "10.0.0.1"), pod_text("q", "10.0.0.1"));
    update(&mut store, &[("b.yaml", &q)]);
    for _ in 0..2 {
        update(&mut store, &[("a.yaml", &p), ("b.yaml", &q)]);
        assert_eq!(addresses(&store), [("q", vec![ip("10.0.0.1")])]);
        assert_eq!(broken_pods(&store), [(dev("p"), vec![])], "not by an address that is another's");
        assert_eq!(
            texts(store.problems()),
            [r#"a.yaml: Pod dev/p: status.podIPs: "10.0.0.1": is the address of Pod dev/q already"#]
        );
    }
    // The owner ends, and the newcomer takes over.
    let ended = q.replace("podIPs", "phase: Succeeded, podIPs");
    update(&mut store, &[("a.yaml", &p), ("b.yaml", &ended)]);
    assert_eq!((broken_pods(&store), store.problems()), (vec![], &[][..]));
    assert!(store.cluster().pods.get(&dev("p")).unwrap().is_selectable());
}

#[test]
fn newcomers_fall_back_one_after_the_other() {
    let mut store = Store::default();
    let text =
        |list: &[(&str, &str)]| list.iter().map(|(n, a)| pod_text(n, a)).collect::<Vec<_>>().join("---\n");
    update(&mut store, &[("a.yaml", &text(&[("p", "10.0.0.1"), ("q", "10.0.0.2")]))]);
    // p takes q's address and must go back to its own, which r has claimed.
    let new = text(&[("p", "10.0.0.2"), ("q", "10.0.0.2"), ("r", "10.0.0.1")]);
    update(&mut store, &[("a.yaml", &new)]);
    assert_eq!(addresses(&store), [("p", vec![ip("10.0.0.1")]), ("q", vec![ip("10.0.0.2")])]);
    assert_eq!(broken_pods(&store), [(dev("r"), vec![])]);
    assert_eq!(store.problems().len(), 2);
    // A swap is no conflict.
    update(&mut store, &[("a.yaml", &text(&[("p", "10.0.0.2"), ("q", "10.0.0.1")]))]);
    assert_eq!(addresses(&store), [("p", vec![ip("10.0.0.2")]), ("q", vec![ip("10.0.0.1")])]);
    assert_eq!(store.problems(), []);
}

#[test]
fn pods_of_the_hosts_network_share_their_address() {
    let text = |name: &str| format!("{}spec: {{hostNetwork: true}}\n", pod_text(name, "192.0.2.1"));
    let text = format!("{}---\n{}---\n{}", text("p"), text("q"), pod_text("r", "192.0.2.1"));
    assert_eq!(problems("a.yaml", &text), Vec::<String>::new());
}
