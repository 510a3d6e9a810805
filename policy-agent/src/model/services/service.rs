//! Services: what kube-proxy reads of them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{ObjectName, Protocol};

/// The API's default for `sessionAffinity: ClientIP`.
pub const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub id: ObjectName,
    /// At most one of each family. Empty where nothing is translated: headless, of type ExternalName, or not yet given one.
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// Of load balancers that deliver packets to the node with this destination (`ipMode: VIP`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer's addresses; empty: everybody.
    pub source_ranges: Arc<[IpNet]>,
    pub ports: Arc<[ServicePort]>,
    /// How long a client keeps its backend, in seconds.
    pub affinity: Option<u32>,
    /// `internalTrafficPolicy: Local`: the cluster's addresses lead to backends on the client's node only.
    ///
    /// The same for external traffic is not kept: kube-proxy sends what a pod sends to an external address to all backends.
    pub internal_local: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Empty where there is only one.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

impl Service {
    /// All addresses that lead to it.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let Self { cluster_ips, external_ips, load_balancer_ips, .. } = self;
        cluster_ips.iter().chain(external_ips).chain(load_balancer_ips).copied()
    }

    /// Whether it has an address of this family in the cluster: without one, kube-proxy of that family skips it whole.
    pub fn serves(&self, v4: bool) -> bool {
        self.cluster_ips.iter().any(|address| address.is_ipv4() == v4)
    }
}
