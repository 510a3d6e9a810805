//! What a large cluster costs the agent of one node: memory, a whole compilation, and each change of a pod. A simulated
//! cluster goes through the real pipeline (state, compiler, planner) into real BPF maps.

mod cluster;
mod one;
mod plot;
mod report;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::Report;
use crate::machine::Machine;
use one::Sample;

/// Pods of the clusters; the last is the one that the targets are about.
const SIZES: [u32; 4] = [1000, 10_000, 30_000, 100_000];

pub(crate) fn run(
    object: &Path,
    rounds: u32,
    machine: Machine,
    plot: Option<&Path>,
) -> anyhow::Result<Report> {
    let mut all = Vec::new();
    for pods in SIZES {
        let mut samples = Vec::new();
        for round in 0..rounds {
            eprintln!("{pods} pods, round {} of {rounds}", round + 1);
            samples.push(in_a_process(object, pods)?);
        }
        all.push(samples);
    }
    report::report(rounds, &machine, &all, plot)
}

/// Prints the figures as JSON, for the process that asked for them.
pub(crate) fn run_one(object: &Path, pods: u32) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(&one::measure(pods, object)?)?);
    Ok(())
}

/// A process of its own: memory that another cluster took would count for this one.
fn in_a_process(object: &Path, pods: u32) -> anyhow::Result<Sample> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command
        .args(["scale-one", &pods.to_string()])
        .arg(object)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("starting a simulation")?;
    ensure!(output.status.success(), "the simulation of {pods} pods: {}", output.status);
    serde_json::from_slice(&output.stdout).context("the simulation's figures")
}
