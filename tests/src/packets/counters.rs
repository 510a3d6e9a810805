//! What the programs of one node have counted, read where they pin it.

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use policy_common::maps::COUNTER_PASS_BASE;
use policy_common::{Direction, DropReason, PassReason};
use sluice_netns::Node;

/// Packets and bytes of one counter, all CPUs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

impl Count {
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self { packets: self.packets - before.packets, bytes: self.bytes - before.bytes }
    }
}

/// The counters of the agent on one node.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Counters(PerCpuArray<MapData, [u64; 2]>);

impl Counters {
    /// Those of the agent that runs on `node`.
    pub fn of(node: &Node) -> Result<Self> {
        let path = node.bpffs().join("v1/kept/COUNTS");
        let data = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self(Map::PerCpuArray(data).try_into()?))
    }

    pub fn dropped(&self, reason: DropReason, direction: Direction) -> Result<u64> {
        Ok(self.read(reason as u32 * 2 + direction as u32)?.packets)
    }

    pub fn passed(&self, reason: PassReason, direction: Direction) -> Result<Count> {
        self.read(COUNTER_PASS_BASE + reason as u32 * 2 + direction as u32)
    }

    fn read(&self, index: u32) -> Result<Count> {
        let values = self.0.get(&index, 0).with_context(|| format!("counter {index}"))?;
        Ok(values.iter().fold(Count::default(), |sum, [packets, bytes]| Count {
            packets: sum.packets + packets,
            bytes: sum.bytes + bytes,
        }))
    }
}
