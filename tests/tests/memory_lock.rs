//! An agent that may not raise the memory lock limit: Linux before 5.11 charges maps to it, later kernels don't.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluice_netns::{Manifests, NodeSpec, PodSpec, World, patience};
use sluice_tests::agent_world::agent_binary;
use sluice_tests::kernel::Bpffs;

/// By then an agent has loaded its programs, or has said why not.
const STARTED: Duration = Duration::from_secs(4);

/// Whether this kernel charges maps to the limit.
fn charges_the_limit() -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok).with_context(|| format!("no version: {release}"));
    Ok((next()?, next()?) < (5, 11))
}

/// `policy-agent run` without the capability, with a limit as small as Linux gives it. It lives for some seconds at most.
fn run(world: &World, manifests: &Path, bpffs: &Path, socket: &Path) -> Result<String> {
    let node = world.node("node1")?;
    let agent = agent_binary()?;
    let mut command = Command::new("prlimit");
    command
        .arg("--memlock=65536:65536")
        .arg("timeout")
        .arg(patience(STARTED).as_secs().to_string())
        .args(["capsh", "--drop=cap_sys_resource"])
        .arg(format!("--shell={}", agent.display()))
        .args(["--", "run", "--node", "node1", "--manifests"])
        .arg(manifests)
        .arg("--bpffs")
        .arg(bpffs)
        .arg("--socket")
        .arg(socket)
        .env("SLUICE_HEALTH_ADDRESS", "off")
        .env("SLUICE_CNI_BIN_DIR", "/nonexistent");
    let output = node.ns().output(&mut command)?;
    Ok(format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

#[test]
fn a_limit_that_may_not_be_raised_is_named_where_it_counts() -> Result<()> {
    let world = World::builder("slmem")
        .node(NodeSpec::new("node1"))
        .pod(PodSpec::new("app", "a", "node1"))
        .build()?;
    let manifests = Manifests::of(&world)?;
    let pins = Bpffs::new("memlock");
    let folder = tempfile::tempdir()?;
    let words = run(&world, manifests.path(), pins.path(), &folder.path().join("agent.sock"))?;
    if charges_the_limit()? {
        for part in ["memory lock limit", "64 KiB", "SYS_RESOURCE"] {
            ensure!(words.contains(part), "no {part:?} in: {words}");
        }
    } else {
        ensure!(words.contains("programs loaded"), "{words}");
    }
    Ok(())
}
