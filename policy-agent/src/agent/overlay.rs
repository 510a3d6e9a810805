//! What is known of this node's pods before the API server tells it: addresses that the network plugin gave them, and
//! interfaces that no pod explains.
//!
//! A pod's object has no address until the kubelet reports one, after its network was made. The CNI plugin tells the
//! agent before any container starts (SEMANTICS row 42).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::cni::protocol::{Attachment, AttachmentId};
use crate::endpoints::Scan;
use crate::model::{Cluster, ObjectName, Pod, Tracked};

#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// With their order: the last one that names a pod counts.
    announced: BTreeMap<AttachmentId, (u64, Attachment)>,
    order: u64,
    /// Broken pods that stand for announced pods without an object, and for strangers.
    stand_ins: BTreeSet<ObjectName>,
    /// Announced pods that are let through unenforced while their objects are missing.
    open: BTreeSet<AttachmentId>,
}

impl Overlay {
    pub(super) fn announce(&mut self, attachment: Attachment) {
        self.order += 1;
        self.announced.insert(id(&attachment), (self.order, attachment));
    }

    pub(super) fn forget(&mut self, key: &AttachmentId) {
        self.announced.remove(key);
        self.open.remove(key);
    }

    /// Keeps those only.
    pub(super) fn retain(&mut self, valid: &BTreeSet<AttachmentId>) {
        self.announced.retain(|key, _| valid.contains(key));
        self.open.retain(|key| valid.contains(key));
    }

    /// Stops to enforce on a pod that has no object.
    pub(super) fn open(&mut self, key: AttachmentId) {
        self.open.insert(key);
    }

    pub(super) fn is_open(&self, id: &AttachmentId) -> bool {
        self.open.contains(id)
    }

    /// What an announced pod without an object is called: its name may be the one's before.
    pub(super) fn stand_in(name: &ObjectName, cluster: &Cluster) -> ObjectName {
        match cluster.pods.contains(name) {
            true => ObjectName::new(name.namespace.clone(), format!("<{}>", name.name)),
            false => name.clone(),
        }
    }

    /// Writes what is announced into the cluster, where its objects do not say it themselves.
    pub(super) fn apply(&mut self, tracked: &mut Tracked, strangers: BTreeMap<ObjectName, Vec<IpAddr>>) {
        self.announced.retain(|_, (_, attachment)| attachment.netns.exists());
        self.open.retain(|key| self.announced.contains_key(key));
        let announced =
            |address: &IpAddr| self.announced.values().any(|(_, a)| a.addresses.contains(address));
        let mut wanted = strangers;
        wanted.retain(|_, addresses| !addresses.iter().any(announced));
        let mut given = Vec::new();
        for (name, (id, attachment)) in self.latest() {
            match tracked.cluster().pods.get(&name) {
                Some(pod) if is_same(pod, attachment) => {
                    if pod.addresses.is_empty() && !pod.host_network && !pod.finished {
                        given.push((Arc::clone(pod), attachment.addresses.clone()));
                    }
                }
                // No object yet, or only that of the pod which had the name before.
                _ if self.open.contains(id) => {}
                _ => {
                    wanted.insert(Self::stand_in(&name, tracked.cluster()), attachment.addresses.clone());
                }
            }
        }
        for (pod, addresses) in given {
            tracked.insert_pod(Pod { addresses, ..Pod::clone(&pod) });
        }
        for gone in self.stand_ins.iter().filter(|name| !wanted.contains_key(*name)) {
            if !tracked.cluster().pods.contains(gone) {
                tracked.remove_pod(gone);
            }
        }
        self.stand_ins.clear();
        for (name, addresses) in wanted {
            // A broken pod that the source knows has its own stand-in; with the address it is found sooner.
            self.stand_ins.insert(name.clone());
            tracked.insert_broken_pod(name, addresses);
        }
    }

    /// Of several sandboxes of one pod, the one that came last.
    fn latest(&self) -> BTreeMap<ObjectName, (&AttachmentId, &Attachment)> {
        let mut all: Vec<_> = self.announced.iter().collect();
        all.sort_by_key(|(_, (order, _))| *order);
        all.into_iter().map(|(id, (_, it))| (it.pod.clone().into(), (id, it))).collect()
    }
}

pub(super) fn id(attachment: &Attachment) -> AttachmentId {
    AttachmentId { container_id: attachment.container_id.clone(), ifname: attachment.ifname.clone() }
}

/// Whether an object is that of the announced pod: names come again.
pub(super) fn is_same(pod: &Pod, attachment: &Attachment) -> bool {
    attachment.uid.as_ref().is_none_or(|uid| pod.uid.is_empty() || *uid == pod.uid)
}

/// Pod interfaces of this node that no object and no announcement explains, as pods that are closed.
pub(super) fn strangers(cluster: &Cluster, scan: &Scan) -> BTreeMap<ObjectName, Vec<IpAddr>> {
    let known: BTreeSet<IpAddr> = cluster
        .broken_pods
        .iter()
        .filter(|(name, _)| !name.namespace.is_empty())
        .flat_map(|(_, addresses)| addresses.iter().copied())
        .collect();
    let mut by_interface: BTreeMap<u32, (ObjectName, Vec<IpAddr>)> = BTreeMap::new();
    let mut explained = BTreeSet::new();
    for interface in scan.interfaces.values() {
        if known.contains(&interface.address) || !cluster.pods.claimants(interface.address).is_empty() {
            explained.insert(interface.ifindex);
        }
        let name = || ObjectName::new("", format!("<{}>", interface.netns));
        by_interface
            .entry(interface.ifindex)
            .or_insert_with(|| (name(), Vec::new()))
            .1
            .push(interface.address);
    }
    by_interface.retain(|ifindex, _| !explained.contains(ifindex));
    by_interface.into_values().collect()
}
