//! From policies to policy sets: the rules that apply to one pod in one direction, without their order or origin, so
//! that pods under the same rules share one set.

use std::collections::{BTreeSet, HashMap};

use policy_common::Direction;

use super::peers::PeerAtom;
use super::ports::PortSet;
use super::{Compiled, EndpointPolicy};
use crate::model::{Cluster, ObjectName, Pod, Policy, PortMatch, Protocol, Rule};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerRef {
    Any,
    /// Index into `Compiled::groups`.
    Group(u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortRef {
    /// Every port of every protocol, and protocols without ports.
    Any,
    Some {
        /// Index into `Compiled::port_sets`.
        set: Option<u32>,
        /// Names that each destination pod resolves (egress; SEMANTICS row 25).
        named: BTreeSet<(Protocol, String)>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetRule {
    pub peers: PeerRef,
    pub ports: PortRef,
}

/// All that applies to a pod in one direction. No rules: isolated, nothing allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicySet {
    pub rules: BTreeSet<SetRule>,
}

/// Where a rule of a set came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `None`: Sluice's own rule that a pod reaches its node (SEMANTICS section 3).
    pub policy: Option<ObjectName>,
    /// Its place in the policy's list, from 0.
    pub rule: usize,
    pub content: SetRule,
}

/// A policy's rule with its peers interned: large peer lists are hashed once, not once a pod.
#[derive(Clone, Debug)]
struct Template {
    peers: PeerRef,
    /// `None`: not restricted.
    ports: Option<TemplatePorts>,
}

#[derive(Clone, Debug)]
struct TemplatePorts {
    ranges: Vec<(Protocol, u16, u16)>,
    named: BTreeSet<(Protocol, String)>,
}

/// Compiles the rules of endpoints into `out`.
pub(super) struct Rules<'a> {
    cluster: &'a Cluster,
    templates: HashMap<(&'a ObjectName, Direction), Vec<Template>>,
    out: &'a mut Compiled,
    /// Names that egress rules use: peers that declare them must be told apart by their numbers.
    named_ports: &'a mut BTreeSet<(Protocol, String)>,
}

impl<'a> Rules<'a> {
    pub(super) fn new(
        cluster: &'a Cluster,
        out: &'a mut Compiled,
        named_ports: &'a mut BTreeSet<(Protocol, String)>,
    ) -> Self {
        Self { cluster, templates: HashMap::new(), out, named_ports }
    }

    /// A pod about which nothing can be decided: isolated both ways.
    pub(super) fn closed(&mut self) -> EndpointPolicy {
        let set = Some(self.out.sets.intern(PolicySet::default()) as usize);
        EndpointPolicy { egress: set, ingress: set, ..EndpointPolicy::default() }
    }

    pub(super) fn endpoint(&mut self, pod: &'a Pod, own_node: Option<String>) -> EndpointPolicy {
        let mut result = EndpointPolicy::default();
        let cluster = self.cluster;
        let policies = cluster.policies_in(&pod.id.namespace);
        let selecting: Vec<&Policy> = policies.filter(|policy| policy.subject.matches(&pod.labels)).collect();
        for direction in [Direction::Egress, Direction::Ingress] {
            let mut isolated = false;
            let mut origins = Vec::new();
            for policy in &selecting {
                let rules = match direction {
                    Direction::Egress => &policy.egress,
                    Direction::Ingress => &policy.ingress,
                };
                let Some(rules) = rules else { continue };
                isolated = true;
                result.policies.insert(policy.id.clone());
                for (index, template) in self.templates(policy, direction, rules).into_iter().enumerate() {
                    if let Some(content) = self.resolve(template, direction, pod) {
                        origins.push(Origin { policy: Some(policy.id.clone()), rule: index, content });
                    }
                }
            }
            if !isolated {
                continue;
            }
            if direction == Direction::Egress
                && let Some(node) = &own_node
            {
                let group = self.out.groups.intern(BTreeSet::from([PeerAtom::OwnNode(node.clone())]));
                let content = SetRule { peers: PeerRef::Group(group), ports: PortRef::Any };
                origins.push(Origin { policy: None, rule: 0, content });
            }
            let rules = origins.iter().map(|o| o.content.clone()).collect();
            let set = Some(self.out.sets.intern(PolicySet { rules }) as usize);
            match direction {
                Direction::Egress => (result.egress, result.egress_origins) = (set, origins),
                Direction::Ingress => (result.ingress, result.ingress_origins) = (set, origins),
            }
        }
        result
    }

    fn templates(&mut self, policy: &'a Policy, direction: Direction, rules: &[Rule]) -> Vec<Template> {
        if let Some(known) = self.templates.get(&(&policy.id, direction)) {
            return known.clone();
        }
        let made: Vec<Template> = rules.iter().map(|rule| self.template(rule)).collect();
        self.templates.insert((&policy.id, direction), made.clone());
        made
    }

    fn template(&mut self, rule: &Rule) -> Template {
        let peers = match &rule.peers {
            None => PeerRef::Any,
            Some(list) => {
                PeerRef::Group(self.out.groups.intern(list.iter().cloned().map(PeerAtom::Peer).collect()))
            }
        };
        let ports = rule.ports.as_ref().map(|list| {
            let mut ranges = Vec::new();
            let mut named = BTreeSet::new();
            for port in list {
                match port {
                    PortMatch::Range { protocol, first, last } => ranges.push((*protocol, *first, *last)),
                    PortMatch::Named { protocol, name } => {
                        named.insert((*protocol, name.clone()));
                    }
                }
            }
            TemplatePorts { ranges, named }
        });
        Template { peers, ports }
    }

    /// The rule as it applies to one pod; `None` where it can match nothing.
    fn resolve(&mut self, template: Template, direction: Direction, pod: &Pod) -> Option<SetRule> {
        let Some(TemplatePorts { mut ranges, mut named }) = template.ports else {
            return Some(SetRule { peers: template.peers, ports: PortRef::Any });
        };
        if direction == Direction::Ingress {
            // The destination is the pod itself: names become numbers here (SEMANTICS row 24).
            for (protocol, name) in std::mem::take(&mut named) {
                if let Some(number) = pod.named_port(protocol, &name) {
                    ranges.push((protocol, number, number));
                }
            }
        }
        let set = PortSet::new(ranges);
        if set.is_empty() && named.is_empty() {
            return None;
        }
        self.named_ports.extend(named.iter().cloned());
        let set = (!set.is_empty()).then(|| self.out.port_sets.intern(set));
        Some(SetRule { peers: template.peers, ports: PortRef::Some { set, named } })
    }
}
