//! The table of what was measured on the path, and the plot.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::netfilter;
use super::plot::{self, Bar, Panel};
use super::traffic::{KINDS, Kind, Pair};
use super::variant::Variant;
use crate::docs::{self, Section};
use crate::machine::Machine;
use crate::{Report, median};

/// Medians over the rounds: of the figure, and of what it is of the figure without policy right beside it.
#[derive(Clone, Copy, serde::Serialize)]
struct Outcome {
    value: f64,
    ratio: f64,
}

impl Outcome {
    fn of(pairs: &[Pair], kind: usize) -> Self {
        Self {
            value: median(pairs.iter().map(|pair| pair.own[kind]).collect()),
            ratio: median(pairs.iter().map(|pair| pair.own[kind] / pair.nobody[kind]).collect()),
        }
    }

    fn of_nobody(all: &[&Pair], kind: usize) -> Self {
        Self { value: median(all.iter().map(|pair| pair.nobody[kind]).collect()), ratio: 1.0 }
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
    for Kind { title, unit, .. } in &KINDS {
        header.extend([format!("{title}, {unit}"), "of no policy".to_owned()]);
    }
    let mut table = docs::table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    let mut panels = KINDS
        .each_ref()
        .map(|kind| Panel { title: format!("{} ({})", kind.title, kind.unit), bars: Vec::new() });
    let mut json_rows = Vec::new();
    let all: Vec<&Pair> = rows.iter().flat_map(|(_, pairs)| pairs).collect();
    let baseline: [Outcome; KINDS.len()] = std::array::from_fn(|kind| Outcome::of_nobody(&all, kind));
    let measured = rows.iter().map(|(variant, pairs)| {
        (*variant, std::array::from_fn(|kind| Outcome::of(pairs, kind)), pairs.as_slice())
    });
    for (variant, outcomes, pairs) in [(nobody, baseline, &[][..])].into_iter().chain(measured) {
        let mut line = vec![variant.name()];
        for (Outcome { value, ratio }, panel) in outcomes.iter().zip(&mut panels) {
            line.extend([number(*value), format!("{:.0} %", ratio * 100.0)]);
            let (name, engine) = (variant.name(), variant.engine);
            panel.bars.push(Bar { name, engine, ratio: *ratio, label: number(*value) });
        }
        table.add_row(line);
        let kinds = KINDS.iter().zip(outcomes);
        let medians: Vec<Value> = kinds
            .map(|(kind, outcome)| json!({ "kind": kind.title, "unit": kind.unit, "median": outcome }))
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
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}
