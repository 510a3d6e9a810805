//! Nodes: what policies and Services need of them.

use std::net::IpAddr;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub addresses: Vec<IpAddr>,
    /// What topology hints of endpoints call the place where it is.
    pub zone: Option<Box<str>>,
}

impl From<Vec<IpAddr>> for Node {
    fn from(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, zone: None }
    }
}
