//! What the integration tests share.

pub mod agent_world;
pub mod cluster;
pub mod cluster_world;
pub mod conformance;
pub mod deploy;
pub mod footprint;
pub mod fuzz;
pub mod image;
pub mod kernel;
pub mod namespace;
pub mod packet;
pub mod packets;
pub mod random;
pub mod stack;
pub mod traffic;
pub mod updates;
pub mod usage;
