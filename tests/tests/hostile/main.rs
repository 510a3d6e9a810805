//! Who asks too much, says nonsense or says nothing: the sockets, the folder and the API server as an enemy uses them.
//! Whatever he does, changes of policy are enforced meanwhile, and what he used is free again when he is gone.

mod folder;
mod http;
mod objects;
mod plugin;
mod server;
mod socket;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sluice_netns::{NodeSpec, PodSpec, World, WorldBuilder};
use sluice_tests::agent_world::{Lab, eventually};
use sluice_tests::usage::Usage;

/// What a change of policy takes at most beside all of it: the machine does other things too.
const FOLLOW: Duration = Duration::from_secs(10);
/// What an agent may have in memory at most, whatever it is given.
const MOST_MEMORY: u64 = 1 << 30;

const DENY: &str = "podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]";
const OPEN: &str = "podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], ingress: [{}]";

/// One after the other: each takes what it can get of the machine, and looks at how long others wait.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // One that failed has nothing to do with the next.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is wrong; an agent in the middle of something has time to answer.
fn wrong_with(lab: &Lab) -> Result<Vec<String>> {
    lab.errors().or_else(|_| lab.sync().and_then(|()| lab.errors()))
}

/// `dev` is whose policies are absurd; `prod` has nothing to do with it.
fn village(prefix: &str) -> WorldBuilder {
    let pod = |namespace, name: &str| PodSpec::new(namespace, name, "node1").serve_tcp(80).label("app", name);
    World::builder(prefix)
        .node(NodeSpec::new("node1"))
        .pod(pod("dev", "web"))
        .pod(pod("prod", "web"))
        .pod(pod("prod", "client"))
}

/// Closes and opens a pod of somebody else by its policy; returns what the slower of the two took.
fn follows(lab: &Lab) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for (spec, outcome) in [(DENY, "hangs"), (OPEN, "opens")] {
        let began = Instant::now();
        lab.apply("prod/canary", spec)?;
        longest = longest.max(began.elapsed());
        let wrong = lab.mismatches_of_probes(&format!("prod/client prod/web tcp/80 {outcome} v4"))?;
        ensure!(wrong.is_empty(), "{wrong:?}; {:?}", lab.errors()?);
    }
    ensure!(longest < FOLLOW, "a change of policy took {longest:?}");
    Ok(longest)
}

/// Waits until the agent has as many descriptors as before, and not much more memory.
fn recovers(lab: &Lab, before: &Usage) -> Result<()> {
    let pid = lab.agents.first().context("there is no agent")?.id();
    eventually(Duration::from_secs(10), || {
        let now = Usage::of(pid)?;
        let same = now.descriptors.len() <= before.descriptors.len() && now.threads <= before.threads;
        let grown = now.resident.saturating_sub(before.resident);
        Ok((!same || grown > 64 << 20).then(|| format!("{before:?}\n{now:?}")))
    })
}

fn usage(lab: &Lab) -> Result<Usage> {
    Usage::of(lab.agents.first().context("there is no agent")?.id())
}
