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
    /// What is no error of ours, and may be one of the node's: other policy engines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// How full the tables are. Only where it was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableStatus>,
    /// What the tables may take in all, in bytes.
    #[serde(default)]
    pub table_memory: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// The name that metrics have for it too.
    pub table: String,
    /// Entries; where each family has a table of its own, those of the fuller one.
    pub used: u64,
    pub capacity: u64,
    /// What it takes of the kernel's memory with these entries, at the most.
    pub bytes: u64,
    /// Something did not fit into it and is not in force.
    pub full: bool,
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

/// One entry of the flow table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FlowStatus {
    /// `namespace/name`, or the interface's index where it is no pod's any more.
    pub pod: String,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, or the protocol's number; `fragments` for a datagram whose first fragment passed.
    pub protocol: String,
    pub local_port: u16,
    pub remote: String,
    /// `pod`, `peer` or `node`; empty for fragments.
    pub opener: String,
    pub state: String,
    /// Seconds since a packet of it was last noted. Packets that need no memory are not.
    pub seen_seconds: u32,
    /// Seconds until it is forgotten.
    pub left_seconds: u32,
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
    pub const ALL: [Self; 3] = [Self::Enforcing, Self::Waiting, Self::Failed];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforcing => "enforcing",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        }
    }
}
