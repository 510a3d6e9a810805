//! Sluice's agent: sources -> state -> compiler -> plan -> datapath (DESIGN section 2).

pub mod agent;
pub mod cni;
pub mod coexistence;
pub mod compile;
pub mod config;
mod crowd;
pub mod datapath;
pub mod endpoints;
pub mod explain;
pub mod flows;
pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod plan;
mod ready;
pub mod source;
