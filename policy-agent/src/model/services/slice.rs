//! EndpointSlices: what kube-proxy reads of them.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{ObjectName, Protocol};

/// The label that names a slice's Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    pub id: ObjectName,
    /// In the slice's namespace; a slice without one is nobody's.
    pub service: Option<String>,
    /// IPv4 where it is set, else IPv6: all endpoints are of this family. Names are of neither, and have no endpoints here.
    pub v4: bool,
    /// Ports that have a number. Shared: the slices of one Service, and of many, have the same.
    pub ports: Arc<[EndpointPort]>,
    pub endpoints: Arc<[Endpoint]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointPort {
    /// The Service port's name.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// With 100,000 of them, each byte counts: what many have in common is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The first of its addresses: kube-proxy does not look at others.
    pub address: IpAddr,
    pub readiness: Readiness,
    pub node: Option<Arc<str>>,
    pub hints: Option<Arc<Hints>>,
}

/// Whether an endpoint gets new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    Ready,
    /// Terminating and still serving: used where no endpoint is ready (KEP-1669).
    Draining,
    NotReady,
}

impl Readiness {
    /// From an endpoint's conditions, of which each may be missing.
    pub fn of(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Self {
        match (ready.unwrap_or(true), serving.unwrap_or(true) && terminating.unwrap_or(false)) {
            (true, _) => Self::Ready,
            (false, true) => Self::Draining,
            (false, false) => Self::NotReady,
        }
    }
}

/// By whom an endpoint should be used. An empty list is no hint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    pub zones: Box<[Box<str>]>,
    pub nodes: Box<[Box<str>]>,
}

impl EndpointSlice {
    pub fn service_name(&self) -> Option<ObjectName> {
        let name = self.service.as_deref().filter(|name| !name.is_empty())?;
        Some(ObjectName::new(self.id.namespace.clone(), name))
    }
}
