//! `cargo xtask bench`: nanoseconds per packet under `BPF_PROG_TEST_RUN`, against a no-op program of the same run.
//!
//! Medians of several rounds; every scenario is measured in every round beside its no-op, because machines are shared
//! and a ratio within one round is what holds.

mod report;
mod scenario;
mod setting;

use std::path::PathBuf;

use anyhow::Context as _;
use policy_agent::datapath::bpf::{AttachMode, BpfDatapath};
use policy_agent::plan::Capacity;
use sluice_tests::kernel::Bpffs;

/// Rounds whose median counts, and runs of the program in each.
const ROUNDS: usize = 11;
const REPEAT: u32 = 200_000;

fn main() -> anyhow::Result<()> {
    let mut json = false;
    let mut object = None;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            path => object = Some(PathBuf::from(path)),
        }
    }
    let object = object.context("usage: sluice-bench OBJECT [--json]; `cargo xtask bench` knows how")?;
    let object = std::fs::read(&object).with_context(|| format!("reading {}", object.display()))?;
    let measured = sluice_tests::namespace::with_interfaces(1, |interfaces| {
        let ifindex = *interfaces.first().context("no interface")?;
        let mut rows = Vec::new();
        let mut programs = Vec::new();
        let mut maps = Vec::new();
        for size in scenario::SIZES {
            let pins = Bpffs::new("bench");
            let mut datapath =
                BpfDatapath::load_object(&object, pins.path(), &Capacity::default(), AttachMode::Auto)?;
            if programs.is_empty() {
                programs = report::programs(&mut datapath)?;
                maps = report::map_memory(pins.path())?;
            }
            for scenario in scenario::all(size) {
                eprintln!("measuring: {} ({})", scenario.name, scenario.size);
                rows.push(scenario::measure(&mut datapath, ifindex, &scenario)?);
            }
        }
        Ok((programs, maps, rows))
    })?;
    let (programs, maps, rows) = measured;
    report::print(&programs, &maps, &rows, json)
}
