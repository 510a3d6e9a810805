//! The compiler from one change to the next. What a change costs follows from what it is about: a pod that is no
//! endpoint costs the terms of its addresses; an endpoint or a policy costs the rules of the endpoints that it is
//! about; only a peer group or port name that was never seen makes addresses be classified again, those that it can
//! mean. Numbers given once stay, so that rules which nobody uses any more go on telling addresses apart, until they are
//! half of all: then everything is compiled anew.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::measure::{Excess, excess_of_port_sets};
use super::peers::{Classifier, Index, Reach};
use super::rules::Rules;
use super::services::Frontends;
use super::{Compiled, EndpointPolicy, Scope, Signature, is_replaced};
use crate::model::services::Frontend;
use crate::model::{Changes, Cluster, ObjectName, Owner, Pod, Protocol};

/// Where a compilation differs from the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The compilation that it differs from, and the one that it leads to: no two in a process have the same number.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Nothing carries over: indices name other contents.
    pub(crate) everything: bool,
    /// Addresses whose signature is another, or that came or went.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Prefixes may have changed.
    pub(crate) prefixes: bool,
    /// Policies of endpoints may have changed.
    pub(crate) endpoints: bool,
    /// Frontends behind which there may be something else, or that came or went.
    pub(crate) frontends: BTreeSet<Frontend>,
}

impl Delta {
    /// The compilation says what the one before said.
    pub fn is_empty(&self) -> bool {
        !self.everything
            && !self.prefixes
            && !self.endpoints
            && self.addresses.is_empty()
            && self.frontends.is_empty()
    }

    /// What applies to some endpoint may be another.
    pub const fn concerns_endpoints(&self) -> bool {
        self.everything || self.endpoints
    }

    /// Nothing of the compilation before carries over.
    pub const fn is_everything(&self) -> bool {
        self.everything
    }

    /// Takes in what came after it.
    pub(crate) fn append(&mut self, next: &Self) {
        self.everything |= next.everything || next.from != self.to;
        self.to = next.to;
        self.addresses.extend(&next.addresses);
        self.prefixes |= next.prefixes;
        self.endpoints |= next.endpoints;
        self.frontends.extend(&next.frontends);
    }
}

/// Compiles again and again, and only what has changed.
#[derive(Debug, Default)]
pub struct Compiler {
    compiled: Compiled,
    /// Names that egress rules use.
    named_ports: BTreeSet<(Protocol, String)>,
    index: Index,
    frontends: Frontends,
    scope: Scope,
    version: u64,
    after_full: Sizes,
    /// Port sets that were looked at, and what was too much in them.
    measured: usize,
    excess_of_ports: Option<Excess>,
}

/// How many of each there are, stale ones included.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    groups: usize,
    signatures: usize,
    sets: usize,
    port_sets: usize,
}

/// Beyond twice what a full pass leaves, and this much more, another one is due.
const STALE: usize = 128;

impl Sizes {
    fn of(compiled: &Compiled) -> Self {
        Self {
            groups: compiled.groups.len(),
            signatures: compiled.signatures.len(),
            sets: compiled.sets.len(),
            port_sets: compiled.port_sets.len(),
        }
    }

    const fn outgrown_by(self, now: Self) -> bool {
        now.groups > 2 * self.groups + STALE
            || now.signatures > 2 * self.signatures + STALE
            || now.sets > 2 * self.sets + STALE
            || now.port_sets > 2 * self.port_sets + STALE
    }
}

/// Versions are of the process, not of a compiler: a delta of one can never be taken for that of another.
fn next_version() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl Compiler {
    pub const fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    pub fn into_compiled(self) -> Compiled {
        self.compiled
    }

    /// Brings the compilation to what the cluster is now. `changes`: at least what has changed since the last call.
    pub fn update(&mut self, cluster: &Cluster, scope: &Scope, changes: &Changes) -> Delta {
        let from = std::mem::replace(&mut self.version, next_version());
        let mut delta = if from == 0 || changes.everything || !self.scope.is_same_node(scope) {
            self.everything(cluster, scope)
        } else {
            let delta = self.what_changed(cluster, scope, changes);
            if self.after_full.outgrown_by(Sizes::of(&self.compiled)) {
                self.everything(cluster, scope)
            } else {
                delta
            }
        };
        (delta.from, delta.to) = (from, self.version);
        self.look_for_excess();
        delta
    }

    fn look_for_excess(&mut self) {
        let sets = self.compiled.port_sets.len();
        if sets != self.measured {
            self.measured = sets;
            self.excess_of_ports = excess_of_port_sets(self.compiled.port_sets.iter().map(Arc::as_ref));
        }
        self.compiled.excess = self.index.excess.clone().or_else(|| self.excess_of_ports.clone());
    }

    /// Forgets all that was compiled before.
    fn everything(&mut self, cluster: &Cluster, scope: &Scope) -> Delta {
        *self = Self { version: self.version, scope: scope.clone(), ..Self::default() };
        self.compiled.signatures.intern(Signature::default());
        let pods = cluster.pods.values().filter(|pod| scope.is_endpoint(pod)).map(|pod| &pod.id);
        let names = pods.chain(cluster.broken_pods.keys()).cloned().collect();
        self.compile_endpoints(cluster, scope, names);
        self.index.extend(&self.compiled.groups, &self.named_ports);
        self.index.update_nodes(cluster, scope);
        let nodes: Vec<IpAddr> = self.index.node_addresses().collect();
        self.classify(cluster, cluster.pods.addresses().chain(nodes));
        self.compile_prefixes();
        self.frontends.compile_all(cluster, scope, &mut self.compiled.frontends);
        self.after_full = Sizes::of(&self.compiled);
        Delta { everything: true, ..Delta::default() }
    }

    fn what_changed(&mut self, cluster: &Cluster, scope: &Scope, changes: &Changes) -> Delta {
        let (before, names) = (self.compiled.groups.len(), self.named_ports.len());
        let about = self.endpoints_about(cluster, scope, changes);
        let endpoints = self.compile_endpoints(cluster, scope, about);
        let mut dirty = changes.addresses.clone();
        for namespace in &changes.namespaces {
            dirty.extend(cluster.pods.in_namespace(namespace).flat_map(|pod| &pod.addresses));
        }
        let grown = (self.compiled.groups.len(), self.named_ports.len()) != (before, names);
        let reach = if grown {
            self.index.extend(&self.compiled.groups, &self.named_ports)
        } else {
            Reach::default()
        };
        reach.addresses(cluster, &mut dirty);
        if grown || !changes.nodes.is_empty() || self.scope != *scope {
            self.scope.clone_from(scope);
            dirty.append(&mut self.index.update_nodes(cluster, scope));
        }
        if !reach.blocks.is_empty() {
            dirty.extend(self.index.node_addresses());
        }
        let addresses = self.classify(cluster, dirty.into_iter());
        let frontends = self.frontends.update(cluster, scope, changes, &mut self.compiled.frontends);
        let prefixes = !reach.blocks.is_empty() && self.compile_prefixes();
        Delta { addresses, prefixes, endpoints, frontends, ..Delta::default() }
    }

    /// The endpoints, past and present, whose rules the changes are about.
    fn endpoints_about(&self, cluster: &Cluster, scope: &Scope, changes: &Changes) -> BTreeSet<ObjectName> {
        let mut about = BTreeSet::new();
        let is_known = |name: &ObjectName| self.compiled.endpoints.contains_key(name);
        for name in &changes.pods {
            let is_here = cluster.pods.get(name).is_some_and(|pod| scope.is_endpoint(pod));
            if is_here || is_known(name) || cluster.broken_pods.contains_key(name) {
                about.insert(name.clone());
            }
        }
        // Who else claims its addresses may have lost or got them.
        for address in &changes.addresses {
            let claimants = cluster.pods.claimants(*address).iter().filter(|pod| scope.is_endpoint(pod));
            about.extend(claimants.map(|pod| pod.id.clone()));
        }
        let namespaces: BTreeSet<&str> =
            changes.policies.iter().map(|policy| policy.namespace.as_str()).collect();
        for namespace in namespaces {
            let from = self.compiled.endpoints.range(ObjectName::new(namespace, "")..);
            let inside = from.map(|(name, _)| name).take_while(|name| name.namespace == namespace);
            about.extend(inside.cloned());
        }
        about
    }

    /// Returns whether the policy of any of them is another now.
    fn compile_endpoints(&mut self, cluster: &Cluster, scope: &Scope, names: BTreeSet<ObjectName>) -> bool {
        let mut compiled = std::mem::take(&mut self.compiled.endpoints);
        let mut changed = false;
        let mut rules = Rules::new(cluster, &mut self.compiled, &mut self.named_ports);
        for name in names {
            let now = endpoint(cluster, scope, &name, &mut rules);
            if compiled.get(&name) != now.as_ref() {
                changed = true;
                match now {
                    Some(policy) => compiled.insert(name, policy),
                    None => compiled.remove(&name),
                };
            }
        }
        self.compiled.endpoints = compiled;
        changed
    }

    /// Returns the addresses that have another signature than before.
    fn classify(&mut self, cluster: &Cluster, addresses: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
        let mut classifier = Classifier::new(&self.index, cluster);
        let mut changed = BTreeSet::new();
        for address in addresses {
            let signature = classifier.classify(address, &mut self.compiled);
            let before = match signature {
                Some(signature) => self.compiled.addresses.insert(address, signature),
                None => self.compiled.addresses.remove(address),
            };
            if before != signature {
                changed.insert(address);
            }
        }
        changed
    }

    /// Returns whether any prefix has another signature than before.
    fn compile_prefixes(&mut self) -> bool {
        let signatures = &mut self.compiled.signatures;
        let of = |groups: &[u32]| Signature { groups: groups.into(), ..Signature::default() };
        let prefixes =
            self.index.blocks.iter().map(|(net, groups)| (net, signatures.intern(of(groups)))).collect();
        let changed = self.compiled.prefixes != prefixes;
        self.compiled.prefixes = prefixes;
        changed
    }
}

/// What policy says of a pod, if it is an endpoint.
fn endpoint<'a>(
    cluster: &'a Cluster,
    scope: &Scope,
    name: &ObjectName,
    rules: &mut Rules<'a>,
) -> Option<EndpointPolicy> {
    let is_endpoint = |pod: &&'a Arc<Pod>| scope.is_endpoint(pod) && !is_replaced(cluster, pod);
    let Some(pod) = cluster.pods.get(name).filter(is_endpoint) else {
        return cluster.broken_pods.contains_key(name).then(|| rules.closed());
    };
    let contested = |address: &IpAddr| cluster.pods.owner(*address) == Owner::Contested;
    if pod.addresses.iter().any(contested) {
        return Some(rules.closed());
    }
    let own_node = match scope {
        Scope::Cluster => pod.node.as_deref().map(str::to_owned),
        Scope::Node { name, .. } => Some(name.clone().unwrap_or_default()),
    };
    Some(rules.endpoint(pod, own_node))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::{Block, Peer, Policy, Rule, Selector, Tracked};

    fn pod(name: &str, node: &str, last: u8) -> Pod {
        Pod {
            id: ObjectName::new("ns", name),
            uid: name.to_owned(),
            labels: Arc::default(),
            node: Some(node.into()),
            addresses: vec![Ipv4Addr::new(10, 0, 0, last).into()],
            host_network: false,
            finished: false,
            terminating: false,
            created: 0,
            ports: [].into(),
            sources: Vec::new(),
        }
    }

    fn policy(peer: Peer) -> Policy {
        Policy {
            id: ObjectName::new("ns", "policy"),
            subject: Selector::everything(),
            ingress: Some(vec![Rule { peers: Some(vec![peer]), ports: None }]),
            egress: None,
        }
    }

    fn here() -> Scope {
        Scope::Node { name: Some("here".to_owned()), addresses: BTreeSet::new() }
    }

    #[test]
    fn rules_that_nobody_uses_any_more_do_not_pile_up() {
        let (mut tracked, mut compiler) = (Tracked::default(), Compiler::default());
        tracked.insert_pod(pod("subject", "here", 1));
        let mut whole = 0;
        for n in 0..1000_u32 {
            let cidr = ipnet::IpNet::from(IpAddr::from(Ipv4Addr::from_bits(n)));
            tracked.insert_policy(policy(Peer::Block(Block { cidr, except: Vec::new() })));
            let changes = tracked.take_changes();
            whole += u32::from(compiler.update(tracked.cluster(), &here(), &changes).is_everything());
            assert!(compiler.compiled().groups.len() <= 2 + STALE, "{n}");
        }
        assert!((2..20).contains(&whole), "{whole} whole compilations");
    }

    #[test]
    fn a_pod_that_is_no_endpoint_costs_its_own_address_and_policies_elsewhere_nothing() {
        let (mut tracked, mut compiler) = (Tracked::default(), Compiler::default());
        let namespaces = crate::model::NamespaceMatch::Named("ns".to_owned());
        tracked.insert_pod(pod("subject", "here", 1));
        tracked.insert_policy(policy(Peer::Pods { namespaces, pods: Selector::everything() }));
        let mut update = |tracked: &mut Tracked| {
            let changes = tracked.take_changes();
            compiler.update(tracked.cluster(), &here(), &changes)
        };
        assert!(update(&mut tracked).is_everything());
        tracked.insert_pod(pod("peer", "there", 2));
        let delta = update(&mut tracked);
        assert_eq!(delta.addresses, [Ipv4Addr::new(10, 0, 0, 2).into()].into());
        assert!(!delta.everything && !delta.endpoints && !delta.prefixes);
        let elsewhere =
            |id| Policy { id, ..Policy::closed(ObjectName::new("", ""), Selector::everything(), true, true) };
        tracked.insert_policy(elsewhere(ObjectName::new("elsewhere", "closed")));
        assert!(update(&mut tracked).is_empty());
        tracked.insert_policy(elsewhere(ObjectName::new("ns", "closed")));
        assert!(update(&mut tracked).endpoints);
    }
}
