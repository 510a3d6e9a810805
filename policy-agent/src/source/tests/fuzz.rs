//! No input panics, and the same input gives the same output.

use proptest::prelude::*;

use super::*;

const MANIFESTS: &str = r#"# a folder's worth
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: x, namespace: dev}
spec:
  podSelector:
    matchLabels: &l {app: web}
    matchExpressions: [{key: tier, operator: In, values: [a, "b"]}]
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - ipBlock: {cidr: 172.16.0.0/16, except: [172.16.8.0/24]}
    - namespaceSelector: {matchLabels: *l}
      podSelector: {}
    ports: [{port: 80, endPort: 90}, {port: http, protocol: UDP}, {}]
  egress: [{}]
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: dev, labels: {a: b}}}
- {apiVersion: v1, kind: Node, metadata: {name: n}, status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: dev}
spec: {containers: [{ports: [{name: http, containerPort: 80}]}]}
status: {podIPs: [{ip: 10.0.0.2}, {ip: "2001:db8::1"}], phase: Running}
"#;

fn json() -> String {
    let policy: serde_json::Value =
        serde_saphyr::from_str(MANIFESTS.split("---").next().unwrap_or_default()).expect("the policy");
    policy.to_string()
}

fn check(name: &str, bytes: &[u8]) {
    let read =
        |name: &str, bytes: &[u8]| FolderRead { files: vec![read_text(name, bytes.to_vec())], problem: None };
    let mut store = Store::default();
    store.update(read(name, bytes));
    let (cluster, problems) = (store.cluster().clone(), store.problems().to_vec());
    let mut again = Store::default();
    again.update(read(name, bytes));
    assert_eq!((again.cluster(), again.problems()), (&cluster, problems.as_slice()));
    // A file that something is unreadable in may still hold what it did.
    let mut store = Store::default();
    let text = if name == "a.json" { json() } else { MANIFESTS.to_owned() };
    store.update(read(name, text.as_bytes()));
    assert_eq!(store.problems(), []);
    let before = store.cluster().policies.clone();
    store.update(read(name, bytes));
    if store.problems().iter().any(|p| p.object.is_empty()) {
        for id in before.keys() {
            assert!(store.cluster().policies.contains_key(id), "a broken file keeps its policies");
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Replace(usize, u8),
    Remove(usize, usize),
    Insert(usize, &'static str),
    Cut(usize),
    Copy(usize, usize, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let tokens = prop::sample::select(vec![
        "\n",
        "---\n",
        "...",
        ": ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "&l ",
        "*l",
        "<<: *l",
        "null",
        "~",
        "\t",
        "|\n",
        "!!int ",
        "1e999",
        ".nan",
        "0",
        "-1",
        "ä",
        "\u{0}",
        "\u{feff}",
        ",",
        "metadata",
        "namespace: 5",
        "#",
        "%YAML 1.2\n",
    ]);
    let place = 0..MANIFESTS.len();
    let change = prop_oneof![
        (place.clone(), any::<u8>()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        (place.clone(), 0..60_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (place.clone(), tokens).prop_map(|(at, token)| Change::Insert(at, token)),
        place.clone().prop_map(Change::Cut),
        (place.clone(), 0..200_usize, place).prop_map(|(from, length, to)| Change::Copy(from, length, to)),
    ];
    prop::collection::vec(change, 1..6)
}

fn apply(text: &str, changes: &[Change]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for change in changes {
        let end = bytes.len();
        match *change {
            Change::Replace(at, byte) => bytes.iter_mut().skip(at).take(1).for_each(|b| *b = byte),
            Change::Remove(at, length) => drop(bytes.drain(at.min(end)..(at + length).min(end))),
            Change::Insert(at, token) => drop(bytes.splice(at.min(end)..at.min(end), token.bytes())),
            Change::Cut(at) => bytes.truncate(at),
            Change::Copy(from, length, to) => {
                let copy: Vec<u8> = bytes.iter().skip(from).take(length).copied().collect();
                bytes.splice(to.min(end)..to.min(end), copy);
            }
        }
    }
    bytes
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), json: bool) {
        check(if json { "a.json" } else { "a.yaml" }, &bytes);
    }

    #[test]
    fn mutated_manifests(changes in changes()) {
        check("a.yaml", &apply(MANIFESTS, &changes));
        check("a.json", &apply(&json(), &changes));
    }
}
