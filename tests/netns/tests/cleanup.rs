//! Nothing of a world remains, however it ends.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sluice_netns::{Manifests, Netns, NodeSpec, PodSpec, Process, World};

fn small() -> Result<World> {
    World::builder("slt")
        .node(NodeSpec::new("node1"))
        .namespace("default", &[("team", "one")])
        .pod(
            PodSpec::new("default", "a", "node1")
                .label("app", "a")
                .port(Some("web"), 80, "TCP")
                .serve_tcp(80),
        )
        .build()
}

fn namespaces(beginning: &str) -> Result<Vec<String>> {
    let output = Command::new("ip").args(["netns", "list"]).output()?;
    ensure!(output.status.success(), "ip netns list");
    let words = String::from_utf8(output.stdout)?;
    Ok(words.lines().filter(|line| line.starts_with(beginning)).map(str::to_owned).collect())
}

#[test]
fn dropping_removes_every_namespace() -> Result<()> {
    let world = small()?;
    let id = format!("{}-", world.id());
    assert_eq!(namespaces(&id)?.len(), 3, "the wire, a node and a pod");
    drop(world);
    assert!(namespaces(&id)?.is_empty());
    Ok(())
}

#[test]
fn a_panic_removes_every_namespace() -> Result<()> {
    let mut id = String::new();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let world = small().unwrap();
        id = format!("{}-", world.id());
        panic!("as a failing test does");
    }));
    assert!(result.is_err() && !id.is_empty());
    assert!(namespaces(&id)?.is_empty());
    Ok(())
}

#[test]
fn what_cannot_be_built_leaves_nothing() -> Result<()> {
    let error = World::builder("sltbad")
        .node(NodeSpec::new("node1"))
        .pod(PodSpec::new("default", "a", "node2"))
        .build();
    let error = format!("{:#}", error.unwrap_err());
    assert!(error.contains("default/a") && error.contains("node2"), "{error}");
    assert!(namespaces(&format!("sltbad-{}-", std::process::id()))?.is_empty());
    Ok(())
}

#[test]
fn a_removed_pod_takes_its_interface_along() -> Result<()> {
    let mut world = small()?;
    let interface = world.pod("default/a")?.host_interface.clone();
    let node = world.node("node1")?.ns().clone();
    let links = || -> Result<String> {
        Ok(String::from_utf8(node.output(Command::new("ip").args(["-o", "link"]))?.stdout)?)
    };
    assert!(links()?.contains(&interface));
    world.remove_pod("default/a")?;
    assert!(!links()?.contains(&interface));
    let again = world.add_pod(PodSpec::new("default", "a", "node1"))?;
    assert_ne!(again.host_interface, interface);
    Ok(())
}

#[test]
fn a_process_ends_with_its_owner() -> Result<()> {
    let world = small()?;
    let process = Process::spawn(&world.pod("default/a")?.ns, Command::new("sleep").arg("60"))?;
    let pid = process.id();
    drop(process);
    assert!(!fs::exists(format!("/proc/{pid}"))?);
    Ok(())
}

#[test]
fn leftovers_of_dead_processes_are_swept() -> Result<()> {
    let mut ended = Command::new("true").spawn()?;
    ended.wait()?;
    let name = format!("sltdead-{}-0-node1", ended.id());
    ensure!(Command::new("ip").args(["netns", "add", &name]).status()?.success(), "ip netns add");
    let mut left = Netns::named(&name).spawn(Command::new("sleep").arg("60"))?;

    let own = World::builder("sltdead").build()?;
    assert!(namespaces(&name)?.is_empty());
    let deadline = Instant::now() + Duration::from_secs(5);
    while left.try_wait()?.is_none() {
        ensure!(Instant::now() < deadline, "the process in the swept namespace still runs");
        thread::sleep(Duration::from_millis(10));
    }
    World::sweep("sltdead")?;
    assert_eq!(namespaces(&format!("{}-", own.id()))?.len(), 1, "a living process's world stays");
    Ok(())
}

#[test]
fn manifests_describe_the_world() -> Result<()> {
    let world = small()?;
    let manifests = Manifests::of(&world)?;
    let read = |file: &str| -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&fs::read_to_string(manifests.path().join(file))?)?)
    };
    let pod = read("pod-default-a.json")?;
    assert_eq!(pod["status"]["podIPs"][0]["ip"], "10.244.1.2");
    assert_eq!(pod["status"]["podIPs"][1]["ip"], "fd00:10:244:1::2");
    assert_eq!(pod["spec"]["nodeName"], "node1");
    assert_eq!(pod["spec"]["containers"][0]["ports"][0]["name"], "web");
    let namespace = read("namespace-default.json")?;
    assert_eq!(namespace["metadata"]["labels"]["team"], "one");
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "default");
    assert_eq!(read("node-node1.json")?["status"]["addresses"][0]["address"], "192.0.2.1");

    manifests.write("policy.yaml", "one")?;
    manifests.write("policy.yaml", "two")?;
    assert_eq!(fs::read_to_string(manifests.path().join("policy.yaml"))?, "two");
    manifests.remove("policy.yaml")?;
    assert_eq!(fs::read_dir(manifests.path())?.count(), 3, "no unfinished file is left");
    Ok(())
}
