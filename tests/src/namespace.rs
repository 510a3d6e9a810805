//! A network namespace with a number of interfaces: what `BPF_PROG_TEST_RUN` needs to name one.

use std::process::Command;

use anyhow::Context as _;
use sluice_netns::{NodeSpec, World};

/// Runs `work` on a thread in a namespace of its own with `count` veth pairs, and gives it the indices of one end each.
pub fn with_interfaces<T: Send>(
    count: usize,
    work: impl FnOnce(&[u32]) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let world = World::builder("kern").node(NodeSpec::new("node1")).build()?;
    let node = world.node("node1")?;
    for n in 0..count {
        let (host, pod) = (format!("h{n}"), format!("p{n}"));
        let output = node
            .ns()
            .output(Command::new("ip").args(["link", "add", &host, "type", "veth", "peer", "name", &pod]))?;
        anyhow::ensure!(
            output.status.success(),
            "ip link add {host}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    node.ns().run(|| {
        let indices: Vec<u32> = (0..count)
            .map(|n| nix::net::if_::if_nametoindex(format!("h{n}").as_str()))
            .collect::<Result<_, _>>()
            .context("interface index")?;
        work(&indices)
    })?
}
