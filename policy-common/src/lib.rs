//! Sluice's engine, `no_std` and without `unsafe`: packet parsing, the decision and connection tracking.
//!
//! The same code runs in the kernel (`policy-ebpf`), in unit tests, in fuzzing and behind `policy-agent explain`.
//! It is generic over [`Packet`] (bytes of one frame) and [`Tables`] (what the compiler wrote).
#![no_std]
#![forbid(unsafe_code)]

pub mod conntrack;
pub mod decide;
pub mod flows;
pub mod maps;
pub mod masquerade;
pub mod packet;
pub mod parse;
mod policy;
pub mod reason;
pub mod rewrite;
mod sctp;
pub mod service;
pub mod tables;
pub mod track;
pub mod translation;
pub mod wire;

pub use decide::{Arrival, decide};
pub use packet::{Packet, Slice};
pub use reason::{DropReason, PassReason, Verdict};
pub use tables::Tables;

/// Seen from the pod, as in the Kubernetes API: ingress enters the pod, egress leaves it.
///
/// Pod egress is tc *ingress* on the host end of the pod's veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    Egress = 0,
    Ingress = 1,
}

impl Direction {
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Egress => Self::Ingress,
            Self::Ingress => Self::Egress,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}
