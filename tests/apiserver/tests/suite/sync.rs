//! The first list: streamed where the server streams, in pages where not.

use policy_agent::source::cluster::{EventType, Relist};
use sluice_apiserver::{Faults, Streaming};

use super::*;

fn server(faults: impl FnOnce(&mut Faults)) -> ApiServer {
    let server = ApiServer::start().expect("the double starts");
    server.set_faults(faults);
    for n in 1..=10 {
        server.put(pod(&format!("p{n:02}"), &format!("10.0.0.{n}"))).expect("put");
    }
    server.put(namespace("dev", json!({}))).expect("put");
    server.put(node("n1", "192.0.2.1")).expect("put");
    server.put(policy("x", json!({"podSelector": {}}))).expect("put");
    server
}

fn uses(server: &ApiServer, verb: &str, resource: &str) -> u64 {
    let used = server.used();
    used.iter().filter(|(a, _)| a.verb == verb && a.resource == resource).map(|(_, count)| count).sum()
}

async fn is_complete(agent: &mut Agent, server: &ApiServer) {
    agent.synced().await;
    let cluster = agent.store.cluster();
    let sizes = (cluster.pods.len(), cluster.namespaces.len(), cluster.nodes.len(), cluster.policies.len());
    assert_eq!(sizes, (10, 1, 1, 1));
    // And the watch goes on from the list, however that came.
    server.put(pod("new", "10.0.0.99")).expect("put");
    agent.until("a pod that came after the list", |agent| agent.pods().len() == 11).await;
}

#[tokio::test]
async fn a_server_that_streams_lists_is_not_asked_for_pages() {
    let server = server(|_| {});
    let mut agent = Agent::start(&server).await;
    is_complete(&mut agent, &server).await;
    assert_eq!((uses(&server, "list", "pods"), uses(&server, "watch", "pods")), (0, 1));
    let stats = agent.source.stats().kind(Kind::Pod);
    assert_eq!((stats.events(EventType::Listed), stats.events(EventType::Added)), (10, 1));
    assert_eq!((stats.relists(Relist::Start), stats.relists(Relist::NoStreaming)), (1, 0));
}

#[tokio::test]
async fn a_server_that_refuses_to_stream_lists_is_read_in_pages() {
    let server = server(|faults| faults.streaming = Streaming::Refused);
    let mut agent = Agent::start(&server).await;
    is_complete(&mut agent, &server).await;
    // Ten pods on pages of three.
    assert_eq!(uses(&server, "list", "pods"), 4);
    assert_eq!(agent.relists(Kind::Pod, Relist::NoStreaming), 1);
    assert_eq!(agent.problems(), [""; 0], "that is no trouble");
}

#[tokio::test]
async fn a_server_that_does_not_know_streaming_lists_is_read_in_pages() {
    let server = server(|faults| faults.streaming = Streaming::Ignored);
    let mut agent = Agent::start(&server).await;
    is_complete(&mut agent, &server).await;
    assert_eq!(uses(&server, "list", "pods"), 4);
    // It is not tried again in vain: each try costs a second here, and ten in the field.
    server.compact();
    server.put(pod("newer", "10.0.0.100")).expect("put");
    agent.until("the newer pod", |agent| agent.pods().len() == 12).await;
    assert_eq!(agent.relists(Kind::Pod, Relist::NoStreaming), 1);
}

#[tokio::test]
async fn a_server_without_objects() {
    for streaming in [Streaming::Supported, Streaming::Refused] {
        let server = ApiServer::start().expect("the double starts");
        server.set_faults(|faults| faults.streaming = streaming);
        let mut agent = Agent::start(&server).await;
        agent.synced().await;
        assert!(agent.pods().is_empty());
    }
}

#[tokio::test]
async fn bookmarks_tell_that_nothing_has_happened() {
    let server = server(|faults| faults.bookmarks = Some(Duration::from_millis(200)));
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    agent
        .until("bookmarks of every kind", |agent| {
            Kind::ALL.iter().all(|kind| agent.source.stats().kind(*kind).events(EventType::Bookmark) >= 3)
        })
        .await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    for kind in Kind::ALL {
        let heard = agent.source.stats().kind(kind).last_heard().expect("something was heard");
        assert!(now.abs_diff(heard) <= 3, "{kind:?}: {heard}, now {now}");
    }
}
