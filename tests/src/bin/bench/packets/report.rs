//! The tables of what was measured, and what of it is the target.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::maps::MapInfo;
use policy_agent::datapath::bpf::BpfDatapath;
use sluice_tests::stack::{Depth, Frames};

use super::REPEAT;
use super::scenario::Row;

use crate::Report;
use crate::docs::{self, Section};
use crate::machine::Machine;

/// What an allowed packet of an established flow may cost over a no-op program (DESIGN section 3).
const TARGET_NS: f64 = 35.0;

#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Program {
    pub name: &'static str,
    pub verified_instructions: Option<u32>,
    pub translated_bytes: Option<u32>,
    pub jited_bytes: u32,
    pub memory_bytes: u32,
    pub stack: Depth,
}

pub(crate) fn programs(datapath: &mut BpfDatapath, stack: &Frames) -> anyhow::Result<Vec<Program>> {
    ["from_pod", "to_pod", "no_op"]
        .into_iter()
        .map(|name| {
            let info = datapath.program(name)?.info()?;
            Ok(Program {
                name,
                verified_instructions: info.verified_instruction_count(),
                translated_bytes: info.size_translated(),
                jited_bytes: info.size_jitted(),
                memory_bytes: info.memory_locked()?,
                stack: stack.depth(name)?,
            })
        })
        .collect()
}

pub(crate) fn report(
    rounds: u32,
    machine: &Machine,
    programs: &[Program],
    maps: &[(String, u64)],
    rows: &[Row],
) -> anyhow::Result<Report> {
    // In a flood too; "just after a change" is something else.
    let worst = |beginning: &str| {
        let rows = rows.iter().filter(|row| row.scenario.starts_with(beginning));
        rows.map(|row| row.over_no_op_ns).fold(0.0, f64::max)
    };
    let (worst4, worst6) = (worst("allowed established"), worst("IPv6 allowed established"));
    let where_measured = machine.describe()?;
    let json = serde_json::json!({
        "rounds": rounds, "repeat": REPEAT, "machine": machine, "programs": programs, "maps": maps, "rows": rows,
        "target_ns": TARGET_NS, "allowed_established_worst_ns": { "ipv4": worst4, "ipv6": worst6 },
    });
    let text = format!("{where_measured}; medians of {rounds} rounds.\n\n{}", packets(rows));
    let sections = vec![
        Section { name: "packets", text },
        Section { name: "programs", text: program_table(programs) },
        Section { name: "maps", text: map_table(maps) },
    ];
    let met = |worst: f64| if worst <= TARGET_NS { "met" } else { "MISSED" };
    let verdict = format!(
        "target: allowed established at most {TARGET_NS} ns over the no-op: IPv4 {worst4:.0} ns, {}; IPv6 {worst6:.0} ns, {}",
        met(worst4),
        met(worst6)
    );
    Ok(Report { json, sections, verdict })
}

fn packets(rows: &[Row]) -> String {
    let mut table =
        docs::table(&["scenario", "remotes", "ns/packet", "no-op", "over no-op", "ratio", "right verdict"]);
    for row in rows {
        table.add_row([
            row.scenario.to_owned(),
            row.remotes.to_string(),
            format!("{:.0}", row.total_ns),
            format!("{:.0}", row.no_op_ns),
            format!("{:.0}", row.over_no_op_ns),
            format!("{:.1}", row.ratio),
            format!("{:.1} %", row.share * 100.0),
        ]);
    }
    table.to_string()
}

fn program_table(programs: &[Program]) -> String {
    let header = ["program", "verified instructions", "translated bytes", "JIT bytes", "stack", "with calls"];
    let mut table = docs::table(&header);
    let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    for program in programs {
        table.add_row([
            program.name.to_owned(),
            number(program.verified_instructions),
            number(program.translated_bytes),
            program.jited_bytes.to_string(),
            program.stack.own.to_string(),
            program.stack.deepest.to_string(),
        ]);
    }
    table.to_string()
}

fn map_table(maps: &[(String, u64)]) -> String {
    let total: u64 = maps.iter().map(|(_, bytes)| bytes).sum();
    let mut table = docs::table(&["map", "KiB"]);
    for (name, bytes) in maps {
        table.add_row([name.clone(), (bytes / 1024).to_string()]);
    }
    table.add_row(["all".to_owned(), (total / 1024).to_string()]);
    table.to_string()
}

/// Name and bytes of each pinned map, as the kernel counts them for the file descriptor.
pub(crate) fn map_memory(bpffs: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    let mut maps = Vec::new();
    for folder in ["v1/next/maps", "v1/kept", "flows-v1"] {
        for entry in std::fs::read_dir(bpffs.join(folder))? {
            let path = entry?.path();
            let fd = MapInfo::from_pin(&path)?.fd()?;
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
            let bytes = info
                .lines()
                .find_map(|line| line.strip_prefix("memlock:"))
                .and_then(|bytes| bytes.trim().parse().ok())
                .unwrap_or(0);
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            maps.push((name, bytes));
        }
    }
    maps.sort();
    Ok(maps)
}
