//! All pods, by name and by address.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{AddressMap, ObjectName, Pod};

/// Pods by name, with an index of the addresses that live ones claim.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    by_name: BTreeSet<ByName>,
    by_address: AddressMap<Claims>,
    /// Addresses that several live pods claim.
    shared: BTreeSet<IpAddr>,
}

/// A pod in the order of names: the name is in the pod and nowhere else.
#[derive(Clone, Debug)]
struct ByName(Arc<Pod>);

impl Borrow<ObjectName> for ByName {
    fn borrow(&self) -> &ObjectName {
        &self.0.id
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ByName {}

#[derive(Clone, Debug)]
enum Claims {
    One(Arc<Pod>),
    Several(Box<[Arc<Pod>]>),
}

/// Whose an address is (SEMANTICS row 45).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// No live pod claims it.
    Nobody,
    Pod(&'a Arc<Pod>),
    /// Several live pods claim it, and nothing tells which of them has it.
    Contested,
}

impl Pods {
    /// Returns the pod that had the name before.
    pub fn insert(&mut self, pod: impl Into<Arc<Pod>>) -> Option<Arc<Pod>> {
        let pod = pod.into();
        let old = self.remove(&pod.id);
        if pod.is_selectable() {
            for address in &pod.addresses {
                self.claim(*address, &pod);
            }
        }
        self.by_name.insert(ByName(pod));
        old
    }

    pub fn remove(&mut self, name: &ObjectName) -> Option<Arc<Pod>> {
        let ByName(old) = self.by_name.take(name)?;
        for address in &old.addresses {
            self.disclaim(*address, &old);
        }
        Some(old)
    }

    pub fn get(&self, name: &ObjectName) -> Option<&Arc<Pod>> {
        self.by_name.get(name).map(|ByName(pod)| pod)
    }

    pub fn contains(&self, name: &ObjectName) -> bool {
        self.by_name.contains(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.by_name.iter().map(|ByName(pod)| &pod.id)
    }

    /// In the order of their names.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.by_name.iter().map(|ByName(pod)| pod)
    }

    /// The namespaces that have pods, in their order.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        let first = self.by_name.first().map(|ByName(pod)| pod.id.namespace.as_str());
        std::iter::successors(first, |last| {
            // No name is between a name and the same with a zero behind it.
            let after = ObjectName::new(format!("{last}\0"), "");
            self.by_name.range(after..).next().map(|ByName(pod)| pod.id.namespace.as_str())
        })
    }

    /// Those of a namespace, in the order of their names.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
        let from = self.by_name.range(ObjectName::new(namespace, "")..);
        from.map(|ByName(pod)| pod).take_while(move |pod| pod.id.namespace == namespace)
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The live pods that claim an address.
    pub fn claimants(&self, address: IpAddr) -> &[Arc<Pod>] {
        match self.by_address.get(address) {
            None => &[],
            Some(Claims::One(pod)) => std::slice::from_ref(pod),
            Some(Claims::Several(pods)) => pods,
        }
    }

    /// A network plugin gives an address to the next pod when the one before is gone from the node, which its object may
    /// tell later: among several, those that are being deleted do not count, and on one node the youngest has it.
    pub fn owner(&self, address: IpAddr) -> Owner<'_> {
        let claimants = self.claimants(address);
        if let [] | [_] = claimants {
            return claimants.first().map_or(Owner::Nobody, Owner::Pod);
        }
        let staying: Vec<&Arc<Pod>> = claimants.iter().filter(|pod| !pod.terminating).collect();
        let candidates: Vec<&Arc<Pod>> =
            if staying.is_empty() { claimants.iter().collect() } else { staying };
        let Some(youngest) = candidates.iter().max_by_key(|pod| pod.created) else { return Owner::Nobody };
        let beaten = |pod: &&Arc<Pod>| {
            pod.id == youngest.id
                || (pod.created < youngest.created && pod.node.is_some() && pod.node == youngest.node)
        };
        if candidates.iter().all(beaten) { Owner::Pod(youngest) } else { Owner::Contested }
    }

    /// The addresses that several live pods claim.
    pub fn shared_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.shared.iter().copied()
    }

    /// The addresses that live pods claim, in their order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys()
    }

    fn claim(&mut self, address: IpAddr, pod: &Arc<Pod>) {
        let claims = match self.by_address.remove(address) {
            None => Claims::One(Arc::clone(pod)),
            Some(Claims::One(first)) => Claims::Several([first, Arc::clone(pod)].into()),
            Some(Claims::Several(pods)) => {
                Claims::Several(pods.iter().chain(std::iter::once(pod)).cloned().collect())
            }
        };
        if matches!(claims, Claims::Several(_)) {
            self.shared.insert(address);
        }
        self.by_address.insert(address, claims);
    }

    fn disclaim(&mut self, address: IpAddr, pod: &Arc<Pod>) {
        let left: Vec<Arc<Pod>> =
            self.claimants(address).iter().filter(|other| other.id != pod.id).cloned().collect();
        let claims = match <[Arc<Pod>; 1]>::try_from(left) {
            Ok([last]) => Claims::One(last),
            Err(none) if none.is_empty() => {
                self.by_address.remove(address);
                self.shared.remove(&address);
                return;
            }
            Err(several) => Claims::Several(several.into()),
        };
        if matches!(claims, Claims::One(_)) {
            self.shared.remove(&address);
        }
        self.by_address.insert(address, claims);
    }
}

/// The indexes follow from the pods.
impl PartialEq for Pods {
    fn eq(&self, other: &Self) -> bool {
        self.values().eq(other.values())
    }
}

impl Eq for Pods {}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn pod(name: &str, node: &str, created: i64, terminating: bool) -> Pod {
        Pod {
            id: ObjectName::new("ns", name),
            uid: format!("{name}-{created}"),
            labels: Arc::default(),
            node: Some(node.into()),
            addresses: vec![ADDRESS],
            host_network: false,
            finished: false,
            terminating,
            created,
            ports: [].into(),
            sources: Vec::new(),
        }
    }

    fn owner(pods: &[Pod]) -> Option<String> {
        let mut all = Pods::default();
        for pod in pods {
            all.insert(pod.clone());
        }
        match all.owner(ADDRESS) {
            Owner::Pod(pod) => Some(pod.id.name.clone()),
            Owner::Nobody => None,
            Owner::Contested => Some("contested".to_owned()),
        }
    }

    #[test]
    fn an_address_is_the_youngest_pods_of_its_node_and_nobodys_where_nothing_tells() {
        let old = pod("old", "n", 1, false);
        let new = pod("new", "n", 2, false);
        assert_eq!(owner(&[]), None);
        assert_eq!(owner(std::slice::from_ref(&old)).as_deref(), Some("old"));
        assert_eq!(owner(&[old.clone(), new.clone()]).as_deref(), Some("new"));
        assert_eq!(owner(&[new.clone(), old.clone()]).as_deref(), Some("new"));
        let twin = pod("twin", "n", 2, false);
        assert_eq!(owner(&[new.clone(), twin]).as_deref(), Some("contested"));
        let elsewhere = pod("elsewhere", "m", 1, false);
        assert_eq!(owner(&[elsewhere, new.clone()]).as_deref(), Some("contested"));
        let leaving = pod("leaving", "m", 3, true);
        assert_eq!(owner(&[leaving.clone(), new]).as_deref(), Some("new"));
        assert_eq!(owner(&[leaving]).as_deref(), Some("leaving"));
        assert_eq!(owner(&[Pod { finished: true, ..old }]), None);
    }

    #[test]
    fn a_late_delete_never_removes_the_new_owner() {
        let mut pods = Pods::default();
        pods.insert(pod("old", "n", 1, true));
        pods.insert(pod("new", "n", 2, false));
        assert_eq!(pods.shared_addresses().collect::<Vec<_>>(), [ADDRESS]);
        pods.remove(&ObjectName::new("ns", "old"));
        assert!(matches!(pods.owner(ADDRESS), Owner::Pod(pod) if pod.id.name == "new"));
        assert_eq!(pods.shared_addresses().count(), 0);
        pods.remove(&ObjectName::new("ns", "new"));
        assert_eq!(pods.owner(ADDRESS), Owner::Nobody);
        assert_eq!(pods.addresses().count(), 0);
    }
}
