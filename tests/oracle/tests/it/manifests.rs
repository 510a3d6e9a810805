//! Manifests say what the cluster is, in YAML as in JSON.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::Value;
use sluice_oracle::{Cluster, random_cluster};

/// All objects of all files, by kind.
fn read_back(cluster: &Cluster) -> BTreeMap<String, Vec<Value>> {
    let mut objects: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, content) in cluster.to_manifests() {
        let documents: Vec<Value> = match name.ends_with(".json") {
            true => serde_json::from_str::<Value>(&content).unwrap()["items"].as_array().unwrap().clone(),
            false if content.is_empty() => Vec::new(),
            false => serde_saphyr::from_multiple(&content).unwrap(),
        };
        for document in documents {
            objects.entry(document["kind"].as_str().unwrap().to_owned()).or_default().push(document);
        }
    }
    objects
}

fn typed<T: serde::de::DeserializeOwned>(objects: &BTreeMap<String, Vec<Value>>, kind: &str) -> Vec<T> {
    let of_kind = objects.get(kind).cloned().unwrap_or_default();
    of_kind.into_iter().map(|object| serde_json::from_value(object).unwrap()).collect()
}

#[test]
fn manifests_lose_nothing() {
    for seed in 0..200 {
        let cluster = random_cluster(seed);
        let objects = read_back(&cluster);

        let namespaces: Vec<Namespace> = typed(&objects, "Namespace");
        assert_eq!(namespaces.len(), cluster.namespaces.len());
        for namespace in namespaces {
            let labels = &cluster.namespaces[namespace.metadata.name.as_ref().unwrap()];
            assert_eq!(&namespace.metadata.labels.unwrap_or_default(), labels);
        }

        let policies: Vec<NetworkPolicy> = typed(&objects, "NetworkPolicy");
        assert_eq!(policies.len(), cluster.policies.len());
        for (written, policy) in policies.iter().zip(&cluster.policies) {
            assert_eq!(written.metadata.namespace.as_ref(), Some(&policy.ns));
            assert_eq!(written.metadata.name.as_ref(), Some(&policy.name));
            assert_eq!(written.spec.as_ref(), Some(&policy.spec));
        }

        let nodes: Vec<Node> = typed(&objects, "Node");
        for (written, (name, node)) in nodes.iter().zip(&cluster.nodes) {
            assert_eq!(written.metadata.name.as_ref(), Some(name));
            let addresses = written.status.as_ref().unwrap().addresses.as_ref().unwrap();
            let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
            assert!(
                internal.map(|address| address.address.clone()).eq(node.ips.iter().map(ToString::to_string))
            );
        }

        let pods: Vec<Pod> = typed(&objects, "Pod");
        assert_eq!(pods.len(), cluster.pods.len());
        for (written, pod) in pods.iter().zip(&cluster.pods) {
            assert_eq!(written.metadata.namespace.as_ref(), Some(&pod.ns));
            assert_eq!(written.metadata.name.as_ref(), Some(&pod.name));
            assert_eq!(written.metadata.labels.clone().unwrap_or_default(), pod.labels);
            assert_eq!(written.metadata.deletion_timestamp.is_some(), pod.terminating);
            let (spec, status) = (written.spec.as_ref().unwrap(), written.status.as_ref().unwrap());
            assert_eq!(spec.node_name, pod.node);
            assert_eq!(spec.host_network.unwrap_or_default(), pod.host_network);
            assert_eq!(status.phase.as_deref(), Some(pod.phase.api_name()));
            let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
            let written_ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone());
            assert!(written_ips.eq(ips.iter().cloned()));
            assert_eq!(status.pod_ip.as_ref(), ips.first());

            let mut declared: Vec<(bool, Option<String>, String, i32)> = Vec::new();
            for (init, containers) in [(false, Some(&spec.containers)), (true, spec.init_containers.as_ref())]
            {
                for container in containers.into_iter().flatten() {
                    let ports = container.ports.iter().flatten();
                    let mut names: Vec<_> = ports.clone().filter_map(|port| port.name.as_ref()).collect();
                    declared.extend(ports.map(|port| {
                        let protocol = port.protocol.clone().unwrap_or("TCP".to_owned());
                        (init, port.name.clone(), protocol, port.container_port)
                    }));
                    names.sort();
                    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a name twice in a container");
                }
            }
            let mut wanted: Vec<_> = pod
                .ports
                .iter()
                .map(|port| (port.init, port.name.clone(), port.protocol.to_string(), i32::from(port.port)))
                .collect();
            declared.sort();
            wanted.sort();
            assert_eq!(declared, wanted);
        }
    }
}
