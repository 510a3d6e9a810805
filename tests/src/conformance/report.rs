//! What a run of cases brought, as data.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Serialize, Serializer};

use super::cell::{Cell, Skipped};
use super::wire::Proof;

/// Everything.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub cases: Vec<CaseReport>,
    #[serde(serialize_with = "seconds", rename = "seconds")]
    pub took: Duration,
}

/// One case.
#[derive(Debug, Serialize)]
pub struct CaseReport {
    pub file: String,
    pub id: String,
    pub suite: String,
    pub title: String,
    pub result: CaseResult,
    /// What went wrong besides the probes: the case can't be read, or the world or an agent failed.
    pub error: Option<String>,
    pub runs: Vec<Run>,
    pub not_run: Vec<Skipped>,
    #[serde(serialize_with = "seconds", rename = "seconds")]
    pub took: Duration,
}

/// One case over one family.
#[derive(Debug, Serialize)]
pub struct Run {
    /// `ipv4`, `ipv6`, or `ipv6, blocks as written`.
    pub over: String,
    pub cells: Vec<Cell>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaseResult {
    Passed,
    Failed,
    NotRun,
}

impl Report {
    #[must_use]
    pub fn count(&self, result: CaseResult) -> usize {
        self.cases.iter().filter(|case| case.result == result).count()
    }

    /// Probes by the way that they were made.
    #[must_use]
    pub fn proofs(&self) -> BTreeMap<Proof, usize> {
        let mut proofs = BTreeMap::new();
        for cell in self.cases.iter().flat_map(|case| &case.runs).flat_map(|run| &run.cells) {
            *proofs.entry(cell.proof).or_default() += 1;
        }
        proofs
    }

    pub fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

impl CaseReport {
    /// Works out the result: nothing that was probed is nothing that passed.
    #[must_use]
    pub fn judged(mut self) -> Self {
        let agree = self.runs.iter().all(Run::agrees);
        let probed = self.runs.iter().any(|run| !run.cells.is_empty());
        if !probed && self.error.is_none() && self.not_run.is_empty() {
            let reason = "the case has no probes and no grids".to_owned();
            self.not_run.push(Skipped { what: self.id.clone(), reason });
        }
        self.result = match (&self.error, agree, probed) {
            (None, true, true) => CaseResult::Passed,
            (None, true, false) => CaseResult::NotRun,
            _ => CaseResult::Failed,
        };
        self
    }
}

impl Run {
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.cells.iter().all(Cell::agrees)
    }
}

fn seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((took.as_secs_f64() * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use sluice_oracle::cases::Whence;

    use super::super::cell::Verdict::{self, Allow, Deny, Neither};
    use super::*;

    fn cell(want: Option<Verdict>, oracle: Option<Verdict>, explain: Verdict, sockets: Verdict) -> Cell {
        Cell {
            step: 1,
            whence: Whence::Probe(0),
            from: "x/a".to_owned(),
            to: "x/b".to_owned(),
            pp: "TCP/80".to_owned(),
            flow: String::new(),
            want,
            oracle,
            explain,
            sockets,
            seen: String::new(),
            proof: Proof::TcpConnection,
        }
    }

    fn result(cells: Vec<Cell>, error: Option<&str>) -> CaseResult {
        let case = CaseReport {
            file: String::new(),
            id: "c".to_owned(),
            suite: String::new(),
            title: String::new(),
            result: CaseResult::Passed,
            error: error.map(str::to_owned),
            runs: vec![Run { over: "ipv4".to_owned(), cells }],
            not_run: Vec::new(),
            took: Duration::ZERO,
        };
        case.judged().result
    }

    #[test]
    fn one_of_the_three_that_differs_fails_the_case() {
        let of = |want, oracle, explain, sockets| result(vec![cell(want, oracle, explain, sockets)], None);
        assert_eq!(of(Some(Deny), Some(Deny), Deny, Deny), CaseResult::Passed);
        assert_eq!(of(Some(Deny), Some(Allow), Deny, Deny), CaseResult::Failed);
        assert_eq!(of(Some(Deny), Some(Deny), Allow, Deny), CaseResult::Failed);
        assert_eq!(of(Some(Deny), Some(Deny), Deny, Allow), CaseResult::Failed);
        assert_eq!(of(Some(Allow), Some(Deny), Deny, Deny), CaseResult::Failed);
        // A refusal is neither, whatever is wanted.
        assert_eq!(of(Some(Deny), Some(Deny), Deny, Neither), CaseResult::Failed);
        assert_eq!(of(Some(Allow), Some(Allow), Allow, Neither), CaseResult::Failed);
        // What the file leaves open, or the oracle isn't asked: the others must agree all the same.
        assert_eq!(of(None, Some(Deny), Deny, Deny), CaseResult::Passed);
        assert_eq!(of(None, Some(Deny), Deny, Allow), CaseResult::Failed);
        assert_eq!(of(Some(Deny), None, Deny, Deny), CaseResult::Passed);
        assert_eq!(of(Some(Deny), None, Allow, Allow), CaseResult::Failed);
        assert_eq!(of(None, None, Allow, Deny), CaseResult::Failed);
    }

    #[test]
    fn a_case_without_a_probe_has_not_passed() {
        assert_eq!(result(Vec::new(), None), CaseResult::NotRun);
        assert_eq!(result(Vec::new(), Some("no agent")), CaseResult::Failed);
        assert_eq!(result(vec![cell(None, None, Deny, Deny)], Some("no agent")), CaseResult::Failed);
    }
}
