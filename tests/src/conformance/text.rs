//! The report for people: a table of all cases, what differs of those that failed, and what was not run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::Table;
use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use sluice_oracle::cases::Whence;

use super::cell::{Cell, Verdict};
use super::report::{CaseReport, CaseResult, Report, Run};

/// The whole report.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = format!("{}\n", table(report));
    for case in report.cases.iter().filter(|case| case.result == CaseResult::Failed) {
        let _ = write!(text, "\n{}", failure(case));
    }
    not_run(report, &mut text);
    summary(report, &mut text);
    text
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "case",
        "over",
        "probes",
        "oracle",
        "explain",
        "sockets",
        "result",
        "what it is about",
    ]);
    for case in report.cases.iter().filter(|case| case.result != CaseResult::NotRun) {
        for (index, run) in case.runs.iter().enumerate() {
            let count = |agrees: fn(&Cell) -> bool| {
                let (agree, all) = (run.cells.iter().filter(|cell| agrees(cell)).count(), run.cells.len());
                if agree == all { agree.to_string() } else { format!("{agree} of {all}") }
            };
            let first = index == 0;
            table.add_row([
                if first { case.id.clone() } else { String::new() },
                run.over.clone(),
                run.cells.len().to_string(),
                count(Cell::oracle_agrees),
                count(Cell::explain_agrees),
                count(Cell::sockets_agree),
                if run.agrees() { "pass" } else { "FAIL" }.to_owned(),
                if first { case.title.clone() } else { String::new() },
            ]);
        }
        // What went wrong is told below.
        if case.error.is_some() {
            let mut row = vec![case.id.clone()];
            row.resize(6, String::new());
            row.extend(["FAIL".to_owned(), case.title.clone()]);
            table.add_row(row);
        }
    }
    table
}

/// What is wrong with a case: its error, and each of its grids and probes that came out otherwise.
#[must_use]
pub fn failure(case: &CaseReport) -> String {
    let mut text = format!("{} ({}) failed: {}\n", case.id, case.file, case.title);
    if let Some(error) = &case.error {
        let _ = writeln!(text, "  {error}");
    }
    for run in case.runs.iter().filter(|run| !run.agrees()) {
        let _ = write!(text, "{}", differences(run));
    }
    text
}

fn differences(run: &Run) -> String {
    let mut text = String::new();
    let mut grids: BTreeMap<(usize, Whence, &str), Vec<&Cell>> = BTreeMap::new();
    for cell in &run.cells {
        if matches!(cell.whence, Whence::Grid(_)) {
            grids.entry((cell.step, cell.whence, &cell.pp)).or_default().push(cell);
        }
    }
    for ((step, whence, pp), cells) in grids {
        if !cells.iter().all(|cell| cell.agrees()) {
            let _ = writeln!(text, "  step {step} {whence}, {pp} over {}:", run.over);
            text += &grid(&cells);
        }
    }
    for cell in run.cells.iter().filter(|cell| !cell.agrees()) {
        let _ = writeln!(text, "  {}: {cell}", run.over);
    }
    text
}

/// Who says what of a cell.
type Say = fn(&Cell) -> Option<Verdict>;

/// The grid as it is wanted beside what each of the three says; rows that differ are marked.
fn grid(cells: &[&Cell]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for cell in cells {
        for name in [cell.from.as_str(), &cell.to] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names.sort_by_key(|name| cells.iter().position(|cell| cell.from == *name).unwrap_or(usize::MAX));
    let columns: [(&str, Say); 4] = [
        ("wanted", |cell| Some(cell.expected())),
        ("oracle", |cell| cell.oracle),
        ("explain", |cell| Some(cell.explain)),
        ("sockets", |cell| Some(cell.sockets)),
    ];
    let mut table = Table::new();
    table.load_style(NOTHING);
    let mut header = vec!["   ".to_owned(), format!("from / to {}", names.join(" "))];
    header.extend(columns.iter().map(|(title, _)| (*title).to_owned()));
    table.set_header(header);
    for from in &names {
        let of = |to: &str| cells.iter().find(|cell| cell.from == *from && cell.to == to);
        let differs = names.iter().filter_map(|to| of(to)).any(|cell| !cell.agrees());
        let mut row = vec![if differs { "  >" } else { "" }.to_owned(), (*from).to_owned()];
        for (_, say) in columns {
            let mark = |to: &&str| of(to).map_or('-', |cell| say(cell).map_or(' ', Verdict::mark));
            row.push(names.iter().map(mark).collect());
        }
        table.add_row(row);
    }
    format!("{table}\n")
}

fn not_run(report: &Report, text: &mut String) {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for case in &report.cases {
        for skipped in &case.not_run {
            let whole = case.result == CaseResult::NotRun && skipped.what == case.id;
            let what = if whole { case.id.clone() } else { format!("{} {}", case.id, skipped.what) };
            reasons.entry(&skipped.reason).or_default().push(what);
        }
    }
    for (reason, whats) in reasons {
        let _ = writeln!(text, "\nnot run, {reason}: {}", whats.join(", "));
    }
}

fn summary(report: &Report, text: &mut String) {
    let (passed, failed, not_run) = (
        report.count(CaseResult::Passed),
        report.count(CaseResult::Failed),
        report.count(CaseResult::NotRun),
    );
    let proofs = report.proofs();
    let probes: usize = proofs.values().sum();
    let _ = writeln!(
        text,
        "\n{} cases: {passed} passed, {failed} failed, {not_run} not run; {probes} probes in {:.1} s",
        report.cases.len(),
        report.took.as_secs_f64()
    );
    for (proof, count) in proofs {
        let _ = writeln!(text, "  {count:>5} {}", proof.words());
    }
}
