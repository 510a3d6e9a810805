//! Events on objects: a NetworkPolicy has no status to say in what is wrong with it.
//!
//! Every node reads every object, but only those with endpoints of the namespace speak of it: a cluster with a thousand
//! nodes would tell it a thousand times.

use std::collections::BTreeSet;

use super::core::Core;
use super::status::EndpointState;
use crate::model::ObjectName;
use crate::source::cluster::{Concern, Reporter};
use crate::source::{Kind, ObjectKey, Problem};

/// What was told already: until it is over, once is enough.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeSet<(ObjectKey, String)>);

impl Told {
    /// Tells what is new.
    pub(super) fn tell(&mut self, core: &Core, reporter: &Reporter) {
        let mut now = BTreeSet::new();
        for (key, concern, note) in wrong(core) {
            let entry = (key, note);
            if !self.0.contains(&entry)
                && let Some(reference) = core.input.reference(&entry.0)
            {
                reporter.report(reference, concern, entry.1.clone());
            }
            now.insert(entry);
        }
        self.0 = now;
    }
}

fn wrong(core: &Core) -> Vec<(ObjectKey, Concern, String)> {
    let mut wrong = Vec::new();
    let endpoints = core.endpoints();
    let namespaces: BTreeSet<&str> = endpoints.clone().map(|name| name.namespace.as_str()).collect();
    for (key, problems) in core.input.broken() {
        let ours = match key.kind {
            Kind::NetworkPolicy | Kind::Service | Kind::EndpointSlice => {
                namespaces.contains(key.id.namespace.as_str())
            }
            Kind::Pod => endpoints.clone().any(|name| *name == key.id),
            Kind::Namespace => namespaces.contains(key.id.name.as_str()),
            Kind::Node => core.is_node(&key.id.name),
        };
        if ours {
            let notes: Vec<String> = problems.iter().map(Problem::of_object).collect();
            wrong.push((key.clone(), Concern::Invalid, notes.join("; ")));
        }
    }
    let policies = core.held_policies().map(|(name, why)| (Kind::NetworkPolicy, name, why));
    let pods = core.lacks_room().map(|(name, why)| (Kind::Pod, name, why));
    for (kind, name, why) in policies.chain(pods) {
        let key = ObjectKey { kind, id: name.clone() };
        wrong.push((key, Concern::TableFull, format!("not in force as it should be: {why}")));
    }
    for endpoint in core.status().endpoints.iter().filter(|e| e.state == EndpointState::Failed) {
        let Some((namespace, name)) = endpoint.pod.split_once('/') else { continue };
        let id = ObjectName::new(namespace, name);
        // Where only a policy of the pod's is held back, the policy has the Event.
        if core.lacks_room_for(&id).is_none() {
            let why = core.status().errors.join("; ");
            let key = ObjectKey { kind: Kind::Pod, id };
            let note = format!("policy is not in force as it should be: {why}");
            wrong.push((key, Concern::EndpointFailed, note));
        }
    }
    wrong
}
