//! Sluice's agent: sources -> state -> compiler -> plan -> datapath (DESIGN section 2).

pub mod compile;
pub mod datapath;
pub mod explain;
pub mod endpoints;
pub mod model;
pub mod plan;
