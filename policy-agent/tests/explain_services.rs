//! `explain` of connections to Services: which endpoints, and what policies say of each.

use std::process::{Command, Stdio};

use policy_agent::explain::{
    Answer, Explainer, Outcome, QueryError, Question, ServiceExplanation, ServiceVerdict, parse_batch_line,
};
use policy_agent::source::{FolderRead, Store, read_text};
use serde_json::{Value, json};

/// The client is on n1. `web` has a pod on each node, which call their port by one name and number it differently;
/// `web-in` lets the client into the first alone.
const CLUSTER: &str = r#"
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: dev, name: client, labels: {app: client}},
 spec: {nodeName: n1, containers: [{name: c}]}, status: {phase: Running, podIPs: [{ip: 10.0.1.9}, {ip: "fd00:1::9"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: dev, name: client4, labels: {app: client}},
 spec: {nodeName: n2, containers: [{name: c}]}, status: {phase: Running, podIPs: [{ip: 10.0.2.9}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: dev, name: web-1, labels: {app: web}},
 spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]},
 status: {phase: Running, podIPs: [{ip: 10.0.1.1}, {ip: "fd00:1::1"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: dev, name: web-2, labels: {app: web}},
 spec: {nodeName: n2, containers: [{name: c, ports: [{name: http, containerPort: 8081}]}]},
 status: {phase: Running, podIPs: [{ip: 10.0.2.1}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: dev, name: web},
 spec: {type: LoadBalancer, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:96::1"], externalIPs: [198.51.100.1],
        loadBalancerSourceRanges: [10.0.2.0/24],
        ports: [{name: www, port: 80, nodePort: 30080, targetPort: http}, {name: dns, port: 53, protocol: UDP},
                {name: dns-tcp, port: 53, protocol: TCP}]},
 status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
 metadata: {namespace: dev, name: web-a, labels: {kubernetes.io/service-name: web}},
 ports: [{name: www, port: 8080}], endpoints: [{addresses: [10.0.1.1], nodeName: n1}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
 metadata: {namespace: dev, name: web-b, labels: {kubernetes.io/service-name: web}},
 ports: [{name: www, port: 8081}], endpoints: [{addresses: [10.0.2.1], nodeName: n2}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv6,
 metadata: {namespace: dev, name: web-c, labels: {kubernetes.io/service-name: web}},
 ports: [{name: www, port: 8080}], endpoints: [{addresses: ["fd00:1::1"], nodeName: n1}]}
---
{apiVersion: v1, kind: Service, metadata: {namespace: dev, name: local},
 spec: {clusterIP: 10.96.0.2, internalTrafficPolicy: Local, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
 metadata: {namespace: dev, name: local-a, labels: {kubernetes.io/service-name: local}},
 ports: [{port: 8080}], endpoints: [{addresses: [10.0.1.1], nodeName: n1}]}
---
{apiVersion: v1, kind: Service, metadata: {namespace: dev, name: api}, spec: {clusterIP: 10.96.0.3, ports: [{port: 443}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
 metadata: {namespace: dev, name: api-a, labels: {kubernetes.io/service-name: api}},
 ports: [{port: 6443}], endpoints: [{addresses: [192.0.2.2]}]}
---
{apiVersion: v1, kind: Service, metadata: {namespace: dev, name: headless}, spec: {clusterIP: None, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
 metadata: {namespace: dev, name: headless-a, labels: {kubernetes.io/service-name: headless}},
 ports: [{port: 80}], endpoints: [{addresses: [10.0.2.1], nodeName: n2}]}
---
{apiVersion: v1, kind: Service, metadata: {namespace: dev, name: away},
 spec: {type: ExternalName, externalName: example.org}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: dev, name: zzz}, spec: {clusterIP: 10.96.0.3, ports: [{port: 443}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: dev, name: six}, spec: {clusterIP: "fd00:96::6", ports: [{port: 80}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: dev, name: web-in},
 spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress],
        ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8080}]}]}}
"#;

fn explainer(more: &str) -> Explainer {
    let mut store = Store::default();
    let file = read_text("cluster.yaml", format!("{CLUSTER}---\n{more}").into_bytes());
    store.update(FolderRead { files: vec![file], problem: None });
    assert!(store.problems().is_empty(), "{:?}", store.problems());
    Explainer::new(store.cluster().clone()).expect("tables")
}

/// `to` is a Service, or an address with its port behind a blank.
fn ask(explainer: &Explainer, from: &str, to: &str) -> Result<Answer, QueryError> {
    let (to, port) = to.split_once(' ').map_or((to, None), |(to, port)| (to, Some(port)));
    let port = port.map(str::parse).transpose()?;
    explainer.answer(&Question::new(from.parse()?, to.parse()?, port)?)
}

fn service(explainer: &Explainer, from: &str, to: &str) -> ServiceExplanation {
    match ask(explainer, from, to) {
        Ok(Answer::Service(explanation)) => explanation,
        other => unreachable!("{from} {to}: {other:?}"),
    }
}

/// `address:port whose verdict` of each endpoint.
fn endpoints(explanation: &ServiceExplanation) -> Vec<String> {
    let words = |e: &policy_agent::explain::EndpointExplanation| {
        let whose = e.pod.as_ref().or(e.node.as_ref()).map_or("-", |name| name);
        format!("{} {} {whose} {:?}", e.address, e.port, e.verdict)
    };
    explanation.endpoints.iter().map(words).collect()
}

fn frontends(explanation: &ServiceExplanation) -> Vec<(String, ServiceVerdict)> {
    explanation
        .frontends
        .iter()
        .map(|f| (format!("{} {}/{}", f.address, f.port, f.protocol), f.verdict))
        .collect()
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: dev, name: {name}}}, spec: {{{spec}}}}}"
    )
}

const MIXED: [&str; 2] = ["10.0.1.1 8080 dev/web-1 Allow", "10.0.2.1 8081 dev/web-2 Deny"];

#[test]
fn each_endpoint_is_judged_at_its_own_port() {
    let explainer = explainer("");
    // 80 is in no policy: where an endpoint listens counts, and the two of `http` listen on different ports.
    for to in ["svc/dev/web:80", "svc/dev/web:www", "svc/dev/web:80/tcp"] {
        let found = service(&explainer, "dev/client4", to);
        assert_eq!(
            (found.verdict, endpoints(&found)),
            (ServiceVerdict::Mixed, MIXED.map(str::to_owned).to_vec())
        );
        assert_eq!(frontends(&found), [("10.96.0.1 80/TCP".to_owned(), ServiceVerdict::Mixed)]);
        assert_eq!((found.service.as_str(), found.node.as_deref()), ("dev/web", Some("n2")));
    }
    let found = service(&explainer, "dev/client4", "svc/dev/web:80");
    let [first, second] = found.endpoints.as_slice() else { panic!("{found:?}") };
    assert_eq!(first.ingress.rule.as_deref(), Some("ingress[0]"));
    assert_eq!(
        (second.egress.verdict, second.ingress.policy.as_deref()),
        (Outcome::Allow, Some("dev/web-in"))
    );
    assert!(second.ingress.reason.contains("none of them 8081/TCP"), "{second:?}");
}

#[test]
fn all_or_none_of_the_endpoints() {
    let open = explainer(&policy("open", "podSelector: {}, ingress: [{}]"));
    assert_eq!(service(&open, "dev/client4", "svc/dev/web:80").verdict, ServiceVerdict::Allow);
    // The Service's own port and address in an egress rule let nobody out.
    let spec = "podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], \
                egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16}}]}, {ports: [{port: 80}]}]";
    let closed = explainer(&policy("out", spec));
    let found = service(&closed, "dev/client4", "svc/dev/web:80");
    assert_eq!(found.verdict, ServiceVerdict::Deny);
    assert!(found.endpoints.iter().all(|e| e.egress.policy.as_deref() == Some("dev/out")), "{found:?}");
    // Nor does the client's node, unless the pod is its own.
    let found = service(&explainer(""), "node:n2", "svc/dev/web:80");
    assert_eq!(
        endpoints(&found),
        ["10.0.1.1 8080 dev/web-1 Deny".to_owned(), "10.0.2.1 8081 dev/web-2 Allow".to_owned()]
    );
    assert_eq!(service(&explainer(""), "198.18.0.1", "svc/dev/web:80").verdict, ServiceVerdict::Deny);
}

#[test]
fn every_family_that_both_have_is_answered() {
    let explainer = explainer("");
    let found = service(&explainer, "dev/client", "svc/dev/web:80");
    assert_eq!(
        frontends(&found),
        [
            ("10.96.0.1 80/TCP".to_owned(), ServiceVerdict::Mixed),
            ("fd00:96::1 80/TCP".to_owned(), ServiceVerdict::Allow)
        ]
    );
    assert_eq!(endpoints(&found)[2], "fd00:1::1 8080 dev/web-1 Allow");
    assert_eq!(found.verdict, ServiceVerdict::Mixed);
    let six = service(&explainer, "fd00:1::9", "svc/dev/web:80");
    assert_eq!((six.verdict, six.frontends.len()), (ServiceVerdict::Allow, 1));
    let error = ask(&explainer, "dev/client4", "svc/dev/six:80").unwrap_err().to_string();
    assert!(error.contains("dev/client4") && error.contains("Service dev/six"), "{error}");
}

#[test]
fn without_a_ready_endpoint_kube_proxy_answers() {
    let explainer = explainer("");
    let found = service(&explainer, "dev/client4", "svc/dev/web:dns");
    assert_eq!((found.verdict, found.endpoints.len()), (ServiceVerdict::NoEndpoint, 0));
    assert!(
        found.frontends[0].reason.as_ref().is_some_and(|r| r.contains("dev/web") && r.contains("rejects"))
    );
    // The client's node counts.
    assert_eq!(service(&explainer, "dev/client", "svc/dev/local:80").verdict, ServiceVerdict::Allow);
    let found = service(&explainer, "dev/client4", "svc/dev/local:80");
    assert_eq!(found.verdict, ServiceVerdict::NoEndpoint);
    assert!(found.frontends[0].reason.as_ref().is_some_and(|r| r.contains("n2") && r.contains("Local")));
    let outside = service(&explainer, "198.18.0.1", "svc/dev/local:80");
    assert_eq!((outside.node, outside.verdict), (None, ServiceVerdict::NoEndpoint));
}

#[test]
fn an_address_that_leads_to_a_service_is_answered_as_one() {
    let explainer = explainer("");
    for to in ["10.96.0.1 80", "198.51.100.1 80/TCP", "192.0.2.2 30080", "node:n2 30080"] {
        let found = service(&explainer, "dev/client4", to);
        assert_eq!(endpoints(&found), MIXED, "{to}");
    }
    // No frontend: another port or protocol, another node's port, an endpoint itself.
    for to in ["10.96.0.1 81", "10.96.0.1 80/UDP", "10.96.0.1 ICMP", "192.0.2.1 30080", "dev/web-1 8080"] {
        assert!(matches!(ask(&explainer, "dev/client4", to), Ok(Answer::Direct(_))), "{to}");
    }
    let api = service(&explainer, "dev/client4", "10.96.0.3 443");
    assert_eq!(
        (api.service.as_str(), endpoints(&api)),
        ("dev/api", vec!["192.0.2.2 6443 n2 Allow".to_owned()])
    );
}

#[test]
fn a_load_balancer_drops_whom_its_ranges_leave_out() {
    let explainer = explainer("");
    assert_eq!(service(&explainer, "dev/client4", "203.0.113.1 80").verdict, ServiceVerdict::Mixed);
    let found = service(&explainer, "dev/client", "203.0.113.1 80");
    assert_eq!((found.verdict, found.endpoints.len()), (ServiceVerdict::Deny, 0));
    let reason = found.frontends[0].reason.as_deref().unwrap_or_default();
    assert!(reason.contains("10.0.1.9") && reason.contains("10.0.2.0/24"), "{reason}");
}

#[test]
fn what_is_no_question_about_a_service_is_told_with_its_name() {
    let explainer = explainer("");
    for (to, words) in [
        ("svc/dev/nothing:80", &["Service dev/nothing"][..]),
        ("svc/dev/web:81", &["dev/web", "\"81\"", "80/TCP (www), 53/UDP (dns), 53/TCP (dns-tcp)"]),
        ("svc/dev/web:80/UDP", &["dev/web", "\"80\"/UDP"]),
        ("svc/dev/web:53", &["dev/web", "\"53\"", "53/UDP (dns), 53/TCP (dns-tcp)"]),
        ("svc/dev/headless:80", &["dev/headless", "no cluster IP", "dev/web-2 (10.0.2.1)"]),
        ("svc/dev/away:80", &["dev/away", "ExternalName"]),
        ("svc/dev/zzz:443", &["10.96.0.3:443/TCP", "dev/zzz", "dev/api"]),
        ("svc/dev/web:80 80/TCP", &["svc/dev/web:80", "append"]),
        ("svc/dev/web", &["svc/dev/web", "NAME:PORT"]),
        ("svc/dev/web:", &["NAME:PORT"]),
        ("svc//web:80", &["NAME:PORT"]),
        ("svc/dev/:80", &["NAME:PORT"]),
        ("svc/dev/web:80/SMTP", &["80/SMTP"]),
        ("svc/dev/web:80/TCP/x", &["80/TCP/x"]),
        ("dev/web-1", &["dev/web-1", "--port"]),
    ] {
        let error = ask(&explainer, "dev/client4", to).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{to}: {error}");
    }
    assert_eq!(service(&explainer, "dev/client4", "svc/dev/web:53/udp").frontends[0].protocol, "UDP");
    assert_eq!(service(&explainer, "dev/client4", "svc/dev/web:dns-tcp").frontends[0].protocol, "TCP");
    // A namespace may have that name.
    let error = ask(&explainer, "dev/client4", "svc/web 80").unwrap_err();
    assert!(error.to_string().contains("no pod svc/web"), "{error}");
    for line in [
        r#"{"from": "dev/client4", "to": "svc/dev/web:53", "protocol": "UDP"}"#,
        r#"{"from": "dev/client4", "to": "svc/dev/web:53", "port": 53}"#,
        r#"{"from": "dev/client4", "to": "10.96.0.1"}"#,
    ] {
        assert!(parse_batch_line(line).is_err(), "{line}");
    }
}

/// The program on a folder with the cluster: standard output, standard error, exit status.
fn run(arguments: &[&str], input: &str) -> (String, String, Option<i32>) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("cluster.yaml"), CLUSTER).expect("a file");
    // A small input fits into the pipe before anybody reads it.
    let mut child = Command::new(env!("CARGO_BIN_EXE_policy-agent"))
        .arg("explain")
        .arg("--manifests")
        .arg(folder.path())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut stdin = child.stdin.take().expect("its input");
    // Who asks wrongly is gone before it reads.
    let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("its output");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn the_program_prints_a_verdict_for_each_endpoint() {
    let (out, err, code) = run(&["--from", "dev/client4", "--to", "svc/dev/web:80"], "");
    assert_eq!((err.as_str(), code), ("", Some(0)));
    let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
    assert_eq!(
        lines,
        [
            "depends on the endpoint",
            "  10.96.0.1:80/TCP is Service dev/web, seen from node n2",
            "  allow  10.0.1.1:8080 (dev/web-1)",
            "    egress   allow  no policy isolates dev/client4 for egress",
            "    ingress  allow  dev/web-in allows it: rule ingress[0] matches dev/client4 (10.0.2.9) on 8080/TCP",
            "  deny   10.0.2.1:8081 (dev/web-2)",
            "    egress   allow  no policy isolates dev/client4 for egress",
            "    ingress  deny   no rule allows ingress of dev/web-2: isolated by dev/web-in; rules name dev/client4 \
             (10.0.2.9), but none of them 8081/TCP",
        ]
    );
    let (out, _, code) =
        run(&["--from", "dev/client4", "--to", "192.0.2.2", "--port", "30080", "-o", "json"], "");
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&answer["verdict"], &answer["service"], &answer["node"]),
        (&json!("mixed"), &json!("dev/web"), &json!("n2"))
    );
    let frontend =
        json!({"address": "192.0.2.2", "port": 30080, "protocol": "TCP", "verdict": "mixed", "reason": null});
    assert_eq!(answer["frontends"], json!([frontend]));
    assert_eq!(answer["endpoints"][1]["pod"], "dev/web-2");
    let (out, _, code_of_none) = run(&["--from", "dev/client4", "--to", "svc/dev/web:dns"], "");
    assert_eq!((out.lines().next(), code, code_of_none), (Some("no endpoint"), Some(0), Some(0)));
}

#[test]
fn the_program_answers_a_batch_of_services_and_fails_as_before() {
    let lines = [
        r#"{"from": "dev/client4", "to": "svc/dev/web:80"}"#,
        r#"{"from": "dev/client4", "to": "10.96.0.3", "port": 443}"#,
        r#"{"from": "dev/client4", "to": "dev/web-1", "port": 8080}"#,
        r#"{"from": "dev/client4", "to": "svc/dev/web:53"}"#,
    ];
    let (out, _, code) = run(&["--batch"], &lines.join("\n"));
    let answers: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), lines.len());
    assert_eq!(
        (&answers[0]["verdict"], &answers[0]["endpoints"][0]["port"]),
        (&json!("mixed"), &json!(8080))
    );
    assert_eq!(
        (&answers[1]["service"], &answers[1]["endpoints"][0]["node"]),
        (&json!("dev/api"), &json!("n2"))
    );
    assert_eq!((&answers[2]["verdict"], answers[2].get("endpoints")), (&json!("allow"), None));
    assert!(answers[3]["error"].as_str().is_some_and(|e| e.contains("53/UDP (dns)")));
    assert_eq!(code, Some(1));
    for (arguments, word, status) in [
        (&["--from", "dev/client4", "--to", "dev/web-1"][..], "--port", 2),
        (&["--from", "dev/client4", "--to", "svc/dev/web:80", "--port", "80"], "svc/dev/web:80", 2),
        (&["--from", "dev/client4", "--to", "svc/dev/web"], "--to", 2),
        (&["--from", "dev/client4", "--to", "svc/dev/none:80"], "dev/none", 1),
    ] {
        let (out, err, code) = run(arguments, "");
        assert!(
            out.is_empty() && err.contains(word) && code == Some(status),
            "{arguments:?}: {out} {err} {code:?}"
        );
    }
}
