//! A cluster that remembers what has changed in it, so that the stages behind need not look at everything.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Cluster, EndpointSlice, Intern, Labels, Node, ObjectName, Pod, Policy, Service};

/// What may differ from the cluster that was compiled last. More may be named than has changed, never less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nothing is known of what has changed.
    pub everything: bool,
    /// Pods that came, changed or went, broken ones too.
    pub pods: BTreeSet<ObjectName>,
    /// Addresses that those pods claim, or claimed before.
    pub addresses: BTreeSet<IpAddr>,
    pub namespaces: BTreeSet<String>,
    pub policies: BTreeSet<ObjectName>,
    pub nodes: BTreeSet<String>,
    /// Services whose frontends, or what is behind them, may differ. Of a frontend that goes from one Service to another,
    /// both are named. What a node's own address or zone changes is not in here: `nodes` names the node.
    pub services: BTreeSet<ObjectName>,
}

impl Changes {
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn note_pod(&mut self, name: &ObjectName, addresses: &[IpAddr]) {
        if self.everything {
            return;
        }
        if self.pods.len() >= MOST_NAMED {
            *self = Self::everything();
            return;
        }
        if !self.pods.contains(name) {
            self.pods.insert(name.clone());
        }
        self.addresses.extend(addresses);
    }

    fn note_service(&mut self, name: ObjectName) {
        if self.everything {
            return;
        }
        if self.services.len() >= MOST_NAMED && !self.services.contains(&name) {
            *self = Self::everything();
            return;
        }
        self.services.insert(name);
    }
}

/// Pods or Services that are named before it costs more than to look at everything: a first list names them all.
const MOST_NAMED: usize = 8192;

/// Every change goes through here; what is already so is no change.
#[derive(Clone, Debug, Default)]
pub struct Tracked {
    cluster: Cluster,
    changes: Changes,
    intern: Intern,
}

impl Tracked {
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub const fn changes(&self) -> &Changes {
        &self.changes
    }

    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Another cluster stands in for this one.
    pub fn replace(&mut self, cluster: Cluster) {
        if cluster != self.cluster {
            self.cluster = cluster;
            self.changes = Changes::everything();
        }
    }

    /// A whole pod; one that was broken is so no longer.
    pub fn insert_pod(&mut self, pod: Pod) {
        let mended = self.cluster.broken_pods.remove(&pod.id).is_some();
        if self.cluster.pods.get(&pod.id).is_some_and(|old| **old == pod) {
            if mended {
                self.changes.note_pod(&pod.id, &[]);
            }
            return;
        }
        self.changes.note_pod(&pod.id, &pod.addresses);
        if let Some(old) = self.cluster.pods.insert(self.intern.pod(pod)) {
            self.changes.note_pod(&old.id, &old.addresses);
        }
    }

    /// A pod that cannot be read, whole or not before: closed behind the interface that bears these addresses.
    pub fn insert_broken_pod(&mut self, name: ObjectName, addresses: Vec<IpAddr>) {
        self.forget_pod(&name);
        if self.cluster.broken_pods.get(&name) != Some(&addresses) {
            self.changes.note_pod(&name, &[]);
            self.cluster.broken_pods.insert(name, addresses);
        }
    }

    pub fn remove_pod(&mut self, name: &ObjectName) {
        self.forget_pod(name);
        if self.cluster.broken_pods.remove(name).is_some() {
            self.changes.note_pod(name, &[]);
        }
    }

    fn forget_pod(&mut self, name: &ObjectName) {
        if let Some(old) = self.cluster.pods.remove(name) {
            self.changes.note_pod(name, &old.addresses);
        }
    }

    pub fn insert_namespace(&mut self, name: String, labels: Labels) {
        if self.cluster.namespaces.get(&name) != Some(&labels) {
            self.changes.namespaces.insert(name.clone());
            self.cluster.namespaces.insert(name, labels);
        }
    }

    pub fn remove_namespace(&mut self, name: &str) {
        if self.cluster.namespaces.remove(name).is_some() {
            self.changes.namespaces.insert(name.to_owned());
        }
    }

    pub fn insert_policy(&mut self, policy: Policy) {
        if self.cluster.policies.get(&policy.id) != Some(&policy) {
            self.changes.policies.insert(policy.id.clone());
            self.cluster.policies.insert(policy.id.clone(), policy);
        }
    }

    pub fn remove_policy(&mut self, name: &ObjectName) {
        if self.cluster.policies.remove(name).is_some() {
            self.changes.policies.insert(name.clone());
        }
    }

    pub fn insert_node(&mut self, name: String, node: Node) {
        if self.cluster.nodes.get(&name) != Some(&node) {
            self.changes.nodes.insert(name.clone());
            self.cluster.nodes.insert(name, node);
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        if self.cluster.nodes.remove(name).is_some() {
            self.changes.nodes.insert(name.to_owned());
        }
    }

    pub fn insert_service(&mut self, service: Service) {
        if self.cluster.services.get(&service.id).is_some_and(|old| **old == service) {
            return;
        }
        self.forget_service(&service.id);
        self.note_service(&service);
        self.cluster.services.insert(service);
    }

    pub fn remove_service(&mut self, name: &ObjectName) {
        self.forget_service(name);
    }

    fn forget_service(&mut self, name: &ObjectName) {
        if let Some(old) = self.cluster.services.remove(name) {
            self.note_service(&old);
        }
    }

    /// Those that claim what it claims get its frontends when it goes, and may lose theirs when it comes.
    fn note_service(&mut self, service: &Service) {
        self.changes.note_service(service.id.clone());
        for rival in self.cluster.services.rivals(service) {
            self.changes.note_service(rival);
        }
    }

    pub fn insert_slice(&mut self, slice: EndpointSlice) {
        if self.cluster.services.slice(&slice.id).is_some_and(|old| **old == slice) {
            return;
        }
        self.note_slice(&slice);
        let slice = self.intern.slice(slice);
        if let Some(old) = self.cluster.services.insert_slice(slice) {
            self.note_slice(&old);
        }
    }

    pub fn remove_slice(&mut self, name: &ObjectName) {
        if let Some(old) = self.cluster.services.remove_slice(name) {
            self.note_slice(&old);
        }
    }

    fn note_slice(&mut self, slice: &EndpointSlice) {
        if let Some(service) = slice.service_name() {
            self.changes.note_service(service);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn too_many_changes_are_everything() {
        let pod = |n: usize| Pod {
            id: ObjectName::new("ns", n.to_string()),
            uid: String::new(),
            labels: Arc::default(),
            node: None,
            addresses: Vec::new(),
            host_network: false,
            finished: false,
            terminating: false,
            created: 0,
            ports: [].into(),
            sources: Vec::new(),
        };
        let mut tracked = Tracked::default();
        for n in 0..MOST_NAMED {
            tracked.insert_pod(pod(n));
        }
        assert_eq!(tracked.changes().pods.len(), MOST_NAMED);
        tracked.insert_pod(pod(MOST_NAMED));
        assert_eq!(tracked.take_changes(), Changes::everything());
        tracked.insert_pod(pod(MOST_NAMED + 1));
        assert_eq!(tracked.take_changes().pods.len(), 1);
    }

    #[test]
    fn too_many_services_are_everything_too() {
        let slice = |n: usize| EndpointSlice {
            id: ObjectName::new("ns", n.to_string()),
            service: Some(n.to_string()),
            v4: true,
            ports: [].into(),
            endpoints: [].into(),
        };
        let mut tracked = Tracked::default();
        for n in 0..MOST_NAMED {
            tracked.insert_slice(slice(n));
        }
        // What is named already is no more than there was.
        tracked.remove_slice(&ObjectName::new("ns", "0"));
        assert_eq!(tracked.changes().services.len(), MOST_NAMED);
        tracked.insert_slice(slice(MOST_NAMED));
        assert_eq!(tracked.take_changes(), Changes::everything());
    }
}
