//! `cargo xtask conformance`: runs case files on real pods and reports.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use sluice_kubeproxy::Mode;
use sluice_netns::Network;
use sluice_tests::conformance::{CaseResult, Options, public_cases, render, run, write_junit};

/// Runs conformance cases on real pods: oracle, `explain` and sockets must agree with the file.
#[derive(Debug, Parser)]
struct Cli {
    /// A case file; the public cases where none is named
    #[arg(long, value_name = "FILE")]
    cases: Vec<PathBuf>,
    /// Only cases with this in their id or title
    #[arg(long, value_name = "NAME-FILTER")]
    case: Option<String>,
    /// The network between the pods: vxlan, vxlan-direct-routing, host-gw, ipip, routed
    #[arg(long, value_name = "NAME", default_value = "vxlan")]
    network: Network,
    /// Let Debian's CNI plugins make the pods' interfaces
    #[arg(long)]
    cni_plugins: bool,
    /// Pods call each other by Services, behind kube-proxy's rules: nftables, iptables
    #[arg(long, value_name = "MODE")]
    services: Option<Mode>,
    /// Write JUnit XML here
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write every probe's answers here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    sluice_netns::catch_interrupts()?;
    let files = if cli.cases.is_empty() { vec![public_cases()] } else { cli.cases };
    let mut options = Options { filter: cli.case, services: cli.services, ..Options::new(files) };
    options.base = options.base.network(cli.network);
    if cli.cni_plugins {
        options.base = options.base.cni_plugins();
    }
    let report = run(&options, |case| {
        let result = match case.result {
            CaseResult::Passed => "pass",
            CaseResult::Failed => "FAIL",
            CaseResult::NotRun => return,
        };
        anstream::eprintln!("{result} {} ({:.1} s)", case.id, case.took.as_secs_f64());
    })?;
    if let Some(path) = &cli.junit {
        write_junit(&report, path)?;
    }
    if let Some(path) = &cli.json {
        report.write_json(path)?;
    }
    anstream::print!("{}", render(&report));
    let failed = report.count(CaseResult::Failed) > 0 || report.count(CaseResult::Passed) == 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
