//! What is enforced of what the watches tell: pure, and right for any order of events that ends with a complete list.
//!
//! A version that is older than the one we have is ignored. A list is as new as all that came before it, so that the first
//! word of a list on an object holds whatever its version says: an API server may be restored from a backup.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::super::fault::{Problem, short_json};
use super::super::object::{Kind, Object, ObjectKey, StandIn};
use super::super::store::Update;
use super::event::{Departure, Event, Sighting, Version};
use crate::model::{Cluster, ObjectName, Owner, Tracked};

#[derive(Debug, Default)]
pub struct LiveStore {
    tracked: Tracked,
    kinds: BTreeMap<Kind, Known>,
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    /// Why nothing comes of a kind.
    troubles: BTreeMap<Kind, Problem>,
    /// Pods that were never whole, with all addresses that they say are theirs.
    broken_pods: BTreeMap<ObjectName, Vec<IpAddr>>,
}

/// The objects of a kind.
#[derive(Debug, Default)]
struct Known {
    entries: HashMap<ObjectName, Entry>,
    /// Counts the lists; in an entry, the last that it was in.
    list: u32,
    listing: bool,
    listed: bool,
    gone: Gone,
}

#[derive(Debug)]
struct Entry {
    uid: Box<str>,
    version: Version,
    seen: u32,
    form: Form,
}

/// What of an object is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Itself, perhaps in its last good version.
    Good,
    StandIn,
    Nothing,
}

/// The uids of objects that went lately: an event that comes late must not bring them back.
#[derive(Debug, Default)]
struct Gone {
    latest: HashSet<Box<str>>,
    before: HashSet<Box<str>>,
}

/// Events that come late come within moments.
const MOST_GONE: usize = 1024;

impl Gone {
    fn insert(&mut self, uid: &str) {
        if self.latest.len() >= MOST_GONE {
            self.before = std::mem::take(&mut self.latest);
        }
        if !uid.is_empty() {
            self.latest.insert(uid.into());
        }
    }

    fn contains(&self, uid: &str) -> bool {
        self.latest.contains(uid) || self.before.contains(uid)
    }
}

/// What an Event on an object must name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    pub key: ObjectKey,
    pub uid: String,
}

impl LiveStore {
    /// What the changes name is what differs; whoever compiles takes them.
    pub const fn tracked(&mut self) -> &mut Tracked {
        &mut self.tracked
    }

    /// What is enforced of all that came.
    pub const fn cluster(&self) -> &Cluster {
        self.tracked.cluster()
    }

    /// Every kind was listed completely at least once.
    pub fn synced(&self) -> bool {
        self.unsynced().next().is_none()
    }

    /// The kinds of which no complete list has come yet.
    pub fn unsynced(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| !self.kinds.get(kind).is_some_and(|known| known.listed))
    }

    /// All that is wrong at present: with the watches, with objects, and with addresses that several pods claim.
    pub fn problems(&self) -> Vec<Problem> {
        let told = self.troubles.values().chain(self.problems.values().flatten()).cloned();
        told.chain(self.contested()).collect()
    }

    /// The object as an Event must name it, if there is one.
    pub fn reference(&self, key: &ObjectKey) -> Option<Reference> {
        let entry = self.kinds.get(&key.kind)?.entries.get(&key.id)?;
        Some(Reference { key: key.clone(), uid: entry.uid.to_string() })
    }

    /// What is wrong with objects, by object.
    pub fn broken(&self) -> impl Iterator<Item = (&ObjectKey, &[Problem])> {
        self.problems.iter().map(|(key, problems)| (key, problems.as_slice()))
    }

    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> Update {
        let mut update = Update::default();
        for event in events {
            match event {
                Event::Init(kind) => self.kinds.entry(kind).or_default().begin(),
                Event::Apply(sighting) => self.sighted(*sighting, &mut update),
                Event::InitDone(kind) => self.listed(kind, &mut update),
                Event::Delete(departure) => self.departed(&departure, &mut update),
                Event::Trouble(kind, problem) => self.trouble(kind, problem, &mut update),
            }
        }
        self.settle_broken_pods();
        update.changed = !self.tracked.changes().is_empty();
        update
    }

    fn sighted(&mut self, sighting: Sighting, update: &mut Update) {
        let Sighting { key, uid, version, content, problems } = sighting;
        let known = self.kinds.entry(key.kind).or_default();
        if let Some(before) = known.entries.get(&key.id) {
            let first_of_list = known.listing && before.seen != known.list;
            if !first_of_list && version.is_older_than(&before.version) {
                return;
            }
        }
        if known.gone.contains(&uid) {
            return;
        }
        let before =
            known.entries.get(&key.id).filter(|before| *before.uid == *uid).map(|before| before.form);
        let form = match content {
            Ok(object) => {
                self.write(&key.id, object);
                Form::Good
            }
            Err(stand_in) => self.write_stand_in(&key, stand_in, before),
        };
        let known = self.kinds.entry(key.kind).or_default();
        let entry = Entry { uid: uid.into(), version, seen: known.list, form };
        known.entries.insert(key.id.clone(), entry);
        self.tell(key, problems, update);
    }

    fn write(&mut self, id: &ObjectName, object: Object) {
        match object {
            Object::Namespace(labels) => self.tracked.insert_namespace(id.name.clone(), labels),
            Object::Node(node) => self.tracked.insert_node(id.name.clone(), node),
            Object::Policy(policy) => self.tracked.insert_policy(policy),
            Object::Service(service) => self.tracked.insert_service(service),
            Object::EndpointSlice(slice) => self.tracked.insert_slice(slice),
            Object::Pod(pod) => {
                self.broken_pods.remove(id);
                self.tracked.insert_pod(pod);
            }
        }
    }

    /// The same object's last good version stays, else what stands for it.
    fn write_stand_in(&mut self, key: &ObjectKey, stand_in: StandIn, before: Option<Form>) -> Form {
        let last_good = self.tracked.cluster().pods.get(&key.id).filter(|_| key.kind == Kind::Pod);
        let outlived = last_good.is_some_and(|pod| stand_in.outlives(pod));
        match (stand_in, before) {
            (_, Some(Form::Good)) if !outlived => Form::Good,
            (StandIn::Policy(policy), _) => {
                self.tracked.insert_policy(policy);
                Form::StandIn
            }
            (StandIn::Pod(addresses), _) => {
                self.tracked.insert_broken_pod(key.id.clone(), addresses.clone());
                self.broken_pods.insert(key.id.clone(), addresses);
                Form::StandIn
            }
            (StandIn::Nothing, Some(form)) => form,
            (StandIn::Nothing, None) => {
                self.erase(key);
                Form::Nothing
            }
        }
    }

    fn departed(&mut self, departure: &Departure, update: &mut Update) {
        let Departure { key, uid, version } = departure;
        let Some(known) = self.kinds.get_mut(&key.kind) else { return };
        known.gone.insert(uid);
        let Some(entry) = known.entries.get(&key.id) else { return };
        // Another object has the name now, or it says so of a time before.
        if *entry.uid != **uid || (uid.is_empty() && version.is_older_than(&entry.version)) {
            return;
        }
        known.entries.remove(&key.id);
        self.remove(key.clone(), update);
    }

    fn listed(&mut self, kind: Kind, update: &mut Update) {
        let known = self.kinds.entry(kind).or_default();
        if !known.listing {
            return;
        }
        (known.listing, known.listed) = (false, true);
        let vanished: Vec<ObjectName> =
            known.entries.extract_if(|_, entry| entry.seen != known.list).map(|(id, _)| id).collect();
        for id in vanished {
            self.remove(ObjectKey { kind, id }, update);
        }
    }

    fn remove(&mut self, key: ObjectKey, update: &mut Update) {
        self.erase(&key);
        self.tell(key, Vec::new(), update);
    }

    fn erase(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Namespace => self.tracked.remove_namespace(&key.id.name),
            Kind::Node => self.tracked.remove_node(&key.id.name),
            Kind::NetworkPolicy => self.tracked.remove_policy(&key.id),
            Kind::Service => self.tracked.remove_service(&key.id),
            Kind::EndpointSlice => self.tracked.remove_slice(&key.id),
            Kind::Pod => {
                self.broken_pods.remove(&key.id);
                self.tracked.remove_pod(&key.id);
            }
        }
    }

    /// An address that a whole pod has finds that pod's interface, and no broken one's.
    fn settle_broken_pods(&mut self) {
        for (name, addresses) in &self.broken_pods {
            let pods = &self.tracked.cluster().pods;
            let free: Vec<IpAddr> =
                addresses.iter().copied().filter(|address| pods.claimants(*address).is_empty()).collect();
            self.tracked.insert_broken_pod(name.clone(), free);
        }
    }

    fn tell(&mut self, key: ObjectKey, now: Vec<Problem>, update: &mut Update) {
        let before = match now.is_empty() {
            true => self.problems.remove(&key),
            false => self.problems.insert(key, now.clone()),
        };
        compare(&before.unwrap_or_default(), &now, update);
    }

    fn trouble(&mut self, kind: Kind, now: Option<Problem>, update: &mut Update) {
        let before = match now.clone() {
            None => self.troubles.remove(&kind),
            Some(now) => self.troubles.insert(kind, now),
        };
        compare(before.as_slice(), now.as_slice(), update);
    }

    /// The compiler closes both sides of an address whose owner nothing tells.
    fn contested(&self) -> impl Iterator<Item = Problem> {
        let pods = &self.tracked.cluster().pods;
        pods.shared_addresses().filter(|address| matches!(pods.owner(*address), Owner::Contested)).map(
            |address| {
                let names: Vec<String> =
                    pods.claimants(address).iter().map(|pod| pod.id.to_string()).collect();
                Problem {
                    object: format!("Pod {}", names.first().map_or("", String::as_str)),
                    field: "status.podIPs".to_owned(),
                    value: short_json(&address),
                    message: format!("several pods have this address: {}", names.join(", ")),
                    ..Problem::default()
                }
            },
        )
    }
}

impl Known {
    fn begin(&mut self) {
        self.list = self.list.wrapping_add(1);
        self.listing = true;
        self.gone = Gone::default();
    }
}

fn compare(before: &[Problem], now: &[Problem], update: &mut Update) {
    let (old, new): (BTreeSet<&Problem>, BTreeSet<&Problem>) =
        (before.iter().collect(), now.iter().collect());
    for problem in new.difference(&old) {
        if !take(&mut update.solved_problems, problem) {
            update.new_problems.push((*problem).clone());
        }
    }
    for problem in old.difference(&new) {
        if !take(&mut update.new_problems, problem) {
            update.solved_problems.push((*problem).clone());
        }
    }
}

/// What came and went within one update is no news.
fn take(list: &mut Vec<Problem>, problem: &Problem) -> bool {
    let found = list.iter().position(|other| other == problem);
    found.map(|at| list.swap_remove(at)).is_some()
}
