//! Conformance cases as data, run on real pods.
//!
//! A case file (`tests/cases/public.yaml` describes the format in its head) becomes a world of network namespaces with the
//! real agent on each node. Every cell of every grid and every probe is asked of three: the oracle, the agent's `explain`,
//! and sockets on the wire. All three must agree, and agree with the file. `docs/conformance.md` says how to run it.

mod capability;
mod cell;
mod junit;
mod layout;
mod report;
mod run;
mod sctp;
mod settle;
mod stage;
mod text;
mod through;
mod twin;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use sluice_kubeproxy::Mode;
use sluice_netns::{World, WorldBuilder, interrupted};
use sluice_oracle::cases::{Case, CasesFile};

pub use cell::{Cell, Skipped, Verdict};
pub use junit::write as write_junit;
pub use report::{CaseReport, CaseResult, Report, Run};
pub use text::{failure, render};
pub use wire::Proof;

use crate::agent_world::agent_binary;
use stage::Stage;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Case files.
    pub files: Vec<PathBuf>,
    /// Only cases with this in their id or title.
    pub filter: Option<String>,
    /// What the worlds are built upon: the network between the pods, without nodes and pods.
    pub base: WorldBuilder,
    /// Another agent than the one that was built.
    pub agent: Option<PathBuf>,
    /// Pods call each other by Services, behind kube-proxy in this mode.
    pub services: Option<Mode>,
}

impl Options {
    /// All cases of the files, on the network that worlds have by default.
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files, filter: None, base: World::builder("slconf"), agent: None, services: None }
    }
}

/// The cases that came with the project.
#[must_use]
pub fn public_cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/public.yaml")
}

/// Runs the cases; `progress` hears of each when it is done.
pub fn run(options: &Options, mut progress: impl FnMut(&CaseReport)) -> Result<Report> {
    let started = Instant::now();
    let mut report = Report::default();
    for path in &options.files {
        let file = CasesFile::read(path)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let first = report.cases.len();
        let mut add = |case: CaseReport| {
            progress(&case);
            report.cases.push(case);
        };
        run_file(options, &file, &name, &mut add)?;
        let place = |case: &CaseReport| file.cases.iter().position(|other| other.id == case.id);
        // In the order of the file, not of its worlds.
        report.cases.get_mut(first..).unwrap_or_default().sort_by_key(place);
    }
    report.took = started.elapsed();
    if report.cases.is_empty() {
        bail!("no case to run: {:?} with {:?} in id or title", options.files, options.filter);
    }
    Ok(report)
}

fn run_file(options: &Options, file: &CasesFile, name: &str, add: &mut impl FnMut(CaseReport)) -> Result<()> {
    let filter = options.filter.as_deref();
    let wanted = |text: &str| filter.is_none_or(|filter| text.contains(filter));
    for unreadable in file.unreadable.iter().filter(|case| wanted(&case.id)) {
        add(CaseReport {
            error: Some(format!("cannot be read: {}", unreadable.error)),
            ..empty(name, &unreadable.id, "", "")
        }
        .judged());
    }
    // One world serves all of its cases.
    let mut worlds: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in file.cases.iter().filter(|case| wanted(&case.id) || wanted(&case.title)) {
        worlds.entry(&case.world).or_default().push(case);
    }
    for (world, cases) in worlds {
        let (to_run, not_run): (Vec<&Case>, Vec<&Case>) =
            cases.iter().partition(|case| run::missing_for(case).is_none());
        let mut stage = None;
        for case in &to_run {
            if interrupted() {
                bail!("interrupted");
            }
            let started = Instant::now();
            let mut case_report = empty(name, &case.id, &case.suite, &case.title);
            let mut ran = run::Ran::default();
            let mut attempt = || {
                if stage.is_none() {
                    let world = file.worlds.get(world);
                    let world = world.with_context(|| format!("there is no world {}", case.world))?;
                    let agent = options.agent.clone().map_or_else(agent_binary, Ok)?;
                    let built = Stage::build(options.base.clone(), agent, world, &to_run, options.services);
                    stage = Some(built.with_context(|| format!("world {}", case.world))?);
                }
                let stage = stage.as_mut().context("the stage just built")?;
                run::run(stage, file, case, &mut ran)
            };
            if let Err(error) = attempt() {
                case_report.error = Some(format!("{error:#}"));
                // Whatever it was: the next case starts from nothing.
                stage = None;
            }
            ran.runs.retain(|run| !run.cells.is_empty());
            (case_report.runs, case_report.not_run) = (ran.runs, ran.skipped);
            case_report.took = started.elapsed();
            add(case_report.judged());
        }
        for case in not_run {
            let reason = run::missing_for(case).map(|capability| capability.to_string()).unwrap_or_default();
            let not_run = vec![Skipped { what: case.id.clone(), reason }];
            add(CaseReport { not_run, ..empty(name, &case.id, &case.suite, &case.title) }.judged());
        }
    }
    Ok(())
}

fn empty(file: &str, id: &str, suite: &str, title: &str) -> CaseReport {
    CaseReport {
        file: file.to_owned(),
        id: id.to_owned(),
        suite: suite.to_owned(),
        title: title.to_owned(),
        result: CaseResult::NotRun,
        error: None,
        runs: Vec::new(),
        not_run: Vec::new(),
        took: std::time::Duration::ZERO,
    }
}
