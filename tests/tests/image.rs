//! The container image with the DaemonSet's capabilities, and with one less.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluice_netns::{NodeSpec, PodSpec, Process, World, WorldBuilder};
use sluice_tests::agent_world::{Lab, complaints, eventually, policy, policy_file};
use sluice_tests::deploy;
use sluice_tests::image::{Image, image_file};

const PATIENCE: Duration = Duration::from_secs(10);
const POLICY: &str = "podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], \
                      ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}]}]";

fn village() -> WorldBuilder {
    World::builder("slimg")
        .node(NodeSpec::new("node1"))
        .pod(PodSpec::new("dev", "web", "node1").label("app", "web").serve_tcp(80).serve_tcp(81))
        .pod(PodSpec::new("dev", "client", "node1").label("app", "client"))
}

/// What the DaemonSet gives the agent.
fn documented() -> Result<Vec<String>> {
    let objects = deploy::objects_of("install.yaml")?;
    deploy::capabilities(deploy::container(deploy::find(&objects, "DaemonSet")?, "agent")?)
}

fn without(name: &str) -> Result<Vec<String>> {
    let mut capabilities = documented()?;
    let before = capabilities.len();
    capabilities.retain(|capability| capability != name);
    ensure!(capabilities.len() + 1 == before, "{name} is not one of the DaemonSet's");
    Ok(capabilities)
}

/// The world with the policy, and the image as its agent.
fn lab(image: &Image, capabilities: &[String], bpffs: bool) -> Result<Lab> {
    let mut lab = Lab::without_agents(village())?;
    lab.binary = image.program(capabilities, bpffs)?;
    lab.manifests.write(&policy_file("dev/web"), &policy("dev/web", POLICY))?;
    Ok(lab)
}

#[test]
fn it_holds_one_file_and_says_what_it_is() -> Result<()> {
    let image = Image::unpack(&image_file()?)?;
    let files: Vec<_> = fs::read_dir(image.rootfs())?.collect::<Result<_, _>>()?;
    assert_eq!(files.len(), 1);
    let version = Command::new(files[0].path()).arg("--version").output()?;
    let version = String::from_utf8(version.stdout)?;
    let tag = image.root["annotations"]["io.containerd.image.name"].as_str().context("name")?.to_owned();
    let (repository, tag) = tag.rsplit_once(':').context("tag")?;
    assert_eq!(version.trim(), format!("policy-agent {tag}"));
    let labels = &image.config["config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], tag);
    // What the chart asks for is what was made.
    let objects = deploy::objects_of("install.yaml")?;
    let container = deploy::container(deploy::find(&objects, "DaemonSet")?, "agent")?;
    assert_eq!(container["image"], format!("{repository}:{tag}"));
    Ok(())
}

#[test]
fn it_enforces_with_the_daemon_sets_capabilities_alone() -> Result<()> {
    let image = Image::unpack(&image_file()?)?;
    for attach in ["tcx", "clsact"] {
        let mut lab = lab(&image, &documented()?, true)?;
        lab.start_agents(&["--attach", attach])?;
        lab.expect("dev/client dev/web tcp/80 opens\ndev/client dev/web tcp/81 hangs");
        assert_eq!(lab.errors()?, Vec::<String>::new());
        let log = lab.agent().log();
        assert_eq!(complaints(lab.world.id(), &log), Vec::<String>::new(), "{log}");
        let status = fs::read_to_string(format!("/proc/{}/status", lab.agent().id()))?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // NET_BROADCAST, NET_ADMIN, SYS_ADMIN: include/uapi/linux/capability.h.
        let mask = format!("{:016x}", 1_u64 << 11 | 1 << 12 | 1 << 21);
        assert_eq!([field("CapEff:"), field("CapBnd:")], [Some(mask.as_str()); 2]);
        assert_eq!(field("NoNewPrivs:"), Some("1"));
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", lab.agent().id()))?;
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).context("no root")?;
        assert!(root.split(' ').nth(5).is_some_and(|options| options.starts_with("ro")), "{root}");
    }
    Ok(())
}

#[test]
fn a_pod_that_comes_later_is_seen_through_the_mount() -> Result<()> {
    let image = Image::unpack(&image_file()?)?;
    let mut lab = lab(&image, &documented()?, true)?;
    lab.start_agents(&[])?;
    let late = PodSpec::new("dev", "late", "node1").label("app", "web").serve_tcp(80).serve_tcp(81);
    let late = lab.world.add_pod(late)?.clone();
    lab.manifests.pod(&late)?;
    lab.sync()?;
    lab.expect("dev/client dev/late tcp/80 opens\ndev/client dev/late tcp/81 hangs");
    Ok(())
}

#[test]
fn it_takes_everything_away_and_stays_until_it_is_stopped() -> Result<()> {
    let image = Image::unpack(&image_file()?)?;
    let mut lab = lab(&image, &documented()?, true)?;
    lab.start_agents(&[])?;
    lab.expect_probes("dev/client dev/web tcp/81 hangs");
    // As a rolling update does: the pod that enforces goes first.
    assert!(lab.agent().stop()?);
    lab.expect_probes("dev/client dev/web tcp/81 hangs");
    let node = lab.world.node("node1")?;
    let mut command = Command::new(&lab.binary);
    command.args(["uninstall", "--hold", "--bpffs"]).arg(node.bpffs()).stdout(Stdio::null());
    let mut process = Process::spawn(node.ns(), &mut command)?;
    let pins = node.bpffs().to_owned();
    eventually(PATIENCE, || Ok(pins.exists().then(|| format!("{} is there", pins.display()))))?;
    lab.expect_probes("dev/client dev/web tcp/81 opens");
    assert!(process.exit_status()?.is_none());
    assert!(process.stop(PATIENCE)?);
    assert_eq!(process.exit_status()?.and_then(|status| status.code()), Some(0));
    Ok(())
}

/// What an agent says that can't start.
fn fails_to_start(image: &Image, capabilities: &[String], bpffs: bool) -> Result<String> {
    let lab = lab(image, capabilities, bpffs)?;
    let node = lab.world.node("node1")?;
    let mut command = Command::new("timeout");
    command.arg(PATIENCE.as_secs().to_string()).arg(&lab.binary).arg("run");
    command.arg("--manifests").arg(lab.manifests.path()).arg("--bpffs").arg(node.bpffs());
    command.arg("--socket").arg(lab.manifests.path().with_extension("sock"));
    let output = node.ns().output(&mut command)?;
    ensure!(output.status.code() == Some(1), "it ended with {}", output.status);
    Ok(String::from_utf8(output.stderr)?)
}

/// Starts the agent, whatever it then can't enforce.
fn start(lab: &mut Lab, arguments: &[&str]) -> Result<()> {
    match lab.start_agents(arguments) {
        Err(error) if lab.agents.is_empty() => Err(error),
        _ => Ok(()),
    }
}

/// The table in docs/install.md.
#[test]
fn without_one_of_them_something_fails_and_says_so() -> Result<()> {
    let image = Image::unpack(&image_file()?)?;
    let error = fails_to_start(&image, &without("SYS_ADMIN")?, true)?;
    assert!(error.contains("Operation not permitted"), "{error}");
    // What SYS_ADMIN contains for BPF is not enough.
    let bpf = ["BPF".to_owned(), "PERFMON".to_owned()];
    let mut lab1 = lab(&image, &[without("SYS_ADMIN")?, bpf.to_vec()].concat(), true)?;
    start(&mut lab1, &[])?;
    assert!(lab1.errors()?.iter().any(|error| error.contains("entering it: Operation not permitted")));
    drop(lab1);
    let mut lab2 = lab(&image, &without("NET_ADMIN")?, true)?;
    start(&mut lab2, &["--attach", "clsact"])?;
    assert_eq!(lab2.endpoint("dev/web")?["state"], "failed");
    drop(lab2);
    let mut lab3 = lab(&image, &without("NET_BROADCAST")?, true)?;
    lab3.start_agents(&[])?;
    lab3.expect_probes("dev/client dev/web tcp/81 hangs");
    assert!(lab3.agent().log().contains("addresses added inside pods are not announced"));
    Ok(())
}

#[test]
fn without_the_nodes_bpf_file_system_it_does_not_start() -> Result<()> {
    let image = Image::unpack(&image_file()?)?;
    // It could mount one of its own, which would vanish with the container, and all enforcement with it.
    let error = fails_to_start(&image, &documented()?, false)?;
    assert!(error.contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
    Ok(())
}
