//! Good objects: defaults, and what is ignored.

use std::collections::BTreeMap;

use super::*;
use crate::model::{
    Block, ContainerPort, NamespaceMatch, Node, Peer, PortMatch, Protocol, Requirement, Rule, Selector,
};

fn spec(text: &str) -> Policy {
    the_policy(&policy_text("x", text))
}

fn label(key: &str, value: &str) -> Selector {
    [Requirement::In { key: key.into(), values: [value.to_owned()].into() }].into_iter().collect()
}

const fn range(protocol: Protocol, first: u16, last: u16) -> PortMatch {
    PortMatch::Range { protocol, first, last }
}

#[test]
fn row_1_selects_everything() {
    for text in ["podSelector: {}", "podSelector: null", "podSelector: {matchLabels: {}}", "ingress: []"] {
        assert_eq!(spec(text).subject, Selector::everything(), "{text}");
    }
    let no_spec = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: x}";
    for text in ["}", ", spec: {}}", ", spec: null}", ", status: {}}"] {
        let closed = Policy::closed(ObjectName::new("default", "x"), Selector::everything(), true, false);
        assert_eq!(the_policy(&format!("{no_spec}{text}")), closed, "{text}");
    }
}

#[test]
fn rows_12_to_14_directions() {
    let table = [
        ("podSelector: {}", Some(0), None),
        ("ingress: null\negress: null", Some(0), None),
        ("egress: []", Some(0), None),
        ("egress: [{}]", Some(0), Some(1)),
        ("policyTypes: []\negress: [{}]", Some(0), Some(1)),
        ("policyTypes: [Egress]", None, Some(0)),
        ("policyTypes: [Egress]\ningress: [{}]", None, Some(0)),
        ("policyTypes: [Ingress]\negress: [{}]", Some(0), None),
        ("policyTypes: [Ingress, Egress]\ningress: [{}, {}]", Some(2), Some(0)),
    ];
    for (text, ingress, egress) in table {
        let policy = spec(text);
        let count = |rules: Option<Vec<Rule>>| rules.map(|rules| rules.len());
        assert_eq!((count(policy.ingress), count(policy.egress)), (ingress, egress), "{text}");
    }
}

#[test]
fn rows_15_to_17_nothing_restricts_nothing() {
    for text in ["ingress: [{}]", "ingress: [{from: [], ports: []}]", "ingress: [{from: null, ports: null}]"]
    {
        assert_eq!(spec(text).ingress, Some(vec![Rule { peers: None, ports: None }]), "{text}");
    }
}

#[test]
fn rows_4_to_8_peers() {
    let peers = |text: &str| {
        spec(&format!("ingress: [{{from: [{text}]}}]")).ingress.expect("isolates")[0].peers.clone()
    };
    let own = || NamespaceMatch::Named("dev".into());
    let pods = |namespaces, pods| Peer::Pods { namespaces, pods };
    let table = [
        ("{podSelector: {}}", vec![pods(own(), Selector::everything())]),
        ("{podSelector: {matchLabels: {a: b}}, ipBlock: null}", vec![pods(own(), label("a", "b"))]),
        (
            "{namespaceSelector: {}}",
            vec![pods(NamespaceMatch::Selected(Selector::everything()), Selector::everything())],
        ),
        (
            "{namespaceSelector: {matchLabels: {a: b}}, podSelector: {matchLabels: {c: d}}}",
            vec![pods(NamespaceMatch::Selected(label("a", "b")), label("c", "d"))],
        ),
        (
            "{namespaceSelector: {matchLabels: {a: b}}}, {podSelector: {matchLabels: {c: d}}}",
            vec![
                pods(NamespaceMatch::Selected(label("a", "b")), Selector::everything()),
                pods(own(), label("c", "d")),
            ],
        ),
        (
            "{ipBlock: {cidr: 172.16.5.4/16, except: [172.16.8.1/24, 172.16.8.0/25]}}, {ipBlock: {cidr: '::ffff:10.1.2.3/104'}}",
            vec![
                Peer::Block(Block {
                    cidr: "172.16.0.0/16".parse().expect("cidr"),
                    except: vec![
                        "172.16.8.0/24".parse().expect("cidr"),
                        "172.16.8.0/25".parse().expect("cidr"),
                    ],
                }),
                Peer::Block(Block { cidr: "10.0.0.0/8".parse().expect("cidr"), except: vec![] }),
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(peers(text), Some(expected), "{text}");
    }
}

#[test]
fn rows_21_22_28_ports() {
    let text = "ingress: [{ports: [{}, {protocol: UDP}, {port: 80}, {port: dns, protocol: UDP}, {port: 1, endPort: 65535, protocol: SCTP}, {port: 7, endPort: 7}]}]";
    let expected = vec![
        range(Protocol::Tcp, 0, 65535),
        range(Protocol::Udp, 0, 65535),
        range(Protocol::Tcp, 80, 80),
        PortMatch::Named { protocol: Protocol::Udp, name: "dns".into() },
        range(Protocol::Sctp, 1, 65535),
        range(Protocol::Tcp, 7, 7),
    ];
    assert_eq!(spec(text).ingress, Some(vec![Rule { peers: None, ports: Some(expected) }]));
}

#[test]
fn rows_2_and_3_selectors() {
    let text = "podSelector: {matchLabels: {a: y, b: ''}, matchExpressions: [{key: k8s.io/c, operator: NotIn, values: [x, y]}, {key: d, operator: Exists}, {key: e, operator: DoesNotExist, values: null}]}";
    let expected = [
        Requirement::In { key: "a".into(), values: ["y".to_owned()].into() },
        Requirement::In { key: "b".into(), values: [String::new()].into() },
        Requirement::NotIn { key: "k8s.io/c".into(), values: ["x".to_owned(), "y".to_owned()].into() },
        Requirement::Exists { key: "d".into() },
        Requirement::DoesNotExist { key: "e".into() },
    ];
    assert_eq!(spec(text).subject, expected.into_iter().collect());
}

#[test]
fn a_policy_as_kubectl_prints_it() {
    let text = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy"}
  creationTimestamp: "2026-03-01T10:00:00Z"
  generation: 1
  labels: {app: web}
  managedFields:
  - apiVersion: networking.k8s.io/v1
    fieldsType: FieldsV1
    fieldsV1: {"f:spec": {"f:podSelector": {}, "f:anything": {}}}
    manager: kubectl
    operation: Update
    time: "2026-03-01T10:00:00.123456Z"
  name: x.y
  namespace: dev
  ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: a, uid: b, controller: true}]
  resourceVersion: "12"
  selfLink: /apis
  uid: 0e6a
spec:
  podSelector: {}
status: {conditions: []}
"#;
    let expected = Policy::closed(dev("x.y"), Selector::everything(), true, false);
    assert_eq!(the_policy(text), expected);
    assert_eq!(the_policy(&text.replace("\"2026-03-01T10:00:00Z\"", "null")), expected);
}

#[test]
fn a_pod_as_kubectl_prints_it() {
    let text = r#"
apiVersion: v1
kind: Pod
metadata:
  name: web-0.a
  uid: 0e6a
  labels: {app: web}
  creationTimestamp: broken, and no matter of ours
spec:
  nodeName: n1
  volumes: no matter either
  initContainers:
  - {name: sidecar, restartPolicy: Always, ports: [{name: metrics, containerPort: 9090}]}
  containers:
  - name: 7
    ports:
    - {name: http, containerPort: 8080, protocol: TCP, hostPort: 80}
    - {containerPort: 53, protocol: UDP}
    - {name: '', containerPort: 54, protocol: ''}
status:
  phase: Running
  podIP: 10.0.0.9
  podIPs: [{ip: 10.0.0.9}, {ip: '2001:DB8::9'}]
"#;
    let pod = cluster(text).pods.values().next().expect("one pod").as_ref().clone();
    assert_eq!(pod.id, ObjectName::new("default", "web-0.a"));
    assert_eq!((pod.uid.as_str(), pod.node.as_deref()), ("0e6a", Some("n1")));
    assert_eq!(
        pod.addresses,
        ["10.0.0.9".parse::<IpAddr>().expect("ip"), "2001:db8::9".parse().expect("ip")]
    );
    assert!(pod.is_selectable());
    let port =
        |name: Option<&str>, protocol, port| ContainerPort { name: name.map(str::to_owned), protocol, port };
    let expected = [
        port(Some("http"), Protocol::Tcp, 8080),
        port(None, Protocol::Udp, 53),
        port(None, Protocol::Tcp, 54),
        port(Some("metrics"), Protocol::Tcp, 9090),
    ];
    assert_eq!(*pod.ports, expected);
}

#[test]
fn pods_that_are_no_endpoints() {
    let pod = |text: &str| {
        let text = format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, {text}}}");
        cluster(&text).pods.values().next().expect("one pod").as_ref().clone()
    };
    assert!(pod("status: {phase: Succeeded, podIP: 10.0.0.1}").finished);
    assert!(pod("status: {phase: Failed}").finished);
    assert!(pod("spec: {hostNetwork: true}").host_network);
    let pending = pod("status: {phase: Pending, podIPs: [], podIP: ''}");
    assert!(pending.addresses.is_empty() && pending.is_selectable());
    assert_eq!(
        pod("status: {podIPs: [{ip: '::ffff:10.0.0.1'}]}").addresses,
        ["10.0.0.1".parse::<IpAddr>().expect("ip")]
    );
}

#[test]
fn nodes_and_namespaces() {
    let cluster = cluster(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: dev, labels: {team: a}, finalizers: 5}\n---\n\
         apiVersion: v1\nkind: Node\nmetadata: {name: n.1, labels: {topology.kubernetes.io/zone: east-1, os: linux}}\n\
         status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: Hostname, address: n}, {type: ExternalIP, address: '2001:db8::1'}]}\n",
    );
    assert_eq!(
        cluster.namespaces,
        BTreeMap::from([("dev".into(), BTreeMap::from([("team".into(), "a".into())]))])
    );
    let addresses = vec!["192.0.2.1".parse().expect("ip"), "2001:db8::1".parse().expect("ip")];
    let node = Node { addresses, zone: Some("east-1".into()) };
    assert_eq!(cluster.nodes, BTreeMap::from([("n.1".into(), node)]));
}

#[test]
fn lists() {
    let pod = "{metadata: {namespace: dev, name: p}}";
    let policy = "{metadata: {namespace: dev, name: x}, spec: {podSelector: {}}}";
    let full = r"{apiVersion: v1, kind: Namespace, metadata: {name: dev}}";
    let texts = [
        format!("{{apiVersion: v1, kind: PodList, items: [{pod}]}}"),
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicyList, metadata: {{resourceVersion: ''}}, items: [{policy}]}}"
        ),
        format!(
            "{{apiVersion: v1, kind: List, items: [{full}, {{apiVersion: v1, kind: PodList, items: null}}]}}"
        ),
        "{apiVersion: v1, kind: NodeList, items: [{metadata: {name: n}}]}".to_owned(),
        "{apiVersion: v1, kind: NamespaceList, items: [{metadata: {name: prod}}]}".to_owned(),
    ];
    let cluster = cluster(&texts.join("\n---\n"));
    assert_eq!(cluster.pods.len() + cluster.policies.len() + cluster.nodes.len(), 3);
    assert_eq!(cluster.namespaces.keys().cloned().collect::<Vec<_>>(), ["dev", "prod"]);
    let old = format!("{{apiVersion: extensions/v1beta1, kind: NetworkPolicyList, items: [{policy}]}}");
    assert_eq!(
        problems("a.yaml", &old),
        [
            r#"a.yaml items[0]: NetworkPolicy dev/x: apiVersion: "extensions/v1beta1": must be networking.k8s.io/v1: this NetworkPolicy is not enforced"#
        ]
    );
}

#[test]
fn other_kinds_are_no_matter() {
    let text = "{apiVersion: v1, kind: Secret, metadata: {name: s}}\n---\n{apiVersion: apps/v1, kind: Deployment, spec: 5}\n---\n\
                {apiVersion: networking.k8s.io/v1, kind: IngressList}\n---\n{apiVersion: metrics.k8s.io/v1beta1, kind: NodeMetrics}\n---\n\
                {apiVersion: other.io/v1, kind: Node}\n---\n{apiVersion: serving.knative.dev/v1, kind: Service}\n---\nnull\n---\n# nothing\n";
    assert_eq!(cluster(text), Cluster::default());
}
