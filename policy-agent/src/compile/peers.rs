//! Peer classes: which terms of the rules in use each address matches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::interner::Interner;
use super::prefixes::Prefixes;
use super::{Scope, SignatureId};
use crate::model::{Cluster, NamespaceMatch, Owner, Peer, Pod, Protocol, Selector};

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerAtom {
    Peer(Peer),
    /// The addresses of the node that a pod runs on.
    OwnNode(String),
}

/// The peers of one rule: an address matches when it matches any of them. Rules with the same peers share the group.
pub type PeerGroup = BTreeSet<PeerAtom>;

/// Something that a rule can tell addresses apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Term {
    /// Index into `Compiled::groups`.
    Group(u32),
    /// The address is of a pod that gives this name to this port.
    Named { protocol: Protocol, name: String, port: u16 },
}

pub(super) struct Classes {
    pub(super) signatures: Vec<BTreeSet<Term>>,
    pub(super) addresses: BTreeMap<IpAddr, SignatureId>,
    pub(super) prefixes: BTreeMap<IpNet, SignatureId>,
}

pub(super) fn classify(
    cluster: &Cluster,
    scope: &Scope,
    groups: &Interner<PeerGroup>,
    named_ports: &BTreeSet<(Protocol, String)>,
) -> Classes {
    let atoms = || (0_u32..).zip(groups.items()).flat_map(|(id, group)| group.iter().map(move |a| (id, a)));
    let blocks = Prefixes::new(atoms().filter_map(|(id, atom)| match atom {
        PeerAtom::Peer(Peer::Block(block)) => Some((id, block)),
        _ => None,
    }));
    let mut pods = PodTerms::new(cluster, named_ports, atoms());
    let mut signatures = Interner::default();
    signatures.intern(BTreeSet::new());

    let mut terms: BTreeMap<IpAddr, BTreeSet<Term>> = BTreeMap::new();
    for address in cluster.pods.addresses() {
        let of_owner = match cluster.pods.owner(address) {
            Owner::Pod(pod) => pods.of(pod),
            Owner::Nobody | Owner::Contested => BTreeSet::new(),
        };
        terms.insert(address, of_owner);
    }
    for (id, atom) in atoms() {
        if let PeerAtom::OwnNode(name) = atom {
            for address in node_addresses(cluster, scope, name) {
                terms.entry(address).or_default().insert(Term::Group(id));
            }
        }
    }
    let addresses = terms
        .into_iter()
        .map(|(address, mut terms)| {
            terms.extend(blocks.groups_of(address).into_iter().flatten().map(|id| Term::Group(*id)));
            (address, signatures.intern(terms))
        })
        .collect();
    let prefixes = blocks
        .iter()
        .map(|(net, groups)| (net, signatures.intern(groups.iter().map(|id| Term::Group(*id)).collect())))
        .collect();
    Classes { signatures: signatures.into_items(), addresses, prefixes }
}

fn node_addresses(cluster: &Cluster, scope: &Scope, name: &str) -> BTreeSet<IpAddr> {
    let mut addresses: BTreeSet<IpAddr> = cluster.nodes.get(name).into_iter().flatten().copied().collect();
    if let Scope::Node { addresses: own, .. } = scope {
        addresses.extend(own);
    }
    addresses
}

/// The terms that a pod matches by its namespace, labels and container ports. Pods of one workload share them.
struct PodTerms<'a> {
    named_ports: &'a BTreeSet<(Protocol, String)>,
    own_namespace: HashMap<&'a str, Vec<(&'a Selector, u32)>>,
    /// Selectors of namespaces and pods, by the namespaces that match.
    by_namespace: Vec<(&'a Selector, &'a Selector, u32)>,
    cluster: &'a Cluster,
    matching: HashMap<String, Vec<(&'a Selector, u32)>>,
    known: HashMap<(&'a str, &'a crate::model::Labels), BTreeSet<u32>>,
}

impl<'a> PodTerms<'a> {
    fn new(
        cluster: &'a Cluster,
        named_ports: &'a BTreeSet<(Protocol, String)>,
        atoms: impl Iterator<Item = (u32, &'a PeerAtom)>,
    ) -> Self {
        let mut own_namespace: HashMap<&str, Vec<(&Selector, u32)>> = HashMap::new();
        let mut by_namespace = Vec::new();
        for (id, atom) in atoms {
            match atom {
                PeerAtom::Peer(Peer::Pods { namespaces: NamespaceMatch::Named(name), pods }) => {
                    own_namespace.entry(name).or_default().push((pods, id));
                }
                PeerAtom::Peer(Peer::Pods { namespaces: NamespaceMatch::Selected(selector), pods }) => {
                    by_namespace.push((selector, pods, id));
                }
                PeerAtom::Peer(Peer::Block(_)) | PeerAtom::OwnNode(_) => {}
            }
        }
        Self {
            named_ports,
            own_namespace,
            by_namespace,
            cluster,
            matching: HashMap::new(),
            known: HashMap::new(),
        }
    }

    fn of(&mut self, pod: &'a Pod) -> BTreeSet<Term> {
        let mut terms: BTreeSet<Term> = self.groups(pod).iter().map(|id| Term::Group(*id)).collect();
        for (protocol, name) in self.named_ports {
            if let Some(port) = pod.named_port(*protocol, name) {
                terms.insert(Term::Named { protocol: *protocol, name: name.clone(), port });
            }
        }
        terms
    }

    fn groups(&mut self, pod: &'a Pod) -> &BTreeSet<u32> {
        let namespace = pod.id.namespace.as_str();
        if !self.matching.contains_key(namespace) {
            let labels = self.cluster.namespace_labels(namespace);
            let mut list = self.own_namespace.get(namespace).cloned().unwrap_or_default();
            list.extend(
                self.by_namespace
                    .iter()
                    .filter(|(selector, ..)| selector.matches(&labels))
                    .map(|(_, pods, id)| (*pods, *id)),
            );
            self.matching.insert(namespace.to_owned(), list);
        }
        let matching = self.matching.get(namespace).map_or(&[][..], Vec::as_slice);
        self.known.entry((namespace, &pod.labels)).or_insert_with(|| {
            matching.iter().filter(|(selector, _)| selector.matches(&pod.labels)).map(|(_, id)| *id).collect()
        })
    }
}
