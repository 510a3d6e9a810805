//! The table of what was measured on the path, and the plot.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::netfilter;
use super::plot::{self, Bar, Panel};
use super::traffic::{KINDS, Kind, Pair, Sample};
use super::variant::Variant;
use crate::docs::{self, Section};
use crate::machine::Machine;
use crate::{Report, median};

/// Medians over the rounds.
#[derive(Clone, Copy, serde::Serialize)]
struct Outcome {
    rate: f64,
    /// Processor time for each, in microseconds.
    cost: f64,
    /// The same as a multiple of what it was without policy right beside it.
    times_nobody: f64,
}

impl Outcome {
    fn of(pairs: &[Pair], kind: usize) -> Self {
        let of =
            |figure: fn(&Sample) -> f64| median(pairs.iter().map(|pair| figure(&pair.own[kind])).collect());
        let times = |pair: &Pair| pair.own[kind].cost / pair.nobody[kind].cost;
        Self {
            rate: of(|sample| sample.rate),
            cost: of(|sample| sample.cost),
            times_nobody: median(pairs.iter().map(times).collect()),
        }
    }

    fn of_nobody(all: &[&Pair], kind: usize) -> Self {
        let of =
            |figure: fn(&Sample) -> f64| median(all.iter().map(|pair| figure(&pair.nobody[kind])).collect());
        Self { rate: of(|sample| sample.rate), cost: of(|sample| sample.cost), times_nobody: 1.0 }
    }
}

pub(crate) fn report(
    rounds: u32,
    machine: &Machine,
    nobody: &Variant,
    rows: &[(&Variant, Vec<Pair>)],
    plot: Option<&Path>,
) -> anyhow::Result<Report> {
    let mut header = vec!["policy".to_owned()];
    for Kind { title, unit, each, .. } in &KINDS {
        header.extend([format!("{title}, {unit}"), format!("µs/{each}"), "×".to_owned()]);
    }
    let mut table = docs::table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    let mut panels = KINDS
        .each_ref()
        .map(|kind| Panel { title: format!("{}, µs/{}", kind.title, kind.each), bars: Vec::new() });
    let mut json_rows = Vec::new();
    let all: Vec<&Pair> = rows.iter().flat_map(|(_, pairs)| pairs).collect();
    let baseline: [Outcome; KINDS.len()] = std::array::from_fn(|kind| Outcome::of_nobody(&all, kind));
    let measured = rows.iter().map(|(variant, pairs)| {
        (*variant, std::array::from_fn(|kind| Outcome::of(pairs, kind)), pairs.as_slice())
    });
    for (variant, outcomes, pairs) in [(nobody, baseline, &[][..])].into_iter().chain(measured) {
        let mut line = vec![variant.name()];
        for (outcome, panel) in outcomes.iter().zip(&mut panels) {
            let Outcome { rate, cost, times_nobody } = *outcome;
            line.extend([number(rate), number(cost), format!("{times_nobody:.2}")]);
            let (name, engine) = (variant.name(), variant.engine);
            panel.bars.push(Bar { name, engine, times_nobody, label: number(cost) });
        }
        table.add_row(line);
        let kinds = KINDS.iter().zip(outcomes);
        let medians: Vec<Value> = kinds
            .map(|(kind, outcome)| json!({ "kind": kind.title, "unit": kind.unit, "each": kind.each, "median": outcome }))
            .collect();
        json_rows.push(json!({
            "variant": variant, "name": variant.name(), "medians": medians, "rounds": pairs,
        }));
    }
    let versions = netfilter::versions()?;
    if let Some(path) = plot {
        std::fs::write(path, plot::draw(&panels)).with_context(|| format!("writing {}", path.display()))?;
    }
    let text =
        format!("{}; {}; medians of {rounds} rounds.\n\n{table}", machine.describe()?, versions.join(", "));
    Ok(Report {
        json: json!({ "rounds": rounds, "machine": machine, "versions": versions, "rows": json_rows }),
        sections: vec![Section { name: "path", text }],
        verdict: "every variant let through what it should and denied the rest, in every round".to_owned(),
    })
}

fn number(value: f64) -> String {
    let digits = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}
