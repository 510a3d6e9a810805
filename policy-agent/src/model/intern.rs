//! One copy of what many objects have in common: the replicas of a workload have the same labels and ports, the pods and
//! endpoints of a node its name, and the endpoints of a zone its hints.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use super::services::{Endpoint, EndpointPort, EndpointSlice, Hints};
use super::{ContainerPort, Labels, Pod};

#[derive(Clone, Debug, Default)]
pub struct Intern {
    labels: Shared<Labels>,
    ports: Shared<[ContainerPort]>,
    names: Shared<str>,
    slice_ports: Shared<[EndpointPort]>,
    hints: Shared<Hints>,
}

impl Intern {
    /// The same pod, with what others have too shared.
    pub fn pod(&mut self, pod: Pod) -> Pod {
        Pod {
            labels: self.labels.share(pod.labels),
            ports: self.ports.share(pod.ports),
            node: pod.node.map(|name| self.names.share(name)),
            ..pod
        }
    }

    /// The same slice, with what others have too shared.
    pub fn slice(&mut self, slice: EndpointSlice) -> EndpointSlice {
        let endpoints = slice.endpoints.iter().map(|endpoint| Endpoint {
            node: endpoint.node.clone().map(|name| self.names.share(name)),
            hints: endpoint.hints.clone().map(|hints| self.hints.share(hints)),
            ..*endpoint
        });
        EndpointSlice { endpoints: endpoints.collect(), ports: self.slice_ports.share(slice.ports), ..slice }
    }
}

/// Values of which nobody else has a copy any more are dropped when as many more have come as were left the last time.
#[derive(Debug)]
struct Shared<T: ?Sized> {
    values: HashSet<Arc<T>>,
    prune_at: usize,
}

/// Fewer values than this are not worth looking through.
const FEW: usize = 256;

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), prune_at: self.prune_at }
    }
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), prune_at: FEW }
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    fn share(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.prune_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.prune_at = FEW + 2 * self.values.len();
        }
        self.values.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_become_one_and_lost_ones_go() {
        let mut shared: Shared<str> = Shared::default();
        let first = shared.share("node".into());
        assert!(Arc::ptr_eq(&first, &shared.share("node".into())));
        for n in 0..10 * FEW {
            shared.share(n.to_string().into());
        }
        assert!(shared.values.len() <= FEW + 2);
        assert!(Arc::ptr_eq(&first, &shared.share("node".into())));
    }
}
