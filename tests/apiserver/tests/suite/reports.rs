//! Events on objects.

use std::sync::atomic::Ordering::Relaxed;

use policy_agent::source::ObjectKey;
use policy_agent::source::cluster::{Concern, Reference};
use sluice_apiserver::Refusal;

use super::*;

fn reference(kind: Kind, name: &str) -> Reference {
    Reference { key: ObjectKey { kind, id: id(name) }, uid: "u1".to_owned() }
}

#[tokio::test]
async fn the_same_is_told_once_and_by_one_node() {
    let server = ApiServer::start().expect("the double starts");
    server.put(policy("x", json!({"podSelector": {}, "ingres": []}))).expect("put");
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    let (key, problems) =
        agent.store.broken().next().map(|(k, p)| (k.clone(), p.to_vec())).expect("a problem");
    let about = agent.store.reference(&key).expect("it is known");
    let note = problems[0].to_string();
    let mut other = Agent::start(&server).await;
    other.synced().await;
    for _ in 0..20 {
        agent.source.reporter().report(about.clone(), Concern::Invalid, note.clone());
        other.source.reporter().report(about.clone(), Concern::Invalid, note.clone());
    }
    agent.source.reporter().report(reference(Kind::Pod, "p"), Concern::EndpointFailed, "no such interface");
    agent.until("the events", |_| server.objects("events").len() == 2).await;
    agent.never("a third event", Duration::from_secs(1), |_| server.objects("events").len() > 2).await;
    let events = server.objects("events");
    let event =
        events.iter().find(|event| event["regarding"]["kind"] == "NetworkPolicy").expect("the policy's");
    assert_eq!(event["note"], "NetworkPolicy dev/x: spec.ingres: []: unknown field");
    assert_eq!(
        (&event["reason"], &event["type"], &event["action"]),
        (&json!("InvalidFields"), &json!("Warning"), &json!("Read"))
    );
    assert_eq!(event["reportingController"], "sluice.dev/policy-agent");
    assert_eq!(event["reportingInstance"], "n1");
    assert_eq!(event["metadata"]["namespace"], "dev");
    let uid = server.objects("networkpolicies")[0]["metadata"]["uid"].clone();
    assert_eq!(
        event["regarding"],
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "namespace": "dev", "name": "x", "uid": uid,
        })
    );
    let used = server.used();
    let of_events: Vec<&str> = used.keys().filter(|a| a.resource == "events").map(|a| a.verb).collect();
    assert_eq!(of_events, ["create"], "nothing but creating is used");
}

#[tokio::test]
async fn a_flood_is_cut_and_never_waits() {
    let server = ApiServer::start().expect("the double starts");
    server.set_faults(|faults| faults.delay = Duration::from_millis(20));
    let agent = Agent::start(&server).await;
    let began = Instant::now();
    for n in 0..10_000 {
        agent.source.reporter().report(reference(Kind::Pod, &format!("p{n}")), Concern::TableFull, "no room");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let stats = agent.source.stats();
    let wait = Instant::now();
    while stats.reports_sent.load(Relaxed) < 25 {
        assert!(wait.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(stats.reports_sent.load(Relaxed) <= 26, "a burst, and then one every six seconds");
    assert!(stats.reports_lost.load(Relaxed) >= 9_000);
}

#[tokio::test]
async fn events_that_are_forbidden_disturb_nothing() {
    let server = ApiServer::start().expect("the double starts");
    server.set_faults(|faults| faults.refuse("events", Refusal::always(403)));
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    agent.source.reporter().report(reference(Kind::Pod, "p"), Concern::Invalid, "bad");
    agent.until("it is lost", |agent| agent.source.stats().reports_lost.load(Relaxed) == 1).await;
    server.put(pod("p", "10.0.0.1")).expect("put");
    agent.until("the watches go on", |agent| agent.pods() == ["p"]).await;
    // Once it may, the same is told.
    server.set_faults(|faults| faults.refuse.clear());
    agent.source.reporter().report(reference(Kind::Pod, "p"), Concern::Invalid, "bad");
    agent.until("it is told", |_| server.objects("events").len() == 1).await;
}
