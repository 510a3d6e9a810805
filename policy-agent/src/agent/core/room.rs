//! When a table is full: what fits comes into force, and what does not is held back, policy by policy and pod by pod.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Core;
use crate::compile::Delta;
use crate::datapath::carry_out;
use crate::model::{Changes, ObjectName, Owner};
use crate::plan::{Admission, LocalEndpoint, TableFull};

/// How long one look for room may take: each try compiles anew.
const MOST_TIME: Duration = Duration::from_secs(2);
/// How many of the addresses that are left out are named.
const MOST_NAMED: usize = 8;

/// What a plan may do without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Nothing,
    /// Addresses of pods that rules then do not allow.
    Addresses,
}

/// Pods that full tables concern.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// New pods of this node: they have no place in the tables, and nothing passes. With the reason.
    pub(super) closed: BTreeMap<ObjectName, String>,
    /// Pods of which not all extra sources fit.
    curtailed: BTreeMap<ObjectName, String>,
    /// Pods, of any node, that rules with selectors do not allow.
    peers: BTreeMap<ObjectName, String>,
}

impl Core {
    /// Which object lacks room for what it asks, and why.
    pub(in crate::agent) fn lacks_room(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        let Refused { closed, curtailed, peers } = &self.refused;
        let all = closed.iter().chain(curtailed).chain(peers);
        all.map(|(name, why)| (name, why.as_str()))
    }

    /// The policies that are not in force as they were read, and why.
    pub(in crate::agent) fn held_policies(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.held.iter()
    }

    /// Why policy is not in force on a pod of this node as it should be, where a full table is the reason.
    pub(in crate::agent) fn lacks_room_for(&self, name: &ObjectName) -> Option<&str> {
        let Refused { closed, curtailed, .. } = &self.refused;
        let refused = closed.get(name).or_else(|| curtailed.get(name)).map(String::as_str);
        let held = || self.input.cluster().pods.get(name).and_then(|pod| self.held.concerns(pod));
        refused.or_else(held)
    }

    /// Before a compilation: what was held back is tried again, or stays so.
    pub(super) fn hold_back(&mut self, changes: Changes) -> Changes {
        if self.held.is_due(self.input.cluster(), &changes) {
            self.held.try_all();
            return changes;
        }
        self.held.substitute(self.input.tracked());
        let mut changes = changes;
        let more = self.input.tracked().take_changes();
        changes.policies.extend(more.policies);
        changes
    }

    /// Writes the tables; returns how many writes that took. `policies`: those that have changed, where that is known.
    pub(super) fn enforce(&mut self, delta: &Delta, policies: Option<&BTreeSet<ObjectName>>) -> usize {
        self.errors.tables.clear();
        self.full.clear();
        self.refused = Refused::default();
        if let Err(error) = self.take_over() {
            self.errors.tables.push(format!("taking over what is enforced already: {error}"));
            return 0;
        }
        let attempt = loop {
            let attempt = match self.held.is_empty() {
                true => {
                    let all = self.locals.clone();
                    self.write_plan(delta, &all)
                }
                // New endpoints may be selected by a policy that is held back.
                false => self.write_what_fits(delta, Missing::Addresses),
            };
            match attempt {
                Err(full) if self.grow(&full) => {}
                attempt => break attempt,
            }
        };
        let written = match attempt {
            Ok(written) => {
                if self.held.is_empty() {
                    self.held.fits(self.input.cluster(), policies);
                }
                written
            }
            Err(full) => {
                let started = Instant::now();
                let written = self.make_do(delta, &full);
                self.held.tried(started);
                written
            }
        };
        // Also where it was not tried again this time.
        self.full.extend(self.held.tables());
        let concerned = self.locals.iter().filter(|local| self.lacks_room_for(&local.pod).is_some());
        let concerned: Vec<u32> = concerned.map(|local| local.ifindex).collect();
        self.connections.learn_later(&concerned);
        self.tell_of_room();
        written
    }

    /// Finds what fits.
    fn make_do(&mut self, delta: &Delta, full: &TableFull) -> usize {
        self.full.insert(full.table);
        let mut written = self.retire();
        let news = self.held.news(self.input.cluster());
        let of_endpoints = ["endpoints", "interfaces", "sources"].contains(&full.table);
        if of_endpoints || news.is_empty() {
            match self.write_what_fits(delta, Missing::Addresses) {
                Ok(count) => {
                    self.held.fits(self.input.cluster(), None);
                    return written + count;
                }
                Err(full) => self.full.insert(full.table),
            };
        }
        // Where the tables are of an agent before this one, nobody knows what fitted.
        if !self.held.knows() && self.planner.endpoints() > 0 {
            self.errors.tables.push(full.to_string());
            return written;
        }
        self.held.hold(self.input.tracked(), &news, full);
        self.input.tracked().take_changes();
        // From nothing: rules that nobody uses any more go on taking room otherwise.
        let delta = self.compile(&Changes::everything());
        match self.write_what_fits(&delta, Missing::Addresses) {
            Ok(count) => written += count,
            Err(full) => {
                // Not even what was in force fits with the pods that there are now.
                self.full.insert(full.table);
                self.errors.tables.push(full.to_string());
                return written;
            }
        }
        if self.planner.left_out().is_empty() { written + self.try_held(news) } else { written }
    }

    /// Tries what is held back: all of it, then either half of it, and so on down to each policy.
    fn try_held(&mut self, news: Vec<ObjectName>) -> usize {
        let (mut written, started) = (0, Instant::now());
        let mut batches = vec![news];
        while let Some(mut batch) = batches.pop() {
            // What is left waits for the next time.
            if batch.is_empty() || started.elapsed() > MOST_TIME {
                continue;
            }
            self.held.release(self.input.tracked(), &batch);
            let changes = self.input.tracked().take_changes();
            let delta = self.compile(&changes);
            match self.write_what_fits(&delta, Missing::Nothing) {
                Ok(count) => {
                    written += count;
                    self.held.fits(self.input.cluster(), Some(&batch.into_iter().collect()));
                }
                Err(full) => {
                    self.full.insert(full.table);
                    self.held.hold(self.input.tracked(), &batch, &full);
                    self.input.tracked().take_changes();
                    // As above: what did not fit must not go on taking room.
                    let delta = self.compile(&Changes::everything());
                    match self.write_what_fits(&delta, Missing::Addresses) {
                        Ok(count) => written += count,
                        Err(full) => self.errors.tables.push(full.to_string()),
                    }
                    if batch.len() > 1 {
                        let second = batch.split_off(batch.len() / 2);
                        batches.extend([second, batch]);
                    }
                }
            }
        }
        written
    }

    /// Endpoints that are gone need not wait for room.
    fn retire(&mut self) -> usize {
        let ops = self.planner.retire(&self.locals);
        if ops.is_empty() {
            return 0;
        }
        let (applied, result) = carry_out(&mut self.planner, &mut self.datapath, &ops);
        match result {
            Ok(()) => self.planner.applied(),
            Err(error) => self.errors.tables.push(error.to_string()),
        }
        applied
    }

    /// Writes a plan for those endpoints that fit. New ones that a policy selects which is held back have no place: they
    /// would be more open than they should.
    fn write_what_fits(&mut self, delta: &Delta, missing: Missing) -> Result<usize, TableFull> {
        let mut refused = Refused::default();
        let mut wanted = Vec::new();
        for local in &self.locals {
            let pod = self.input.cluster().pods.get(&local.pod);
            let new = pod.filter(|_| !self.planner.is_present(local.ifindex));
            match new.and_then(|pod| self.held.concerns(pod)) {
                Some(why) => {
                    refused
                        .closed
                        .insert(local.pod.clone(), format!("a policy that selects it waits: {why}"));
                }
                None => wanted.push(local.clone()),
            }
        }
        let Admission { endpoints, closed, curtailed } = self.planner.admit(&wanted);
        let written = match self.write_plan(delta, &endpoints) {
            Err(_) if missing == Missing::Addresses => {
                self.planner.set_lenient(true);
                let written = self.write_plan(delta, &endpoints);
                self.planner.set_lenient(false);
                written?
            }
            written => written?,
        };
        for (full, pods) in [(closed, &mut refused.closed), (curtailed, &mut refused.curtailed)] {
            for (pod, why) in full {
                self.full.insert(why.table);
                pods.insert(pod, why.to_string());
            }
        }
        if !self.planner.left_out().is_empty() {
            self.full.insert("peers");
        }
        for address in self.planner.left_out().iter().take(MOST_NAMED) {
            if let Owner::Pod(pod) = self.input.cluster().pods.owner(*address) {
                let why = format!("table peers is full: rules do not allow {address} by its pod's labels");
                refused.peers.insert(pod.id.clone(), why);
            }
        }
        self.refused = refused;
        Ok(written)
    }

    fn write_plan(&mut self, delta: &Delta, endpoints: &[LocalEndpoint]) -> Result<usize, TableFull> {
        let started = Instant::now();
        let ops = self.planner.plan_changes(self.compiler.compiled(), delta, endpoints)?;
        if ops.is_empty() {
            self.planner.applied();
            return Ok(0);
        }
        self.metrics.planned(started.elapsed());
        let started = Instant::now();
        let (applied, result) = carry_out(&mut self.planner, &mut self.datapath, &ops);
        self.metrics.applied(&ops, applied, started.elapsed());
        match result {
            Ok(()) => {
                self.planner.applied();
                self.connections.changed();
            }
            Err(error) => self.errors.tables.push(error.to_string()),
        }
        Ok(applied)
    }

    fn tell_of_room(&mut self) {
        let mut told: Vec<String> = self
            .held
            .iter()
            .map(|(name, why)| format!("policy {name} is not in force as it was read: {why}"))
            .collect();
        told.extend(self.refused.closed.iter().map(|(pod, why)| format!("pod {pod} is closed: {why}")));
        let curtailed = &self.refused.curtailed;
        told.extend(
            curtailed.iter().map(|(pod, why)| format!("pod {pod}: some of its sources are closed: {why}")),
        );
        let left_out = self.planner.left_out();
        if !left_out.is_empty() {
            let named: Vec<String> = left_out.iter().take(MOST_NAMED).map(ToString::to_string).collect();
            told.push(format!(
                "table peers is full: rules with selectors do not allow {} addresses of pods, {} among them",
                left_out.len(),
                named.join(", ")
            ));
        }
        self.errors.room = told;
    }
}
