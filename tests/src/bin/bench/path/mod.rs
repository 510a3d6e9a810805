//! What a policy costs on the whole path between two pods of a node: one TCP stream, small datagrams, new connections, and
//! a flood that is denied; under Sluice, nftables and iptables with the same rules.
//!
//! Each variant has a node of its own, all built beforehand, so that a round measures all of them within seconds.

mod netfilter;
mod plot;
mod report;
mod stage;
pub(crate) mod traffic;
mod variant;

use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::Report;
use crate::machine::Machine;
use stage::Stage;
use traffic::Pair;

pub(crate) fn run(rounds: u32, machine: Machine, plot: Option<&Path>) -> anyhow::Result<Report> {
    sluice_netns::catch_interrupts()?;
    let mut stages = Vec::new();
    for variant in variant::all() {
        eprintln!("building: {}", variant.name());
        let name = variant.name();
        let stage = Stage::build(variant).with_context(|| name.clone())?;
        stage.check().with_context(|| name)?;
        stages.push(stage);
    }
    let (nobody, others) = stages.split_first().context("no variants")?;
    // Not counted: caches fill, and the agents end the watch over connections that a change of policy begins.
    round(nobody, others, 0, "warming up")?;
    let mut rows: Vec<Vec<Pair>> = others.iter().map(|_| Vec::new()).collect();
    for number in 0..rounds {
        let pairs = round(nobody, others, number, &format!("round {} of {rounds}", number + 1))?;
        for (row, pair) in rows.iter_mut().zip(pairs) {
            row.push(pair);
        }
    }
    let rows = others.iter().zip(rows).map(|(stage, pairs)| (&stage.variant, pairs));
    report::report(rounds, &machine, &nobody.variant, &rows.collect::<Vec<_>>(), plot)
}

/// Each variant once, with no policy right beside it. Another one is the first in each round: what a machine does to the
/// first, it does to all.
fn round(nobody: &Stage, others: &[Stage], number: u32, title: &str) -> anyhow::Result<Vec<Pair>> {
    eprintln!("{title}");
    let first = number as usize % others.len();
    let mut pairs: Vec<Option<Pair>> = vec![None; others.len()];
    for at in (0..others.len()).map(|at| (first + at) % others.len()) {
        ensure!(!sluice_netns::interrupted(), "interrupted");
        let stage = others.get(at).context("no such variant")?;
        let measured = stage.measure_beside(nobody).with_context(|| stage.variant.name())?;
        if let Some(place) = pairs.get_mut(at) {
            *place = Some(measured);
        }
    }
    pairs.into_iter().map(|pair| pair.context("a variant was left out")).collect()
}
