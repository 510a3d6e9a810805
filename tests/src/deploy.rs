//! What is installed in a cluster: the objects of `deploy/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// `deploy/` in the workspace.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The objects of a file in `deploy/`, as it is committed.
pub fn objects_of(file: &str) -> Result<Vec<Value>> {
    let path = folder().join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    objects(&text)
}

/// The objects that the chart gives with these `--set` values; an error has Helm's words.
pub fn render(values: &[&str], kubernetes: &str) -> Result<Vec<Value>> {
    let mut command = Command::new(helm()?);
    command.args(["template", "sluice"]).arg(folder().join("chart/sluice"));
    command.args(["--namespace", "kube-system", "--kube-version", kubernetes]);
    for value in values {
        command.args(["--set", value]);
    }
    let output = command.output().context("running helm")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    objects(&String::from_utf8(output.stdout)?)
}

/// The Helm that `cargo xtask test` names, or the one that it has fetched before.
fn helm() -> Result<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/helm");
    let path = std::env::var_os("SLUICE_HELM").map_or(fetched, PathBuf::from);
    ensure!(
        path.is_file(),
        "there is no Helm at {}: run `cargo xtask chart`, or name one by SLUICE_HELM (nothing is skipped without it)",
        path.display()
    );
    Ok(path)
}

fn objects(text: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in text.split("\n---\n") {
        let object: Option<Value> = serde_saphyr::from_str(document).with_context(|| document.to_owned())?;
        objects.extend(object.filter(|object| !object.is_null()));
    }
    Ok(objects)
}

/// The one object of this kind.
pub fn find<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    match (found.next(), found.next()) {
        (Some(object), None) => Ok(object),
        (None, _) => bail!("there is no {kind}"),
        (Some(_), Some(_)) => bail!("there is more than one {kind}"),
    }
}

/// The container of this name in the pod of a DaemonSet.
pub fn container<'a>(daemon_set: &'a Value, name: &str) -> Result<&'a Value> {
    let spec = &daemon_set["spec"]["template"]["spec"];
    let all = ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array()).flatten();
    all.into_iter()
        .find(|container| container["name"] == name)
        .with_context(|| format!("there is no container {name}"))
}

/// The capabilities that a container has: all others are dropped.
pub fn capabilities(container: &Value) -> Result<Vec<String>> {
    let capabilities = &container["securityContext"]["capabilities"];
    ensure!(capabilities["drop"] == serde_json::json!(["ALL"]), "not all capabilities are dropped first");
    let added = capabilities["add"].as_array().map(Vec::as_slice).unwrap_or_default();
    added.iter().map(|name| Ok(name.as_str().context("a capability's name")?.to_owned())).collect()
}

/// Reads an object as this type of Kubernetes; a field that the type doesn't have is an error that names it.
pub fn strict<T: DeserializeOwned>(object: &Value) -> Result<T> {
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(object, |path| unknown.push(path.to_string()));
    let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
    let read = read.with_context(|| name.clone())?;
    ensure!(unknown.is_empty(), "{name} has fields that Kubernetes does not know: {unknown:?}");
    Ok(read)
}
