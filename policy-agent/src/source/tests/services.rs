//! Services and EndpointSlices: what is read of them, and what is wrong with them.

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::model::Protocol;
use crate::model::services::{
    Endpoint, EndpointPort, EndpointSlice, Hints, Readiness, Service, ServicePort, Vantage,
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn service_text(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{namespace: dev, name: web}}, spec: {{{spec}}}}}")
}

fn slice_text(rest: &str) -> String {
    let labels = "labels: {kubernetes.io/service-name: web}";
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{namespace: dev, name: web-1, {labels}}}, {rest}}}"
    )
}

fn the_service(spec: &str) -> Service {
    cluster(&service_text(spec)).services.values().next().expect("one Service").as_ref().clone()
}

fn the_slice(rest: &str) -> EndpointSlice {
    cluster(&slice_text(rest)).services.slices().next().expect("one slice").as_ref().clone()
}

/// What is behind all frontends.
fn behind(cluster: &Cluster) -> Vec<String> {
    let all = cluster.services.all(&Vantage::default());
    all.iter()
        .map(|(frontend, target)| {
            let backends: Vec<String> =
                target.backends.iter().map(|b| format!("{}:{}", b.address, b.port)).collect();
            format!("{}:{} {}", frontend.address, frontend.port, backends.join(" "))
        })
        .collect()
}

#[test]
fn a_service_as_kubectl_prints_it() {
    let text = r#"
apiVersion: v1
kind: Service
metadata:
  annotations: {a: b}
  creationTimestamp: "2026-01-01T09:00:00Z"
  labels: {app: web}
  name: web
  namespace: dev
  resourceVersion: "9"
  uid: 8f3c6a52-9d1e-4b7a-a0c3-5e2f1d4b6a98
spec:
  allocateLoadBalancerNodePorts: true
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00:96::1"]
  externalIPs: [198.51.100.1]
  externalTrafficPolicy: Local
  healthCheckNodePort: 31000
  internalTrafficPolicy: Local
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  loadBalancerSourceRanges: [10.0.0.0/8, " 192.0.2.0/24 "]
  ports:
  - {name: http, nodePort: 30080, port: 80, protocol: TCP, targetPort: http, appProtocol: http}
  - {name: dns, port: 53, protocol: UDP, targetPort: 5353}
  selector: {app: web}
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  trafficDistribution: PreferClose
  type: LoadBalancer
status:
  loadBalancer:
    ingress:
    - {ip: 203.0.113.1, ipMode: VIP, ports: [{port: 80, protocol: TCP}]}
    - {ip: 203.0.113.2, ipMode: Proxy}
    - {ip: "2001:db8::1"}
    - {hostname: lb.example.org}
"#;
    let port = |name: &str, protocol, port, node_port| ServicePort {
        name: name.to_owned(),
        protocol,
        port,
        node_port,
    };
    let expected = Service {
        id: dev("web"),
        cluster_ips: vec![ip("10.96.0.1"), ip("fd00:96::1")],
        external_ips: vec![ip("198.51.100.1")],
        load_balancer_ips: vec![ip("203.0.113.1"), ip("2001:db8::1")],
        source_ranges: ["10.0.0.0/8", "192.0.2.0/24"].map(|net| net.parse().expect("a network")).into(),
        ports: [port("http", Protocol::Tcp, 80, Some(30_080)), port("dns", Protocol::Udp, 53, None)].into(),
        affinity: Some(60),
        internal_local: true,
    };
    let cluster = cluster(text);
    assert_eq!(cluster.services.values().map(AsRef::as_ref).collect::<Vec<_>>(), [&expected]);
}

#[test]
fn defaults_of_a_service() {
    let least = the_service("clusterIP: 10.96.0.1, ports: [{port: 80}]");
    assert_eq!(least.cluster_ips, [ip("10.96.0.1")], "clusterIPs follows from clusterIP");
    assert_eq!(
        *least.ports,
        [ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None }]
    );
    assert_eq!((least.affinity, least.internal_local), (None, false));
    let sticky =
        |rest: &str| the_service(&format!("ports: [{{port: 80}}], sessionAffinity: {rest}")).affinity;
    assert_eq!(sticky("ClientIP"), Some(10_800));
    assert_eq!(sticky("ClientIP, sessionAffinityConfig: {clientIP: {}}"), Some(10_800));
    assert_eq!(sticky("None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}"), None);
    // What gets no address of its own has no frontends, and is no fault.
    for spec in [
        "clusterIP: None",
        "clusterIP: None, clusterIPs: [None], ports: [{port: 80, targetPort: 0, nodePort: 0}]",
        "type: ExternalName, externalName: db.example.org., externalIPs: [198.51.100.1]",
        "clusterIP: '', clusterIPs: [], ports: [{port: 80, name: '', protocol: '', targetPort: ''}]",
    ] {
        assert_eq!(behind(&cluster(&service_text(spec))), [""; 0], "{spec}");
        assert_eq!(the_service(spec).cluster_ips, [] as [IpAddr; 0], "{spec}");
    }
}

#[test]
fn a_slice_as_kubectl_prints_it() {
    let slice = the_slice(
        r"
addressType: IPv6,
ports: [{name: http, port: 8080, protocol: TCP, appProtocol: http}, {port: 53, protocol: UDP, name: ''}, {name: any}, {name: zero, port: 0}],
endpoints: [
  {addresses: ['fd00::1', 'fd00::2'], conditions: {ready: true, serving: true, terminating: false},
   hints: {forZones: [{name: z1}], forNodes: [{name: n1}]}, nodeName: n1, zone: z1, hostname: h, targetRef: {kind: Pod, name: p}},
  {addresses: ['fd00::3'], conditions: {ready: false, serving: true, terminating: true}, hints: {forZones: []}},
  {addresses: ['fd00::4'], conditions: {ready: false}, nodeName: ''},
  {addresses: ['fd00::5'], conditions: null}
]",
    );
    let plain =
        |address: &str, readiness| Endpoint { address: ip(address), readiness, node: None, hints: None };
    let hints = Hints { zones: ["z1".into()].into(), nodes: ["n1".into()].into() };
    let port = |name: &str, protocol, port| EndpointPort { name: name.to_owned(), protocol, port };
    let expected = EndpointSlice {
        id: dev("web-1"),
        service: Some("web".to_owned()),
        v4: false,
        ports: [port("http", Protocol::Tcp, 8080), port("", Protocol::Udp, 53)].into(),
        endpoints: [
            Endpoint {
                node: Some("n1".into()),
                hints: Some(Arc::new(hints)),
                ..plain("fd00::1", Readiness::Ready)
            },
            plain("fd00::3", Readiness::Draining),
            plain("fd00::4", Readiness::NotReady),
            plain("fd00::5", Readiness::Ready),
        ]
        .into(),
    };
    assert_eq!(slice, expected);
    // Names are no addresses; ports and endpoints may be missing.
    let names = the_slice("addressType: FQDN, endpoints: [{addresses: [db.example.org]}]");
    assert_eq!((names.endpoints.len(), names.ports.len()), (0, 0));
    assert_eq!(the_slice("addressType: IPv4, endpoints: null, ports: null").endpoints.len(), 0);
}

#[test]
fn what_no_api_server_stores_of_a_service() {
    let port = "ports: [{port: 80}]";
    let with = |rest: &str| format!("{port}, {rest}");
    let table: &[(String, &[&str])] = &[
        ("clusterIP: 10.96.0.1".to_owned(), &["spec.ports: is required: at least one port"]),
        (with("type: clusterip"), &[r#"spec.type: "clusterip": must be ClusterIP, NodePort, LoadBalancer or ExternalName"#]),
        (with("clusterIP: 10.96.0.256"), &[r#"spec.clusterIP: "10.96.0.256": must be an IP address"#]),
        (with("clusterIPs: [10.96.0.1]"), &[r#"spec.clusterIPs: ["10.96.0.1"]: must be empty where clusterIP is not set"#]),
        (
            with("clusterIP: 10.96.0.1, clusterIPs: [10.96.0.2]"),
            &[r#"spec.clusterIPs: ["10.96.0.2"]: must begin with clusterIP, "10.96.0.1""#],
        ),
        (
            with("clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 10.96.0.2]"),
            &[r#"spec.clusterIPs: ["10.96.0.1","10.96.0.2"]: must not have two addresses of one family"#],
        ),
        (
            with("clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, x]"),
            &[r#"spec.clusterIPs[1]: "x": must be an IP address"#],
        ),
        (
            with("clusterIP: '::1', clusterIPs: ['::1', 10.96.0.1, '::2']"),
            &[r#"spec.clusterIPs: ["::1","10.96.0.1","::2"]: must not have more than two entries"#],
        ),
        (
            with("clusterIP: None, clusterIPs: [None, 10.96.0.1]"),
            &[r#"spec.clusterIPs: ["None","10.96.0.1"]: must have nothing beside None"#],
        ),
        (
            with("clusterIP: None, type: NodePort"),
            &[r#"spec.clusterIP: "None": must not be None for a Service of type NodePort or LoadBalancer"#],
        ),
        (
            with("clusterIP: 10.96.0.1, ipFamilies: [IPv6, IPv6, ipv4]"),
            &[
                r#"spec.ipFamilies[0]: "IPv6": must be the family of clusterIPs[0], 10.96.0.1"#,
                r#"spec.ipFamilies[1]: "IPv6": must not be there twice"#,
                r#"spec.ipFamilies[2]: "ipv4": must be IPv4 or IPv6"#,
            ],
        ),
        (
            with("type: ExternalName, clusterIP: 10.96.0.1, externalName: Db"),
            &[
                r#"spec.clusterIP: "10.96.0.1": must not be set for a Service of type ExternalName"#,
                r#"spec.externalName: "Db": must be at most 253 characters of a-z, 0-9, '-' and '.', each part beginning and ending with a letter or digit"#,
            ],
        ),
        (
            "type: ExternalName".to_owned(),
            &["spec.externalName: is required for a Service of type ExternalName"],
        ),
        (
            with("externalIPs: [x, 127.0.0.1, 169.254.0.1, 'fe80::1', 0.0.0.0, 224.0.0.9, 198.51.100.1]"),
            &[
                r#"spec.externalIPs[0]: "x": must be an IP address"#,
                r#"spec.externalIPs[1]: "127.0.0.1": must not be unspecified, loopback or link-local"#,
                r#"spec.externalIPs[2]: "169.254.0.1": must not be unspecified, loopback or link-local"#,
                r#"spec.externalIPs[3]: "fe80::1": must not be unspecified, loopback or link-local"#,
                r#"spec.externalIPs[4]: "0.0.0.0": must not be unspecified, loopback or link-local"#,
                r#"spec.externalIPs[5]: "224.0.0.9": must not be unspecified, loopback or link-local"#,
            ],
        ),
        (
            with("type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0]"),
            &[r#"spec.loadBalancerSourceRanges[0]: "10.0.0.0": must be a CIDR: 10.0.0.0/32 for this address alone"#],
        ),
        (
            with("loadBalancerSourceRanges: [10.0.0.0/8]"),
            &[r#"spec.loadBalancerSourceRanges: ["10.0.0.0/8"]: must not be set unless the type is LoadBalancer"#],
        ),
        (with("sessionAffinity: Cookie"), &[r#"spec.sessionAffinity: "Cookie": must be ClientIP or None"#]),
        (
            with("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}"),
            &["spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401: must be 1 to 86400"],
        ),
        (with("internalTrafficPolicy: local"), &[r#"spec.internalTrafficPolicy: "local": must be Cluster or Local"#]),
        (with("externalTrafficPolicy: Node"), &[r#"spec.externalTrafficPolicy: "Node": must be Cluster or Local"#]),
        (
            "ports: [{name: a}, {port: 0, name: a}, {port: 1}, {port: 65536, name: A}]".to_owned(),
            &[
                "spec.ports[0].port: is required",
                r#"spec.ports[1].name: "a": is the name of another port already"#,
                "spec.ports[1].port: 0: must be a port number, 1 to 65535",
                "spec.ports[2].name: is required where there are several ports",
                "spec.ports[3].name: \"A\": must be at most 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit",
                "spec.ports[3].port: 65536: must be a port number, 1 to 65535",
            ],
        ),
        (
            "type: NodePort, ports: [{port: 1, name: a, nodePort: 30000}, {port: 1, name: b, protocol: UDP, nodePort: 30000}, {port: 1, name: c, nodePort: 30000}]".to_owned(),
            &[
                "spec.ports[2].port: 1: is there twice for TCP",
                "spec.ports[2].nodePort: 30000: is there twice for TCP",
            ],
        ),
        (
            "ports: [{port: 1, protocol: ICMP, nodePort: 30000, targetPort: 70000}]".to_owned(),
            &[
                r#"spec.ports[0].protocol: "ICMP": must be TCP, UDP or SCTP"#,
                "spec.ports[0].targetPort: 70000: must be a port number, 1 to 65535",
                "spec.ports[0].nodePort: 30000: must not be set for a Service of type ClusterIP",
            ],
        ),
        (
            "ports: [{port: 1, targetPort: HTTP}]".to_owned(),
            &[
                r#"spec.ports[0].targetPort: "HTTP": must be a port name: 1 to 15 characters of a-z, 0-9 and single inner '-', with at least one letter"#,
            ],
        ),
        (
            "type: LoadBalancer, ports: [{port: 10250}]".to_owned(),
            &["spec.ports[0].port: 10250: is the kubelet's: no load balancer may lead to it"],
        ),
        ("ports: {port: 80}".to_owned(), &[r#"spec.ports: {"port":80}: must be a list, not an object"#]),
        ("ports: [{port: '80'}]".to_owned(), &[r#"spec.ports[0].port: "80": must be an integer, not string"#]),
    ];
    for (spec, expected) in table {
        let expected: Vec<String> =
            expected.iter().map(|text| format!("a.yaml: Service dev/web: {text}")).collect();
        assert_eq!(problems("a.yaml", &service_text(spec)), expected, "{spec}");
    }
    let dotted = service_text(port).replace("name: web", "name: a.b");
    assert_eq!(
        problems("a.yaml", &dotted),
        [
            "a.yaml: Service dev/a.b: metadata.name: \"a.b\": must be at most 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit"
        ]
    );
    let status = "{apiVersion: v1, kind: Service, metadata: {namespace: dev, name: web}, spec: {ports: [{port: 80}]}, \
                  status: {loadBalancer: {ingress: [{ip: x}, {ip: 203.0.113.1, ipMode: DSR}]}}}";
    assert_eq!(
        problems("a.yaml", status),
        [
            r#"a.yaml: Service dev/web: status.loadBalancer.ingress[0].ip: "x": must be an IP address"#,
            r#"a.yaml: Service dev/web: status.loadBalancer.ingress[1].ipMode: "DSR": must be VIP or Proxy"#,
        ]
    );
}

#[test]
fn what_no_api_server_stores_of_a_slice() {
    let many = |entry: &str, count: usize| vec![entry; count].join(", ");
    let table: &[(String, &[&str])] = &[
        ("ports: []".to_owned(), &["addressType: is required"]),
        ("addressType: ipv4".to_owned(), &[r#"addressType: "ipv4": must be IPv4, IPv6 or FQDN"#]),
        (
            "addressType: IPv4, endpoints: [{}, {addresses: []}, {addresses: [x]}, {addresses: ['fd00::1']}, {addresses: [10.0.0.1, 127.0.0.1]}]".to_owned(),
            &[
                "endpoints[0].addresses: is required: at least one address",
                "endpoints[1].addresses: is required: at least one address",
                r#"endpoints[2].addresses[0]: "x": must be an IPv4 address"#,
                r#"endpoints[3].addresses[0]: "fd00::1": must be an IPv4 address"#,
                r#"endpoints[4].addresses[1]: "127.0.0.1": must not be unspecified, loopback or link-local"#,
            ],
        ),
        (
            "addressType: IPv6, endpoints: [{addresses: [10.0.0.1]}, {addresses: ['::ffff:10.0.0.1']}, {addresses: ['ff02::1']}]".to_owned(),
            &[
                r#"endpoints[0].addresses[0]: "10.0.0.1": must be an IPv6 address"#,
                r#"endpoints[1].addresses[0]: "::ffff:10.0.0.1": must be an IPv6 address"#,
                r#"endpoints[2].addresses[0]: "ff02::1": must not be unspecified, loopback or link-local"#,
            ],
        ),
        (
            "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], nodeName: N, hints: {forZones: [{}, {name: '-'}], forNodes: [{name: N}]}}]".to_owned(),
            &[
                "endpoints[0].nodeName: \"N\": must be at most 253 characters of a-z, 0-9, '-' and '.', each part beginning and ending with a letter or digit",
                "endpoints[0].hints.forZones[0].name: is required",
                "endpoints[0].hints.forZones[1].name: \"-\": must be a label value: at most 63 characters of A-Z, a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit, or empty",
                "endpoints[0].hints.forNodes[0].name: \"N\": must be at most 253 characters of a-z, 0-9, '-' and '.', each part beginning and ending with a letter or digit",
            ],
        ),
        (
            "addressType: IPv4, ports: [{name: a, port: 1}, {name: a, port: 2}, {port: 70000, protocol: tcp}, {name: A}]".to_owned(),
            &[
                r#"ports[1].name: "a": is the name of another port already"#,
                r#"ports[2].protocol: "tcp": must be TCP, UDP or SCTP"#,
                "ports[2].port: 70000: must be a port number, 1 to 65535",
                "ports[3].name: \"A\": must be at most 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit",
            ],
        ),
        (
            format!("addressType: IPv4, endpoints: [{}]", many("{addresses: [10.0.0.1]}", 1001)),
            &["endpoints: 1001: are too many: 1000 may be in one slice"],
        ),
        (
            format!("addressType: IPv4, ports: [{}]", many("{}", 101)),
            &["ports: 101: are too many: 100 may be in one slice"],
        ),
        (
            format!("addressType: IPv4, endpoints: [{{addresses: [{}]}}]", many("10.0.0.1", 101)),
            &["endpoints[0].addresses: 101: are too many: 100 may be of one endpoint"],
        ),
        (
            format!("addressType: IPv4, endpoints: [{{addresses: [10.0.0.1], hints: {{forZones: [{}]}}}}]", many("{name: z}", 9)),
            &["endpoints[0].hints.forZones: 9: are too many: 8 may be of one endpoint"],
        ),
        (
            "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: yes}}]".to_owned(),
            &[r#"endpoints[0].conditions.ready: "yes": must be a boolean, not string"#],
        ),
    ];
    for (rest, expected) in table {
        let expected: Vec<String> =
            expected.iter().map(|text| format!("a.yaml: EndpointSlice dev/web-1: {text}")).collect();
        assert_eq!(problems("a.yaml", &slice_text(rest)), expected, "{rest}");
    }
    let label = slice_text("addressType: IPv4").replace("service-name: web", "service-name: we/b");
    let found = problems("a.yaml", &label);
    assert!(
        found[0].contains(r#"metadata.labels["kubernetes.io/service-name"]: "we/b": must be a label value"#),
        "{found:?}"
    );
    let old = slice_text("addressType: IPv4").replace("k8s.io/v1", "k8s.io/v1beta1");
    assert_eq!(
        problems("a.yaml", &old),
        [
            r#"a.yaml: EndpointSlice dev/web-1: apiVersion: "discovery.k8s.io/v1beta1": must be discovery.k8s.io/v1: this EndpointSlice is not read"#
        ]
    );
}

/// The bound is ours: one object could make more frontends than a node has memory for.
#[test]
fn a_service_with_too_many_frontends() {
    let ports: Vec<String> = (1..=4000).map(|n| format!("{{name: p{n}, port: {n}}}")).collect();
    let spec = |addresses: &str| {
        format!("clusterIP: 10.96.0.1, externalIPs: [{addresses}], ports: [{}]", ports.join(", "))
    };
    assert_eq!(the_service(&spec("1.0.0.1, 1.0.0.2, 1.0.0.3")).ports.len(), 4000);
    assert_eq!(
        problems("a.yaml", &service_text(&spec("1.0.0.1, 1.0.0.2, 1.0.0.3, 1.0.0.4"))),
        [
            "a.yaml: Service dev/web: spec.ports: 20000: addresses times ports are too many: 16384 may be of one Service"
        ]
    );
}

#[test]
fn what_is_broken_is_not_there_and_its_last_good_version_stays() {
    let service = service_text("clusterIP: 10.96.0.1, ports: [{port: 80}]");
    let slice = slice_text("addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.1]}]");
    let (bad_service, bad_slice) = (service.replace("port: 80", "port: 0"), slice.replace("10.0.0.1", "x"));
    let good_slice = slice.replace("web-1", "web-2").replace("10.0.0.1", "10.0.0.2");
    // Never whole: no frontends; no endpoints of it, whatever others there are.
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &bad_service), ("b.yaml", &slice)]);
    assert_eq!((behind(store.cluster()), store.problems().len()), (vec![], 1));
    update(&mut store, &[("a.yaml", &service), ("b.yaml", &bad_slice), ("c.yaml", &good_slice)]);
    assert_eq!(
        behind(store.cluster()),
        ["10.96.0.1:80 10.0.0.1:8080 10.0.0.2:8080"],
        "the last good version of b.yaml"
    );
    assert_eq!(store.problems().len(), 1);
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &service), ("b.yaml", &bad_slice), ("c.yaml", &good_slice)]);
    assert_eq!(behind(store.cluster()), ["10.96.0.1:80 10.0.0.2:8080"]);
    // Two that contradict each other are none; a file that goes takes its object with it.
    let other = service.replace("10.96.0.1", "10.96.0.2");
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &service), ("b.yaml", &other)]);
    assert_eq!((behind(store.cluster()), store.problems().len()), (vec![], 1));
    update(&mut store, &[("b.yaml", &other), ("c.yaml", &good_slice)]);
    assert_eq!(behind(store.cluster()), ["10.96.0.2:80 10.0.0.2:8080"]);
    assert!(update(&mut store, &[("b.yaml", &other)]).changed);
    assert_eq!(behind(store.cluster()), ["10.96.0.2:80 "]);
}

#[test]
fn lists_of_them() {
    let text = "{apiVersion: v1, kind: ServiceList, items: [{metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}]}\n---\n\
                {apiVersion: discovery.k8s.io/v1, kind: EndpointSliceList, items: [{addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.1]}], \
                 metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}}]}\n---\n{apiVersion: serving.knative.dev/v1, kind: ServiceList, items: [{}]}";
    assert_eq!(behind(&cluster(text)), ["10.96.0.1:80 10.0.0.1:8080"]);
}
