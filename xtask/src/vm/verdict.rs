//! What a guest's events mean. Whatever is missing is a failure: a guest that says nothing has proven nothing.

use serde::{Deserialize, Serialize};
use sluice_guest::{Event, Outcome, Plan, events};

use super::machine::{Ended, How};
use super::release::Release;
use super::suites::{Gate, MEASURES};

/// Enough of a console to see the panic and what led to it.
const TAIL: usize = 40;
/// How a line begins that carries a figure.
const MEASURE: &str = "measure: ";

/// What the matrix says about one kernel.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct KernelReport {
    pub(crate) kernel: &'static str,
    /// The kernel's own name for itself.
    pub(crate) release: Option<String>,
    /// Whether both programs were loaded and measured.
    pub(crate) loaded: bool,
    pub(crate) measures: Vec<Measure>,
    pub(crate) suites: Vec<SuiteReport>,
    pub(crate) not_run: Vec<NotRun>,
    /// What failed beside suites.
    pub(crate) faults: Vec<String>,
    pub(crate) seconds: f64,
}

/// A figure that a suite printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// What the verifier says.
    Program { program: String, verified_instructions: u32, stack: u32 },
    /// Nanoseconds of a packet, and of a program that does nothing.
    Packet { packet: String, ns: f64, no_op_ns: f64 },
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct SuiteReport {
    pub(crate) suite: String,
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) ignored: u32,
    pub(crate) seconds: f64,
    /// Why it has failed, with its output.
    pub(crate) failure: Option<Failure>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Failure {
    pub(crate) why: String,
    pub(crate) output: String,
}

/// What was left out by a gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NotRun {
    pub(crate) what: String,
    pub(crate) because: &'static str,
}

impl KernelReport {
    /// Where nothing could be booted.
    pub(crate) fn of_fault(kind: Release, fault: String) -> Self {
        Self {
            kernel: kind.name(),
            release: None,
            loaded: false,
            measures: Vec::new(),
            suites: Vec::new(),
            not_run: Vec::new(),
            faults: vec![fault],
            seconds: 0.0,
        }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.faults.is_empty() && self.suites.iter().all(|suite| suite.failure.is_none())
    }

    pub(crate) fn passed(&self) -> u32 {
        self.suites.iter().map(|suite| suite.passed).sum()
    }

    /// Tests that failed; a suite that failed otherwise counts as one.
    pub(crate) fn failed(&self) -> u32 {
        self.suites.iter().map(|suite| suite.failed.max(u32::from(suite.failure.is_some()))).sum()
    }
}

/// Judges what a guest with `plan` left.
pub(crate) fn judge(kind: Release, plan: &Plan, gates: &[&'static Gate], ended: &Ended) -> KernelReport {
    let (events, cut) = events(&ended.port);
    let mut report = KernelReport {
        seconds: ended.took.as_secs_f64(),
        faults: Vec::new(),
        ..KernelReport::of_fault(kind, String::new())
    };
    let mut whole = false;
    for event in &events {
        match event {
            Event::Booted { release, .. } => {
                if !kind.is(release) {
                    report.faults.push(format!("{release} was booted, which is no kernel {kind}"));
                }
                report.release = Some(release.clone());
            }
            Event::Suite { name, outcome, milliseconds, output } => {
                report.measures.extend(measures(output));
                report.suites.push(suite(name, outcome, *milliseconds, output));
            }
            Event::Complaint { text } => report.faults.push(format!("the kernel complained:\n{text}")),
            Event::Broken { reason } => report.faults.push(format!("the guest could not go on: {reason}")),
            Event::End => whole = true,
        }
    }
    let missing: Vec<&str> = plan
        .suites
        .iter()
        .map(|planned| planned.name.as_str())
        .filter(|name| !report.suites.iter().any(|suite| suite.suite == *name))
        .collect();
    if !whole || !missing.is_empty() || ended.how != (How::Exited { well: true }) {
        report.faults.push(unfinished(&missing, cut.is_some(), ended));
    }
    let programs =
        report.measures.iter().filter(|measure| matches!(measure, Measure::Program { .. })).count();
    report.loaded = programs >= 2;
    if plan.suites.iter().any(|planned| planned.name == MEASURES) && !report.loaded {
        report.faults.push("the programs were not loaded and measured".to_owned());
    }
    let not_run = |gate: &&'static Gate| NotRun {
        what: gate.test.map_or_else(|| gate.target.to_owned(), |test| format!("{}::{test}", gate.target)),
        because: gate.because,
    };
    report.not_run = gates.iter().map(not_run).collect();
    report
}

fn unfinished(missing: &[&str], cut: bool, ended: &Ended) -> String {
    let how = match ended.how {
        How::Exited { well: true } => "the guest ended".to_owned(),
        How::Exited { well: false } => "QEMU failed".to_owned(),
        How::TimedOut => format!("the guest was ended after {:.0} s", ended.took.as_secs_f64()),
    };
    let mut text = how;
    if !missing.is_empty() {
        text += &format!(" before {} reported", missing.join(", "));
    }
    if cut {
        text += ", in the middle of a report";
    }
    let lines: Vec<&str> = ended.console.lines().map(str::trim_end).collect();
    let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
    format!("{text}; its console ends:\n{}", tail.join("\n"))
}

fn suite(name: &str, outcome: &Outcome, milliseconds: u64, output: &str) -> SuiteReport {
    let counts = counts(output);
    let [passed, failed, ignored] = counts.unwrap_or_default();
    let why = match (outcome, counts) {
        (Outcome::Exited(0), Some([0, ..])) => Some("it ran no test".to_owned()),
        (Outcome::Exited(0), Some(_)) => None,
        (Outcome::Exited(0), None) => Some("it has no result".to_owned()),
        (Outcome::Exited(code), _) => Some(format!("it exited with {code}")),
        (Outcome::Killed(signal), _) => Some(format!("signal {signal} ended it")),
        (Outcome::TimedOut, _) => Some("it took too long".to_owned()),
        (Outcome::NotStarted(why), _) => Some(format!("it could not run: {why}")),
    };
    let failure = why.map(|why| Failure { why, output: output.to_owned() });
    #[expect(clippy::cast_precision_loss, reason = "a suite's milliseconds are few")]
    let seconds = milliseconds as f64 / 1000.0;
    SuiteReport { suite: name.to_owned(), passed, failed, ignored, seconds, failure }
}

/// Passed, failed and ignored, from the test harness's last line.
fn counts(output: &str) -> Option<[u32; 3]> {
    let line = output.lines().rev().find(|line| line.starts_with("test result: "))?;
    let count = |what: &str| {
        let words: Vec<&str> = line.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
        words.windows(2).find_map(|pair| match pair {
            [number, word] if *word == what => number.parse().ok(),
            _ => None,
        })
    };
    Some([count("passed")?, count("failed")?, count("ignored")?])
}

fn measures(output: &str) -> Vec<Measure> {
    let figure = |line: &str| serde_json::from_str(line.strip_prefix(MEASURE)?).ok();
    output.lines().filter_map(figure).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluice_guest::Suite;

    use super::*;

    const GOOD: &str = "test a ... ok\n\
        measure: {\"of\":\"program\",\"program\":\"from_pod\",\"verified_instructions\":7,\"stack\":8}\n\
        measure: {\"of\":\"program\",\"program\":\"to_pod\",\"verified_instructions\":7,\"stack\":8}\n\n\
        test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.12s\n";

    fn plan() -> Plan {
        let suite = |name: &str| Suite {
            name: name.to_owned(),
            program: String::new(),
            arguments: Vec::new(),
            environment: Default::default(),
            seconds: 1,
        };
        Plan { modules: Vec::new(), suites: vec![suite(MEASURES), suite("kernel")] }
    }

    fn ended(events: &[Event], how: How) -> Ended {
        let port = events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
        Ended { port, console: "Kernel panic".to_owned(), how, took: Duration::from_secs(9) }
    }

    fn booted(release: &str) -> Event {
        Event::Booted { release: release.to_owned(), milliseconds: 1 }
    }

    fn suite_event(name: &str, outcome: Outcome, output: &str) -> Event {
        Event::Suite { name: name.to_owned(), outcome, milliseconds: 1500, output: output.to_owned() }
    }

    fn all_well() -> Vec<Event> {
        vec![
            booted("5.10.0-46-cloud-amd64"),
            suite_event(MEASURES, Outcome::Exited(0), GOOD),
            suite_event(
                "kernel",
                Outcome::Exited(0),
                "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured",
            ),
            Event::End,
        ]
    }

    fn judged(events: &[Event], how: How) -> KernelReport {
        judge(Release::V5_10, &plan(), &[], &ended(events, how))
    }

    #[test]
    fn a_good_run_is_good() {
        let report = judged(&all_well(), How::Exited { well: true });
        assert!(report.is_good(), "{report:?}");
        assert!(report.loaded);
        assert_eq!((report.passed(), report.failed()), (5, 0));
        assert_eq!(report.measures.len(), 2);
    }

    #[test]
    fn silence_is_a_failure() {
        let whole = all_well();
        let ways = [
            (&whole[..0], How::Exited { well: true }),
            (&whole[..2], How::Exited { well: true }),
            (&whole[..3], How::Exited { well: true }),
            (&whole[..], How::TimedOut),
            (&whole[..], How::Exited { well: false }),
        ];
        for (events, how) in ways {
            let report = judged(events, how);
            assert!(!report.is_good(), "{how:?} {events:?}");
            assert!(report.faults.iter().any(|fault| fault.contains("Kernel panic")), "{report:?}");
        }
    }

    #[test]
    fn each_way_to_fail_is_seen() {
        let mut wrong_kernel = all_well();
        wrong_kernel[0] = booted("6.1.0-50-cloud-amd64");
        let mut complaint = all_well();
        complaint.insert(3, Event::Complaint { text: "WARNING: CPU: 0".to_owned() });
        let mut not_loaded = all_well();
        not_loaded[1] =
            suite_event(MEASURES, Outcome::Exited(0), "test result: ok. 1 passed; 0 failed; 0 ignored");
        let mut failing = all_well();
        failing[2] =
            suite_event("kernel", Outcome::Exited(101), "test result: FAILED. 1 passed; 2 failed; 0 ignored");
        let mut nothing = all_well();
        nothing[2] =
            suite_event("kernel", Outcome::Exited(0), "test result: ok. 0 passed; 0 failed; 0 ignored");
        let mut crashed = all_well();
        crashed[2] = suite_event("kernel", Outcome::Killed(11), "");
        for events in [wrong_kernel, complaint, not_loaded, failing, nothing, crashed] {
            assert!(!judged(&events, How::Exited { well: true }).is_good(), "{events:?}");
        }
    }
}
