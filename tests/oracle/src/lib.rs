//! The oracle: a direct, slow reading of SEMANTICS.md for `networking.k8s.io/v1` NetworkPolicy, to hold Sluice against.
//!
//! It shares no code with the compiler or the engine and must never depend on `policy-agent` or `policy-common`:
//! two readings of the same text only prove something while they are independent. "Row N" in this crate is row N of
//! section 1 of SEMANTICS.md.
//!
//! It judges *connections*, by their first packet. Replies, ICMP errors, neighbour discovery, fragments and what
//! happens to established connections (rows 49-51, 58) are not its business, nor are Services (a flow names the
//! address after translation, rows 23 and 52) and ClusterNetworkPolicy.

pub mod cases;
pub mod generate;
pub mod judge;
pub mod manifests;
pub mod model;
pub mod selector;

pub use generate::{Size, random_cluster, random_flows};
pub use judge::{Judgement, Verdict, judge};
pub use model::{Cluster, ContainerPort, Flow, Labels, Node, Origin, Phase, Pod, Policy, Protocol};
