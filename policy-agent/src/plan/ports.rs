//! Port classes. The partition is over all port sets that the tables know, old ones included: so it only ever gets
//! finer while old rows are in use, and a port's membership in a set never changes. Sets that nobody uses any more are
//! forgotten in bulk, when everybody has moved.

use std::collections::{BTreeSet, HashMap, HashSet};

use policy_common::maps::WORD_BITS;

use super::capacity::TableFull;
use super::names::{PortSetNumber, RowKey};
use super::op::Op;
use super::{Planner, Wanted};
use crate::compile::partition;
use crate::compile::{PortInterval, PortSet};
use crate::model::Protocol;

/// Port sets that may stay known without being used.
const STALE_PORT_SETS: usize = 64;

impl Planner {
    /// Makes every row that is or will be in use right for the refined classes, then paints the ports.
    pub(super) fn refine_ports<'a>(
        &mut self,
        wanted: &Wanted<'_>,
        rows: impl Iterator<Item = &'a RowKey>,
    ) -> Result<(), TableFull> {
        let used: HashSet<PortSetNumber> = wanted.known.numbers.port_sets.iter().copied().collect();
        let known: HashSet<PortSetNumber> = self.layout.port_classes.keys().flatten().copied().collect();
        if wanted.dirty.is_some() && used.is_subset(&known) {
            return self.add_rows(rows);
        }
        let intervals = self.partition(|number| used.contains(&number) || known.contains(&number));
        let fresh = self.fresh_rows(rows);
        let mut highest = self.layout.port_classes.values().copied().max().unwrap_or(0);
        for interval in &intervals {
            if !self.layout.port_classes.contains_key(&members(interval)) {
                let class = self.allocate_in(|layout| &mut layout.port_class_ids, 1).ok_or(TableFull {
                    table: "port classes",
                    needed: u64::from(u32::MAX),
                    capacity: u64::from(u32::MAX),
                })?;
                self.layout.port_classes.insert(members(interval), class);
                highest = highest.max(class);
            }
        }
        self.widen_rows(highest)?;
        for row in fresh {
            let word = self.allocate_row()?;
            self.layout.rows.insert(row, word);
        }
        self.write_rows();
        self.paint(&intervals);
        Ok(())
    }

    /// Rows for the port classes that there are.
    fn add_rows<'a>(&mut self, rows: impl Iterator<Item = &'a RowKey>) -> Result<(), TableFull> {
        for row in self.fresh_rows(rows) {
            let word = self.allocate_row()?;
            self.write_row(&row, word);
            self.layout.rows.insert(row, word);
        }
        Ok(())
    }

    fn fresh_rows<'a>(&self, rows: impl Iterator<Item = &'a RowKey>) -> BTreeSet<RowKey> {
        rows.filter(|row| !self.layout.rows.contains_key(row)).cloned().collect()
    }

    /// When many known port sets are unused, paints the coarser partition of those in use. All rows in use agree on
    /// the classes that become one.
    pub(super) fn forget_ports(&mut self, wanted: &Wanted<'_>) {
        let used: HashSet<PortSetNumber> = wanted.known.numbers.port_sets.iter().copied().collect();
        let known: HashSet<PortSetNumber> = self.layout.contents.port_sets().map(|(n, _)| n).collect();
        let stale = known.len() - known.intersection(&used).count();
        if stale <= STALE_PORT_SETS || stale <= used.len() {
            self.layout.contents.retain(&wanted.known.numbers, &known);
            return;
        }
        let intervals = self.partition(|number| used.contains(&number));
        let keep: HashSet<BTreeSet<PortSetNumber>> = intervals.iter().map(members).collect();
        let old: Vec<(BTreeSet<PortSetNumber>, u32)> =
            self.layout.port_classes.iter().map(|(k, c)| (k.clone(), *c)).collect();
        for key in &keep {
            if self.layout.port_classes.contains_key(key) {
                continue;
            }
            // Any of the finer classes that become this one serves; rows in use have the same bit for all of them.
            let Some((finer, class)) =
                old.iter().find(|(finer, _)| finer.iter().filter(|n| used.contains(n)).eq(key.iter()))
            else {
                continue;
            };
            self.layout.port_classes.remove(finer);
            self.layout.port_classes.insert(key.clone(), *class);
        }
        self.paint(&intervals);
        let gone = self.layout.port_classes.extract_if(|key, class| *class != 0 && !keep.contains(key));
        self.freed.port_classes.extend(gone.map(|(_, class)| class));
        self.layout.contents.retain(&wanted.known.numbers, &used);
    }

    pub(super) fn partition(
        &self,
        include: impl Fn(PortSetNumber) -> bool,
    ) -> Vec<(PortInterval, BTreeSet<PortSetNumber>)> {
        let mut sets: Vec<(PortSetNumber, &PortSet)> =
            self.layout.contents.port_sets().filter(|(number, _)| include(*number)).collect();
        sets.sort_unstable_by_key(|(number, _)| *number);
        let numbers: Vec<PortSetNumber> = sets.iter().map(|(number, _)| *number).collect();
        partition((0_u32..).zip(sets.iter().map(|(_, set)| *set)))
            .into_iter()
            .map(|interval| {
                let members =
                    interval.members.iter().filter_map(|at| numbers.get(*at as usize)).copied().collect();
                (interval, members)
            })
            .collect()
    }

    fn paint(&mut self, intervals: &[(PortInterval, BTreeSet<u64>)]) {
        let mut covered: HashMap<Protocol, Vec<(u16, u16, u32)>> = HashMap::new();
        for (interval, members) in intervals {
            let class = self.layout.port_classes.get(members).copied().unwrap_or(0);
            covered.entry(interval.protocol).or_default().push((interval.first, interval.last, class));
        }
        for protocol in Protocol::ALL {
            let ranges = covered.remove(&protocol).unwrap_or_default();
            let mut at = ranges.iter().peekable();
            for port in 0..=u16::MAX {
                while at.peek().is_some_and(|(_, last, _)| *last < port) {
                    at.next();
                }
                let class = match at.peek() {
                    Some((first, _, class)) if *first <= port => *class,
                    _ => 0,
                };
                if self.shadow.port(protocol, port) != class {
                    self.shadow.emit(Op::Port { protocol, port, class });
                }
            }
        }
    }

    /// Rows have one bit for each port class: more classes than bits need wider rows, under new places.
    fn widen_rows(&mut self, highest: u32) -> Result<(), TableFull> {
        let old = self.layout.width;
        let width = (highest / WORD_BITS + 1).next_power_of_two();
        if width > old {
            self.layout.width = width;
            let rows: Vec<(RowKey, u32)> = self.layout.rows.drain().collect();
            for (key, from) in rows {
                let to = self.allocate_row()?;
                self.layout.rows.insert(key, to);
                self.freed.rows.push((from, old));
                self.layout.narrow.insert(from, to);
            }
            self.write_rows();
        }
        if self.layout.narrow.is_empty() {
            return Ok(());
        }
        // Also after a plan that failed in the middle of this: no cell in use may name a narrow row.
        let extents: Vec<(u32, u32)> = self.layout.extents.iter().map(|(b, l)| (*b, *l)).collect();
        for (base, length) in extents {
            for index in base..base + length {
                if let Some(word) = self.layout.narrow.get(&self.shadow.row(index)).copied() {
                    self.shadow.emit(Op::Row { index, word });
                }
            }
        }
        // No packet may hold a narrow row when a port gets a class beyond it.
        self.shadow.emit(Op::Barrier);
        Ok(())
    }

    fn allocate_row(&mut self) -> Result<u32, TableFull> {
        let width = self.layout.width;
        let capacity = u64::from(self.capacity.words);
        let needed = (self.layout.rows.len() as u64 + 1) * u64::from(width);
        self.allocate_in(|layout| &mut layout.row_space, width).ok_or(TableFull {
            table: "bits",
            needed: needed.max(capacity + 1),
            capacity,
        })
    }

    /// The bits of all known rows for all known port classes.
    fn write_rows(&mut self) {
        let mut rows: Vec<(RowKey, u32)> = self.layout.rows.iter().map(|(k, w)| (k.clone(), *w)).collect();
        rows.sort_unstable_by_key(|(_, word)| *word);
        for (key, first) in rows {
            self.write_row(&key, first);
        }
    }

    fn write_row(&mut self, key: &RowKey, first: u32) {
        let mut words = vec![if key.everything { u64::MAX } else { 0 }; self.layout.width as usize];
        if !key.everything {
            for (members, class) in &self.layout.port_classes {
                if key.port_sets.iter().any(|set| members.contains(set))
                    && let Some(word) = words.get_mut((class / WORD_BITS) as usize)
                {
                    *word |= 1 << (class % WORD_BITS);
                }
            }
        }
        for (index, value) in (first..).zip(words) {
            self.shadow.emit(Op::Word { index, value });
        }
    }
}

fn members(interval: &(PortInterval, BTreeSet<PortSetNumber>)) -> BTreeSet<PortSetNumber> {
    interval.1.clone()
}
