//! What `status` tells.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Everything that was read, and could be, is enforced.
    pub synced: bool,
    /// Counts the changes that were enforced.
    pub generation: u64,
    pub endpoints: Vec<EndpointStatus>,
    pub errors: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// `namespace/name`.
    pub pod: String,
    /// The host end of the pod's interface; empty while it is not found.
    pub interface: String,
    pub state: EndpointState,
    pub ingress_isolated: bool,
    pub egress_isolated: bool,
    pub policies: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// The programs hang on its interface with the policy that was read last.
    Enforcing,
    /// No interface bears its addresses yet.
    Waiting,
    /// Something went wrong; `errors` says what. What was enforced before stays enforced.
    Failed,
}

impl EndpointState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforcing => "enforcing",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        }
    }
}
