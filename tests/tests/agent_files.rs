//! The folder of manifests as people and programs change it, and what comes of bad input.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use sluice_netns::{NodeSpec, Outcome, PodSpec, World, WorldBuilder};
use sluice_tests::agent_world::{FOLLOW_TIMEOUT, Lab, eventually, policy, policy_file};

const DENY: &str = "podSelector: {}, policyTypes: [Ingress]";
const OPEN: &str = "podSelector: {}, policyTypes: [Ingress], ingress: [{}]";

fn village() -> WorldBuilder {
    let pod = |namespace, name: &str| PodSpec::new(namespace, name, "node1").serve_tcp(80).label("app", name);
    World::builder("slfiles")
        .node(NodeSpec::new("node1"))
        .pod(pod("dev", "web"))
        .pod(pod("dev", "db"))
        .pod(pod("prod", "web"))
}

/// Whether prod's pod reaches dev's, asked until the answer is `outcome`; nobody calls `sync`.
fn follows(lab: &Lab, outcome: &str) -> Result<()> {
    let table = format!("prod/web dev/web tcp/80 {outcome}");
    eventually(FOLLOW_TIMEOUT, || {
        let wrong = lab.mismatches(&table)?;
        Ok((!wrong.is_empty()).then(|| format!("{wrong:?}")))
    })
}

#[test]
fn every_way_to_change_a_file_is_followed_without_sync() -> Result<()> {
    let lab = Lab::start(village())?;
    let folder = lab.manifests.path();
    let path = folder.join("p.yaml");
    let (deny, open) = (policy("dev/p", DENY), policy("dev/p", OPEN));
    follows(&lab, "opens")?;

    // Written in place, as by `cp` or `>`: longer and shorter than before.
    fs::write(&path, &deny)?;
    follows(&lab, "hangs")?;
    fs::write(&path, &open)?;
    follows(&lab, "opens")?;
    fs::write(&path, &deny)?;
    follows(&lab, "hangs")?;
    // Renamed over.
    let draft = folder.join(".p.yaml.swp");
    fs::write(&draft, &open)?;
    fs::rename(&draft, &path)?;
    follows(&lab, "opens")?;
    // Renamed away and in again: to an extension that is no manifest's.
    fs::write(&path, &deny)?;
    follows(&lab, "hangs")?;
    fs::rename(&path, folder.join("p.yaml.off"))?;
    follows(&lab, "opens")?;
    fs::rename(folder.join("p.yaml.off"), folder.join("p.yml"))?;
    follows(&lab, "hangs")?;
    fs::remove_file(folder.join("p.yml"))?;
    follows(&lab, "opens")?;
    // A link to a file elsewhere.
    let elsewhere = tempfile::NamedTempFile::new()?;
    fs::write(elsewhere.path(), &deny)?;
    symlink(elsewhere.path(), &path)?;
    follows(&lab, "hangs")?;
    fs::write(elsewhere.path(), &open)?;
    follows(&lab, "opens")?;
    Ok(())
}

#[test]
fn a_config_map_volume_is_followed_as_its_link_swaps() -> Result<()> {
    let lab = Lab::start(village())?;
    let folder = lab.manifests.path();
    let version = |name: &str, text: &str| -> Result<()> {
        fs::create_dir(folder.join(name))?;
        fs::write(folder.join(name).join("policy.yaml"), text)?;
        symlink(name, folder.join("..data_tmp"))?;
        // As the kubelet does it: the whole volume changes at once.
        fs::rename(folder.join("..data_tmp"), folder.join("..data"))?;
        Ok(())
    };
    version("..2026_01_01", &policy("dev/p", DENY))?;
    symlink("..data/policy.yaml", folder.join("policy.yaml"))?;
    follows(&lab, "hangs")?;
    version("..2026_01_02", &policy("dev/p", OPEN))?;
    fs::remove_dir_all(folder.join("..2026_01_01"))?;
    follows(&lab, "opens")?;
    version("..2026_01_03", &policy("dev/p", DENY))?;
    fs::remove_dir_all(folder.join("..2026_01_02"))?;
    lab.sync()?;
    lab.expect("prod/web dev/web tcp/80 hangs");
    Ok(())
}

#[test]
fn many_objects_in_one_file_and_lists() -> Result<()> {
    let lab = Lab::start(village())?;
    let documents = format!(
        "# a comment first\n---\n{}---\n---\n{}",
        policy("dev/web", "podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]"),
        policy("prod/out", "podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 81}]}]")
    );
    lab.manifests.write("all.yaml", &documents)?;
    lab.sync()?;
    lab.expect(
        "dev/db   dev/web  tcp/80 hangs
         prod/web dev/db   tcp/80 hangs
         prod/web dev/db   tcp/81 refused
         dev/web  dev/db   tcp/80 opens",
    );
    lab.manifests.remove("all.yaml")?;
    lab.manifests.write(
        "list.json",
        r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
             "metadata": {"namespace": "dev", "name": "db"},
             "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"]}},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "dev", "name": "other"}, "data": {}}]}"#,
    )?;
    lab.sync()?;
    lab.expect(
        "prod/web dev/web tcp/80 opens
         dev/web  dev/db  tcp/80 hangs",
    );
    assert_eq!(lab.errors()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn sync_returns_when_it_is_enforced() -> Result<()> {
    let lab = Lab::start(village())?;
    for round in 0..10 {
        let (spec, outcome) = if round % 2 == 0 { (DENY, "hangs") } else { (OPEN, "opens") };
        // In place, without a pause: the watcher has not seen it yet.
        fs::write(lab.manifests.path().join("p.yaml"), policy("dev/p", spec))?;
        lab.sync()?;
        let wrong = lab.mismatches(&format!("prod/web dev/web tcp/80 {outcome} v4"))?;
        ensure!(wrong.is_empty(), "round {round}: {wrong:?}");
    }
    Ok(())
}

/// What a spec or a file gets wrong, and words that the error must have besides the file and the object.
const BROKEN: &[(&str, &[&str])] = &[
    (
        "podSelector: {}, ingress: [{ports: [{protocol: tcp, port: 80}]}]",
        &["spec.ingress[0].ports[0].protocol", "\"tcp\""],
    ),
    ("podSelector: {}, policyTypes: [{Ingress: null}]", &["spec.policyTypes[0]", "Ingress"]),
    (
        "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]",
        &["spec.ingress[0].from[0].ipBlock.cidr", "10.0.0.0/33"],
    ),
    (
        "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]",
        &["spec.ingress[0].from[0].ipBlock.except[0]", "11.0.0.0/16"],
    ),
    (
        "podSelector: {}, ingress: [{ports: [{port: 80, endPort: 79}]}]",
        &["spec.ingress[0].ports[0].endPort", "79"],
    ),
    (
        "podSelector: {}, ingress: [{ports: [{port: web, endPort: 90}]}]",
        &["spec.ingress[0].ports[0].endPort", "90"],
    ),
    (
        "podSelector: {matchExpressions: [{key: app, operator: Is, values: [web]}]}, policyTypes: [Ingress], ingress: [{}]",
        &["spec.podSelector.matchExpressions[0].operator", "\"Is\""],
    ),
    ("podSelector: {}, policyTypes: [Ingress], ingres: [{}]", &["spec.ingres", "unknown field"]),
];

#[test]
fn a_broken_policy_leaves_its_pods_as_they_were_and_the_rest_is_enforced() -> Result<()> {
    let lab = Lab::start(village())?;
    lab.apply("dev/p", "podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 80}]}]")?;
    lab.expect_probes("prod/web dev/web tcp/80 opens\nprod/web dev/web tcp/81 hangs");
    for (spec, words) in BROKEN {
        lab.apply("dev/p", spec)?;
        let errors = lab.errors()?;
        let [error] = &errors[..] else { panic!("{spec}: {errors:?}") };
        for word in [&["policy-dev-p.yaml", "NetworkPolicy dev/p"], *words].concat() {
            assert!(error.contains(word), "{spec}: no {word} in {error}");
        }
    }
    lab.apply("prod/p", DENY)?;
    lab.expect_probes(
        "prod/web dev/web  tcp/80 opens
         prod/web dev/web  tcp/81 hangs
         dev/web  prod/web tcp/80 hangs",
    );
    // Whatever is no YAML at all.
    lab.manifests.write(&policy_file("dev/p"), "spec: [}\n")?;
    lab.sync()?;
    let errors = lab.errors()?;
    assert!(errors.len() == 1 && errors[0].contains("policy-dev-p.yaml"), "{errors:?}");
    lab.expect_probes("prod/web dev/web tcp/80 opens\nprod/web dev/web tcp/81 hangs");
    // Healed.
    lab.apply("dev/p", OPEN)?;
    assert_eq!(lab.errors()?, Vec::<String>::new());
    lab.expect_probes("prod/web dev/web tcp/81 refused");
    Ok(())
}

#[test]
fn a_policy_that_is_broken_from_the_first_closes_what_it_selects() -> Result<()> {
    let lab = Lab::start(village())?;
    for (spec, _) in BROKEN {
        lab.apply("dev/p", spec)?;
        assert_eq!(lab.errors()?.len(), 1, "{spec}");
        let wrong =
            lab.mismatches_of_probes("prod/web dev/web tcp/80 hangs v4\nprod/web dev/db tcp/80 hangs v6")?;
        ensure!(wrong.is_empty(), "{spec}: {wrong:?}");
        lab.delete("dev/p")?;
    }
    // Only what it selects, and only where it says.
    lab.apply(
        "dev/p",
        "podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{ports: [{protocol: udp}]}]",
    )?;
    lab.expect(
        "dev/db   prod/web tcp/80 hangs
         prod/web dev/db   tcp/80 opens
         dev/web  prod/web tcp/80 opens",
    );
    lab.apply("dev/p", "podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{}]")?;
    lab.expect("dev/db prod/web tcp/80 opens");
    assert_eq!(lab.errors()?, Vec::<String>::new());
    Ok(())
}

/// A pod's manifest with the addresses of another.
fn impostor(lab: &Lab, of: &str) -> Result<String> {
    let pod = lab.world.pod(of)?;
    Ok(format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: dev, name: impostor, uid: impostor, labels: {{app: impostor}}}}
spec: {{nodeName: node1, containers: [{{name: main}}]}}
status: {{phase: Running, podIP: {0}, podIPs: [{{ip: {0}}}, {{ip: '{1}'}}]}}\n",
        pod.ipv4, pod.ipv6
    ))
}

#[test]
fn a_second_pod_with_an_address_changes_nothing_for_the_first() -> Result<()> {
    let lab = Lab::start(village())?;
    lab.apply("dev/p", "podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]")?;
    lab.manifests.write("impostor.yaml", &impostor(&lab, "dev/web")?)?;
    lab.sync()?;
    let errors = lab.errors()?;
    assert!(
        errors
            .iter()
            .any(|e| e.contains("impostor.yaml") && e.contains("dev/impostor") && e.contains("dev/web")),
        "{errors:?}"
    );
    // `explain` knows no past, so it can't tell which of the two was first: for it, both are closed.
    lab.expect_probes("prod/web dev/web tcp/80 opens\nprod/web dev/web tcp/81 hangs");
    lab.manifests.remove("impostor.yaml")?;
    lab.sync()?;
    assert_eq!(lab.errors()?, Vec::<String>::new());
    lab.expect("prod/web dev/web tcp/80 opens\nprod/web dev/web tcp/81 hangs");
    Ok(())
}

#[test]
fn two_pods_with_one_address_from_the_first_are_closed_until_it_is_settled() -> Result<()> {
    let mut lab = Lab::without_agents(village())?;
    lab.manifests.write("impostor.yaml", &impostor(&lab, "dev/web")?)?;
    lab.manifests.write(&policy_file("dev/p"), &policy("dev/p", DENY))?;
    lab.start_agents(&[])?;
    let errors = lab.errors()?;
    assert!(errors.iter().any(|e| e.contains("dev/impostor") && e.contains("dev/web")), "{errors:?}");
    let wrong = lab.mismatches_of_probes("prod/web dev/web tcp/80 hangs\nprod/web dev/db tcp/80 hangs")?;
    assert!(wrong.is_empty(), "{wrong:?}");
    lab.manifests.remove("impostor.yaml")?;
    lab.apply("dev/p", "podSelector: {}, ingress: [{ports: [{port: 80}]}]")?;
    assert_eq!(lab.errors()?, Vec::<String>::new());
    lab.expect("prod/web dev/web tcp/80 opens\nprod/web dev/web tcp/81 hangs");
    Ok(())
}

#[test]
fn a_pod_that_is_broken_from_the_first_is_closed() -> Result<()> {
    let mut lab = Lab::without_agents(village())?;
    let pod = lab.world.pod("dev/web")?;
    // A port's protocol that is none: the pod is not whole, but where its interface is can be told.
    let broken = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: dev, name: web, labels: {{app: web}}}}
spec: {{nodeName: node1, containers: [{{name: main, ports: [{{containerPort: 80, protocol: tcp}}]}}]}}
status: {{phase: Running, podIP: {0}, podIPs: [{{ip: {0}}}, {{ip: '{1}'}}]}}\n",
        pod.ipv4, pod.ipv6
    );
    lab.manifests.remove_pod(pod)?;
    lab.manifests.write("web.yaml", &broken)?;
    lab.manifests.write(&policy_file("dev/p"), &policy("dev/p", DENY))?;
    lab.start_agents(&[])?;
    let errors = lab.errors()?;
    assert!(errors.iter().any(|e| e.contains("web.yaml") && e.contains("dev/web")), "{errors:?}");
    let wrong = lab.mismatches_of_probes("prod/web dev/web tcp/80 hangs")?;
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

#[test]
fn a_folder_that_is_gone_changes_nothing() -> Result<()> {
    let lab = Lab::start(village())?;
    lab.apply("dev/p", "podSelector: {}, ingress: [{ports: [{port: 80}]}]")?;
    let (folder, aside) = (lab.manifests.path(), lab.manifests.path().with_extension("aside"));
    fs::rename(folder, &aside)?;
    // Not by `sync` alone: what the watcher sees must not open anything either.
    thread::sleep(Duration::from_millis(300));
    // Nothing could be read, so nothing can be said to be in sync.
    let synced = lab.sync().is_ok();
    let seen = (
        lab.errors()?,
        lab.mismatches_of_probes("prod/web dev/web tcp/80 opens\nprod/web dev/web tcp/81 hangs")?,
    );
    fs::rename(&aside, folder)?;
    assert!(!synced && !seen.0.is_empty() && seen.1.is_empty(), "{seen:?}");
    fs::write(folder.join("policy-dev-p.yaml"), policy("dev/p", DENY))?;
    follows(&lab, "hangs")?;
    assert_eq!(lab.errors()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_thousand_files_that_change_at_once_end_in_what_they_say() -> Result<()> {
    let lab = Lab::start(village())?;
    let folder = lab.manifests.path();
    for n in 0..1000 {
        fs::write(folder.join(format!("n{n}.yaml")), policy(&format!("prod/n{n}"), DENY))?;
    }
    fs::write(folder.join("p.yaml"), policy("dev/p", DENY))?;
    follows(&lab, "hangs")?;
    for n in 0..1000 {
        fs::remove_file(folder.join(format!("n{n}.yaml")))?;
    }
    lab.sync()?;
    lab.expect("dev/web prod/web tcp/80 opens");
    let ns = lab.ns("prod/web")?;
    let to = lab.sockets("dev/web", 80)?[0];
    assert_eq!(sluice_netns::tcp_connect(&ns, to, Duration::from_millis(300)), Outcome::TimedOut);
    Ok(())
}
