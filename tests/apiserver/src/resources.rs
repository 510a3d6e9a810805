//! What is served, and how it is discovered.

use serde_json::{Value, json};

#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    short_names: &'static [&'static str],
}

pub(crate) const RESOURCES: [Resource; 7] = [
    resource("", "namespaces", "Namespace", false, &["ns"]),
    resource("", "nodes", "Node", false, &["no"]),
    resource("", "pods", "Pod", true, &["po"]),
    resource("", "services", "Service", true, &["svc"]),
    resource("discovery.k8s.io", "endpointslices", "EndpointSlice", true, &[]),
    resource("networking.k8s.io", "networkpolicies", "NetworkPolicy", true, &["netpol"]),
    resource("events.k8s.io", "events", "Event", true, &["ev"]),
];

const fn resource(
    group: &'static str,
    name: &'static str,
    kind: &'static str,
    namespaced: bool,
    short_names: &'static [&'static str],
) -> Resource {
    Resource { group, name, kind, namespaced, short_names }
}

const VERBS: [&str; 6] = ["create", "delete", "get", "list", "update", "watch"];

impl Resource {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) }
    }

    /// By its plural; these are told apart without their groups.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| resource.name == name)
    }

    pub(crate) fn of_kind(kind: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| resource.kind == kind)
    }
}

/// The answer to a path of discovery.
pub(crate) fn discovery(segments: &[&str]) -> Option<Value> {
    let groups = ["discovery.k8s.io", "events.k8s.io", "networking.k8s.io"];
    match segments {
        ["version"] => Some(json!({
            "major": "1", "minor": "34", "gitVersion": "v1.34.0+sluice-double", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "linux/amd64",
        })),
        ["livez" | "readyz" | "healthz"] => Some(json!("ok")),
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["apis"] => {
            let groups: Vec<Value> = groups
                .iter()
                .map(|group| {
                    let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
                    json!({"name": group, "versions": [version], "preferredVersion": version})
                })
                .collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["api", "v1"] => Some(resources("", "v1")),
        ["apis", group, "v1"] if groups.contains(group) => Some(resources(group, &format!("{group}/v1"))),
        _ => None,
    }
}

fn resources(group: &str, version: &str) -> Value {
    let of_group = RESOURCES.iter().filter(|resource| resource.group == group);
    let list: Vec<Value> = of_group
        .map(|resource| {
            json!({
                "name": resource.name, "singularName": resource.kind.to_lowercase(), "namespaced": resource.namespaced,
                "kind": resource.kind, "verbs": VERBS, "shortNames": resource.short_names,
            })
        })
        .collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": list})
}
