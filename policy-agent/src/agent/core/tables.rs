//! How full the tables are.

use std::time::{Duration, Instant};

use policy_common::flows::{FlowEntry, Tracked};

use super::super::status::{Status, TableStatus};
use super::Core;
use crate::plan::Table;

/// How old a count of the flow table may be: all of it is read for one, tens of milliseconds.
const RECENT: Duration = Duration::from_secs(60);

/// Live entries of the flow table, as last counted.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct FlowCount {
    pub(in crate::agent) flows: u64,
    /// Datagrams whose first fragment was allowed.
    pub(in crate::agent) fragments: u64,
    counted: Instant,
}

impl FlowCount {
    pub(in crate::agent) fn of(entries: &[FlowEntry]) -> Self {
        let is_fragment = |entry: &&FlowEntry| entry.key.tracked != Tracked::Flow as u8;
        let fragments = entries.iter().filter(is_fragment).count() as u64;
        Self { flows: entries.len() as u64 - fragments, fragments, counted: Instant::now() }
    }
}

impl Core {
    /// Live entries of the flow table; counted again where that was some time ago.
    pub(in crate::agent) fn flow_count(&mut self) -> Option<FlowCount> {
        if self.flow_count.is_none_or(|count| count.counted.elapsed() > RECENT) {
            match self.datapath.flows() {
                Ok((entries, _now)) => self.flow_count = Some(FlowCount::of(&entries)),
                Err(error) => tracing::warn!("counting the flow table: {error}"),
            }
        }
        self.flow_count
    }

    /// What `status` tells, tables included.
    pub(in crate::agent) fn whole_status(&mut self) -> Status {
        Status { tables: self.tables(), table_memory: self.memory, ..self.status.clone() }
    }

    pub(in crate::agent) fn tables(&mut self) -> Vec<TableStatus> {
        let counted = self.flow_count().map_or(0, |count| count.flows + count.fragments);
        let (flow_entries, index) = (self.datapath.flow_entries(), self.datapath.index_blocks());
        let capacity = *self.planner.capacity();
        let mut usage = self.planner.usage();
        // A former agent's table may have another size.
        usage.insert(Table::Flows, (counted, flow_entries));
        usage.insert(Table::Index, (index, capacity.entries(Table::Index)));
        let status = |table: Table| {
            let (used, entries) = usage.get(&table).copied()?;
            let bytes = match table {
                Table::Flows => capacity.bytes_of(table) / capacity.entries(table).max(1) * entries,
                _ => capacity.bytes_with(table, used),
            };
            let full = self.full.contains(table.name());
            Some(TableStatus { table: table.name().to_owned(), used, capacity: entries, bytes, full })
        };
        Table::ALL.into_iter().filter_map(status).collect()
    }
}
