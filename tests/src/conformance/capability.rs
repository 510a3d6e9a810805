//! What a case may ask for that doesn't exist yet.
//!
//! Everything that is not run is not run for one of these reasons, and the report names it. When something comes to exist,
//! its arm of [`Capability::missing`] becomes `None`.

use std::fmt;

use sluice_oracle::cases::{Action, Expectation, Place, Want};

/// Something that a case or a probe needs beyond NetworkPolicy between addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Capability {
    /// `cnp`.
    ClusterNetworkPolicy,
    /// `svc:`.
    ServiceAddress,
    /// `nodeport:`.
    NodePort,
    /// `want: mixed`.
    MixedEndpoints,
    /// `kind: packet`.
    CraftedPackets,
    /// `kind: flow`.
    FlowOverTime,
    /// `open`.
    OpenInWords,
    /// `src_ip` that `from` doesn't bear.
    ForeignSource,
}

impl Capability {
    /// Why there is none of it, or nothing where there is.
    #[must_use]
    pub(super) const fn missing(self) -> Option<&'static str> {
        match self {
            Self::ClusterNetworkPolicy => Some("ClusterNetworkPolicy is not enforced yet"),
            Self::ServiceAddress => Some("Service addresses are not enforced yet (svc:)"),
            Self::NodePort => Some("NodePorts are not enforced yet (nodeport:)"),
            Self::MixedEndpoints => {
                Some("endpoints with different verdicts come with Service addresses (want: mixed)")
            }
            Self::CraftedPackets => Some(
                "single packets are judged by tests/tests/vectors.rs, the case describes them in words (kind: packet)",
            ),
            Self::FlowOverTime => Some(
                "a flow's life is judged by tests/tests/sockets_conntrack.rs, the case describes it in words (kind: flow)",
            ),
            Self::OpenInWords => Some("a connection to hold open, described in words (open)"),
            Self::ForeignSource => Some(
                "the network translates no source addresses, and the source has no such address (src_ip)",
            ),
        }
    }

    /// What an action needs; without it nothing after the action means anything.
    #[must_use]
    pub(super) fn of_action(action: &Action) -> Option<Self> {
        match action {
            Action::ClusterPolicy { .. } | Action::DeleteClusterPolicy { .. } => {
                Some(Self::ClusterNetworkPolicy)
            }
            Action::Words { verb, .. } if verb == "open" => Some(Self::OpenInWords),
            _ => None,
        }
    }

    /// What an expectation needs of those that exist not, first of all.
    #[must_use]
    pub(super) fn of_expectation(expectation: &Expectation) -> Option<Self> {
        let kind = expectation.kind.as_deref().map(|kind| match kind.starts_with("kind: packet") {
            true => Self::CraftedPackets,
            false => Self::FlowOverTime,
        });
        let mixed = (expectation.want == Want::Mixed).then_some(Self::MixedEndpoints);
        let ends = [&expectation.from, &expectation.to].map(|place| match place {
            Place::Service(_) => Some(Self::ServiceAddress),
            Place::NodePort { .. } => Some(Self::NodePort),
            Place::Pod { .. } | Place::Node(_) | Place::External(_) | Place::Address(_) => None,
        });
        ends.into_iter().chain([kind, mixed]).flatten().find(|capability| capability.missing().is_some())
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.missing().unwrap_or("nothing is missing"))
    }
}
