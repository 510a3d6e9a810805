//! Puts back what somebody took off the pods' interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Core, Look};
use crate::datapath::bpf::{Expected, Inspector, Lost};
use crate::datapath::watch;
use crate::endpoints::interface_index;
use crate::model::ObjectName;

/// How long `status` tells of a repair.
const TOLD: Duration = Duration::from_secs(3600);

/// What was put back, by the pod and the interface.
#[derive(Debug, Default)]
pub(super) struct Repairs(BTreeMap<(ObjectName, String), Repair>);

#[derive(Debug)]
struct Repair {
    times: u32,
    last: Instant,
    /// What was missing the last time.
    lost: String,
}

impl Repairs {
    fn note(&mut self, pod: &ObjectName, interface: &str, lost: &str) {
        let now = Instant::now();
        let fresh = || Repair { times: 0, last: now, lost: String::new() };
        let repair = self.0.entry((pod.clone(), interface.to_owned())).or_insert_with(fresh);
        (repair.times, repair.last) = (repair.times.saturating_add(1), now);
        lost.clone_into(&mut repair.lost);
    }

    /// What `status` says.
    pub(super) fn warnings(&mut self) -> impl Iterator<Item = String> {
        self.0.retain(|_, repair| repair.last.elapsed() < TOLD);
        self.0.iter().map(|((pod, interface), Repair { times, lost, .. })| {
            let times = if *times == 1 { "once".to_owned() } else { format!("{times} times") };
            format!(
                "pod {pod}: somebody took off what enforces policy on {interface}, {times} within the last hour \
                 ({lost}); it was put back"
            )
        })
    }
}

impl Core {
    pub(in crate::agent) fn expected(&self) -> impl Iterator<Item = Expected> {
        self.datapath.expected()
    }

    pub(in crate::agent) fn inspector(&self) -> Inspector {
        self.datapath.inspector()
    }

    pub(in crate::agent) fn uses_filters(&self) -> bool {
        self.datapath.uses_filters()
    }

    /// Looks again at interfaces that missed something when somebody looked beside the loop, and puts it back.
    pub(in crate::agent) fn repair(&mut self, lost: &[Lost]) {
        let started = Instant::now();
        let interfaces: BTreeSet<u32> = lost.iter().map(|lost| lost.ifindex).collect();
        let (mut repaired, mut failed) = (BTreeSet::new(), false);
        for ifindex in interfaces {
            let Some((pod, name)) = self.interfaces.get(&ifindex).cloned() else { continue };
            // One that is gone announces itself, and there is nothing to hang anything on.
            if interface_index(&name) != Some(ifindex) {
                continue;
            }
            // It may have been put back meanwhile.
            match self.datapath.lost(ifindex) {
                Ok(Some(lost)) if lost.is_empty() => continue,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%pod, interface = name, "{error}");
                    continue;
                }
            }
            // Whoever opened a connection meanwhile had nobody to ask.
            let watched = watch(&mut self.planner, &mut self.datapath, &BTreeSet::from([ifindex]));
            if let Err(error) = watched {
                tracing::warn!(%pod, interface = name, "{error}");
            }
            if self.datapath.attach(ifindex, &name).is_err() {
                failed = true;
                continue;
            }
            let words = lost.iter().filter(|lost| lost.ifindex == ifindex).map(ToString::to_string);
            let words = words.collect::<Vec<_>>().join(", ");
            tracing::warn!(%pod, interface = name, "put back what somebody took off: {words}");
            self.metrics.repaired();
            self.repairs.note(&pod, &name, &words);
            repaired.insert(ifindex);
        }
        if !repaired.is_empty() {
            let compiled = self.compiler.compiled();
            let again = self.connections.learn_again(&mut self.datapath, compiled, &repaired, &self.scan);
            for problem in again {
                tracing::warn!("{problem}");
            }
            self.connections.changed();
            self.status.warnings = self.warnings();
            tracing::debug!("{} interfaces repaired in {:?}", repaired.len(), started.elapsed());
        }
        // It tries once more, and tells what is wrong, or that nothing is any more.
        if failed == self.is_in_force() {
            self.reconcile(Look::AtInterfaces(None), None);
        }
    }

    pub(super) fn warnings(&mut self) -> Vec<String> {
        self.repairs.warnings().chain(self.neighbours.iter().cloned()).collect()
    }
}
