//! Objects as a server writes them, in full.

use super::super::decode::{about, sighting};
use super::*;
use crate::model::{ContainerPort, Protocol};

/// A pod as a kubelet and a dozen controllers leave it.
const POD: &str = include_str!("pod.json");

#[test]
fn a_full_pod() {
    let seen = sighting(Kind::Pod, POD).expect("a pod");
    assert_eq!(seen.problems, []);
    assert_eq!(
        (seen.key, seen.uid.as_str()),
        (
            ObjectKey { kind: Kind::Pod, id: ObjectName::new("prod", "web-7d4b9c6f5-x2x9k") },
            "8f3c6a52-9d1e-4b7a-a0c3-5e2f1d4b6a98",
        )
    );
    assert_eq!(seen.version, Version::Number(48_213_377));
    let Ok(Object::Pod(pod)) = seen.content else { panic!("it is whole") };
    let port =
        |name: Option<&str>, protocol, port| ContainerPort { name: name.map(str::to_owned), protocol, port };
    let expected = Pod {
        id: ObjectName::new("prod", "web-7d4b9c6f5-x2x9k"),
        uid: "8f3c6a52-9d1e-4b7a-a0c3-5e2f1d4b6a98".to_owned(),
        labels: Arc::new(
            [("app", "web"), ("pod-template-hash", "7d4b9c6f5")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        ),
        node: Some("worker-3".into()),
        // Both families: `podIPs` is no camel case, and would be silently empty without its own name.
        addresses: vec![address("10.244.3.17"), address("fd00:10:244:3::11")],
        host_network: false,
        finished: false,
        terminating: true,
        created: 1_767_258_000,
        ports: [
            port(Some("http"), Protocol::Tcp, 8080),
            port(Some("dns"), Protocol::Udp, 53),
            port(Some("metrics"), Protocol::Tcp, 9090),
        ]
        .into(),
        sources: vec!["10.9.0.0/16".parse().expect("a network")],
    };
    assert_eq!(pod, expected);
}

#[test]
fn a_full_namespace_and_node() {
    let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"prod","uid":"u","resourceVersion":"7",
        "creationTimestamp":"2026-01-01T09:00:00Z","labels":{"kubernetes.io/metadata.name":"prod","team":"a"},
        "managedFields":[{"manager":"x","fieldsV1":{"f:metadata":{}}}]},"spec":{"finalizers":["kubernetes"]},
        "status":{"phase":"Active"}}"#;
    let seen = sighting(Kind::Namespace, namespace).expect("a namespace");
    let Ok(Object::Namespace(labels)) = seen.content else { panic!("it is whole") };
    assert_eq!(labels.get("team").map(String::as_str), Some("a"));
    let node = r#"{"metadata":{"name":"n.1","uid":"u","resourceVersion":"8"},"spec":{"podCIDR":"10.244.0.0/24"},
        "status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"},{"type":"Hostname","address":"n"}],
        "capacity":{"cpu":"4"},"images":[{"names":["a"],"sizeBytes":1}]}}"#;
    let seen = sighting(Kind::Node, node).expect("a node");
    assert_eq!(seen.content, Ok(Object::Node(vec![address("192.0.2.1")].into())));
}

#[test]
fn unknown_and_invalid_fields_of_a_policy_close_it_as_those_of_a_file_do() {
    let policy = |metadata: &str, spec: &str| {
        let text = format!(
            r#"{{"metadata":{{"name":"x","namespace":"dev","uid":"u","resourceVersion":"9"{metadata}}},"spec":{{"podSelector":{{}},{spec}}}}}"#
        );
        sighting(Kind::NetworkPolicy, &text).expect("a policy")
    };
    let good = policy("", r#""ingress":[{}]"#);
    assert!(matches!(good.content, Ok(Object::Policy(_))));
    let unknown = policy("", r#""ingress":[{"from":[{"serviceAccountSelector":{}}]}]"#);
    let Err(StandIn::Policy(stand_in)) = unknown.content else { panic!("it is closed") };
    assert_eq!(stand_in.ingress, Some(vec![]));
    assert_eq!(
        unknown.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            r#"NetworkPolicy dev/x: spec.ingress[0].from[0].serviceAccountSelector: {}: unknown field"#,
            r#"NetworkPolicy dev/x: spec.ingress[0].from[0]: {}: must have a podSelector, a namespaceSelector or an ipBlock"#,
        ]
    );
    // Metadata of a newer server is no rule of the policy's.
    let newer = policy(r#","shard":7,"managedFields":5"#, r#""ingress":[{}]"#);
    assert_eq!((newer.content.is_ok(), newer.problems), (true, vec![]));
}

#[test]
fn a_broken_pod_tells_its_fields() {
    let text = r#"{"metadata":{"name":"p","namespace":"dev","uid":"u","resourceVersion":"9",
        "annotations":{"sluice.dev/source-ranges":"10.0.0.0/33"}},"status":{"podIPs":[{"ip":"10.0.0.7"}]}}"#;
    let seen = sighting(Kind::Pod, text).expect("a pod");
    assert_eq!(seen.content, Err(StandIn::Pod(vec![address("10.0.0.7")])));
    let told = seen.problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        told,
        [
            r#"Pod dev/p: metadata.annotations["sluice.dev/source-ranges"]: "10.0.0.0/33": prefix length must be 0 to 32"#
        ]
    );
}

#[test]
fn what_is_no_object_is_the_servers_fault() {
    for text in [
        "",
        "null",
        "[]",
        "5",
        "{}",
        r#"{"metadata":{}}"#,
        r#"{"metadata":{"name":""}}"#,
        r#"{"metadata":{"name":"p"}}"#,
    ] {
        assert!(sighting(Kind::Pod, text).is_err(), "{text}");
        assert!(about(Kind::Pod, text).is_err(), "{text}");
    }
    // A list of fields is no object either.
    let text = r#"{"metadata":{"name":"p","namespace":"dev"},"spec":["n1",true]}"#;
    assert!(sighting(Kind::Pod, text).is_ok_and(|seen| seen.content.is_err()));
}

#[test]
fn versions() {
    let number = Version::parse("12");
    assert_eq!(number, Version::Number(12));
    assert!(number.is_older_than(&Version::Number(13)) && !number.is_older_than(&number));
    for opaque in ["", "012", "a", "-1", "99999999999999999999"] {
        let version = Version::parse(opaque);
        assert_eq!(version.to_string(), opaque);
        assert!(!version.is_older_than(&number) && !number.is_older_than(&version));
    }
}
