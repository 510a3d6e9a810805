//! `cargo xtask build`: the BPF object, then the agent with the object inside.

use std::path::Path;

use anyhow::Result;

use crate::bpf_build::{self, Variant};
use crate::setup::{self, Scope};
use crate::step;
use crate::workspace::Workspace;

/// Tells policy-agent's build script which object to include.
pub(crate) const OBJECT_VARIABLE: &str = "SLUICE_BPF_OBJECT";

/// Installs what `scope` needs and builds both parts.
pub(crate) fn all(workspace: &Workspace, scope: Scope, variant: Variant) -> Result<()> {
    let rustc = setup::ensure(workspace, scope)?;
    let object = bpf_build::build(workspace, &rustc, variant)?;
    agent(workspace, &object)
}

fn agent(workspace: &Workspace, object: &Path) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["build", "--release", "--package", "policy-agent"]).env(OBJECT_VARIABLE, object);
    step::run("building the agent", &workspace.logs(), "agent-build", &mut command)
}
