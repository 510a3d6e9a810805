//! What is enforced of what was read: the last good version of every object, and something closed for those that never
//! had one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::addresses;
use super::fault::Problem;
use super::object::{Found, Kind, Object, ObjectKey, StandIn};
use super::read::{FileRead, FolderRead};
use crate::model::{Cluster, Policy};

/// What an update has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The cluster is another than before.
    pub changed: bool,
    pub new_problems: Vec<Problem>,
    pub solved_problems: Vec<Problem>,
}

#[derive(Clone, Debug, Default)]
pub struct Store {
    entries: Entries,
    cluster: Cluster,
    problems: Vec<Problem>,
    /// Those of the last folder that could be read.
    read_problems: Vec<Problem>,
}

pub(super) type Entries = BTreeMap<ObjectKey, Entry>;

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) standing: Standing,
    /// Where it was defined when it was last seen.
    files: BTreeSet<String>,
    /// The same for people.
    pub(super) sources: Vec<String>,
}

/// What an object is in effect.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    Good(Object),
    /// Never whole: policies that isolate what it may select.
    Closed(Vec<Policy>),
    /// Never whole: a pod that is not in the cluster.
    BrokenPod(Vec<IpAddr>),
    Nothing,
}

impl Store {
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// All that is wrong at present.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub fn update(&mut self, read: FolderRead) -> Update {
        let problems = match read.problem {
            Some(problem) => {
                let mut problems = vec![problem];
                problems.extend(self.read_problems.iter().cloned());
                problems
            }
            None => {
                self.read_problems = self.take(read.files);
                self.read_problems.clone()
            }
        };
        let cluster = assemble(&self.entries);
        let update = Update {
            changed: cluster != self.cluster,
            new_problems: without(&problems, &self.problems),
            solved_problems: without(&self.problems, &problems),
        };
        (self.cluster, self.problems) = (cluster, problems);
        update
    }

    fn take(&mut self, files: Vec<FileRead>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut candidates: BTreeMap<ObjectKey, Vec<(String, Found)>> = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        for file in files {
            problems.extend(file.problems);
            if file.unknown {
                unknown.insert(file.name.clone());
            }
            for mut found in file.found {
                problems.append(&mut found.problems);
                candidates.entry(found.key.clone()).or_default().push((file.name.clone(), found));
            }
        }
        let previous = std::mem::take(&mut self.entries);
        // What a file has lost while it can't be read in full may be in it still.
        let kept = previous.iter().filter(|(key, entry)| {
            !candidates.contains_key(key) && entry.files.iter().any(|file| unknown.contains(file))
        });
        let mut next: Entries = kept.map(|(key, entry)| (key.clone(), entry.clone())).collect();
        let lost: Vec<ObjectKey> = next.keys().cloned().collect();
        for (key, found) in candidates {
            let before = previous.get(&key).map(|entry| entry.standing.clone());
            let files: BTreeSet<String> = found.iter().map(|(file, _)| file.clone()).collect();
            // A policy that lost its name is probably one that the file lost: that one's last good version stays, and
            // closing the namespace would cut what it allows.
            let is_lost = |other: &ObjectKey| {
                other.kind == key.kind
                    && other.id.namespace == key.id.namespace
                    && next.get(other).is_some_and(|entry| !entry.files.is_disjoint(&files))
            };
            if !key.is_named() && before.is_none() && lost.iter().any(is_lost) {
                continue;
            }
            let found: Vec<Found> = found.into_iter().map(|(_, found)| found).collect();
            let sources: Vec<String> = found.iter().map(|f| f.source.clone()).collect();
            let standing = match <[Found; 1]>::try_from(found) {
                Ok([found]) => single(found, before),
                Err(several) => {
                    problems.push(duplicate(&key, &several));
                    duplicates(&key, several, before)
                }
            };
            next.insert(key, Entry { standing, files, sources });
        }
        problems.extend(addresses::settle(&mut next, &previous));
        self.entries = next;
        problems
    }
}

fn single(found: Found, before: Option<Standing>) -> Standing {
    match (found.content, before) {
        (Ok(object), _) => Standing::Good(object),
        (Err(stand_in), Some(good @ Standing::Good(_))) if !outlives(&stand_in, &good) => good,
        (Err(StandIn::Policy(policy)), _) => Standing::Closed(vec![policy]),
        (Err(StandIn::Pod(addresses)), _) => Standing::BrokenPod(addresses),
        (Err(StandIn::Nothing), before) => before.unwrap_or(Standing::Nothing),
    }
}

fn outlives(stand_in: &StandIn, last_good: &Standing) -> bool {
    matches!(last_good, Standing::Good(Object::Pod(pod)) if stand_in.outlives(pod))
}

fn duplicate(key: &ObjectKey, found: &[Found]) -> Problem {
    let places: Vec<&str> = found.iter().map(|f| f.source.as_str()).collect();
    Problem {
        source: places.first().copied().unwrap_or_default().to_owned(),
        object: key.to_string(),
        message: format!("is defined {} times: in {}", places.len(), places.join(", ")),
        ..Problem::default()
    }
}

/// Which of them is meant can't be told, unless they say the same.
fn duplicates(key: &ObjectKey, found: Vec<Found>, before: Option<Standing>) -> Standing {
    if let Some(Ok(first)) = found.first().map(|f| f.content.clone())
        && found.iter().all(|f| f.content.as_ref() == Ok(&first))
    {
        return Standing::Good(first);
    }
    if let Some(good @ Standing::Good(_)) = before {
        return good;
    }
    match key.kind {
        Kind::NetworkPolicy => Standing::Closed(closed_over(found)),
        Kind::Pod => Standing::BrokenPod(found.iter().flat_map(pod_addresses).collect()),
        Kind::Namespace | Kind::Node | Kind::Service | Kind::EndpointSlice => Standing::Nothing,
    }
}

/// One policy for each selection: the model has no union of selectors.
fn closed_over(found: Vec<Found>) -> Vec<Policy> {
    let mut list: Vec<Policy> = Vec::new();
    for Found { source, content, .. } in found {
        let (Ok(Object::Policy(policy)) | Err(StandIn::Policy(policy))) = content else { continue };
        let (ingress, egress) = (policy.ingress.is_some(), policy.egress.is_some());
        if let Some(same) = list.iter_mut().find(|p| p.subject == policy.subject) {
            let (ingress, egress) = (ingress || same.ingress.is_some(), egress || same.egress.is_some());
            *same = Policy::closed(same.id.clone(), policy.subject, ingress, egress);
            continue;
        }
        let mut id = policy.id;
        if !list.is_empty() {
            id.name = format!("{} {}", id.name, ObjectKey::stand_in_name(&source));
        }
        list.push(Policy::closed(id, policy.subject, ingress, egress));
    }
    list
}

fn pod_addresses(found: &Found) -> Vec<IpAddr> {
    match &found.content {
        Ok(Object::Pod(pod)) if pod.is_selectable() => pod.addresses.clone(),
        Err(StandIn::Pod(addresses)) => addresses.clone(),
        Ok(_) | Err(_) => Vec::new(),
    }
}

fn assemble(entries: &Entries) -> Cluster {
    let mut cluster = Cluster::default();
    for (key, entry) in entries {
        match &entry.standing {
            Standing::Good(Object::Namespace(labels)) => {
                cluster.namespaces.insert(key.id.name.clone(), labels.clone());
            }
            Standing::Good(Object::Node(node)) => {
                cluster.nodes.insert(key.id.name.clone(), node.clone());
            }
            Standing::Good(Object::Pod(pod)) => {
                cluster.pods.insert(pod.clone());
            }
            Standing::Good(Object::Policy(policy)) => {
                cluster.policies.insert(policy.id.clone(), policy.clone());
            }
            Standing::Good(Object::Service(service)) => {
                cluster.services.insert(service.clone());
            }
            Standing::Good(Object::EndpointSlice(slice)) => {
                cluster.services.insert_slice(slice.clone());
            }
            Standing::Closed(policies) => {
                cluster.policies.extend(policies.iter().map(|p| (p.id.clone(), p.clone())));
            }
            Standing::BrokenPod(addresses) => {
                cluster.broken_pods.insert(key.id.clone(), addresses.clone());
            }
            Standing::Nothing => {}
        }
    }
    let live = cluster.pods.values().filter(|p| p.is_selectable());
    let taken: BTreeSet<IpAddr> = live.flat_map(|p| p.addresses.iter().copied()).collect();
    // An address that a whole pod has finds that pod's interface.
    for addresses in cluster.broken_pods.values_mut() {
        addresses.retain(|address| !taken.contains(address));
        addresses.sort();
        addresses.dedup();
    }
    cluster
}

fn without(list: &[Problem], others: &[Problem]) -> Vec<Problem> {
    let others: BTreeSet<&Problem> = others.iter().collect();
    list.iter().filter(|problem| !others.contains(problem)).cloned().collect()
}
