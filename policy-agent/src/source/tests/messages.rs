//! Every kind of bad input, and the exact words for it.

use super::*;

/// Spec of a NetworkPolicy dev/x in a.yaml, and what follows "a.yaml: NetworkPolicy dev/x: ".
const SPECS: &[(&str, &[&str])] = &[
    // Types.
    ("podSelector: web", &[r#"spec.podSelector: "web": must be an object, not string"#]),
    ("podSelector: {}\ningress: {}", &["spec.ingress: {}: must be a list, not an object"]),
    ("podSelector: {}\ningress: [null]", &["spec.ingress[0]: null: must be an object, not null"]),
    (
        "podSelector: {}\npolicyTypes: [{Ingress: null}]",
        &[r#"spec.policyTypes[0]: {"Ingress":null}: must be a string, not an object"#],
    ),
    (
        "podSelector: {}\npolicyTypes: Ingress",
        &[r#"spec.policyTypes: "Ingress": must be a list, not string"#],
    ),
    (
        "podSelector: {matchLabels: {a: 1, b: true, c: no, d: 1.5, e: ~, f: 0755}}",
        &[
            "spec.podSelector.matchLabels.a: 1: must be a string, not integer",
            "spec.podSelector.matchLabels.b: true: must be a string, not boolean",
            "spec.podSelector.matchLabels.d: 1.5: must be a string, not floating point",
            "spec.podSelector.matchLabels.e: null: must be a string, not null",
            "spec.podSelector.matchLabels.f: 755.0: must be a string, not floating point",
        ],
    ),
    (
        "podSelector: {}\ningress: [{ports: [{port: 80.5}]}]",
        &["spec.ingress[0].ports[0].port: 80.5: must be a port number or a port name, not floating point"],
    ),
    (
        "podSelector: {}\ningress: [{ports: [{port: 99999999999}, {port: [80]}]}]",
        &[
            "spec.ingress[0].ports[0].port: 99999999999: must be a 32-bit integer",
            "spec.ingress[0].ports[1].port: [80]: must be a port number or a port name, not a list",
        ],
    ),
    // Unknown fields.
    ("podSelector: {}\ningres: [{}]", &["spec.ingres: [{}]: unknown field"]),
    (
        "podSelector: {}\ningress: [{form: [], ports: [{prot: 80}]}]",
        &["spec.ingress[0].form: []: unknown field", "spec.ingress[0].ports[0].prot: 80: unknown field"],
    ),
    (
        "podSelector: {matchlabels: {a: b}}\nPolicyTypes: [Ingress]",
        &[
            r#"spec.PolicyTypes: ["Ingress"]: unknown field"#,
            r#"spec.podSelector.matchlabels: {"a":"b"}: unknown field"#,
        ],
    ),
    // policyTypes.
    ("policyTypes: [ingress]", &[r#"spec.policyTypes[0]: "ingress": must be Ingress or Egress"#]),
    ("policyTypes: [Ingress, Egres]", &[r#"spec.policyTypes[1]: "Egres": must be Ingress or Egress"#]),
    (
        "policyTypes: [Ingress, Egress, Ingress]",
        &[r#"spec.policyTypes: ["Ingress","Egress","Ingress"]: must not have more than two entries"#],
    ),
    // Ports.
    (
        "ingress: [{ports: [{protocol: tcp, port: 80}, {protocol: ICMP}, {protocol: ''}]}]",
        &[
            r#"spec.ingress[0].ports[0].protocol: "tcp": must be TCP, UDP or SCTP"#,
            r#"spec.ingress[0].ports[1].protocol: "ICMP": must be TCP, UDP or SCTP"#,
            r#"spec.ingress[0].ports[2].protocol: "": must be TCP, UDP or SCTP"#,
        ],
    ),
    (
        "egress: [{}, {ports: [{port: 0}, {port: 65536}, {port: -1}]}]",
        &[
            "spec.egress[1].ports[0].port: 0: must be a port number, 1 to 65535",
            "spec.egress[1].ports[1].port: 65536: must be a port number, 1 to 65535",
            "spec.egress[1].ports[2].port: -1: must be a port number, 1 to 65535",
        ],
    ),
    (
        "ingress: [{ports: [{port: '80'}, {port: HTTP}, {port: ''}]}]",
        &[
            r#"spec.ingress[0].ports[0].port: "80": is text: a port number must not be in quotes"#,
            r#"spec.ingress[0].ports[1].port: "HTTP": must be a port name: 1 to 15 characters of a-z, 0-9 and single inner '-', with at least one letter"#,
            r#"spec.ingress[0].ports[2].port: "": must be a port name: 1 to 15 characters of a-z, 0-9 and single inner '-', with at least one letter"#,
        ],
    ),
    (
        "ingress: [{ports: [{endPort: 90}, {port: 80, endPort: 79}, {port: http, endPort: 90}, {port: 1, endPort: 70000}]}]",
        &[
            "spec.ingress[0].ports[0].endPort: 90: needs a port",
            "spec.ingress[0].ports[1].endPort: 79: must not be below port 80",
            "spec.ingress[0].ports[2].endPort: 90: must not be together with a named port",
            "spec.ingress[0].ports[3].endPort: 70000: must be a port number, 1 to 65535",
        ],
    ),
    // Peers.
    (
        "ingress: [{from: [{}]}]",
        &["spec.ingress[0].from[0]: {}: must have a podSelector, a namespaceSelector or an ipBlock"],
    ),
    (
        "egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]",
        &[
            r#"spec.egress[0].to[0].ipBlock: {"cidr":"10.0.0.0/8"}: must not be together with podSelector or namespaceSelector in one peer"#,
        ],
    ),
    (
        "ingress: [{from: [{ipBlock: {}}, {ipBlock: {cidr: 10.0.0.1}}, {ipBlock: {cidr: 10.0.0.0/33}}, {ipBlock: {cidr: here}}]}]",
        &[
            "spec.ingress[0].from[0].ipBlock.cidr: is required",
            r#"spec.ingress[0].from[1].ipBlock.cidr: "10.0.0.1": must be a CIDR: 10.0.0.1/32 for this address alone"#,
            r#"spec.ingress[0].from[2].ipBlock.cidr: "10.0.0.0/33": prefix length must be 0 to 32"#,
            r#"spec.ingress[0].from[3].ipBlock.cidr: "here": must be a CIDR, such as 10.0.0.0/8 or 2001:db8::/32"#,
        ],
    ),
    (
        "ingress: [{from: [{ipBlock: {cidr: 172.16.0.0/16, except: [172.17.0.0/24, 172.16.0.0/16, 172.0.0.0/8, '2001:db8::/64', x, 172.16.9.9/24]}}]}]",
        &[
            r#"spec.ingress[0].from[0].ipBlock.except[0]: "172.17.0.0/24": must be a strict subset of cidr 172.16.0.0/16"#,
            r#"spec.ingress[0].from[0].ipBlock.except[1]: "172.16.0.0/16": must be a strict subset of cidr 172.16.0.0/16"#,
            r#"spec.ingress[0].from[0].ipBlock.except[2]: "172.0.0.0/8": must be a strict subset of cidr 172.16.0.0/16"#,
            r#"spec.ingress[0].from[0].ipBlock.except[3]: "2001:db8::/64": must be a strict subset of cidr 172.16.0.0/16"#,
            r#"spec.ingress[0].from[0].ipBlock.except[4]: "x": must be a CIDR, such as 10.0.0.0/8 or 2001:db8::/32"#,
        ],
    ),
    // Selectors.
    (
        "podSelector: {matchExpressions: [{key: a, operator: in, values: [x]}, {key: a, operator: In}, {key: a, operator: NotIn, values: []}, {key: a, operator: Exists, values: [x]}, {operator: DoesNotExist}]}",
        &[
            r#"spec.podSelector.matchExpressions[0].operator: "in": must be In, NotIn, Exists or DoesNotExist"#,
            "spec.podSelector.matchExpressions[1].values: []: must not be empty when the operator is In",
            "spec.podSelector.matchExpressions[2].values: []: must not be empty when the operator is NotIn",
            r#"spec.podSelector.matchExpressions[3].values: ["x"]: must be empty when the operator is Exists"#,
            r#"spec.podSelector.matchExpressions[4].key: "": must be a label key: a name of at most 63 characters of A-Z, a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit, optionally after a DNS prefix and '/'"#,
        ],
    ),
    (
        "ingress: [{from: [{namespaceSelector: {matchLabels: {team/x: a b}}}]}]",
        &[
            r#"spec.ingress[0].from[0].namespaceSelector.matchLabels["team/x"]: "a b": must be a label value: at most 63 characters of A-Z, a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit, or empty"#,
        ],
    ),
];

#[test]
fn specs_of_policies() {
    for (spec, expected) in SPECS {
        let expected: Vec<String> =
            expected.iter().map(|text| format!("a.yaml: NetworkPolicy dev/x: {text}")).collect();
        assert_eq!(problems("a.yaml", &policy_text("x", spec)), expected, "{spec}");
    }
}

#[test]
fn whole_objects() {
    let table: &[(&str, &[&str])] = &[
        ("just text", &[r#"a.yaml: "just text": must be an object"#]),
        ("[1]", &["a.yaml: [1]: must be an object"]),
        (
            "metadata: {name: x, namespace: dev}",
            &["a.yaml: object dev/x: apiVersion: is required", "a.yaml: object dev/x: kind: is required"],
        ),
        ("{apiVersion: 1, kind: Pod}", &["a.yaml: Pod: apiVersion: 1: must be text"]),
        (
            "{apiVersion: extensions/v1beta1, kind: NetworkPolicy, metadata: {name: x}}",
            &[
                r#"a.yaml: NetworkPolicy default/x: apiVersion: "extensions/v1beta1": must be networking.k8s.io/v1: this NetworkPolicy is not enforced"#,
            ],
        ),
        (
            "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: x}}",
            &[
                r#"a.yaml: NetworkPolicy default/x: apiVersion: "projectcalico.org/v3": must be networking.k8s.io/v1: this NetworkPolicy is not enforced"#,
            ],
        ),
        (
            "{apiVersion: v1beta3, kind: Pod, metadata: {name: x}}",
            &[r#"a.yaml: Pod default/x: apiVersion: "v1beta3": must be v1: this Pod is not enforced"#],
        ),
        (
            "{apiVersion: networking.k8s.io/v1, kind: networkpolicy, metadata: {name: x}}",
            &[r#"a.yaml: networkpolicy x: kind: "networkpolicy": is no kind of networking.k8s.io"#],
        ),
        (
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy}",
            &["a.yaml: NetworkPolicy: metadata.name: is required"],
        ),
        (
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: My_Policy}}",
            &[
                r#"a.yaml: NetworkPolicy: metadata.name: "My_Policy": must be at most 253 characters of a-z, 0-9, '-' and '.', each part beginning and ending with a letter or digit"#,
            ],
        ),
        (
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: x, namespace: 5, namesapce: dev}}",
            &[
                "a.yaml: NetworkPolicy: metadata.namespace: 5: must be a string, not integer",
                r#"a.yaml: NetworkPolicy: metadata.namesapce: "dev": unknown field"#,
            ],
        ),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a.b, labels: {a: 1}}}",
            &["a.yaml: Namespace a.b: metadata.labels.a: 1: must be a string, not integer"],
        ),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a.b}}",
            &[
                "a.yaml: Namespace a.b: metadata.name: \"a.b\": must be at most 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit",
            ],
        ),
        (
            "{apiVersion: v1, kind: Node, metadata: {name: n}, status: {addresses: [{type: Hostname, address: h}, {type: InternalIP, address: h}]}}",
            &[r#"a.yaml: Node n: status.addresses[1].address: "h": must be an IP address"#],
        ),
        ("{apiVersion: v1, kind: List, items: {}}", &["a.yaml: List: items: {}: must be a list"]),
        (
            "{apiVersion: v1, kind: List, items: [null, {kind: Pod}]}",
            &["a.yaml items[0]: must be an object", "a.yaml items[1]: Pod: apiVersion: is required"],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(problems("a.yaml", text), *expected, "{text}");
    }
}

#[test]
fn pods() {
    let table: &[(&str, &[&str])] = &[
        (
            "status: {podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}, {ip: x}, {}]}",
            &[
                r#"status.podIPs[1].ip: "10.0.0.2": must be the only address of its family"#,
                r#"status.podIPs[2].ip: "x": must be an IP address"#,
                r#"status.podIPs[3].ip: "": must be an IP address"#,
            ],
        ),
        ("status: {podIP: 10.0.0.256}", &[r#"status.podIP: "10.0.0.256": must be an IP address"#]),
        ("status: {podIPs: [10.0.0.1]}", &[r#"status.podIPs[0]: "10.0.0.1": must be an object, not string"#]),
        (
            "spec: {containers: [{ports: [{containerPort: 0}, {name: http}, {containerPort: 1, protocol: http}]}], initContainers: [{}, {ports: [{name: A, containerPort: 70000}]}]}",
            &[
                "spec.containers[0].ports[0].containerPort: 0: must be a port number, 1 to 65535",
                "spec.containers[0].ports[1].containerPort: 0: must be a port number, 1 to 65535",
                r#"spec.containers[0].ports[2].protocol: "http": must be TCP, UDP or SCTP"#,
                r#"spec.initContainers[1].ports[0].name: "A": must be a port name: 1 to 15 characters of a-z, 0-9 and single inner '-', with at least one letter"#,
                "spec.initContainers[1].ports[0].containerPort: 70000: must be a port number, 1 to 65535",
            ],
        ),
        ("spec: {hostNetwork: yes}", &[r#"spec.hostNetwork: "yes": must be a boolean, not string"#]),
    ];
    for (text, expected) in table {
        let expected: Vec<String> =
            expected.iter().map(|text| format!("a.yaml: Pod dev/p: {text}")).collect();
        let pod = format!("apiVersion: v1\nkind: Pod\nmetadata: {{namespace: dev, name: p}}\n{text}\n");
        assert_eq!(problems("a.yaml", &pod), expected, "{text}");
    }
}

#[test]
fn faults_that_never_end_are_counted() {
    let peers: String = (0..100_000).map(|n| format!("{{ipBlock: {{cidr: \"bad{n}\"}}}},")).collect();
    let found = problems("a.yaml", &policy_text("x", &format!("ingress: [{{from: [{peers}]}}]")));
    assert_eq!(found.len(), 51);
    assert_eq!(found[50], "a.yaml: NetworkPolicy dev/x: and 99950 more errors");
}

#[test]
fn values_are_shown_short_and_printable() {
    let long = "x".repeat(5_000_000);
    let found = problems("a.yaml", &policy_text("x", &format!("podSelector: {{}}\nbad: \"{long}\"")));
    assert!(found.iter().all(|text| text.len() < 250), "{:?}", found.first().map(String::len));
    let found = problems("a.yaml", &policy_text("x", "podSelector: {}\nbad: \"\\e[31m\\u202e\""));
    assert_eq!(found, ["a.yaml: NetworkPolicy dev/x: spec.bad: \"\\u001b[31m\\u{202e}\": unknown field"]);
}
