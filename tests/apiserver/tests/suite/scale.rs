//! A cluster of some size.

use sluice_apiserver::Streaming;

use super::*;

const PODS: usize = 10_000;

#[tokio::test]
async fn ten_thousand_pods() {
    let server = ApiServer::start().expect("the double starts");
    for n in 0..PODS {
        let mut pod =
            pod(&format!("web-{n:05}"), &format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255));
        // As long as those of a real cluster.
        pod["metadata"]["managedFields"] =
            json!([{"manager": "kubelet", "fieldsV1": {"f:status": "x".repeat(3000)}}]);
        server.put(pod).expect("put");
    }
    for streaming in [Streaming::Supported, Streaming::Refused] {
        server.set_faults(|faults| faults.streaming = streaming);
        let began = Instant::now();
        let timing = Timing { page: 500, ..timing() };
        let mut agent = Agent::with(&server.url(), &json!({}), None, timing).await;
        agent.synced().await;
        let took = began.elapsed();
        assert_eq!(agent.store.cluster().pods.len(), PODS);
        say(&format!("{PODS} pods, streaming {streaming:?}: in sync after {took:.2?}"));
        assert!(took < Duration::from_secs(30), "{took:?}");
        let pods = &agent.store.cluster().pods;
        let first = pods.values().next().expect("a pod");
        assert!(
            pods.values().all(|pod| std::sync::Arc::ptr_eq(&pod.labels, &first.labels)),
            "pods of a workload share their labels"
        );
    }
}
