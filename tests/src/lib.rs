//! What the integration tests share.

pub mod cluster;
pub mod kernel;
pub mod namespace;
