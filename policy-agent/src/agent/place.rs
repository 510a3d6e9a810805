//! Which interface is whose. A pod keeps the interface that it was found on for as long as both are there: it could
//! otherwise shed its enforcement by changing its addresses, or another pod could shed it by claiming them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::compile::Compiled;
use crate::endpoints::{Interface, Scan, interface_index};
use crate::model::{Cluster, ObjectName};

/// Where an endpoint's interface is.
#[derive(Debug)]
pub(super) enum Found {
    Interface(Interface),
    /// Its addresses are not where they were; the interface still is.
    Lost(Interface),
    Nowhere,
    /// Its addresses are behind different interfaces, or another pod claims its interface.
    Several,
}

impl Found {
    pub(super) const fn interface(&self) -> Option<&Interface> {
        match self {
            Self::Interface(interface) | Self::Lost(interface) => Some(interface),
            Self::Nowhere | Self::Several => None,
        }
    }
}

/// What to do with an interface that carries our programs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Wanted,
    Detach,
    /// Nothing says whose it is, and something could not be read, or some pod's interface is missing: it may be that
    /// pod's. What was enforced stays enforced.
    AsItIs,
}

#[derive(Debug, Default)]
pub(super) struct Places {
    /// With the UID of the pod: the next one of the same name has an interface of its own.
    known: BTreeMap<ObjectName, (String, Interface)>,
    /// Interfaces that were some pod's in this agent's time, with its name and UID.
    owned: BTreeMap<u32, (ObjectName, String)>,
}

impl Places {
    pub(super) fn find(
        &self,
        cluster: &Cluster,
        compiled: &Compiled,
        scan: &Scan,
        errors: &mut Vec<String>,
    ) -> BTreeMap<ObjectName, Found> {
        let mut found = BTreeMap::new();
        let mut taken: BTreeMap<u32, ObjectName> = BTreeMap::new();
        for name in compiled.endpoints.keys() {
            let Some(addresses) = addresses(cluster, name) else { continue };
            let uid = cluster.pods.get(name).map(|pod| pod.uid.as_str());
            let place = self.place((name, uid), addresses, scan, errors);
            if matches!(place, Found::Nowhere) && cluster.broken_pods.contains_key(name) {
                // It may be another node's, and nobody waits for it: its problem is told as the object's.
                continue;
            }
            let place = match place.interface().map(|i| (i.ifindex, taken.get(&i.ifindex))) {
                // Two pods claim one interface, so they claim one address: the compiler has closed both.
                Some((_, Some(other))) => {
                    errors.push(format!("pods {other} and {name} both claim one interface"));
                    Found::Several
                }
                Some((ifindex, None)) => {
                    taken.insert(ifindex, name.clone());
                    place
                }
                None => place,
            };
            found.insert(name.clone(), place);
        }
        found
    }

    fn place(
        &self,
        (name, uid): (&ObjectName, Option<&str>),
        addresses: &[IpAddr],
        scan: &Scan,
        errors: &mut Vec<String>,
    ) -> Found {
        let mut interfaces = addresses.iter().filter_map(|address| scan.interfaces.get(address));
        let same = |(known, _): &&(String, Interface)| uid.is_none_or(|uid| *known == uid);
        let known = self.known.get(name).filter(same).map(|(_, interface)| interface);
        let known = known.filter(|i| interface_index(&i.name) == Some(i.ifindex));
        let (lost, why) = match interfaces.next() {
            None => (Found::Nowhere, "no longer bears the pod's addresses alone"),
            Some(first) if interfaces.all(|other| other.ifindex == first.ifindex) => {
                return Found::Interface(first.clone());
            }
            Some(_) => (Found::Several, "is not the only one that bears the pod's addresses"),
        };
        match known {
            Some(interface) => {
                errors.push(format!(
                    "pod {name}: its interface {} {why}: it stays closed to others",
                    interface.name
                ));
                Found::Lost(interface.clone())
            }
            None => {
                if matches!(lost, Found::Several) {
                    errors.push(format!("pod {name}: its addresses are behind different interfaces"));
                }
                lost
            }
        }
    }

    /// Whether an interface was another pod's before: names and indexes come again, and what hung on the one before went
    /// with it.
    pub(super) fn has_changed_hands(&self, ifindex: u32, pod: &ObjectName, uid: Option<&str>) -> bool {
        self.owned
            .get(&ifindex)
            .is_some_and(|(name, known)| name != pod || uid.is_some_and(|uid| uid != known))
    }

    pub(super) fn leave(
        &self,
        ifindex: u32,
        name: &str,
        found: &BTreeMap<ObjectName, Found>,
        all_known: bool,
    ) -> Leave {
        if found.values().any(|f| f.interface().is_some_and(|i| i.ifindex == ifindex)) {
            return Leave::Wanted;
        }
        let there = interface_index(name) == Some(ifindex);
        let some_missing = found.values().any(|f| f.interface().is_none());
        if there && !self.owned.contains_key(&ifindex) && (some_missing || !all_known) {
            return Leave::AsItIs;
        }
        Leave::Detach
    }

    pub(super) fn remember(&mut self, found: &BTreeMap<ObjectName, Found>, cluster: &Cluster) {
        let before = std::mem::take(&mut self.known);
        for (name, found) in found {
            if let Some(interface) = found.interface() {
                let uid = cluster.pods.get(name).map(|pod| pod.uid.clone());
                // One that cannot be read any more is still the one that it was.
                let uid = uid.or_else(|| before.get(name).map(|(uid, _)| uid.clone())).unwrap_or_default();
                self.owned.insert(interface.ifindex, (name.clone(), uid.clone()));
                self.known.insert(name.clone(), (uid, interface.clone()));
            }
        }
        self.owned.retain(|ifindex, _| self.known.values().any(|(_, i)| i.ifindex == *ifindex));
    }
}

pub(super) fn addresses<'a>(cluster: &'a Cluster, name: &ObjectName) -> Option<&'a [IpAddr]> {
    let broken = || cluster.broken_pods.get(name);
    cluster.pods.get(name).map(|pod| &pod.addresses).or_else(broken).map(Vec::as_slice)
}
