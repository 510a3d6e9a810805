//! What stays enforced when something breaks.

use std::net::IpAddr;

use super::*;
use crate::model::{Requirement, Selector};

fn app(value: &str) -> Selector {
    [Requirement::In { key: "app".into(), values: [value.to_owned()].into() }].into_iter().collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

const GOOD: &str = "podSelector: {matchLabels: {app: web}}\ningress: [{ports: [{port: 80}]}]";
const BAD: &str = "podSelector: {matchLabels: {app: web}}\ningress: [{ports: [{port: 80, protocol: tcp}]}]";

#[test]
fn a_broken_policy_keeps_its_last_good_version() {
    let mut store = Store::default();
    assert!(update(&mut store, &[("a.yaml", &policy_text("x", GOOD))]).changed);
    let good = store.cluster().clone();
    for broken in [
        policy_text("x", BAD),
        policy_text("x", "podSelector: {}\nfoo: 1"),
        policy_text("x", &format!("{GOOD}\ningress: []")),
        policy_text("x", &format!("{GOOD}\n\tfoo")),
        policy_text("x", GOOD).replace("kind: NetworkPolicy", "kind: NetworkPolcy"),
        policy_text("x", GOOD).replace("kind: NetworkPolicy", ""),
        policy_text("x", GOOD).replace("networking.k8s.io/v1", "extensions/v1beta1"),
        policy_text("x", GOOD).replace("networking.k8s.io/v1", "network.k8s.io/v1"),
        policy_text("x", GOOD).replace("name: x", "nam: x"),
        policy_text("x", GOOD).replace("namespace: dev", "namespace: 7"),
        policy_text("x", GOOD).replace("metadata:", "metadata: ]["),
        "\u{0}".to_owned(),
        "[".repeat(1000),
    ] {
        let update = update(&mut store, &[("a.yaml", &broken)]);
        assert_eq!(store.cluster(), &good, "{broken}");
        assert!(!update.changed, "{broken}");
        assert!(!store.problems().is_empty(), "{broken}");
    }
    let update = update(&mut store, &[("a.yaml", &policy_text("x", GOOD))]);
    assert!(!update.changed && store.problems().is_empty() && update.solved_problems.len() == 1);
}

#[test]
fn a_broken_object_that_vanishes_is_gone() {
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &policy_text("x", GOOD))]);
    update(&mut store, &[("a.yaml", &policy_text("x", BAD))]);
    update(&mut store, &[]);
    assert_eq!(store.cluster(), &Cluster::default());
    assert_eq!(store.problems(), []);
    update(&mut store, &[("a.yaml", &policy_text("x", BAD))]);
    let closed = Policy::closed(dev("x"), app("web"), true, false);
    assert_eq!(store.cluster().policies.get(&dev("x")), Some(&closed), "what is gone is forgotten");
}

#[test]
fn a_policy_that_was_never_whole_is_closed() {
    let everything = Selector::everything;
    let table = [
        (BAD, app("web"), true, false),
        ("podSelector: {}\negress: [{ports: [{port: 0}]}]", everything(), true, true),
        ("podSelector: {}\negress: []\ningress: [{ports: [{port: 0}]}]", everything(), true, false),
        ("podSelector: {matchLabels: {app: web}}\negress: 5", app("web"), true, true),
        ("policyTypes: [Egress]\ningress: 5", everything(), false, true),
        ("policyTypes: []\ningress: 5", everything(), true, false),
        ("policyTypes: [{Ingress: null}]", everything(), true, true),
        ("policyTypes: [Egres]", everything(), true, true),
        ("policyTypes: Ingress", everything(), true, true),
        ("policytypes: [Ingress]\npodSelector: {matchLabels: {app: web}}", app("web"), true, true),
        ("podSelector: {matchLabels: {app: 5}}", everything(), true, false),
        ("podSelector: {matchLabel: {app: web}}", everything(), true, false),
        ("podSelector: {matchExpressions: [{key: a, operator: IN}]}", everything(), true, false),
        // Twice the same key, or half a document: nobody can tell.
        ("policyTypes: [Ingress]\npolicyTypes: [Egress]", everything(), true, true),
        ("podSelector: {matchLabels: {app: web}}\ningress: [", everything(), true, true),
    ];
    for (text, subject, ingress, egress) in table {
        let mut store = Store::default();
        update(&mut store, &[("a.yaml", &policy_text("x", text))]);
        let closed = Policy::closed(dev("x"), subject, ingress, egress);
        assert_eq!(store.cluster().policies.values().collect::<Vec<_>>(), [&closed], "{text}");
        assert!(!store.problems().is_empty(), "{text}");
    }
}

#[test]
fn a_policy_without_a_name_closes_under_its_place() {
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &policy_text("x", GOOD).replace(", name: x", ""))]);
    let closed = Policy::closed(dev("<a.yaml>"), app("web"), true, false);
    assert_eq!(store.cluster().policies.values().collect::<Vec<_>>(), [&closed]);

    // Where its namespace can't be told, a problem is all there is.
    let mut store = Store::default();
    for text in [
        policy_text("x", GOOD).replace("namespace: dev", "namespace: 7"),
        policy_text("x", GOOD).replace("namespace: dev", "namespace: Dev"),
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nspec: [\n".to_owned(),
        "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: x}}".to_owned(),
    ] {
        update(&mut store, &[("a.yaml", &text)]);
        assert!(store.cluster().policies.is_empty(), "{text}");
        assert_eq!(store.problems().len(), 1, "{text}");
    }
}

#[test]
fn closed_stays_closed_when_the_file_gets_worse() {
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &policy_text("x", BAD))]);
    let closed = store.cluster().clone();
    assert_eq!(closed.policies.len(), 1);
    update(&mut store, &[("a.yaml", "]")]);
    assert_eq!(store.cluster(), &closed);
}

#[test]
fn a_broken_file_keeps_all_that_was_in_it() {
    let mut store = Store::default();
    let whole = format!("{}---\n{}", policy_text("x", GOOD), pod_text("p", "10.0.0.1"));
    let other = pod_text("q", "10.0.0.2");
    update(&mut store, &[("a.yaml", &whole), ("b.yaml", &other)]);
    let before = store.cluster().clone();
    for broken in ["{", "a: 1\n---\n]", "\t]"] {
        update(&mut store, &[("a.yaml", broken), ("b.yaml", &other)]);
        assert_eq!(store.cluster(), &before, "{broken:?}");
    }
    // Another file's objects may go meanwhile, and this one's change where they can be read.
    let text = format!("{}---\n[", pod_text("p", "10.0.0.3"));
    update(&mut store, &[("a.yaml", &text)]);
    assert_eq!(store.cluster().pods.names().cloned().collect::<Vec<_>>(), [dev("p")]);
    assert_eq!(store.cluster().pods.get(&dev("p")).unwrap().addresses, [ip("10.0.0.3")]);
    assert_eq!(store.cluster().policies, before.policies);
    update(&mut store, &[("a.yaml", "")]);
    assert_eq!(store.cluster(), &Cluster::default());
}

#[test]
fn a_folder_that_cannot_be_read_changes_nothing() {
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &policy_text("x", GOOD)), ("b.yaml", "]")]);
    let (cluster, problems) = (store.cluster().clone(), store.problems().to_vec());
    let gone =
        Problem { source: "dir".into(), message: "the folder can't be read".into(), ..Problem::default() };
    let told = store.update(FolderRead { files: Vec::new(), problem: Some(gone.clone()) });
    assert_eq!(told, Update { changed: false, new_problems: vec![gone.clone()], solved_problems: vec![] });
    assert_eq!(store.cluster(), &cluster);
    assert_eq!(store.problems(), [vec![gone], problems.clone()].concat());
    update(&mut store, &[("a.yaml", &policy_text("x", GOOD)), ("b.yaml", "]")]);
    assert_eq!(store.problems(), problems);
}

const BROKEN_POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {namespace: dev, name: p}\n\
                          spec: {containers: [{ports: [{containerPort: 0}]}]}\n";

#[test]
fn broken_pods() {
    let mut store = Store::default();
    let text = format!("{BROKEN_POD}status: {{podIPs: [{{ip: 10.0.0.1}}, {{ip: x}}]}}\n");
    update(&mut store, &[("a.yaml", &text)]);
    assert!(store.cluster().pods.is_empty());
    assert_eq!(super::broken_pods(&store), [(dev("p"), vec![ip("10.0.0.1")])]);

    // The address of a whole pod is that pod's.
    assert!(update(&mut store, &[("a.yaml", &text), ("b.yaml", &pod_text("q", "10.0.0.1"))]).changed);
    assert_eq!(super::broken_pods(&store), [(dev("p"), vec![])]);

    for text in ["status: {podIP: 10.0.0.1, phase: Failed}\n", "status: {}\n", "status: 5\n"] {
        let mut store = Store::default();
        update(&mut store, &[("a.yaml", &format!("{BROKEN_POD}{text}"))]);
        assert_eq!(super::broken_pods(&store), [(dev("p"), vec![])], "{text}");
    }
}

#[test]
fn a_broken_pod_keeps_its_last_good_version_while_that_lives() {
    let broken = format!("{BROKEN_POD}status: {{podIP: 10.0.0.2}}\n");
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &pod_text("p", "10.0.0.1"))]);
    update(&mut store, &[("a.yaml", &broken)]);
    assert_eq!(store.cluster().pods.get(&dev("p")).unwrap().addresses, [ip("10.0.0.1")]);
    assert_eq!(super::broken_pods(&store), []);

    let finished = pod_text("p", "10.0.0.1").replace("podIPs", "phase: Failed, podIPs");
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &finished)]);
    update(&mut store, &[("a.yaml", &broken)]);
    assert_eq!(super::broken_pods(&store), [(dev("p"), vec![ip("10.0.0.2")])], "the new pod is another");
}

#[test]
fn namespaces_and_nodes_keep_their_last_good_version() {
    let text = |label: &str, address: &str| {
        format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: dev, labels: {{a: {label}}}}}}}\n---\n\
             {{apiVersion: v1, kind: Node, metadata: {{name: n}}, status: {{addresses: [{{type: InternalIP, address: {address}}}]}}}}"
        )
    };
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &text("b", "10.0.0.1"))]);
    let good = store.cluster().clone();
    assert_eq!((good.namespaces.len(), good.nodes.len()), (1, 1));
    update(&mut store, &[("a.yaml", &text("5", "x"))]);
    assert_eq!((store.cluster(), store.problems().len()), (&good, 2));
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &text("5", "x"))]);
    assert_eq!((store.cluster(), store.problems().len()), (&Cluster::default(), 2));
}

#[test]
fn objects_may_move_between_files() {
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &policy_text("x", GOOD))]);
    update(&mut store, &[("b.yaml", &policy_text("x", BAD))]);
    assert!(store.cluster().policies[&dev("x")].ingress.as_ref().is_some_and(|rules| rules.len() == 1));
    update(&mut store, &[("a.yaml", "]"), ("b.yaml", "")]);
    assert!(store.cluster().policies.is_empty(), "it was in b.yaml last");
}
