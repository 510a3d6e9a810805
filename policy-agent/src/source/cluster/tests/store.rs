//! Events to state, one rule at a time.

use super::*;
use crate::model::Owner;

fn store(events: impl IntoIterator<Item = Event>) -> LiveStore {
    let mut store = LiveStore::default();
    store.apply(events);
    store
}

fn names(store: &mut LiveStore) -> Vec<String> {
    store.tracked().cluster().pods.names().map(|id| id.name.clone()).collect()
}

#[test]
fn what_vanished_in_a_gap_goes_at_the_end_of_the_list_and_not_before() {
    let list = [
        Event::Init(Kind::Pod),
        apply_pod("a", "1", 1, "10.0.0.1"),
        apply_pod("b", "2", 2, "10.0.0.2"),
        Event::InitDone(Kind::Pod),
    ];
    let mut store = store(list);
    store.apply([Event::Init(Kind::Pod), apply_pod("b", "2", 2, "10.0.0.2")]);
    assert_eq!(names(&mut store), ["a", "b"], "half a list removes nothing");
    store.apply([Event::Init(Kind::Pod), apply_pod("c", "3", 3, "10.0.0.3")]);
    assert_eq!(names(&mut store), ["a", "b", "c"], "nor does a second half");
    store.apply([Event::InitDone(Kind::Pod)]);
    assert_eq!(names(&mut store), ["c"]);
    store.apply([Event::InitDone(Kind::Pod)]);
    assert_eq!(names(&mut store), ["c"], "an end without a beginning says nothing");
}

#[test]
fn synced_is_when_every_kind_was_listed() {
    let mut store = LiveStore::default();
    for kind in Kind::ALL {
        assert!(!store.synced());
        store.apply([Event::Init(kind)]);
        assert!(!store.synced(), "{kind:?}");
        store.apply([Event::InitDone(kind)]);
    }
    assert!(store.synced());
    store.apply([Event::Init(Kind::Pod)]);
    assert!(store.synced(), "what was known stays known while it is listed again");
}

#[test]
fn events_that_come_twice_or_late_change_nothing() {
    let mut store = store([apply_pod("a", "1", 5, "10.0.0.5")]);
    store.tracked().take_changes();
    let update = store.apply([apply_pod("a", "1", 5, "10.0.0.5"), apply_pod("a", "1", 4, "10.0.0.4")]);
    assert!(!update.changed);
    assert!(store.tracked().changes().is_empty());
    // The object that had the name before.
    store.apply([apply_pod("a", "0", 3, "10.0.0.3"), delete(Kind::Pod, "a", "0", 4)]);
    let pods = &store.tracked().cluster().pods;
    assert_eq!(pods.get(&ObjectName::new("dev", "a")).expect("the pod").uid, "1");
    // One that went does not come back.
    store.apply([delete(Kind::Pod, "a", "1", 6), apply_pod("a", "1", 5, "10.0.0.5")]);
    assert_eq!(names(&mut store), [""; 0]);
}

#[test]
fn the_list_is_right_where_versions_went_back() {
    let mut store =
        store([Event::Init(Kind::Pod), apply_pod("a", "1", 500, "10.0.0.5"), Event::InitDone(Kind::Pod)]);
    // Restored from a backup, as only a list tells.
    store.apply([
        Event::Init(Kind::Pod),
        apply_pod("a", "1", 5, "10.0.0.1"),
        apply_pod("a", "1", 4, "10.0.0.2"),
        Event::InitDone(Kind::Pod),
    ]);
    assert!(matches!(store.tracked().cluster().pods.owner(address("10.0.0.1")), Owner::Pod(_)));
}

#[test]
fn an_address_goes_to_the_next_pod_and_stays_there() {
    let old = Pod { created: 1, ..pod("old", "1", "10.0.0.1") };
    let new = Pod { created: 2, ..pod("new", "2", "10.0.0.1") };
    let mut store = store([
        apply(key(Kind::Pod, "old"), "1", 1, Ok(Object::Pod(old))),
        apply(key(Kind::Pod, "new"), "2", 2, Ok(Object::Pod(new))),
    ]);
    let owner = |store: &mut LiveStore| match store.tracked().cluster().pods.owner(address("10.0.0.1")) {
        Owner::Pod(pod) => pod.id.name.clone(),
        other => format!("{other:?}"),
    };
    assert_eq!(owner(&mut store), "new");
    assert_eq!(store.problems(), []);
    store.apply([delete(Kind::Pod, "old", "1", 3)]);
    assert_eq!(owner(&mut store), "new");
    // Two that nothing tells apart are closed, and told.
    store.apply([apply_pod("x", "8", 8, "10.0.0.9"), apply_pod("y", "9", 9, "10.0.0.9")]);
    let problems: Vec<String> = store.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        ["Pod dev/x: status.podIPs: \"10.0.0.9\": several pods have this address: dev/x, dev/y"]
    );
}

#[test]
fn a_broken_policy_keeps_its_last_good_version_and_else_is_closed() {
    let policy = |n| {
        apply(
            key(Kind::NetworkPolicy, "x"),
            "1",
            n,
            Ok(Object::Policy(Policy { ingress: None, ..closed("x") })),
        )
    };
    let broken = |uid, n| apply(key(Kind::NetworkPolicy, "x"), uid, n, Err(StandIn::Policy(closed("x"))));
    let isolates = |store: &mut LiveStore| {
        let policies = &store.tracked().cluster().policies;
        policies.get(&ObjectName::new("dev", "x")).map(|policy| policy.ingress.is_some())
    };
    let mut store = store([policy(1)]);
    let update = store.apply([broken("1", 2)]);
    assert_eq!((isolates(&mut store), update.new_problems.len()), (Some(false), 1));
    let update = store.apply([policy(3)]);
    assert_eq!((update.solved_problems.len(), store.problems()), (1, vec![]));
    // Another object of the same name has no good version yet.
    store.apply([broken("2", 4)]);
    assert_eq!(isolates(&mut store), Some(true));
    let reference = store.reference(&key(Kind::NetworkPolicy, "x")).expect("it is known");
    assert_eq!(reference.uid, "2");
    let update = store.apply([delete(Kind::NetworkPolicy, "x", "2", 5)]);
    assert_eq!((isolates(&mut store), update.solved_problems.len(), store.problems()), (None, 1, vec![]));
    assert_eq!(store.reference(&key(Kind::NetworkPolicy, "x")), None);
}

#[test]
fn broken_pods_leave_their_addresses_to_whole_ones() {
    let stand_in = || Err(StandIn::Pod(vec![address("10.0.0.1"), address("10.0.0.2")]));
    let mut store = store([apply(key(Kind::Pod, "b"), "1", 1, stand_in())]);
    let broken =
        |store: &mut LiveStore| store.tracked().cluster().broken_pods.values().cloned().collect::<Vec<_>>();
    assert_eq!(broken(&mut store), [[address("10.0.0.1"), address("10.0.0.2")]]);
    store.apply([apply_pod("a", "2", 2, "10.0.0.1")]);
    assert_eq!(broken(&mut store), [[address("10.0.0.2")]]);
    store.apply([delete(Kind::Pod, "a", "2", 3)]);
    assert_eq!(broken(&mut store), [[address("10.0.0.1"), address("10.0.0.2")]]);
    store.apply([apply_pod("b", "1", 4, "10.0.0.1")]);
    assert!(broken(&mut store).is_empty());
    // A last good version that had ended was another pod, as far as its addresses go.
    let ended = Pod { finished: true, ..pod("b", "1", "10.0.0.1") };
    store.apply([apply(key(Kind::Pod, "b"), "1", 5, Ok(Object::Pod(ended)))]);
    store.apply([apply(key(Kind::Pod, "b"), "1", 6, stand_in())]);
    assert_eq!(broken(&mut store).len(), 1);
    assert_eq!(names(&mut store), [""; 0]);
}

#[test]
fn namespaces_and_nodes() {
    let labels = || Object::Namespace([("team".to_owned(), "a".to_owned())].into());
    let mut store = store([
        apply(key(Kind::Namespace, "dev"), "1", 1, Ok(labels())),
        apply(key(Kind::Node, "n1"), "2", 2, Ok(Object::Node(vec![address("192.0.2.1")].into()))),
        apply(key(Kind::Namespace, "dev"), "1", 3, Err(StandIn::Nothing)),
        apply(key(Kind::Node, "n2"), "3", 4, Err(StandIn::Nothing)),
    ]);
    let cluster = store.tracked().cluster();
    assert_eq!((cluster.namespaces.len(), cluster.nodes.len()), (1, 1));
    assert_eq!(store.broken().count(), 2);
    // Another namespace of the name, which cannot be read, has not the labels of the one before.
    store.apply([apply(key(Kind::Namespace, "dev"), "9", 9, Err(StandIn::Nothing))]);
    assert!(store.tracked().cluster().namespaces.is_empty());
    store.apply([delete(Kind::Namespace, "dev", "9", 10), delete(Kind::Node, "n1", "2", 11)]);
    assert!(store.tracked().cluster().nodes.is_empty());
}

#[test]
fn troubles_are_problems_until_they_are_over() {
    let trouble = Problem { message: "may not".to_owned(), ..Problem::default() };
    let mut store = LiveStore::default();
    let update = store.apply([Event::Trouble(Kind::Pod, Some(trouble.clone()))]);
    assert_eq!((update.new_problems, store.problems()), (vec![trouble.clone()], vec![trouble.clone()]));
    let update = store.apply([Event::Trouble(Kind::Pod, None)]);
    assert_eq!((update.solved_problems, store.problems()), (vec![trouble.clone()], vec![]));
    let update = store.apply([Event::Trouble(Kind::Pod, Some(trouble)), Event::Trouble(Kind::Pod, None)]);
    assert_eq!(update, crate::source::Update::default(), "what came and went is no news");
}
