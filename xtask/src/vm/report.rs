//! The matrix as people read it.

use super::suites::MEASURES;
use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::verdict::{KernelReport, Measure};

/// One row for each kernel.
pub(crate) fn table(reports: &[KernelReport]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
        "KERNEL",
        "RELEASE",
        "LOADED",
        "INSTRUCTIONS",
        "STACK",
        "ALLOWED",
        "REPLY",
        "DENIED",
        "PASSED",
        "FAILED",
        "NOT RUN",
        "TIME",
    ]);
    for report in reports {
        let packet = |name: &str| {
            let found = report.measures.iter().find_map(|measure| match measure {
                Measure::Packet { packet, ns, no_op_ns } if packet == name => Some(ns / no_op_ns),
                _ => None,
            });
            found.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1} x"))
        };
        table.add_row([
            report.kernel.to_owned(),
            report.release.clone().unwrap_or_else(|| "-".to_owned()),
            loaded(report).to_owned(),
            programs(report, |instructions, _| instructions),
            programs(report, |_, stack| stack),
            packet("allowed"),
            packet("reply"),
            packet("denied"),
            report.passed().to_string(),
            report.failed().to_string(),
            report.not_run.len().to_string(),
            format!("{:.0} s", report.seconds),
        ]);
    }
    table.trim_fmt()
}

/// Only the suite that measures tells, and a filter may leave it out.
fn loaded(report: &KernelReport) -> &'static str {
    let asked = report.suites.iter().any(|suite| suite.suite == MEASURES) || !report.faults.is_empty();
    match (report.loaded, asked) {
        (true, _) => "yes",
        (false, true) => "no",
        (false, false) => "-",
    }
}

/// The largest of the figures of both programs.
fn programs(report: &KernelReport, figure: fn(u32, u32) -> u32) -> String {
    let figures = report.measures.iter().filter_map(|measure| match measure {
        Measure::Program { verified_instructions, stack, .. } => Some(figure(*verified_instructions, *stack)),
        Measure::Packet { .. } => None,
    });
    figures.max().map_or_else(|| "-".to_owned(), |largest| largest.to_string())
}

/// What was left out, and everything that failed.
pub(crate) fn remarks(reports: &[KernelReport]) -> String {
    let mut text = String::new();
    for report in reports {
        let kernel = report.kernel;
        for left_out in &report.not_run {
            text += &format!("not run on {kernel}: {}: {}\n", left_out.what, left_out.because);
        }
    }
    for report in reports {
        let kernel = report.kernel;
        for suite in &report.suites {
            if let Some(failure) = &suite.failure {
                let output = failure.output.trim_end();
                text += &format!("\nFAILED on {kernel}: {}: {}\n{output}\n", suite.suite, failure.why);
            }
        }
        for fault in &report.faults {
            text += &format!("\nFAILED on {kernel}: {fault}\n");
        }
    }
    text
}

/// How long each suite took, for whoever looks where the time goes.
pub(crate) fn times(report: &KernelReport) -> String {
    let suites: Vec<String> =
        report.suites.iter().map(|suite| format!("{} {:.1} s", suite.suite, suite.seconds)).collect();
    suites.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::release::Release;
    use crate::vm::verdict::{Failure, NotRun, SuiteReport};

    #[test]
    fn what_failed_and_what_did_not_run_is_named() {
        let mut report = KernelReport::of_fault(Release::V5_10, "it does not boot".to_owned());
        report.not_run.push(NotRun { what: "kernel::x".to_owned(), because: "it lacks y" });
        report.suites.push(SuiteReport {
            suite: "vectors".to_owned(),
            passed: 1,
            failed: 2,
            ignored: 0,
            seconds: 1.5,
            failure: Some(Failure {
                why: "it exited with 101".to_owned(),
                output: "left != right".to_owned(),
            }),
        });
        let text = remarks(std::slice::from_ref(&report));
        for part in [
            "not run on 5.10: kernel::x: it lacks y",
            "vectors: it exited with 101",
            "left != right",
            "does not boot",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let table = table(&[report]);
        assert!(table.contains("5.10") && table.contains("no"), "{table}");
    }
}
