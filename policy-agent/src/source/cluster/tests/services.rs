//! Services and EndpointSlices as a server writes them, and what becomes of them in the store.

use super::super::decode::sighting;
use super::*;
use crate::model::Protocol;
use crate::model::services::{Frontend, Readiness, Vantage};

const SERVICE: &str = r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","namespace":"dev","uid":"u-1",
    "resourceVersion":"7","creationTimestamp":"2026-01-01T09:00:00Z","labels":{"app":"web"},"annotations":{"a":"b"},
    "ownerReferences":[{"kind":"X","name":"x"}],"finalizers":["service.kubernetes.io/load-balancer-cleanup"],
    "managedFields":[{"manager":"kubectl","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1",
    "fieldsV1":{"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}}}}}}]},
    "spec":{"ports":[{"name":"http","protocol":"TCP","port":80,"targetPort":"http","nodePort":30080}],
    "selector":{"app":"web"},"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1"],"type":"LoadBalancer",
    "sessionAffinity":"None","externalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack",
    "allocateLoadBalancerNodePorts":true,"internalTrafficPolicy":"Cluster","aFieldOfTomorrow":{"x":1}},
    "status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1","ipMode":"VIP"}]},"conditions":[]}}"#;

const SLICE: &str = r#"{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{"name":"web-x7k2p",
    "generateName":"web-","namespace":"dev","uid":"u-2","resourceVersion":"8","generation":3,
    "labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io",
    "kubernetes.io/service-name":"web"},"managedFields":[{"fieldsV1":{"f:endpoints":{}}}]},
    "addressType":"IPv4","endpoints":[{"addresses":["10.244.1.5"],"conditions":{"ready":true,"serving":true,
    "terminating":false},"targetRef":{"kind":"Pod","namespace":"dev","name":"web-1","uid":"p"},"nodeName":"n1",
    "zone":"z1","hints":{"forZones":[{"name":"z1"}]}}],"ports":[{"name":"http","protocol":"TCP","port":8080}]}"#;

fn behind(store: &LiveStore, at: &str) -> Option<Vec<String>> {
    let frontend = Frontend { address: address(at), port: 80, protocol: Protocol::Tcp };
    let target = store.cluster().services.target(&frontend, &Vantage::default())?;
    Some(target.backends.iter().map(|b| format!("{}:{}", b.address, b.port)).collect())
}

fn see(kind: Kind, json: &str) -> Event {
    Event::Apply(Box::new(sighting(kind, json).expect("an object")))
}

#[test]
fn full_objects() {
    let seen = sighting(Kind::Service, SERVICE).expect("a Service");
    assert_eq!((seen.key, seen.uid.as_str(), seen.problems.len()), (key(Kind::Service, "web"), "u-1", 0));
    let Ok(Object::Service(service)) = seen.content else { panic!("it is whole") };
    assert_eq!(service.load_balancer_ips, [address("203.0.113.1")]);
    assert_eq!(service.ports[0].node_port, Some(30_080));
    let seen = sighting(Kind::EndpointSlice, SLICE).expect("a slice");
    assert_eq!((seen.key, seen.version), (key(Kind::EndpointSlice, "web-x7k2p"), Version::Number(8)));
    let Ok(Object::EndpointSlice(slice)) = seen.content else { panic!("it is whole") };
    assert_eq!((slice.service.as_deref(), slice.v4), (Some("web"), true));
    let [endpoint] = &*slice.endpoints else { panic!("it has one endpoint") };
    assert_eq!((endpoint.readiness, endpoint.node.as_deref()), (Readiness::Ready, Some("n1")));
    assert_eq!(endpoint.hints.as_ref().map(|hints| hints.zones.len()), Some(1));
}

#[test]
fn they_come_change_and_go() {
    let mut store = LiveStore::default();
    assert!(store.apply([see(Kind::EndpointSlice, SLICE), see(Kind::Service, SERVICE)]).changed);
    assert_eq!(behind(&store, "10.96.0.1").expect("a frontend"), ["10.244.1.5:8080"]);
    assert_eq!(store.tracked().take_changes().services, [ObjectName::new("dev", "web")].into());
    // The same again, in a later version, is no change.
    let later = SLICE.replace(r#""resourceVersion":"8""#, r#""resourceVersion":"9""#);
    assert!(!store.apply([see(Kind::EndpointSlice, &later)]).changed);
    let draining = later.replace(r#""ready":true"#, r#""ready":false"#).replace(r#":"9""#, r#":"10""#);
    assert!(store.apply([see(Kind::EndpointSlice, &draining)]).changed);
    assert_eq!(behind(&store, "10.96.0.1"), Some(vec![]));
    assert_eq!(store.tracked().take_changes().services.len(), 1);
    // Lists that they are not in end them.
    store.apply([Event::Init(Kind::EndpointSlice), Event::InitDone(Kind::EndpointSlice)]);
    assert_eq!(store.cluster().services.slices().count(), 0);
    store.apply([delete(Kind::Service, "web", "u-1", 11)]);
    assert_eq!(behind(&store, "10.96.0.1"), None);
    assert!(store.cluster().services.is_empty());
}

#[test]
fn broken_ones_are_told_and_are_not_there() {
    let bad_service = SERVICE.replace(r#""port":80,"targetPort""#, r#""port":0,"targetPort""#);
    let bad_slice = SLICE.replace("10.244.1.5", "10.244.1.256");
    let mut store = LiveStore::default();
    let update = store.apply([see(Kind::Service, &bad_service), see(Kind::EndpointSlice, SLICE)]);
    let told: Vec<String> = update.new_problems.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["Service dev/web: spec.ports[0].port: 0: must be a port number, 1 to 65535"]);
    assert_eq!(behind(&store, "10.96.0.1"), None);
    // A slice that never was whole has no endpoints; of one that was, those that it had.
    let mut store = LiveStore::default();
    let update = store.apply([see(Kind::Service, SERVICE), see(Kind::EndpointSlice, &bad_slice)]);
    assert_eq!(update.new_problems.len(), 1);
    assert_eq!(behind(&store, "10.96.0.1"), Some(vec![]));
    store.apply([see(Kind::EndpointSlice, &SLICE.replace(r#":"8""#, r#":"9""#))]);
    store.apply([see(Kind::EndpointSlice, &bad_slice.replace(r#":"8""#, r#":"10""#))]);
    assert_eq!(behind(&store, "10.96.0.1").expect("a frontend"), ["10.244.1.5:8080"]);
    // Another object of the name has no good version yet.
    let stranger = bad_slice.replace("u-2", "u-3").replace(r#":"8""#, r#":"11""#);
    store.apply([see(Kind::EndpointSlice, &stranger)]);
    assert_eq!(behind(&store, "10.96.0.1"), Some(vec![]));
}
