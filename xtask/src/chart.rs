//! `cargo xtask chart`: what `kubectl apply` takes, rendered from the Helm chart.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::setup;
use crate::step;
use crate::workspace::Workspace;

/// What a chart is rendered for: the oldest Kubernetes that has the fields of the newest.
const KUBERNETES: &str = "1.30.0";

/// A committed file and how it comes from the chart.
struct Rendering {
    file: &'static str,
    about: &'static str,
    arguments: &'static [&'static str],
}

const RENDERINGS: [Rendering; 2] = [
    Rendering { file: "install.yaml", about: "Sluice for Kubernetes 1.30 or newer", arguments: &[] },
    Rendering {
        file: "uninstall.yaml",
        about: "Takes Sluice off the nodes, in the place of install.yaml's DaemonSet",
        arguments: &["--set", "uninstall=true", "--show-only", "templates/daemonset.yaml"],
    },
];

/// What to do with the files.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Only compare, and fail when a file is not what the chart gives
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.check { check(workspace) } else { write(workspace) }
}

fn write(workspace: &Workspace) -> Result<()> {
    let helm = setup::ensure_helm(workspace)?;
    for rendering in &RENDERINGS {
        let path = workspace.deploy().join(rendering.file);
        fs::write(&path, render(workspace, &helm, rendering)?)
            .with_context(|| format!("can't write {}", path.display()))?;
        step::note(&path.display().to_string());
    }
    Ok(())
}

/// Helm's own lint, and whether the files are up to date.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let helm = setup::ensure_helm(workspace)?;
    let mut lint = workspace.command(&helm);
    lint.args(["lint", "--strict", "--quiet"]).arg(workspace.chart());
    step::run("checking the chart", &workspace.logs(), "helm-lint", &mut lint)?;
    for rendering in &RENDERINGS {
        let path = workspace.deploy().join(rendering.file);
        let present = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        if present != render(workspace, &helm, rendering)? {
            bail!("deploy/{} is not what the chart gives: run `cargo xtask chart`", rendering.file);
        }
    }
    Ok(())
}

fn render(workspace: &Workspace, helm: &Path, rendering: &Rendering) -> Result<String> {
    let mut command: Command = workspace.command(helm);
    command
        .args(["template", "sluice"])
        .arg(workspace.chart())
        .args(["--namespace", "kube-system", "--kube-version", KUBERNETES])
        .args(rendering.arguments);
    let output = command.output().with_context(|| format!("can't start {}", helm.display()))?;
    if !output.status.success() {
        bail!("rendering deploy/{}: {}", rendering.file, String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8(output.stdout).context("Helm wrote something that is not UTF-8")?;
    Ok(format!("# {}. Made by `cargo xtask chart`: change the chart, not this.\n{text}", rendering.about))
}
