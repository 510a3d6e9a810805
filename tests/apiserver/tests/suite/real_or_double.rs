//! What holds over every API server, written to as a user writes: by HTTP.

use sluice_apiserver::{ASSETS, Cluster, RealServer};

use super::*;

enum Server {
    Double(ApiServer),
    Real(RealServer),
}

impl Server {
    fn start() -> Self {
        match RealServer::start().expect("the real API server starts") {
            Some(server) => {
                say(&format!("source suite: the REAL kube-apiserver, from {ASSETS}"));
                Self::Real(server)
            }
            None => {
                say(&format!("source suite: the DOUBLE of an API server ({ASSETS} is not set)"));
                Self::Double(ApiServer::start().expect("the double starts"))
            }
        }
    }

    fn cluster(&self) -> Cluster {
        match self {
            Self::Double(server) => server.cluster(),
            Self::Real(server) => server.cluster(),
        }
        .expect("a client")
    }

    async fn agent(&self) -> Agent {
        match self {
            Self::Double(server) => Agent::start(server).await,
            Self::Real(server) => {
                Agent::with(server.url(), &json!({"token": server.token()}), None, timing()).await
            }
        }
    }
}

/// A cluster from nothing, through changes of every kind, to an agent that comes later.
#[tokio::test]
async fn a_story() {
    let server = Server::start();
    let cluster = server.cluster();
    cluster.put(&namespace("dev", json!({"team": "a"}))).await.expect("put");
    cluster.put(&node("n1", "192.0.2.1")).await.expect("put");
    for n in 1..=7 {
        cluster.put(&pod(&format!("p{n}"), &format!("10.0.0.{n}"))).await.expect("put");
    }
    cluster.put(&policy("x", json!({"podSelector": {}, "policyTypes": ["Ingress"]}))).await.expect("put");
    let mut agent = server.agent().await;
    agent.synced().await;
    let state = agent.store.cluster().clone();
    assert_eq!(state.pods.len(), 7);
    let first = state.pods.get(&id("p1")).expect("the pod");
    assert_eq!(first.addresses, ["10.0.0.1".parse::<std::net::IpAddr>().expect("an address")]);
    assert_eq!((first.node.as_deref(), first.ports[0].port), (Some("n1"), 8080));
    assert_eq!(state.nodes.get("n1").map(|node| node.addresses.len()), Some(1));
    assert_eq!(
        state.namespaces.get("dev").and_then(|labels| labels.get("team")).map(String::as_str),
        Some("a")
    );
    assert_eq!(state.policies.len(), 1);
    assert_eq!(agent.problems(), [""; 0]);

    // Live: labels, an address, an end, deletions, a new object, a new rule.
    cluster.put(&namespace("dev", json!({"team": "b"}))).await.expect("put");
    let mut changed = pod("p1", "10.0.0.1");
    changed["metadata"]["labels"] = json!({"app": "db"});
    cluster.put(&changed).await.expect("put");
    let mut ended = pod("p2", "10.0.0.2");
    ended["status"]["phase"] = "Succeeded".into();
    cluster.put(&ended).await.expect("put");
    cluster.delete(&pod("p3", "")).await.expect("delete");
    cluster.put(&pod("p8", "10.0.0.3")).await.expect("put");
    cluster.put(&node("n2", "192.0.2.2")).await.expect("put");
    cluster.put(&policy("x", json!({"podSelector": {}, "ingress": [{}]}))).await.expect("put");
    cluster.put(&policy("y", json!({"podSelector": {}, "policyTypes": ["Egress"]}))).await.expect("put");
    agent
        .until("every change has come", |agent| {
            let cluster = agent.store.cluster();
            let pod = |name: &str| cluster.pods.get(&id(name));
            cluster
                .namespaces
                .get("dev")
                .and_then(|labels| labels.get("team"))
                .is_some_and(|team| team == "b")
                && pod("p1").is_some_and(|pod| pod.labels.get("app").is_some_and(|app| app == "db"))
                && pod("p2").is_some_and(|pod| pod.finished)
                && pod("p3").is_none()
                && pod("p8").is_some_and(|pod| !pod.addresses.is_empty())
                && cluster.nodes.len() == 2
                && cluster
                    .policies
                    .get(&id("x"))
                    .is_some_and(|x| x.ingress.as_ref().is_some_and(|r| r.len() == 1))
                && cluster.policies.contains_key(&id("y"))
        })
        .await;
    cluster.delete(&node("n2", "")).await.expect("delete");
    cluster.delete(&policy("y", json!({}))).await.expect("delete");
    agent
        .until("deletions have come", |agent| {
            let cluster = agent.store.cluster();
            cluster.nodes.len() == 1 && cluster.policies.len() == 1
        })
        .await;

    // Another agent, which knows only what is there now, knows the same.
    let mut later = server.agent().await;
    later.synced().await;
    assert_eq!(later.store.cluster(), agent.store.cluster());
    assert!(later.source.stats().is_current());
}

/// A name and an address that pass from pod to pod.
#[tokio::test]
async fn one_address_over_time() {
    let server = Server::start();
    let cluster = server.cluster();
    cluster.put(&namespace("dev", json!({}))).await.expect("put");
    let mut agent = server.agent().await;
    agent.synced().await;
    let mut uids = Vec::new();
    for _ in 0..5 {
        cluster.put(&pod("p", "10.0.0.1")).await.expect("put");
        let seen = uids.clone();
        agent
            .until("the pod that has the name now", |agent| {
                let pod = agent.store.cluster().pods.get(&id("p"));
                pod.is_some_and(|pod| !seen.contains(&pod.uid) && !pod.addresses.is_empty())
            })
            .await;
        let pod = agent.store.cluster().pods.get(&id("p")).map(|pod| pod.uid.clone());
        uids.extend(pod);
        cluster.delete(&pod_of("p")).await.expect("delete");
    }
    agent.until("the last is gone", |agent| agent.pods().is_empty()).await;
    assert_eq!(agent.store.cluster().pods.addresses().count(), 0);
}

fn pod_of(name: &str) -> Value {
    pod(name, "")
}
