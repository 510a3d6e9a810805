//! What kube-proxy writes, written into the node namespaces of tests: in nftables mode and in iptables mode, for both
//! families.
//!
//! Sluice judges before kube-proxy translates, so that tests of Services need the translation as clusters have it. The
//! structure is that of kube-proxy of Kubernetes 1.33 (pkg/proxy/nftables, pkg/proxy/iptables): the same base chains at the
//! same hooks and priorities, dispatch by map or by rule, a chain for each port and endpoint, and masquerading by a mark.
//! Names are hashes of ours. External addresses are of `externalTrafficPolicy: Cluster`, and entries of conntrack for UDP
//! endpoints that went are not deleted: clients of the tests open new sockets.

mod feed;
mod iptables;
mod nftables;
mod port;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::Result;
use ipnet::IpNet;
use policy_agent::model::services::{Services, Vantage};
use sluice_netns::{Netns, Node};

use feed::feed;

/// How kube-proxy is told to do it (`--proxy-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A table of its own.
    Nftables,
    /// Chains of the tables `nat` and `filter`.
    Iptables,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|mode| mode.to_string() == text);
        named.ok_or_else(|| format!("{text:?}: must be nftables or iptables"))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

/// The kube-proxy of one node. Its rules go with the node's namespace.
#[derive(Debug)]
pub struct KubeProxy {
    ns: Netns,
    mode: Mode,
    /// Whose traffic to the cluster's addresses keeps its source (`--cluster-cidr`).
    pods: Vec<IpNet>,
}

impl KubeProxy {
    /// One that has written nothing yet. `pods`: the pod networks of all nodes; the cluster's is the smallest around those
    /// of a family.
    #[must_use]
    pub fn new(node: &Node, mode: Mode, pods: &[IpNet]) -> Self {
        let around = |family: Family| {
            let mut nets = pods.iter().copied().filter(|net| family.has(net.addr()));
            let mut around = nets.next()?;
            for net in nets {
                while !around.contains(&net) {
                    around = around.supernet()?;
                }
            }
            Some(around)
        };
        Self { ns: node.ns().clone(), mode, pods: Family::BOTH.into_iter().filter_map(around).collect() }
    }

    /// Replaces all rules in one transaction for each family (and table, for iptables). What clients with affinity are bound
    /// to stays.
    pub fn sync(&self, services: &Services, vantage: &Vantage) -> Result<()> {
        for family in Family::BOTH {
            let pods: Vec<IpNet> = self.pods.iter().copied().filter(|net| family.has(net.addr())).collect();
            let nodes: Vec<IpAddr> =
                vantage.addresses.iter().copied().filter(|address| family.has(*address)).collect();
            let ports = port::all(services, vantage, family);
            match self.mode {
                Mode::Nftables => {
                    feed(&self.ns, "nft", &["-f", "-"], &nftables::rules(family, &ports, &nodes, &pods))?;
                }
                Mode::Iptables => {
                    feed(&self.ns, family.iptables_restore(), &[], &iptables::rules(family, &ports, &pods))?;
                }
            }
        }
        Ok(())
    }
}

/// An address family: each has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    const fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == matches!(self, Self::V4)
    }

    const fn iptables_restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }
}

/// The bit that asks for masquerading.
const MASQUERADE: &str = "0x4000";
