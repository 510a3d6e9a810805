//! What was found, told once.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Finding, Observed, files, judge, programs};
use crate::metrics::Metrics;

/// Where the BPF file system of a node is.
const BPFFS: &str = "/sys/fs/bpf";

/// The other policy engines of this node.
#[derive(Debug)]
pub struct Neighbours {
    cni: PathBuf,
    bpffs: PathBuf,
    known: BTreeSet<Finding>,
}

impl Neighbours {
    /// `cni`: the folder of CNI configurations.
    pub fn new(cni: impl Into<PathBuf>) -> Self {
        Self { cni: cni.into(), bpffs: BPFFS.into(), known: BTreeSet::new() }
    }

    /// Looks anew at the files and at the programs on `interfaces` other than `ours`; logs what has not been there
    /// before, and sets the metric. Returns all of it in words. Takes a tenth of a millisecond for each interface.
    pub fn look(&mut self, interfaces: &[String], ours: &BTreeSet<u32>, metrics: &Metrics) -> Vec<String> {
        let mut observed = files(&self.cni, &self.bpffs);
        match programs(interfaces, ours) {
            Ok(programs) => observed.programs = programs,
            Err(problem) => observed.problems.push(problem),
        }
        self.take(&observed, metrics)
    }

    fn take(&mut self, observed: &Observed, metrics: &Metrics) -> Vec<String> {
        for problem in &observed.problems {
            tracing::debug!("looking for other policy engines: {problem}");
        }
        let found = judge(observed);
        for finding in found.difference(&self.known) {
            tracing::warn!(engine = finding.engine, "{finding}");
        }
        metrics.other_engines(found.iter().map(|finding| finding.engine));
        self.known = found;
        self.known.iter().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_away_is_told_no_more() {
        let metrics = Metrics::new();
        let node = tempfile::tempdir().unwrap();
        let (cni, bpffs) = (node.path().join("net.d"), node.path().join("bpf"));
        std::fs::create_dir_all(&cni).unwrap();
        let mut neighbours = Neighbours { bpffs, ..Neighbours::new(&cni) };
        let mut look = || neighbours.look(&[], &BTreeSet::new(), &metrics);
        assert_eq!(look(), Vec::<String>::new());
        let conflist = cni.join("10-calico.conflist");
        std::fs::write(&conflist, r#"{"plugins": [{"type": "calico"}, {"type": "portmap"}]}"#).unwrap();
        let told = look();
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("calico: ") && told[0].contains("10-calico.conflist"), "{told:?}");
        std::fs::remove_file(conflist).unwrap();
        assert_eq!(look(), Vec::<String>::new());
    }
}
