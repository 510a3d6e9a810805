//! What a Service costs: connections between pods of a node by the server's address and by its Service, with Sluice and with
//! kube-proxy's iptables rules alone; and the agent with many Services.

mod many;
mod stage;

use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use crate::docs::{self, Section};
use crate::machine::Machine;
use crate::path::traffic::{KINDS, Kind, Sample};
use crate::{Report, median};
use stage::{Stage, VARIANTS};

/// The kinds of traffic that a Service has to do with.
const MEASURED: usize = 3;

pub(crate) fn run(object: &Path, rounds: u32, machine: Machine) -> anyhow::Result<Report> {
    sluice_netns::catch_interrupts()?;
    let many = many::run(object)?;
    let mut stages = Vec::new();
    for variant in VARIANTS {
        eprintln!("building: {}", variant.name());
        let stage = Stage::build(variant).with_context(|| variant.name())?;
        stages.push(stage);
    }
    // Not counted: caches fill.
    round(&stages, 0)?;
    let mut samples = Vec::new();
    for number in 0..rounds {
        eprintln!("round {} of {rounds}", number + 1);
        samples.push(round(&stages, number)?);
    }
    let mut header = vec!["client, server".to_owned()];
    for Kind { title, unit, each, .. } in KINDS.iter().take(MEASURED) {
        header.extend([format!("{title}, {unit}"), format!("µs/{each}"), "×".to_owned()]);
    }
    let mut table = docs::table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    let mut rows = Vec::new();
    for (at, variant) in VARIANTS.into_iter().enumerate() {
        let mut line = vec![variant.name()];
        let mut kinds = Vec::new();
        for (kind, named) in KINDS.iter().enumerate().take(MEASURED) {
            let of = |figure: &dyn Fn(&Round) -> f64| median(samples.iter().map(figure).collect());
            let rate = of(&|round| round[at][kind].rate);
            let cost = of(&|round| round[at][kind].cost);
            let times = of(&|round| round[at][kind].cost / round[0][kind].cost);
            line.extend([format!("{rate:.1}"), format!("{cost:.2}"), format!("{times:.2}")]);
            kinds.push(json!({"kind": named.title, "rate": rate, "cost": cost, "times_first": times}));
        }
        table.add_row(line);
        rows.push(json!({"variant": variant.name(), "kinds": kinds}));
    }
    let text = format!(
        "{}; medians of {rounds} rounds, in which the variants take turns; × is the processor time as a multiple of the \
         first line's in the same round.\n\n{table}\n\n{}",
        machine.describe()?,
        many.text()
    );
    Ok(Report {
        json: json!({ "rounds": rounds, "machine": machine, "rows": rows, "many": many }),
        sections: vec![Section { name: "services", text }],
        verdict: "every variant reached the server that it should, in every round".to_owned(),
    })
}

type Round = Vec<[Sample; MEASURED]>;

/// Each variant once; another one is the first in each round.
fn round(stages: &[Stage], number: u32) -> anyhow::Result<Round> {
    let mut round = vec![[Sample::default(); MEASURED]; stages.len()];
    for at in (0..stages.len()).map(|at| (number as usize + at) % stages.len()) {
        anyhow::ensure!(!sluice_netns::interrupted(), "interrupted");
        let stage = stages.get(at).context("no such variant")?;
        for (kind, named) in KINDS.iter().enumerate().take(MEASURED) {
            let sample = (named.measure)(&stage.ends).with_context(|| stage.variant.name())?;
            if let Some(place) = round.get_mut(at).and_then(|own| own.get_mut(kind)) {
                *place = sample;
            }
        }
    }
    Ok(round)
}
