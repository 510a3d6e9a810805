//! Contents keep one number from one compilation to the next: the compiler's indices are local to each.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;

use crate::compile::{Compiled, PeerGroup, PeerRef, PolicySet, PortRef, PortSet, Row, Term};
use crate::model::Protocol;

/// Numbers are never used again, so that forgetting a content needs no care.
#[derive(Clone, Debug)]
struct Names<T> {
    numbers: HashMap<T, u64>,
    next: u64,
}

impl<T: Clone + Eq + Hash> Names<T> {
    fn new() -> Self {
        Self { numbers: HashMap::new(), next: 0 }
    }

    fn number(&mut self, content: &T) -> u64 {
        if let Some(number) = self.numbers.get(content) {
            return *number;
        }
        self.next += 1;
        self.numbers.insert(content.clone(), self.next);
        self.next
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum TermKey {
    Group(u64),
    Named(Protocol, String, u16),
}

pub(super) type SignatureKey = BTreeSet<TermKey>;
pub(super) type PortSetNumber = u64;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RuleKey {
    peers: Option<u64>,
    everything: bool,
    set: Option<PortSetNumber>,
    named: BTreeSet<(Protocol, String)>,
}

pub(super) type SetKey = BTreeSet<RuleKey>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RowKey {
    pub(super) everything: bool,
    pub(super) port_sets: BTreeSet<PortSetNumber>,
}

#[derive(Clone, Debug)]
pub(super) struct Contents {
    groups: Names<PeerGroup>,
    port_sets: Names<PortSet>,
}

/// The numbers of one compilation's indices.
pub(super) struct Numbers {
    groups: Vec<u64>,
    pub(super) port_sets: Vec<PortSetNumber>,
}

impl Contents {
    pub(super) fn new() -> Self {
        Self { groups: Names::new(), port_sets: Names::new() }
    }

    pub(super) fn numbers(&mut self, compiled: &Compiled) -> Numbers {
        Numbers {
            groups: compiled.groups.iter().map(|g| self.groups.number(g)).collect(),
            port_sets: compiled.port_sets.iter().map(|s| self.port_sets.number(s)).collect(),
        }
    }

    pub(super) fn port_sets(&self) -> impl Iterator<Item = (PortSetNumber, &PortSet)> {
        self.port_sets.numbers.iter().map(|(set, number)| (*number, set))
    }

    /// Forgets groups that the compilation does not use, and port sets outside `keep`.
    pub(super) fn retain(&mut self, numbers: &Numbers, keep: &HashSet<PortSetNumber>) {
        let groups: HashSet<u64> = numbers.groups.iter().copied().collect();
        self.groups.numbers.retain(|_, n| groups.contains(n));
        self.port_sets.numbers.retain(|_, n| keep.contains(n));
    }
}

impl Numbers {
    pub(super) fn signature(&self, terms: &BTreeSet<Term>) -> SignatureKey {
        terms
            .iter()
            .map(|term| match term {
                Term::Group(id) => TermKey::Group(self.group(*id)),
                Term::Named { protocol, name, port } => TermKey::Named(*protocol, name.clone(), *port),
            })
            .collect()
    }

    pub(super) fn set(&self, set: &PolicySet) -> SetKey {
        set.rules
            .iter()
            .map(|rule| {
                let peers = match rule.peers {
                    PeerRef::Any => None,
                    PeerRef::Group(id) => Some(self.group(id)),
                };
                match &rule.ports {
                    PortRef::Any => RuleKey { peers, everything: true, set: None, named: BTreeSet::new() },
                    PortRef::Some { set, named } => RuleKey {
                        peers,
                        everything: false,
                        set: set.map(|id| self.port_set(id)),
                        named: named.clone(),
                    },
                }
            })
            .collect()
    }

    pub(super) fn row(&self, row: &Row) -> RowKey {
        RowKey {
            everything: row.everything,
            port_sets: row.port_sets.iter().map(|id| self.port_set(*id)).collect(),
        }
    }

    // Indices come from the same compilation, so they are always there; 0 names nothing.
    fn group(&self, id: u32) -> u64 {
        self.groups.get(id as usize).copied().unwrap_or(0)
    }

    fn port_set(&self, id: u32) -> PortSetNumber {
        self.port_sets.get(id as usize).copied().unwrap_or(0)
    }
}
