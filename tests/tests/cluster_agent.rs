//! The agent as in a cluster: fed by an API server, with the rights that `deploy/install.yaml` gives it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_netns::{Agent, AgentOptions, NodeSpec, PodSpec, World, WorldBuilder};
use sluice_tests::agent_world::{FOLLOW_TIMEOUT, eventually, policy, policy_file, shell};
use sluice_tests::cluster_world::ClusterLab;

const DENY: &str = "podSelector: {}, policyTypes: [Ingress]";
const FROM_PROD: &str = "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: prod}}}], ports: [{port: 80}]}]";

fn pod(namespace: &str, name: &str, node: &str) -> PodSpec {
    PodSpec::new(namespace, name, node).serve_tcp(80)
}

fn world() -> WorldBuilder {
    World::builder("slapi")
        .node(NodeSpec::new("node1"))
        .node(NodeSpec::new("node2"))
        .pod(pod("dev", "web", "node1"))
        .pod(pod("dev", "far", "node2"))
        .pod(pod("prod", "web", "node1"))
        .pod(pod("prod", "far", "node2"))
}

fn apply(cluster: &mut ClusterLab, name: &str, spec: &str) -> Result<()> {
    cluster.lab.manifests.write(&policy_file(name), &policy(name, spec))?;
    cluster.write()
}

fn delete(cluster: &mut ClusterLab, name: &str) -> Result<()> {
    cluster.lab.manifests.remove(&policy_file(name))?;
    cluster.write()
}

/// Waits until every agent says so.
fn wait_until(cluster: &ClusterLab, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
    eventually(Duration::from_secs(20), || {
        for agent in &cluster.lab.agents {
            let status = agent.status()?;
            if !holds(&status) {
                return Ok(Some(format!("not {what}: {status:#}\n{}", agent.log())));
            }
        }
        Ok(None)
    })
}

#[test]
fn what_the_api_server_says_is_enforced_with_the_role_of_the_daemon_set_alone() -> Result<()> {
    let mut cluster = ClusterLab::start(world(), &[])?;
    wait_until(&cluster, "synced", |status| status["synced"] == true)?;
    cluster.wait_for("prod/web dev/web tcp/80 opens\nprod/far dev/far tcp/80 opens")?;
    apply(&mut cluster, "dev/deny", DENY)?;
    cluster.settle(
        "prod/web dev/web tcp/80 hangs\nprod/far dev/web tcp/80 hangs\nprod/web dev/far tcp/80 hangs",
    )?;
    cluster.lab.manifests.namespace("prod", &[("team", "prod")])?;
    apply(&mut cluster, "dev/from-prod", FROM_PROD)?;
    cluster.settle(
        "prod/web dev/web tcp/80 opens\nprod/far dev/far tcp/80 opens\ndev/web dev/far tcp/80 hangs",
    )?;

    // A pod whose object comes after its interface, and one whose object goes after it.
    let late = cluster.lab.world.add_pod(pod("dev", "late", "node1"))?.clone();
    cluster.lab.manifests.pod(&late)?;
    cluster.settle("prod/far dev/late tcp/80 opens\ndev/web dev/late tcp/80 hangs")?;
    cluster.lab.world.remove_pod("dev/late")?;
    cluster.lab.manifests.remove_pod(&late)?;
    // Its address is another's at once: a peer that dev lets in.
    let heir = pod("prod", "heir", "node1").address(late.ipv4.into()).address(late.ipv6.into());
    let heir = cluster.lab.world.add_pod(heir)?.clone();
    cluster.lab.manifests.pod(&heir)?;
    // It has another MAC: who knows the old one waits for seconds.
    for pod in cluster.lab.world.pods() {
        shell(&pod.ns, "ip neigh flush dev eth0")?;
    }
    shell(&cluster.lab.ns("node1")?, "ip neigh flush dev cni0")?;
    cluster.settle("prod/heir dev/far tcp/80 opens\ndev/web prod/heir tcp/80 opens")?;

    delete(&mut cluster, "dev/from-prod")?;
    delete(&mut cluster, "dev/deny")?;
    cluster.settle("dev/web dev/far tcp/80 opens\nprod/heir dev/web tcp/80 opens")?;
    wait_until(&cluster, "without errors", |status| status["errors"] == json!([]))?;
    cluster.check_role_is_used_up()
}

#[test]
fn while_the_api_server_is_away_what_was_enforced_stays_and_status_tells() -> Result<()> {
    let mut cluster = ClusterLab::start(world(), &[])?;
    apply(&mut cluster, "dev/deny", DENY)?;
    let closed =
        "prod/web dev/web tcp/80 hangs\nprod/web dev/far tcp/80 hangs\ndev/web prod/far tcp/80 opens";
    cluster.settle(closed)?;
    cluster.go_away();
    wait_until(&cluster, "out of sync", |status| status["synced"] == false)?;
    cluster.lab.expect(closed);
    // An agent that begins meanwhile knows nothing, and changes nothing.
    cluster.lab.agent().kill()?;
    cluster.lab.agent().restart()?;
    thread::sleep(Duration::from_secs(1));
    cluster.lab.expect(closed);
    // What vanished during the gap is removed, what came is there.
    cluster.lab.manifests.remove(&policy_file("dev/deny"))?;
    cluster.lab.manifests.write(&policy_file("prod/deny"), &policy("prod/deny", DENY))?;
    cluster.write()?;
    cluster.server.compact();
    cluster.lab.expect_probes("prod/web dev/web tcp/80 hangs");
    cluster.come_back()?;
    cluster.wait_for(
        "prod/web dev/web tcp/80 opens\ndev/far prod/web tcp/80 hangs\ndev/web prod/far tcp/80 hangs",
    )?;
    wait_until(&cluster, "synced", |status| status["synced"] == true)
}

#[test]
fn a_policy_that_is_not_understood_closes_its_pods_and_an_event_on_it_says_why() -> Result<()> {
    let mut cluster = ClusterLab::start(world(), &[])?;
    cluster.wait_for("prod/web dev/web tcp/80 opens")?;
    apply(&mut cluster, "dev/wrong", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]")?;
    cluster.settle("prod/web dev/web tcp/80 hangs\nprod/web dev/far tcp/80 hangs")?;
    eventually(Duration::from_secs(20), || {
        let events = cluster.server.objects("events");
        let told = events.iter().any(|event| {
            event["regarding"]["name"] == "wrong"
                && event["note"].as_str().is_some_and(|note| note.contains("10.0.0.0/33"))
        });
        Ok((!told).then(|| format!("no event says so: {events:?}")))
    })?;
    apply(&mut cluster, "dev/wrong", "podSelector: {}, ingress: [{}]")?;
    cluster.settle("prod/web dev/web tcp/80 opens")
}

#[test]
fn a_role_that_lacks_a_right_is_told_and_nothing_is_opened() -> Result<()> {
    let mut cluster = ClusterLab::without_agents(world())?;
    let role = "kind: ClusterRole\nrules:\n- apiGroups: ['']\n  resources: [pods, namespaces, nodes]\n  verbs: [list, watch]\n";
    cluster.server.enforce(sluice_apiserver::Role::from_yaml(role)?);
    cluster.write()?;
    cluster.start_agents(&[])?;
    wait_until(&cluster, "told what is missing", |status| {
        let errors = status["errors"].to_string();
        status["synced"] == false && errors.contains("networkpolicies") && errors.contains("list")
    })?;
    ensure!(cluster.lab.agent().status()?["endpoints"] == json!([]), "something is enforced");
    Ok(())
}

#[test]
fn an_interface_that_no_pod_explains_is_closed_where_that_is_asked_for() -> Result<()> {
    let mut cluster = ClusterLab::start(world(), &["--unknown-endpoints", "closed"])?;
    cluster.wait_for("prod/web dev/web tcp/80 opens")?;
    // Its object never comes.
    cluster.lab.world.add_pod(pod("dev", "stranger", "node1"))?;
    eventually(FOLLOW_TIMEOUT, || {
        let wrong = cluster.lab.mismatches_of_probes(
            "prod/web dev/stranger tcp/80 hangs\ndev/stranger prod/web tcp/80 hangs\nnode1 dev/stranger tcp/80 opens",
        )?;
        Ok((!wrong.is_empty()).then(|| format!("{wrong:?}")))
    })?;
    let stranger = cluster.lab.world.pod("dev/stranger")?.clone();
    cluster.lab.manifests.pod(&stranger)?;
    cluster.settle("prod/web dev/stranger tcp/80 opens\ndev/stranger prod/web tcp/80 opens")
}

/// The agent of one node reads all of a cluster: in a fraction of a second for each thousand pods, and in little memory.
#[test]
fn a_large_cluster_is_read_in_seconds_and_in_little_memory() -> Result<()> {
    let pods: u32 = if std::env::var_os("SLUICE_TEST_LONG").is_some() { 100_000 } else { 10_000 };
    let mut cluster = ClusterLab::without_agents(world())?;
    cluster.write()?;
    crowd(&cluster, pods)?;
    let begun = Instant::now();
    cluster.start_agents(&[])?;
    eventually(Duration::from_secs(120), || {
        let status = cluster.lab.agent().status()?;
        Ok((status["synced"] != true).then(|| format!("not synced: {status:#}")))
    })?;
    let synced = begun.elapsed();
    cluster.wait_for("prod/web dev/web tcp/80 opens")?;
    apply(&mut cluster, "dev/everybody", EVERYBODY)?;
    let changed = Instant::now();
    cluster.settle("prod/web dev/web tcp/80 opens\ndev/web dev/far tcp/80 opens")?;
    apply(&mut cluster, "dev/everybody", "podSelector: {}, policyTypes: [Ingress]")?;
    cluster.settle("prod/web dev/web tcp/80 hangs")?;
    let memory = memory(cluster.lab.agent().id())?;
    println!(
        "{pods} pods: two agents and the server started and synced in {synced:?}, two changes of policy seen in {:?}, highest RSS {} MiB",
        changed.elapsed(),
        memory >> 20
    );
    ensure!(memory < 150 << 20, "{} MiB", memory >> 20);
    Ok(())
}

/// A rule that every pod of the cluster has to be looked at for.
const EVERYBODY: &str = "podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: Exists}]}}, {namespaceSelector: {}}]}]";

/// Pods of other nodes, in namespaces of twenty with two policies each.
fn crowd(cluster: &ClusterLab, pods: u32) -> Result<()> {
    for n in 0..pods {
        let (namespace, workload) = (format!("crowd-{}", n / 20), n % 20 / 5);
        if n.is_multiple_of(20) {
            cluster.server.put(json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": { "name": namespace, "labels": { "team": format!("team-{}", n / 400) } },
            }))?;
            for (name, spec) in [
                ("deny", json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] })),
                (
                    "own",
                    json!({
                        "podSelector": { "matchLabels": { "app": "app-1" } },
                        "ingress": [{ "from": [{ "podSelector": {} }], "ports": [{ "port": 8080 }] }],
                    }),
                ),
            ] {
                cluster.server.put(json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                    "metadata": { "namespace": namespace, "name": name }, "spec": spec,
                }))?;
            }
        }
        let [_, a, b, c] = n.to_be_bytes();
        cluster.server.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": namespace, "name": format!("app-{workload}-7d4b9c6f5d-{n:05x}"),
                "uid": format!("0b8e6b0e-7d0a-4a55-9a2e-{n:012x}"),
                "creationTimestamp": "2026-11-01T00:00:00Z",
                "labels": { "app": format!("app-{workload}"), "pod-template-hash": "7d4b9c6f5d", "team": format!("team-{}", n / 400) },
            },
            "spec": {
                "nodeName": format!("other-{}", n / 110),
                "containers": [{ "name": "main", "image": "example.org/main:1", "ports": [{ "name": "http", "containerPort": 8080 }] }],
            },
            "status": { "phase": "Running", "podIP": format!("11.{a}.{b}.{c}"), "podIPs": [{ "ip": format!("11.{a}.{b}.{c}") }] },
        }))?;
    }
    Ok(())
}

/// The most that a process was resident with, in bytes.
fn memory(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

#[test]
fn an_agent_has_to_know_which_node_it_is_on() -> Result<()> {
    let lab = ClusterLab::without_agents(world())?;
    let options = AgentOptions { node: None, ..lab.options()? };
    let node = lab.lab.ns("node1")?;
    let error = Agent::spawn(&node, options).err().context("it began without a node's name")?.to_string();
    ensure!(error.contains("--node") && error.contains("SLUICE_NODE"), "{error}");
    Ok(())
}
