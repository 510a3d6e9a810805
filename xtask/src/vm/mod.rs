//! The kernel matrix: Debian's kernels in virtual machines, with the suites inside that say whether Sluice works there.
//!
//! Needs no root: what is tried is in the guests.

mod cpio;
mod initramfs;
mod kernel;
mod machine;
mod modules;
mod programs;
mod release;
mod report;
mod suites;
mod verdict;

use std::collections::BTreeMap;
use std::env::consts;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use sluice_guest::Plan;

pub(crate) use self::release::Release;
use crate::setup::{self, Scope};
use crate::step;
use crate::workspace::Workspace;
use initramfs::Payload;
use kernel::Kernel;
pub(crate) use kernel::{KEYRING, repository};
use machine::Acceleration;
use suites::{Gate, SUITES, Suite};
use verdict::KernelReport;

/// So many machines at once: each takes a CPU and 2 GiB.
const AT_ONCE: usize = 2;
/// Emulated, a machine is ten to twenty times slower; what tests wait for is given that much longer.
const SLOW: &str = "10";
/// Beside the suites' own time: the kernel's start, the mounts, the modules.
const START: Duration = Duration::from_secs(120);

/// What to run.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) kernels: &'a [Release],
    /// Only the suites that tell most.
    pub(crate) telling: bool,
    /// Only suites with this in their names.
    pub(crate) filter: Option<&'a str>,
    pub(crate) json: bool,
    /// The agent that the suites start.
    pub(crate) agent: &'a Path,
}

/// Sees to it that the kernels are here, and what boots them.
pub(crate) fn fetch(workspace: &Workspace, kernels: &[Release]) -> Result<()> {
    can_run_here()?;
    setup::ensure(workspace, Scope::MATRIX)?;
    kernels.iter().try_for_each(|kind| kernel::ensure(workspace, *kind).map(drop))
}

fn can_run_here() -> Result<()> {
    ensure!(
        (consts::OS, consts::ARCH) == ("linux", "x86_64"),
        "the kernel matrix boots Debian's amd64 kernels, and this machine is {} {}: `--no-kernels` leaves it out",
        consts::OS,
        consts::ARCH
    );
    Ok(())
}

/// Boots the kernels and reports; fails when anything did.
pub(crate) fn run(workspace: &Workspace, request: &Request<'_>) -> Result<()> {
    let chosen: Vec<&Suite> = SUITES
        .iter()
        .filter(|suite| suite.telling || !request.telling)
        .filter(|suite| request.filter.is_none_or(|part| suite.target.contains(part)))
        .collect();
    if chosen.is_empty() {
        let all: Vec<&str> = SUITES.iter().map(|suite| suite.target).collect();
        bail!(
            "no suite of the kernel matrix has {:?} in its name: {}",
            request.filter.unwrap_or(""),
            all.join(", ")
        );
    }
    let vm = workspace.vm_dir();
    fs::create_dir_all(&vm).with_context(|| format!("can't make {}", vm.display()))?;
    let kernels: Vec<Kernel> =
        request.kernels.iter().map(|kind| kernel::ensure(workspace, *kind)).collect::<Result<_>>()?;
    let (payload, suites) = prepare(workspace, &chosen, request.agent)?;
    let acceleration = Acceleration::of_this_machine();
    let reports = boot_all(workspace, &kernels, &payload, &suites, acceleration);
    if request.json {
        let json = serde_json::json!({ "acceleration": acceleration.describe(), "kernels": reports });
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        println!("{}", report::table(&reports));
        println!(
            "\nBy {}. INSTRUCTIONS are those that the verifier went through (of a million), STACK is in bytes (of 512); \
             ALLOWED, REPLY and DENIED are a packet's time against a program that does nothing in the same run.",
            acceleration.describe()
        );
    }
    let remarks = report::remarks(&reports);
    anstream::eprint!("{remarks}");
    let bad: Vec<&str> =
        reports.iter().filter(|report| !report.is_good()).map(|report| report.kernel).collect();
    ensure!(bad.is_empty(), "the kernel matrix failed on {}", bad.join(", "));
    Ok(())
}

/// What all guests have, and how each suite is called.
fn prepare(
    workspace: &Workspace,
    chosen: &[&'static Suite],
    agent: &Path,
) -> Result<(Payload, Vec<Planned>)> {
    let programs = programs::suites(workspace, chosen)?;
    let mut payload = Payload::new(workspace, &programs::guest(workspace)?)?;
    let environment = BTreeMap::from([
        ("SLUICE_AGENT".to_owned(), payload.add("policy-agent", agent)),
        ("SLUICE_BPF_OBJECT".to_owned(), payload.add("policy-ebpf", &workspace.bpf_object())),
        ("SLUICE_TEST_QUICK".to_owned(), "1".to_owned()),
        ("SLUICE_TEST_SLOW".to_owned(), SLOW.to_owned()),
        ("PROPTEST_CASES".to_owned(), "16".to_owned()),
        ("RUST_BACKTRACE".to_owned(), "0".to_owned()),
    ]);
    let mut planned = Vec::new();
    for suite in chosen {
        let program =
            programs.get(suite.target).with_context(|| format!("{} was not built", suite.target))?;
        let program = payload.add_built(workspace, suite.target, program)?;
        let plan = sluice_guest::Suite {
            name: suite.target.to_owned(),
            program,
            arguments: suite.arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: environment.clone(),
            seconds: suite.seconds,
        };
        planned.push(Planned { suite, plan });
    }
    Ok((payload, planned))
}

struct Planned {
    suite: &'static Suite,
    plan: sluice_guest::Suite,
}

fn boot_all(
    workspace: &Workspace,
    kernels: &[Kernel],
    payload: &Payload,
    suites: &[Planned],
    acceleration: Acceleration,
) -> Vec<KernelReport> {
    let names: Vec<&str> = kernels.iter().map(|kernel| kernel.kind.name()).collect();
    let title = format!("{} suites on {} by {}", suites.len(), names.join(", "), acceleration.describe());
    anstream::eprintln!("\x1b[1;32m==>\x1b[0m {title}");
    let waiting = Mutex::new(kernels.iter());
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some(kernel) = next else { return };
            let report = boot(workspace, kernel, payload, suites, acceleration)
                .unwrap_or_else(|error| KernelReport::of_fault(kernel.kind, format!("{error:#}")));
            step::note(&format!("{}: {:.0} s: {}", kernel.kind, report.seconds, report::times(&report)));
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((kernel.kind, report));
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(kernels.len()) {
            scope.spawn(work);
        }
    });
    let mut reports = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    reports.sort_by_key(|(kind, _)| *kind);
    reports.into_iter().map(|(_, report)| report).collect()
}

fn boot(
    workspace: &Workspace,
    kernel: &Kernel,
    payload: &Payload,
    suites: &[Planned],
    acceleration: Acceleration,
) -> Result<KernelReport> {
    let mut plan = Plan { modules: Vec::new(), suites: Vec::new() };
    let mut gates: Vec<&'static Gate> = Vec::new();
    for Planned { suite, plan: planned } in suites {
        let own: Vec<&'static Gate> = Gate::of(suite.target, kernel.kind).collect();
        if own.iter().all(|gate| gate.test.is_some()) {
            let mut planned = planned.clone();
            for test in own.iter().filter_map(|gate| gate.test) {
                planned.arguments.extend(["--skip".to_owned(), test.to_owned()]);
            }
            plan.suites.push(planned);
        }
        gates.extend(own);
    }
    let initramfs = workspace.vm_dir().join(format!("{}.initramfs", kernel.kind));
    payload.write(kernel, &mut plan, &initramfs)?;
    let limit = START + plan.suites.iter().map(|suite| Duration::from_secs(suite.seconds)).sum();
    let ended = machine::run(workspace, kernel, &initramfs, acceleration, limit)?;
    fs::remove_file(&initramfs).with_context(|| format!("can't remove {}", initramfs.display()))?;
    Ok(verdict::judge(kernel.kind, &plan, &gates, &ended))
}
