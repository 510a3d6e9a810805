//! What happens while nobody hears it: gaps, lists that break, versions that are gone.

use policy_agent::source::cluster::Relist;
use sluice_apiserver::{Gone, Streaming};

use super::*;

fn server(streaming: Streaming) -> ApiServer {
    let server = ApiServer::start().expect("the double starts");
    server.set_faults(|faults| faults.streaming = streaming);
    for n in 1..=9 {
        server.put(pod(&format!("p{n}"), &format!("10.0.0.{n}"))).expect("put");
    }
    server
}

/// Deleted, changed and created while the server is not to be reached, and then all versions are forgotten.
#[tokio::test]
async fn what_vanished_in_a_gap_is_removed() {
    for (streaming, gone) in [
        (Streaming::Supported, Gone::Event),
        (Streaming::Supported, Gone::Status),
        (Streaming::Refused, Gone::Event),
        (Streaming::Refused, Gone::Status),
    ] {
        let mut server = server(streaming);
        server.set_faults(|faults| faults.gone = gone);
        let mut agent = Agent::start(&server).await;
        agent.synced().await;
        server.go_away();
        for n in 1..=5 {
            server.delete("pods", "dev", &format!("p{n}")).expect("delete");
        }
        server.put(pod("p1", "10.0.0.21")).expect("put");
        server.put(pod("late", "10.0.0.22")).expect("put");
        server.compact();
        server.come_back().expect("the port is free");
        agent.until("the pods of now", |agent| agent.pods() == ["late", "p1", "p6", "p7", "p8", "p9"]).await;
        let pod = agent.store.cluster().pods.get(&id("p1")).expect("the pod");
        assert_eq!(pod.addresses, ["10.0.0.21".parse::<std::net::IpAddr>().expect("an address")]);
        assert_eq!(agent.relists(Kind::Pod, Relist::Gone), 1, "{streaming:?} {gone:?}");
    }
}

#[tokio::test]
async fn a_gap_that_the_server_remembers_needs_no_list() {
    let mut server = server(Streaming::Supported);
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    server.go_away();
    server.delete("pods", "dev", "p1").expect("delete");
    server.put(pod("late", "10.0.0.22")).expect("put");
    server.come_back().expect("the port is free");
    agent.until("both changes", |agent| agent.pods().len() == 9 && agent.pods()[0] == "late").await;
    assert_eq!(agent.relists(Kind::Pod, Relist::Gone), 0);
}

#[tokio::test]
async fn a_list_that_breaks_off_removes_nothing() {
    let server = server(Streaming::Refused);
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    server.delete("pods", "dev", "p9").expect("delete");
    agent.until("one less", |agent| agent.pods().len() == 8).await;
    // The next lists end after their first page.
    server.set_faults(|faults| faults.break_pages = u32::MAX);
    server.cut_watches();
    server.delete("pods", "dev", "p8").expect("delete");
    server.compact();
    agent.until("a list broke", |agent| agent.relists(Kind::Pod, Relist::Broken) >= 1).await;
    let eight = ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"];
    agent.never("a broken list removed a pod", Duration::from_secs(2), |agent| agent.pods() != eight).await;
    assert!(!agent.source.stats().kind(Kind::Pod).is_current());
    assert!(
        agent.problems().iter().any(|text| text.contains("can't list pods: 500")),
        "{:?}",
        agent.problems()
    );
    server.set_faults(|faults| faults.break_pages = 0);
    agent.until("a whole list", |agent| agent.pods() == eight[..7]).await;
    assert_eq!(agent.problems(), [""; 0]);
}

#[tokio::test]
async fn a_streaming_list_that_breaks_off_removes_nothing() {
    let mut server = server(Streaming::Supported);
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    server.go_away();
    server.delete("pods", "dev", "p9").expect("delete");
    server.compact();
    server.set_faults(|faults| (faults.cut_watches_after, faults.cut_in_line) = (Some(4), true));
    server.come_back().expect("the port is free");
    agent.until("a list broke", |agent| agent.relists(Kind::Pod, Relist::Broken) >= 1).await;
    assert_eq!(agent.pods().len(), 9);
    server.set_faults(|faults| faults.cut_watches_after = None);
    agent.until("a whole list", |agent| agent.pods().len() == 8).await;
}

/// A list's pages may be forgotten before the last is read.
#[tokio::test]
async fn pages_that_are_gone_are_read_again_from_the_first() {
    let server = server(Streaming::Refused);
    server.set_faults(|faults| faults.delay = Duration::from_millis(150));
    let mut agent = Agent::start(&server).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.compact();
    server.set_faults(|faults| faults.delay = Duration::ZERO);
    agent.synced().await;
    assert_eq!(agent.pods().len(), 9);
}

#[tokio::test]
async fn events_that_are_late_or_come_twice() {
    let server = server(Streaming::Supported);
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    let old = server.objects("pods").into_iter().find(|pod| pod["metadata"]["name"] == "p1").expect("p1");
    server.put(pod("p1", "10.0.0.31")).expect("put");
    // The same object, older; and once more what is known.
    server.inject("pods", "MODIFIED", old.clone()).expect("inject");
    let new = server.objects("pods").into_iter().find(|pod| pod["metadata"]["name"] == "p1").expect("p1");
    server.inject("pods", "MODIFIED", new).expect("inject");
    // Another object had the name, and its end is told late.
    let mut former = old.clone();
    former["metadata"]["uid"] = "former".into();
    server.inject("pods", "DELETED", former).expect("inject");
    server.put(pod("mark", "10.0.0.40")).expect("put");
    agent.until("the mark", |agent| agent.pods().contains(&"mark".to_owned())).await;
    let pod = agent.store.cluster().pods.get(&id("p1")).expect("it is still there");
    assert_eq!(pod.addresses, ["10.0.0.31".parse::<std::net::IpAddr>().expect("an address")]);
    // One that went does not come back by an event that was late.
    server.delete("pods", "dev", "p2").expect("delete");
    let mut ghost = old;
    ghost["metadata"] = json!({
        "namespace": "dev", "name": "p2", "uid": "00000000-0000-4000-8000-000000000002", "resourceVersion": "2",
    });
    server.inject("pods", "MODIFIED", ghost).expect("inject");
    server.put(super::pod("mark2", "10.0.0.41")).expect("put");
    agent.until("the second mark", |agent| agent.pods().contains(&"mark2".to_owned())).await;
    assert!(!agent.pods().contains(&"p2".to_owned()));
    // The watch goes on from the newest version, not from a late one.
    server.cut_watches();
    server.put(super::pod("mark3", "10.0.0.42")).expect("put");
    agent.until("the third mark", |agent| agent.pods().contains(&"mark3".to_owned())).await;
    assert_eq!(agent.relists(Kind::Pod, Relist::Gone), 0);
}
