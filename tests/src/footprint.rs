//! What an agent has in the kernel, as the kernel and not the agent tells it: pins, programs on interfaces, programs anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};
use serde_json::Value;
use sluice_netns::{Agent, Netns, Node, Pod};

use crate::agent_world::{Lab, shell};

/// The table that every generation of programs shares.
const SHARED: &str = "FLOWS";
const HOOKS: [(&str, TcAttachType); 2] =
    [("from_pod", TcAttachType::Ingress), ("to_pod", TcAttachType::Egress)];

/// What must be the same after any number of deaths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// The names of all pins, without their folders.
    pins: Vec<String>,
    /// How many programs of each name use the tables.
    programs: BTreeMap<String, usize>,
    /// In the node's network namespace.
    processes: usize,
}

impl Footprint {
    /// Of a running agent, which must have exactly one program of its own on each hook of each of its pods' interfaces, and
    /// must hold the tables that these read.
    pub fn of(lab: &Lab, node: &Node, agent: &Agent) -> Result<Self> {
        let held = Held::by(agent.id())?;
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        let mut shared = None;
        for pod in lab.world.pods().filter(|pod| pod.node == node.name()) {
            for ((hook, _), programs) in HOOKS.iter().zip(hanging(node.ns(), &pod.host_interface)?) {
                let at = || format!("{hook} of {} ({})", pod.host_interface, pod.key());
                let [program] = &programs[..] else {
                    anyhow::bail!("{}: {} programs", at(), programs.len());
                };
                let id = program.id();
                ensure!(*seen.entry(hook).or_insert(id) == id, "{}: not the program of the others", at());
                ensure!(held.programs.contains(&id), "{}: program {id} is not the running agent's", at());
                for map in program.map_ids()?.unwrap_or_default() {
                    let name = map_name(map)?;
                    ensure!(held.maps.contains(&map), "{}: the agent does not hold {name} ({map})", at());
                    if name == SHARED {
                        ensure!(*shared.get_or_insert(map) == map, "{}: another table of connections", at());
                    }
                }
            }
        }
        let shared = shared.context("no program has a table of connections")?;
        Ok(Self {
            pins: pins(node.bpffs())?,
            programs: programs_with(shared)?,
            processes: processes(node.ns())?,
        })
    }
}

/// What a process has open.
struct Held {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Held {
    fn by(pid: u32) -> Result<Self> {
        let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
        let folder = format!("/proc/{pid}/fdinfo");
        for entry in fs::read_dir(&folder).context(folder)? {
            // It may have been closed since.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            for line in text.lines() {
                let Some((name, number)) = line.split_once(':') else { continue };
                match name {
                    "prog_id" => programs.insert(number.trim().parse()?),
                    "map_id" => maps.insert(number.trim().parse()?),
                    _ => continue,
                };
            }
        }
        Ok(Self { programs, maps })
    }
}

/// Our programs on the two hooks of an interface, what the pod sends first: by tcx and by filters.
pub fn hanging(node: &Netns, interface: &str) -> Result<[Vec<ProgramInfo>; 2]> {
    let of = |(name, attach): (&str, TcAttachType)| -> Result<Vec<ProgramInfo>> {
        // A kernel before 6.6 has no tcx: it refuses the question.
        let mut all = node
            .run(|| SchedClassifier::query_tcx(interface, attach))?
            .map_or_else(|_| Vec::new(), |(_, programs)| programs);
        let direction = if name == "from_pod" { "ingress" } else { "egress" };
        let filters = shell(node, &format!("tc -j filter show dev {interface} {direction}"))?;
        let filters: Value =
            if filters.trim().is_empty() { Value::Null } else { serde_json::from_str(&filters)? };
        for filter in filters.as_array().into_iter().flatten() {
            if let Some(id) = filter["options"]["prog"]["id"].as_u64() {
                let program = loaded_programs().flatten().find(|program| u64::from(program.id()) == id);
                all.push(program.with_context(|| format!("program {id} of {interface} is gone"))?);
            }
        }
        all.retain(|program| program.name_as_str() == Some(name));
        Ok(all)
    };
    let [from_pod, to_pod] = HOOKS;
    Ok([of(from_pod)?, of(to_pod)?])
}

/// Whether each hook of a pod has a program.
pub fn is_hooked(node: &Node, pod: &Pod) -> Result<[bool; 2]> {
    Ok(hanging(node.ns(), &pod.host_interface)?.map(|programs| !programs.is_empty()))
}

fn map_name(id: u32) -> Result<String> {
    let info = MapInfo::from_id(id).with_context(|| format!("map {id}"))?;
    Ok(info.name_as_str().unwrap_or_default().to_owned())
}

fn programs_with(map: u32) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for program in loaded_programs() {
        // One that ends meanwhile, of somebody else, is no matter of ours.
        let Ok(program) = program else { continue };
        if program.map_ids().is_ok_and(|maps| maps.is_some_and(|maps| maps.contains(&map))) {
            *counts.entry(program.name_as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    Ok(counts)
}

/// The names of everything that is pinned below `folder`; none where it is gone.
pub fn pins(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        if !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}

fn processes(ns: &Netns) -> Result<usize> {
    let output = Command::new("ip").args(["netns", "pids", ns.name()]).output().context("cannot run `ip`")?;
    ensure!(output.status.success(), "ip netns pids {}: {}", ns.name(), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().count())
}
