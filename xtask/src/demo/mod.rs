//! `cargo xtask demo`: policies on real pods, told as a story.

mod cluster;
mod reach;
mod screen;
mod story;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use sluice_netns::{CommandProbe, Flow, Outcome, catch_interrupts, http_get, interrupted, ping_command};

use cluster::{Cluster, Machine};
use story::{Change, Check, Expected, STORY, Step, What};

/// What the demo needs.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The agent's program.
    pub(crate) agent: PathBuf,
}

/// How many probes there were, and how many came out as they should.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    right: usize,
    all: usize,
}

impl Tally {
    fn count(&mut self, right: bool) {
        self.all += 1;
        self.right += usize::from(right);
    }
}

/// Builds two nodes of pods, tells the story, and removes everything again; fails when anything came out otherwise than it
/// should.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.agent.is_file(), "there is no agent at {}: build it first", options.agent.display());
    catch_interrupts().context("catching Ctrl-C")?;
    let begin = Instant::now();
    // Everything that was made goes with the cluster, whichever way this function ends.
    let mut cluster = Cluster::build(&options.agent)?;
    introduce(&cluster);
    cluster.start_agents()?;
    let mut tally = Tally::default();
    for step in STORY {
        tell(&mut cluster, step, &mut tally)?;
    }
    stay()?;
    reach::tell(&cluster, &mut tally)?;
    let everything = tally.right == tally.all;
    if !everything {
        for (node, log) in cluster.logs() {
            screen::verbatim(&format!("log of the agent on {node}:"), &log);
        }
    }
    cluster.uninstall()?;
    drop(cluster);
    let line = format!(
        "{} of {} results as expected, in {:.1} s. Everything is removed again.",
        tally.right,
        tally.all,
        begin.elapsed().as_secs_f32()
    );
    screen::summary(&line, everything);
    ensure!(everything, "{} results are not as expected", tally.all - tally.right);
    Ok(())
}

fn stay() -> Result<()> {
    if interrupted() {
        bail!("interrupted; everything is removed again");
    }
    Ok(())
}

fn introduce(cluster: &Cluster) {
    screen::headline(
        "Two nodes of pods",
        "Each is a network namespace of this machine: pods on their node's bridge cni0, the nodes joined by VXLAN as flannel \
         does it, and a client outside of the cluster. On each pod a web server listens on port 80 and tells the pod's name.",
    );
    let row = |machine: &Machine| {
        vec![
            machine.key.clone(),
            machine.node.clone().unwrap_or_else(|| "outside".to_owned()),
            machine.ipv4.to_string(),
            machine.ipv6.to_string(),
            machine.ns.name().to_owned(),
        ]
    };
    let rows = cluster.machines().iter().map(row).collect();
    screen::table(&["pod", "node", "IPv4", "IPv6", "network namespace"], rows);
    screen::headline("One agent on each node", "");
    for command in cluster.agent_commands() {
        screen::note(&format!("$ {command}"));
    }
}

fn tell(cluster: &mut Cluster, step: &Step, tally: &mut Tally) -> Result<()> {
    stay()?;
    screen::headline(step.title, step.words);
    for change in step.changes {
        cluster.change(change)?;
        match change {
            Change::Apply { file, text } => screen::manifest(file, text),
            Change::Delete { file } => screen::change(&format!("{file} is deleted")),
            Change::Label { pod, key, value } => {
                screen::change(&format!("pod {pod} gets the label {key}={value}"))
            }
        }
    }
    let (generations, took) = cluster.sync()?;
    let generations: Vec<String> = generations.iter().map(u64::to_string).collect();
    screen::note(&format!(
        "enforced on both nodes after {took:.0?} (generations {})",
        generations.join(", ")
    ));

    let tried = try_all(cluster, step.checks)?;
    stay()?;
    for (check, (from, to, probe)) in step.checks.iter().zip(&tried) {
        let place =
            from.node.as_ref().map_or_else(|| from.key.clone(), |node| format!("{} ({node})", from.key));
        screen::command(&place, &probe.command);
        let right = as_expected(check, to, probe);
        screen::result(check.expected.words(), &seen(probe), right);
        tally.count(right);

        let explanation = cluster.explain(&flow(check, from, to))?;
        let agrees = explanation.allows() == check.expected.allowed();
        screen::decided(&explanation, agrees);
        tally.count(agrees);
    }
    Ok(())
}

/// Runs the probes of a step at the same time: one that hangs takes a second.
fn try_all(cluster: &Cluster, checks: &[Check]) -> Result<Vec<(Machine, Machine, CommandProbe)>> {
    let ends = checks
        .iter()
        .map(|check| Ok((check.what, cluster.machine(check.from)?, cluster.machine(check.to)?)))
        .collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let running: Vec<_> = ends
            .into_iter()
            .map(|(what, from, to)| {
                scope.spawn(move || {
                    let probe = match what {
                        What::Curl(port) => http_get(&from.ns, SocketAddr::from((to.ipv4, port))),
                        What::Ping => ping_command(&from.ns, to.ipv4.into()),
                    };
                    (from, to, probe)
                })
            })
            .collect();
        running
            .into_iter()
            .map(|probe| probe.join().map_err(|_| anyhow::anyhow!("a probe panicked")))
            .collect()
    })
}

fn as_expected(check: &Check, to: &Machine, probe: &CommandProbe) -> bool {
    match check.expected {
        // The right pod must have answered.
        Expected::Answers => {
            probe.outcome == Outcome::Open && (matches!(check.what, What::Ping) || probe.answer == to.key)
        }
        Expected::Refused => probe.outcome == Outcome::Refused,
        Expected::Hangs => probe.outcome == Outcome::TimedOut,
    }
}

fn seen(probe: &CommandProbe) -> String {
    let words = match &probe.outcome {
        Outcome::Open => Expected::Answers.words().to_owned(),
        Outcome::Refused => Expected::Refused.words().to_owned(),
        Outcome::TimedOut => Expected::Hangs.words().to_owned(),
        other => return other.to_string(),
    };
    format!("{words}: {}", probe.answer)
}

fn flow(check: &Check, from: &Machine, to: &Machine) -> Flow {
    let (port, protocol) = match check.what {
        What::Curl(port) => (Some(port), "TCP"),
        What::Ping => (None, "ICMP"),
    };
    Flow {
        from: from.name_for_explain(from.ipv4.into()),
        to: to.name_for_explain(to.ipv4.into()),
        port,
        protocol: protocol.to_owned(),
    }
}
