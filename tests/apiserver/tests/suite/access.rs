//! Who we are to the server, and what we use of it.

use policy_agent::source::cluster::ConnectError;
use sluice_apiserver::Role;

use super::*;

const ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: sluice}
rules:
- {apiGroups: [''], resources: [namespaces, nodes, pods, services], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list, watch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create]}
";

#[tokio::test]
async fn list_and_watch_are_all_that_is_used() {
    let server = ApiServer::start().expect("the double starts");
    server.enforce(Role::from_yaml(ROLE).expect("a role"));
    server.put(pod("p", "10.0.0.1")).expect("put");
    let mut agent = Agent::start(&server).await;
    agent.synced().await;
    let used: Vec<String> = server.used().keys().map(ToString::to_string).collect();
    assert_eq!(
        used,
        [
            "watch namespaces (core)",
            "watch nodes (core)",
            "watch pods (core)",
            "watch services (core)",
            "watch endpointslices (discovery.k8s.io)",
            "watch networkpolicies (networking.k8s.io)",
        ]
    );
    // A role that lacks something is told by what it lacks.
    let lacking = ApiServer::start().expect("the double starts");
    lacking.enforce(Role::from_yaml(&ROLE.replace("nodes, ", "")).expect("a role"));
    let mut agent = Agent::start(&lacking).await;
    agent.until("it is told", |agent| !agent.problems().is_empty()).await;
    let problems = agent.problems();
    assert!(
        problems[0].contains("{apiGroups: [\"\"], resources: [nodes], verbs: [list, watch]}"),
        "{problems:?}"
    );
}

#[tokio::test]
async fn a_token_in_the_kubeconfig_or_in_a_file() {
    let server = ApiServer::start().expect("the double starts");
    server.require_token("secret");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    std::fs::write(&path, "secret").expect("a token");
    for user in [json!({"token": "secret"}), json!({"tokenFile": path})] {
        let mut agent = Agent::with(&server.url(), &user, None, timing()).await;
        agent.synced().await;
    }
    let mut agent = Agent::with(&server.url(), &json!({"token": "wrong"}), None, timing()).await;
    agent.until("it is told", |agent| agent.problems().len() == Kind::ALL.len()).await;
    assert!(
        agent.problems()[0]
            .contains("the API server does not know us by our credentials (401: Unauthorized)"),
        "{:?}",
        agent.problems()
    );
}

#[tokio::test]
async fn contexts_of_a_kubeconfig() {
    let server = ApiServer::start().expect("the double starts");
    let mut agent = Agent::with(&server.url(), &json!({}), Some("test"), timing()).await;
    agent.synced().await;
    assert_eq!(agent.source.server(), format!("{}/", server.url()));
    let nowhere = Agent::with(&server.url(), &json!({}), Some("nowhere"), timing()).await;
    assert_eq!(nowhere.source.server(), "http://127.0.0.1:1/");
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kubeconfig");
    let start = async |context: Option<&str>| {
        let access = Access { kubeconfig: vec![path.clone()], context: context.map(str::to_owned) };
        let error =
            ClusterSource::start(Options { access, ..Options::default() }).await.expect_err("an error");
        assert!(matches!(error, ConnectError::Kubeconfig { .. }), "{error:?}");
        error.to_string()
    };
    let named = format!("the kubeconfig {} can't be used: ", path.display());
    let missing = start(None).await;
    assert!(missing.starts_with(&named) && missing.contains("No such file"), "{missing}");
    std::fs::write(&path, "[").expect("a file");
    assert!(start(None).await.starts_with(&named));
    std::fs::write(&path, kubeconfig("http://127.0.0.1:1", &json!({}))).expect("a file");
    let context = start(Some("other")).await;
    assert!(context.contains("other"), "{context}");
}

/// The double is enough of a server for `kubectl get`.
#[test]
fn kubectl_lists_what_the_double_has() {
    let server = ApiServer::start().expect("the double starts");
    server.put(pod("web-0", "10.0.0.1")).expect("put");
    server.put(policy("deny", json!({"podSelector": {}}))).expect("put");
    let url = server.url();
    let kubectl = |arguments: &[&str]| {
        let home = tempfile::tempdir().expect("a folder");
        let output = std::process::Command::new("kubectl")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .args(["--server", &url])
            .args(arguments)
            .output();
        match output {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                Some(text)
            }
            Err(error) => {
                say(&format!("kubectl is not here ({error}): NOT TESTED that it can read the double"));
                assert!(std::env::var_os("CI").is_none(), "CI has kubectl");
                None
            }
        }
    };
    if let Some(text) = kubectl(&["get", "pods", "-A"]) {
        assert!(text.contains("web-0"), "{text}");
        let names = kubectl(&["get", "netpol", "-n", "dev", "-o", "name"]);
        assert_eq!(names.as_deref(), Some("networkpolicy.networking.k8s.io/deny\n"));
    }
}
