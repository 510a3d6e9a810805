//! Tests of the oracle itself: the public conformance cases, SEMANTICS row by row, and the generators.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, in its helpers too")]

mod cases;
mod generated;
mod manifests;
mod public;
mod rows_isolation;
mod rows_peers;
mod rows_ports;
mod support;
