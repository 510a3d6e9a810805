//! Which endpoints of a Service's port a connection may reach, by traffic policy and topology: kube-proxy's rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::slice::{Endpoint, EndpointSlice, Hints, Readiness};
use super::{Backend, ServicePort, Vantage};

/// The endpoints of one port and one address family, each once.
pub(super) struct Candidates<'a> {
    list: BTreeMap<Backend, Candidate<'a>>,
    vantage: &'a Vantage,
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    readiness: Readiness,
    local: bool,
    hints: Option<&'a Hints>,
}

/// For whom an endpoint has to be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    Anybody,
    SameNode,
    SameZone,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(
        slices: &'a [Arc<EndpointSlice>],
        port: &ServicePort,
        v4: bool,
        vantage: &'a Vantage,
    ) -> Self {
        let mut list: BTreeMap<Backend, Candidate<'_>> = BTreeMap::new();
        for slice in slices.iter().filter(|slice| slice.v4 == v4) {
            let same = |own: &&super::EndpointPort| own.name == port.name && own.protocol == port.protocol;
            for number in slice.ports.iter().filter(same).map(|own| own.port) {
                for endpoint in slice.endpoints.iter() {
                    let backend = Backend { address: endpoint.address, port: number };
                    let candidate = Candidate::new(endpoint, vantage);
                    let known = list.entry(backend).or_insert(candidate);
                    // An endpoint that moves from slice to slice is in both for a moment. kube-proxy prefers the one that
                    // is local, and else takes any.
                    if candidate.rank() < known.rank() {
                        *known = candidate;
                    }
                }
            }
        }
        Self { list, vantage }
    }

    /// For the traffic policy `Cluster`.
    pub(super) fn cluster(&self) -> Arc<[Backend]> {
        let topology = self.topology();
        let meant = |candidate: &Candidate<'_>| {
            candidate.readiness == Readiness::Ready && candidate.is_meant_for(topology, self.vantage)
        };
        self.first_of(&[&meant, &|candidate| candidate.readiness == Readiness::Draining])
    }

    /// For the traffic policy `Local`, which knows no topology.
    pub(super) fn local(&self) -> Arc<[Backend]> {
        let here =
            |readiness| move |candidate: &Candidate<'_>| candidate.local && candidate.readiness == readiness;
        self.first_of(&[&here(Readiness::Ready), &here(Readiness::Draining)])
    }

    /// Those that the first of the conditions takes which takes any.
    fn first_of(&self, conditions: &[&dyn Fn(&Candidate<'_>) -> bool]) -> Arc<[Backend]> {
        let taken = |condition: &&dyn Fn(&Candidate<'_>) -> bool| -> Arc<[Backend]> {
            self.list
                .iter()
                .filter(|(_, candidate)| condition(candidate))
                .map(|(backend, _)| *backend)
                .collect()
        };
        conditions.iter().map(taken).find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// Hints count where every ready endpoint has some and one of them is for us: then there is a backend for everybody.
    fn topology(&self) -> Topology {
        let ready = || self.list.values().filter(|candidate| candidate.readiness == Readiness::Ready);
        let counts = |topology| {
            ready().all(|candidate| !candidate.hints(topology).is_empty())
                && ready().any(|candidate| candidate.is_meant_for(topology, self.vantage))
        };
        let modes = [Topology::SameNode, Topology::SameZone];
        modes.into_iter().find(|topology| counts(*topology)).unwrap_or(Topology::Anybody)
    }
}

impl<'a> Candidate<'a> {
    fn new(endpoint: &'a Endpoint, vantage: &Vantage) -> Self {
        let local = endpoint.node.is_some() && endpoint.node.as_deref() == vantage.node.as_deref();
        Self { readiness: endpoint.readiness, local, hints: endpoint.hints.as_deref() }
    }

    /// Of several, the lowest counts.
    const fn rank(&self) -> (bool, u8) {
        (!self.local, self.readiness as u8)
    }

    fn hints(&self, topology: Topology) -> &'a [Box<str>] {
        match (topology, self.hints) {
            (Topology::Anybody, _) | (_, None) => &[],
            (Topology::SameNode, Some(hints)) => &hints.nodes,
            (Topology::SameZone, Some(hints)) => &hints.zones,
        }
    }

    fn is_meant_for(&self, topology: Topology, vantage: &Vantage) -> bool {
        let ours = match topology {
            Topology::Anybody => return true,
            Topology::SameNode => vantage.node.as_deref(),
            Topology::SameZone => vantage.zone.as_deref(),
        };
        ours.is_some_and(|ours| self.hints(topology).iter().any(|hint| **hint == *ours))
    }
}
