//! The tables: taken over from the agent before, and written from change to change.

use std::time::Instant;

use super::Core;
use crate::compile::Delta;
use crate::datapath::bpf::BpfError;
use crate::datapath::carry_out;
use crate::plan::Planner;

impl Core {
    /// Writes the tables; returns how many writes that took.
    pub(super) fn enforce(&mut self, delta: &Delta) -> usize {
        self.errors.tables.clear();
        if !self.taken_over {
            match self.take_over() {
                Ok(()) => self.taken_over = true,
                Err(error) => {
                    self.errors.tables.push(format!("taking over what is enforced already: {error}"));
                    return 0;
                }
            }
        }
        let started = Instant::now();
        let ops = match self.planner.plan_changes(self.compiler.compiled(), delta, &self.locals) {
            Ok(ops) if ops.is_empty() => {
                self.planner.applied();
                return 0;
            }
            Ok(ops) => ops,
            Err(full) => {
                self.errors.tables.push(full.to_string());
                return 0;
            }
        };
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
        applied
    }

    /// The tables of an agent before this one stay, and only what differs from what is wanted is written. Where nobody
    /// can say what they stand for, they stay in force until others are filled.
    fn take_over(&mut self) -> Result<(), BpfError> {
        let Some(present) = self.datapath.present()? else { return Ok(()) };
        let slots = present.slots.clone();
        // An interface that nobody explains stays as it was: on the tables that it has, which then may not change.
        let is_local = |ifindex: &u32| self.locals.iter().any(|local| local.ifindex == *ifindex);
        let explained =
            self.datapath.attached().keys().filter(|ifindex| slots.contains_key(ifindex)).all(is_local);
        let compiled = self.compiler.compiled();
        let planner = match explained {
            true => Planner::adopt(self.capacity, present, compiled, &self.locals),
            false => None,
        };
        if let Some(planner) = planner {
            match self.datapath.take_over(&slots) {
                Ok(()) => {
                    tracing::info!("took over the tables of the agent before: {} endpoints", slots.len());
                    self.planner = planner;
                    self.connections.changed();
                    return Ok(());
                }
                Err(error) => tracing::warn!("moving interfaces to this agent's programs: {error}"),
            }
        }
        tracing::info!("the tables of the agent before stay in force until new ones are filled");
        self.datapath.renew(&self.capacity)?;
        self.programs = self.datapath.program_ids()?;
        self.planner = Planner::new(self.capacity);
        Ok(())
    }
}
