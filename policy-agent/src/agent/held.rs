//! Policies that do not fit into the tables: what they said when they last did stays in force.
//!
//! The tables are full for all of a node's policies, but one of them is usually to blame. While a plan is made, the cluster
//! has the last version that fitted in the place of each that does not; between plans it says what the source says, so that
//! the source need not know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::{Changes, Cluster, ObjectName, Pod, Policy, Tracked};
use crate::plan::TableFull;

/// How soon to try again whether there is room by now: at the soonest, and by how long it took.
const TRY_AGAIN: Duration = Duration::from_secs(5);
const TIMES_AS_LONG: u32 = 20;

#[derive(Debug)]
struct Entry {
    /// What the source says; `None`: that it is gone.
    wanted: Option<Policy>,
    /// The table that has no room for it.
    table: &'static str,
    why: String,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    /// The versions that the tables hold.
    fitted: BTreeMap<ObjectName, Policy>,
    held: BTreeMap<ObjectName, Entry>,
    /// The cluster has the versions that fitted.
    substituted: bool,
    /// When to try again.
    again: Option<Instant>,
    known: bool,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether anything fitted in this agent's time.
    pub(super) const fn knows(&self) -> bool {
        self.known
    }

    /// The policies that are not in force as the source has them, and why.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.held.iter().map(|(name, entry)| (name, entry.why.as_str()))
    }

    /// The tables that have no room for what is held back.
    pub(super) fn tables(&self) -> impl Iterator<Item = &'static str> {
        self.held.values().map(|entry| entry.table)
    }

    /// Why policy is not in force on a pod as it should be.
    pub(super) fn concerns(&self, pod: &Pod) -> Option<&str> {
        let selects =
            |policy: &Policy| policy.id.namespace == pod.id.namespace && policy.subject.matches(&pod.labels);
        let concerned = self.held.iter().find(|(name, entry)| {
            entry.wanted.as_ref().is_some_and(selects) || self.fitted.get(*name).is_some_and(selects)
        });
        concerned.map(|(_, entry)| entry.why.as_str())
    }

    /// Whether it should be tried now what was held back: where anything may have made room, or after a while.
    pub(super) fn is_due(&self, cluster: &Cluster, changes: &Changes) -> bool {
        let is_news = |name: &ObjectName| {
            self.held.get(name).is_none_or(|entry| entry.wanted.as_ref() != cluster.policies.get(name))
        };
        self.held.is_empty()
            || changes.everything
            || changes.policies.iter().any(is_news)
            || self.again.is_none_or(|again| Instant::now() >= again)
    }

    /// Puts the versions that fitted into the cluster.
    pub(super) fn substitute(&mut self, tracked: &mut Tracked) {
        self.substituted = true;
        for (name, entry) in &mut self.held {
            entry.wanted = tracked.cluster().policies.get(name).cloned();
            put(tracked, name, self.fitted.get(name));
        }
    }

    /// Puts into the cluster again what the source says.
    pub(super) fn restore(&mut self, tracked: &mut Tracked) {
        if std::mem::take(&mut self.substituted) {
            for (name, entry) in &self.held {
                put(tracked, name, entry.wanted.as_ref());
            }
        }
    }

    /// Everything is tried: nothing is held back any more, until it turns out not to fit.
    pub(super) fn try_all(&mut self) {
        self.held.clear();
        self.substituted = false;
    }

    /// It was tried what fits, from `started` until now.
    pub(super) fn tried(&mut self, started: Instant) {
        self.again = Some(Instant::now() + TRY_AGAIN.max(started.elapsed() * TIMES_AS_LONG));
    }

    /// Holds these back.
    pub(super) fn hold(&mut self, tracked: &mut Tracked, names: &[ObjectName], full: &TableFull) {
        self.substituted = true;
        let why = full.to_string();
        for name in names {
            let wanted = tracked.cluster().policies.get(name).cloned();
            put(tracked, name, self.fitted.get(name));
            self.held.insert(name.clone(), Entry { wanted, table: full.table, why: why.clone() });
        }
    }

    /// Lets these go again.
    pub(super) fn release(&mut self, tracked: &mut Tracked, names: &[ObjectName]) {
        for name in names {
            if let Some(entry) = self.held.remove(name) {
                put(tracked, name, entry.wanted.as_ref());
            }
        }
    }

    /// The policies of the cluster that are others than those that fitted.
    pub(super) fn news(&self, cluster: &Cluster) -> Vec<ObjectName> {
        let names: BTreeSet<&ObjectName> = cluster.policies.keys().chain(self.fitted.keys()).collect();
        let differs = |name: &&ObjectName| cluster.policies.get(*name) != self.fitted.get(*name);
        names.into_iter().filter(differs).cloned().collect()
    }

    /// The tables hold what the cluster says of these, or of all policies.
    pub(super) fn fits(&mut self, cluster: &Cluster, names: Option<&BTreeSet<ObjectName>>) {
        self.known = true;
        let all;
        let names = match names {
            Some(names) => names,
            None => {
                all = self.news(cluster).into_iter().collect();
                &all
            }
        };
        for name in names {
            match cluster.policies.get(name) {
                Some(policy) => self.fitted.insert(name.clone(), policy.clone()),
                None => self.fitted.remove(name),
            };
        }
    }
}

fn put(tracked: &mut Tracked, name: &ObjectName, policy: Option<&Policy>) {
    match policy {
        Some(policy) => tracked.insert_policy(policy.clone()),
        None => tracked.remove_policy(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Selector;

    fn policy(name: &str, ingress: bool) -> Policy {
        Policy::closed(ObjectName::new("dev", name), Selector::default(), ingress, !ingress)
    }

    #[test]
    fn a_policy_that_does_not_fit_is_what_it_was_while_a_plan_is_made() {
        let (mut held, mut tracked) = (Held::default(), Tracked::default());
        tracked.insert_policy(policy("a", true));
        held.fits(tracked.cluster(), None);
        assert_eq!(held.news(tracked.cluster()), []);
        // One changes, one is new, and a third was there and goes.
        tracked.insert_policy(policy("a", false));
        tracked.insert_policy(policy("b", true));
        let news = held.news(tracked.cluster());
        assert_eq!(news, [ObjectName::new("dev", "a"), ObjectName::new("dev", "b")]);
        held.hold(&mut tracked, &news, &TableFull { table: "bits", needed: 65, capacity: 64 });
        assert!(held.tables().all(|table| table == "bits"));
        let in_force: Vec<Policy> = tracked.cluster().policies.values().cloned().collect();
        assert_eq!(in_force, [policy("a", true)]);
        held.restore(&mut tracked);
        let wanted: Vec<Policy> = tracked.cluster().policies.values().cloned().collect();
        assert_eq!(wanted, [policy("a", false), policy("b", true)]);
        // Nothing else has changed: it is not tried at once. What is news is.
        held.tried(Instant::now());
        let changes = tracked.take_changes();
        assert!(!held.is_due(tracked.cluster(), &changes));
        tracked.remove_policy(&ObjectName::new("dev", "b"));
        let changes = tracked.take_changes();
        assert!(held.is_due(tracked.cluster(), &changes));
        // It does not come back.
        held.substitute(&mut tracked);
        held.restore(&mut tracked);
        assert_eq!(tracked.cluster().policies.values().cloned().collect::<Vec<_>>(), [policy("a", false)]);
        held.substitute(&mut tracked);
        held.release(&mut tracked, &news);
        assert!(held.is_empty());
        assert_eq!(tracked.cluster().policies.values().cloned().collect::<Vec<_>>(), [policy("a", false)]);
    }
}
