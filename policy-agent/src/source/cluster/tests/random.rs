//! Any order of events that ends with a complete list gives the server's state.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::Tracked;

/// What the server does, and what becomes of the words about it on their way.
#[derive(Clone, Debug)]
enum Step {
    /// Creates or changes the object of this name.
    Put {
        name: usize,
        shape: Shape,
    },
    Delete {
        name: usize,
    },
    /// Deleted and created again.
    Replace {
        name: usize,
        shape: Shape,
    },
    /// The last event is lost, until the next list.
    Lose,
    /// An earlier event comes once more.
    Repeat {
        which: usize,
    },
    /// The last two events change places.
    Swap,
    /// A list that breaks off after as many objects.
    HalfList {
        length: usize,
    },
    List,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Good { address: u8 },
    Finished { address: u8 },
    Broken { address: u8 },
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn shape() -> impl Strategy<Value = Shape> {
    (0..3_u8, 1..4_u8).prop_map(|(of, address)| match of {
        0 => Shape::Good { address },
        1 => Shape::Finished { address },
        _ => Shape::Broken { address },
    })
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    prop_oneof![
        6 => (name(), shape()).prop_map(|(name, shape)| Step::Put { name, shape }),
        2 => name().prop_map(|name| Step::Delete { name }),
        2 => (name(), shape()).prop_map(|(name, shape)| Step::Replace { name, shape }),
        2 => Just(Step::Lose),
        2 => (0..64_usize).prop_map(|which| Step::Repeat { which }),
        2 => Just(Step::Swap),
        1 => (0..4_usize).prop_map(|length| Step::HalfList { length }),
        1 => Just(Step::List),
    ]
}

/// A server with pods, as a plain map.
#[derive(Default)]
struct Server {
    version: u64,
    uids: u64,
    pods: BTreeMap<&'static str, (u64, u64, Shape)>,
    events: Vec<Event>,
}

impl Server {
    fn put(&mut self, name: &'static str, shape: Shape, afresh: bool) {
        self.version += 1;
        self.uids += 1;
        let old = self.pods.get(name).filter(|_| !afresh).map(|(uid, ..)| *uid);
        let pod = (old.unwrap_or(self.uids), self.version, shape);
        self.pods.insert(name, pod);
        self.events.push(sighting(name, pod));
    }

    fn delete(&mut self, name: &'static str) {
        if let Some((uid, ..)) = self.pods.remove(name) {
            self.version += 1;
            self.events.push(delete(Kind::Pod, name, &uid.to_string(), self.version));
        }
    }

    fn list(&self) -> impl Iterator<Item = Event> {
        self.pods.iter().map(|(name, pod)| sighting(name, *pod))
    }
}

fn sighting(name: &str, (uid, version, shape): (u64, u64, Shape)) -> Event {
    let uid = uid.to_string();
    let content = match shape {
        Shape::Good { address } => Ok(Object::Pod(pod(name, &uid, &format!("10.0.0.{address}")))),
        Shape::Finished { address } => {
            Ok(Object::Pod(Pod { finished: true, ..pod(name, &uid, &format!("10.0.0.{address}")) }))
        }
        Shape::Broken { address: last } => Err(StandIn::Pod(vec![address(&format!("10.0.0.{last}"))])),
    };
    apply(key(Kind::Pod, name), &uid, version, content)
}

/// What of the cluster does not depend on the past: of a broken pod, its last good version may stand.
fn check(store: &mut LiveStore, server: &Server, whole: &Tracked) -> Result<(), TestCaseError> {
    let broken: Vec<&str> = server
        .pods
        .iter()
        .filter(|(_, (.., shape))| matches!(shape, Shape::Broken { .. }))
        .map(|(name, _)| *name)
        .collect();
    let cluster = store.tracked().cluster().clone();
    for name in NAMES {
        let id = ObjectName::new("dev", name);
        let there = (cluster.pods.get(&id), cluster.broken_pods.contains_key(&id));
        if broken.contains(&name) {
            // One of the two, and the pod that stands is the same object.
            prop_assert_ne!(there.0.is_some(), there.1, "{}", name);
            let uid = server.pods.get(name).map(|(uid, ..)| uid.to_string());
            prop_assert!(there.0.is_none_or(|pod| Some(&pod.uid) == uid.as_ref()), "{}", name);
        } else {
            prop_assert_eq!(there, (whole.cluster().pods.get(&id), false), "{}", name);
        }
    }
    let told: Vec<String> = store.broken().map(|(key, _)| key.id.name.clone()).collect();
    prop_assert_eq!(told, broken);
    // No address of a broken pod is a whole one's.
    for addresses in cluster.broken_pods.values() {
        prop_assert!(addresses.iter().all(|address| cluster.pods.claimants(*address).is_empty()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_the_servers(steps in prop::collection::vec(step(), 0..60), batch in 1..8_usize) {
        let mut server = Server::default();
        let mut store = LiveStore::default();
        let mut told: Vec<Event> = Vec::new();
        let mut waiting: Vec<Event> = Vec::new();
        for step in steps {
            match step {
                Step::Put { name, shape } => server.put(NAMES[name], shape, false),
                Step::Replace { name, shape } => {
                    server.delete(NAMES[name]);
                    server.put(NAMES[name], shape, true);
                }
                Step::Delete { name } => server.delete(NAMES[name]),
                Step::Lose => drop(waiting.pop()),
                Step::Repeat { which } if !told.is_empty() => waiting.push(told[which % told.len()].clone()),
                Step::Swap if waiting.len() > 1 => {
                    let last = waiting.len() - 1;
                    waiting.swap(last, last - 1);
                }
                Step::Repeat { .. } | Step::Swap => {}
                Step::HalfList { length } => {
                    waiting.push(Event::Init(Kind::Pod));
                    waiting.extend(server.list().take(length));
                }
                Step::List => {
                    waiting.push(Event::Init(Kind::Pod));
                    waiting.extend(server.list());
                    waiting.push(Event::InitDone(Kind::Pod));
                }
            }
            let news = std::mem::take(&mut server.events);
            told.extend(news.iter().cloned());
            waiting.extend(news);
            if waiting.len() >= batch {
                store.apply(waiting.drain(..));
            }
        }
        store.apply(waiting);
        store.apply([Event::Init(Kind::Pod)]);
        store.apply(server.list());
        store.apply([Event::InitDone(Kind::Pod)]);
        let mut whole = Tracked::default();
        for event in server.list() {
            if let Event::Apply(sighting) = event && let Ok(Object::Pod(pod)) = sighting.content {
                whole.insert_pod(pod);
            }
        }
        check(&mut store, &server, &whole)?;
    }

    /// What is told as changed is all that has changed.
    #[test]
    fn no_change_is_forgotten(steps in prop::collection::vec(step(), 1..40)) {
        let mut server = Server::default();
        let mut store = LiveStore::default();
        for step in steps {
            match step {
                Step::Put { name, shape } => server.put(NAMES[name], shape, false),
                Step::Replace { name, shape } => server.put(NAMES[name], shape, true),
                Step::Delete { name } => server.delete(NAMES[name]),
                _ => continue,
            }
            let before = store.tracked().cluster().clone();
            store.tracked().take_changes();
            let events = std::mem::take(&mut server.events);
            let update = store.apply(events);
            let changes = store.tracked().take_changes();
            let now = store.tracked().cluster();
            prop_assert_eq!(update.changed, !changes.is_empty());
            for name in NAMES {
                let id = ObjectName::new("dev", name);
                let same = before.pods.get(&id) == now.pods.get(&id)
                    && before.broken_pods.get(&id) == now.broken_pods.get(&id);
                prop_assert!(same || changes.pods.contains(&id), "{}", name);
            }
        }
    }
}
