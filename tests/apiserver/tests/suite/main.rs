//! The agent's source over an API server: the double, or the real one where `KUBEBUILDER_ASSETS` names a folder with it.
//! What only the double can do, such as failing on purpose, is tested with it in either case.

mod access;
mod failures;
mod gaps;
mod real_or_double;
mod reports;
mod scale;
mod sync;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use policy_agent::model::ObjectName;
use policy_agent::source::cluster::{Access, ClusterSource, Events, LiveStore, Options, Timing};
use policy_agent::source::{Kind, Problem};
use serde_json::{Value, json};
use sluice_apiserver::ApiServer;

/// Nothing here takes this long, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent's part that reads the cluster.
struct Agent {
    source: ClusterSource,
    events: Events,
    store: LiveStore,
    solved: Vec<Problem>,
    _folder: tempfile::TempDir,
}

/// Short ones: a test waits for what an agent waits for.
fn timing() -> Timing {
    Timing { watch: Duration::from_secs(30), streaming: Duration::from_secs(1), page: 3, ..Timing::default() }
}

fn kubeconfig(url: &str, user: &Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [
            {"name": "test", "cluster": {"server": url, "insecure-skip-tls-verify": true}},
            {"name": "nowhere", "cluster": {"server": "http://127.0.0.1:1"}},
        ],
        "users": [{"name": "test", "user": user}],
        "contexts": [
            {"name": "test", "context": {"cluster": "test", "user": "test"}},
            {"name": "nowhere", "context": {"cluster": "nowhere", "user": "test"}},
        ],
    })
    .to_string()
}

impl Agent {
    async fn start(server: &ApiServer) -> Self {
        Self::with(&server.url(), &json!({}), None, timing()).await
    }

    async fn with(url: &str, user: &Value, context: Option<&str>, timing: Timing) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path: PathBuf = folder.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig(url, user)).expect("a kubeconfig");
        let access = Access { kubeconfig: vec![path], context: context.map(str::to_owned) };
        let options = Options { access, timing, node: "n1".to_owned() };
        let (source, events) = ClusterSource::start(options).await.expect("a source");
        Self { source, events, store: LiveStore::default(), solved: Vec::new(), _folder: folder }
    }

    /// Takes events until it is so.
    async fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while !so(self) {
            let left = PATIENCE.checked_sub(began.elapsed()).unwrap_or_default();
            // Some of what is waited for, such as a count, comes without an event.
            let pause = left.min(Duration::from_millis(100));
            match tokio::time::timeout(pause, self.events.next()).await {
                Ok(batch) => {
                    let (_, batch) = batch.expect("the watches go on");
                    self.solved.extend(self.store.apply(batch).solved_problems);
                }
                Err(_) => assert!(
                    !left.is_zero(),
                    "not within {PATIENCE:?}: {what}; {:?}; {:?}",
                    self.problems(),
                    self.store.cluster()
                ),
            }
        }
    }

    async fn synced(&mut self) {
        self.until("all kinds are listed", |agent| agent.store.synced()).await;
    }

    /// Takes events for a while in which nothing should become so.
    async fn never(&mut self, what: &str, time: Duration, mut so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if let Ok(Some((_, batch))) = tokio::time::timeout(left, self.events.next()).await {
                self.store.apply(batch);
            }
            assert!(!so(self), "{what}");
        }
    }

    fn pods(&mut self) -> Vec<String> {
        self.store.cluster().pods.names().map(|id| id.name.clone()).collect()
    }

    fn policies(&mut self) -> Vec<String> {
        self.store.cluster().policies.keys().map(|id| id.name.clone()).collect()
    }

    fn problems(&self) -> Vec<String> {
        self.store.problems().iter().map(ToString::to_string).collect()
    }

    fn relists(&self, kind: Kind, because: policy_agent::source::cluster::Relist) -> u64 {
        self.source.stats().kind(kind).relists(because)
    }
}

fn id(name: &str) -> ObjectName {
    ObjectName::new("dev", name)
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

fn pod(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "dev", "name": name, "labels": {"app": "web"}},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

fn policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "dev", "name": name}, "spec": spec,
    })
}

/// To the terminal, whether the test fails or not.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
