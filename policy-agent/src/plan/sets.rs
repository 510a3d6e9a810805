//! Room for policy sets in `ROWS`, and sets that must become wider.

use std::collections::HashMap;

use super::capacity::TableFull;
use super::names::SetKey;
use super::op::Op;
use super::{Layout, Planner};

impl Planner {
    pub(super) fn allocate_set(&mut self) -> Result<u32, TableFull> {
        let stride = self.layout.stride;
        let used = (self.layout.extents.len() as u64 + 1) * u64::from(stride);
        let capacity = u64::from(self.capacity.rows);
        let base = self.allocate_in(|layout| &mut layout.set_space, stride).ok_or(TableFull {
            table: "rows",
            needed: used.max(capacity + 1),
            capacity,
        })?;
        self.layout.extents.insert(base, stride);
        Ok(base)
    }

    /// Class ids beyond the stride would reach into the next set: every set in use is copied to a wider extent, and
    /// its pods moved, before any address gets such a class.
    pub(super) fn widen_sets(&mut self, highest_class: u32) -> Result<(), TableFull> {
        if highest_class >= self.layout.stride {
            self.layout.stride = (highest_class + 1).next_power_of_two();
        }
        let stride = self.layout.stride;
        let narrow = |layout: &Layout, base: u32| layout.extents.get(&base).is_some_and(|l| *l < stride);
        let mut moved: HashMap<u32, u32> = HashMap::new();
        let keyed: Vec<(SetKey, u32)> =
            self.layout.sets.iter().map(|(key, base)| (key.clone(), *base)).collect();
        for (key, from) in keyed {
            if narrow(&self.layout, from) {
                let to = self.copy_set(from)?;
                self.layout.sets.insert(key, to);
                moved.insert(from, to);
            }
        }
        let slots: Vec<u32> = self.shadow.slots.values().copied().collect();
        let mut flipped = false;
        for slot in slots {
            let mut sets = self.shadow.sets(slot);
            for set in [&mut sets.egress, &mut sets.ingress] {
                let Some(base) = set.checked_sub(1) else { continue };
                let to = match moved.get(&base) {
                    Some(to) => *to,
                    None if narrow(&self.layout, base) => {
                        let to = self.copy_set(base)?;
                        self.layout.copies.push(to);
                        moved.insert(base, to);
                        to
                    }
                    None => continue,
                };
                *set = to + 1;
                flipped = true;
            }
            self.shadow.emit(Op::Sets { slot, sets });
        }
        // They keep their length until the plan has succeeded: if it fails, pods may still be reading them.
        self.layout.outgrown.extend(moved.into_keys());
        if flipped {
            self.shadow.emit(Op::Barrier);
        }
        Ok(())
    }

    pub(super) fn copy_set(&mut self, from: u32) -> Result<u32, TableFull> {
        let length = self.layout.extents.get(&from).copied().unwrap_or(0);
        let to = self.allocate_set()?;
        for class in 0..self.layout.stride {
            let word = if class < length { self.shadow.row(from + class) } else { 0 };
            self.shadow.emit(Op::Row { index: to + class, word });
        }
        Ok(to)
    }
}
