//! EndpointSlices: what the API server would never store, and what kube-proxy reads of the others.

use std::net::IpAddr;
use std::sync::Arc;

use super::super::fault::{Fault, Faults, Field};
use super::super::slim;
use super::policy::{parse_protocol, port_number};
use super::service::given;
use super::{check_proxied, names, object_name, parse_address};
use crate::model::EndpointSlice;
use crate::model::services::{Endpoint, EndpointPort, Hints, Readiness, SERVICE_NAME_LABEL};

/// As the API server has them.
const MOST_ENDPOINTS: usize = 1000;
const MOST_PORTS: usize = 100;
const MOST_ADDRESSES: usize = 100;
const MOST_HINTS: usize = 8;

pub(in super::super) fn endpoint_slice(typed: &slim::EndpointSlice) -> Result<EndpointSlice, Vec<Fault>> {
    let mut faults = Faults::default();
    let at = Field::Root.key("metadata");
    let metadata = typed.metadata.as_deref();
    let (name, namespace) =
        (metadata.and_then(|m| m.name.as_deref()), metadata.and_then(|m| m.namespace.as_deref()));
    let id = object_name(name, namespace, &at, &mut faults);
    let service = metadata.and_then(|m| m.labels.as_ref()).and_then(|labels| labels.get(SERVICE_NAME_LABEL));
    if let Some(Err(message)) = service.map(|name| names::label_value(name)) {
        faults.add(&at.key("labels").key(SERVICE_NAME_LABEL), &service, message);
    }
    let family = family(typed.address_type.as_deref(), &mut faults);
    let slice = EndpointSlice {
        id,
        service: service.filter(|name| !name.is_empty()).cloned(),
        v4: family == Family::V4,
        ports: ports(typed, &mut faults).into(),
        endpoints: endpoints(typed, family, &mut faults).into(),
    };
    faults.result(slice)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    /// Not addresses, or not to be told: kube-proxy leaves such a slice alone.
    Other,
}

fn family(address_type: Option<&str>, faults: &mut Faults) -> Family {
    let at = Field::Root.key("addressType");
    match given(address_type) {
        Some("IPv4") => Family::V4,
        Some("IPv6") => Family::V6,
        Some("FQDN") => Family::Other,
        None => {
            faults.add_missing(&at, "is required");
            Family::Other
        }
        Some(other) => {
            faults.add(&at, other, "must be IPv4, IPv6 or FQDN");
            Family::Other
        }
    }
}

/// A port without a number stands for what its readers agree on; kube-proxy has agreed on nothing and passes it over.
fn ports(typed: &slim::EndpointSlice, faults: &mut Faults) -> Vec<EndpointPort> {
    let at = Field::Root.key("ports");
    let list = typed.ports.as_deref().unwrap_or_default();
    if list.len() > MOST_PORTS {
        faults.add(&at, &list.len(), format!("are too many: {MOST_PORTS} may be in one slice"));
        return Vec::new();
    }
    let mut ports = Vec::new();
    for (place, port) in list.iter().enumerate() {
        let at = at.index(place);
        let name = port.name.as_deref().unwrap_or_default();
        let has_name =
            |other: &slim::Object<slim::EndpointPort>| other.name.as_deref().unwrap_or_default() == name;
        if let Some(Err(message)) = given(Some(name)).map(names::dns_label) {
            faults.add(&at.key("name"), name, message);
        } else if list.iter().take(place).any(has_name) {
            faults.add(&at.key("name"), name, "is the name of another port already");
        }
        let protocol = parse_protocol(given(port.protocol.as_deref()), &at.key("protocol"), faults);
        let number = port.port.filter(|number| *number != 0);
        let number = number.and_then(|number| port_number(number, &at.key("port"), faults));
        if let (Some(protocol), Some(port)) = (protocol, number) {
            ports.push(EndpointPort { name: name.to_owned(), protocol, port });
        }
    }
    ports
}

fn endpoints(typed: &slim::EndpointSlice, family: Family, faults: &mut Faults) -> Vec<Endpoint> {
    let at = Field::Root.key("endpoints");
    let list = typed.endpoints.as_deref().unwrap_or_default();
    if list.len() > MOST_ENDPOINTS {
        faults.add(&at, &list.len(), format!("are too many: {MOST_ENDPOINTS} may be in one slice"));
        return Vec::new();
    }
    let each = list.iter().enumerate();
    each.filter_map(|(place, endpoint)| self::endpoint(endpoint, family, &at.index(place), faults)).collect()
}

fn endpoint(typed: &slim::Endpoint, family: Family, at: &Field<'_>, faults: &mut Faults) -> Option<Endpoint> {
    let address = address(typed, family, &at.key("addresses"), faults);
    let node = given(typed.node_name.as_deref());
    if let Some(Err(message)) = node.map(names::dns_subdomain) {
        faults.add(&at.key("nodeName"), &node, message);
    }
    let hints = typed.hints.as_deref().map(|hints| {
        let at = at.key("hints");
        Hints {
            zones: named(hints.for_zones.as_deref(), names::label_value, &at.key("forZones"), faults),
            nodes: named(hints.for_nodes.as_deref(), names::dns_subdomain, &at.key("forNodes"), faults),
        }
    });
    let conditions = typed.conditions.as_deref();
    let readiness = Readiness::of(
        conditions.and_then(|c| c.ready),
        conditions.and_then(|c| c.serving),
        conditions.and_then(|c| c.terminating),
    );
    Some(Endpoint {
        address: address?,
        readiness,
        node: node.map(Into::into),
        hints: hints.filter(|hints| *hints != Hints::default()).map(Arc::new),
    })
}

/// The first of them, but all must be right.
fn address(typed: &slim::Endpoint, family: Family, at: &Field<'_>, faults: &mut Faults) -> Option<IpAddr> {
    let list = typed.addresses.as_deref().unwrap_or_default();
    match list.len() {
        0 => faults.add_missing(at, "is required: at least one address"),
        1..=MOST_ADDRESSES => {}
        many => {
            faults.add(at, &many, format!("are too many: {MOST_ADDRESSES} may be of one endpoint"));
            return None;
        }
    }
    let message = match family {
        Family::V4 => "must be an IPv4 address",
        Family::V6 => "must be an IPv6 address",
        Family::Other => return None,
    };
    let mut found = Vec::new();
    for (place, text) in list.iter().enumerate() {
        match parse_address(text).filter(|address| address.is_ipv4() == (family == Family::V4)) {
            None => faults.add(&at.index(place), text, message),
            Some(address) => {
                check_proxied(address, &at.index(place), faults);
                found.push(address);
            }
        }
    }
    found.first().copied()
}

fn named(
    list: Option<&[slim::Object<slim::Named>]>,
    check: super::Check,
    at: &Field<'_>,
    faults: &mut Faults,
) -> Box<[Box<str>]> {
    let list = list.unwrap_or_default();
    if list.len() > MOST_HINTS {
        faults.add(at, &list.len(), format!("are too many: {MOST_HINTS} may be of one endpoint"));
        return Box::default();
    }
    let mut names = Vec::new();
    for (place, entry) in list.iter().enumerate() {
        let (at, name) = (at.index(place), given(entry.name.as_deref()));
        match name {
            None => faults.add_missing(&at.key("name"), "is required"),
            Some(name) => {
                if let Err(message) = check(name) {
                    faults.add(&at.key("name"), name, message);
                }
                names.push(name.into());
            }
        }
    }
    names.into()
}
