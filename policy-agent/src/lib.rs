//! Sluice's agent: sources -> state -> compiler -> plan -> datapath (DESIGN section 2).

pub mod agent;
pub mod cni;
pub mod compile;
pub mod datapath;
pub mod endpoints;
pub mod explain;
pub mod flows;
pub mod model;
pub mod plan;
mod ready;
pub mod source;
