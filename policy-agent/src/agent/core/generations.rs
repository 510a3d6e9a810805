//! Generations of tables: those of the agent before are taken over, and larger ones take the place of full ones.

use super::Core;
use crate::datapath::bpf::BpfError;
use crate::plan::{Capacity, Planner, TableFull};

impl Core {
    /// The tables of an agent before this one stay, and only what differs from what is wanted is written. Where nobody
    /// can say what they stand for, they stay in force until others are filled.
    pub(super) fn take_over(&mut self) -> Result<(), BpfError> {
        if let Some(present) = self.datapath.present()? {
            let slots = present.slots.clone();
            // An interface that nobody explains stays as it was: on the tables that it has, which then may not change.
            let is_local = |ifindex: &u32| self.locals.iter().any(|local| local.ifindex == *ifindex);
            let explained =
                self.datapath.attached().keys().filter(|ifindex| slots.contains_key(ifindex)).all(is_local);
            let planner = match explained {
                true => {
                    let compiled = self.compiler.compiled();
                    Planner::adopt(*self.planner.capacity(), present, compiled, &self.locals)
                }
                false => Err("an interface is enforced that no pod explains"),
            };
            let moved = planner.map_err(str::to_owned).and_then(|planner| {
                self.datapath.take_over(&slots).map_err(|error| error.to_string())?;
                Ok(planner)
            });
            match moved {
                Ok(planner) => {
                    tracing::info!("took over the tables of the agent before: {} endpoints", slots.len());
                    self.planner = planner;
                    self.connections.changed();
                }
                Err(why) => {
                    tracing::info!(
                        "the tables of the agent before stay in force until new ones are filled: {why}"
                    );
                    self.renew(*self.planner.capacity())?;
                }
            }
        }
        Ok(())
    }

    /// Larger tables in the place of a full one, if there is memory for them: empty ones, which the next plan fills. What is
    /// enforced stays so until the interfaces are moved to them.
    pub(super) fn grow(&mut self, full: &TableFull) -> bool {
        let Some(capacity) = self.limits.grown(self.planner.capacity(), full) else { return false };
        match self.renew(capacity) {
            Ok(()) => {
                tracing::info!(
                    "table {} grows: {} entries are needed, {} were there",
                    full.table,
                    full.needed,
                    full.capacity
                );
                true
            }
            Err(error) => {
                tracing::warn!("table {} cannot grow: {error}", full.table);
                false
            }
        }
    }

    fn renew(&mut self, capacity: Capacity) -> Result<(), BpfError> {
        self.datapath.renew(&capacity)?;
        self.programs = self.datapath.program_ids()?;
        self.planner = Planner::new(capacity);
        (self.settled, self.moving) = (false, true);
        Ok(())
    }
}
