//! The table of what was measured on the path, and the plot.

use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::netfilter;
use super::plot::{self, Bar, Panel};
use super::traffic::Figures;
use super::variant::Variant;
use crate::docs::{self, Section};
use crate::machine::Machine;
use crate::{Report, median};

/// One kind of traffic.
struct Measure {
    title: &'static str,
    unit: &'static str,
    of: fn(&Figures) -> f64,
}

const MEASURES: [Measure; 4] = [
    Measure { title: "one TCP stream", unit: "Gbit/s", of: |figures| figures.gigabits },
    Measure { title: "small datagrams", unit: "thousand/s", of: |figures| figures.packets / 1e3 },
    Measure { title: "new connections", unit: "thousand/s", of: |figures| figures.connections / 1e3 },
    Measure { title: "denied datagrams", unit: "thousand/s", of: |figures| figures.denied / 1e3 },
];

/// Medians over the rounds: of the figure, and of what it is of the first variant's in the same round.
#[derive(Clone, Copy, serde::Serialize)]
struct Result {
    value: f64,
    ratio: f64,
}

pub(crate) fn report(
    rounds: u32,
    machine: &Machine,
    rows: &[(&Variant, Vec<Figures>)],
    plot: Option<&Path>,
) -> anyhow::Result<Report> {
    let (_, baseline) = rows.first().context("nothing was measured")?;
    let mut header = vec!["policy".to_owned()];
    for Measure { title, unit, .. } in &MEASURES {
        header.extend([format!("{title}, {unit}"), "of no policy".to_owned()]);
    }
    let mut table = docs::table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    let mut panels: Vec<Panel> = MEASURES
        .iter()
        .map(|measure| Panel { title: format!("{} ({})", measure.title, measure.unit), bars: Vec::new() })
        .collect();
    let mut json_rows = Vec::new();
    for (variant, figures) in rows {
        let results = MEASURES.each_ref().map(|measure| Result {
            value: median(figures.iter().map(measure.of).collect()),
            ratio: median(
                figures
                    .iter()
                    .zip(baseline)
                    .map(|(own, none)| (measure.of)(own) / (measure.of)(none))
                    .collect(),
            ),
        });
        let mut line = vec![variant.name()];
        for (Result { value, ratio }, panel) in results.iter().zip(&mut panels) {
            line.extend([number(*value), format!("{:.0} %", ratio * 100.0)]);
            let (name, engine) = (variant.name(), variant.engine);
            panel.bars.push(Bar { name, engine, ratio: *ratio, label: number(*value) });
        }
        table.add_row(line);
        let delivered = median(figures.iter().map(|figures| figures.delivered).collect());
        json_rows.push(json!({
            "variant": variant, "name": variant.name(), "delivered": delivered, "rounds": figures,
            "stream": results[0], "datagrams": results[1], "connections": results[2], "denied": results[3],
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
