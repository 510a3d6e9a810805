//! What the parts do together; each part's own tests are beside it.

mod documents;
mod duplicates;
mod folder;
mod fuzz;
mod messages;
mod objects;
mod services;
mod store;
mod watch;

use std::net::IpAddr;

use super::*;
use crate::model::{Cluster, ObjectName, Policy};

/// One read of a folder of these files.
fn folder(files: &[(&str, &str)]) -> FolderRead {
    let files = files.iter().map(|(name, text)| read_text(name, text.as_bytes().to_vec())).collect();
    FolderRead { files, problem: None }
}

fn update(store: &mut Store, files: &[(&str, &str)]) -> Update {
    store.update(folder(files))
}

/// All that is wrong with one file, as a user reads it.
fn problems(name: &str, text: &str) -> Vec<String> {
    let mut store = Store::default();
    update(&mut store, &[(name, text)]);
    store.problems().iter().map(ToString::to_string).collect()
}

fn cluster(text: &str) -> Cluster {
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", text)]);
    assert_eq!(store.problems(), [], "{text}");
    store.cluster().clone()
}

fn policy_text(name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: dev, name: {name}}}\nspec:\n{spec}"
    )
}

fn pod_text(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: dev, name: {name}}}\nstatus: {{podIPs: [{{ip: \"{address}\"}}]}}\n"
    )
}

fn dev(name: &str) -> ObjectName {
    ObjectName::new("dev", name)
}

fn the_policy(text: &str) -> Policy {
    let cluster = cluster(text);
    assert_eq!(cluster.policies.len(), 1);
    cluster.policies.into_values().next().expect("one policy")
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn broken_pods(store: &Store) -> Vec<(ObjectName, Vec<IpAddr>)> {
    store.cluster().broken_pods.clone().into_iter().collect()
}
