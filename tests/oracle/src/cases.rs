//! Conformance cases as data: the file format of `tests/cases/public.yaml` (described in its head), the cluster that
//! each step leaves behind, and what is expected of connections then.
//!
//! Nothing here decides a verdict, so a runner over real sockets can drive the same cases.

mod expect;
mod file;
mod run;

pub use expect::{
    Expectation, Family, OutOfScope, Place, Want, Whence, grid_expectations, probe_expectation,
};
pub use file::{
    Action, Case, CasesFile, Grid, Probe, Serve, Served, Step, Unreadable, World, WorldNode, WorldPod,
};
pub use run::State;
