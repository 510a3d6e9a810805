//! The report for machines that read JUnit's XML: a suite for each suite of each file, a test for each family of a case.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use super::report::{CaseReport, Report};
use super::text;

pub fn write(report: &Report, path: &Path) -> Result<()> {
    let text = render(report)?;
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn render(report: &Report) -> Result<String> {
    let mut suites: BTreeMap<String, TestSuite> = BTreeMap::new();
    for case in &report.cases {
        let name = format!("{} {}", case.file, case.suite);
        let suite = suites.entry(name.clone()).or_insert_with(|| TestSuite::new(name));
        suite.add_test_cases(tests(case));
    }
    let mut document = quick_junit::Report::new("sluice-conformance");
    document.set_time(report.took);
    document.add_test_suites(suites.into_values());
    Ok(document.to_string()?)
}

fn tests(case: &CaseReport) -> Vec<TestCase> {
    let test = |over: &str, status: TestCaseStatus| {
        let mut test = TestCase::new(format!("{} {over}: {}", case.id, case.title), status);
        test.set_classname(case.suite.clone());
        test
    };
    let mut tests: Vec<TestCase> = case
        .runs
        .iter()
        .map(|run| {
            let status = if run.agrees() {
                TestCaseStatus::success()
            } else {
                let wrong = run.cells.iter().filter(|cell| !cell.agrees()).count();
                let message = format!("{wrong} of {} probes differ", run.cells.len());
                failed(&message, &text::failure(case))
            };
            test(&run.over, status)
        })
        .collect();
    if let Some(error) = &case.error {
        tests.push(test("as a whole", failed("the case could not be run to its end", error)));
    }
    for skipped in &case.not_run {
        let mut status = TestCaseStatus::skipped();
        status.set_message(skipped.reason.clone());
        let what = if skipped.what == case.id { "as a whole" } else { &skipped.what };
        tests.push(test(what, status));
    }
    // The time is the whole case's, its families run together.
    if let Some(first) = tests.first_mut() {
        first.set_time(case.took);
    }
    tests
}

fn failed(message: &str, description: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(message);
    status.set_description(description);
    status
}
