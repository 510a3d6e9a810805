//! Nanoseconds per packet under `BPF_PROG_TEST_RUN`, each scenario beside a no-op program of the same round.

mod frames;
mod report;
mod scenario;
mod setting;

use std::path::Path;

use anyhow::Context as _;
use policy_agent::datapath::bpf::{AttachMode, BpfDatapath};
use policy_agent::plan::Capacity;
use sluice_tests::kernel::Bpffs;
use sluice_tests::stack::Frames;

use crate::Report;
use crate::machine::Machine;

/// Runs of the program in each round.
const REPEAT: u32 = 200_000;

pub(crate) fn run(object: &Path, rounds: u32, machine: Machine) -> anyhow::Result<Report> {
    let object = std::fs::read(object).with_context(|| format!("reading {}", object.display()))?;
    let stack = Frames::read(&object)?;
    let measured = sluice_tests::namespace::with_interfaces(1, |interfaces| {
        let ifindex = *interfaces.first().context("no interface")?;
        let load = || -> anyhow::Result<(Bpffs, BpfDatapath)> {
            let pins = Bpffs::new("bench");
            let datapath =
                BpfDatapath::load_object(&object, pins.path(), &Capacity::default(), AttachMode::Auto)?;
            Ok((pins, datapath))
        };
        let (programs, maps) = {
            let (pins, mut datapath) = load()?;
            (report::programs(&mut datapath, &stack)?, report::map_memory(pins.path())?)
        };
        let mut rows = Vec::new();
        for scenario in scenario::all() {
            for size in scenario.sizes {
                eprintln!("measuring: {} ({size})", scenario.name);
                // Tables of its own: nothing that a scenario leaves may serve, or crowd, the next.
                let (_pins, mut datapath) = load()?;
                rows.push(scenario::measure(&mut datapath, ifindex, &scenario, *size, rounds)?);
            }
        }
        Ok((programs, maps, rows))
    })?;
    let (programs, maps, rows) = measured;
    report::report(rounds, &machine, &programs, &maps, &rows)
}
