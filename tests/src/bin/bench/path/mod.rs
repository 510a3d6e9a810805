//! What a policy costs on the whole path between two pods of a node: one TCP stream, small datagrams, new connections, and
//! a flood that is denied; under Sluice, nftables and iptables with the same rules.
//!
//! Each variant has a node of its own, all built beforehand, so that a round measures all of them within seconds.

mod netfilter;
mod plot;
mod report;
mod stage;
mod traffic;
mod variant;

use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::Report;
use crate::machine::Machine;
use stage::Stage;
use traffic::Figures;

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
    // Not counted: caches fill, and the agents end the watch over connections that a change of policy begins.
    round(&stages, 0, "warming up")?;
    let mut rows: Vec<Vec<Figures>> = stages.iter().map(|_| Vec::new()).collect();
    for number in 0..rounds {
        let figures = round(&stages, number, &format!("round {} of {rounds}", number + 1))?;
        for (row, figures) in rows.iter_mut().zip(figures) {
            row.push(figures);
        }
    }
    let rows = stages.iter().zip(rows).map(|(stage, figures)| (&stage.variant, figures));
    report::report(rounds, &machine, &rows.collect::<Vec<_>>(), plot)
}

/// Each variant once. Another one is the first in each round: what a machine does to the first, it does to all.
fn round(stages: &[Stage], number: u32, title: &str) -> anyhow::Result<Vec<Figures>> {
    eprintln!("{title}");
    let first = number as usize % stages.len();
    let mut figures: Vec<Option<Figures>> = vec![None; stages.len()];
    for at in (0..stages.len()).map(|at| (first + at) % stages.len()) {
        ensure!(!sluice_netns::interrupted(), "interrupted");
        let stage = stages.get(at).context("no such variant")?;
        let measured = stage.measure().with_context(|| stage.variant.name())?;
        if let Some(place) = figures.get_mut(at) {
            *place = Some(measured);
        }
    }
    figures.into_iter().map(|figures| figures.context("a variant was left out")).collect()
}
