//! A server that fails, refuses, or is away: what is known stays, it is told, and it passes.

use policy_agent::source::cluster::EventType;
use sluice_apiserver::{Refusal, Streaming};

use super::*;

fn server() -> ApiServer {
    let server = ApiServer::start().expect("the double starts");
    for n in 1..=3 {
        server.put(pod(&format!("p{n}"), &format!("10.0.0.{n}"))).expect("put");
    }
    server.put(policy("x", json!({"podSelector": {}}))).expect("put");
    server
}

#[tokio::test]
async fn a_server_that_is_away_for_a_while() {
    let mut server = server();
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    agent.until("every watch is open", |agent| agent.source.stats().is_current()).await;
    server.go_away();
    agent
        .until("it is told", |agent| !agent.source.stats().is_current() && !agent.problems().is_empty())
        .await;
    assert!(
        agent.problems().iter().all(|text| text.starts_with("API server: can't watch ")),
        "{:?}",
        agent.problems()
    );
    assert_eq!((agent.pods().len(), agent.policies().len()), (3, 1), "what is known stays");
    assert!(agent.store.synced());
    server.put(pod("p4", "10.0.0.4")).expect("put");
    server.come_back().expect("the port is free");
    agent.until("what is new", |agent| agent.pods().len() == 4).await;
    agent
        .until("all is well", |agent| agent.source.stats().is_current() && agent.problems().is_empty())
        .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_yet() {
    let mut server = server();
    server.go_away();
    let mut agent = Agent::start(&server).await;
    agent.until("it is told of every kind", |agent| agent.problems().len() == Kind::ALL.len()).await;
    assert!(!agent.store.synced());
    server.come_back().expect("the port is free");
    agent.synced().await;
    assert_eq!(agent.pods().len(), 3);
}

#[tokio::test]
async fn one_kind_that_is_forbidden_leaves_the_others_alone() {
    let server = server();
    server.set_faults(|faults| faults.refuse("networkpolicies", Refusal::always(403)));
    let mut agent = Agent::start(&server).await;
    agent
        .until("the other kinds are there", |agent| {
            agent.store.unsynced().eq([Kind::NetworkPolicy]) && !agent.problems().is_empty()
        })
        .await;
    assert_eq!(
        agent.problems(),
        [
            "API server: may not list networkpolicies: a ClusterRole of ours must have the rule {apiGroups: [\"networking.k8s.io\"], \
             resources: [networkpolicies], verbs: [list, watch]} (403: refused, as the test wants it)"
        ]
    );
    assert!(!agent.store.synced() && !agent.source.stats().is_current());
    server.put(pod("p4", "10.0.0.4")).expect("put");
    agent.until("pods go on", |agent| agent.pods().len() == 4).await;
    server.set_faults(|faults| faults.refuse.clear());
    agent.synced().await;
    assert_eq!((agent.policies(), agent.problems()), (vec!["x".to_owned()], vec![]));
    assert_eq!(agent.solved.len(), 1);
}

#[tokio::test]
async fn a_server_that_is_busy_says_when_to_ask_again() {
    let server = server();
    let busy = Refusal { code: 429, retry_after: Some(3), times: Some(1) };
    server.set_faults(|faults| faults.refuse("pods", busy));
    let began = Instant::now();
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    let asked: u64 = server.used().iter().filter(|(a, _)| a.resource == "pods").map(|(_, count)| count).sum();
    assert_eq!(asked, 2, "it was not asked in between");
}

/// Every stream ends, at once or in the middle of a line, and all the same everything comes.
#[tokio::test]
async fn a_storm_of_disconnects() {
    for in_line in [false, true] {
        let server = server();
        let mut agent = Agent::start(&server).await;
        agent.synced().await;
        server.set_faults(|faults| (faults.cut_watches_after, faults.cut_in_line) = (Some(1), in_line));
        server.cut_watches();
        for n in 10..14 {
            server.put(pod(&format!("p{n}"), &format!("10.0.1.{n}"))).expect("put");
        }
        server.delete("pods", "dev", "p1").expect("delete");
        let asked = |server: &ApiServer| server.used().values().sum::<u64>();
        let before = asked(&server);
        agent.until("all five changes", |agent| agent.pods().len() == 6).await;
        let during = asked(&server) - before;
        // Four kinds, and a pause between any two attempts: no storm of ours.
        assert!(during < 60, "{during} requests");
        server.set_faults(|faults| faults.cut_watches_after = None);
        agent
            .until("all is well", |agent| agent.source.stats().is_current() && agent.problems().is_empty())
            .await;
    }
}

#[tokio::test]
async fn a_broken_policy_is_closed_until_it_is_mended() {
    let server = server();
    server.put(policy("bad", json!({"podSelector": {}, "ingress": [{"form": []}]}))).expect("put");
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    let rules = |agent: &mut Agent, name: &str| {
        let policies = &agent.store.cluster().policies;
        policies.get(&id(name)).and_then(|policy| policy.ingress.as_ref().map(Vec::len))
    };
    assert_eq!(rules(&mut agent, "bad"), Some(0), "closed");
    assert_eq!(agent.problems(), ["NetworkPolicy dev/bad: spec.ingress[0].form: []: unknown field"]);
    server.put(policy("bad", json!({"podSelector": {}, "ingress": [{"from": []}]}))).expect("put");
    agent.until("it is mended", |agent| agent.problems().is_empty()).await;
    assert_eq!(rules(&mut agent, "bad"), Some(1));
    // And one that gets worse keeps what it was.
    server
        .put(policy("bad", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 0}]}]})))
        .expect("put");
    agent.until("it is told", |agent| agent.problems().len() == 1).await;
    assert_eq!(rules(&mut agent, "bad"), Some(1));
    server.delete("networkpolicies", "dev", "bad").expect("delete");
    agent.until("it is gone", |agent| agent.problems().is_empty() && agent.policies() == ["x"]).await;
}

/// A server's error in the stream, which is not that a version is gone.
#[tokio::test]
async fn an_error_in_the_stream_is_no_end() {
    let server = server();
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500, "message": "etcd"});
    server.inject("pods", "ERROR", status).expect("inject");
    server.inject("pods", "WHATEVER", json!({})).expect("inject");
    server.put(pod("p4", "10.0.0.4")).expect("put");
    agent.until("the watch goes on", |agent| agent.pods().len() == 4).await;
    assert_eq!(agent.source.stats().kind(Kind::Pod).events(EventType::Error), 1);
}

/// An agent that is slow holds the server back, and loses nothing.
#[tokio::test]
async fn a_flood_waits_for_the_agent() {
    let server = server();
    server.set_faults(|faults| faults.streaming = Streaming::Refused);
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    for n in 0..20_000 {
        let mut changed = pod("p1", "10.0.0.1");
        changed["metadata"]["labels"] = json!({"n": n.to_string()});
        server.put(changed).expect("put");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut largest = 0;
    let began = Instant::now();
    loop {
        let (_, batch) =
            tokio::time::timeout(PATIENCE, agent.events.next()).await.expect("in time").expect("events");
        largest = largest.max(batch.len());
        agent.store.apply(batch);
        let pod = agent.store.cluster().pods.get(&id("p1")).expect("the pod");
        if pod.labels.get("n").is_some_and(|n| n == "19999") {
            break;
        }
        assert!(began.elapsed() < PATIENCE);
    }
    assert!((100..=4096).contains(&largest), "{largest}");
}
