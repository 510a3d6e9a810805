//! Connections that stand in a flow table of another layout: they go on through an upgrade, and through a downgrade.
//! The table itself says where things stand in it (`FLOW_SHAPE`), so that neither version has to know the other.

use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapInfo};
use policy_common::flows::{FlowSeed, FlowShape};

use super::BpfError;
use super::batch::read_pinned;
use super::maps::BPF_F_LOCK;
use super::pins::{Pins, failed};

pub(super) struct Former {
    table: PathBuf,
    shape: FlowShape,
}

impl Former {
    /// The flow table of another layout, where there is one. Where there are several, which only agents leave that died on
    /// the way from one to the next, the newest.
    pub(super) fn find(pins: &Pins) -> Result<Option<Self>, BpfError> {
        let mut others = pins.other_flows()?;
        others.sort_unstable_by_key(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok());
        let Some(folder) = others.pop() else { return Ok(None) };
        match Self::open(&folder) {
            Ok(former) => {
                tracing::info!("connections are carried over from {}", folder.display());
                Ok(Some(former))
            }
            // They are found anew as those that are older than any agent.
            Err(error) => {
                tracing::warn!("the connections in {} cannot be carried over: {error}", folder.display());
                Ok(None)
            }
        }
    }

    fn open(folder: &Path) -> Result<Self, BpfError> {
        let shape = Map::Array(MapData::from_pin(folder.join("FLOW_SHAPE"))?);
        let shape: Array<MapData, [u8; size_of::<FlowShape>()]> = shape.try_into()?;
        let shape: FlowShape = bytemuck::cast(shape.get(&0, 0)?);
        let table = folder.join("FLOWS");
        let info = MapInfo::from_pin(&table)?;
        if info.value_size() != shape.set {
            let cause =
                format!("its values have {} bytes, its description says {}", info.value_size(), shape.set);
            return Err(failed("reading", &table, &cause));
        }
        Ok(Self { table, shape })
    }

    /// The connections that are live at `now`, of all interfaces or of one.
    pub(super) fn live(&self, now: u32, ifindex: Option<u32>) -> Result<Vec<FlowSeed>, BpfError> {
        let bytes = read_pinned(&self.table, BPF_F_LOCK)?;
        let live =
            bytes.chunks_exact((self.shape.set as usize).max(1)).flat_map(|set| self.shape.live(set, now));
        Ok(live.filter(|seed| ifindex.is_none_or(|ifindex| seed.key.ifindex == ifindex)).collect())
    }
}
