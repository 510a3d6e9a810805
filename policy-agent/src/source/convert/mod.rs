//! Typed Kubernetes objects to the model: the API server's validation and defaulting, which a folder of files never met.
//!
//! Every function tells all that is wrong with an object. Where the objects come from doesn't matter here.

mod cidr;
mod names;
mod pod;
mod policy;
mod selector;
mod service;
mod service_ports;
mod slice;

use std::net::IpAddr;

use super::fault::{Fault, Faults, Field};
use super::slim;
use crate::model::{Labels, Node, ObjectName};

pub use cidr::parse_cidr;
pub use names::{is_dns_label, is_dns_subdomain};
pub(super) use pod::pod;
pub use policy::policy;
pub use selector::selector;
pub(super) use service::service;
pub(super) use slice::endpoint_slice;

/// Where an object is that names no namespace.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A namespace's name and labels.
pub(super) fn namespace(typed: &slim::Namespace) -> Result<(String, Labels), Vec<Fault>> {
    let mut faults = Faults::default();
    let at = Field::Root.key("metadata");
    let metadata = typed.metadata.as_deref();
    let name = required_name(metadata.and_then(|m| m.name.as_deref()), names::dns_label, &at, &mut faults);
    let labels = labels(metadata, &at, &mut faults);
    faults.result((name, labels))
}

/// The label that says where a node is, as topology hints name it.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A node, and its name.
pub(super) fn node(typed: &slim::Node) -> Result<(String, Node), Vec<Fault>> {
    let mut faults = Faults::default();
    let metadata = typed.metadata.as_deref();
    let name = metadata.and_then(|m| m.name.as_deref());
    let name = required_name(name, names::dns_subdomain, &Field::Root.key("metadata"), &mut faults);
    let status = Field::Root.key("status");
    let at = status.key("addresses");
    let listed = typed.status.iter().filter_map(|s| s.addresses.as_ref()).flatten();
    let mut addresses = Vec::new();
    for (place, entry) in listed.enumerate() {
        if !matches!(entry.kind.as_deref(), Some("InternalIP" | "ExternalIP")) {
            continue;
        }
        let text = entry.address.as_deref().unwrap_or_default();
        match parse_address(text) {
            Some(address) => addresses.push(address),
            None => faults.add(&at.index(place).key("address"), text, NOT_AN_ADDRESS),
        }
    }
    let zone = metadata.and_then(|m| m.labels.as_ref()).and_then(|labels| labels.get(ZONE_LABEL));
    let zone = zone.filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into());
    faults.result((name, Node { addresses, zone }))
}

const NOT_AN_ADDRESS: &str = "must be an IP address";

/// An IPv4 address written as IPv6 is an IPv4 address, as for the API server.
fn parse_address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// What is only valid on one machine or link is no Service's: the API server lets nobody reach the node's own by it.
fn check_proxied(address: IpAddr, at: &Field<'_>, faults: &mut Faults) {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || (v4.is_multicast() && v4.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments().first() == Some(&0xff02),
    };
    if address.is_unspecified() || address.is_loopback() || link_local {
        faults.add(at, &address, "must not be unspecified, loopback or link-local");
    }
}

type Check = fn(&str) -> Result<(), &'static str>;

fn required_name(name: Option<&str>, check: Check, at: &Field<'_>, faults: &mut Faults) -> String {
    let at = at.key("name");
    match name {
        None | Some("") => faults.add_missing(&at, "is required"),
        Some(name) => {
            if let Err(message) = check(name) {
                faults.add(&at, name, message);
            }
        }
    }
    name.unwrap_or_default().to_owned()
}

fn object_name(
    name: Option<&str>,
    namespace: Option<&str>,
    at: &Field<'_>,
    faults: &mut Faults,
) -> ObjectName {
    let name = required_name(name, names::dns_subdomain, at, faults);
    let namespace = namespace.filter(|n| !n.is_empty()).unwrap_or(DEFAULT_NAMESPACE);
    if let Err(message) = names::dns_label(namespace) {
        faults.add(&at.key("namespace"), namespace, message);
    }
    ObjectName::new(namespace, name)
}

fn labels(metadata: Option<&slim::Metadata>, at: &Field<'_>, faults: &mut Faults) -> Labels {
    let at = at.key("labels");
    let labels = metadata.and_then(|m| m.labels.clone()).unwrap_or_default();
    check_labels(&labels, &at, faults);
    labels
}

fn check_labels(labels: &Labels, at: &Field<'_>, faults: &mut Faults) {
    for (key, value) in labels {
        if let Err(message) = names::label_key(key) {
            faults.add(at, key, message);
        }
        if let Err(message) = names::label_value(value) {
            faults.add(&at.key(key), value, message);
        }
    }
}
