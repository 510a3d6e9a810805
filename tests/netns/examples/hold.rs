//! Holds two nodes of pods until Ctrl-C, to look around in with `nsenter --net=/var/run/netns/NAME`.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use sluice_netns::{NodeSpec, PodSpec, World, catch_interrupts, interrupted};

fn main() -> Result<()> {
    catch_interrupts()?;
    let mut world = World::builder("slhold").outside("client", [203, 0, 113, 7].into(), None);
    for node in ["node1", "node2"] {
        world = world.node(NodeSpec::new(node));
        for pod in ["a", "b"] {
            let name = format!("{pod}-{node}");
            world = world.pod(PodSpec::new("default", &name, node).serve_tcp(80).serve_udp(5300));
        }
    }
    let world = world.build()?;
    for pod in world.pods() {
        println!("{:<18} {:<12} {:<20} {}", pod.key(), pod.ipv4, pod.ipv6, pod.ns.name());
    }
    for node in world.nodes() {
        println!("{:<18} {}", node.name(), node.ns().name());
    }
    println!("Ctrl-C removes it");
    while !interrupted() {
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
