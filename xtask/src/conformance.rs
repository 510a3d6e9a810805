//! `cargo xtask conformance`: builds everything and runs `sluice-conformance` on case files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::agent_build::{self, OBJECT_VARIABLE};
use crate::bpf_build;
use crate::root;
use crate::setup::Scope;
use crate::step;
use crate::test::KERNEL_TESTS;
use crate::workspace::Workspace;

const PROGRAM: &str = "sluice-conformance";

/// What to run, and where to write the report.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// A case file, any number of times; the public cases where none is named
    #[arg(long, value_name = "FILE")]
    cases: Vec<PathBuf>,
    /// Only cases with this in their id or title
    #[arg(long, value_name = "NAME-FILTER")]
    case: Option<String>,
    /// The network between the pods: vxlan, vxlan-direct-routing, host-gw, ipip, routed
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Let Debian's CNI plugins make the pods' interfaces
    #[arg(long)]
    cni_plugins: bool,
    /// Pods call each other by Services, behind kube-proxy's rules: nftables, iptables
    #[arg(long, value_name = "MODE")]
    services: Option<String>,
    /// Write JUnit XML here
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write every probe's answers here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Everything is built already (used when the run goes on as root)
    #[arg(long, hide = true)]
    built: bool,
}

impl Options {
    /// The same as arguments of a program that runs elsewhere.
    fn arguments(&self) -> Result<Vec<String>> {
        let mut arguments = Vec::new();
        let cases = self.cases.iter().map(|path| ("--cases", path));
        let reports = [("--junit", &self.junit), ("--json", &self.json)];
        let reports = reports.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?)));
        for (flag, path) in cases.chain(reports) {
            arguments.push(flag.to_owned());
            arguments.push(absolute(path)?);
        }
        if let Some(case) = &self.case {
            arguments.extend(["--case".to_owned(), case.clone()]);
        }
        if let Some(network) = &self.network {
            arguments.extend(["--network".to_owned(), network.clone()]);
        }
        if let Some(mode) = &self.services {
            arguments.extend(["--services".to_owned(), mode.clone()]);
        }
        if self.cni_plugins {
            arguments.push("--cni-plugins".to_owned());
        }
        Ok(arguments)
    }
}

/// Builds and runs.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if !options.built {
        root::authorise("the cases are run in network namespaces with BPF programs")?;
        agent_build::all(workspace, Scope::RUN, bpf_build::Variant::Plain)?;
        let mut command = workspace.cargo();
        // As the tests are built, so that one build serves both.
        command
            .args(["build", "--package", "sluice-tests", "--bin", PROGRAM, "--features", KERNEL_TESTS])
            .env(OBJECT_VARIABLE, workspace.bpf_object());
        step::run("building the runner", &workspace.logs(), "conformance-build", &mut command)?;
    }
    let arguments = options.arguments()?;
    if !root::is_root() {
        let all = ["conformance", "--built"].into_iter().chain(arguments.iter().map(String::as_str));
        return root::become_root(&all.collect::<Vec<_>>());
    }
    let mut command = workspace.command(workspace.debug_program(PROGRAM));
    command.args(&arguments).env("SLUICE_AGENT", workspace.agent());
    step::stream("running the cases", &mut command)
}

fn absolute(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).with_context(|| path.display().to_string())?;
    absolute.into_os_string().into_string().ok().with_context(|| format!("{}: not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_mean_the_same_from_another_folder() {
        let options = Options {
            cases: vec!["a.yaml".into(), "/b.yaml".into()],
            case: Some("e2e-1".to_owned()),
            json: Some("out.json".into()),
            ..Options::default()
        };
        let here = std::env::current_dir().unwrap();
        let here = |name: &str| here.join(name).to_str().unwrap().to_owned();
        assert_eq!(
            options.arguments().unwrap(),
            [
                "--cases",
                &here("a.yaml"),
                "--cases",
                "/b.yaml",
                "--json",
                &here("out.json"),
                "--case",
                "e2e-1"
            ]
        );
    }
}
