//! Crafted frames between two pods: what is sent at one end, what arrives at the other, and what the program counted.

pub mod counters;
pub mod crossing;
pub mod frames;
pub mod neighbour;
pub mod wire;

use sluice_netns::{NodeSpec, PodSpec, World, WorldBuilder};

/// `guest/client` and `shop/near` on node1, `shop/far` on node2. None of them serves anything: what arrives is the
/// test's business.
#[must_use]
pub fn three_pods(prefix: &str) -> WorldBuilder {
    World::builder(prefix)
        .node(NodeSpec::new("node1"))
        .node(NodeSpec::new("node2"))
        .pod(PodSpec::new("guest", "client", "node1"))
        .pod(PodSpec::new("shop", "near", "node1"))
        .pod(PodSpec::new("shop", "far", "node2"))
}
