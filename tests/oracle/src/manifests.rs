//! A cluster as Kubernetes manifests, in the spellings that hand-written and dumped ones have.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::model::{Cluster, ContainerPort, Labels, Node, Pod, Policy, Protocol};

impl Cluster {
    /// Every object as a manifest of its own, under a name that no other object has: `policy-NAMESPACE.NAME`, and so on
    /// for namespaces, nodes and pods.
    pub fn to_objects(&self) -> BTreeMap<String, Value> {
        let namespaces = self
            .namespaces
            .iter()
            .map(|(name, labels)| (format!("namespace-{name}"), namespace_manifest(name, labels)));
        let nodes = self.nodes.iter().map(|(name, node)| (format!("node-{name}"), node_manifest(name, node)));
        let pods = self.pods.iter().enumerate().map(|(index, pod)| {
            // A namespace's name has no dot: the first one ends it.
            (format!("pod-{}.{}", pod.ns, pod.name), pod_manifest(index, pod))
        });
        let policies = self
            .policies
            .iter()
            .map(|policy| (format!("policy-{}.{}", policy.ns, policy.name), policy_manifest(policy)));
        namespaces.chain(nodes).chain(pods).chain(policies).collect()
    }

    /// The cluster as files of a manifest folder: (file name, content). JSON lists and YAML streams alternate, so
    /// that a reader of the folder meets both. A namespace that only pods or policies name gets no manifest.
    pub fn to_manifests(&self) -> Vec<(String, String)> {
        let namespaces: Vec<Value> =
            self.namespaces.iter().map(|(name, labels)| namespace_manifest(name, labels)).collect();
        let nodes: Vec<Value> = self.nodes.iter().map(|(name, node)| node_manifest(name, node)).collect();
        let pods: Vec<Value> =
            self.pods.iter().enumerate().map(|(index, pod)| pod_manifest(index, pod)).collect();
        let policies: Vec<Value> = self.policies.iter().map(policy_manifest).collect();
        let (listed, streamed) = policies.split_at(policies.len() / 2);
        let files = [
            ("10-namespaces.yaml", yaml_stream(&namespaces)),
            ("20-nodes.json", json_list(&nodes)),
            ("30-pods.json", json_list(&pods)),
            ("40-policies.json", json_list(listed)),
            ("50-policies.yaml", yaml_stream(streamed)),
        ];
        files.into_iter().map(|(name, content)| (name.to_owned(), content)).collect()
    }
}

fn json_list(items: &[Value]) -> String {
    format!("{:#}\n", json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}))
}

/// An empty stream is an empty file. JSON is YAML, so a document that the emitter refuses goes out as JSON.
fn yaml_stream(items: &[Value]) -> String {
    let mut stream = String::new();
    for item in items {
        stream.push_str("---\n");
        match serde_saphyr::to_string(item) {
            Ok(document) => stream.push_str(&document),
            Err(_) => stream.push_str(&item.to_string()),
        }
        if !stream.ends_with('\n') {
            stream.push('\n');
        }
    }
    stream
}

fn namespace_manifest(name: &str, labels: &Labels) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn node_manifest(name: &str, node: &Node) -> Value {
    let mut addresses = vec![json!({"type": "Hostname", "address": name})];
    for ip in &node.ips {
        addresses.push(json!({"type": "InternalIP", "address": ip}));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": node.labels},
        "status": {"addresses": addresses},
    })
}

fn pod_manifest(index: usize, pod: &Pod) -> Value {
    let mut metadata = json!({
        "namespace": pod.ns,
        "name": pod.name,
        "labels": pod.labels,
        "uid": format!("00000000-0000-4000-8000-{index:012x}"),
    });
    if pod.terminating {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    let mut spec = json!({"containers": containers(pod, false)});
    let sidecars = containers(pod, true);
    if !sidecars.is_empty() {
        spec["initContainers"] = json!(sidecars);
    }
    if let Some(node) = &pod.node {
        spec["nodeName"] = json!(node);
    }
    if pod.host_network {
        spec["hostNetwork"] = json!(true);
    }
    let mut status = json!({"phase": pod.phase.api_name()});
    if let Some(first) = pod.ips.first() {
        status["podIP"] = json!(first);
        status["podIPs"] = pod.ips.iter().map(|ip| json!({"ip": ip})).collect();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
}

/// Port names are unique in one container only: a repeated name goes to the next container.
fn containers(pod: &Pod, init: bool) -> Vec<Value> {
    let mut groups: Vec<(BTreeSet<&str>, Vec<Value>)> = Vec::new();
    if !init {
        groups.push(Default::default());
    }
    for port in pod.ports.iter().filter(|port| port.init == init) {
        let manifest = port_manifest(port);
        let name = port.name.as_deref();
        match groups.iter_mut().find(|(names, _)| name.is_none_or(|name| !names.contains(name))) {
            Some((names, ports)) => {
                names.extend(name);
                ports.push(manifest);
            }
            None => groups.push((name.into_iter().collect(), vec![manifest])),
        }
    }
    let mut containers = Vec::new();
    for (index, (_, ports)) in groups.into_iter().enumerate() {
        let kind = if init { "sidecar" } else { "main" };
        let mut container = json!({"name": format!("{kind}-{index}"), "image": "example.org/serve:1"});
        if init {
            container["restartPolicy"] = json!("Always");
        }
        if !ports.is_empty() {
            container["ports"] = json!(ports);
        }
        containers.push(container);
    }
    containers
}

/// TCP is the default and left out where the port number is even: readers must supply it.
fn port_manifest(port: &ContainerPort) -> Value {
    let mut manifest = json!({"containerPort": port.port});
    if let Some(name) = &port.name {
        manifest["name"] = json!(name);
    }
    if port.protocol != Protocol::Tcp || port.port % 2 == 1 {
        manifest["protocol"] = json!(port.protocol.api_name());
    }
    manifest
}

fn policy_manifest(policy: &Policy) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": policy.ns, "name": policy.name},
        "spec": policy.spec,
    })
}
