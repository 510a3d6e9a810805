//! What this machine has and lacks, for a scope.

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use crate::bpf_linker::{self, Installed, Llvm};
use crate::bpf_toolchain::{self, Candidate};
use crate::setup::tools::{COMPONENTS, DENY, NEXTEST, TOOLS, Tool, cargo_has};
use crate::setup::{Scope, helm};
use crate::workspace::Workspace;

/// One line of the report.
#[derive(Debug)]
struct Finding {
    name: String,
    /// Where it is, or why it's missing and what to do.
    found: Result<String, String>,
}

/// The machine as it is now.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) rustc: Result<Candidate, String>,
    pub(crate) linker: Option<Installed>,
    pub(crate) llvm: Option<Llvm>,
    pub(crate) missing_tools: Vec<&'static Tool>,
    pub(crate) missing_components: Vec<&'static str>,
    pub(crate) deny_missing: bool,
    pub(crate) helm_missing: bool,
    pub(crate) nextest_missing: bool,
    findings: Vec<Finding>,
}

impl Survey {
    pub(crate) fn take(workspace: &Workspace, scope: Scope) -> Self {
        let rustc = bpf_toolchain::find().map_err(|error| error.to_string());
        let rustc_llvm = rustc.as_ref().map_or(bpf_linker::OLDEST_LLVM, |rustc| rustc.release.llvm.major);
        let linker = Installed::find().filter(|linker| linker.serves(rustc_llvm));
        // Only a linker that must be built needs LLVM's development files.
        let llvm = if linker.is_none() { bpf_linker::find_llvm(rustc_llvm) } else { None };
        let mut survey = Self {
            rustc,
            linker,
            llvm,
            missing_tools: Vec::new(),
            missing_components: Vec::new(),
            deny_missing: false,
            helm_missing: false,
            nextest_missing: false,
            findings: Vec::new(),
        };
        survey.look_for_compiler(rustc_llvm);
        survey.look_for_tools(workspace, scope);
        if scope.chart {
            survey.look_for_helm(workspace);
        }
        if scope.tests {
            survey.look_for_nextest(workspace);
        }
        if scope.lint {
            survey.look_for_lints(workspace);
        }
        survey
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.findings.iter().all(|finding| finding.found.is_ok())
    }

    /// The whole report, a row for each thing.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        for Finding { name, found } in &self.findings {
            let (state, text) = match found {
                Ok(text) => ("ok", text),
                Err(text) => ("MISSING", text),
            };
            table.add_row([state, name, text]);
        }
        table
    }

    /// What is missing and how to get it, a line or more for each thing.
    pub(crate) fn missing(&self) -> String {
        let line = |finding: &Finding| {
            let text = finding.found.as_ref().err()?;
            Some(format!("  - {}: {text}", finding.name))
        };
        self.findings.iter().filter_map(line).collect::<Vec<_>>().join("\n")
    }

    fn add(&mut self, name: impl Into<String>, found: Result<String, String>) {
        self.findings.push(Finding { name: name.into(), found });
    }

    fn look_for_compiler(&mut self, rustc_llvm: u32) {
        let found = match &self.rustc {
            Ok(rustc) => Ok(format!("{rustc}: {}", rustc.reason())),
            Err(fault) => Err(format!(
                "{fault}\n    install one: `rustup toolchain install nightly --component rust-src`, or on Debian \
                 `apt-get install rustc-web rust-web-src`, or name one by {}",
                bpf_toolchain::OVERRIDE
            )),
        };
        self.add("rustc for BPF", found);
        let wanted: Vec<String> =
            bpf_linker::wanted_llvms(rustc_llvm).map(|major| major.to_string()).collect();
        let wanted = wanted.join(" or ");
        let linker = match (&self.linker, &self.llvm) {
            (Some(linker), _) => Ok(linker.describe()),
            (None, Some(llvm)) => Err(format!(
                "install it: `LLVM_PREFIX={} cargo install bpf-linker --version {} --locked --no-default-features \
                 --features llvm-{}`",
                llvm.prefix.display(),
                bpf_linker::VERSION,
                llvm.major
            )),
            (None, None) if self.rustc.is_err() => Err(format!(
                "install version {}, for the LLVM of the rustc to be installed",
                bpf_linker::VERSION
            )),
            (None, None) => Err(format!(
                "install version {} built with LLVM {wanted}, to which building it here needs that LLVM's development \
                 files (Debian: llvm-{}-dev; other systems: the project's own release binaries have LLVM inside)",
                bpf_linker::VERSION,
                rustc_llvm.max(bpf_linker::OLDEST_LLVM)
            )),
        };
        self.add("bpf-linker", linker);
    }

    fn look_for_tools(&mut self, workspace: &Workspace, scope: Scope) {
        for tool in TOOLS.iter().filter(|tool| tool.in_scope(scope)) {
            let found = match tool.find(workspace) {
                Some(path) => Ok(path.display().to_string()),
                None => {
                    self.missing_tools.push(tool);
                    let packages = tool.packages.first().map(|set| set.join(" ")).unwrap_or_default();
                    Err(format!("{}; Debian's package: {packages}", tool.purpose))
                }
            };
            self.add(tool.program, found);
        }
    }

    fn look_for_helm(&mut self, workspace: &Workspace) {
        let found = helm::find(workspace).map(|path| path.display().to_string()).ok_or_else(|| {
            self.helm_missing = true;
            helm::advice()
        });
        self.add("helm", found);
    }

    fn look_for_nextest(&mut self, workspace: &Workspace) {
        let found = cargo_has(workspace, "nextest").ok_or_else(|| {
            self.nextest_missing = true;
            format!("runs the tests; install it: `cargo install {NEXTEST} --locked`")
        });
        let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
        self.add(NEXTEST, found.map(first_line));
    }

    fn look_for_lints(&mut self, workspace: &Workspace) {
        for &(subcommand, component) in COMPONENTS {
            let found = cargo_has(workspace, subcommand).ok_or_else(|| {
                self.missing_components.push(component);
                format!("install it: `rustup component add {component}`")
            });
            self.add(component, found);
        }
        let found = cargo_has(workspace, "deny").ok_or_else(|| {
            self.deny_missing = true;
            format!("install it: `cargo install {DENY} --locked`")
        });
        self.add(DENY, found);
    }
}
