//! The table of the simulation, its targets, and the plot.

use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::one::{RATE, SECONDS, Sample};
use super::plot::{self, Curve, Panel};
use crate::docs::{self, Section};
use crate::machine::Machine;
use crate::{Report, median};

/// MiB of the agent, with all of a cluster of 100,000 pods enforced.
const MEMORY: f64 = 150.0;
/// Milliseconds.
const COMPILATION: f64 = 1000.0;
const EVENT: f64 = 5.0;

/// A line of the table: its name, its figure, and how many decimals tell something.
type Row = (&'static str, fn(&Sample) -> f64, usize);

const ROWS: [Row; 30] = [
    ("namespaces", |s| f64::from(s.namespaces), 0),
    ("policies", |s| f64::from(s.policies), 0),
    ("pods of this node", |s| s.endpoints as f64, 0),
    ("addresses in the tables", |s| s.addresses as f64, 0),
    ("classes of addresses", |s| s.classes as f64, 0),
    ("policy sets", |s| s.sets as f64, 0),
    ("compiling all, ms", |s| s.compile_ms, 1),
    ("planning all, ms", |s| s.plan_ms, 1),
    ("writing all, ms", |s| s.write_ms, 1),
    ("writes", |s| s.writes as f64, 0),
    ("state, bytes a pod", |s| s.bytes_per_pod, 0),
    ("resident before, MiB", |s| s.rss_before, 1),
    ("resident, enforced, MiB", |s| s.rss_enforced, 1),
    ("resident after the changes, MiB", |s| s.rss_end, 1),
    ("highest, MiB", |s| s.rss_peak, 1),
    ("changes that took writes", |s| s.events_writing as f64, 0),
    ("writes for changes", |s| s.event_writes as f64, 0),
    ("pods alone: change to last write, median, ms", |s| s.pods_ms.p50, 3),
    ("99 %, ms", |s| s.pods_ms.p99, 3),
    ("longest, ms", |s| s.pods_ms.max, 1),
    ("and a policy a second: median, ms", |s| s.event_ms.p50, 3),
    ("99 %, ms", |s| s.event_ms.p99, 3),
    ("longest, ms", |s| s.event_ms.max, 1),
    ("99 % of those that took writes, ms", |s| s.writing_ms.p99, 3),
    ("processor time of an update, median, ms", |s| s.update_cpu_ms.p50, 3),
    ("99 %, ms", |s| s.update_cpu_ms.p99, 3),
    ("longest, ms", |s| s.update_cpu_ms.max, 1),
    ("barriers for changes", |s| s.barriers as f64, 0),
    ("barriers, ms in all", |s| s.barriers_ms, 1),
    ("processor, % of one", |s| s.cpu_seconds * 100.0 / f64::from(SECONDS), 1),
];

pub(crate) fn report(
    rounds: u32,
    machine: &Machine,
    all: &[Vec<Sample>],
    plot: Option<&Path>,
) -> anyhow::Result<Report> {
    let of = |samples: &[Sample], figure: fn(&Sample) -> f64| median(samples.iter().map(figure).collect());
    let sizes: Vec<f64> = all.iter().map(|samples| of(samples, |s| f64::from(s.pods))).collect();
    let mut header = vec!["pods".to_owned()];
    header.extend(sizes.iter().map(|pods| format!("{pods:.0}")));
    let mut table = docs::table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for (name, figure, decimals) in ROWS {
        let mut line = vec![name.to_owned()];
        line.extend(all.iter().map(|samples| format!("{:.decimals$}", of(samples, figure))));
        table.add_row(line);
    }
    let curve = |name: &'static str, figure: fn(&Sample) -> f64| Curve {
        name,
        points: sizes.iter().copied().zip(all.iter().map(|samples| of(samples, figure))).collect(),
    };
    let panels = [
        Panel {
            title: "memory, MiB",
            target: MEMORY,
            curves: vec![curve("highest", |s| s.rss_peak), curve("enforced", |s| s.rss_enforced)],
        },
        Panel {
            title: "compiling all, ms",
            target: COMPILATION,
            curves: vec![curve("compiling all", |s| s.compile_ms)],
        },
        Panel {
            title: "change to last write, ms",
            target: EVENT,
            curves: vec![
                curve("99 %, with policies", |s| s.event_ms.p99),
                curve("99 %, pods alone", |s| s.pods_ms.p99),
                curve("median", |s| s.event_ms.p50),
            ],
        },
    ];
    if let Some(path) = plot {
        std::fs::write(path, plot::draw(&panels)).with_context(|| format!("writing {}", path.display()))?;
    }
    let text = format!(
        "{}; medians of {rounds} rounds; {RATE} changes a second for {SECONDS} seconds.\n\n{table}",
        machine.describe()?
    );
    let largest = all.last().context("no cluster")?;
    let reached = [
        ("memory, MiB", of(largest, |s| s.rss_peak), MEMORY),
        ("compiling all, ms", of(largest, |s| s.compile_ms), COMPILATION),
        ("99 % of the changes of pods, ms", of(largest, |s| s.pods_ms.p99), EVENT),
    ];
    let words = reached.map(|(name, figure, target)| {
        let word = if figure < target { "met" } else { "missed" };
        format!("{name}: {figure:.1} of {target:.0}, {word}")
    });
    Ok(Report {
        json: json!({ "machine": machine, "rounds": all }),
        sections: vec![Section { name: "scale", text }],
        verdict: format!("targets with the largest cluster: {}", words.join("; ")),
    })
}
