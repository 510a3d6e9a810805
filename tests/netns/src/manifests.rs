//! A folder of manifests that describes a world.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

use crate::world::{Node, Pod, World};

/// A temporary folder of manifests. A file appears in it complete or not at all.
#[derive(Debug)]
pub struct Manifests {
    folder: TempDir,
}

impl Manifests {
    /// An empty folder.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sluice-manifests-").tempdir();
        Ok(Self { folder: folder.context("making a folder for manifests")? })
    }

    /// A folder with the nodes, namespaces and pods of `world`.
    pub fn of(world: &World) -> Result<Self> {
        let manifests = Self::new()?;
        for node in world.nodes() {
            manifests.node(node)?;
        }
        for (name, labels) in world.namespaces() {
            let labels: Vec<_> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            manifests.namespace(name, &labels)?;
        }
        for pod in world.pods() {
            manifests.pod(pod)?;
        }
        Ok(manifests)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes any text, policies above all, as `file`, in place of what it held.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        // Hidden and without an extension until it is complete, as editors and ConfigMap volumes do it.
        let write = || -> Result<()> {
            let unfinished = NamedTempFile::with_prefix_in(".unfinished-", self.path())?;
            fs::write(unfinished.path(), text)?;
            unfinished.persist(self.path().join(file))?;
            Ok(())
        };
        write().with_context(|| format!("writing the manifest {file}"))
    }

    /// Removes `file`.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.path().join(file)).with_context(|| format!("removing the manifest {file}"))
    }

    /// Writes a Namespace.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let mut all = json!({ "kubernetes.io/metadata.name": name });
        for (key, value) in labels {
            all[*key] = json!(value);
        }
        let object = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": all },
            "status": { "phase": "Active" },
        });
        self.object(&format!("namespace-{name}.json"), &object)
    }

    /// Writes a Node.
    pub fn node(&self, node: &Node) -> Result<()> {
        let [ipv4, ipv6] = node.addresses();
        let (cidr4, cidr6) = node.cidrs();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": node.name(), "labels": { "kubernetes.io/hostname": node.name() } },
            "spec": { "podCIDR": cidr4.to_string(), "podCIDRs": [cidr4.to_string(), cidr6.to_string()] },
            "status": { "addresses": [
                { "type": "InternalIP", "address": ipv4 },
                { "type": "InternalIP", "address": ipv6 },
                { "type": "Hostname", "address": node.name() },
            ] },
        });
        self.object(&format!("node-{}.json", node.name()), &object)
    }

    /// Writes a Pod as it is when it runs.
    pub fn pod(&self, pod: &Pod) -> Result<()> {
        let ports: Vec<Value> = pod
            .ports
            .iter()
            .map(|port| {
                let mut object = json!({ "containerPort": port.port, "protocol": port.protocol });
                if let Some(name) = &port.name {
                    object["name"] = json!(name);
                }
                object
            })
            .collect();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": pod.namespace, "name": pod.name, "uid": pod.uid, "labels": pod.labels,
            },
            "spec": {
                "nodeName": pod.node,
                "containers": [{ "name": "main", "image": "example.org/main:1", "ports": ports }],
            },
            "status": {
                "phase": "Running",
                "podIP": pod.ipv4,
                "podIPs": [{ "ip": pod.ipv4 }, { "ip": pod.ipv6 }],
            },
        });
        self.object(&pod_file(pod), &object)
    }

    /// Removes the Pod's manifest.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        self.remove(&pod_file(pod))
    }

    fn object(&self, file: &str, object: &Value) -> Result<()> {
        self.write(file, &format!("{object:#}\n"))
    }
}

fn pod_file(pod: &Pod) -> String {
    format!("pod-{}-{}.json", pod.namespace, pod.name)
}
