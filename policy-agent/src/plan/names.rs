//! Contents keep one number from one compilation to the next: the compiler's indices are local to each.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::compile::{Compiled, NamedPort, PeerGroup, PeerRef, PolicySet, PortRef, PortSet, Row, Signature};
use crate::model::Protocol;

/// Numbers are never used again, so that forgetting a content needs no care.
#[derive(Clone, Debug)]
struct Names<T> {
    numbers: HashMap<Arc<T>, u64>,
    next: u64,
}

impl<T: Eq + Hash> Names<T> {
    fn new() -> Self {
        Self { numbers: HashMap::new(), next: 0 }
    }

    fn number(&mut self, content: &Arc<T>) -> u64 {
        if let Some(number) = self.numbers.get(content) {
            return *number;
        }
        let number = self.unwanted();
        self.numbers.insert(Arc::clone(content), number);
        number
    }

    /// A number that no content has.
    const fn unwanted(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// A signature's groups and named ports, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SignatureKey {
    groups: Box<[u64]>,
    named: Box<[u64]>,
}

impl SignatureKey {
    /// The name of a class whose signature nobody knows any more.
    pub(super) fn unwanted(contents: &mut Contents) -> Self {
        Self { groups: [contents.groups.unwanted()].into(), named: Box::default() }
    }
}

pub(super) type PortSetNumber = u64;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RuleKey {
    peers: Option<u64>,
    everything: bool,
    set: Option<PortSetNumber>,
    named: BTreeSet<(Protocol, String)>,
}

impl RuleKey {
    /// A rule that nobody knows any more.
    pub(super) fn unwanted(contents: &mut Contents) -> Self {
        let peers = Some(contents.groups.unwanted());
        Self { peers, everything: false, set: None, named: BTreeSet::new() }
    }
}

pub(super) type SetKey = BTreeSet<RuleKey>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RowKey {
    pub(super) everything: bool,
    /// Sorted.
    pub(super) port_sets: Box<[PortSetNumber]>,
}

#[derive(Clone, Debug)]
pub(super) struct Contents {
    groups: Names<PeerGroup>,
    named: Names<NamedPort>,
    port_sets: Names<PortSet>,
}

/// The numbers of one compilation's indices.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    groups: Vec<u64>,
    named: Vec<u64>,
    pub(super) port_sets: Vec<PortSetNumber>,
}

impl Contents {
    pub(super) fn new() -> Self {
        Self { groups: Names::new(), named: Names::new(), port_sets: Names::new() }
    }

    /// Takes in the contents that the numbers do not cover yet.
    pub(super) fn extend(&mut self, numbers: &mut Numbers, compiled: &Compiled) {
        let Numbers { groups, named, port_sets } = numbers;
        let (from, names) = (groups.len(), &mut self.groups);
        groups.extend(compiled.groups.iter().skip(from).map(|g| names.number(g)));
        let (from, names) = (named.len(), &mut self.named);
        named.extend(compiled.named.iter().skip(from).map(|n| names.number(n)));
        let (from, names) = (port_sets.len(), &mut self.port_sets);
        port_sets.extend(compiled.port_sets.iter().skip(from).map(|s| names.number(s)));
    }

    pub(super) fn port_set(&mut self, content: &Arc<PortSet>) -> PortSetNumber {
        self.port_sets.number(content)
    }

    /// A number that no port set has.
    pub(super) const fn unwanted(&mut self) -> PortSetNumber {
        self.port_sets.unwanted()
    }

    pub(super) fn port_sets(&self) -> impl Iterator<Item = (PortSetNumber, &PortSet)> {
        self.port_sets.numbers.iter().map(|(set, number)| (*number, &**set))
    }

    /// Forgets groups and names that the compilation does not use, and port sets outside `keep`.
    pub(super) fn retain(&mut self, numbers: &Numbers, keep: &HashSet<PortSetNumber>) {
        let groups: HashSet<u64> = numbers.groups.iter().copied().collect();
        let named: HashSet<u64> = numbers.named.iter().copied().collect();
        self.groups.numbers.retain(|_, n| groups.contains(n));
        self.named.numbers.retain(|_, n| named.contains(n));
        self.port_sets.numbers.retain(|_, n| keep.contains(n));
    }
}

/// How many contents of each kind have numbers.
pub(super) type Sizes = [usize; 3];

impl Numbers {
    pub(super) fn sizes(&self) -> Sizes {
        [self.groups.len(), self.named.len(), self.port_sets.len()]
    }

    pub(super) fn truncate(&mut self, [groups, named, port_sets]: Sizes) {
        self.groups.truncate(groups);
        self.named.truncate(named);
        self.port_sets.truncate(port_sets);
    }

    pub(super) fn signature(&self, signature: &Signature) -> SignatureKey {
        let sorted = |mut numbers: Vec<u64>| {
            numbers.sort_unstable();
            numbers.into_boxed_slice()
        };
        SignatureKey {
            groups: sorted(signature.groups.iter().map(|id| self.group(*id)).collect()),
            named: sorted(signature.named.iter().map(|id| number(&self.named, *id)).collect()),
        }
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
        let mut port_sets: Vec<PortSetNumber> = row.port_sets.iter().map(|id| self.port_set(*id)).collect();
        port_sets.sort_unstable();
        RowKey { everything: row.everything, port_sets: port_sets.into() }
    }

    fn group(&self, id: u32) -> u64 {
        number(&self.groups, id)
    }

    fn port_set(&self, id: u32) -> PortSetNumber {
        number(&self.port_sets, id)
    }
}

/// Indices come from the same compilation, so they are always there; 0 names nothing.
fn number(numbers: &[u64], id: u32) -> u64 {
    numbers.get(id as usize).copied().unwrap_or(0)
}
